//! One auction from creation to hammer, decided bid by bid.

use std::collections::HashMap;

use crate::chain::{BidFact, Head, cancelled_fact, closed_fact, created_fact, opened_fact};
use crate::names;
use crate::{Amount, AuctionId, BidId, Millis, Rules, UserId};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Scheduled,
    Live,
    Paused,
    Closed,
    Cancelled,
}

names!(Status {
    Scheduled = "scheduled",
    Live = "live",
    Paused = "paused",
    Closed = "closed",
    Cancelled = "cancelled",
});

impl Status {
    /// True for the two final states: no fact follows a closed or cancelled auction.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Closed | Self::Cancelled)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Sold,
    Unsold,
    Cancelled,
}

names!(Outcome { Sold = "sold", Unsold = "unsold", Cancelled = "cancelled" });

/// Why an auction closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Its end passed.
    Ended,
    /// The host closed it before its end.
    Host,
}

names!(CloseReason { Ended = "ended", Host = "host" });

/// Whoever holds the highest bid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub user_id: UserId,
    pub username: String,
    pub amount: Amount,
}

/// A bid as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BidRequest {
    pub bid_id: BidId,
    pub user_id: UserId,
    pub username: String,
    pub amount: Amount,
}

/// What an accepted bid did. The same bid id gets this same answer for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub user_id: UserId,
    pub amount: Amount,
    pub seq: u64,
    pub timestamp: Millis,
    pub minimum_bid: Amount,
    pub end_time: Millis,
    pub extended: bool,
    pub extension_count: u32,
}

/// Why a bid was refused, in the order in which it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    BidIdReused,
    NotStarted,
    Paused,
    Closed,
    HostCannotBid,
    AlreadyLeading,
    TooLow,
}

/// The verdict on one bid, with what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// `found` when the bid had been accepted before under the same id.
    Accepted {
        accepted: Accepted,
        found: bool,
    },
    Refused {
        refusal: Refusal,
        seq: u64,
        high_bid: Option<Amount>,
        minimum_bid: Amount,
    },
}

/// How an auction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    pub time: Millis,
    pub reason: CloseReason,
    pub by: Option<UserId>,
    pub winner: Option<Leader>,
}

impl Closing {
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        if self.winner.is_some() { Outcome::Sold } else { Outcome::Unsold }
    }
}

#[derive(Debug, Clone)]
pub struct Auction {
    pub auction_id: AuctionId,
    pub rules: Rules,
    pub status: Status,
    pub seq: u64,
    pub head: Head,
    pub starts_at: Millis,
    pub end_time: Millis,
    pub extension_count: u32,
    pub bid_count: u64,
    pub leader: Option<Leader>,
    pub closing: Option<Closing>,
    /// The latest time seen. Time never runs backwards, whatever the clock does.
    last_now: Millis,
    accepted: HashMap<BidId, Accepted>,
}

impl Auction {
    #[must_use]
    pub fn create(auction_id: AuctionId, rules: Rules, starts_at: Millis, time: Millis) -> Self {
        let head = Head::GENESIS.next(&created_fact(auction_id, &rules, starts_at, time));
        Self {
            auction_id,
            status: Status::Scheduled,
            seq: 1,
            head,
            starts_at,
            end_time: starts_at.plus(rules.duration_ms),
            rules,
            extension_count: 0,
            bid_count: 0,
            leader: None,
            closing: None,
            last_now: time,
            accepted: HashMap::new(),
        }
    }

    /// Opens a scheduled auction whose start has come; the duration counts from here. False when
    /// there is nothing to open.
    pub fn open(&mut self, time: Millis) -> bool {
        let now = self.not_before(time);
        if self.status != Status::Scheduled || now < self.starts_at {
            return false;
        }
        self.status = Status::Live;
        self.last_now = now;
        self.end_time = now.plus(self.rules.duration_ms);
        self.record(|seq, auction| opened_fact(seq, now, auction.end_time));
        true
    }

    /// The lowest amount that would be accepted now.
    #[must_use]
    pub fn minimum_bid(&self) -> Amount {
        match &self.leader {
            Some(leader) => leader.amount.plus(self.rules.increment),
            None => self.rules.starting_bid,
        }
    }

    /// Decides one bid at `time`. A refusal changes nothing.
    pub fn place(&mut self, bid: &BidRequest, time: Millis) -> Decision {
        let now = self.last_now.max(time);
        if let Some(earlier) = self.accepted.get(&bid.bid_id) {
            let same = earlier.user_id == bid.user_id && earlier.amount == bid.amount;
            return if same {
                Decision::Accepted { accepted: earlier.clone(), found: true }
            } else {
                self.refuse(Refusal::BidIdReused)
            };
        }
        match self.objection(bid, now) {
            Some(refusal) => self.refuse(refusal),
            None => Decision::Accepted { accepted: self.accept(bid, now), found: false },
        }
    }

