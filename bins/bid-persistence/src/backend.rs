//! Everything the consumer needs from outside the process: deliveries of the log and a table. The service has the live
//! one; the simulator has one that fails on purpose.

use std::time::Duration;

use bus::Consumer;
use cloud::{History, Unwritten};
use domain::AuctionId;
use errors::BoxError;
use protocol::Bid;

/// The log's consumer did not answer. Its messages are delivered again.
#[derive(Debug, thiserror::Error)]
#[error("failed to fetch from the log consumer")]
pub struct FetchError(#[source] pub BoxError);

/// The log's deliveries and the table, as the consumer uses them.
pub trait Backend: Clone + Send + Sync + 'static {
    /// One message of the log.
    type Delivery: Delivery;

    /// See [`Consumer::fetch`].
    fn fetch(
        &self,
        most: usize,
        wait: Duration,
    ) -> impl Future<Output = Result<Vec<Self::Delivery>, FetchError>> + Send;
    /// See [`History::write`].
    fn write(&self, auction_id: AuctionId, bids: &[Bid]) -> impl Future<Output = Result<(), Unwritten>> + Send;
}

/// One message of the log. Each method is that of [`bus::Delivery`] of the same name.
pub trait Delivery: Send + 'static {
    /// The kind of record, from the header.
    fn record_type(&self) -> Option<&str>;
    /// The stored record.
    fn payload(&self) -> &[u8];
    /// The append of the record, if its trace is exported.
    fn trace(&self) -> traces::Context {
        traces::Context::default()
    }
    /// Acknowledges the message.
    fn ack(self) -> impl Future<Output = ()> + Send;
    /// Asks for another delivery after `delay`.
    fn retry_in(self, delay: Duration) -> impl Future<Output = ()> + Send;
    /// Moves the message to the dead letters.
    fn park(self, reason: &str) -> impl Future<Output = ()> + Send;
}

/// NATS and DynamoDB.
#[derive(Clone)]
pub struct LiveBackend {
    pub consumer: Consumer,
    pub history: History,
}

impl Backend for LiveBackend {
    type Delivery = bus::Delivery;

    async fn fetch(&self, most: usize, wait: Duration) -> Result<Vec<bus::Delivery>, FetchError> {
        self.consumer.fetch(most, wait).await.map_err(FetchError)
    }

    async fn write(&self, auction_id: AuctionId, bids: &[Bid]) -> Result<(), Unwritten> {
        self.history.write(auction_id, bids).await
    }
}

impl Delivery for bus::Delivery {
    fn record_type(&self) -> Option<&str> {
        self.record_type()
    }

    fn payload(&self) -> &[u8] {
        self.payload()
    }

    fn trace(&self) -> traces::Context {
        self.trace()
    }

    async fn ack(self) {
        self.ack().await;
    }

    async fn retry_in(self, delay: Duration) {
        self.retry_in(delay).await;
    }

    async fn park(self, reason: &str) {
        self.park(reason).await;
    }
}
