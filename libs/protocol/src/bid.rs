//! Placing a bid: the request, and the answer as services and as clients read it.

use domain::{Amount, AuctionId, BidId};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::input::Fields;
#[cfg(feature = "schema")]
use crate::shapes;
use crate::wire::{cents, decimal, optional_cents, optional_decimal, optional_text, text};
use crate::{Code, Failure, MayFail, Person};

/// `bids.place`: a bid of a verified caller.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlaceBid {
    /// The auction.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// Identifier chosen by the client; makes the request repeatable.
    #[serde(with = "optional_text", default)]
    pub bid_id: Option<BidId>,
    /// The price offered.
    #[serde(rename = "amount_cents", with = "cents")]
    pub amount: Amount,
    /// The bidder.
    pub user: Person,
}

/// The effect of an accepted bid. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedBid {
    /// Identifier of the bid.
    #[serde(with = "text")]
    pub bid_id: BidId,
    /// The auction.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// Sequence number of the bid in its auction.
    pub seq: u64,
    /// The price offered.
    #[serde(rename = "amount_cents", with = "cents")]
    pub amount: Amount,
    /// The lowest next bid.
    #[serde(rename = "minimum_bid_cents", with = "cents")]
    pub minimum_bid: Amount,
    /// End of the auction after this bid.
    pub end_time: u64,
    /// Whether this bid moved the end.
    pub anti_snipe_triggered: bool,
    /// Extensions so far.
    pub extension_count: u32,
    /// When the bid was accepted.
    pub timestamp: u64,
}

/// A rejected bid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedBid {
    /// An English sentence for a person.
    pub error: String,
    /// The reason, for programs.
    pub code: Code,
    /// Identifier of the bid, if it was readable.
    #[serde(with = "optional_text", default)]
    pub bid_id: Option<BidId>,
    /// The fact on which the rejection rests, if the auction decided.
    pub seq: Option<u64>,
    /// The highest accepted bid at `seq`.
    #[serde(rename = "high_bid_cents", with = "optional_cents")]
    pub high_bid: Option<Amount>,
    /// The lowest bid that `seq` would have accepted.
    #[serde(rename = "minimum_bid_cents", with = "optional_cents")]
    pub minimum_bid: Option<Amount>,
}

impl RefusedBid {
    /// Rejected before an auction was asked.
    #[must_use]
    pub fn of(failure: Failure, bid_id: Option<BidId>) -> Self {
        Self { error: failure.error, code: failure.code, bid_id, seq: None, high_bid: None, minimum_bid: None }
    }

    /// Rejected by the rules, given the state at `seq`.
    #[must_use]
    pub fn by_rule(code: Code, bid_id: BidId, seq: u64, high_bid: Option<Amount>, minimum_bid: Amount) -> Self {
        let error = match code {
            Code::BidTooLow => format!("The bid must be at least {minimum_bid}"),
            code => code.sentence().to_owned(),
        };
        Self { error, code, bid_id: Some(bid_id), seq: Some(seq), high_bid, minimum_bid: Some(minimum_bid) }
    }
}

/// The answer to one bid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Answer {
    /// The bid stands.
    Accepted(AcceptedBid),
    /// The bid has no effect, or an unknown one if the code says so.
    Rejected(RefusedBid),
}

impl MayFail for Answer {
    fn failed_with(&self) -> Option<Code> {
        match self {
            Self::Accepted(_) => None,
            Self::Rejected(refused) => Some(refused.code).filter(|code| code.status().is_server_error()),
        }
    }
}

/// The bid was accepted and is the highest. Times are milliseconds since 1970, by the clock of the auction's Redis.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "Accepted"))]
pub(crate) struct PublicAccepted<'a> {
    /// Always `accepted`.
    #[cfg_attr(feature = "schema", schemars(extend("const" = "accepted")))]
    status: &'static str,
    /// Identifier of the bid.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    bid_id: BidId,
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    auction_id: AuctionId,
    /// Sequence number of the bid in its auction.
    seq: u64,
    /// The price offered.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    amount: Amount,
    /// The same.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    your_bid: Amount,
    /// The same.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    current_high_bid: Amount,
    /// Always true.
    is_highest: bool,
    /// The lowest next bid.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    minimum_bid: Amount,
    /// End of the auction after this bid.
    end_time: u64,
    /// Whether this bid moved the end.
    anti_snipe_triggered: bool,
    /// Extensions so far.
    extension_count: u32,
    /// When the bid was accepted.
    timestamp: u64,
    /// An English sentence for a person.
    message: &'a str,
}

