//! One record of the log: the facts of one or more script calls, and the public state after them.

use domain::{
    Amount, AntiSnipe, AntiSnipeMode, AuctionId, BidFact, BidId, BidKind, CloseReason, Head, Host, Ladder, Millis,
    Outcome, Rules, Sealed, Status, UserId,
};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::wire::{Named, cents, optional_cents, optional_text, text};
use crate::{ByHost, Options, SealedSecrets};

/// The type of a record; also its `Auction-Record` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// The auction exists.
    Created,
    /// Bidding is open.
    Opened,
    /// One or more bids were accepted.
    Bids,
    /// The leader changed the maximum, or a bid is kept until the opening.
    Maximum,
    /// The host stopped the auction's time.
    Paused,
    /// The host let the auction go on.
    Resumed,
    /// The host blocked a person.
    Blocked,
    /// The host unblocked a person.
    Unblocked,
    /// The auction ended, sold or unsold.
    Closed,
    /// The host cancelled the auction.
    Cancelled,
}

domain::names!(RecordKind {
    Created = "created",
    Opened = "opened",
    Bids = "bids",
    Maximum = "maximum",
    Paused = "paused",
    Resumed = "resumed",
    Blocked = "blocked",
    Unblocked = "unblocked",
    Closed = "closed",
    Cancelled = "cancelled",
});

/// Where the chain stood after one script call. An answer rests on exactly one mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mark {
    /// Sequence number of the call's last fact.
    pub seq: u64,
    /// Hash of the chain up to that fact.
    #[serde(with = "text")]
    pub head: Head,
}

/// An accepted bid in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bid {
    /// Sequence number of the bid in its auction.
    pub seq: u64,
    /// Identifier of the bid.
    #[serde(with = "text")]
    pub bid_id: BidId,
    /// The bidder.
    #[serde(with = "text")]
    pub user_id: UserId,
    /// Public name of the bidder when the bid was placed.
    pub username: String,
    /// The price offered.
    #[serde(rename = "amount_cents", with = "cents")]
    pub amount: Amount,
    /// When the bid was accepted.
    pub timestamp: u64,
    /// How the bid came about.
    pub kind: Named<BidKind>,
    /// The bidder's offer, encrypted, if it has a maximum.
    #[serde(with = "optional_text", default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Sealed>,
}

impl Bid {
    /// The bid as a fact of the chain. One of a kind that only a newer version knows counts as a person's.
    #[must_use]
    pub fn fact(&self) -> BidFact {
        let Self { seq, bid_id, user_id, amount, timestamp, ref kind, .. } = *self;
        let (username, sealed) = (self.username.clone(), self.sealed.clone());
        let kind = kind.known().unwrap_or(BidKind::Bid);
        BidFact { seq, bid_id, user_id, username, amount, timestamp: Millis(timestamp), kind, sealed }
    }
}

/// One of the best three bids; each person has at most one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankedBid {
    /// The bidder.
    #[serde(with = "text")]
    pub user_id: UserId,
    /// Public name of the bidder.
    pub username: String,
    /// Their highest bid.
    #[serde(rename = "amount_cents", with = "cents")]
    pub amount: Amount,
}

