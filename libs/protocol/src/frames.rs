//! Frames (CONTRACT.md, Real time): `{"event", "data", "id"?}` in both directions on the plain WebSocket. Socket.IO
//! carries the same events and data in the packets of [`crate::socketio`].

use std::borrow::Cow;

use domain::{Amount, AuctionId, Outcome, Status, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::live::{CommittedState, PublicBid, TopBid, time_remaining};
#[cfg(feature = "schema")]
use crate::shapes;
use crate::wire::{Named, decimal, optional_decimal, optional_text, text};
use crate::{Bid, Naming, Record};

/// The version of the vocabulary, in `connected`.
pub const PROTOCOL_VERSION: u32 = 1;

/// Close codes of the plain WebSocket. After 4400 to 4499 a client must change something before it reconnects.
pub mod close {
    /// The token is missing, bad or expired.
    pub const UNAUTHENTICATED: u16 = 4401;
    /// The client read too slowly; it may reconnect and resume.
    pub const TOO_SLOW: u16 = 4408;
    /// The server is going away; reconnect elsewhere.
    pub const DRAINING: u16 = 1012;
    /// The client violated the framing rules (RFC 6455, 7.4.1).
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A text frame was not UTF-8.
    pub const NOT_TEXT: u16 = 1007;
    /// A frame was larger than allowed.
    pub const TOO_BIG: u16 = 1009;
    /// The token's key is not known yet; try again with the same token.
    pub const TRY_AGAIN: u16 = 1013;
}

/// A request of a client. Missing parts are reported later, so that the answer can carry the id.
#[derive(Debug, Deserialize)]
pub struct ClientFrame<'a> {
    /// Its event.
    pub event: String,
    /// Its data as it was sent.
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
    /// Repeated in the answer.
    #[serde(borrow)]
    pub id: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Frame<'a, T> {
    event: &'a str,
    data: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
}

/// One text frame. `id` repeats the request's.
pub fn encode(event: &str, data: impl Serialize, id: Option<&RawValue>) -> String {
    // Serializing plain structs with string keys cannot fail.
    serde_json::to_string(&Frame { event, data, id }).unwrap_or_default()
}

/// The first frame, once the token is verified or the client may watch without one.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Connected<'a> {
    /// The caller; null without a token.
    #[serde(with = "optional_text")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Id>"))]
    pub user_id: Option<UserId>,
    /// Public name of the caller; null without a token.
    pub username: Option<&'a str>,
    /// Milliseconds since 1970, by the clock of the auction's Redis
    pub server_time: u64,
    /// Identifier of this connection.
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub session_id: &'a str,
    /// Version of the vocabulary.
    #[cfg_attr(feature = "schema", schemars(extend("const" = PROTOCOL_VERSION)))]
    pub protocol: u32,
}

/// The answer to `join_auction`: the live state, and the bids missed since `last_seq`.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "JoinedAuction", transform = shapes::require_you_are_winning))]
pub struct Joined<'a> {
    /// The live state.
    #[serde(flatten)]
    pub live: crate::LiveState<'a>,
    /// Whether `missed_bids` is complete.
    pub recovered: bool,
    /// The bids after `last_seq`, oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<PublicBid<'a>>", length(max = 1000)))]
    pub missed_bids: Option<Vec<PublicBid<'a>>>,
    /// How far the auction bids for the caller; null unless the caller leads with a maximum. Only the caller is shown it.
    #[serde(serialize_with = "optional_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Money>"))]
    pub your_max_amount: Option<Amount>,
    /// Whether the host streams video; false also for an auction without video, null while it is not known.
    pub stream_live: Option<bool>,
}

