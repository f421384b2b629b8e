//! How much one person may ask of us.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use domain::UserId;
use tokio::time::Instant;

/// SPEC 3: 32 in flight a person.
const MAX_IN_FLIGHT: u32 = 32;
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
    people: Arc<Mutex<HashMap<UserId, Allowance>>>,
}

/// One bid in flight; dropping it frees the place.
pub struct InFlight {
    limits: Limits,
    user_id: UserId,
}

impl Limits {
    pub fn new(per_second: u32) -> Self {
        Self { per_second: f64::from(per_second.max(1)), people: Arc::default() }
    }

    /// A place for one bid of this person, or None: too many.
    pub fn admit(&self, user_id: UserId, now: Instant) -> Option<InFlight> {
        let mut people = self.lock();
        if people.len() >= MAX_PEOPLE {
            people.retain(|_, allowance| allowance.in_flight > 0 || self.refilled(allowance, now) < self.per_second);
        }
        let fresh = Allowance { bids: self.per_second, refilled: now, in_flight: 0 };
        let allowance = people.entry(user_id).or_insert(fresh);
        allowance.bids = self.refilled(allowance, now);
        allowance.refilled = now;
        if allowance.in_flight >= MAX_IN_FLIGHT || allowance.bids < 1.0 {
            return None;
        }
        allowance.bids -= 1.0;
        allowance.in_flight += 1;
        drop(people);
        Some(InFlight { limits: self.clone(), user_id })
    }

    fn refilled(&self, allowance: &Allowance, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(allowance.refilled).as_secs_f64();
        seconds.mul_add(self.per_second, allowance.bids).min(self.per_second)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<UserId, Allowance>> {
        self.people.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(allowance) = self.limits.lock().get_mut(&self.user_id) {
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
        assert!(held.iter().all(Option::is_some));
        assert!(limits.admit(user, now).is_none(), "the 33rd in flight");
        drop(held);
        let rest = (0..32).filter(|_| limits.admit(user, now).is_some()).count();
        assert_eq!(rest, 8, "what is left of 40 a second");
        assert!(limits.admit(other, now).is_some(), "somebody else");
        assert!(limits.admit(user, now + Duration::from_millis(100)).is_some(), "a little later");
    }
}
