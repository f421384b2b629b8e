//! The live state of an auction, in `GET /auctions/{id}/state` and `joined_auction`.

use std::borrow::Cow;

use domain::{Amount, AuctionId, BidId, BidKind, Follows, Head, Outcome, Status, UserId};
use serde::{Deserialize, Serialize};

#[cfg(feature = "schema")]
use crate::shapes;
use crate::wire::{Named, decimal, optional_decimal, optional_text, text};
use crate::{Bid, ChatMessage, Mark, Naming, RankedBid, Snapshot};

/// An accepted bid.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "Bid"))]
pub struct PublicBid<'a> {
    /// Sequence number of the bid in its auction.
    seq: u64,
    /// Identifier of the bid.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    bid_id: BidId,
    /// The bidder.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    user_id: UserId,
    /// Public name of the bidder, or an alias.
    username: Cow<'a, str>,
    /// The price offered.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    amount: Amount,
    /// Milliseconds since 1970, by the clock of the auction's Redis
    timestamp: u64,
    /// How the bid came about.
    kind: &'a Named<BidKind>,
}

impl<'a> PublicBid<'a> {
    /// The bid; `naming` gives the bidder's name to show.
    #[must_use]
    pub fn new(bid: &'a Bid, naming: Naming) -> Self {
        let Bid { seq, bid_id, user_id, amount, timestamp, ref username, ref kind, .. } = *bid;
        Self { seq, bid_id, user_id, username: naming.name(user_id, username), amount, timestamp, kind }
    }
}

/// `GET /auctions/{id}/bids`.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BidPage<'a> {
    /// The newest first.
    #[cfg_attr(feature = "schema", schemars(length(max = 100)))]
    pub bids: Vec<PublicBid<'a>>,
    /// `before_seq` of the next page; null on the last page.
    pub next_before_seq: Option<u64>,
}

/// The highest bid of one of the three leading people.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TopBid<'a> {
    /// The bidder.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    user_id: UserId,
    /// Public name of the bidder, or an alias.
    username: Cow<'a, str>,
    /// Their highest bid.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    amount: Amount,
}

impl<'a> TopBid<'a> {
    /// The bid; `naming` gives the bidder's name to show.
    pub(crate) fn new(bid: &'a RankedBid, naming: Naming) -> Self {
        Self { user_id: bid.user_id, username: naming.name(bid.user_id, &bid.username), amount: bid.amount }
    }
}

/// `auctions.state`: the committed state of one auction, between services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedState {
    /// The auction.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// Sequence number of its last fact.
    pub seq: u64,
    /// The head of the chain after that fact. An earlier version sends none; then no record continues the state.
    #[serde(with = "text", default)]
    pub head: Head,
    /// The auction's records up to this stream sequence are contained in the state.
    pub stream_seq: u64,
    /// Rules, price, leader, end, result.
    pub state: Snapshot,
    /// Newest first, at most 20.
    pub recent_bids: Vec<Bid>,
    /// People who are watching.
    pub participant_count: u64,
    /// Seconds between two chat messages of a person; 0 without slow mode.
    #[serde(default)]
    pub slow_mode_seconds: u64,
    /// Whether the auction has a reserve, or has had a maximum. Then its leader may have one.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub has_secrets: bool,
    /// When the opening of an auction that follows another is due, in the answer to `auctions.open`; None while that one
    /// has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opens_at: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field by reference")]
const fn is_unset(flag: &bool) -> bool {
    !*flag
}

/// The live state of an auction. Times are milliseconds since 1970, by the clock of the auction's Redis.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LiveState<'a> {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    auction_id: AuctionId,
    /// The person who sells.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    host_user_id: UserId,
    /// Where the auction is in its life.
    status: &'a Named<Status>,
    /// The auction whose end opens this one; null without one.
    #[serde(with = "optional_text")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Id>"))]
    follows: Option<AuctionId>,
    /// Seconds from that end to the opening; null without one.
    gap: Option<u64>,
    /// Sequence number of its last fact.
    seq: u64,
    /// The highest accepted bid.
    #[serde(serialize_with = "optional_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Money>"))]
    current_high_bid: Option<Amount>,
    /// Lowest first bid.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    starting_bid: Amount,
    /// The lowest bid that would be accepted now.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    minimum_bid: Amount,
    /// The leader.
    #[serde(with = "optional_text")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Id>"))]
    high_bidder_id: Option<UserId>,
    /// Public name of the leader, or an alias.
    high_bidder_username: Option<Cow<'a, str>>,
    /// Only for a caller with a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "bool"))]
    you_are_winning: Option<bool>,
    /// Whether the highest bid has reached the reserve; without a reserve, whether there is a bid.
    reserve_met: bool,
    /// Accepted bids.
    bid_count: u64,
    /// People who are watching.
    participant_count: u64,
    /// Seconds between two chat messages of a person; 0 without slow mode.
    slow_mode_seconds: u64,
    /// The three leading people, highest first.
    #[cfg_attr(feature = "schema", schemars(length(max = 3)))]
    top_bids: Vec<TopBid<'a>>,
    /// Newest first, at most 20.
    #[cfg_attr(feature = "schema", schemars(length(max = 20)))]
    recent_bids: Vec<PublicBid<'a>>,
    /// End of the auction, with extensions; null while it is paused, or waits for another one to end.
    end_time: Option<u64>,
    /// When it really ended; null while it runs.
    ended_at: Option<u64>,
    /// The time of this answer.
    server_time: u64,
    /// Milliseconds until the end.
    time_remaining_ms: u64,
    /// Seconds until the end, rounded up.
    time_remaining_seconds: u64,
    /// The same.
    time_remaining: u64,
    /// Extensions so far.
    extension_count: u32,
    /// Null while the auction runs.
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
    /// Oldest first, at most 50.
    #[cfg_attr(feature = "schema", schemars(length(max = crate::MAX_CHAT_HISTORY)))]
    chat_messages: Cow<'a, [ChatMessage]>,
}

