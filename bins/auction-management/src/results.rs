//! The durable consumer `auction-results`: openings and results from the log into PostgreSQL.

use std::convert::Infallible;
use std::time::Duration;

use bus::{Consumer, Delivery, Log, LogError};
use protocol::RecordKind;
use service::Stop;
use store::Store;

const FETCH_MESSAGES: usize = 256;
const FETCH_WAIT: Duration = Duration::from_millis(500);
const RETRY_IN: Duration = Duration::from_secs(1);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(500);

pub async fn run(consumer: Consumer, log: Log, store: Store, stop: Stop) -> Result<(), Infallible> {
    while !stop.is_cancelled() {
        match consumer.fetch(FETCH_MESSAGES, FETCH_WAIT).await {
            Ok(deliveries) => {
                for delivery in deliveries {
                    handle(delivery, &log, &store).await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the log gives nothing");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
    Ok(())
}

async fn handle(delivery: Delivery, log: &Log, store: &Store) {
    // Deliveries come without bodies: of the many records of bids nothing is needed here.
    if delivery.record_type() == Some(RecordKind::Bids.name()) {
        return delivery.ack().await;
    }
    let record = match log.at(delivery.stream_seq).await {
        Ok(Some(logged)) => logged.record,
        // Purged with its auction, whose result is known then.
        Ok(None) => return delivery.ack().await,
        Err(LogError::Record { detail, .. }) => {
            return delivery.park(&format!("the record cannot be read: {detail}")).await;
        }
        Err(error) => {
            tracing::warn!(%error, "a record cannot be fetched");
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
            tracing::warn!(auction_id = %record.auction_id, "the log has an auction that the table does not");
            delivery.ack().await;
        }
        Err(error) => {
            tracing::warn!(auction_id = %record.auction_id, %error, "a result could not be written");
            delivery.retry_in(RETRY_IN).await;
        }
    }
}
