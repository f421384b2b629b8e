//! Turns deliveries into items: groups them by auction, writes batches, acknowledges messages once their items are
//! confirmed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cloud::MAX_BATCH_ITEMS;
use domain::AuctionId;
use futures_util::{StreamExt, stream};
use prometheus_client::metrics::counter::Counter;
use protocol::{Bid, Mark, Record, RecordKind};
use service::{Latency, Stop};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::{Span, trace_span};

use crate::backend::{Backend, Delivery};

/// Messages of one fetch: enough to fill batches, few enough to write within the acknowledgement time.
const FETCH_MESSAGES: usize = 256;
/// Time a fetch waits for the first message. It also bounds how long a stop goes unnoticed.
const FETCH_WAIT: Duration = Duration::from_millis(500);
/// Messages being written at once, over all auctions.
const MAX_IN_FLIGHT: usize = 2048;
/// Messages of one auction being written at once, so that a slow auction leaves places to others.
const MAX_IN_FLIGHT_OF_ONE: usize = 64;
/// Time without a free place after which an auction counts as slow. It is longer than a healthy write, and short
/// because other auctions wait during it.
const SLOW_AFTER: Duration = Duration::from_millis(250);
/// Seconds over which the redelivery of a slow auction's messages is spread, so that they neither crowd out other
/// auctions nor wait long once the auction is faster.
const SPREAD_SECONDS: u64 = 20;
/// Bids written before their messages are acknowledged: ten batches, a fraction of the acknowledgement time.
const BIDS_IN_A_SET: usize = 250;
/// Concurrent calls to DynamoDB for one auction. A partition key takes 1,000 writes a second.
const CONCURRENT_BATCHES: usize = 4;
/// Delay before redelivery of a message with bids that were not written.
const RETRY_IN: Duration = Duration::from_secs(1);
/// Auctions whose newest record is remembered, 80 bytes each. With more, the first record of each after that is
/// compared with none.
const MAX_CHAINS: usize = 50_000;
/// Pause after a failed fetch.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(500);
/// Time limit for the writes in flight when stopping. Unfinished messages are delivered again.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// The service's metrics.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Bids written to DynamoDB.
    pub items: Counter,
    /// Batches with at least one bid that must be written again.
    pub failures: Counter,
    /// Time from the decision of a bid to its confirmed write.
    pub lag: Latency,
    /// Records that break the chain of their auction.
    pub forged: Counter,
    /// Bids that DynamoDB can never take.
    pub rejected: Counter,
}

/// The bids of one or several batches that were not written.
#[derive(Debug, Default)]
struct Unwritten {
    again: BTreeSet<u64>,
    /// Why each of these can never be written.
    rejected: BTreeMap<u64, String>,
}

impl Extend<Self> for Unwritten {
    fn extend<I: IntoIterator<Item = Self>>(&mut self, batches: I) {
        for batch in batches {
            self.again.extend(batch.again);
            self.rejected.extend(batch.rejected);
        }
    }
}

/// The consumer. Clones share the backend and the counters.
#[derive(Clone)]
pub struct Persist<B> {
    backend: B,
    counters: Counters,
}

impl<B: Backend> Persist<B> {
    /// A consumer that has not started.
    pub const fn new(backend: B, counters: Counters) -> Self {
        Self { backend, counters }
    }

