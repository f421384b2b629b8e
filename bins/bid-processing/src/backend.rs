//! Everything outside this process that an auctioneer uses: Redis, the log, a clock, and auction-management, which
//! knows the archived auctions that Redis and the log no longer have. The service uses [`LiveBackend`]; the simulator
//! one that fails at random, tests one that makes deliberate mistakes.

use std::time::Duration;

use bus::{AppendError, Bus, Checkpoints, Log, LogError, Logged, RequestError, StoredCheckpoint};
use domain::{Amount, AuctionId, BidId, BidRequest, CloseReason, HostAct, Millis, UserId};
use futures_util::stream::{self, BoxStream};
use hotstate::{
    Clock, Closed, Created, HostActed, Hotstate, HotstateError, Opened, OutboxEntry, Position, Rebuilt, Restoration,
    Verdicts, View,
};
use protocol::{Checkpoint, CreateRequest, Failure, Mark, Record, Reply, StateRequest, StoredAnswer, subject};

/// The result of a call to Redis; None if the auction's state is missing.
pub type Decided<T> = Result<Option<T>, HotstateError>;

/// Records or checkpoints, read one after the other.
pub type Reading<T> = BoxStream<'static, Result<T, LogError>>;

/// Whether a failed script call may have decided something in Redis.
pub fn may_have_decided(error: &HotstateError) -> bool {
    match error {
        // A reply that cannot be read comes from a call that was made.
        HotstateError::Reply { .. } => true,
        HotstateError::Redis(error) => {
            !error.is_connection_refusal()
                && (error.is_timeout() || error.is_io_error() || error.is_connection_dropped())
        }
    }
}

/// Why auction-management did not say whether it has an auction.
#[derive(Debug, thiserror::Error)]
pub enum RecallError {
    /// It did not answer.
    #[error("request to auction-management failed")]
    Request(#[from] RequestError),
    /// It answered with a failure.
    #[error("auction-management could not look up the auction")]
    Failed(#[from] Failure),
}

/// Redis, the log, the clock and auction-management, as an auctioneer uses them.
pub trait Backend: Send + Sync + 'static {
    /// See [`Hotstate::create`].
    fn create(&self, request: &CreateRequest) -> impl Future<Output = Result<Created, HotstateError>> + Send;
    /// See [`Hotstate::open_when_due`].
    fn open(&self, auction_id: AuctionId, due: Option<Millis>) -> impl Future<Output = Decided<Opened>> + Send;
    /// See [`Hotstate::close`].
    fn close(&self, auction_id: AuctionId, by: Option<UserId>) -> impl Future<Output = Decided<Closed>> + Send;
    /// See [`Hotstate::cancel`].
    fn cancel(
        &self,
        auction_id: AuctionId,
        by: UserId,
        reason: CloseReason,
    ) -> impl Future<Output = Decided<Closed>> + Send;
    /// See [`Hotstate::act`].
    fn act(&self, auction_id: AuctionId, act: HostAct, by: UserId) -> impl Future<Output = Decided<HostActed>> + Send;
    /// See [`Hotstate::place`].
    fn place(
        &self,
        auction_id: AuctionId,
        bids: &[BidRequest],
        committed: u64,
    ) -> impl Future<Output = Decided<Verdicts>> + Send;
    /// See [`Hotstate::prebid`].
    fn prebid(
        &self,
        auction_id: AuctionId,
        user_id: UserId,
    ) -> impl Future<Output = Result<Option<Amount>, HotstateError>> + Send;
    /// See [`Hotstate::view`].
    fn view(&self, auction_id: AuctionId) -> impl Future<Output = Decided<View>> + Send;
    /// See [`Hotstate::view_with_answer`].
    fn view_with_answer(
        &self,
        auction_id: AuctionId,
        bid_id: BidId,
    ) -> impl Future<Output = Decided<(View, bool)>> + Send;
    /// See [`Hotstate::outbox`].
    fn outbox(
        &self,
        auction_id: AuctionId,
        committed: u64,
    ) -> impl Future<Output = Result<Vec<OutboxEntry>, HotstateError>> + Send;
    /// See [`Hotstate::position`].
    fn position(&self, auction_id: AuctionId, committed: u64) -> impl Future<Output = Decided<Position>> + Send;
    /// See [`Hotstate::write_answers`].
    fn write_answers(
        &self,
        rebuilt: &mut Rebuilt,
        answers: &[StoredAnswer],
    ) -> impl Future<Output = Result<(), HotstateError>> + Send;
    /// See [`Hotstate::discard`].
    fn discard(&self, rebuilt: &Rebuilt) -> impl Future<Output = Result<(), HotstateError>> + Send;
    /// See [`Hotstate::restore`].
    fn restore(
        &self,
        auction_id: AuctionId,
        seen: Option<Mark>,
        restoration: &Restoration<'_>,
        rebuilt: &Rebuilt,
    ) -> impl Future<Output = Result<bool, HotstateError>> + Send;

    /// See [`Log::append`].
    fn append(&self, record: &Record, expected: u64) -> impl Future<Output = Result<u64, AppendError>> + Send;
    /// See [`Log::last`].
    fn last(&self, auction_id: AuctionId) -> impl Future<Output = Result<Option<Logged>, LogError>> + Send;
    /// See [`Log::next`].
    fn next(&self, auction_id: AuctionId, from: u64) -> impl Future<Output = Result<Option<Logged>, LogError>> + Send;
    /// See [`Log::records`].
    fn records(
        &self,
        auction_id: AuctionId,
        from: u64,
    ) -> impl Future<Output = Result<Reading<Logged>, LogError>> + Send;

    /// See [`Checkpoints::all`].
    fn checkpoints(
        &self,
        auction_id: AuctionId,
    ) -> impl Future<Output = Result<Reading<StoredCheckpoint>, LogError>> + Send;
    /// See [`Checkpoints::last`].
    fn last_checkpoint(
        &self,
        auction_id: AuctionId,
    ) -> impl Future<Output = Result<Option<StoredCheckpoint>, LogError>> + Send;
    /// See [`Checkpoints::append`].
    fn append_checkpoint(
        &self,
        checkpoint: &Checkpoint,
        expected: u64,
    ) -> impl Future<Output = Result<u64, AppendError>> + Send;

    /// Whether PostgreSQL has this auction, which neither Redis nor the log has, as ended.
    fn recall(&self, auction_id: AuctionId) -> impl Future<Output = Result<bool, RecallError>> + Send;
    /// See [`Clock::now`].
    fn now(&self) -> Millis;
    /// See [`Bus::connection`].
    fn connection(&self) -> Option<u64>;
    /// See [`Log::generation`]. The log of a simulation is never another one.
    fn generation(&self) -> u64 {
        0
    }
    /// See [`Log::is_held`].
    fn is_held(&self) -> bool {
        false
    }
    /// See [`Log::restored_at`].
    fn restored_at(&self) -> u64 {
        0
    }
}

/// The real servers.
pub struct LiveBackend {
    /// Redis.
    pub hotstate: Hotstate,
    /// The log in JetStream.
    pub log: Log,
    /// Checkpoints of long auctions.
    pub checkpoints: Checkpoints,
    /// The clock of Redis.
    pub clock: Clock,
    /// For requests to auction-management.
    pub bus: Bus,
}

/// Time for auction-management to say whether it has an auction. Well inside the time in which a bid is answered.
const RECALL_TIMEOUT: Duration = Duration::from_secs(1);

impl Backend for LiveBackend {
    async fn create(&self, request: &CreateRequest) -> Result<Created, HotstateError> {
        self.hotstate.create(request).await
    }

