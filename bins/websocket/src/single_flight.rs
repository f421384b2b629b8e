//! Single flight: of several bids that need the same thing, one has it done, and the others wait for the result.
//!
//! **The same amount.** Of the bids of one amount at most one can be accepted, so one is sent to bid-processing while the
//! others wait for its answer; once it is accepted, this edge rejects them itself, by the price. When a crowd presses the
//! same button, bid-processing gets one bid from each edge instead of one from each person.
//!
//! **The same reading.** A price that was only heard is confirmed by one reading of the log for all bids below it.
//!
//! A bid waits no longer than [`MAX_WAIT`] for another one, whatever becomes of that.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// Longest time for which a bid waits for another one. Answers and readings take milliseconds.
pub const MAX_WAIT: Duration = Duration::from_millis(100);

/// The flights under way, by what they are for; at most as many as the edge admits bids.
#[derive(Debug)]
pub struct SingleFlight<K>(Mutex<HashMap<K, CancellationToken>>);

/// A flight under way. Dropping it wakes all that wait for its end.
#[derive(Debug)]
pub struct Flight<K: Eq + Hash> {
    all: Arc<SingleFlight<K>>,
    key: K,
    _end: DropGuard,
}

/// The end of a flight.
pub type End = WaitForCancellationFutureOwned;

impl<K> Default for SingleFlight<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Copy + Eq + Hash> SingleFlight<K> {
    /// Begins a flight.
    ///
    /// # Errors
    /// When one is under way; returns its end.
    pub fn begin(self: &Arc<Self>, key: K) -> Result<Flight<K>, End> {
        match self.lock().entry(key) {
            Entry::Occupied(flight) => Err(flight.get().clone().cancelled_owned()),
            Entry::Vacant(place) => {
                let end = place.insert(CancellationToken::new()).clone().drop_guard();
                Ok(Flight { all: Arc::clone(self), key, _end: end })
            }
        }
    }
}

impl<K> SingleFlight<K> {
    /// A poisoned lock is still used: each change of the map is one call.
    fn lock(&self) -> MutexGuard<'_, HashMap<K, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Flight<K> {
    /// Another one may begin before the others wake.
    fn drop(&mut self) {
        self.all.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn others_wait_for_the_end_of_a_flight() {
        let flights = Arc::new(SingleFlight::default());
        let first = flights.begin(1).expect("none is under way");
        let mut waits = Box::pin(flights.begin(1).expect_err("one is under way"));
        let mut waits_too = Box::pin(flights.begin(1).expect_err("one is under way"));
        assert!(waits.as_mut().now_or_never().is_none() && waits_too.as_mut().now_or_never().is_none());
        drop(first);
        assert!(waits.now_or_never().is_some() && waits_too.now_or_never().is_some());
        let second = flights.begin(1);
        assert!(second.is_ok() && flights.begin(1).is_err());
        drop(second);
        assert!(flights.lock().is_empty());
    }

    #[test]
    fn flights_for_other_things_are_free() {
        let flights = Arc::new(SingleFlight::default());
        let first = flights.begin(1);
        assert!(first.is_ok() && flights.begin(2).is_ok() && flights.begin(1).is_err());
    }
}
