//! Placing a bid: the request, the answer, and both spellings of the answer.

use domain::{Amount, AuctionId, BidId};
use serde::{Deserialize, Serialize};

use crate::input::Fields;
use crate::wire::{cents, decimal, optional_cents, optional_decimal, optional_text, text};
use crate::{Code, Failure, Person};

/// `bids.place`: a bid whose caller is known.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlaceBid {
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    #[serde(with = "optional_text", default)]
    pub bid_id: Option<BidId>,
    #[serde(rename = "amount_cents", with = "cents")]
    pub amount: Amount,
    pub user: Person,
}

/// What an accepted bid did. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedBid {
    #[serde(with = "text")]
    pub bid_id: BidId,
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    pub seq: u64,
    #[serde(rename = "amount_cents", with = "cents")]
    pub amount: Amount,
    #[serde(rename = "minimum_bid_cents", with = "cents")]
    pub minimum_bid: Amount,
    pub end_time: u64,
    pub anti_snipe_triggered: bool,
    pub extension_count: u32,
    pub timestamp: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedBid {
    pub error: String,
    pub code: Code,
    #[serde(with = "optional_text", default)]
    pub bid_id: Option<BidId>,
    /// The fact that the refusal rests on, where an auction was asked.
    pub seq: Option<u64>,
    #[serde(rename = "high_bid_cents", with = "optional_cents")]
    pub high_bid: Option<Amount>,
    #[serde(rename = "minimum_bid_cents", with = "optional_cents")]
    pub minimum_bid: Option<Amount>,
}

impl RefusedBid {
    #[must_use]
    pub fn of(failure: Failure, bid_id: Option<BidId>) -> Self {
        Self { error: failure.error, code: failure.code, bid_id, seq: None, high_bid: None, minimum_bid: None }
    }

    /// Refused by the rules, for what stood at `seq`.
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
    Accepted(AcceptedBid),
    Rejected(RefusedBid),
}

#[derive(Serialize)]
struct PublicAccepted<'a> {
    status: &'static str,
    #[serde(with = "text")]
    bid_id: BidId,
    #[serde(with = "text")]
    auction_id: AuctionId,
    seq: u64,
    #[serde(serialize_with = "decimal")]
    amount: Amount,
    #[serde(serialize_with = "decimal")]
    your_bid: Amount,
    #[serde(serialize_with = "decimal")]
    current_high_bid: Amount,
    is_highest: bool,
    #[serde(serialize_with = "decimal")]
    minimum_bid: Amount,
    end_time: u64,
    anti_snipe_triggered: bool,
    extension_count: u32,
    timestamp: u64,
    message: &'a str,
}

#[derive(Serialize)]
struct PublicRefused<'a> {
    status: &'static str,
    error: &'a str,
    code: Code,
    #[serde(with = "optional_text", skip_serializing_if = "Option::is_none")]
    bid_id: &'a Option<BidId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(serialize_with = "optional_decimal")]
    current_high_bid: Option<Amount>,
    #[serde(serialize_with = "optional_decimal")]
    minimum_bid: Option<Amount>,
}

impl Answer {
    /// The answer as bidders see it, with decimals. CONTRACT.md, Placing a bid.
    #[must_use]
    pub fn public(&self) -> Box<serde_json::value::RawValue> {
        let raw = match self {
            Self::Accepted(bid) => serde_json::value::to_raw_value(&PublicAccepted {
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
                message: "Your bid is the highest",
            }),
            Self::Rejected(refused) => serde_json::value::to_raw_value(&PublicRefused {
                status: "rejected",
                error: &refused.error,
                code: refused.code,
                bid_id: &refused.bid_id,
                seq: refused.seq,
                current_high_bid: refused.high_bid,
                minimum_bid: refused.minimum_bid,
            }),
        };
        // Serializing plain fields cannot fail; an empty object would still be JSON if it did.
        raw.unwrap_or_else(|_| crate::input::empty_object())
    }

    #[must_use]
    pub const fn code(&self) -> Option<Code> {
        match self {
            Self::Accepted(_) => None,
            Self::Rejected(refused) => Some(refused.code),
        }
    }
}

/// What later versions take and this one refuses by name rather than ignore.
const LATER_FIELDS: [&str; 1] = ["max_amount"];

/// Reads `{auction_id, amount, bid_id?}` from a body or a frame. `key` is the `Idempotency-Key`.
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