    async fn open(&self, auction_id: AuctionId, due: Option<Millis>) -> Decided<Opened> {
        self.hotstate.open_when_due(auction_id, due).await
    }

    async fn close(&self, auction_id: AuctionId, by: Option<UserId>) -> Decided<Closed> {
        self.hotstate.close(auction_id, by).await
    }

    async fn cancel(&self, auction_id: AuctionId, by: UserId, reason: CloseReason) -> Decided<Closed> {
        self.hotstate.cancel(auction_id, by, reason).await
    }

    async fn act(&self, auction_id: AuctionId, act: HostAct, by: UserId) -> Decided<HostActed> {
        self.hotstate.act(auction_id, act, by).await
    }

    async fn place(&self, auction_id: AuctionId, bids: &[BidRequest], committed: u64) -> Decided<Verdicts> {
        self.hotstate.place(auction_id, bids, committed).await
    }

    async fn prebid(&self, auction_id: AuctionId, user_id: UserId) -> Result<Option<Amount>, HotstateError> {
        self.hotstate.prebid(auction_id, user_id).await
    }

    async fn view(&self, auction_id: AuctionId) -> Decided<View> {
        self.hotstate.view(auction_id).await
    }

    async fn view_with_answer(&self, auction_id: AuctionId, bid_id: BidId) -> Decided<(View, bool)> {
        self.hotstate.view_with_answer(auction_id, bid_id).await
    }

    async fn outbox(&self, auction_id: AuctionId, committed: u64) -> Result<Vec<OutboxEntry>, HotstateError> {
        self.hotstate.outbox(auction_id, committed).await
    }

    async fn position(&self, auction_id: AuctionId, committed: u64) -> Decided<Position> {
        self.hotstate.position(auction_id, committed).await
    }

    async fn write_answers(&self, rebuilt: &mut Rebuilt, answers: &[StoredAnswer]) -> Result<(), HotstateError> {
        self.hotstate.write_answers(rebuilt, answers).await
    }

    async fn discard(&self, rebuilt: &Rebuilt) -> Result<(), HotstateError> {
        self.hotstate.discard(rebuilt).await
    }

    async fn restore(
        &self,
        auction_id: AuctionId,
        seen: Option<Mark>,
        restoration: &Restoration<'_>,
        rebuilt: &Rebuilt,
    ) -> Result<bool, HotstateError> {
        self.hotstate.restore(auction_id, seen, restoration, rebuilt).await
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

    async fn records(&self, auction_id: AuctionId, from: u64) -> Result<Reading<Logged>, LogError> {
        let records = self.log.records(auction_id, from).await?;
        let next = |mut records: bus::Records| async move {
            records.next().await.map(|next| next.map(|logged| (logged, records)))
        };
        Ok(Box::pin(stream::try_unfold(records, next)))
    }

    async fn checkpoints(&self, auction_id: AuctionId) -> Result<Reading<StoredCheckpoint>, LogError> {
        let stored = self.checkpoints.all(auction_id).await?;
        let next = |mut stored: bus::CheckpointReading| async move {
            stored.next().await.map(|next| next.map(|checkpoint| (checkpoint, stored)))
        };
        Ok(Box::pin(stream::try_unfold(stored, next)))
    }

    async fn last_checkpoint(&self, auction_id: AuctionId) -> Result<Option<StoredCheckpoint>, LogError> {
        self.checkpoints.last(auction_id).await
    }

    async fn append_checkpoint(&self, checkpoint: &Checkpoint, expected: u64) -> Result<u64, AppendError> {
        self.checkpoints.append(checkpoint, expected).await
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

    fn generation(&self) -> u64 {
        self.log.generation()
    }

    fn is_held(&self) -> bool {
        self.log.is_held()
    }

    fn restored_at(&self) -> u64 {
        self.log.restored_at()
    }
}
