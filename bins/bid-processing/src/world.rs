//! What an auctioneer needs of the world outside this process: Redis that decides, the log that keeps, a
//! clock, and whoever knows auctions that both have forgotten. The services give it the real one; the
//! simulator one that fails as it likes.

use std::time::Duration;

use bus::{AppendError, Bus, Log, LogError, Logged};
use domain::{AuctionId, BidRequest, Millis, UserId};
use hotstate::{
    Clock, Closed, Created, Hotstate, HotstateError, Opened, OutboxEntry, Position, Restoration, Verdicts, View,
};
use protocol::{CreateRequest, Failure, Mark, Record, Reply, StateRequest, subject};

/// What a call to Redis gives. None where the auction's state is missing.
pub type Decided<T> = Result<Option<T>, HotstateError>;

/// Why it is unknown whether PostgreSQL has an auction.
#[derive(Debug, thiserror::Error)]
pub enum RecallError {
    /// auction-management did not answer.
    #[error("request to auction-management failed")]
    Request(#[from] bus::RequestError),
    /// auction-management answered with a failure.
    #[error("auction-management could not answer")]
    Failed(#[from] Failure),
}

/// Each method is that of [`Hotstate`], [`Log`] or [`Clock`] of the same name.
pub trait Backend: Send + Sync + 'static {
    fn create(&self, request: &CreateRequest) -> impl Future<Output = Result<Created, HotstateError>> + Send;
    fn open(&self, auction_id: AuctionId) -> impl Future<Output = Decided<Opened>> + Send;
    fn close(&self, auction_id: AuctionId, by: Option<UserId>) -> impl Future<Output = Decided<Closed>> + Send;
    fn cancel(&self, auction_id: AuctionId, by: UserId) -> impl Future<Output = Decided<Closed>> + Send;
    fn place(&self, auction_id: AuctionId, bids: &[BidRequest]) -> impl Future<Output = Decided<Verdicts>> + Send;
    fn view(&self, auction_id: AuctionId) -> impl Future<Output = Decided<View>> + Send;
    fn outbox(
        &self,
        auction_id: AuctionId,
        committed: u64,
    ) -> impl Future<Output = Result<Vec<OutboxEntry>, HotstateError>> + Send;
    fn position(&self, auction_id: AuctionId, committed: u64) -> impl Future<Output = Decided<Position>> + Send;
    fn restore(
        &self,
        auction_id: AuctionId,
        seen: Option<Mark>,
        restoration: &Restoration<'_>,
    ) -> impl Future<Output = Result<bool, HotstateError>> + Send;

    fn append(&self, record: &Record, expected: u64) -> impl Future<Output = Result<u64, AppendError>> + Send;
    fn last(&self, auction_id: AuctionId) -> impl Future<Output = Result<Option<Logged>, LogError>> + Send;
    fn next(&self, auction_id: AuctionId, from: u64) -> impl Future<Output = Result<Option<Logged>, LogError>> + Send;
    fn all(&self, auction_id: AuctionId) -> impl Future<Output = Result<Vec<Logged>, LogError>> + Send;

    /// Whether PostgreSQL has this auction, which neither Redis nor the log has, as ended.
    fn recall(&self, auction_id: AuctionId) -> impl Future<Output = Result<bool, RecallError>> + Send;
    fn now(&self) -> Millis;
    /// See [`Bus::connection`].
    fn connection(&self) -> Option<u64>;
}

/// The world as it is.
pub struct LiveBackend {
    pub hotstate: Hotstate,
    pub log: Log,
    pub clock: Clock,
    pub bus: Bus,
}

/// For auction-management to say whether it knows an auction.
const RECALL_TIMEOUT: Duration = Duration::from_secs(1);

impl Backend for LiveBackend {
    async fn create(&self, request: &CreateRequest) -> Result<Created, HotstateError> {
        self.hotstate.create(request).await
    }

    async fn open(&self, auction_id: AuctionId) -> Decided<Opened> {
        self.hotstate.open(auction_id).await
    }

    async fn close(&self, auction_id: AuctionId, by: Option<UserId>) -> Decided<Closed> {
        self.hotstate.close(auction_id, by).await
    }

    async fn cancel(&self, auction_id: AuctionId, by: UserId) -> Decided<Closed> {
        self.hotstate.cancel(auction_id, by).await
    }

    async fn place(&self, auction_id: AuctionId, bids: &[BidRequest]) -> Decided<Verdicts> {
        self.hotstate.place(auction_id, bids).await
    }

    async fn view(&self, auction_id: AuctionId) -> Decided<View> {
        self.hotstate.view(auction_id).await
    }

    async fn outbox(&self, auction_id: AuctionId, committed: u64) -> Result<Vec<OutboxEntry>, HotstateError> {
        self.hotstate.outbox(auction_id, committed).await
    }

    async fn position(&self, auction_id: AuctionId, committed: u64) -> Decided<Position> {
        self.hotstate.position(auction_id, committed).await
    }

    async fn restore(
        &self,
        auction_id: AuctionId,
        seen: Option<Mark>,
        restoration: &Restoration<'_>,
    ) -> Result<bool, HotstateError> {
        self.hotstate.restore(auction_id, seen, restoration).await
    }

    async fn append(&self, record: &Record, expected: u64) -> Result<u64, AppendError> {
        self.log.append(record, expected).await
    }

    async fn last(&self, auction_id: AuctionId) -> Result<Option<Logged>, LogError> {
        self.log.last(auction_id).await
    }

    async fn next(&self, auction_id: AuctionId, from: u64) -> Result<Option<Logged>, LogError> {
        self.log.next(auction_id, from).await
    }

    async fn all(&self, auction_id: AuctionId) -> Result<Vec<Logged>, LogError> {
        self.log.all(auction_id).await
    }

    async fn recall(&self, auction_id: AuctionId) -> Result<bool, RecallError> {
        let question = StateRequest { auction_id };
        let reply: Reply<bool> = bus::request(&self.bus, subject::AUCTIONS_RECALL, &question, RECALL_TIMEOUT).await?;
        Ok(reply.into_result()?)
    }

    fn now(&self) -> Millis {
        self.clock.now()
    }

    fn connection(&self) -> Option<u64> {
        self.bus.connection()
    }
}
