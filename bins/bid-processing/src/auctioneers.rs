//! All auctions of this instance: who serves which, who hears what, and what was left behind.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use admission::CommittedPrices;
use bus::{Bus, LOG_ALARM_RATIO, Log, LogError, Logged};
use domain::{AuctionId, BidRequest};
use futures_util::StreamExt;
use hotstate::{Clock, Hotstate};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use protocol::{Code, Failure, RefusedBid, subject};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::auctioneer::{ANSWER_WITHIN, Auctioneer, Call, Waiting};
use crate::world::{Backend, LiveBackend};

/// Calls that may wait for one auction. At 256 a script call this is a few milliseconds of work; more
/// are refused at once with `overloaded` rather than answered late.
const MAX_WAITING: usize = 4096;
/// Records of other instances that may wait to be heard; what does not fit is read from the log.
const MAX_HEARD: usize = 64;
/// Auctions served at once; unknown ids count as well, for a minute.
const MAX_AUCTIONEERS: usize = 50_000;
/// How often outboxes that an instance left behind are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
const SWEEP_CHUNK: usize = 500;
/// How often it is looked how full the log is: at its fastest this machine writes some megabytes meanwhile.
const MEASURE_EVERY: Duration = Duration::from_secs(2);
/// Auctions rebuilt at once: each reads its whole log into memory.
const MAX_REBUILDS: usize = 4;

/// What every auctioneer of an instance uses.
pub struct Shared<W> {
    pub world: W,
    pub prices: CommittedPrices,
    pub rebuilds: Semaphore,
    pub counters: Counters,
}

impl<W> Shared<W> {
    pub fn new(world: W, counters: Counters) -> Self {
        Self { world, prices: CommittedPrices::default(), rebuilds: Semaphore::new(MAX_REBUILDS), counters }
    }
}

#[derive(Default)]
pub struct Counters {
    pub accepted: Counter,
    pub refused: Counter,
    /// Of those, without asking Redis.
    pub hopeless: Counter,
    pub records: Counter,
    pub rebuilt: Counter,
    /// Fill level of the log, from 0 to 1.
    pub log_used: Gauge<f64, AtomicU64>,
    pub standing_still: Counter,
}

struct Desk {
    calls: mpsc::Sender<Waiting>,
    heard: mpsc::Sender<Logged>,
}

#[derive(Clone)]
pub struct House {
    shared: Arc<Shared<LiveBackend>>,
    desks: Arc<Mutex<HashMap<AuctionId, Desk>>>,
    /// Auctions that the log knows and that are not over.
    running: Arc<Mutex<HashSet<AuctionId>>>,
    auctioneers: Gauge,
}

impl House {
    pub fn open(hotstate: Hotstate, log: Log, bus: Bus, clock: Clock, registry: &mut Registry) -> Self {
        let counters = Counters::default();
        registry.register("bids_accepted", "Bids accepted and committed", counters.accepted.clone());
        registry.register("bids_rejected", "Bids rejected by the rules", counters.refused.clone());
        registry.register(
            "bids_rejected_from_cache",
            "Bids below the committed price, rejected without asking Redis",
            counters.hopeless.clone(),
        );
        registry.register("log_records_appended", "Records appended to the log", counters.records.clone());
        registry.register("auctions_rebuilt", "Auctions restored to Redis from the log", counters.rebuilt.clone());
        let halted = "Auctions halted because their log or state was inconsistent";
        registry.register("auctions_halted", halted, counters.standing_still.clone());
        registry.register("log_used_ratio", "Fill level of the log, from 0 to 1", counters.log_used.clone());
        let auctioneers = Gauge::default();
        registry.register("auctioneers", "Auctions with a running auctioneer", auctioneers.clone());
        let shared = Arc::new(Shared::new(LiveBackend { hotstate, log, clock, bus }, counters));
        Self { shared, desks: Arc::default(), running: Arc::default(), auctioneers }
    }

    /// The refusal of a bid that cannot win, from what is committed, without asking Redis.
    pub fn hopeless(&self, auction_id: AuctionId, bid: &BidRequest, id_is_new: bool) -> Option<RefusedBid> {
        let Shared { prices, world, counters, .. } = &*self.shared;
        let refused = prices.refusal(auction_id, bid, id_is_new, world.now().0, world.connection())?;
        counters.refused.inc();
        counters.hopeless.inc();
        Some(refused)
    }

