//! Limits of one process: bids in flight, and bids of one person in a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use domain::UserId;

use protocol::Code;

/// Bids of one person in a second. CONTRACT.md, Rate limits.
pub const DEFAULT_BIDS_PER_SECOND: u32 = 200;
/// Bids of one person in flight at once. CONTRACT.md, Rate limits.
const MAX_IN_FLIGHT: u32 = 32;
/// Bids in flight in one process. A process decides thousands a second, so this is a fraction of a second of work. It
/// is below the number of requests that one NATS subject serves at once (4,096), so that there is always room to reject
/// one.
const MAX_IN_FLIGHT_OF_ALL: u32 = 4_000;
/// People remembered. A bound on memory; people with nothing in flight and a full allowance are forgotten first.
const MAX_PEOPLE: usize = 100_000;

/// A limit on how often something may happen.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Events allowed at once.
    pub at_once: u32,
    /// Events allowed again each second afterwards.
    pub per_second: u32,
}

/// The part of a [`Rate`] that is left.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    rate: Rate,
    left: f64,
    refilled: Instant,
}

impl Allowance {
    /// A full allowance.
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, left: rate.at_once.into(), refilled: now }
    }

    /// Takes one event from the allowance. False if none is left.
    pub fn take(&mut self, now: Instant) -> bool {
        self.left = self.left_at(now);
        self.refilled = self.refilled.max(now);
        let taken = self.left >= 1.0;
        self.left -= f64::from(u8::from(taken));
        taken
    }

    /// Whether one event is left.
    #[must_use]
    pub fn has_left(&self, now: Instant) -> bool {
        self.left_at(now) >= 1.0
    }

    /// Takes one event even if none is left. Returns the time until the debt is paid off.
    pub fn charge(&mut self, now: Instant) -> Duration {
        self.left = self.left_at(now) - 1.0;
        self.refilled = self.refilled.max(now);
        let seconds = -self.left / f64::from(self.rate.per_second);
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }

    /// Whether at least half of the allowance is left.
    #[must_use]
    pub fn has_recovered(&self, now: Instant) -> bool {
        self.left_at(now) * 2.0 >= f64::from(self.rate.at_once)
    }

    fn left_at(&self, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.refilled).as_secs_f64();
        seconds.mul_add(self.rate.per_second.into(), self.left).min(self.rate.at_once.into())
    }

    fn is_full(&self, now: Instant) -> bool {
        self.left_at(now) >= f64::from(self.rate.at_once)
    }
}

struct Bidder {
    bids: Allowance,
    in_flight: u32,
}

/// The limits of one process. Every clone counts the same bids.
#[derive(Clone)]
pub struct Limits {
    rate: Rate,
    bids: Arc<Mutex<Bids>>,
}

#[derive(Default)]
struct Bids {
    in_flight: u32,
    people: HashMap<UserId, Bidder>,
}

/// One bid in flight. Dropping it frees its place.
pub struct InFlight {
    limits: Limits,
    user_id: UserId,
}

impl Limits {
    /// Limits that allow each person `per_second` bids a second, at least one.
    pub fn new(per_second: u32) -> Self {
        let per_second = per_second.max(1);
        Self { rate: Rate { at_once: per_second, per_second }, bids: Arc::default() }
    }

    /// Reserves a place for one bid of this person.
    ///
    /// # Errors
    /// `rate_limited` if the person exceeds a limit, `overloaded` if the process has no place left.
    pub fn admit(&self, user_id: UserId, now: Instant) -> Result<InFlight, Code> {
        let mut bids = self.lock();
        if bids.in_flight >= MAX_IN_FLIGHT_OF_ALL {
            return Err(Code::Overloaded);
        }
        let people = &mut bids.people;
        if people.len() >= MAX_PEOPLE {
            people.retain(|_, bidder| bidder.in_flight > 0 || !bidder.bids.is_full(now));
        }
        let fresh = || Bidder { bids: Allowance::new(self.rate, now), in_flight: 0 };
        let bidder = people.entry(user_id).or_insert_with(fresh);
        if bidder.in_flight >= MAX_IN_FLIGHT || !bidder.bids.take(now) {
            return Err(Code::RateLimited);
        }
        bidder.in_flight += 1;
        bids.in_flight += 1;
        drop(bids);
        Ok(InFlight { limits: self.clone(), user_id })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bids> {
        self.bids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut bids = self.limits.lock();
        bids.in_flight -= 1;
        if let Some(bidder) = bids.people.get_mut(&self.user_id) {
            bidder.in_flight -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_person_is_limited_in_rate_and_in_flight() {
        let user = UserId::from_uuid(uuid::Uuid::from_u128(1));
        let other = UserId::from_uuid(uuid::Uuid::from_u128(2));
        let now = Instant::now();
        let limits = Limits::new(40);
        let held: Vec<_> = (0..32).map(|_| limits.admit(user, now)).collect();
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(limits.admit(user, now).err(), Some(Code::RateLimited), "33rd bid in flight");
        drop(held);
        let rest = (0..32).filter(|_| limits.admit(user, now).is_ok()).count();
        assert_eq!(rest, 8, "rest of 40 a second");
        assert!(limits.admit(other, now).is_ok(), "another person");
        assert!(limits.admit(user, now + Duration::from_millis(100)).is_ok(), "100 ms later");
    }

    #[test]
    fn bids_in_flight_of_one_process_are_limited() {
        let limits = Limits::new(200);
        let now = Instant::now();
        let user = |nth: u32| UserId::from_uuid(uuid::Uuid::from_u128(u128::from(nth / MAX_IN_FLIGHT)));
        let mut held: Vec<_> = (0..MAX_IN_FLIGHT_OF_ALL).map(|nth| limits.admit(user(nth), now)).collect();
        assert!(held.iter().all(Result::is_ok));
        let next = user(MAX_IN_FLIGHT_OF_ALL);
        assert_eq!(limits.admit(next, now).err(), Some(Code::Overloaded));
        held.pop();
        assert!(limits.admit(next, now).is_ok(), "a place is free again");
    }
}
