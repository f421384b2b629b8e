//! Accepted bids of each person, counted from committed records.
//!
//! Every instance of bid-processing hears the records of all instances, so each counts the same bids, whichever door and
//! instance they came through, and no bid waits for a count. An instance counts from its start. A bid is counted when its
//! record arrives, so that a person may exceed a limit by the bids that are in flight at that moment.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use domain::{BidId, BidKind, UserId};
use protocol::{Code, Failure, Record, RecordKind};

use crate::{Allowance, Rate};

/// Accepted bids of one person in a day. With records of 3 KB, the longest with one bid, two people who outbid each
/// other all day fill 3.6 GB of the log's 4 GiB in the 30 days that it is kept.
pub const DEFAULT_BIDS_PER_DAY: u32 = 20_000;
/// People whose bids are counted. A bound on memory, some 10 MB; those with the fewest bids are forgotten first.
const MAX_PEOPLE: usize = 100_000;
/// Last bids of a day that may be sent again when the day's bids are used up: as many as a person has in flight at two
/// instances.
const REPEATABLE: u32 = 64;
/// Milliseconds of a day. Days begin at midnight UTC, by the clock of auctions.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

struct Bidder {
    /// Bids that are left of this second.
    second: Allowance,
    /// The day of the newest bid, and the bids of that day.
    day: u64,
    bids: u32,
    /// The last bids of the day, once it is nearly used up. Sent again they are found, not accepted a second time.
    last: VecDeque<BidId>,
}

/// Counts the accepted bids of each person. Every clone counts the same bids.
#[derive(Clone)]
pub struct AcceptedBids {
    rate: Rate,
    per_day: u32,
    people: Arc<Mutex<HashMap<UserId, Bidder>>>,
}

impl AcceptedBids {
    /// Allows each person this many accepted bids a second, and as many at once, and this many a day.
    #[must_use]
    pub fn new(per_second: u32, per_day: u32) -> Self {
        let per_second = per_second.max(1);
        Self { rate: Rate { at_once: per_second, per_second }, per_day, people: Arc::default() }
    }

    /// Counts the calls in a committed record that was heard at `now`: its bids, and a change of a maximum or a pre-bid.
    /// Bids that the auction makes by itself are no calls.
    pub fn note(&self, record: &Record, now: Instant) {
        let changed = record.by.filter(|_| record.kind == RecordKind::Maximum).zip(record.bid_ids().next());
        let changed = changed.map(|(user_id, bid_id)| (user_id, bid_id, record.time));
        let placed = record.bids.iter().filter(|bid| bid.kind != BidKind::Proxy && bid.kind != BidKind::Prebid);
        let placed = placed.map(|bid| (bid.user_id, bid.bid_id, bid.timestamp));
        self.count(changed.into_iter().chain(placed), now);
    }

    fn count(&self, calls: impl Iterator<Item = (UserId, BidId, u64)>, now: Instant) {
        let mut people = self.lock();
        for (user_id, bid_id, time) in calls {
            let day = time / DAY_MS;
            if people.len() >= MAX_PEOPLE && !people.contains_key(&user_id) {
                people.retain(|_, bidder| bidder.day >= day && bidder.bids > self.per_day / 2);
            }
            let fresh = || Bidder { second: Allowance::new(self.rate, now), day, bids: 0, last: VecDeque::new() };
            let bidder = people.entry(user_id).or_insert_with(fresh);
            if day > bidder.day {
                (bidder.day, bidder.bids) = (day, 0);
                bidder.last = VecDeque::new();
            }
            bidder.bids = bidder.bids.saturating_add(1);
            if bidder.bids > self.per_day.saturating_sub(REPEATABLE) {
                if bidder.last.len() >= 2 * REPEATABLE as usize {
                    bidder.last.pop_front();
                }
                bidder.last.push_back(bid_id);
            }
            // Bids in flight may have overdrawn it.
            bidder.second.charge(now);
        }
    }

