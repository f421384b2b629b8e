//! Frames (CONTRACT.md, Real time): `{"event", "data", "id"?}` both ways on the plain door,
//! `42["event",data]` by Socket.IO.

use domain::{Amount, AuctionId, Outcome, Status, UserId};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::live::{CommittedState, PublicBid, TopBid};
use crate::wire::{Named, decimal, optional_decimal, optional_text, text};
use crate::{Bid, Record};

/// The version of the vocabulary, in `connected`.
pub const PROTOCOL_VERSION: u32 = 1;

/// Close codes of the plain door. 4400 to 4499 tell the client to change something before it comes back.
pub mod close {
    /// The token is missing, bad or expired.
    pub const UNAUTHENTICATED: u16 = 4401;
    /// The client did not read fast enough; it may resume.
    pub const TOO_SLOW: u16 = 4408;
    /// The server is going away; reconnect elsewhere.
    pub const DRAINING: u16 = 1012;
    /// What was sent is no frame at all (RFC 6455, 7.4.1).
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A text that is not UTF-8.
    pub const NOT_TEXT: u16 = 1007;
    /// What was sent is larger than allowed.
    pub const TOO_BIG: u16 = 1009;
}

#[derive(Serialize)]
struct Frame<'a, T> {
    event: &'a str,
    data: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
}

/// One text frame. `id` is the request's, repeated as it came.
pub fn encode(event: &str, data: impl Serialize, id: Option<&RawValue>) -> String {
    // Frames are plain structs with string keys: this cannot fail.
    serde_json::to_string(&Frame { event, data, id }).unwrap_or_default()
}

/// One Socket.IO event, in the Engine.IO message that carries it.
#[must_use]
pub fn packet(event: &str, data: &RawValue) -> String {
    // Names of events are plain words.
    format!("42[\"{event}\",{}]", data.get())
}

/// The Socket.IO acknowledgement that a client asked for under this number.
#[must_use]
pub fn acknowledgement(number: u64, data: &RawValue) -> String {
    format!("43{number}[{}]", data.get())
}

#[derive(Debug, Serialize)]
pub struct Connected<'a> {
    #[serde(with = "text")]
    pub user_id: UserId,
    pub username: &'a str,
    pub server_time: u64,
    pub session_id: &'a str,
    pub protocol: u32,
}

#[derive(Debug, Serialize)]
pub struct Joined<'a> {
    #[serde(flatten)]
    pub live: crate::LiveState<'a>,
    pub recovered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed_bids: Option<Vec<PublicBid<'a>>>,
    pub your_max_amount: Option<()>,
}

#[derive(Debug, Serialize)]
pub struct BidUpdate<'a> {
    #[serde(with = "text")]
    auction_id: AuctionId,
    seq: u64,
    previous_seq: u64,
    bids: Vec<PublicBid<'a>>,
    #[serde(serialize_with = "optional_decimal")]
    high_bid: Option<Amount>,
    #[serde(with = "optional_text")]
    high_bidder_id: Option<UserId>,
    high_bidder_username: Option<&'a str>,
    top_bids: Vec<TopBid<'a>>,
    bid_count: u64,
    participant_count: u64,
    #[serde(serialize_with = "decimal")]
    minimum_bid: Amount,
    reserve_met: bool,
    end_time: u64,
    extension_count: u32,
    you_are_winning: bool,
    status: &'a Named<Status>,
    timestamp: u64,
}

/// The newest bids a `bid_update` carries at most.
pub const MAX_BIDS_IN_UPDATE: usize = 50;

impl<'a> BidUpdate<'a> {
    /// `bids` are those after `previous_seq`, oldest first, at most [`MAX_BIDS_IN_UPDATE`].
    pub fn new(
        standing: &'a CommittedState,
        previous_seq: u64,
        bids: impl Iterator<Item = &'a Bid>,
        timestamp: u64,
        you_are_winning: bool,
    ) -> Self {
        let state = &standing.state;
        Self {
            auction_id: standing.auction_id,
            seq: standing.seq,
            previous_seq,
            bids: bids.map(PublicBid::from).collect(),
            high_bid: state.high_bid,
            high_bidder_id: state.high_bidder_id,
            high_bidder_username: state.high_bidder_username.as_deref(),
            top_bids: state.top_bids.iter().map(TopBid::from).collect(),
            bid_count: state.bid_count,
            participant_count: standing.participant_count,
            minimum_bid: state.minimum_bid,
            reserve_met: state.high_bid.is_some(),
            end_time: state.end_time,
            extension_count: state.extension_count,
            you_are_winning,
            status: &state.status,
            timestamp,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct AuctionEnded<'a> {
    #[serde(with = "text")]
    auction_id: AuctionId,
    seq: u64,
    outcome: Option<&'a Named<Outcome>>,
    #[serde(with = "optional_text")]
    winner_id: Option<UserId>,
    winner_username: Option<&'a str>,
    #[serde(serialize_with = "optional_decimal")]
    winning_bid: Option<Amount>,
    bid_count: u64,
    end_time: u64,
    you_won: bool,
}

impl<'a> AuctionEnded<'a> {
    #[must_use]
    pub fn new(record: &'a Record, you_won: bool) -> Self {
        let state = &record.state;
        Self {
            auction_id: record.auction_id,
            seq: record.seq,
            outcome: state.outcome.as_ref(),
            winner_id: state.winner_id,
            winner_username: state.winner_username.as_deref(),
            winning_bid: state.winning_bid,
            bid_count: state.bid_count,
            end_time: state.end_time,
            you_won,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct AuctionStarted {
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    pub seq: u64,
    pub end_time: u64,
}

#[derive(Debug, Serialize)]
pub struct AuctionCancelled<'a> {
    #[serde(with = "text")]
    auction_id: AuctionId,
    seq: u64,
    outcome: Option<&'a Named<Outcome>>,
    bid_count: u64,
    end_time: u64,
}

impl<'a> AuctionCancelled<'a> {
    #[must_use]
    pub fn new(record: &'a Record) -> Self {
        let state = &record.state;
        Self {
            auction_id: record.auction_id,
            seq: record.seq,
            outcome: state.outcome.as_ref(),
            bid_count: state.bid_count,
            end_time: state.end_time,
        }
    }
}

/// `user_joined` and `user_left`.
#[derive(Debug, Serialize)]
pub struct PersonMoved<'a> {
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    #[serde(with = "text")]
    pub user_id: UserId,
    pub username: &'a str,
    pub participant_count: u64,
}

#[derive(Debug, Serialize)]
pub struct PresenceUpdate {
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    pub participant_count: u64,
}
