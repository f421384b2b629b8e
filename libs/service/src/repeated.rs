//! Log lines of what happens often: trouble is logged once in a while with a count, ordinary refusals as a sample.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

/// Time between two lines about the same trouble. An operator who watches sees that it lasts; a log is not filled by
/// it.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Refusals of which one is logged. At a thousand refusals a second this is ten lines.
const ONE_IN: u64 = 100;

/// Trouble that repeats itself: the first occurrence is logged, then one every ten seconds.
#[derive(Debug, Default)]
pub struct Repeated(Mutex<Occurrences>);

#[derive(Debug, Default)]
struct Occurrences {
    logged_at: Option<Instant>,
    left_out: u64,
}

impl Repeated {
    /// Counts one occurrence. If it is to be logged, returns how many were not logged since the last line.
    pub fn occurred(&self) -> Option<u64> {
        // A poisoned lock is still used: its counts are right or one too low.
        let mut occurrences = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if occurrences.logged_at.is_some_and(|at| at.elapsed() < LOG_EVERY) {
            occurrences.left_out += 1;
            return None;
        }
        occurrences.logged_at = Some(Instant::now());
        Some(std::mem::take(&mut occurrences.left_out))
    }
}

/// How an answer to a client is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loudness {
    /// At the level `debug`: every answer.
    Debug,
    /// At the level `info`: one refusal of a hundred.
    Sample,
    /// At the level `warn`: the service could not do its work. With the number of answers with the same code that were
    /// not logged so since the last line.
    Trouble(u64),
}

/// Chooses the answers that are logged above `debug`. One for each kind of request.
#[derive(Debug, Default)]
pub struct Answers {
    refused: AtomicU64,
    /// By code, of which there is a closed list.
    failed: Mutex<HashMap<&'static str, Repeated>>,
}

impl Answers {
    /// How the answer with this status and code is logged.
    pub fn loudness(&self, status: StatusCode, code: &'static str) -> Loudness {
        if status.is_server_error() {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            return failed.entry(code).or_default().occurred().map_or(Loudness::Debug, Loudness::Trouble);
        }
        let is_sample = status.is_client_error() && self.refused.fetch_add(1, Ordering::Relaxed).is_multiple_of(ONE_IN);
        if is_sample { Loudness::Sample } else { Loudness::Debug }
    }
}

/// Logs an answer as loud as [`Answers`] says, with the fields and the sentence of a `tracing` macro.
#[macro_export]
macro_rules! log_answer {
    ($loudness:expr, $($fields:tt)*) => {
        match $loudness {
            $crate::Loudness::Debug => ::tracing::debug!($($fields)*),
            $crate::Loudness::Sample => ::tracing::info!($($fields)*),
            $crate::Loudness::Trouble(not_logged) => ::tracing::warn!(not_logged, $($fields)*),
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn trouble_is_logged_at_once_and_then_with_a_count() {
        let trouble = Repeated::default();
        assert_eq!(trouble.occurred(), Some(0));
        for _ in 0..16 {
            assert_eq!(trouble.occurred(), None);
        }
        tokio::time::advance(LOG_EVERY).await;
        assert_eq!(trouble.occurred(), Some(16));
        assert_eq!(trouble.occurred(), None);
        tokio::time::advance(LOG_EVERY * 9).await;
        assert_eq!(trouble.occurred(), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_refusal_in_a_hundred_is_a_sample_and_trouble_is_counted_by_code() {
        let answers = Answers::default();
        let refused = || answers.loudness(StatusCode::CONFLICT, "bid_too_low");
        let samples: Vec<usize> = (0..250).filter(|_| refused() == Loudness::Sample).collect();
        assert_eq!(samples, [0, 100, 200]);
        let failed = |code| answers.loudness(StatusCode::SERVICE_UNAVAILABLE, code);
        assert_eq!((failed("unavailable"), failed("unavailable")), (Loudness::Trouble(0), Loudness::Debug));
        assert_eq!(failed("outcome_unknown"), Loudness::Trouble(0));
        tokio::time::advance(LOG_EVERY).await;
        assert_eq!((failed("unavailable"), failed("unavailable")), (Loudness::Trouble(1), Loudness::Debug));
        assert_eq!(answers.loudness(StatusCode::OK, "accepted"), Loudness::Debug);
    }
}
