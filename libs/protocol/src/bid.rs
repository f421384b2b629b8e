//! Placing a bid: the request, and the answer as services and as clients read it.

use domain::{Amount, AuctionId, BidId, BidKind, MAX_PREBIDDERS, MAX_PREBIDS_OF_ONE, Millis, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::input::Fields;
#[cfg(feature = "schema")]
use crate::shapes;
use crate::wire::{cents, decimal, optional_cents, optional_decimal, optional_text, text};
use crate::{Code, Failure, MayFail, Person, Record, Snapshot};

/// `bids.place`: a bid of a verified caller.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlaceBid {
    /// The auction.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// Identifier chosen by the client; makes the request repeatable.
    #[serde(with = "optional_text", default)]
    pub bid_id: Option<BidId>,
    /// The price offered. None only with a maximum: then it is the least that is needed.
    #[serde(rename = "amount_cents", with = "optional_cents", default)]
    pub amount: Option<Amount>,
    /// How far the auction may bid for the caller. Not below the amount.
    #[serde(rename = "max_amount_cents", with = "optional_cents", default, skip_serializing_if = "Option::is_none")]
    pub max_amount: Option<Amount>,
    /// The bidder.
    pub user: Person,
}

impl PlaceBid {
    /// The most that the bidder is ready to pay. None if the request names no amount at all.
    #[must_use]
    pub fn limit(&self) -> Option<Amount> {
        self.max_amount.or(self.amount)
    }
}

/// `bids.maximum`: how far an auction bids for a verified caller.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MaximumRequest {
    /// The auction.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// The caller.
    #[serde(with = "text")]
    pub user_id: UserId,
}

/// The reply to `bids.maximum`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OwnMaximum {
    /// None unless the caller leads with a maximum, or has a pre-bid.
    #[serde(rename = "max_amount_cents", with = "optional_cents")]
    pub max_amount: Option<Amount>,
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
    /// The highest bid, if the maximum of another person answered this one at once; None if this bid leads.
    #[serde(rename = "outbid_at_cents", with = "optional_cents", default, skip_serializing_if = "Option::is_none")]
    pub outbid_at: Option<Amount>,
    /// Whether the bid is kept until the opening. Then the price offered is the starting price.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_kept: bool,
    /// The bidder's own maximum, if the request had one, or is one because the bid is kept.
    #[serde(rename = "max_amount_cents", with = "optional_cents", default, skip_serializing_if = "Option::is_none")]
    pub max_amount: Option<Amount>,
}

impl AcceptedBid {
    /// The answer to the only bid of a record, as bid-processing gives it. None if the answer is not in the record: it has
    /// several facts, and the state after each but the last is unknown; the bidder has a maximum; or the bid ended the
    /// auction. `extensions`: those before the record.
    #[must_use]
    pub fn in_record(record: &Record, extensions: u32) -> Option<Self> {
        let [bid] = record.bids.as_slice() else { return None };
        let Snapshot { minimum_bid, end_time, extension_count, .. } = record.state;
        let is_plain = bid.kind == BidKind::Bid && bid.sealed.is_none() && !record.state.is_bought();
        is_plain.then_some(Self {
            bid_id: bid.bid_id,
            auction_id: record.auction_id,
            seq: bid.seq,
            amount: bid.amount,
            minimum_bid,
            end_time,
            anti_snipe_triggered: extension_count > extensions,
            extension_count,
            timestamp: bid.timestamp,
            outbid_at: None,
            is_kept: false,
            max_amount: None,
        })
    }

    /// The answer as a sentence for the bidder.
    fn message(&self) -> String {
        if let Some(maximum) = self.max_amount.filter(|_| self.is_kept) {
            return format!("The auction has not started. From its start we bid for you up to {maximum}");
        }
        // Only at the buy-now price no higher bid is possible.
        let is_over = self.minimum_bid == self.outbid_at.unwrap_or(self.amount);
        match (self.outbid_at, self.max_amount) {
            (Some(_), _) if is_over => "Another bidder's earlier maximum reached the buy-now price".to_owned(),
            (Some(_), _) => format!(
                "Another bidder's maximum is at least as high, so you were outbid at once. The next bid must be at least {}",
                self.minimum_bid
            ),
            (None, _) if is_over => "You bought it at the buy-now price".to_owned(),
            (None, Some(maximum)) => format!("Your bid is the highest. We bid for you up to {maximum}"),
            (None, None) => "Your bid is the highest".to_owned(),
        }
    }
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
            // The only limit among the rules of bidding.
            Code::LimitExceeded => format!(
                "Before its start an auction keeps the bids of {MAX_PREBIDDERS} people, and {MAX_PREBIDS_OF_ONE} of each; \
                 bid again once it has started"
            ),
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

/// The bid was accepted. Times are milliseconds since 1970, by the clock of the auction's Redis.
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
    /// The highest bid now: this one, or that of another person's maximum, which answered it at once. Null before the
    /// opening.
    #[serde(serialize_with = "optional_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Money>"))]
    current_high_bid: Option<Amount>,
    /// False if another person's maximum answered at once, and before the opening.
    is_highest: bool,
    /// The caller's own maximum; absent if the request had none.
    #[serde(serialize_with = "optional_decimal", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    your_max_amount: Option<Amount>,
    /// The lowest next bid.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    minimum_bid: Amount,
    /// End of the auction after this bid; null while the auction waits for another one to end.
    end_time: Option<u64>,
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
                current_high_bid: (!bid.is_kept).then(|| bid.outbid_at.unwrap_or(bid.amount)),
                is_highest: bid.outbid_at.is_none() && !bid.is_kept,
                your_max_amount: bid.max_amount,
                minimum_bid: bid.minimum_bid,
                end_time: (bid.end_time < Millis::NOT_YET.0).then_some(bid.end_time),
                anti_snipe_triggered: bid.anti_snipe_triggered,
                extension_count: bid.extension_count,
                timestamp: bid.timestamp,
                message: &bid.message(),
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

/// Reads `{auction_id, amount, bid_id?, max_amount?}` from a body or a frame. With `max_amount` the amount may be left out.
/// The `Idempotency-Key`, if given, is the default `bid_id`.
///
/// # Errors
/// `invalid_request` or `invalid_amount`, naming the field.
pub fn parse_place_bid(body: &[u8], key: Option<&str>, user: Person) -> Result<PlaceBid, Failure> {
    let fields = Fields::parse(body)?;
    let bid_id = match (fields.optional_id("bid_id")?, key) {
        (Some(bid_id), _) => Some(bid_id),
        (None, Some(key)) => Some(crate::input::id("Idempotency-Key", key)?),
        (None, None) => None,
    };
    if bid_id.is_some_and(BidId::is_of_counter_bid) {
        return Err(Failure::new(Code::InvalidRequest, "bid_id must not be a UUID of version 15"));
    }
    let auction_id = fields.id("auction_id")?;
    let max_amount = fields.optional_amount("max_amount")?;
    let amount = match max_amount {
        Some(_) => fields.optional_amount("amount")?,
        None => Some(fields.amount("amount")?),
    };
    if max_amount.zip(amount).is_some_and(|(max_amount, amount)| max_amount < amount) {
        return Err(Failure::new(Code::InvalidAmount, "max_amount must not be below amount"));
    }
    Ok(PlaceBid { auction_id, bid_id, amount, max_amount, user })
}

#[cfg(test)]
mod tests;
