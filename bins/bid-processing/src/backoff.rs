//! Pauses between appends that the log rejects.

use std::time::Duration;

use tokio::time::Instant;

use crate::shared::RETRY_PAUSE;

/// Longest pause. Auctions with facts that a full log rejects try twice a second each; and a closing that waits is in
/// the log within the second that I8 allows after the fault.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Doubles the pause with each rejection in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    /// The last pause and its end. None while nothing was rejected.
    pausing: Option<(Duration, Instant)>,
}

impl Backoff {
    /// Notes a rejection. True if it is the first one of an outage.
    pub fn rejected(&mut self) -> bool {
        let pause = self.pausing.map_or(RETRY_PAUSE, |(last, _)| (last * 2).min(LONGEST_PAUSE));
        self.pausing.replace((pause, Instant::now() + pause)).is_none()
    }

    /// Notes that an append worked. True if that ends an outage.
    pub fn worked(&mut self) -> bool {
        self.pausing.take().is_some()
    }

    /// Waits until the next attempt may be made.
    pub async fn wait(&self) {
        if let Some((_, until)) = self.pausing {
            tokio::time::sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_a_bound_and_start_again_after_success() {
        let mut backoff = Backoff::default();
        let mut pauses = Vec::new();
        for nth in 0..6 {
            assert_eq!(backoff.rejected(), nth == 0, "one outage");
            let started = Instant::now();
            backoff.wait().await;
            pauses.push(started.elapsed().as_millis());
        }
        assert_eq!(pauses, [50, 100, 200, 400, 500, 500]);
        assert!(backoff.worked() && !backoff.worked());
        let started = Instant::now();
        backoff.wait().await;
        assert_eq!(started.elapsed().as_millis(), 0, "nothing was rejected since");
        assert!(backoff.rejected(), "another outage");
        backoff.wait().await;
        assert_eq!(started.elapsed().as_millis(), 50);
    }
}
