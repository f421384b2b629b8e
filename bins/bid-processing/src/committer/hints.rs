//! Records that were heard: taken as hints, confirmed by an append or by the log.

use std::time::Duration;

use bus::{LogError, Logged};
use tokio::time::Instant;

use super::Committer;
use crate::backend::Backend;
use crate::tail::{Hints, Observed};

/// Time in which the winner's record of a conflict arrives by itself. After it the log is read.
const WINNER_ARRIVES_WITHIN: Duration = Duration::from_millis(20);
/// Conflicts in a row after which the log is read whatever was heard. Honest hints hardly ever lead to a conflict;
/// forged ones would lead to one after the other.
const MAX_CONFLICTS_ON_HINTS: u32 = 2;
/// Time after a forged hint in which hints of the auction are not used: so long its committer learns of the records of
/// other instances by reading alone. A flood of forged hints costs one failed append in that time.
const DISTRUST_FOR: Duration = Duration::from_secs(1);

impl<B: Backend> Committer<B> {
    /// Takes a record that was republished, as a hint.
    pub fn observe(&mut self, logged: Logged) {
        if !self.distrusts_hints()
            && let Some(tail) = self.tail.as_mut()
        {
            // A gap needs nothing now: the next commit finds that its outbox does not continue the tail, or is empty,
            // and reads the log.
            tail.observe(logged);
        }
    }

    fn distrusts_hints(&self) -> bool {
        self.distrusted_until.is_some_and(|until| Instant::now() < until)
    }

    /// After a conflict: the winner's record usually arrives by itself, and the append after it proves it; otherwise,
    /// and after repeated conflicts, the log is read.
    /// (An instance that only ever reads the log is always late, and starves.)
    pub(super) async fn await_winner(&mut self) {
        let Some(tail) = self.tail.as_ref() else { return };
        let (before, end, had_hints) = (tail.stream_seq, tail.end().stream_seq, tail.has_hints());
        self.conflicts_on_hints += u32::from(had_hints);
        if self.conflicts_on_hints < MAX_CONFLICTS_ON_HINTS && self.hears_winner(end).await || !self.read_on().await {
            return;
        }
        if had_hints || self.tail.as_ref().is_none_or(|tail| tail.stream_seq != before) {
            return;
        }
        // A conflict without a winner: the log may have lost records, for example by coming back from a backup.
        match self.shared.backend.last(self.auction_id).await {
            Ok(last) => self.adopt(last),
            Err(error) => self.log_failed(&error).await,
        }
    }

    /// Whether a record that continues the tail is heard soon.
    async fn hears_winner(&mut self, end: u64) -> bool {
        if self.distrusts_hints() {
            return false;
        }
        let arrives = async {
            while let Some(logged) = self.records.recv().await {
                if let Some(tail) = self.tail.as_mut()
                    && logged.stream_seq > end
                {
                    return tail.observe(*logged) == Observed::Extended;
                }
            }
            false
        };
        tokio::time::timeout(WINNER_ARRIVES_WITHIN, arrives).await.unwrap_or(false)
    }

    /// Asks the log whether it ends with the hints, if there are any. True if it does: then nothing comes after them.
    pub(super) async fn confirm_hints(&mut self) -> Result<bool, LogError> {
        self.conflicts_on_hints = 0;
        let Some(tail) = self.tail.as_mut().filter(|tail| tail.has_hints()) else { return Ok(false) };
        let confirmed = tail.confirm(self.shared.backend.last(self.auction_id).await?.as_ref());
        if confirmed == Hints::False {
            tracing::error!(auction_id = %self.auction_id, "received a record that the log does not have");
            self.shared.counters.refuted.inc();
            self.distrusted_until = Some(Instant::now() + DISTRUST_FOR);
        }
        Ok(confirmed == Hints::True)
    }
}
