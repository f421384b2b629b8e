//! The auctioneers of this instance, and the tasks that serve them: one follows the records of all instances, one
//! measures the fill level of the log, one looks for outboxes that a dead instance left behind.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::{LOG_ALARM_RATIO, Log, LogError, Logged};
use domain::{AuctionId, BidRequest};
use futures_util::StreamExt;
use hotstate::Hotstate;
use prometheus_client::registry::Registry;
use protocol::{Code, Failure, RefusedBid, subject};
use service::Actors;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::auctioneer::Auctioneer;
use crate::backend::Backend;
use crate::call::{Call, Waiting};
use crate::checkpoints;
use crate::reserve::{self, MEASURE_EVERY};
use crate::shared::{ANSWER_WITHIN, Shared};

/// Calls that may wait for one auction. At 256 a script call they are decided in 16 rounds of script and append;
/// further calls are rejected at once with `overloaded` rather than answered late.
const MAX_WAITING: usize = 4096;
/// Republished records that may wait for one auctioneer. One that does not fit is read from the log.
const MAX_RECORDS: usize = 64;
/// Auctions served at once. An unknown id counts as well, for a minute.
const MAX_AUCTIONEERS: usize = 50_000;
/// Interval between searches for outboxes that an instance left behind.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// Auctions in one search, so that one search does not delay the bids behind it.
const SWEEP_CHUNK: usize = 500;

/// All auctioneers of one instance. Every clone is a handle to the same ones.
pub struct Auctioneers<B> {
    shared: Arc<Shared<B>>,
    /// Each auctioneer's handle is its queue of republished records.
    actors: Actors<AuctionId, Waiting, mpsc::Sender<Logged>>,
    /// Auctions that are in the log and not over.
    running: Arc<Mutex<HashSet<AuctionId>>>,
    log: Log,
    hotstate: Hotstate,
}

impl<B> Clone for Auctioneers<B> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            actors: self.actors.clone(),
            running: Arc::clone(&self.running),
            log: self.log.clone(),
            hotstate: self.hotstate.clone(),
        }
    }
}

impl<B: Backend> Auctioneers<B> {
    /// No auctioneer yet; each starts with the first call for its auction.
    pub fn new(shared: Shared<B>, log: Log, hotstate: Hotstate, registry: &mut Registry) -> Self {
        let actors = Actors::new(MAX_AUCTIONEERS, MAX_WAITING);
        registry.register("auctioneers", "Auctions with a running auctioneer", actors.gauge());
        Self { shared: Arc::new(shared), actors, running: Arc::default(), log, hotstate }
    }

    /// The rejection of a bid below the committed price, made without asking Redis. None if Redis must decide.
    pub fn below_committed_price(
        &self,
        auction_id: AuctionId,
        bid: &BidRequest,
        id_is_new: bool,
    ) -> Option<RefusedBid> {
        let Shared { prices, backend, counters, .. } = &*self.shared;
        let rejected = prices.refusal(auction_id, bid, id_is_new, backend.now().0, backend.connection())?;
        counters.rejected.inc();
        counters.rejected_from_cache.inc();
        Some(rejected)
    }

    /// Queues a call for the auction's auctioneer and waits for the answer.
    ///
    /// # Errors
    /// `overloaded` if the queue is full or too many auctions are served; `outcome_unknown` if the auctioneer dropped
    /// the call without an answer.
    pub async fn ask<A>(
        &self,
        auction_id: AuctionId,
        call: impl FnOnce(oneshot::Sender<A>) -> Call,
    ) -> Result<A, Failure> {
        let (reply, answer) = oneshot::channel();
        self.send(auction_id, call(reply))?;
        answer.await.map_err(|_| Code::OutcomeUnknown.into())
    }

    fn send(&self, auction_id: AuctionId, call: Call) -> Result<(), Failure> {
        let waiting = Waiting { call, answer_by: Instant::now() + ANSWER_WITHIN };
        let start = |calls| {
            let (observer, records) = mpsc::channel(MAX_RECORDS);
            (observer, Auctioneer::new(auction_id, Arc::clone(&self.shared), calls, records).run())
        };
        self.actors.send(auction_id, waiting, start).map_err(|_| Code::Overloaded.into())
    }

