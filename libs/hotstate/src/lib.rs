//! The hot state of auctions in Redis: keys, the Lua scripts that decide, typed replies.
//!
//! **Owns** every key `auction:{<id>}:*` and every script in `lua/`, and the clock that all services
//! share (the one of the auction's Redis).
//!
//! **Never** publishes, answers a bidder, or retries a decision by itself.
//!
//! **Invariants**
//! - One operation is one script, atomic, all keys in the auction's slot.
//! - A refusal writes nothing. An auction whose state is missing is never begun anew.
//! - Every reply names the [`Mark`](protocol::Mark) (seq, head) that it rests on. What is not yet in
//!   the log stands in the outbox.
//! - What Redis has lost comes back whole, by one script ([`Hotstate::restore`]) that looks first whether
//!   the auction is still where the rebuild has seen it.

mod clock;
mod connection;
mod outbox;
mod reply;
mod restore;
mod scripts;
mod talk;

use domain::{AuctionId, BidRequest, CloseReason, Millis};
use futures_util::{StreamExt, TryStreamExt, stream};
use protocol::{CreateRequest, Mark};
use redis::{AsyncCommands, ServerErrorKind};

pub use clock::Clock;
use connection::Connection;
pub use outbox::OutboxEntry;
pub use reply::{Closed, Created, Opened, Verdicts, View};
pub use restore::{MAX_RECENT_BIDS, Position, Restoration};
use scripts::{Keys, Scripts};
pub use talk::MayTalk;

/// Auctions of which the outbox is looked at at once. In a cluster they lie on different masters, so
/// these are calls of their own.
const LOOKS_AT_ONCE: usize = 256;
/// Keys of an ended auction: 24 hours, so that repeated bid ids still find their answers.
pub const ENDED_KEYS_SECONDS: u32 = 24 * 60 * 60;

#[derive(Debug, thiserror::Error)]
pub enum HotstateError {
    /// Whether the call took effect is unknown.
    #[error("Redis did not answer")]
    Redis(#[from] redis::RedisError),
    #[error("a reply of {script} could not be read: {detail}")]
    Reply { script: &'static str, detail: String },
}

impl HotstateError {
    /// The call changed nothing: the auction's slot is on its way to another master, or that master is
    /// being replaced. Who asks again soon may reach it.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        let Self::Redis(error) = self else { return false };
        let redis::ErrorKind::Server(kind) = error.kind() else { return false };
        matches!(
            kind,
            ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
        )
    }
}

/// A cheap handle to Redis, or to a Redis Cluster; every clone shares the connections, so calls of a turn
/// share a sync.
#[derive(Clone)]
pub struct Hotstate {
    connection: Connection,
    scripts: std::sync::Arc<Scripts>,
}

impl Hotstate {
    /// Connects and asks once, so that a wrong address is an error now and not at the first bid. `urls`:
    /// one, or several nodes of a cluster with commas between them.
    ///
    /// # Errors
    /// When Redis cannot be reached or refuses the credentials.
    pub async fn connect(urls: &str) -> Result<Self, HotstateError> {
        let connection = Connection::open(urls).await?;
        let hotstate = Self { connection, scripts: std::sync::Arc::new(Scripts::load()) };
        hotstate.time().await?;
        Ok(hotstate)
    }

    /// Creates an auction, scheduled to start now.
    pub async fn create(&self, request: &CreateRequest) -> Result<Created, HotstateError> {
        let keys = Keys::of(request.auction_id);
        let mut call = self.scripts.create.prepare_invoke();
        call.key(&keys.state).key(&keys.outbox);
        call.arg(request.auction_id.to_string()).arg(request.host.user_id.to_string()).arg(&request.host.username);
        call.arg(request.starting_bid.cents()).arg(request.increment.cents()).arg(request.duration_ms);
        call.arg(request.anti_snipe_mode.name()).arg(request.anti_snipe_window_ms);
        call.arg(request.anti_snipe_extension_ms).arg(request.anti_snipe_max_extensions).arg(request.valid_until);
        Created::read(call.invoke_async(&mut self.connection.clone()).await?)
    }

    /// Opens a scheduled auction whose start has come. None when its state is missing.
    pub async fn open(&self, auction_id: AuctionId) -> Result<Option<Opened>, HotstateError> {
        let keys = Keys::of(auction_id);
        let mut call = self.scripts.open.prepare_invoke();
        call.key(&keys.state).key(&keys.outbox);
        Opened::read(call.invoke_async(&mut self.connection.clone()).await?)
    }