    /// Fetches and writes until the stop, then finishes the writes in flight.
    pub async fn run(self, stop: Stop) {
        let (mut places, mut chains) = (Places::new(), Chains::default());
        let mut writes = JoinSet::new();
        // A running fetch is not interrupted: its messages would have to wait for redelivery.
        while !stop.is_cancelled() {
            while writes.try_join_next().is_some() {}
            let deliveries = match self.backend.fetch(FETCH_MESSAGES, FETCH_WAIT).await {
                Ok(deliveries) => deliveries,
                Err(error) => {
                    tracing::warn!(error = %errors::chain(&error), "failed to read the log; will retry");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                    continue;
                }
            };
            for (auction_id, mut messages) in self.sort(deliveries, &mut chains).await {
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
            tracing::warn!("stopped with writes in flight; their messages will be delivered again");
        }
    }

    /// Writes the bids of one record.
    ///
    /// # Errors
    /// What was not written: why it never can be, or None if it may be later.
    pub async fn write(&self, record: &Record) -> Result<(), Option<String>> {
        let unwritten = self.write_bids(record.auction_id, &record.bids).await;
        match unwritten.rejected.into_iter().next() {
            _ if !unwritten.again.is_empty() => Err(None),
            Some((seq, why)) => Err(Some(format!("the bid with seq {seq} cannot be written: {why}"))),
            None => Ok(()),
        }
    }

    /// Writes bids with different seqs, several batches at once, and counts those that were written.
    async fn write_bids(&self, auction_id: AuctionId, bids: &[Bid]) -> Unwritten {
        let batches: Vec<Vec<Bid>> = bids.chunks(MAX_BATCH_ITEMS).map(<[Bid]>::to_vec).collect();
        let unwritten: Unwritten = stream::iter(batches)
            .map(|batch| {
                let persist = self.clone();
                async move { persist.write_batch(auction_id, &batch).await }
            })
            .buffer_unordered(CONCURRENT_BATCHES)
            .collect()
            .await;
        let left = unwritten.again.len() + unwritten.rejected.len();
        self.counters.items.inc_by(u64::try_from(bids.len() - left).unwrap_or(0));
        unwritten
    }

    async fn write_auction(&self, auction_id: AuctionId, mut messages: Vec<(B::Delivery, Vec<Bid>)>) {
        while !messages.is_empty() {
            let mut bids = 0;
            let fits = |message: &&(B::Delivery, Vec<Bid>)| {
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

    async fn write_set(&self, auction_id: AuctionId, set: Vec<(B::Delivery, Vec<Bid>)>) {
        // Each record is in the trace of its own append, and ends with its acknowledgement.
        let span = || trace_span!(target: traces::TARGET, "write history", otel.kind = "consumer", %auction_id);
        let spans: Vec<Span> = set.iter().map(|(delivery, _)| delivery.trace().continued(span)).collect();
        // A message that was delivered twice repeats its keys, and one repeated key fails a whole batch.
        let bids: BTreeMap<u64, Bid> =
            set.iter().flat_map(|(_, bids)| bids.iter().map(|bid| (bid.seq, bid.clone()))).collect();
        let unwritten = self.write_bids(auction_id, &bids.into_values().collect::<Vec<_>>()).await;
        // Messages whose bids are written are acknowledged, also when others failed: a throttled table then makes
        // progress. A message with a bid that can never be written is parked once its other bids are.
        for ((delivery, bids), span) in set.into_iter().zip(spans) {
            let rejected = bids.iter().find_map(|bid| unwritten.rejected.get(&bid.seq).map(|why| (bid.seq, why)));
            if bids.iter().any(|bid| unwritten.again.contains(&bid.seq)) {
                delivery.retry_in(RETRY_IN).await;
            } else if let Some((seq, why)) = rejected {
                delivery.park(&format!("the bid with seq {seq} cannot be written: {why}")).await;
            } else {
                if let Some(bid) = bids.first() {
                    self.counters.lag.record_since(bid.timestamp);
                }
                delivery.ack().await;
            }
            drop(span);
        }
    }

    /// Groups bids by auction, in the order of the log. Acknowledges records without bids, and parks those that are
    /// unreadable or break the chain of their auction.
    async fn sort(&self, deliveries: Vec<B::Delivery>, chains: &mut Chains) -> ByAuction<B::Delivery> {
        let mut auctions: ByAuction<B::Delivery> = HashMap::new();
        for delivery in deliveries {
            if delivery.record_type().is_some_and(|kind| kind != RecordKind::Bids.name()) {
                delivery.ack().await;
                continue;
            }
            match serde_json::from_slice::<Record>(delivery.payload()) {
                Ok(record) if chains.admit(&record) => {
                    auctions.entry(record.auction_id).or_default().push((delivery, record.bids));
                }
                Ok(_) => {
                    self.counters.forged.inc();
                    delivery.park("it breaks the chain of its auction").await;
                }
                Err(error) => delivery.park(&format!("unreadable record: {error}")).await,
            }
        }
        auctions
    }

    async fn write_batch(&self, auction_id: AuctionId, batch: &[Bid]) -> Unwritten {
        let Err(error) = self.backend.write(auction_id, batch).await else { return Unwritten::default() };
        if !error.seqs.is_empty() {
            self.counters.failures.inc();
            tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to write bids; will retry");
        }
        self.counters.rejected.inc_by(u64::try_from(error.rejected.len()).unwrap_or(0));
        let rejected = error.rejected.iter().map(|(seq, why)| (*seq, errors::chain(why).to_string()));
        Unwritten { rejected: rejected.collect(), again: error.seqs }
    }
}

/// Messages with their bids, by auction.
type ByAuction<D> = HashMap<AuctionId, Vec<(D, Vec<Bid>)>>;

/// Where the chain of each auction stood after the newest record delivered. Records are delivered in the log's order, but
/// again after a failure, and any of them may be the first.
#[derive(Default)]
struct Chains(HashMap<AuctionId, Mark>);

impl Chains {
    /// Whether a record may be the auction's: its head is that of its facts, and if it comes right after the newest
    /// one, it continues it.
    fn admit(&mut self, record: &Record) -> bool {
        let before = record.seq.saturating_sub(record.facts());
        let newest = self.0.get(&record.auction_id).copied();
        if !record.is_whole() || newest.is_some_and(|newest| newest.seq == before && newest.head != record.prev) {
            return false;
        }
        if newest.is_none_or(|newest| newest.seq < record.seq) {
            if self.0.len() >= MAX_CHAINS {
                self.0.clear();
            }
            self.0.insert(record.auction_id, record.mark());
        }
        true
    }
}

/// Places for messages being written.
struct Places {
    all: Arc<Semaphore>,
    /// Auctions with messages being written.
    auctions: HashMap<AuctionId, Auction>,
}

struct Auction {
    places: Arc<Semaphore>,
    is_slow: bool,
    /// Messages sent back for another delivery since the auction had none in flight.
    deferred: u64,
}

impl Places {
    fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(MAX_IN_FLIGHT)), auctions: HashMap::new() }
    }

    /// Reserves places for `count` messages of an auction. None if the auction is slow.
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
        // Neither semaphore is ever closed.
        Some([own.ok()?.ok()?, Arc::clone(&self.all).acquire_many_owned(count).await.ok()?])
    }

