//! The live state of an auction, as `GET /auctions/{id}/state` and `joined_auction` show it.

use domain::{Amount, AuctionId, BidId, BidKind, Outcome, Status, UserId};
use serde::{Deserialize, Serialize};

use crate::wire::{Named, decimal, optional_decimal, optional_text, text};
use crate::{Bid, ChatMessage, Snapshot, StandingBid};

/// A bid as history and frames show it, with decimals.
#[derive(Debug, Serialize)]
pub struct PublicBid<'a> {
    seq: u64,
    #[serde(with = "text")]
    bid_id: BidId,
    #[serde(with = "text")]
    user_id: UserId,
    username: &'a str,
    #[serde(serialize_with = "decimal")]
    amount: Amount,
    timestamp: u64,
    kind: &'a Named<BidKind>,
}

impl<'a> From<&'a Bid> for PublicBid<'a> {
    fn from(bid: &'a Bid) -> Self {
        let Bid { seq, bid_id, user_id, username, amount, timestamp, kind } = bid;
        Self { seq: *seq, bid_id: *bid_id, user_id: *user_id, username, amount: *amount, timestamp: *timestamp, kind }
    }
}

/// `GET /auctions/{id}/bids`.
#[derive(Debug, Serialize)]
pub struct BidPage<'a> {
    /// The newest first.
    pub bids: Vec<PublicBid<'a>>,
    /// `before_seq` of the next page; null on the last page.
    pub next_before_seq: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct TopBid<'a> {
    #[serde(with = "text")]
    user_id: UserId,
    username: &'a str,
    #[serde(serialize_with = "decimal")]
    amount: Amount,
}

impl<'a> From<&'a StandingBid> for TopBid<'a> {
    fn from(bid: &'a StandingBid) -> Self {
        Self { user_id: bid.user_id, username: &bid.username, amount: bid.amount }
    }
}

/// `auctions.state`: the committed state of one auction, between services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedState {
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    pub seq: u64,
    /// The auction's records up to this stream sequence are contained in the state.
    pub stream_seq: u64,
    pub state: Snapshot,
    /// Newest first, at most 20.
    pub recent_bids: Vec<Bid>,
    pub participant_count: u64,
}

/// The live state as the outside sees it.
#[derive(Debug, Serialize)]
pub struct LiveState<'a> {
    #[serde(with = "text")]
    auction_id: AuctionId,
    #[serde(with = "text")]
    host_user_id: UserId,
    status: &'a Named<Status>,
    seq: u64,
    #[serde(serialize_with = "optional_decimal")]
    current_high_bid: Option<Amount>,
    #[serde(serialize_with = "decimal")]
    starting_bid: Amount,
    #[serde(serialize_with = "decimal")]
    minimum_bid: Amount,
    #[serde(with = "optional_text")]
    high_bidder_id: Option<UserId>,
    high_bidder_username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    you_are_winning: Option<bool>,
    reserve_met: bool,
    bid_count: u64,
    participant_count: u64,
    top_bids: Vec<TopBid<'a>>,
    recent_bids: Vec<PublicBid<'a>>,
    end_time: u64,
    server_time: u64,
    time_remaining_ms: u64,
    time_remaining_seconds: u64,
    time_remaining: u64,
    extension_count: u32,
    outcome: Option<&'a Named<Outcome>>,
    #[serde(with = "optional_text")]
    winner_id: Option<UserId>,
    winner_username: Option<&'a str>,
    #[serde(serialize_with = "optional_decimal")]
    winning_bid: Option<Amount>,
    /// At most 50, oldest first.
    chat_messages: &'a [ChatMessage],
}

impl CommittedState {
    /// The state as `viewer` sees it at `server_time`.
    #[must_use]
    pub fn live<'a>(
        &'a self,
        viewer: Option<UserId>,
        server_time: u64,
        chat_messages: &'a [ChatMessage],
    ) -> LiveState<'a> {
        let state = &self.state;
        let remaining = time_remaining(state, server_time);
        LiveState {
            auction_id: self.auction_id,
            host_user_id: state.host_user_id,
            status: &state.status,
            seq: self.seq,
            current_high_bid: state.high_bid,
            starting_bid: state.starting_bid,
            minimum_bid: state.minimum_bid,
            high_bidder_id: state.high_bidder_id,
            high_bidder_username: state.high_bidder_username.as_deref(),
            you_are_winning: viewer.map(|viewer| state.high_bidder_id == Some(viewer)),
            // Without a reserve any bid meets it.
            reserve_met: state.high_bid.is_some(),
            bid_count: state.bid_count,
            participant_count: self.participant_count,
            top_bids: state.top_bids.iter().map(TopBid::from).collect(),
            recent_bids: self.recent_bids.iter().map(PublicBid::from).collect(),
            end_time: state.end_time,
            server_time,
            time_remaining_ms: remaining,
            time_remaining_seconds: whole_seconds(remaining),
            time_remaining: whole_seconds(remaining),
            extension_count: state.extension_count,
            outcome: state.outcome.as_ref(),
            winner_id: state.winner_id,
            winner_username: state.winner_username.as_deref(),
            winning_bid: state.winning_bid,
            chat_messages,
        }
    }
}

/// Milliseconds until the end, 0 once it is over.
#[must_use]
pub fn time_remaining(state: &Snapshot, server_time: u64) -> u64 {
    if state.outcome.is_some() { 0 } else { state.end_time.saturating_sub(server_time) }
}

/// Seconds a countdown shows: 0 only when nothing is left.
#[must_use]
pub const fn whole_seconds(milliseconds: u64) -> u64 {
    milliseconds.div_ceil(1000)
}

/// `GET /auctions/{id}/timer`. Times are milliseconds since 1970.
#[derive(Debug, Serialize)]
pub struct TimerObject<'a> {
    #[serde(with = "text")]
    auction_id: AuctionId,
    status: &'a Named<Status>,
    end_time: u64,
    server_time: u64,
    time_remaining_ms: u64,
    extension_count: u32,
}

#[must_use]
pub fn timer_object(standing: &CommittedState, server_time: u64) -> TimerObject<'_> {
    TimerObject {
        auction_id: standing.auction_id,
        status: &standing.state.status,
        end_time: standing.state.end_time,
        server_time,
        time_remaining_ms: time_remaining(&standing.state, server_time),
        extension_count: standing.state.extension_count,
    }
}
