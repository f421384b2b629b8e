//! The backend of a simulated bid-persistence: a consumer of the log and the history table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bid_persistence::{Backend, Delivery, FetchError};
use cloud::Unwritten;
use domain::AuctionId;
use protocol::Bid;
use tokio::time::{Instant, timeout};

use super::network::{Endpoint, Outside, Place, lock};

/// Time until an unacknowledged record is delivered again, as the consumer is declared.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Timeout of a write to the table.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
/// Items of one `BatchWriteItem` that DynamoDB accepts.
const MAX_ITEMS: usize = 25;

impl Outside {
    /// Whether the consumer has acknowledged every record.
    pub fn is_drained(&self) -> bool {
        self.deliveries.next == self.log.len() && self.deliveries.pending.is_empty()
    }

    /// Delivers at most this many records: first those that are due again.
    fn deliver(&mut self, max: usize) -> Vec<usize> {
        let (now, again_at) = (Instant::now(), Instant::now() + ACK_WAIT);
        let again = self.deliveries.pending.iter().filter(|(_, at)| **at <= now).map(|(nth, _)| *nth);
        let nths: Vec<usize> = again.chain(self.deliveries.next..self.log.len()).take(max).collect();
        for nth in &nths {
            self.deliveries.pending.insert(*nth, again_at);
            self.deliveries.next = self.deliveries.next.max(nth + 1);
        }
        // Some are delivered twice.
        let twice = nths.iter().copied().filter(|_| self.random.u8(..20) == 0).collect::<Vec<_>>();
        nths.into_iter().chain(twice).collect()
    }

    /// Writes a batch as DynamoDB does, sometimes only in part.
    fn write(&mut self, bids: &[Bid]) -> Result<(), Unwritten> {
        let seqs: BTreeMap<u64, &Bid> = bids.iter().map(|bid| (bid.seq, bid)).collect();
        if bids.len() > MAX_ITEMS || seqs.len() < bids.len() {
            self.violations.push(format!("a batch of {} items with {} keys", bids.len(), seqs.len()));
        }
        let part = self.lost_in_thousand.is_some() && self.random.u8(..10) == 0;
        let written = if part { self.random.usize(..bids.len()) } else { bids.len() };
        self.table.extend(bids[..written].iter().map(|bid| (bid.seq, bid.clone())));
        if part { Err(unwritten(&bids[written..], "unprocessed items")) } else { Ok(()) }
    }
}

fn unwritten(bids: &[Bid], reason: &str) -> Unwritten {
    let source = cloud::HistoryError::Call(reason.into());
    Unwritten { seqs: bids.iter().map(|bid| bid.seq).collect(), rejected: BTreeMap::new(), source }
}

/// One delivered record.
pub struct Delivered {
    endpoint: Endpoint,
    nth: usize,
    kind: String,
    payload: Vec<u8>,
}

impl Backend for Endpoint {
    type Delivery = Delivered;

    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivered>, FetchError> {
        let grown = Arc::clone(&lock(&self.outside).grown);
        let is_new = || {
            let outside = lock(&self.outside);
            outside.log.len() > outside.deliveries.next
        };
        // If no record is appended in this time, an unacknowledged one may be due again.
        drop(timeout(wait, grown.until(is_new)).await);
        let fetched = self.send(Place::Nats, wait, move |outside| outside.deliver(max)).await;
        let nths = fetched.ok_or_else(|| FetchError("no answer".into()))?;
        let records: Vec<_> = nths.iter().map(|nth| (*nth, lock(&self.outside).log[*nth].record.clone())).collect();
        let delivered = records.into_iter().map(|(nth, record)| {
            let payload = serde_json::to_vec(&record).map_err(|error| FetchError(error.into()))?;
            Ok(Delivered { endpoint: self.clone(), nth, kind: record.kind.to_string(), payload })
        });
        delivered.collect()
    }

    async fn write(&self, _: AuctionId, bids: &[Bid]) -> Result<(), Unwritten> {
        let batch = bids.to_vec();
        let sent = self.send(Place::Table, WRITE_TIMEOUT, move |outside| outside.write(&batch)).await;
        sent.unwrap_or_else(|| Err(unwritten(bids, "no answer")))
    }
}

impl Delivery for Delivered {
    fn record_type(&self) -> Option<&str> {
        Some(&self.kind)
    }

    fn payload(&self) -> &[u8] {
        &self.payload
    }

    async fn ack(self) {
        let nth = self.nth;
        drop(self.endpoint.cast(Place::Nats, move |outside| outside.deliveries.pending.remove(&nth)).await);
    }

    async fn retry_in(self, delay: Duration) {
        let nth = self.nth;
        let again = move |outside: &mut Outside| {
            if let Some(at) = outside.deliveries.pending.get_mut(&nth) {
                *at = Instant::now() + delay;
            }
        };
        drop(self.endpoint.cast(Place::Nats, again).await);
    }

    async fn park(self, reason: &str) {
        lock(&self.endpoint.outside).violations.push(format!("record {} was parked: {reason}", self.nth));
    }
}