impl CommittedState {
    /// Where the chain stands.
    #[must_use]
    pub const fn mark(&self) -> Mark {
        Mark { seq: self.seq, head: self.head }
    }

    /// The state as `viewer` sees it at `server_time`; `naming` gives the names to show.
    #[must_use]
    pub fn live<'a>(
        &'a self,
        viewer: Option<UserId>,
        server_time: u64,
        chat_messages: &'a [ChatMessage],
        naming: Naming,
    ) -> LiveState<'a> {
        let state = &self.state;
        let remaining = time_remaining(state, server_time);
        LiveState {
            auction_id: self.auction_id,
            host_user_id: state.host_user_id,
            status: &state.status,
            follows: state.options.follows,
            gap: state.options.follows().map(Follows::gap_seconds),
            seq: self.seq,
            current_high_bid: state.high_bid,
            starting_bid: state.starting_bid,
            minimum_bid: state.minimum_bid,
            high_bidder_id: state.high_bidder_id,
            high_bidder_username: naming.optional(state.high_bidder_id, state.high_bidder_username.as_deref()),
            you_are_winning: viewer.map(|viewer| state.high_bidder_id == Some(viewer)),
            reserve_met: state.shown_reserve_met(),
            bid_count: state.bid_count,
            participant_count: self.participant_count,
            slow_mode_seconds: self.slow_mode_seconds,
            top_bids: state.top_bids.iter().map(|bid| TopBid::new(bid, naming)).collect(),
            recent_bids: self.recent_bids.iter().map(|bid| PublicBid::new(bid, naming)).collect(),
            end_time: state.shown_end(),
            ended_at: state.ended_at,
            server_time,
            time_remaining_ms: remaining,
            time_remaining_seconds: whole_seconds(remaining),
            time_remaining: whole_seconds(remaining),
            extension_count: state.extension_count,
            outcome: state.outcome.as_ref(),
            winner_id: state.winner_id,
            winner_username: naming.optional(state.winner_id, state.winner_username.as_deref()),
            winning_bid: state.winning_bid,
            chat_messages: naming.messages(chat_messages),
        }
    }
}

/// Milliseconds until the end, 0 once it is over. They stay the same while the auction is paused, or waits for another one
/// to end.
#[must_use]
pub fn time_remaining(state: &Snapshot, server_time: u64) -> u64 {
    match (&state.outcome, state.by_host.remaining_ms) {
        (Some(_), _) => 0,
        (None, Some(remaining)) => remaining,
        (None, None) if state.waits() => state.duration_ms,
        (None, None) => state.end_time.saturating_sub(server_time),
    }
}

/// Seconds that a countdown shows, rounded up: 0 only when no time is left.
#[must_use]
pub const fn whole_seconds(milliseconds: u64) -> u64 {
    milliseconds.div_ceil(1000)
}

/// The time left of an auction. Times are milliseconds since 1970, by the clock of the auction's Redis.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "Timer"))]
pub struct TimerObject<'a> {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    auction_id: AuctionId,
    /// Where the auction is in its life.
    status: &'a Named<Status>,
    /// End of the auction, with extensions; null while it is paused, or waits for another one to end.
    end_time: Option<u64>,
    /// The time of this answer.
    server_time: u64,
    /// Milliseconds until the end; 0 once it is over.
    time_remaining_ms: u64,
    /// Extensions so far.
    extension_count: u32,
}

/// The time left of an auction in this state, at `server_time`.
#[must_use]
pub fn timer_object(auction_id: AuctionId, state: &Snapshot, server_time: u64) -> TimerObject<'_> {
    TimerObject {
        auction_id,
        status: &state.status,
        end_time: state.shown_end(),
        server_time,
        time_remaining_ms: time_remaining(state, server_time),
        extension_count: state.extension_count,
    }
}
