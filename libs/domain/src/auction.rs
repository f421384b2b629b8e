//! One auction from creation to hammer, decided bid by bid.

use std::collections::HashMap;

use crate::chain::{BidFact, Head, cancelled_fact, closed_fact, created_fact, opened_fact, started_fact};
use crate::prebids::Prebid;
use crate::{
    Accepted, Amount, AuctionId, BidId, CloseReason, Maximum, Millis, Outcome, Rules, Secrets, Status, UserId,
};

/// The person with the highest accepted bid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The person.
    pub user_id: UserId,
    /// The name that others see.
    pub username: String,
    /// The highest bid.
    pub amount: Amount,
}

/// How an auction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// When it closed.
    pub time: Millis,
    /// Why it closed.
    pub reason: CloseReason,
    /// The host, if the host closed it.
    pub by: Option<UserId>,
    /// The leader at that moment; None if the highest bid is below the reserve.
    pub winner: Option<Leader>,
}

impl Closing {
    /// Sold if there is a winner.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        if self.winner.is_some() { Outcome::Sold } else { Outcome::Unsold }
    }
}

/// One auction and all its accepted bids.
#[derive(Debug, Clone)]
pub struct Auction {
    /// Which auction.
    pub auction_id: AuctionId,
    /// The rules that the host fixed.
    pub rules: Rules,
    /// Where it is in its life.
    pub status: Status,
    /// The number of its latest fact.
    pub seq: u64,
    /// The chain after that fact.
    pub head: Head,
    /// The earliest time at which it may be opened. An auction that follows another has [`Millis::NOT_YET`], and then the
    /// time at which it was opened.
    pub starts_at: Millis,
    /// The time from which bids are refused. Before the opening it is `starts_at` plus the duration, and the opening
    /// moves it.
    pub end_time: Millis,
    /// How often late bids have moved the end.
    pub extension_count: u32,
    /// Accepted bids, counter-bids included.
    pub bid_count: u64,
    /// The person with the highest bid.
    pub leader: Option<Leader>,
    /// How far the auction bids for the leader, if the leader has said so.
    pub maximum: Option<Maximum>,
    /// Accepted calls; None while they are as many as the bids because nothing in the auction is secret.
    pub answers: Option<u64>,
    /// The bids that are kept until the opening, one a person, in the order in which they were set.
    pub prebids: Vec<Prebid>,
    /// The counter-bid to the latest bid, if a maximum answered it.
    pub counter: Option<BidFact>,
    /// How often it was given more time because bids could not be decided before its end.
    pub recoveries: u32,
    /// How often the host has paused it.
    pub pauses: u32,
    /// While it is paused: milliseconds until the end once it is resumed.
    pub remaining_ms: Option<u64>,
    /// People whose bids the host refuses, in the order in which they were blocked. None before the first.
    pub blocked: Option<Vec<UserId>>,
    /// How it closed. None while it is not closed, and if it was cancelled.
    pub closing: Option<Closing>,
    /// The latest time seen. Time never runs backwards for an auction, whatever the clock does.
    pub(crate) last_now: Millis,
    pub(crate) accepted: HashMap<BidId, Accepted>,
}

