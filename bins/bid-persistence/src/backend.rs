//! What the consumer needs of the world outside this process: deliveries of the log, and a table. The service
//! gives it the real one; the simulator one that fails as it likes.

use std::time::Duration;

use bus::Consumer;
use cloud::{History, Unwritten};
use domain::AuctionId;
use protocol::Bid;

/// Errors are for our log.
pub trait Backend: Clone + Send + Sync + 'static {
    type Delivery: Delivery;

    /// See [`Consumer::fetch`].
    fn fetch(&self, most: usize, wait: Duration) -> impl Future<Output = Result<Vec<Self::Delivery>, String>> + Send;
    /// See [`History::write`].
    fn write(&self, auction_id: AuctionId, bids: &[Bid]) -> impl Future<Output = Result<(), Unwritten>> + Send;
}

/// One message of the log; see [`bus::Delivery`].
pub trait Delivery: Send + 'static {
    fn record_type(&self) -> Option<&str>;
    fn payload(&self) -> &[u8];
    fn ack(self) -> impl Future<Output = ()> + Send;
    fn retry_in(self, delay: Duration) -> impl Future<Output = ()> + Send;
    fn park(self, reason: &str) -> impl Future<Output = ()> + Send;
}

/// The world as it is.
#[derive(Clone)]
pub struct LiveBackend {
    pub consumer: Consumer,
    pub history: History,
}

impl Backend for LiveBackend {
    type Delivery = bus::Delivery;

    async fn fetch(&self, most: usize, wait: Duration) -> Result<Vec<bus::Delivery>, String> {
        self.consumer.fetch(most, wait).await.map_err(|error| error.to_string())
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