/// The newest state of an auction; `bids` are those after `previous_seq`, at most the newest 50. At most 20 a second.
/// Times are milliseconds since 1970, by the clock of the auction's Redis.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BidUpdate<'a> {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    auction_id: AuctionId,
    /// Sequence number of the last fact.
    seq: u64,
    /// `seq` of the update before.
    previous_seq: u64,
    /// Bids after `previous_seq`, oldest first.
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_BIDS_IN_UPDATE)))]
    bids: Vec<PublicBid<'a>>,
    /// The highest accepted bid.
    #[serde(serialize_with = "optional_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Money>"))]
    high_bid: Option<Amount>,
    /// The leader.
    #[serde(with = "optional_text")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Id>"))]
    high_bidder_id: Option<UserId>,
    /// Public name of the leader, or an alias.
    high_bidder_username: Option<Cow<'a, str>>,
    /// The three leading people, highest first.
    #[cfg_attr(feature = "schema", schemars(length(max = 3)))]
    top_bids: Vec<TopBid<'a>>,
    /// Accepted bids.
    bid_count: u64,
    /// People who are watching.
    participant_count: u64,
    /// The lowest bid that would be accepted now.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    minimum_bid: Amount,
    /// Whether the highest bid has reached the reserve; without a reserve, whether there is a bid.
    reserve_met: bool,
    /// End of the auction, with extensions; null while it is paused.
    end_time: Option<u64>,
    /// Extensions so far.
    extension_count: u32,
    /// Whether the caller leads.
    you_are_winning: bool,
    /// Where the auction is in its life.
    status: &'a Named<Status>,
    /// When this update was made.
    timestamp: u64,
}

/// Most bids in one `bid_update`: the newest ones.
pub const MAX_BIDS_IN_UPDATE: usize = 50;

impl<'a> BidUpdate<'a> {
    /// The update to `committed`; `naming` gives the names to show, and `bids` are those after `previous_seq`, oldest
    /// first, at most [`MAX_BIDS_IN_UPDATE`].
    pub fn new(
        committed: &'a CommittedState,
        previous_seq: u64,
        bids: impl Iterator<Item = &'a Bid>,
        timestamp: u64,
        you_are_winning: bool,
        naming: Naming,
    ) -> Self {
        let state = &committed.state;
        Self {
            auction_id: committed.auction_id,
            seq: committed.seq,
            previous_seq,
            bids: bids.map(|bid| PublicBid::new(bid, naming)).collect(),
            high_bid: state.high_bid,
            high_bidder_id: state.high_bidder_id,
            high_bidder_username: naming.optional(state.high_bidder_id, state.high_bidder_username.as_deref()),
            top_bids: state.top_bids.iter().map(|bid| TopBid::new(bid, naming)).collect(),
            bid_count: state.bid_count,
            participant_count: committed.participant_count,
            minimum_bid: state.minimum_bid,
            reserve_met: state.shown_reserve_met(),
            end_time: state.shown_end(),
            extension_count: state.extension_count,
            you_are_winning,
            status: &state.status,
            timestamp,
        }
    }
}

/// A person no longer leads, or was overtaken by the record of the own bid. To every socket of the person, whether or not
/// it has joined the auction.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Outbid {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub auction_id: AuctionId,
    /// Sequence number of the last fact.
    pub seq: u64,
    /// The person's last bid.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    pub your_bid: Amount,
    /// The highest accepted bid.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    pub high_bid: Amount,
    /// The lowest bid that would be accepted now.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    pub minimum_bid: Amount,
}

/// The hammer: the auction ended, sold or unsold.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuctionEnded<'a> {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    auction_id: AuctionId,
    /// Sequence number of the closing.
    seq: u64,
    /// The result.
    #[cfg_attr(feature = "schema", schemars(with = "shapes::EndOutcome"))]
    outcome: Option<&'a Named<Outcome>>,
    /// The winner; null unless sold.
    #[serde(with = "optional_text")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Id>"))]
    winner_id: Option<UserId>,
    /// Public name of the winner, or an alias.
    winner_username: Option<Cow<'a, str>>,
    /// The hammer price; null unless sold.
    #[serde(serialize_with = "optional_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Money>"))]
    winning_bid: Option<Amount>,
    /// Accepted bids.
    bid_count: u64,
    /// When it really ended. Milliseconds since 1970, by the clock of the auction's Redis
    end_time: u64,
    /// Whether the caller won.
    you_won: bool,
}

impl<'a> AuctionEnded<'a> {
    /// From the record of the closing; `naming` gives the winner's name to show.
    #[must_use]
    pub fn new(record: &'a Record, you_won: bool, naming: Naming) -> Self {
        let state = &record.state;
        Self {
            auction_id: record.auction_id,
            seq: record.seq,
            outcome: state.outcome.as_ref(),
            winner_id: state.winner_id,
            winner_username: naming.optional(state.winner_id, state.winner_username.as_deref()),
            winning_bid: state.winning_bid,
            bid_count: state.bid_count,
            end_time: state.ended_at.unwrap_or(state.end_time),
            you_won,
        }
    }
}