/// Everything public about an auction at one moment: rules, price, leader, end, result. Times are milliseconds since
/// 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Where the auction is in its life.
    pub status: Named<Status>,
    /// The person who sells.
    #[serde(with = "text")]
    pub host_user_id: UserId,
    /// Public name of the host.
    pub host_username: String,
    /// Lowest first bid.
    #[serde(rename = "starting_bid_cents", with = "cents")]
    pub starting_bid: Amount,
    /// Smallest step from the price now to the next bid.
    #[serde(rename = "increment_cents", with = "cents")]
    pub increment: Amount,
    /// Rules that the first version does not know.
    #[serde(default, skip_serializing_if = "Options::is_none")]
    pub options: Options,
    /// Acts of the host on the running auction.
    #[serde(default, skip_serializing_if = "ByHost::is_nothing")]
    pub by_host: ByHost,
    /// Milliseconds from opening to the end, without extensions.
    pub duration_ms: u64,
    /// Whether a late bid moves the end.
    pub anti_snipe_mode: Named<AntiSnipeMode>,
    /// A bid this close to the end is late.
    pub anti_snipe_window_ms: u64,
    /// Milliseconds that a late bid adds.
    pub anti_snipe_extension_ms: u64,
    /// Most extensions.
    pub anti_snipe_max_extensions: u32,
    /// When the auction was created.
    pub created_at: u64,
    /// When bidding opens or opened; [`Millis::NOT_YET`] while it waits for the end of another auction. See
    /// [`Self::shown_start`].
    pub starts_at: u64,
    /// End of the auction, with extensions; of a paused auction the end as it stood before. See [`Self::shown_end`].
    pub end_time: u64,
    /// Extensions so far.
    pub extension_count: u32,
    /// How often the auction was given more time after an outage over its end.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub recoveries: u32,
    /// Accepted bids.
    pub bid_count: u64,
    /// The highest accepted bid.
    #[serde(rename = "high_bid_cents", with = "optional_cents")]
    pub high_bid: Option<Amount>,
    /// The leader.
    #[serde(with = "optional_text")]
    pub high_bidder_id: Option<UserId>,
    /// Public name of the leader.
    pub high_bidder_username: Option<String>,
    /// The lowest bid that would be accepted now.
    #[serde(rename = "minimum_bid_cents", with = "cents")]
    pub minimum_bid: Amount,
    /// Highest first, at most three.
    pub top_bids: Vec<RankedBid>,
    /// Whether the highest bid has reached the reserve. None without a reserve. See [`Self::shown_reserve_met`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve_met: Option<bool>,
    /// When it really ended.
    pub ended_at: Option<u64>,
    /// Why it closed.
    pub reason: Option<Named<CloseReason>>,
    /// None while the auction runs.
    pub outcome: Option<Named<Outcome>>,
    /// The winner, if sold.
    #[serde(with = "optional_text")]
    pub winner_id: Option<UserId>,
    /// Public name of the winner.
    pub winner_username: Option<String>,
    /// The hammer price, if sold.
    #[serde(rename = "winning_bid_cents", with = "optional_cents")]
    pub winning_bid: Option<Amount>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field by reference")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Snapshot {
    /// The start that people are shown: none while the auction waits for another one to end.
    #[must_use]
    pub fn shown_start(&self) -> Option<u64> {
        (self.starts_at != Millis::NOT_YET.0).then_some(self.starts_at)
    }

    /// The end that people are shown: none while the auction is paused, or waits for another one to end.
    #[must_use]
    pub fn shown_end(&self) -> Option<u64> {
        (self.status != Status::Paused && !self.waits()).then_some(self.end_time)
    }

    /// Whether start and end are not known because the auction that it follows had not ended, also if it was cancelled
    /// since then.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.options.follows.is_some() && self.end_time == Millis::NOT_YET.plus(self.duration_ms).0
    }

    /// Whether the highest bid sells, as people are shown it: without a reserve any bid does.
    #[must_use]
    pub fn shown_reserve_met(&self) -> bool {
        self.reserve_met.unwrap_or(self.high_bid.is_some())
    }

    /// Whether the first version of the scripts knows everything about this auction, apart from its secrets.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.by_host.is_nothing() && self.rules().is_some_and(|rules| rules.is_plain())
    }

    /// Whether bids are kept until the opening now. Not once they were bid, though the opening may follow only later.
    #[must_use]
    pub fn keeps_bids(&self) -> bool {
        self.status == Status::Scheduled && self.options.allow_prebids && self.high_bid.is_none()
    }

    /// Whether the highest bid has reached the buy-now price. The closing follows at once.
    #[must_use]
    pub fn is_bought(&self) -> bool {
        self.options.buy_now.is_some_and(|buy_now| self.high_bid.is_some_and(|high_bid| high_bid >= buy_now))
    }

    /// The rules that the host set, without the reserve, which is secret. None if a newer version wrote an anti-snipe mode that this one does not know.
    #[must_use]
    pub fn rules(&self) -> Option<Rules> {
        Some(Rules {
            host: Host { user_id: self.host_user_id, username: self.host_username.clone() },
            starting_bid: self.starting_bid,
            increments: self.options.increments.clone().unwrap_or_else(|| Ladder::flat(self.increment)),
            duration_ms: self.duration_ms,
            anti_snipe: AntiSnipe {
                mode: self.anti_snipe_mode.known()?,
                window_ms: self.anti_snipe_window_ms,
                extension_ms: self.anti_snipe_extension_ms,
                max_extensions: self.anti_snipe_max_extensions,
            },
            allow_self_raise: self.options.allow_self_raise,
            buy_now: self.options.buy_now,
            reserve: None,
            allow_prebids: self.options.allow_prebids,
            follows: self.options.follows(),
        })
    }
}

