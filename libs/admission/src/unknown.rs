//! Auction ids that were asked for and do not exist.
//!
//! Answering from here costs a few bytes an id, where asking the log, Redis and PostgreSQL costs three requests.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::AuctionId;

/// Ids of one generation. Two are kept, so that memory stays below 2 MB.
const MAX_IDS: usize = 16_384;
/// Length of a generation. An id is remembered for one generation at least and for less than three. An auction that is
/// created during this time is known sooner where its creation is observed, see [`UnknownAuctions::forget`].
const GENERATION: Duration = Duration::from_secs(2);

/// A bounded set of ids that do not exist. Forgets each of them after a few seconds, and the oldest when it is full.
#[derive(Debug, Default)]
pub struct UnknownAuctions {
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    newest: HashSet<AuctionId>,
    older: HashSet<AuctionId>,
    /// When the newest generation began.
    since: Option<Instant>,
}

impl Generations {
    /// Begins a new generation if the newest is over by `now`, or full.
    fn rotate(&mut self, now: Instant) {
        let age = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if age >= GENERATION || self.newest.len() >= MAX_IDS {
            self.older = std::mem::take(&mut self.newest);
            self.since = Some(now);
        }
        if age >= 2 * GENERATION {
            self.older.clear();
        }
    }
}

impl UnknownAuctions {
    /// Whether this id was found not to exist a short time before `now`.
    pub fn contains(&self, auction_id: AuctionId, now: Instant) -> bool {
        let mut generations = self.lock();
        generations.rotate(now);
        generations.newest.contains(&auction_id) || generations.older.contains(&auction_id)
    }

    /// Notes at `now` that this id does not exist.
    pub fn insert(&self, auction_id: AuctionId, now: Instant) {
        let mut generations = self.lock();
        generations.rotate(now);
        generations.since.get_or_insert(now);
        generations.newest.insert(auction_id);
    }

    /// Notes that this id exists now.
    pub fn forget(&self, auction_id: AuctionId) {
        let mut generations = self.lock();
        generations.newest.remove(&auction_id);
        generations.older.remove(&auction_id);
    }

    /// A poisoned lock is still used: each change of a set is one call, so no panic leaves it half changed.
    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> AuctionId {
        AuctionId::from_uuid(uuid::Uuid::from_u128(number as u128))
    }

    #[test]
    fn id_is_remembered_for_seconds_and_forgotten_once_it_exists() {
        let (unknown, start) = (UnknownAuctions::default(), Instant::now());
        let at = |millis: u64| start + Duration::from_millis(millis);
        assert!(!unknown.contains(id(1), at(0)));
        unknown.insert(id(1), at(0));
        unknown.insert(id(2), at(0));
        assert!(unknown.contains(id(1), at(1_900)));
        unknown.forget(id(2));
        assert!(!unknown.contains(id(2), at(1_900)), "it was created");
        assert!(!unknown.contains(id(1), at(6_000)), "it is looked up again");
        unknown.insert(id(3), at(60_000));
        assert!(unknown.contains(id(3), at(60_000)));
        assert!(!unknown.contains(id(3), at(600_000)));
    }

    #[test]
    fn memory_is_bounded_and_the_newest_ids_stay() {
        let (unknown, now) = (UnknownAuctions::default(), Instant::now());
        for number in 0..10 * MAX_IDS {
            unknown.insert(id(number), now);
        }
        let generations = unknown.lock();
        assert!(generations.newest.len() <= MAX_IDS && generations.older.len() <= MAX_IDS);
        drop(generations);
        assert!(unknown.contains(id(10 * MAX_IDS - 1), now));
        assert!(!unknown.contains(id(0), now));
    }
}
