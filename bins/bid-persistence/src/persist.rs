//! From deliveries to items: grouped by auction, batched, acknowledged when confirmed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cloud::MAX_BATCH_ITEMS;
use domain::AuctionId;
use futures_util::{StreamExt, stream};
use prometheus_client::metrics::counter::Counter;
use protocol::{Bid, Record, RecordKind};
use service::Stop;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::backend::{Backend, Delivery};

/// Messages taken at once; enough to fill batches, few enough to write within the acknowledgement time.
const FETCH_MESSAGES: usize = 256;
const FETCH_WAIT: Duration = Duration::from_millis(500);
/// Messages being written, over all auctions, and of one: a slow one leaves places to others.
const MAX_IN_FLIGHT: usize = 2048;
const MAX_IN_FLIGHT_OF_ONE: usize = 64;
/// An auction that gets no place for so long is slow: more than a healthy write takes, and others wait meanwhile.
const SLOW_AFTER: Duration = Duration::from_millis(250);
/// What a slow auction has no place for comes again spread over so many seconds, so that it neither crowds out others
/// nor is left alone for long once it is faster.
const SPREAD_SECONDS: u64 = 20;
/// Bids written before their messages are acknowledged: 10 batches.
const BIDS_IN_A_SET: usize = 250;
/// Calls to DynamoDB at once for one auction: a partition key takes 1,000 writes a second.
const CONCURRENT_BATCHES: usize = 4;
const RETRY_IN: Duration = Duration::from_secs(1);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(500);
/// Writes in flight when stopping; what is not through is delivered again.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// What it has done.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    pub items: Counter,
    pub failures: Counter,
}

#[derive(Clone)]
pub struct Persist<W> {
    world: W,
    counters: Counters,
}

impl<W: Backend> Persist<W> {
    pub const fn new(world: W, counters: Counters) -> Self {
        Self { world, counters }
    }

    pub async fn run(self, stop: Stop) {
        let mut places = Places::new();
        let mut writes = JoinSet::new();
        // A fetch that is under way is finished: what it brings would otherwise wait for redelivery.
        while !stop.is_cancelled() {
            while writes.try_join_next().is_some() {}
            let deliveries = match self.world.fetch(FETCH_MESSAGES, FETCH_WAIT).await {
                Ok(deliveries) => deliveries,
                Err(error) => {
                    tracing::warn!(%error, "the log gives nothing");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                    continue;
                }
            };
            for (auction_id, mut messages) in sort(deliveries).await {
                while !messages.is_empty() {
                    let rest = messages.split_off(messages.len().min(MAX_IN_FLIGHT_OF_ONE));
                    if let Some(place) = places.take(auction_id, messages.len()).await {
                        let persist = self.clone();
                        writes.spawn(async move {
                            persist.write_auction(auction_id, messages).await;
                            drop(place);
                        });
                    } else {
                        for (delivery, _) in messages {
                            delivery.retry_in(places.retry_in(auction_id)).await;
                        }
                    }
                    messages = rest;
                }
            }
        }
        let finishing = async { while writes.join_next().await.is_some() {} };
        if tokio::time::timeout(FINISH_TIMEOUT, finishing).await.is_err() {
            tracing::warn!("writes were still in flight; they are delivered again");
        }
    }

    async fn write_auction(&self, auction_id: AuctionId, mut messages: Vec<(W::Delivery, Vec<Bid>)>) {
        while !messages.is_empty() {
            let mut bids = 0;
            let fits = |message: &&(W::Delivery, Vec<Bid>)| {
                let before = bids;
                bids += message.1.len();
                before < BIDS_IN_A_SET
            };
            let set = messages.iter().take_while(fits).count();
            let rest = messages.split_off(set);
            self.write_set(auction_id, messages).await;
            messages = rest;
        }
    }