    /// Whether a bid of this person may be accepted. `time` is the clock of auctions, in milliseconds.
    ///
    /// # Errors
    /// `limit_exceeded` if the day's bids are used up, `rate_limited` if those of this second are.
    pub fn admit(&self, user_id: UserId, bid_id: BidId, time: u64, now: Instant) -> Result<(), Failure> {
        let people = self.lock();
        let Some(bidder) = people.get(&user_id) else { return Ok(()) };
        let is_used_up = bidder.day >= time / DAY_MS && bidder.bids >= self.per_day;
        if is_used_up && !bidder.last.contains(&bid_id) {
            let bids = self.per_day;
            let error = format!("You have placed {bids} bids today, the most that one person may place in a day (UTC)");
            return Err(Failure::new(Code::LimitExceeded, error));
        }
        if bidder.second.has_left(now) { Ok(()) } else { Err(Code::RateLimited.into()) }
    }

    /// A poisoned lock is still used: no change under it is left half done.
    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, Bidder>> {
        self.people.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn bids(user: u128, time: u64, count: usize) -> impl Iterator<Item = (UserId, BidId, u64)> {
        std::iter::repeat_n((person(user), id(1), time), count)
    }

    fn person(number: u128) -> UserId {
        UserId::from_uuid(uuid::Uuid::from_u128(number))
    }

    fn id(number: u128) -> BidId {
        BidId::from_uuid(uuid::Uuid::from_u128(number))
    }

    fn code(accepted: &AcceptedBids, user: u128, time: u64, now: Instant) -> Option<Code> {
        accepted.admit(person(user), id(2), time, now).err().map(|failure| failure.code)
    }

    #[test]
    fn bids_of_a_second_and_of_a_day_are_limited_together() {
        let (accepted, start) = (AcceptedBids::new(10, 25), Instant::now());
        let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
        let noon = DAY_MS * 20_000 + DAY_MS / 2;
        accepted.count(bids(1, noon, 9), start);
        assert_eq!(code(&accepted, 1, noon, start), None);
        accepted.count(bids(1, noon, 3), start);
        assert_eq!(code(&accepted, 1, noon, start), Some(Code::RateLimited), "12 of 10");
        assert_eq!(code(&accepted, 2, noon, start), None, "another person");
        assert_eq!(code(&accepted, 1, noon, at(200)), Some(Code::RateLimited), "the debt is paid off first");
        assert_eq!(code(&accepted, 1, noon, at(400)), None);
        accepted.count(bids(1, noon, 13), at(10_000));
        assert_eq!(code(&accepted, 1, noon, at(20_000)), Some(Code::LimitExceeded), "25 of 25");
        assert!(accepted.admit(person(1), id(1), noon, at(20_000)).is_ok(), "an accepted bid is sent again");
        assert_eq!(code(&accepted, 1, noon + DAY_MS, at(20_000)), None, "the next day");
        accepted.count(bids(1, noon + DAY_MS, 1), at(20_000));
        assert_eq!(code(&accepted, 1, noon + DAY_MS, at(20_000)), None);
    }

    #[test]
    fn newest_bids_of_a_used_up_day_may_be_sent_again() {
        let (accepted, now) = (AcceptedBids::new(1_000, 25), Instant::now());
        for number in 1..=300 {
            accepted.count([(person(1), id(number), DAY_MS)].into_iter(), now);
        }
        let is_admitted = |number| accepted.admit(person(1), id(number), DAY_MS, now).is_ok();
        assert!(is_admitted(300) && is_admitted(300 - 127) && !is_admitted(300 - 128));
    }

    #[test]
    fn people_with_the_fewest_bids_are_forgotten_first() {
        let (accepted, now) = (AcceptedBids::new(10, 3), Instant::now());
        accepted.count(bids(0, DAY_MS, 3), now);
        for user in 1..=MAX_PEOPLE {
            accepted.count(bids(user as u128, DAY_MS, 1), now);
        }
        assert!(accepted.lock().len() <= MAX_PEOPLE);
        assert_eq!(code(&accepted, 0, DAY_MS, now), Some(Code::LimitExceeded));
    }
}
