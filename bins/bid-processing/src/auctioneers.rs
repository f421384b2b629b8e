//! The auctioneers of this instance, and the tasks that serve them: one follows the records of all instances, one
//! measures the fill level of the log, one looks for outboxes that a dead instance left behind.
//!
//! A running auction always gets an auctioneer: their number is that of the running auctions, which creation bounds. An
//! ended one takes one of [`MAX_ENDED`] places. Any other id is looked up first ([`Existence`]). An idle auctioneer
//! takes less than 12 KB: its task, its last record, and the first slots of its two queues. A test adds them up.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use admission::{AcceptedBids, StandingLeads};
use bus::{LOG_ALARM_RATIO, Log, LogError, Logged};
use domain::{AuctionId, BidId, BidRequest, UserId};
use futures_util::StreamExt;
use hotstate::Hotstate;
use prometheus_client::registry::Registry;
use protocol::{Code, Failure, Record, RefusedBid, subject};
use service::{Actors, Place};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use crate::auctioneer::Auctioneer;
use crate::backend::Backend;
use crate::call::{Call, Command, Waiting};
use crate::checkpoints;
use crate::existence::Existence;
use crate::reserve::{self, MEASURE_EVERY};
use crate::sealing::LogKeys;
use crate::shared::{ANSWER_WITHIN, Counters, Shared};

/// Calls that may wait for one auction. At 256 a script call they are decided in 16 rounds of script and append;
/// further calls are rejected at once with `overloaded` rather than answered late.
const MAX_WAITING: usize = 4096;
/// Republished records that may wait for one auctioneer. One that does not fit is read from the log.
const MAX_RECORDS: usize = 64;
/// Ended auctions served at once, each for a minute after its last call. They take at most 120 MB.
const MAX_ENDED: usize = 10_000;
/// Interval between searches for outboxes that an instance left behind.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// Auctions in one search, so that one search does not delay the bids behind it.
const SWEEP_CHUNK: usize = 500;
/// Interval between searches for records that were not received.
const RECONCILE_EVERY: Duration = Duration::from_secs(2);
/// Milliseconds after its end when the last record of an auction is read, if its closing was not received. Closing
/// takes less than a second unless something has failed.
const OVERDUE_MS: u64 = 10_000;
/// Last records read in one search for closings that were not received. Records of other auctions wait in the
/// subscription during that time.
const MAX_OVERDUE: usize = 100;
/// Auctions of which a creation or an ending was heard and not read yet. Further ones are looked up by their first call,
/// and their endings found when they are overdue.
const MAX_HEARD: usize = 4_096;
/// Heard auctions that are read in one search, in some 150 ms.
const MAX_HEARD_READ: usize = 500;

/// The running auctions, each with the time at which its last record is read if its closing was not received.
type Running = HashMap<AuctionId, u64>;

/// All auctioneers of one instance. Every clone is a handle to the same ones.
pub struct Auctioneers<B> {
    shared: Arc<Shared<B>>,
    /// Each auctioneer's handle is its queue of republished records.
    actors: Actors<AuctionId, Waiting, mpsc::Sender<Box<Logged>>>,
    /// Auctions that are in the log and not over.
    running: Arc<Mutex<Running>>,
    /// Auctions of which something was heard that only the log may say.
    heard: Arc<Mutex<BTreeSet<AuctionId>>>,
    existence: Arc<Existence>,
    accepted: AcceptedBids,
    log: Log,
    hotstate: Hotstate,
}

impl<B> Clone for Auctioneers<B> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            actors: self.actors.clone(),
            running: Arc::clone(&self.running),
            heard: Arc::clone(&self.heard),
            existence: Arc::clone(&self.existence),
            accepted: self.accepted.clone(),
            log: self.log.clone(),
            hotstate: self.hotstate.clone(),
        }
    }
}