/// Bidding opened.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuctionStarted {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub auction_id: AuctionId,
    /// Sequence number of the opening.
    pub seq: u64,
    /// Milliseconds since 1970, by the clock of the auction's Redis
    pub end_time: u64,
}

/// The host paused the auction: its time is stopped, bids are refused.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuctionPaused<'a> {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    auction_id: AuctionId,
    /// Sequence number of the pause.
    seq: u64,
    /// Where the auction is in its life.
    status: &'a Named<Status>,
    /// Always null: the end is known once the auction is resumed.
    end_time: Option<u64>,
    /// Milliseconds that are left.
    time_remaining_ms: u64,
}

impl<'a> AuctionPaused<'a> {
    /// From the record of the pause.
    #[must_use]
    pub fn new(record: &'a Record) -> Self {
        let state = &record.state;
        Self {
            auction_id: record.auction_id,
            seq: record.seq,
            status: &state.status,
            end_time: state.shown_end(),
            time_remaining_ms: time_remaining(state, record.time),
        }
    }
}

/// Why an auction goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ResumeReason {
    /// The host resumed it, with the time that was left.
    Host,
    /// Bids could not be decided before its end: it has more time.
    Outage,
}

/// The auction goes on: its host resumed it, or it has more time because bids could not be decided before its end.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuctionResumed<'a> {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    auction_id: AuctionId,
    /// Sequence number of the resumption.
    seq: u64,
    /// Where the auction is in its life.
    status: &'a Named<Status>,
    /// Milliseconds since 1970, by the clock of the auction's Redis
    end_time: u64,
    /// Milliseconds that are left.
    time_remaining_ms: u64,
    /// Why it goes on.
    reason: ResumeReason,
}

impl<'a> AuctionResumed<'a> {
    /// From the record of the resumption.
    #[must_use]
    pub fn new(record: &'a Record) -> Self {
        let state = &record.state;
        Self {
            auction_id: record.auction_id,
            seq: record.seq,
            status: &state.status,
            end_time: state.end_time,
            time_remaining_ms: time_remaining(state, record.time),
            reason: if record.by.is_some() { ResumeReason::Host } else { ResumeReason::Outage },
        }
    }
}

/// The host cancelled the auction; no bid wins.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuctionCancelled<'a> {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    auction_id: AuctionId,
    /// Sequence number of the cancellation.
    seq: u64,
    /// Always `cancelled`.
    #[cfg_attr(feature = "schema", schemars(with = "String", extend("const" = Outcome::Cancelled.name())))]
    outcome: Option<&'a Named<Outcome>>,
    /// Accepted bids.
    bid_count: u64,
    /// When it really ended. Milliseconds since 1970, by the clock of the auction's Redis
    end_time: u64,
}

impl<'a> AuctionCancelled<'a> {
    /// From the record of the cancellation.
    #[must_use]
    pub fn new(record: &'a Record) -> Self {
        let state = &record.state;
        Self {
            auction_id: record.auction_id,
            seq: record.seq,
            outcome: state.outcome.as_ref(),
            bid_count: state.bid_count,
            end_time: state.ended_at.unwrap_or(state.end_time),
        }
    }
}

/// A person joined or left the room (`user_joined`, `user_left`).
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PersonMoved<'a> {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub auction_id: AuctionId,
    /// The person.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub user_id: UserId,
    /// Public name of the person, or an alias.
    pub username: Cow<'a, str>,
    /// People who are watching.
    pub participant_count: u64,
}

/// The host's video has begun or ended (`stream_started`, `stream_ended`), as IVS reports it some seconds later.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StreamChanged {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub auction_id: AuctionId,
    /// When it was noticed. Milliseconds since 1970, by the clock of the auction's Redis
    pub timestamp: u64,
}

/// The number of people in the room changed.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PresenceUpdate {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub auction_id: AuctionId,
    /// People who are watching.
    pub participant_count: u64,
}
