//! Has an auction rebuilt in Redis from the log, if Redis has lost decisions.

use std::sync::Arc;

use tokio::time::Instant;

use super::Committer;
use crate::backend::Backend;
use crate::rebuild::{self, RebuildError};
use crate::shared::RETRY_PAUSE;

impl<B: Backend> Committer<B> {
    /// Makes Redis continue the log again. True once it does, whichever instance restored it; false if that did not
    /// work in time: the rebuild then goes on, and the next call waits for it. Nothing is decided while it runs.
    pub async fn restore(&mut self, until: Instant) -> bool {
        tokio::time::timeout_at(until, self.restore_repeatedly(until)).await.unwrap_or(false)
    }

    pub(super) async fn restore_repeatedly(&mut self, until: Instant) -> bool {
        while !self.is_halted() && Instant::now() < until {
            self.has_uncommitted = true;
            let restored = match self.continues().await {
                Ok(Some(true)) => return true,
                Ok(Some(false)) => self.rebuild().await,
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            match restored {
                // The end of the log is compared once more, because another instance may continue it.
                Ok(true) => {}
                // The log or Redis has changed during the rebuild, or they disagree for longer.
                Ok(false) => tokio::time::sleep(RETRY_PAUSE).await,
                Err(RebuildError::Redis(error)) => self.redis_failed(&error).await,
                Err(RebuildError::Log(error)) => self.log_failed(&error).await,
            }
        }
        false
    }

    /// Whether Redis continues the log. Another instance may have been faster, or has restored it: that costs no
    /// rebuild, and no permit for one. None if the log could not be read, or has continued while Redis was read.
    async fn continues(&mut self) -> Result<Option<bool>, RebuildError> {
        // The log first, then Redis: read the other way round, a commit in between looks like a loss.
        if self.known_tail().await.is_none() || !self.read_on().await {
            return Ok(None);
        }
        let tail = self.tail.as_ref().map(|tail| tail.mark).unwrap_or_default();
        let position = self.shared.backend.position(self.auction_id, tail.seq).await?;
        // Nothing was ever committed, and nothing is lost.
        if position.map_or(tail.seq == 0, |position| position.continues(tail)) {
            return Ok(Some(true));
        }
        // Another instance may have committed facts and cut the outbox between the two reads.
        let is_unchanged = self.read_on().await && self.committed() == tail.seq;
        Ok(is_unchanged.then_some(false))
    }

    /// Waits for the rebuild that runs, or for a new one. False if the log or Redis has changed during it.
    async fn rebuild(&mut self) -> Result<bool, RebuildError> {
        if self.rebuilding.is_empty() {
            self.rebuilding.spawn(rebuild::run(Arc::clone(&self.shared), self.auction_id));
        }
        match self.rebuilding.join_next().await {
            Some(Ok(rebuilt)) => rebuilt,
            Some(Err(error)) => {
                tracing::error!(auction_id = %self.auction_id, error = %errors::chain(&error), "rebuild died");
                Ok(false)
            }
            None => Ok(false),
        }
    }
}