impl<B: Backend> Auctioneers<B> {
    /// No auctioneer yet; each starts with the first call for its auction.
    pub fn new(
        shared: Shared<B>,
        log: Log,
        hotstate: Hotstate,
        accepted: AcceptedBids,
        registry: &mut Registry,
    ) -> Self {
        let actors = Actors::new(MAX_ENDED, MAX_WAITING);
        registry.register("auctioneers", "Auctions with a running auctioneer", actors.gauge());
        let (running, heard, existence) = (Arc::default(), Arc::default(), Arc::default());
        Self { shared: Arc::new(shared), actors, running, heard, existence, accepted, log, hotstate }
    }

    /// Whether this bid of a person may be accepted.
    ///
    /// # Errors
    /// As [`AcceptedBids::admit`].
    pub fn admit(&self, user_id: UserId, bid_id: BidId) -> Result<(), Failure> {
        self.accepted.admit(user_id, bid_id, self.shared.backend.now().0, std::time::Instant::now())
    }

    /// The standing leads of each person, and the limits on them.
    pub fn standing(&self) -> &StandingLeads {
        &self.shared.standing
    }

    /// The keys that seal secrets for the log.
    pub fn keys(&self) -> &LogKeys {
        &self.shared.keys
    }

    /// Counts a bid that was rejected because its person exceeded a limit.
    pub fn count_over_limit(&self) {
        self.shared.counters.over_limit.inc();
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

    /// Queues a call for the auction's auctioneer and waits for the answer. A call for a running auction is queued
    /// before the first wait, so that calls keep the order of their arrival.
    ///
    /// # Errors
    /// `overloaded` if the queue is full or too many auctions are served or looked up; `outcome_unknown` if the
    /// auctioneer dropped the call without an answer; otherwise as [`Existence::find`].
    pub async fn ask<A>(
        &self,
        auction_id: AuctionId,
        call: impl FnOnce(oneshot::Sender<A>) -> Call,
    ) -> Result<A, Failure> {
        let (reply, answer) = oneshot::channel();
        let waiting =
            Waiting { call: call(reply), answer_by: Instant::now() + ANSWER_WITHIN, trace: traces::Context::current() };
        let place = self.place_for(auction_id, &waiting).await?;
        self.send(auction_id, place, waiting)?;
        answer.await.map_err(|_| Code::OutcomeUnknown.into())
    }

    /// Whether an auctioneer for this call takes a place.
    async fn place_for(&self, auction_id: AuctionId, waiting: &Waiting) -> Result<Place, Code> {
        let is_running = || self.running().contains_key(&auction_id);
        if is_running() || matches!(waiting.call, Call::Command(Command::Create(_), _)) {
            return Ok(Place::Given);
        }
        if self.actors.with_handle(auction_id, |_| ()).is_some() {
            return Ok(Place::Needed);
        }
        let backend = &self.shared.backend;
        let is_created = || is_running() || self.heard().contains(&auction_id);
        let found = self.existence.find(backend, auction_id, waiting.answer_by, is_created).await;
        match (found, &waiting.call) {
            (Ok(found), _) => {
                if let Some(ends_at) = found.ends_at {
                    // It runs, and its records have not been received.
                    self.running().entry(auction_id).or_insert(ends_at + OVERDUE_MS);
                }
                Ok(if is_running() { Place::Given } else { Place::Needed })
            }
            // A host that ends an archived auction gets the same answer as for any other that is over.
            (Err(Code::AuctionClosed), Call::Command(Command::Close(Some(_)) | Command::Cancel(..), _)) => {
                Err(Code::WrongState)
            }
            (Err(code), _) => Err(code),
        }
    }

    fn send(&self, auction_id: AuctionId, place: Place, waiting: Waiting) -> Result<(), Code> {
        let start = |calls| {
            let (observer, records) = mpsc::channel(MAX_RECORDS);
            (observer, Auctioneer::new(auction_id, Arc::clone(&self.shared), calls, records).run())
        };
        self.actors.send_to(auction_id, place, waiting, start).map_err(|_| Code::Overloaded)
    }

    /// Follows the records of all instances: keeps prices and running auctions current, and passes each record to the
    /// auction's auctioneer. Records that were not received, and those that begin or end an auction, are read from the
    /// log.
    ///
    /// # Errors
    /// When the log cannot be read at the start.
    pub async fn follow(&self) -> Result<impl Future<Output = ()> + Send + use<B>, LogError> {
        let mut events = self.log.events(subject::ALL_EVENTS.to_owned()).await?;
        let mut complete_since = self.shared.backend.connection();
        self.read_last_records().await?;
        let auctioneers = self.clone();
        Ok(async move {
            let mut generation = auctioneers.shared.backend.generation();
            let mut reconcile = tokio::time::interval(RECONCILE_EVERY);
            reconcile.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    logged = events.next() => {
                        let Some(logged) = logged else { return };
                        // Here alone: a record that is read again must not count twice.
                        auctioneers.accepted.note(&logged.record, std::time::Instant::now());
                        auctioneers.hear(&logged.record);
                        let auction_id = logged.record.auction_id;
                        // A record for a full or closed queue is dropped: the auctioneer reads it from the log.
                        let pass = |observer: &mpsc::Sender<_>| drop(observer.try_send(Box::new(logged)));
                        auctioneers.actors.with_handle(auction_id, pass);
                    }
                    // In this task, so that no record is noted after a later one.
                    _ = reconcile.tick() => {
                        let now = auctioneers.shared.backend.generation();
                        if std::mem::replace(&mut generation, now) != now {
                            auctioneers.forget_all();
                            complete_since = None;
                        }
                        auctioneers.reconcile(&mut complete_since).await;
                    }
                }
            }
        })
    }

    /// Forgets every auction: the log is another one, and its last records are read again.
    fn forget_all(&self) {
        let forgotten = std::mem::take(&mut *self.running());
        forgotten.keys().for_each(|auction_id| self.shared.forget(*auction_id));
    }

    async fn read_last_records(&self) -> Result<(), LogError> {
        let mut last = self.log.last_of_each().await?;
        while let Some(logged) = last.next().await? {
            self.note(&logged);
            let Logged { record, .. } = logged;
            if record.state.outcome.is_none() && record.seq >= self.shared.facts_per_checkpoint {
                self.shared.due_checkpoints.add(record.auction_id);
            }
        }
        Ok(())
    }

    /// Reads what the subscription may have missed: after a new connection the last record of every auction, otherwise
    /// that of auctions that should be over. Without this an auction whose closing was missed would run for ever.
    async fn reconcile(&self, complete_since: &mut admission::Connection) {
        let backend = &self.shared.backend;
        let connection = backend.connection();
        if connection.is_some() && connection != *complete_since {
            match self.read_last_records().await {
                Ok(()) => *complete_since = connection,
                Err(error) => {
                    tracing::warn!(error = %errors::chain(&error), "failed to read the last records; will retry");
                }
            }
            return;
        }
        let now = backend.now().0;
        let mut overdue: Vec<AuctionId> = {
            let running = self.running();
            let overdue = running.iter().filter(|(_, read_at)| **read_at <= now);
            overdue.map(|(auction_id, _)| *auction_id).take(MAX_OVERDUE).collect()
        };
        {
            let mut heard = self.heard();
            overdue.extend(std::iter::from_fn(|| heard.pop_first()).take(MAX_HEARD_READ));
        }
        for auction_id in overdue {
            match backend.last(auction_id).await {
                Ok(Some(logged)) => self.note(&logged),
                // Its creation never got into the log, or it was archived.
                Ok(None) => {
                    self.running().remove(&auction_id);
                    self.shared.forget(auction_id);
                }
                Err(LogError::Record { .. }) => {}
                Err(error) => {
                    return tracing::debug!(error = %errors::chain(&error), "failed to read a last record");
                }
            }
            // One that cannot be closed is read again after the others.
            if let Some(read_at) = self.running().get_mut(&auction_id) {
                *read_at = (*read_at).max(now + OVERDUE_MS);
            }
        }
    }

    /// Takes a record that was received. It may be forged, so what it says about the auction's existence or end is
    /// read from the log, in the next search.
    fn hear(&self, record: &Record) {
        self.shared.prices.hear(record, self.shared.backend.connection());
        let is_summed = self.shared.standing.hear(record, |maximum| self.shared.maximum(record.auction_id, maximum));
        let is_running = self.running().contains_key(&record.auction_id);
        if is_running && checkpoints::is_due_after(record, self.shared.facts_per_checkpoint) {
            self.shared.due_checkpoints.add(record.auction_id);
        }
        if !is_summed || is_running == record.state.outcome.is_some() {
            let mut heard = self.heard();
            if heard.len() < MAX_HEARD {
                heard.insert(record.auction_id);
            }
        }
        // The next call looks the auction up.
        self.existence.note(record.auction_id);
    }

    /// Takes a record that was read from the log.
    fn note(&self, logged: &Logged) {
        let record = &logged.record;
        self.shared.apply(record);
        if checkpoints::is_due_after(record, self.shared.facts_per_checkpoint) {
            self.shared.due_checkpoints.add(record.auction_id);
        }
        if record.state.outcome.is_some() {
            self.running().remove(&record.auction_id);
        } else {
            self.running().insert(record.auction_id, record.state.end_time + OVERDUE_MS);
        }
        self.existence.note(record.auction_id);
    }

    /// The metrics of this instance.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The numbers that `nats micro stats` shows about this instance.
    pub fn status(&self) -> serde_json::Value {
        let counters = &self.shared.counters;
        serde_json::json!({
            "live_auctions": self.running().len(),
            "auctioneers": self.actors.gauge().get(),
            "bids_accepted": counters.accepted.get(),
            "bids_rejected": counters.rejected.get(),
            "log_records": counters.records.get(),
            "auctions_halted": counters.halted.get(),
            "log_used_ratio": counters.log_used.get(),
            "log_is_reserved": self.is_log_reserved(),
            "log_is_held": self.is_log_held(),
            "log_restored_at": self.shared.backend.restored_at(),
        })
    }

    /// Whether the rest of the log is kept for running auctions to end in.
    pub fn is_log_reserved(&self) -> bool {
        self.shared.log_is_reserved.load(Ordering::Relaxed) || self.is_log_held()
    }

    /// Whether the log is missing or being restored.
    pub fn is_log_held(&self) -> bool {
        self.shared.backend.is_held()
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
                    let away = i64::try_from(fill.replicas_away).unwrap_or(i64::MAX);
                    self.shared.counters.replicas_away.set(away);
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

    /// Commits facts that a dead instance left in an outbox, and cuts outboxes whose facts are in the log: where the
    /// same fact has been the last one since the sweep before. An auction that receives bids does both itself.
    pub async fn sweep(self) {
        let mut seen = HashMap::new();
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            let running: Vec<AuctionId> = self.running().keys().copied().collect();
            let mut left = HashMap::new();
            for chunk in running.chunks(SWEEP_CHUNK) {
                match self.hotstate.with_outbox(chunk).await {
                    Ok(found) => left.extend(found),
                    Err(error) => tracing::debug!(error = %errors::chain(&error), "failed to look for outboxes"),
                }
            }
            for (auction_id, _) in left.iter().filter(|(auction_id, seq)| seen.get(*auction_id) == Some(*seq)) {
                let answer_by = Instant::now() + ANSWER_WITHIN;
                let flush = Waiting { call: Call::FlushOutbox, answer_by, trace: traces::Context::default() };
                // A full queue needs no flush: the calls in it flush the outbox.
                _ = self.send(*auction_id, Place::Given, flush);
            }
            seen = left;
        }
    }

    /// A poisoned lock is still used, as below.
    fn heard(&self) -> MutexGuard<'_, BTreeSet<AuctionId>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A poisoned lock is still used: each change of the map is one call, so no panic leaves it half changed.
    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