    /// Closes a live auction: when due (`by` is None), or at once for its host.
    pub async fn close(
        &self,
        auction_id: AuctionId,
        by: Option<domain::UserId>,
    ) -> Result<Option<Closed>, HotstateError> {
        let reason = if by.is_some() { CloseReason::Host } else { CloseReason::Ended };
        let mut call = self.scripts.close.prepare_invoke();
        Keys::of(auction_id).all(&mut call);
        call.arg(reason.name()).arg(by.map(|by| by.to_string()).unwrap_or_default()).arg(ENDED_KEYS_SECONDS);
        Closed::read("close", call.invoke_async(&mut self.connection.clone()).await?)
    }

    /// Cancels an auction that is not over, for its host.
    pub async fn cancel(&self, auction_id: AuctionId, by: domain::UserId) -> Result<Option<Closed>, HotstateError> {
        let mut call = self.scripts.cancel.prepare_invoke();
        Keys::of(auction_id).all(&mut call);
        call.arg(by.to_string()).arg(ENDED_KEYS_SECONDS);
        Closed::read("cancel", call.invoke_async(&mut self.connection.clone()).await?)
    }

    /// Notes how many people watch an auction. Not a fact, and nothing rests on it.
    pub async fn set_participants(&self, auction_id: AuctionId, people: u64) -> Result<(), HotstateError> {
        let mut call = self.scripts.presence.prepare_invoke();
        call.key(Keys::of(auction_id).state).arg(people);
        Ok(call.invoke_async(&mut self.connection.clone()).await?)
    }

    /// Decides bids in their order, all at one moment. None when the state is missing.
    pub async fn place(&self, auction_id: AuctionId, bids: &[BidRequest]) -> Result<Option<Verdicts>, HotstateError> {
        let mut call = self.scripts.place_bid.prepare_invoke();
        Keys::of(auction_id).all(&mut call);
        call.arg(bids.len());
        for bid in bids {
            call.arg(bid.bid_id.to_string()).arg(bid.user_id.to_string()).arg(&bid.username).arg(bid.amount.cents());
            call.arg(bid.bid_id.bytes().as_slice()).arg(bid.user_id.bytes().as_slice());
        }
        Verdicts::read(call.invoke_async(&mut self.connection.clone()).await?, bids.len())
    }

    /// The state, the newest bids and the mark they rest on, at one moment.
    pub async fn view(&self, auction_id: AuctionId) -> Result<Option<View>, HotstateError> {
        let keys = Keys::of(auction_id);
        let mut pipe = redis::pipe();
        pipe.atomic().hgetall(&keys.state).lrange(&keys.recent, 0, -1);
        let (state, recent): (_, Vec<String>) = pipe.query_async(&mut self.connection.clone()).await?;
        View::read(auction_id, &state, &recent)
    }

    /// Cuts what the log has (everything up to `committed`) and reads what it does not have yet, oldest
    /// first. Both in one round trip; the cut is repeatable.
    pub async fn outbox(&self, auction_id: AuctionId, committed: u64) -> Result<Vec<OutboxEntry>, HotstateError> {
        outbox::read(&mut self.connection.clone(), &Keys::of(auction_id).outbox, committed).await
    }

    /// Where Redis stands with an auction of which the log has everything up to `committed`. None when
    /// its state is missing.
    pub async fn position(&self, auction_id: AuctionId, committed: u64) -> Result<Option<Position>, HotstateError> {
        restore::position(&mut self.connection.clone(), &Keys::of(auction_id), committed).await
    }

    /// Replaces all that Redis holds about an auction, if it is still where it was `seen`: otherwise
    /// false, and nothing is changed.
    pub async fn restore(
        &self,
        auction_id: AuctionId,
        seen: Option<Mark>,
        restoration: &Restoration<'_>,
    ) -> Result<bool, HotstateError> {
        let mut connection = self.connection.clone();
        restore::restore(&mut connection, &self.scripts, &Keys::of(auction_id), seen, restoration).await
    }

    /// Which of these auctions have facts in their outbox.
    pub async fn with_outbox(&self, auctions: &[AuctionId]) -> Result<Vec<AuctionId>, HotstateError> {
        let looks = auctions.iter().copied().map(|auction_id| {
            let mut connection = self.connection.clone();
            async move {
                let length: u64 = connection.xlen(Keys::of(auction_id).outbox).await?;
                Ok::<_, HotstateError>((length > 0).then_some(auction_id))
            }
        });
        let found: Vec<_> = stream::iter(looks).buffered(LOOKS_AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The clock of Redis; of a cluster, of any master. Masters keep one time by NTP, and what is due is
    /// decided by a script on the auction's own.
    pub async fn time(&self) -> Result<Millis, HotstateError> {
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut self.connection.clone()).await?;
        Ok(Millis(seconds * 1000 + micros / 1000))
    }
}
