//! The durable consumer `auction-results`: writes openings and results from the log into PostgreSQL.

use std::convert::Infallible;
use std::time::Duration;

use bus::{Consumer, Delivery, Log, LogError};
use protocol::RecordKind;
use service::Stop;
use store::Store;

/// Most deliveries in one fetch.
const FETCH_MESSAGES: usize = 256;
/// Longest wait of one fetch for its first delivery; also how late the stop may be noticed.
const FETCH_WAIT: Duration = Duration::from_millis(500);
/// Delay before a record is delivered again, after a failure of the log or of PostgreSQL.
const RETRY_IN: Duration = Duration::from_secs(1);
/// Pause after a failed fetch.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(500);

/// Consumes until the stop.
pub async fn run(consumer: Consumer, log: Log, store: Store, stop: Stop) -> Result<(), Infallible> {
    while !stop.is_cancelled() {
        match consumer.fetch(FETCH_MESSAGES, FETCH_WAIT).await {
            Ok(deliveries) => {
                for delivery in deliveries {
                    handle(delivery, &log, &store).await;
                }
            }
            Err(error) => {
                tracing::warn!(error = %errors::chain(&*error), "failed to fetch from the log consumer");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
    Ok(())
}

async fn handle(delivery: Delivery, log: &Log, store: &Store) {
    // Deliveries carry headers only. The many records of bids are not needed here, so their bodies are never read.
    if delivery.record_type() == Some(RecordKind::Bids.name()) {
        return delivery.ack().await;
    }
    let record = match log.at(delivery.stream_seq).await {
        Ok(Some(logged)) => logged.record,
        // The log was purged, which happens after the auction's result is in the table.
        Ok(None) => return delivery.ack().await,
        Err(error @ LogError::Record { .. }) => {
            return delivery.park(&errors::chain(&error).to_string()).await;
        }
        Err(error) => {
            tracing::warn!(error = %errors::chain(&error), "failed to read a record");
            return delivery.retry_in(RETRY_IN).await;
        }
    };
    if record.kind == RecordKind::Closed
        && service::fault::is_on(service::fault::FaultPoint::ForgetResult, &record.auction_id)
    {
        return delivery.ack().await;
    }
    match store.write_record(&record).await {
        Ok(true) => delivery.ack().await,
        Ok(false) => {
            tracing::warn!(auction_id = %record.auction_id, "skipped a record of an auction that has no row");
            delivery.ack().await;
        }
        Err(error) => {
            let auction_id = record.auction_id;
            tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to write a result");
            delivery.retry_in(RETRY_IN).await;
        }
    }
}