/// The bid was rejected.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "Refused"))]
pub(crate) struct PublicRefused<'a> {
    /// Always `rejected`.
    #[cfg_attr(feature = "schema", schemars(extend("const" = "rejected")))]
    status: &'static str,
    /// An English sentence for a person.
    error: &'a str,
    /// The same, for clients that read it here.
    message: &'a str,
    /// The reason, for programs.
    code: Code,
    /// Identifier of the bid, if it was readable.
    #[serde(with = "optional_text", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    bid_id: &'a Option<BidId>,
    /// The fact on which the rejection rests, if the auction decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "u64"))]
    seq: Option<u64>,
    /// The highest accepted bid at `seq`.
    #[serde(serialize_with = "optional_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Money>"))]
    current_high_bid: Option<Amount>,
    /// The lowest bid that `seq` would have accepted.
    #[serde(serialize_with = "optional_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Money>"))]
    minimum_bid: Option<Amount>,
}

impl Answer {
    /// The answer as clients see it, with decimals. CONTRACT.md, Placing a bid.
    #[must_use]
    pub fn public(&self) -> Box<RawValue> {
        let raw = match self {
            Self::Accepted(bid) => to_raw_value(&PublicAccepted {
                status: "accepted",
                bid_id: bid.bid_id,
                auction_id: bid.auction_id,
                seq: bid.seq,
                amount: bid.amount,
                your_bid: bid.amount,
                current_high_bid: bid.amount,
                is_highest: true,
                minimum_bid: bid.minimum_bid,
                end_time: bid.end_time,
                anti_snipe_triggered: bid.anti_snipe_triggered,
                extension_count: bid.extension_count,
                timestamp: bid.timestamp,
                // Only at the buy-now price no higher bid is possible.
                message: if bid.minimum_bid == bid.amount {
                    "You bought it at the buy-now price"
                } else {
                    "Your bid is the highest"
                },
            }),
            Self::Rejected(refused) => to_raw_value(&PublicRefused {
                status: "rejected",
                error: &refused.error,
                message: &refused.error,
                code: refused.code,
                bid_id: &refused.bid_id,
                seq: refused.seq,
                current_high_bid: refused.high_bid,
                minimum_bid: refused.minimum_bid,
            }),
        };
        // Serializing plain fields cannot fail; null would still be JSON if it did.
        raw.unwrap_or_else(|_| RawValue::NULL.to_owned())
    }

    /// Identifier of the bid, if it was readable.
    #[must_use]
    pub const fn bid_id(&self) -> Option<BidId> {
        match self {
            Self::Accepted(bid) => Some(bid.bid_id),
            Self::Rejected(refused) => refused.bid_id,
        }
    }

    /// The reason of a rejection.
    #[must_use]
    pub const fn code(&self) -> Option<Code> {
        match self {
            Self::Accepted(_) => None,
            Self::Rejected(refused) => Some(refused.code),
        }
    }
}

/// Fields of later versions. They are rejected by name, because an ignored field would look as if it were honoured.
const LATER_FIELDS: [&str; 1] = ["max_amount"];

/// Reads `{auction_id, amount, bid_id?}` from a body or a frame. The `Idempotency-Key`, if given, is the default
/// `bid_id`.
///
/// # Errors
/// `invalid_request` or `invalid_amount`, naming the field.
pub fn parse_place_bid(body: &[u8], key: Option<&str>, user: Person) -> Result<PlaceBid, Failure> {
    let fields = Fields::parse(body)?;
    fields.refuse(&LATER_FIELDS)?;
    let bid_id = match (fields.optional_id("bid_id")?, key) {
        (Some(bid_id), _) => Some(bid_id),
        (None, Some(key)) => Some(crate::input::id("Idempotency-Key", key)?),
        (None, None) => None,
    };
    Ok(PlaceBid { auction_id: fields.id("auction_id")?, bid_id, amount: fields.amount("amount")?, user })
}