    fn objection(&self, bid: &BidRequest, now: Millis) -> Option<Refusal> {
        match self.status {
            Status::Scheduled => return Some(Refusal::NotStarted),
            Status::Paused => return Some(Refusal::Paused),
            Status::Closed | Status::Cancelled => return Some(Refusal::Closed),
            Status::Live if now >= self.end_time => return Some(Refusal::Closed),
            Status::Live => {}
        }
        if bid.user_id == self.rules.host.user_id {
            return Some(Refusal::HostCannotBid);
        }
        if self.leader.as_ref().is_some_and(|leader| leader.user_id == bid.user_id) {
            return Some(Refusal::AlreadyLeading);
        }
        (bid.amount < self.minimum_bid()).then_some(Refusal::TooLow)
    }

    fn refuse(&self, refusal: Refusal) -> Decision {
        let high_bid = self.leader.as_ref().map(|leader| leader.amount);
        Decision::Refused { refusal, seq: self.seq, high_bid, minimum_bid: self.minimum_bid() }
    }

    fn accept(&mut self, bid: &BidRequest, now: Millis) -> Accepted {
        self.last_now = now;
        let moved = self.rules.anti_snipe.moved_end(now, self.end_time, self.extension_count);
        if let Some(end) = moved {
            self.end_time = end;
            self.extension_count += 1;
        }
        self.bid_count += 1;
        self.leader = Some(Leader { user_id: bid.user_id, username: bid.username.clone(), amount: bid.amount });
        self.record(|seq, _| {
            let BidRequest { bid_id, user_id, username, amount } = bid.clone();
            BidFact { seq, bid_id, user_id, username, amount, timestamp: now }.text()
        });
        let accepted = Accepted {
            user_id: bid.user_id,
            amount: bid.amount,
            seq: self.seq,
            timestamp: now,
            minimum_bid: self.minimum_bid(),
            end_time: self.end_time,
            extended: moved.is_some(),
            extension_count: self.extension_count,
        };
        self.accepted.insert(bid.bid_id, accepted.clone());
        accepted
    }

    /// Closes a live auction: when its end has passed, or at once when the host asks. False when
    /// there is nothing to close yet.
    pub fn close(&mut self, reason: CloseReason, by: Option<UserId>, time: Millis) -> bool {
        let now = self.not_before(time);
        let due = now >= self.end_time || reason == CloseReason::Host;
        if self.status != Status::Live || !due {
            return false;
        }
        let closing = Closing { time: now, reason, by, winner: self.leader.clone() };
        self.status = Status::Closed;
        self.last_now = now;
        self.record(|seq, _| closed_fact(seq, &closing));
        self.closing = Some(closing);
        true
    }

    /// Cancels an auction that is not over: nobody wins. False when it is over.
    pub fn cancel(&mut self, by: UserId, time: Millis) -> bool {
        let now = self.not_before(time);
        if self.status.is_over() {
            return false;
        }
        self.status = Status::Cancelled;
        self.record(|seq, _| cancelled_fact(seq, now, by));
        true
    }

    /// All bids accepted so far, by id: what a rebuilt Redis must know.
    pub fn accepted(&self) -> impl Iterator<Item = (&BidId, &Accepted)> {
        self.accepted.iter()
    }

    /// Never behind what has been seen, whatever the clock says.
    fn not_before(&self, time: Millis) -> Millis {
        self.last_now.max(time)
    }

    fn record(&mut self, fact: impl FnOnce(u64, &Self) -> String) {
        self.seq += 1;
        self.head = self.head.next(&fact(self.seq, self));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AntiSnipe, AntiSnipeMode, Host};
    use uuid::Uuid;

    const HOST: UserId = UserId::from_uuid(Uuid::from_u128(1));
    const ANNA: u128 = 2;
    const BEN: u128 = 3;

    /// Starts at 10.00 with steps of 1.00; opened at 0, ends at 60,000 ms.
    fn live(mode: AntiSnipeMode, max_extensions: u32) -> Auction {
        let cents = |cents| Amount::from_cents(cents).expect("an amount");
        let rules = Rules {
            host: Host { user_id: HOST, username: "host".to_owned() },
            starting_bid: cents(1_000),
            increment: cents(100),
            duration_ms: 60_000,
            anti_snipe: AntiSnipe { mode, window_ms: 30_000, extension_ms: 30_000, max_extensions },
        };
        let mut auction = Auction::create(AuctionId::from_uuid(Uuid::from_u128(9)), rules, Millis(0), Millis(0));
        assert!(auction.open(Millis(0)));
        auction
    }

