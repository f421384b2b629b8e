//! The durable consumer `auction-results`: writes openings and results from the log into PostgreSQL.
//!
//! Several records are written at once, in any order: an older one never overwrites a newer one. A record that cannot be
//! written is delivered again after growing pauses and holds up no others; one that can never be written is parked, as is
//! one that does not continue the record after which it was appended: another program published it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bus::{Consumer, Delivery, Log, LogError};
use prometheus_client::metrics::counter::Counter;
use protocol::RecordKind;
use service::Stop;
use store::Store;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Most deliveries in one fetch.
const FETCH_MESSAGES: usize = 256;
/// Longest wait of one fetch for its first delivery; also how late the stop may be noticed.
const FETCH_WAIT: Duration = Duration::from_millis(500);
/// Records being read and written at once. PostgreSQL is used through ten connections.
const CONCURRENT: usize = 16;
/// Delay before a record is delivered again, after a failure of the log or of PostgreSQL. It doubles with each delivery
/// up to [`MAX_RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest delay, so that results are written soon after an outage.
const MAX_RETRY: Duration = Duration::from_secs(16);
/// Pause after a failed fetch.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(500);

/// Consumes until the stop.
pub async fn run(consumer: Consumer, log: Log, store: Store, forged: Counter, stop: Stop) -> Result<(), Infallible> {
    let places = Arc::new(Semaphore::new(CONCURRENT));
    let mut running = JoinSet::new();
    while !stop.is_cancelled() {
        match consumer.fetch(FETCH_MESSAGES, FETCH_WAIT).await {
            Ok(deliveries) => {
                for delivery in deliveries {
                    // Deliveries carry headers only. The many records of bids are not needed here, so their bodies are
                    // never read.
                    if delivery.record_type() == Some(RecordKind::Bids.name()) {
                        delivery.ack().await;
                        continue;
                    }
                    // The semaphore is never closed.
                    let place = Arc::clone(&places).acquire_owned().await;
                    let (log, store, forged) = (log.clone(), store.clone(), forged.clone());
                    running.spawn(async move {
                        Box::pin(handle(delivery, &log, &store, &forged)).await;
                        drop(place);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(error = %errors::chain(&*error), "failed to fetch from the log consumer");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
    Ok(())
}

async fn handle(delivery: Delivery, log: &Log, store: &Store, forged: &Counter) {
    let retry_in = retry_in(delivery.deliveries);
    let logged = match log.at(delivery.stream_seq).await {
        Ok(Some(logged)) => logged,
        // The log was purged, which happens after the auction's result is in the table.
        Ok(None) => return delivery.ack().await,
        Err(error @ LogError::Record { .. }) => {
            return delivery.park(&errors::chain(&error).to_string()).await;
        }
        Err(error) => {
            tracing::warn!(error = %errors::chain(&error), "failed to read a record");
            return delivery.retry_in(retry_in).await;
        }
    };
    match log.is_next(&logged).await {
        Ok(true) => {}
        Ok(false) => {
            forged.inc();
            return delivery.park("it does not continue the record before it").await;
        }
        Err(error) => {
            tracing::warn!(error = %errors::chain(&error), "failed to read the record before a result");
            return delivery.retry_in(retry_in).await;
        }
    }
    let record = logged.record;
    if record.kind == RecordKind::Closed
        && service::fault::is_on(service::fault::FaultPoint::ForgetResult, &record.auction_id)
    {
        return delivery.ack().await;
    }
    let auction_id = record.auction_id;
    match store.write_record(&record).await {
        Ok(true) => delivery.ack().await,
        Ok(false) => {
            tracing::warn!(%auction_id, "skipped a record of an auction that has no row");
            delivery.ack().await;
        }
        Err(error) if error.is_permanent() => delivery.park(&errors::chain(&error).to_string()).await,
        Err(error) => {
            tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to write a result");
            delivery.retry_in(retry_in).await;
        }
    }
}

fn retry_in(deliveries: u64) -> Duration {
    let doublings = u32::try_from(deliveries.saturating_sub(1)).unwrap_or(u32::MAX).min(MAX_RETRY.as_secs().ilog2());
    (FIRST_RETRY * 2_u32.pow(doublings)).min(MAX_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_their_bound() {
        let delays: Vec<u64> = (0..=8).map(|deliveries| retry_in(deliveries).as_secs()).collect();
        assert_eq!(delays, [1, 1, 2, 4, 8, 16, 16, 16, 16]);
        assert_eq!(retry_in(u64::MAX), MAX_RETRY);
    }
}
