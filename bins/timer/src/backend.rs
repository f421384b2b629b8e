//! Everything the schedule needs from outside the process: the log to follow, opening and closing by bid-processing,
//! sending ticks, an election, a clock. The service has the live one; the simulator has one that fails on purpose.

use std::time::Duration;

use bus::{Bus, Election, Log, LogError, Logged};
use domain::{AuctionId, Millis};
use errors::BoxError;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use hotstate::Clock;
use protocol::{CloseRequest, CommittedState, Failure, Leased, StateReply, StateRequest, TimerTick, subject};
use tokio::sync::watch;

/// Time limit of one request to open or close. It is short, because an instance that dies loses the request, and an
/// auction must close within a second of its end. Asking twice does no harm: exactly one request takes effect.
pub const ASK_TIMEOUT: Duration = Duration::from_millis(600);

/// The records that [`Log::follow`] returns.
pub type Records = BoxStream<'static, Result<Logged, LogError>>;

/// Why an auction was not opened or closed, or a tick not sent.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// bid-processing did not answer.
    #[error("request to bid-processing failed")]
    Request(#[from] bus::RequestError),
    /// bid-processing answered, and did not open or close the auction.
    #[error("bid-processing rejected the request")]
    Rejected(#[from] Failure),
    /// NATS did not take the tick.
    #[error("failed to publish the tick")]
    Publish(#[source] BoxError),
}

/// The log, bid-processing, ticks and the lease, as the schedule uses them.
pub trait Backend: Clone + Send + Sync + 'static {
    /// See [`Log::follow`].
    fn follow(&self) -> impl Future<Output = Result<Records, LogError>> + Send;
    /// Asks bid-processing to open the auction. Returns when the opening of one that follows another is due, if that one
    /// has ended and the time has not come.
    fn open(&self, auction_id: AuctionId) -> impl Future<Output = Result<Option<Millis>, BackendError>> + Send;
    /// Asks bid-processing to close the auction. Returns whether it is over; otherwise its end has not come yet by the
    /// clock of Redis.
    fn close(&self, auction_id: AuctionId) -> impl Future<Output = Result<bool, BackendError>> + Send;
    /// Sends a tick. A lost one is not repeated: the next tick replaces it.
    fn tick(&self, tick: &Leased<TimerTick>) -> impl Future<Output = Result<(), BackendError>> + Send;
    /// The fencing token, while this instance certainly holds the lease.
    fn token(&self) -> Option<u64>;
    /// Now, by the clock of Redis.
    fn now(&self) -> Millis;
    /// See [`Log::generation`]. The log of a simulation is never another one.
    fn generation(&self) -> u64 {
        0
    }
}

/// NATS and Redis.
#[derive(Clone)]
pub struct LiveBackend {
    pub bus: Bus,
    pub log: Log,
    pub clock: Clock,
    pub election: watch::Receiver<Election>,
}

impl LiveBackend {
    async fn ask(
        &self,
        subject: &'static str,
        request: &(impl serde::Serialize + Sync),
    ) -> Result<CommittedState, BackendError> {
        let reply: StateReply = bus::request(&self.bus, subject, request, ASK_TIMEOUT).await?;
        Ok(reply.into_result()?)
    }
}

impl Backend for LiveBackend {
    async fn follow(&self) -> Result<Records, LogError> {
        Ok(self.log.follow().await?.boxed())
    }

    async fn open(&self, auction_id: AuctionId) -> Result<Option<Millis>, BackendError> {
        let committed = self.ask(subject::AUCTIONS_OPEN, &StateRequest { auction_id }).await?;
        Ok(committed.opens_at.map(Millis))
    }

    async fn close(&self, auction_id: AuctionId) -> Result<bool, BackendError> {
        let committed = self.ask(subject::AUCTIONS_CLOSE, &CloseRequest { auction_id, by: None }).await?;
        Ok(committed.state.outcome.is_some())
    }

    async fn tick(&self, tick: &Leased<TimerTick>) -> Result<(), BackendError> {
        let payload = serde_json::to_vec(tick).map_err(|error| BackendError::Publish(error.into()))?;
        let subject = subject::timer(tick.message.auction_id);
        let published = self.bus.client.publish(subject, payload.into()).await;
        published.map_err(|error| BackendError::Publish(error.into()))
    }

    fn token(&self) -> Option<u64> {
        self.election.borrow().token_now()
    }

    fn now(&self) -> Millis {
        self.clock.now()
    }

    fn generation(&self) -> u64 {
        self.log.generation()
    }
}
