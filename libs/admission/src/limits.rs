//! How many bids one process takes, and how many of those by one person: bid-processing and the edges alike.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use domain::UserId;

use protocol::Code;

/// Bids of one person in a second. CONTRACT.md, Rate limits.
pub const DEFAULT_BIDS_PER_SECOND: u32 = 200;
/// Bids of one person in flight. CONTRACT.md, Rate limits.
const MAX_IN_FLIGHT: u32 = 32;
/// Bids in flight in one process. At the thousands a second that it decides this is a fraction of a second
/// of work; below the requests that one subject works on at once (4,096), so that there is always room to
/// say no.
const MAX_IN_FLIGHT_OF_ALL: u32 = 4_000;
/// People remembered; those with nothing in flight and a full allowance are forgotten first.
const MAX_PEOPLE: usize = 100_000;

/// So many at once, and so many a second again afterwards.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    pub at_once: u32,
    pub per_second: u32,
}

/// What is left of a [`Rate`].
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    rate: Rate,
    left: f64,
    refilled: Instant,
}

impl Allowance {
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, left: rate.at_once.into(), refilled: now }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.left = self.left_at(now);
        self.refilled = self.refilled.max(now);
        let taken = self.left >= 1.0;
        self.left -= f64::from(u8::from(taken));
        taken
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

/// One bid in flight; dropping it frees the place.
pub struct InFlight {
    limits: Limits,
    user_id: UserId,
}

impl Limits {
    pub fn new(per_second: u32) -> Self {
        let per_second = per_second.max(1);
        Self { rate: Rate { at_once: per_second, per_second }, bids: Arc::default() }
    }

    /// A place for one bid of this person.
    ///
    /// # Errors
    /// `rate_limited` if the person asks too much, `overloaded` if all together do.
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
    use std::time::Duration;

    #[test]
    fn a_person_gets_a_rate_and_places_in_flight() {
        let user = UserId::from_uuid(uuid::Uuid::from_u128(1));
        let other = UserId::from_uuid(uuid::Uuid::from_u128(2));
        let now = Instant::now();
        let limits = Limits::new(40);
        let held: Vec<_> = (0..32).map(|_| limits.admit(user, now)).collect();
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(limits.admit(user, now).err(), Some(Code::RateLimited), "the 33rd in flight");
        drop(held);
        let rest = (0..32).filter(|_| limits.admit(user, now).is_ok()).count();
        assert_eq!(rest, 8, "what is left of 40 a second");
        assert!(limits.admit(other, now).is_ok(), "somebody else");
        assert!(limits.admit(user, now + Duration::from_millis(100)).is_ok(), "a little later");
    }

    #[test]
    fn an_instance_has_so_many_places() {
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