impl Auction {
    /// Creates an auction, scheduled for `starts_at`, or for the end of the one that it follows. `time` is now.
    #[must_use]
    pub fn create(auction_id: AuctionId, rules: Rules, starts_at: Millis, time: Millis) -> Self {
        let starts_at = if rules.follows.is_some() { Millis::NOT_YET } else { starts_at };
        let reserve = rules.reserve.as_ref().map(|reserve| &reserve.sealed);
        let head = Head::GENESIS.next(&created_fact(auction_id, &rules, reserve, starts_at, time));
        let answers = (reserve.is_some() || rules.allow_prebids).then_some(0);
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
            maximum: None,
            answers,
            prebids: Vec::new(),
            counter: None,
            recoveries: 0,
            pauses: 0,
            remaining_ms: None,
            blocked: None,
            closing: None,
            last_now: time,
            accepted: HashMap::new(),
        }
    }

    /// Opens a scheduled auction whose start has come, after its pre-bids were bid; its duration counts from now. False
    /// if it is not scheduled, the start has not come, or it follows another auction. A caller closes it if the pre-bids
    /// have bought.
    pub fn open(&mut self, time: Millis) -> bool {
        let now = self.not_before(time);
        if self.status != Status::Scheduled || self.rules.follows.is_some() || now < self.starts_at {
            return false;
        }
        self.open_at(now, None);
        true
    }

    /// The same for an auction that follows another, whose opening is `due` since that one ended. False also if it
    /// follows none.
    pub fn open_follower(&mut self, due: Millis, time: Millis) -> bool {
        let now = self.not_before(time);
        if self.status != Status::Scheduled || self.rules.follows.is_none() || now < due {
            return false;
        }
        self.open_at(now, None);
        true
    }

    /// Opens the auction now, for its host if the host asks.
    pub(crate) fn open_at(&mut self, now: Millis, by: Option<UserId>) {
        drop(self.bid_prebids(now));
        if self.rules.follows.is_some() {
            self.starts_at = now;
        }
        self.status = Status::Live;
        self.last_now = now;
        self.end_time = now.plus(self.rules.duration_ms);
        self.record(|seq, auction| match by {
            Some(by) => started_fact(seq, now, auction.end_time, by),
            None => opened_fact(seq, now, auction.end_time),
        });
    }

    /// The lowest amount that would be accepted now.
    #[must_use]
    pub fn minimum_bid(&self) -> Amount {
        match &self.leader {
            Some(leader) => self.rules.capped(leader.amount.plus(self.rules.increments.step(leader.amount))),
            None => self.rules.starting_bid,
        }
    }

    /// Whether the highest bid has reached the reserve; without a reserve, whether there is a bid.
    #[must_use]
    pub fn reserve_met(&self) -> bool {
        let reserve = self.rules.reserve.as_ref().map(|reserve| reserve.amount);
        self.leader.as_ref().is_some_and(|leader| reserve.is_none_or(|reserve| leader.amount >= reserve))
    }

    /// The state that only the bidder or the host may see. None if the auction has nothing secret.
    #[must_use]
    pub fn secrets(&self) -> Option<Secrets> {
        let (reserve, maximum) = (self.rules.reserve.clone(), self.maximum.clone());
        self.answers.map(|answers| Secrets { reserve, maximum, prebid: self.latest_prebid(), answers })
    }

    /// Whether a bid has reached the buy-now price: the auction takes no more bids and is closed at once.
    #[must_use]
    pub fn is_bought(&self) -> bool {
        self.leader.as_ref().is_some_and(|leader| self.rules.buys(leader.amount))
    }

    /// Closes a live auction: when its end has passed, after a bid at the buy-now price, or at once for the host, who may
    /// also close a paused one. Below the reserve there is no winner. Returns false if it is in no such state.
    pub fn close(&mut self, reason: CloseReason, by: Option<UserId>, time: Millis) -> bool {
        let now = self.not_before(time);
        let due = match reason {
            CloseReason::Ended => now >= self.end_time,
            CloseReason::Host => true,
            CloseReason::BuyNow => self.is_bought(),
            // A reason of cancellations alone.
            CloseReason::Restored => false,
        };
        let by_host_while_paused = self.status == Status::Paused && reason == CloseReason::Host;
        if !due || (self.status != Status::Live && !by_host_while_paused) {
            return false;
        }
        let closing = Closing { time: now, reason, by, winner: self.leader.clone().filter(|_| self.reserve_met()) };
        self.status = Status::Closed;
        self.last_now = now;
        self.record(|seq, _| closed_fact(seq, &closing));
        self.closing = Some(closing);
        true
    }

    /// Cancels an auction that is not over: there is no winner. False if it is over.
    pub fn cancel(&mut self, by: UserId, time: Millis) -> bool {
        let now = self.not_before(time);
        if self.status.is_over() {
            return false;
        }
        self.status = Status::Cancelled;
        self.record(|seq, _| cancelled_fact(seq, now, by));
        true
    }

    /// The answers to all accepted bids, by bid id: a rebuilt Redis must have them.
    pub fn accepted(&self) -> impl ExactSizeIterator<Item = (&BidId, &Accepted)> {
        self.accepted.iter()
    }

    /// Removes the answers to the bids accepted so far. A replay of a long log passes them on, and does not keep them.
    pub fn take_accepted(&mut self) -> HashMap<BidId, Accepted> {
        std::mem::take(&mut self.accepted)
    }

    /// The time of the latest fact, or a later one.
    #[must_use]
    pub const fn last_now(&self) -> Millis {
        self.last_now
    }

    /// `time`, but never before the latest time seen.
    pub(crate) fn not_before(&self, time: Millis) -> Millis {
        self.last_now.max(time)
    }

    pub(crate) fn record(&mut self, fact: impl FnOnce(u64, &Self) -> String) {
        self.seq += 1;
        self.head = self.head.next(&fact(self.seq, self));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AntiSnipe, AntiSnipeMode, BidRequest, Decision, Host, Ladder, Refusal};
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
            increments: Ladder::flat(cents(100)),
            duration_ms: 60_000,
            anti_snipe: AntiSnipe { mode, window_ms: 30_000, extension_ms: 30_000, max_extensions },
            allow_self_raise: false,
            buy_now: None,
            reserve: None,
            allow_prebids: false,
            follows: None,
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
            offer: Amount::from_cents(cents).expect("an amount").into(),
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
            ("the leader again", 2, ANNA, 5_000, 2, Err(Refusal::AlreadyLeading)),
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

        // A bid is not stamped earlier than the opening either.
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