    /// Follows the records of all instances: keeps prices and running auctions current, and passes each record to the
    /// auction's auctioneer.
    ///
    /// # Errors
    /// When the log cannot be read at the start.
    pub async fn follow(&self) -> Result<impl Future<Output = ()> + Send + use<B>, LogError> {
        let mut events = self.log.events(subject::ALL_EVENTS.to_owned()).await?;
        let mut last = self.log.last_of_each().await?;
        while let Some(logged) = last.next().await? {
            self.note(&logged);
            let Logged { record, .. } = logged;
            if record.state.outcome.is_none() && record.seq >= self.shared.facts_per_checkpoint {
                self.shared.due_checkpoints.add(record.auction_id);
            }
        }
        let auctioneers = self.clone();
        Ok(async move {
            while let Some(logged) = events.next().await {
                auctioneers.note(&logged);
                let auction_id = logged.record.auction_id;
                // A record for a full or closed queue is dropped: the auctioneer reads it from the log.
                auctioneers.actors.with_handle(auction_id, |observer| drop(observer.try_send(logged)));
            }
        })
    }

    fn note(&self, logged: &Logged) {
        self.shared.prices.apply(&logged.record, self.shared.backend.connection());
        if checkpoints::is_due_after(&logged.record, self.shared.facts_per_checkpoint) {
            self.shared.due_checkpoints.add(logged.record.auction_id);
        }
        let mut running = self.running();
        if logged.record.state.outcome.is_some() {
            running.remove(&logged.record.auction_id);
        } else {
            running.insert(logged.record.auction_id);
        }
    }

    /// Whether the rest of the log is kept for running auctions to end in.
    pub fn is_log_reserved(&self) -> bool {
        self.shared.log_is_reserved.load(Ordering::Relaxed)
    }

    /// Measures the fill level of the log, so that no auction is created and no bid accepted that would leave running
    /// auctions no room to end.
    pub async fn measure_log(self) {
        let mut pause = MEASURE_EVERY;
        let mut alarmed_at: Option<Instant> = None;
        loop {
            match self.log.fill().await {
                Ok(fill) => {
                    let (used, running) = (fill.ratio(), self.running().len());
                    if used >= LOG_ALARM_RATIO && alarmed_at.is_none_or(|at| at.elapsed() >= MEASURE_EVERY) {
                        tracing::error!(used, "log is filling up: archive ended auctions, or raise its max_bytes");
                        alarmed_at = Some(Instant::now());
                    }
                    let is_reserved = reserve::is_reserved(fill, running);
                    let was_reserved = self.shared.log_is_reserved.swap(is_reserved, Ordering::Relaxed);
                    if is_reserved && !was_reserved {
                        tracing::error!(used, running, "log has room for endings only: bids are rejected");
                    } else if was_reserved && !is_reserved {
                        tracing::info!(used, running, "log has room again: bids are accepted");
                    }
                    self.shared.counters.log_used.set(used);
                    pause = reserve::measure_again_after(fill, running);
                }
                Err(error) => tracing::debug!(error = %errors::chain(&error), "failed to measure the log"),
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Writes checkpoints of long auctions.
    pub fn write_checkpoints(&self) -> impl Future<Output = ()> + Send + use<B> {
        checkpoints::run(Arc::clone(&self.shared))
    }

    /// Commits facts that a dead instance left in an outbox, for auctions that receive no calls now.
    pub async fn sweep(self) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            let running: Vec<AuctionId> = self.running().iter().copied().collect();
            for chunk in running.chunks(SWEEP_CHUNK) {
                match self.hotstate.with_outbox(chunk).await {
                    // A full queue needs no flush: the calls in it flush the outbox.
                    Ok(left) => left.into_iter().for_each(|auction_id| drop(self.send(auction_id, Call::FlushOutbox))),
                    Err(error) => tracing::debug!(error = %errors::chain(&error), "failed to look for outboxes"),
                }
            }
        }
    }

    /// A poisoned lock is still used: each change of the set is one call, so no panic leaves it half changed.
    fn running(&self) -> MutexGuard<'_, HashSet<AuctionId>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