    /// Hands a call to the auction's auctioneer and waits for the answer.
    ///
    /// # Errors
    /// `overloaded` if too much waits, `unavailable` if the answer was dropped undecided.
    pub async fn ask<A>(
        &self,
        auction_id: AuctionId,
        call: impl FnOnce(oneshot::Sender<A>) -> Call,
    ) -> Result<A, Failure> {
        let (reply, answer) = oneshot::channel();
        self.hand_over(auction_id, call(reply))?;
        answer.await.map_err(|_| Code::OutcomeUnknown.into())
    }

    fn hand_over(&self, auction_id: AuctionId, call: Call) -> Result<(), Failure> {
        let mut waiting = Waiting { call, answer_by: Instant::now() + ANSWER_WITHIN };
        let mut desks = lock(&self.desks);
        loop {
            let desk = match desks.get(&auction_id) {
                Some(desk) => desk,
                None if desks.len() >= MAX_AUCTIONEERS => return Err(Code::Overloaded.into()),
                None => {
                    desks.insert(auction_id, self.engage(auction_id));
                    continue;
                }
            };
            match desk.calls.try_send(waiting) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(_)) => return Err(Code::Overloaded.into()),
                // It has left for want of work.
                Err(TrySendError::Closed(unsent)) => {
                    waiting = unsent;
                    desks.remove(&auction_id);
                }
            }
        }
    }

    fn engage(&self, auction_id: AuctionId) -> Desk {
        let (calls, waiting) = mpsc::channel(MAX_WAITING);
        let (heard, records) = mpsc::channel(MAX_HEARD);
        let auctioneer = Auctioneer::new(auction_id, Arc::clone(&self.shared), waiting, records);
        let (desks, gauge, own) = (Arc::clone(&self.desks), self.auctioneers.clone(), calls.downgrade());
        gauge.inc();
        tokio::spawn(async move {
            auctioneer.run().await;
            gauge.dec();
            let mut desks = lock(&desks);
            // Unless a successor sits there already.
            let ours = desks
                .get(&auction_id)
                .is_some_and(|desk| own.upgrade().is_none_or(|own| desk.calls.same_channel(&own)));
            if ours {
                desks.remove(&auction_id);
            }
        });
        Desk { calls, heard }
    }

    /// Follows the records of all instances: what is running, and what the auctioneers should hear.
    ///
    /// # Errors
    /// When the log cannot be read at the start.
    pub async fn follow(&self) -> Result<impl Future<Output = ()> + Send + 'static, LogError> {
        let mut events = self.shared.world.log.events(subject::ALL_EVENTS.to_owned()).await?;
        for logged in self.shared.world.log.last_of_each().await? {
            self.note(&logged);
        }
        let house = self.clone();
        Ok(async move {
            while let Some(logged) = events.next().await {
                house.note(&logged);
                let auction_id = logged.record.auction_id;
                if let Some(desk) = lock(&house.desks).get(&auction_id) {
                    // Full or gone: the log has it.
                    drop(desk.heard.try_send(logged));
                }
            }
        })
    }

    fn note(&self, logged: &Logged) {
        self.shared.prices.hear(&logged.record, self.shared.world.connection());
        let mut running = lock(&self.running);
        if logged.record.state.outcome.is_some() {
            running.remove(&logged.record.auction_id);
        } else {
            running.insert(logged.record.auction_id);
        }
    }

    /// Measures how full the log is: what runs must be able to end.
    pub async fn measure_log(self) {
        loop {
            match self.shared.world.log.used_ratio().await {
                Ok(used) => {
                    self.shared.counters.log_used.set(used);
                    if used >= LOG_ALARM_RATIO {
                        tracing::error!(used, "log is filling up: archive ended auctions, or raise its max_bytes");
                    }
                }
                Err(error) => tracing::debug!(%error, "the log cannot be measured"),
            }
            tokio::time::sleep(MEASURE_EVERY).await;
        }
    }

    /// Commits what an instance that died left in an outbox, for auctions that nobody bids in now.
    pub async fn sweep(self) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            let running: Vec<AuctionId> = lock(&self.running).iter().copied().collect();
            for chunk in running.chunks(SWEEP_CHUNK) {
                match self.shared.world.hotstate.with_outbox(chunk).await {
                    Ok(left) => left.into_iter().for_each(|auction_id| drop(self.hand_over(auction_id, Call::Settle))),
                    Err(error) => tracing::debug!(%error, "the outboxes cannot be looked at"),
                }
            }
        }
    }
}

/// The maps are whole after every statement, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
