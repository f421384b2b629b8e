//! Failed calls of a committer: those that may succeed later, and those after which the auction is halted.

use std::time::Duration;

use bus::LogError;
use hotstate::HotstateError;
use tokio::time::Instant;

use super::Committer;
use crate::backend::Backend;
use crate::shared::RETRY_PAUSE;

/// Time for which an auction with an inconsistent log or state is halted. Afterwards the end of its log is read again.
const HALT_FOR: Duration = Duration::from_secs(60);

impl<B: Backend> Committer<B> {
    /// Handles a failed reading of the log: pauses, or halts the auction if a record cannot be read.
    pub(super) async fn log_failed(&mut self, error: &LogError) {
        match error {
            LogError::Record { .. } => self.halt(error),
            LogError::Read(_) => {
                self.shared.counters.trouble.log_failed(self.auction_id, error);
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// Handles a failed call to Redis: pauses, or halts the auction if its reply cannot be read.
    pub async fn redis_failed(&mut self, error: &HotstateError) {
        match error {
            HotstateError::Reply { .. } => self.halt(error),
            HotstateError::Redis(_) => {
                self.shared.counters.trouble.redis_failed(self.auction_id, error);
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// The log or Redis contradicts itself about this auction: it answers `unavailable` for a while, the other auctions
    /// continue.
    pub(super) fn halt(&mut self, error: &(dyn std::error::Error + 'static)) {
        let last_good_stream_seq = self.tail.as_ref().map(|tail| tail.stream_seq);
        tracing::error!(
            auction_id = %self.auction_id,
            error = %errors::chain(error),
            last_good_stream_seq,
            "auction halted: its log or state is inconsistent"
        );
        self.shared.counters.halted.inc();
        self.halted_until = Some(Instant::now() + HALT_FOR);
        // The end of the log is read again afterwards.
        self.tail = None;
        self.confirmed_at = None;
    }

    /// Whether the auction is halted.
    pub fn is_halted(&self) -> bool {
        self.halted_until.is_some_and(|until| Instant::now() < until)
    }
}
