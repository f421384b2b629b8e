//! Rebuilds an auction in Redis from the log, if Redis has lost decisions.

use std::sync::Arc;

use bus::LogError;
use hotstate::{HotstateError, Position};
use protocol::Mark;
use tokio::time::Instant;

use super::Committer;
use crate::backend::Backend;
use crate::rebuild;
use crate::shared::RETRY_PAUSE;

impl<B: Backend> Committer<B> {
    /// Makes Redis continue the log again. True once it does, whichever instance restored it; false if that did not
    /// work in time. Nothing is decided while it runs: the auction's calls wait.
    pub async fn restore(&mut self, until: Instant) -> bool {
        tokio::time::timeout_at(until, self.restore_repeatedly(until)).await.unwrap_or(false)
    }

    pub(super) async fn restore_repeatedly(&mut self, until: Instant) -> bool {
        while !self.is_halted() && Instant::now() < until {
            self.has_uncommitted = true;
            match self.try_to_restore().await {
                Ok(true) => return true,
                // The log or Redis has changed during the rebuild, or they disagree for longer.
                Ok(false) => tokio::time::sleep(RETRY_PAUSE).await,
                Err(Obstacle::Redis(error)) => self.redis_failed(&error).await,
                Err(Obstacle::Log(error)) => self.log_failed(&error).await,
            }
        }
        false
    }

    /// The end of the log and the position of Redis. None if the log could not be read.
    async fn compare(&mut self) -> Result<Option<(Mark, Option<Position>)>, Obstacle> {
        // The log first, then Redis: read the other way round, a commit in between looks like a loss.
        if self.known_tail().await.is_none() || !self.read_on().await {
            return Ok(None);
        }
        let Some(tail) = self.tail.as_ref().map(|tail| tail.mark) else { return Ok(None) };
        Ok(Some((tail, self.shared.backend.position(self.auction_id, tail.seq).await?)))
    }

    /// One rebuild, if one is needed. False if the log or Redis has changed during it.
    async fn try_to_restore(&mut self) -> Result<bool, Obstacle> {
        let continues =
            |tail: Mark, seen: Option<Position>| seen.is_some_and(|position: Position| position.continues(tail));
        // Another instance was faster, and nothing is lost: that needs no permit.
        let Some((tail, seen)) = self.compare().await? else { return Ok(false) };
        if continues(tail, seen) {
            return Ok(true);
        }
        let shared = Arc::clone(&self.shared);
        // The semaphore is never closed. Waiting for it is bounded because every rebuild is.
        let Ok(_permit) = shared.rebuilds.acquire().await else { return Ok(false) };
        let started = Instant::now();
        // Another instance may have restored the auction during the wait.
        let Some((tail, seen)) = self.compare().await? else { return Ok(false) };
        if continues(tail, seen) {
            return Ok(true);
        }
        let records = self.shared.backend.all(self.auction_id).await?;
        if records.last().map(|logged| logged.record.mark()).unwrap_or_default() != tail {
            return Ok(false);
        }
        if records.is_empty() {
            // Nothing was ever committed, so Redis cannot hold later facts without the creation before them.
            return match seen {
                None => Ok(true),
                Some(_) => Err(LogError::Record { stream_seq: 0, detail: "the log lost this auction".into() }.into()),
            };
        }
        let auction = rebuild::replay(&records)?;
        let now = self.shared.backend.now();
        let Some(restoration) = rebuild::restoration(&records, &auction, now) else { return Ok(false) };
        let seen = seen.map(|position| position.mark);
        let restored = self.shared.backend.restore(self.auction_id, seen, &restoration).await?;
        if restored {
            self.shared.counters.rebuilt.inc();
            let bids = restoration.answers.len();
            let took_ms = started.elapsed().as_millis();
            tracing::warn!(auction_id = %self.auction_id, ?seen, seq = tail.seq, bids, took_ms, "rebuilt from the log");
        }
        Ok(restored)
    }
}

/// Why a rebuild failed.
enum Obstacle {
    Redis(HotstateError),
    Log(LogError),
}

impl From<HotstateError> for Obstacle {
    fn from(error: HotstateError) -> Self {
        Self::Redis(error)
    }
}

impl From<LogError> for Obstacle {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}