    /// Delay before a message without a place is delivered again.
    fn retry_in(&mut self, auction_id: AuctionId) -> Duration {
        let deferred = self.auctions.get_mut(&auction_id).map_or(0, |auction| {
            auction.deferred += 1;
            auction.deferred
        });
        Duration::from_secs(1 + deferred % SPREAD_SECONDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_records_are_not_admitted_and_repeated_ones_are() {
        let lines = include_str!("../../../libs/protocol/tests/stored/closed.jsonl").lines();
        let records: Vec<Record> = lines.map(|line| serde_json::from_str(line).expect("a record")).collect();
        let mut chains = Chains::default();
        assert!(chains.admit(&records[2]));
        for pair in records[2..].windows(2) {
            let (before, next) = (&pair[0], &pair[1]);
            let elsewhere = Mark { seq: before.seq, head: domain::Head::GENESIS };
            assert!(!chains.admit(&next.clone().placed_after(elsewhere)), "it continues another record");
            let mut altered = next.clone();
            altered.time += 1;
            altered.bids.iter_mut().for_each(|bid| bid.username.push('x'));
            assert!(!chains.admit(&altered), "its head is that of other facts");
            assert!(chains.admit(next));
        }
        assert!(records[2..].iter().all(|record| chains.admit(record)), "delivered again");
        assert!(Chains::default().admit(&records[3]), "any may be the first");
    }
}
