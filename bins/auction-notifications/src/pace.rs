//! The rate at which SES takes mails. It is not known beforehand, and the account's quota changes: so mails go out freely
//! until SES throttles, then at half the rate, and faster again with each mail that is accepted.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Interval between mails after the first throttling; each further one doubles it.
const FIRST_INTERVAL: Duration = Duration::from_millis(50);
/// Longest interval, so that mails go out soon after a used-up daily quota is renewed. The slowest account of SES sends a
/// mail a second.
const MAX_INTERVAL: Duration = Duration::from_secs(10);
/// An interval below this counts as none.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// Spaces out the mails of one instance.
#[derive(Default)]
pub struct Pace {
    state: Mutex<State>,
    waiting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    interval: Duration,
    /// The next free turn.
    next: Option<Instant>,
    /// The last time that the pace was halved.
    slowed_at: Option<Instant>,
}

impl Pace {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Each change is whole, so a poisoned lock is still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next turn, and returns its time. One mail waits at a time and the others behind it, so that turns are
    /// given at the pace that holds when they come.
    pub async fn turn(&self) -> Instant {
        let _first = self.waiting.lock().await;
        loop {
            let now = Instant::now();
            let next = {
                let mut state = self.state();
                match state.next {
                    Some(next) if next > now => next,
                    _ => {
                        state.next = Some(now + state.interval);
                        return now;
                    }
                }
            };
            tokio::time::sleep_until(next).await;
        }
    }

    /// SES took a mail.
    pub fn accepted(&self) {
        let mut state = self.state();
        let interval = state.interval * 7 / 8;
        state.interval = if interval < MIN_INTERVAL { Duration::ZERO } else { interval };
    }

    /// SES throttled the mail of this turn. Mails that were under way when the pace was last halved do not halve it again.
    pub fn throttled(&self, turn: Instant) {
        let mut state = self.state();
        if state.slowed_at.is_some_and(|slowed_at| turn <= slowed_at) {
            return;
        }
        let now = Instant::now();
        state.interval = (state.interval * 2).clamp(FIRST_INTERVAL, MAX_INTERVAL);
        state.slowed_at = Some(now);
        state.next = Some(now + state.interval);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::{StreamExt, stream};

    use super::*;

    /// Seconds in which `mails` mails, eight at once, pass an account that takes one in `every`, and how many were throttled.
    async fn send(mails: usize, every: Duration) -> (u64, usize) {
        let (pace, free_at, throttled) = (Pace::default(), Mutex::new(Instant::now()), AtomicUsize::new(0));
        let started = Instant::now();
        let (pace, free_at, counted) = (&pace, &free_at, &throttled);
        let send = |_| async move {
            loop {
                let turn = pace.turn().await;
                // The answer takes some time.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let accepted = {
                    let mut free_at = free_at.lock().unwrap();
                    let accepted = Instant::now() >= *free_at;
                    if accepted {
                        *free_at = Instant::now() + every;
                    }
                    accepted
                };
                if accepted {
                    return pace.accepted();
                }
                counted.fetch_add(1, Ordering::Relaxed);
                pace.throttled(turn);
            }
        };
        stream::iter(0..mails).map(send).buffer_unordered(8).collect::<Vec<()>>().await;
        (started.elapsed().as_secs(), throttled.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn pace_follows_the_rate_of_the_account() {
        assert_eq!(send(1_000, Duration::ZERO).await, (2, 0));
        let (seconds, throttled) = send(60, Duration::from_secs(1)).await;
        assert!((59..=150).contains(&seconds) && throttled <= 60, "{seconds} s, {throttled} throttled");
    }

    #[tokio::test(start_paused = true)]
    async fn mails_under_way_together_halve_the_pace_once() {
        let pace = Pace::default();
        let turns = [pace.turn().await, pace.turn().await, pace.turn().await];
        for turn in turns {
            pace.throttled(turn);
        }
        assert_eq!(pace.state().interval, FIRST_INTERVAL);
        let later = pace.turn().await;
        pace.throttled(later);
        assert_eq!(pace.state().interval, FIRST_INTERVAL * 2);
        for _ in 0..20 {
            let turn = pace.turn().await;
            pace.throttled(turn);
        }
        assert_eq!(pace.state().interval, MAX_INTERVAL);
        for _ in 0..60 {
            pace.accepted();
        }
        assert_eq!(pace.state().interval, Duration::ZERO);
    }
}
