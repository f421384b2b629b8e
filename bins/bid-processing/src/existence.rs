//! Whether an auction exists: found out before an auctioneer is started for it, so that an id that does not exist costs
//! a few bytes and, once in seconds, three requests.
//!
//! Calls for running auctions and for auctions with an auctioneer never come here. The others share a few lookups at
//! once; calls that would wait for longer than [`WAIT_WITHIN`] are `overloaded`.

use std::time::Duration;

use admission::UnknownAuctions;
use bus::LogError;
use domain::AuctionId;
use hotstate::HotstateError;
use protocol::Code;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use crate::backend::Backend;

#[cfg(test)]
mod tests;

/// Lookups at once. Each sends one request to Redis, one to the log and one through auction-management to PostgreSQL:
/// about 2,000 lookups a second. The lookups of one instance leave some of auction-management's 10 connections to
/// PostgreSQL free.
const MAX_LOOKUPS: usize = 8;
/// Calls in a lookup or waiting for one. They are served in about 100 ms.
const MAX_WAITING: usize = 256;
/// Longest wait for a lookup.
const WAIT_WITHIN: Duration = Duration::from_millis(500);

/// An auction that Redis or the log has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// When it ends, by the clock of Redis. None if it is over.
    pub ends_at: Option<u64>,
}

/// Looks up auctions, and remembers for seconds the ids that have none.
pub struct Existence {
    unknown: UnknownAuctions,
    /// Archived auctions: ids that nothing but PostgreSQL knows. Such an auction never begins again.
    archived: UnknownAuctions,
    lookups: Semaphore,
    waiting: Semaphore,
}

impl Default for Existence {
    fn default() -> Self {
        Self {
            unknown: UnknownAuctions::default(),
            archived: UnknownAuctions::default(),
            lookups: Semaphore::new(MAX_LOOKUPS),
            waiting: Semaphore::new(MAX_WAITING),
        }
    }
}

impl Existence {
    /// Notes that this auction exists. Called after the auction counts as running.
    pub fn note(&self, auction_id: AuctionId) {
        self.unknown.forget(auction_id);
    }

    /// Looks the auction up by `until`. `is_running` says whether its creation has been observed since.
    ///
    /// # Errors
    /// `auction_not_found` if it does not exist, `auction_closed` if it has been archived, `overloaded` if too many
    /// others are being looked up, `unavailable` if Redis, the log or auction-management did not answer.
    pub async fn find<B: Backend>(
        &self,
        backend: &B,
        auction_id: AuctionId,
        until: Instant,
        is_running: impl Fn() -> bool,
    ) -> Result<Found, Code> {
        self.remembered(auction_id)?;
        let _waiting = self.waiting.try_acquire().map_err(|_| Code::Overloaded)?;
        // The semaphore is never closed.
        let lookup = timeout(WAIT_WITHIN, self.lookups.acquire()).await.map_err(|_| Code::Overloaded)?;
        // Another call may have looked it up in the meantime.
        self.remembered(auction_id)?;
        let found = timeout_at(until, look_up(backend, auction_id)).await.unwrap_or(Err(Code::Unavailable));
        drop(lookup);
        let now = Instant::now().into_std();
        match found {
            Err(Code::AuctionNotFound) => self.unknown.insert(auction_id, now),
            Err(Code::AuctionClosed) => self.archived.insert(auction_id, now),
            _ => return found,
        }
        // A creation that was observed during the lookup came before `insert` here, or `note` comes after it.
        if is_running() {
            self.unknown.forget(auction_id);
            return Ok(Found { ends_at: None });
        }
        found
    }

    fn remembered(&self, auction_id: AuctionId) -> Result<(), Code> {
        let now = Instant::now().into_std();
        if self.unknown.contains(auction_id, now) {
            return Err(Code::AuctionNotFound);
        }
        if self.archived.contains(auction_id, now) { Err(Code::AuctionClosed) } else { Ok(()) }
    }
}

/// Asks Redis first: a creation that Redis does not have yet, or has lost since, and that was answered, is in the log.
async fn look_up<B: Backend>(backend: &B, auction_id: AuctionId) -> Result<Found, Code> {
    let found = |ends_at: u64, is_over: bool| Ok(Found { ends_at: (!is_over).then_some(ends_at) });
    let unavailable = |error: &(dyn std::error::Error + 'static)| {
        tracing::warn!(%auction_id, error = %errors::chain(error), "failed to determine whether the auction exists");
        Code::Unavailable
    };
    match backend.view(auction_id).await {
        Ok(Some(view)) => return found(view.committed.state.end_time, view.committed.state.outcome.is_some()),
        Ok(None) => {}
        // It exists; its auctioneer halts it.
        Err(HotstateError::Reply { .. }) => return Ok(Found { ends_at: None }),
        Err(error) => return Err(unavailable(&error)),
    }
    match backend.last(auction_id).await {
        Ok(Some(logged)) => {
            let state = &logged.record.state;
            return found(state.end_time, state.outcome.is_some());
        }
        Ok(None) => {}
        Err(LogError::Record { .. }) => return Ok(Found { ends_at: None }),
        Err(error) => return Err(unavailable(&error)),
    }
    match backend.recall(auction_id).await {
        Ok(true) => Err(Code::AuctionClosed),
        Ok(false) => Err(Code::AuctionNotFound),
        Err(error) => Err(unavailable(&error)),
    }
}
