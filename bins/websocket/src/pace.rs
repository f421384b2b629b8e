//! The pace at which frames of a client are read: one allowance for all frames of a connection, and one that a person's
//! connections share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use admission::{Allowance, Rate};

/// Frames of one connection in a second besides its bids: pings, joins, chat.
const FRAMES_PER_SECOND: u32 = 100;
/// Seconds of frames that may come at once, as after a pause of the network.
const SECONDS_AT_ONCE: u32 = 4;
/// Connections of one person that may use their whole allowance at the same time.
const CONNECTIONS_AT_FULL_PACE: u32 = 2;
/// Time for which a client that sends too fast is only read more slowly. After it the connection is closed.
const SLOWED_FOR: Duration = Duration::from_secs(10);

/// The allowance of a connection that watches without a token: it joins, leaves and pings, and its client is known by
/// nothing but its address.
pub const OF_ANONYMOUS: Rate = Rate { at_once: 100, per_second: 10 };

/// The allowance of one connection: as many frames as a person may place bids, and some more.
pub fn of_connection(bids_per_second: u32) -> Rate {
    let per_second = bids_per_second.saturating_add(FRAMES_PER_SECOND);
    Rate { at_once: per_second.saturating_mul(SECONDS_AT_ONCE), per_second }
}

/// The allowance that all connections of a person share.
pub fn of_person(bids_per_second: u32) -> Rate {
    let Rate { at_once, per_second } = of_connection(bids_per_second);
    Rate {
        at_once: at_once.saturating_mul(CONNECTIONS_AT_FULL_PACE),
        per_second: per_second.saturating_mul(CONNECTIONS_AT_FULL_PACE),
    }
}

/// The client has sent too fast for too long.
#[derive(Debug, PartialEq, Eq)]
pub struct TooFast;

/// The pace of one connection.
pub struct Pace {
    own: Allowance,
    person: Arc<Mutex<Allowance>>,
    slowed_since: Option<Instant>,
}

impl Pace {
    /// A full allowance for the connection, and what is left of the person's.
    pub fn new(own: Rate, person: Arc<Mutex<Allowance>>) -> Self {
        Self { own: Allowance::new(own, Instant::now()), person, slowed_since: None }
    }

    /// Counts one frame. Returns the time to wait before the next one is read.
    ///
    /// # Errors
    /// When the connection must be closed.
    pub fn frame(&mut self, now: Instant) -> Result<Duration, TooFast> {
        let mut person = self.person.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.own.charge(now).max(person.charge(now));
        if self.own.has_recovered(now) && person.has_recovered(now) {
            self.slowed_since = None;
        }
        drop(person);
        if !wait.is_zero() {
            let since = *self.slowed_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= SLOWED_FOR {
                return Err(TooFast);
            }
        }
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { at_once: 20, per_second: 10 };

    fn shared(rate: Rate) -> Arc<Mutex<Allowance>> {
        Arc::new(Mutex::new(Allowance::new(rate, Instant::now())))
    }

    /// Sends without a pause of its own for this long; returns the number of frames, or when it was closed.
    fn flood(paces: &mut [Pace], from: Instant, during: Duration) -> Result<u32, Duration> {
        let mut next: Vec<Instant> = vec![from; paces.len()];
        let mut frames = 0;
        loop {
            let Some((nth, now)) = next.iter().copied().enumerate().min_by_key(|(_, at)| *at) else { return Ok(0) };
            if now >= from + during {
                return Ok(frames);
            }
            frames += 1;
            let wait = paces[nth].frame(now).map_err(|TooFast| now - from)?;
            next[nth] = now + wait.max(Duration::from_micros(10));
        }
    }

    #[test]
    fn flooding_connection_is_slowed_to_its_rate_and_then_closed() {
        let start = Instant::now();
        let mut paces = [Pace::new(RATE, shared(Rate { at_once: 1_000, per_second: 1_000 }))];
        let frames = flood(&mut paces, start, Duration::from_secs(5)).expect("not closed yet");
        assert!((69..=72).contains(&frames), "{frames}: 20 at once and 10 a second");
        let closed = flood(&mut paces, start + Duration::from_secs(5), Duration::from_secs(60)).expect_err("closed");
        assert!((4.9..6.0).contains(&closed.as_secs_f64()), "{closed:?}");
    }

    #[test]
    fn connections_of_a_person_share_one_allowance() {
        let person = shared(RATE);
        let mut paces: Vec<_> = (0..8).map(|_| Pace::new(RATE, Arc::clone(&person))).collect();
        let frames = flood(&mut paces, Instant::now(), Duration::from_secs(5)).expect("not closed yet");
        assert!((69..=80).contains(&frames), "{frames}: 20 at once and 10 a second, of eight connections");
    }

    #[test]
    fn steady_client_within_the_rate_is_never_slowed() {
        let mut pace = Pace::new(RATE, shared(RATE));
        let start = Instant::now();
        for nth in 0..1_000 {
            assert_eq!(pace.frame(start + nth * Duration::from_millis(100)), Ok(Duration::ZERO));
        }
    }

    #[test]
    fn short_bursts_do_not_add_up() {
        let mut pace = Pace::new(RATE, shared(RATE));
        let start = Instant::now();
        for burst in 0..20 {
            for _ in 0..22 {
                assert!(pace.frame(start + burst * Duration::from_secs(3)).is_ok());
            }
        }
    }
}
