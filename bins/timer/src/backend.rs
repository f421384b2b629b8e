//! What the schedule needs of the world outside this process: the log it follows, whoever opens and closes,
//! whoever hears ticks, an election, a clock. The service gives it the real one; the simulator one that
//! fails as it likes.

use std::time::Duration;

use bus::{Bus, Lease, Log, LogError, Logged};
use domain::{AuctionId, Millis};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use hotstate::Clock;
use protocol::{CloseRequest, Leased, StateReply, StateRequest, TimerTick, subject};
use tokio::sync::watch;

/// Short: an instance that dies takes a request with it, and the end is to be declared within a second. Asking
/// twice does no harm, exactly one request takes effect.
pub const ASK_TIMEOUT: Duration = Duration::from_millis(600);

/// What [`Log::follow`] gives.
pub type Records = BoxStream<'static, Result<Logged, LogError>>;

/// Errors are for our log.
pub trait Backend: Clone + Send + Sync + 'static {
    /// See [`Log::follow`].
    fn follow(&self) -> impl Future<Output = Result<Records, LogError>> + Send;
    /// Asks for the opening.
    fn open(&self, auction_id: AuctionId) -> impl Future<Output = Result<(), BackendError>> + Send;
    /// Asks for the closing.
    fn close(&self, auction_id: AuctionId) -> impl Future<Output = Result<(), BackendError>> + Send;
    /// Sends a tick. A lost one is not repeated: the next one says the same.
    fn tick(&self, tick: &Leased<TimerTick>) -> impl Future<Output = Result<(), BackendError>> + Send;
    /// The fencing token, while this instance is surely the elected one.
    fn token(&self) -> Option<u64>;
    /// By the clock of Redis.
    fn now(&self) -> Millis;
}

/// The world as it is.
#[derive(Clone)]
pub struct LiveBackend {
    pub bus: Bus,
    pub log: Log,
    pub clock: Clock,
    pub held: watch::Receiver<Option<Lease>>,
}

impl LiveBackend {
    async fn ask(&self, subject: &'static str, request: &(impl serde::Serialize + Sync)) -> Result<(), BackendError> {
        let asked: Result<StateReply, _> = bus::request(&self.bus, subject, request, ASK_TIMEOUT).await;
        let reply = asked.map_err(|error| error.to_string())?;
        reply.into_result().map(drop).map_err(|failure| failure.to_string())
    }
}

impl Backend for LiveBackend {
    async fn follow(&self) -> Result<Records, LogError> {
        Ok(self.log.follow().await?.boxed())
    }

    async fn open(&self, auction_id: AuctionId) -> Result<(), BackendError> {
        self.ask(subject::AUCTIONS_OPEN, &StateRequest { auction_id }).await
    }

    async fn close(&self, auction_id: AuctionId) -> Result<(), BackendError> {
        self.ask(subject::AUCTIONS_CLOSE, &CloseRequest { auction_id, by: None }).await
    }

    async fn tick(&self, tick: &Leased<TimerTick>) -> Result<(), BackendError> {
        let payload = serde_json::to_vec(tick).map_err(|error| error.to_string())?;
        let subject = subject::timer(tick.message.auction_id);
        self.bus.client.publish(subject, payload.into()).await.map_err(|error| error.to_string())
    }

    fn token(&self) -> Option<u64> {
        self.held.borrow().and_then(Lease::token_now)
    }

    fn now(&self) -> Millis {
        self.clock.now()
    }
}
