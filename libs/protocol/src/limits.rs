//! How many bids one process takes, and how many of those by one person: bid-processing and the edges alike.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use domain::UserId;

use crate::Code;

/// SPEC 3: "by default 200 bids a second" a person.
pub const DEFAULT_BIDS_PER_SECOND: u32 = 200;
/// SPEC 3: 32 in flight a person.
const MAX_IN_FLIGHT: u32 = 32;
/// Bids in flight in one process. At the thousands a second that it decides this is a fraction of a second
/// of work; below the requests that one subject works on at once (4,096), so that there is always room to
/// say no.
const MAX_IN_FLIGHT_OF_ALL: u32 = 4_000;
/// People remembered; those with nothing in flight and a full allowance are forgotten first.
const MAX_PEOPLE: usize = 100_000;

struct Allowance {
    bids: f64,
    refilled: Instant,
    in_flight: u32,
}

#[derive(Clone)]
pub struct Limits {
    per_second: f64,
    bids: Arc<Mutex<Bids>>,
}

#[derive(Default)]
struct Bids {
    in_flight: u32,
    people: HashMap<UserId, Allowance>,
}

/// One bid in flight; dropping it frees the place.
pub struct InFlight {
    limits: Limits,
    user_id: UserId,
}

impl Limits {
    pub fn new(per_second: u32) -> Self {
        Self { per_second: f64::from(per_second.max(1)), bids: Arc::default() }
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
            people.retain(|_, allowance| allowance.in_flight > 0 || self.refilled(allowance, now) < self.per_second);
        }
        let fresh = Allowance { bids: self.per_second, refilled: now, in_flight: 0 };
        let allowance = people.entry(user_id).or_insert(fresh);
        allowance.bids = self.refilled(allowance, now);
        allowance.refilled = now;
        if allowance.in_flight >= MAX_IN_FLIGHT || allowance.bids < 1.0 {
            return Err(Code::RateLimited);
        }
        allowance.bids -= 1.0;
        allowance.in_flight += 1;
        bids.in_flight += 1;
        drop(bids);
        Ok(InFlight { limits: self.clone(), user_id })
    }

    fn refilled(&self, allowance: &Allowance, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(allowance.refilled).as_secs_f64();
        seconds.mul_add(self.per_second, allowance.bids).min(self.per_second)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bids> {
        self.bids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut bids = self.limits.lock();
        bids.in_flight -= 1;
        if let Some(allowance) = bids.people.get_mut(&self.user_id) {
            allowance.in_flight -= 1;
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
