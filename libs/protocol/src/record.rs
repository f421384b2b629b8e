//! One record of the log: the facts of one or more script calls, and the public state after them.

use domain::{
    Amount, AntiSnipe, AntiSnipeMode, AuctionId, BidFact, BidId, BidKind, CloseReason, Head, Host, Millis, Outcome,
    Rules, Status, UserId,
};
use serde::{Deserialize, Serialize};

use crate::wire::{Named, cents, optional_cents, optional_text, text};

/// The type of a record; also its `Auction-Record` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    Created,
    Opened,
    Bids,
    Closed,
    Cancelled,
}

domain::names!(RecordKind {
    Created = "created",
    Opened = "opened",
    Bids = "bids",
    Closed = "closed",
    Cancelled = "cancelled",
});

/// Where the chain stood after one script call. An answer rests on exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mark {
    pub seq: u64,
    #[serde(with = "text")]
    pub head: Head,
}

/// An accepted bid in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bid {
    pub seq: u64,
    #[serde(with = "text")]
    pub bid_id: BidId,
    #[serde(with = "text")]
    pub user_id: UserId,
    pub username: String,
    #[serde(rename = "amount_cents", with = "cents")]
    pub amount: Amount,
    pub timestamp: u64,
    pub kind: Named<BidKind>,
}

impl Bid {
    #[must_use]
    pub fn fact(&self) -> BidFact {
        let Self { seq, bid_id, user_id, amount, timestamp, .. } = *self;
        BidFact { seq, bid_id, user_id, username: self.username.clone(), amount, timestamp: Millis(timestamp) }
    }
}

/// One of the best three, each person at most once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingBid {
    #[serde(with = "text")]
    pub user_id: UserId,
    pub username: String,
    #[serde(rename = "amount_cents", with = "cents")]
    pub amount: Amount,
}

/// Everything public about an auction at one moment: rules, price, leader, end, result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub status: Named<Status>,
    #[serde(with = "text")]
    pub host_user_id: UserId,
    pub host_username: String,
    #[serde(rename = "starting_bid_cents", with = "cents")]
    pub starting_bid: Amount,
    #[serde(rename = "increment_cents", with = "cents")]
    pub increment: Amount,
    pub duration_ms: u64,
    pub anti_snipe_mode: Named<AntiSnipeMode>,
    pub anti_snipe_window_ms: u64,
    pub anti_snipe_extension_ms: u64,
    pub anti_snipe_max_extensions: u32,
    pub created_at: u64,
    pub starts_at: u64,
    pub end_time: u64,
    pub extension_count: u32,
    pub bid_count: u64,
    #[serde(rename = "high_bid_cents", with = "optional_cents")]
    pub high_bid: Option<Amount>,
    #[serde(with = "optional_text")]
    pub high_bidder_id: Option<UserId>,
    pub high_bidder_username: Option<String>,
    #[serde(rename = "minimum_bid_cents", with = "cents")]
    pub minimum_bid: Amount,
    pub top_bids: Vec<StandingBid>,
    pub ended_at: Option<u64>,
    /// Why it closed.
    pub reason: Option<Named<CloseReason>>,
    pub outcome: Option<Named<Outcome>>,
    #[serde(with = "optional_text")]
    pub winner_id: Option<UserId>,
    pub winner_username: Option<String>,
    #[serde(rename = "winning_bid_cents", with = "optional_cents")]
    pub winning_bid: Option<Amount>,
}

impl Snapshot {
    /// The rules that the host fixed. None if a newer version wrote an anti-snipe mode that this one does not know.
    #[must_use]
    pub fn rules(&self) -> Option<Rules> {
        Some(Rules {
            host: Host { user_id: self.host_user_id, username: self.host_username.clone() },
            starting_bid: self.starting_bid,
            increment: self.increment,
            duration_ms: self.duration_ms,
            anti_snipe: AntiSnipe {
                mode: self.anti_snipe_mode.known()?,
                window_ms: self.anti_snipe_window_ms,
                extension_ms: self.anti_snipe_extension_ms,
                max_extensions: self.anti_snipe_max_extensions,
            },
        })
    }
}

/// The version of the record format that this code writes.
pub const RECORD_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub v: u32,
    #[serde(rename = "type")]
    pub kind: Named<RecordKind>,
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// Of its last fact.
    pub seq: u64,
    /// The head before its first fact: the head of the auction's previous record.
    #[serde(with = "text")]
    pub prev: Head,
    /// The head after its last fact.
    #[serde(with = "text")]
    pub head: Head,
    pub time: u64,
    /// Who did it, where a person did.
    #[serde(with = "optional_text", default, skip_serializing_if = "Option::is_none")]
    pub by: Option<UserId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bids: Vec<Bid>,
    /// One a script call, the last equal to (`seq`, `head`).
    pub marks: Vec<Mark>,
    pub state: Snapshot,
}

impl Record {
    #[must_use]
    pub const fn mark(&self) -> Mark {
        Mark { seq: self.seq, head: self.head }
    }

    /// How many facts it holds: each bid is one, everything else is one by itself.
    #[must_use]
    pub const fn facts(&self) -> u64 {
        if self.bids.is_empty() { 1 } else { self.bids.len() as u64 }
    }
}