    async fn write_set(&self, auction_id: AuctionId, set: Vec<(W::Delivery, Vec<Bid>)>) {
        // A message that was delivered twice has its keys twice, and one repeated key fails a whole batch.
        let bids: BTreeMap<u64, Bid> =
            set.iter().flat_map(|(_, bids)| bids.iter().map(|bid| (bid.seq, bid.clone()))).collect();
        let count = bids.len();
        let bids: Vec<Bid> = bids.into_values().collect();
        let batches: Vec<Vec<Bid>> = bids.chunks(MAX_BATCH_ITEMS).map(<[Bid]>::to_vec).collect();
        let unwritten: BTreeSet<u64> = stream::iter(batches)
            .map(|batch| {
                let persist = self.clone();
                async move { persist.write_batch(auction_id, &batch).await }
            })
            .buffer_unordered(CONCURRENT_BATCHES)
            .concat()
            .await;
        self.counters.items.inc_by(u64::try_from(count - unwritten.len()).unwrap_or(0));
        // What is written is not sent again: where little gets through at a time, the rest has its turn.
        for (delivery, bids) in set {
            if bids.iter().any(|bid| unwritten.contains(&bid.seq)) {
                delivery.retry_in(RETRY_IN).await;
            } else {
                delivery.ack().await;
            }
        }
    }

    /// The seqs that may not be written.
    async fn write_batch(&self, auction_id: AuctionId, batch: &[Bid]) -> BTreeSet<u64> {
        match self.world.write(auction_id, batch).await {
            Ok(()) => BTreeSet::new(),
            Err(error) => {
                self.counters.failures.inc();
                tracing::warn!(%auction_id, %error, "bids are sent again");
                error.seqs
            }
        }
    }
}

/// What may be under way.
struct Places {
    all: Arc<Semaphore>,
    /// Those that have something under way.
    auctions: HashMap<AuctionId, Auction>,
}

struct Auction {
    places: Arc<Semaphore>,
    is_slow: bool,
    /// Messages that were told to come again.
    deferred: u64,
}

impl Places {
    fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(MAX_IN_FLIGHT)), auctions: HashMap::new() }
    }

    /// Places for so many messages of an auction, unless it is slow.
    async fn take(&mut self, auction_id: AuctionId, count: usize) -> Option<[OwnedSemaphorePermit; 2]> {
        self.auctions.retain(|_, auction| auction.places.available_permits() < MAX_IN_FLIGHT_OF_ONE);
        let auction = self.auctions.entry(auction_id).or_insert_with(|| Auction {
            places: Arc::new(Semaphore::new(MAX_IN_FLIGHT_OF_ONE)),
            is_slow: false,
            deferred: 0,
        });
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let wait = if auction.is_slow { Duration::ZERO } else { SLOW_AFTER };
        let own = tokio::time::timeout(wait, Arc::clone(&auction.places).acquire_many_owned(count)).await;
        auction.is_slow = own.is_err();
        // Neither is ever closed.
        Some([own.ok()?.ok()?, Arc::clone(&self.all).acquire_many_owned(count).await.ok()?])
    }

    /// When a message that has no place is to come again.
    fn retry_in(&mut self, auction_id: AuctionId) -> Duration {
        let deferred = self.auctions.get_mut(&auction_id).map_or(0, |auction| {
            auction.deferred += 1;
            auction.deferred
        });
        Duration::from_secs(1 + deferred % SPREAD_SECONDS)
    }
}

/// Bids by auction, in the order of the log. Records without bids are acknowledged, unreadable ones parked.
async fn sort<D: Delivery>(deliveries: Vec<D>) -> HashMap<AuctionId, Vec<(D, Vec<Bid>)>> {
    let mut auctions: HashMap<AuctionId, Vec<(D, Vec<Bid>)>> = HashMap::new();
    for delivery in deliveries {
        if delivery.record_type().is_some_and(|kind| kind != RecordKind::Bids.name()) {
            delivery.ack().await;
            continue;
        }
        match serde_json::from_slice::<Record>(delivery.payload()) {
            Ok(record) => auctions.entry(record.auction_id).or_default().push((delivery, record.bids)),
            Err(error) => delivery.park(&format!("the record cannot be read: {error}")).await,
        }
    }
    auctions
}