    /// Name, bid id, user, cents, time, expected.
    type Step = (&'static str, u128, u128, u64, u64, Result<u64, Refusal>);

    fn bid(auction: &mut Auction, id: u128, user: u128, cents: u64, now: u64) -> Result<u64, Refusal> {
        let request = BidRequest {
            bid_id: BidId::from_uuid(Uuid::from_u128(id)),
            user_id: UserId::from_uuid(Uuid::from_u128(user)),
            username: format!("user-{user}"),
            amount: Amount::from_cents(cents).expect("an amount"),
        };
        match auction.place(&request, Millis(now)) {
            Decision::Accepted { accepted, .. } => Ok(accepted.seq),
            Decision::Refused { refusal, .. } => Err(refusal),
        }
    }

    #[test]
    fn bids_are_checked_in_order() {
        let auction = &mut live(AntiSnipeMode::Off, 0);
        let steps: [Step; 11] = [
            ("below the start", 1, ANNA, 999, 1, Err(Refusal::TooLow)),
            ("at the start", 1, ANNA, 1_000, 1, Ok(3)),
            ("the same again", 1, ANNA, 1_000, 2, Ok(3)),
            ("same id, other amount", 1, ANNA, 1_100, 2, Err(Refusal::BidIdReused)),
            ("same id, other person", 1, BEN, 1_000, 2, Err(Refusal::BidIdReused)),
            ("leader raises himself", 2, ANNA, 5_000, 2, Err(Refusal::AlreadyLeading)),
            ("a cent short of the increment", 3, BEN, 1_099, 2, Err(Refusal::TooLow)),
            ("refused ids are not remembered", 3, BEN, 1_100, 2, Ok(4)),
            ("the host", 4, 1, 9_000, 2, Err(Refusal::HostCannotBid)),
            ("at the end", 5, ANNA, 9_000, 60_000, Err(Refusal::Closed)),
            ("a found bid is found after the end", 3, BEN, 1_100, 60_000, Ok(4)),
        ];
        for (name, id, user, cents, now, expected) in steps {
            assert_eq!(bid(auction, id, user, cents, now), expected, "{name}");
        }
    }

    #[test]
    fn late_bids_extend_up_to_the_cap() {
        let auction = &mut live(AntiSnipeMode::Extend, 2);
        let ends =
            [(1_000, 30_000, 60_000), (2_000, 30_001, 90_000), (3_000, 89_999, 120_000), (4_000, 119_999, 120_000)];
        for (nth, (cents, now, end)) in (1u64..).zip(ends) {
            let user = if nth % 2 == 0 { ANNA } else { BEN };
            assert_eq!(bid(auction, u128::from(nth), user, cents, now), Ok(nth + 2));
            assert_eq!(auction.end_time, Millis(end), "after the bid at {now}");
        }
        assert_eq!(auction.extension_count, 2);
    }

    #[test]
    fn time_never_runs_backwards() {
        let auction = &mut live(AntiSnipeMode::Off, 0);
        assert_eq!(bid(auction, 1, ANNA, 1_000, 59_000), Ok(3));
        assert_eq!(bid(auction, 2, BEN, 2_000, 10), Ok(4));
        let stamps: Vec<u64> = auction.accepted().map(|(_, accepted)| accepted.timestamp.0).collect();
        assert_eq!(stamps, [59_000, 59_000]);

        // Nor behind the opening.
        let auction = &mut live(AntiSnipeMode::Off, 0);
        let mut later = Auction::create(auction.auction_id, auction.rules.clone(), Millis(0), Millis(0));
        assert!(later.open(Millis(5_000)));
        assert_eq!(bid(&mut later, 1, ANNA, 1_000, 4_000), Ok(3));
        assert_eq!(later.accepted().next().map(|(_, accepted)| accepted.timestamp), Some(Millis(5_000)));
    }

    #[test]
    fn closing_is_once_and_not_before_the_end() {
        let auction = &mut live(AntiSnipeMode::Off, 0);
        assert_eq!(bid(auction, 1, ANNA, 1_000, 1), Ok(3));
        assert!(!auction.close(CloseReason::Ended, None, Millis(59_999)));
        assert!(auction.close(CloseReason::Ended, None, Millis(60_000)));
        assert!(!auction.close(CloseReason::Host, Some(HOST), Millis(60_001)));
        let winner = auction.closing.as_ref().and_then(|closing| closing.winner.as_ref());
        assert_eq!(winner.map(|leader| leader.amount.cents()), Some(1_000));

        let unsold = &mut live(AntiSnipeMode::Off, 0);
        assert!(unsold.close(CloseReason::Host, Some(HOST), Millis(5)));
        assert_eq!(unsold.closing.as_ref().map(Closing::outcome), Some(Outcome::Unsold));
    }
}