/// The version of the record format that this code writes.
pub const RECORD_VERSION: u32 = 1;

/// Reads the version of a record.
fn known_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        version if version <= RECORD_VERSION => Ok(version),
        newer => Err(D::Error::custom(format_args!("record version {newer} is not known: a newer program wrote it"))),
    }
}

/// One record of an auction's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the format: [`RECORD_VERSION`]. A record of a newer version is unreadable.
    #[serde(deserialize_with = "known_version")]
    pub v: u32,
    /// The kind of its facts.
    #[serde(rename = "type")]
    pub kind: Named<RecordKind>,
    /// The auction.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// Sequence number of the record's last fact.
    pub seq: u64,
    /// The head before the record's first fact, which is the head of the auction's previous record.
    #[serde(with = "text")]
    pub prev: Head,
    /// The head after the record's last fact.
    #[serde(with = "text")]
    pub head: Head,
    /// When it happened, in milliseconds since 1970.
    pub time: u64,
    /// The person who acted, where a person did.
    #[serde(with = "optional_text", default, skip_serializing_if = "Option::is_none")]
    pub by: Option<UserId>,
    /// The person that the fact is about, if it is about one.
    #[serde(with = "optional_text", default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// Accepted bids, in order; empty for other kinds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bids: Vec<Bid>,
    /// One mark for each script call; the last equals (`seq`, `head`).
    pub marks: Vec<Mark>,
    /// The public state after the record.
    pub state: Snapshot,
    /// The secrets after the record, encrypted. None if the auction has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<SealedSecrets>,
}

impl Record {
    /// The mark after the record's last fact.
    #[must_use]
    pub const fn mark(&self) -> Mark {
        Mark { seq: self.seq, head: self.head }
    }

    /// The ids of the calls that the record accepts: of its bids, and of a change of the maximum or a pre-bid. Counter-bids
    /// are no calls, but their ids are as good as used.
    pub fn bid_ids(&self) -> impl Iterator<Item = BidId> {
        let changed = self.sealed.as_ref().filter(|_| self.kind == RecordKind::Maximum);
        let changed = changed.and_then(SealedSecrets::set_by).map(|(bid_id, _)| bid_id);
        self.bids.iter().map(|bid| bid.bid_id).chain(changed)
    }

    /// Number of facts in the record: one for each bid, or one for any other kind.
    #[must_use]
    pub const fn facts(&self) -> u64 {
        if self.bids.is_empty() { 1 } else { self.bids.len() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_of_a_newer_version_is_refused_by_its_number() {
        let stored = include_str!("../tests/stored/closed.jsonl").lines().next().expect("a record");
        let read = |text: &str| serde_json::from_str::<Record>(text);
        assert_eq!(read(stored).expect("a record").v, RECORD_VERSION);
        let newer = stored.replacen(r#""v":1"#, r#""v":2"#, 1);
        assert_ne!(newer, stored);
        let error = read(&newer).expect_err("a newer version").to_string();
        assert!(error.contains("record version 2 is not known"), "{error}");
    }
}
