//! The hot state of auctions in Redis: keys, the Lua scripts that decide, typed replies.
//!
//! **Owns** every key `auction:{<id>}:*`, every script in `lua/`, and the clock that all services share (that of the
//! auction's Redis).
//!
//! **Never** publishes, answers a bidder, or retries a decision by itself.
//!
//! **Invariants**
//! - One operation is one script: atomic, and all its keys in the auction's slot.
//! - A refusal writes nothing. A decision about an auction whose state is missing writes nothing either.
//! - Every reply names the [`Mark`](protocol::Mark) (seq, head) that it rests on. Facts that are not in the log yet are
//!   in the outbox.
//! - An auction that Redis has lost is restored whole, by one script ([`Hotstate::restore`]) that first checks that the
//!   auction is still where the rebuild has seen it, and that all answers written for the script are there.
//!
//! # Two versions at once
//!
//! During a rolling deploy an instance of the version before meets auctions whose rules it does not know. Such an auction
//! is not plain ([`domain::Rules::is_plain`]), and `prelude.lua` says how its hash differs: the scripts of the version
//! before fail on it before their first write, or write a fact that is the same in every version (an opening, a
//! cancellation), which an instance of this version commits. The instance of the version before cannot read its state
//! either; it commits, restores and answers nothing about it but `unavailable`. Readers of its records (edges, timers,
//! the history, results) need no option and go on. A plain auction is the same, byte for byte, in both versions. A
//! request to create an auction that is not plain has a subject of its own, which the version before does not serve.
//!
//! An auction with secrets (a reserve, or a maximum at any time) differs once more from one with options, in the same way,
//! and bids with a maximum have a subject of their own. So does one that keeps pre-bids, which the version before cannot
//! open; readers of its records meet the types that they know. So does one that follows another: of the version before
//! only a start by the host takes effect on it, which an instance of this version commits.
//!
//! # Tests
//!
//! `tests/scripts/` runs the scripts on a real Redis: `model.rs` against their model in `domain`, `stored.rs` on bytes
//! that an earlier version wrote, `restore.rs` on a Redis that loses data during a rebuild.

#![warn(missing_docs)]

mod clock;
mod connection;
mod outbox;
mod reply;
mod restore;
mod scripts;
mod secrets;
mod talk;

use domain::{
    Amount, AuctionId, BidId, BidRequest, CloseReason, HostAct, MAX_BLOCKED, MAX_PREBIDDERS, MAX_PREBIDS_OF_ONE,
    Millis, Offer, UserId,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use protocol::{CreateRequest, Mark, StoredAnswer};
use redis::{AsyncCommands, ServerErrorKind};

pub use clock::Clock;
use connection::Connection;
pub use connection::Settings;
pub use outbox::OutboxEntry;
use reply::number;
pub use reply::{Closed, Created, HostActed, Opened, Verdicts, View};
pub use restore::{MAX_RECENT_BIDS, Position, Rebuilt, Restoration};
use scripts::{Keys, Scripts};
pub use talk::MayTalk;

/// Concurrent requests for the ends of outboxes. In a cluster the outboxes are on different masters, so each needs a
/// request of its own.
const OUTBOXES_AT_ONCE: usize = 256;
/// Seconds for which the keys of an ended auction are kept: 24 hours, so that repeated bid ids still find their
/// answers.
pub const ENDED_KEYS_SECONDS: u32 = 24 * 60 * 60;

/// No address of the settings leads to a Redis that takes the login.
#[derive(Debug, thiserror::Error)]
#[error("failed to connect to Redis{}", if *with_tls { " with TLS" } else { "" })]
pub struct ConnectError {
    with_tls: bool,
    /// The error of the last address.
    source: HotstateError,
}

/// Why a call to Redis failed.
#[derive(Debug, thiserror::Error)]
pub enum HotstateError {
    /// The call failed, or its reply did not arrive. Unless [`HotstateError::is_elsewhere`], it may have taken effect.
    #[error("Redis call failed")]
    Redis(#[from] redis::RedisError),
    /// The reply has a form that no script of this version writes.
    #[error("failed to read the reply of {script}")]
    Reply {
        /// The script, or the key that was read.
        script: &'static str,
        /// Why it could not be read.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl HotstateError {
    /// Whether the call certainly changed nothing because the auction's slot is moving to another master, or that
    /// master is being replaced. A repeated call may soon reach it.
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

/// A cheap handle to Redis or a Redis Cluster. Every clone shares the connections, so that calls sent at the same time
/// share one sync to disk.
#[derive(Clone)]
pub struct Hotstate {
    connection: Connection,
    scripts: std::sync::Arc<Scripts>,
}

impl Hotstate {
    /// Connects and reads the time, so that a wrong address is an error now and not at the first bid.
    ///
    /// # Errors
    /// When Redis cannot be reached or rejects the credentials.
    pub async fn connect(settings: &Settings) -> Result<Self, ConnectError> {
        let failed = |source| ConnectError { with_tls: settings.is_with_tls(), source };
        let connection = Connection::open(settings).await.map_err(|error| failed(error.into()))?;
        let hotstate = Self { connection, scripts: std::sync::Arc::new(Scripts::load()) };
        hotstate.time().await.map_err(failed)?;
        Ok(hotstate)
    }

    /// Creates an auction, scheduled to start at the requested time or now. Repeatable.
    ///
    /// # Errors
    /// See [`HotstateError`]; so for every call below.
    pub async fn create(&self, request: &CreateRequest) -> Result<Created, HotstateError> {
        let keys = Keys::of(request.auction_id);
        let mut call = self.scripts.create.prepare_invoke();
        call.key(&keys.state).key(&keys.outbox);
        call.arg(request.auction_id.to_string()).arg(request.host.user_id.to_string()).arg(&request.host.username);
        let rules = request.rules();
        call.arg(request.starting_bid.cents()).arg(rules.increments.to_string()).arg(request.duration_ms);
        call.arg(request.anti_snipe_mode.name()).arg(request.anti_snipe_window_ms);
        call.arg(request.anti_snipe_extension_ms).arg(request.anti_snipe_max_extensions).arg(request.valid_until);
        let form = match (rules.reserve.is_some() || rules.allow_prebids, rules.is_plain()) {
            (true, _) => "secrets",
            (false, true) => "plain",
            (false, false) => "rules",
        };
        call.arg(form).arg(reply::flag(rules.allow_self_raise));
        call.arg(rules.buy_now.map(|buy_now| buy_now.cents().to_string()).unwrap_or_default());
        call.arg(request.starts_at.map(|starts_at| starts_at.to_string()).unwrap_or_default());
        let reserve = rules.reserve.as_ref();
        call.arg(reserve.map(|reserve| reserve.amount.cents().to_string()).unwrap_or_default());
        call.arg(reserve.map(|reserve| reserve.sealed.to_string()).unwrap_or_default());
        call.arg(reply::flag(rules.allow_prebids));
        call.arg(rules.follows.map(|follows| follows.auction_id.to_string()).unwrap_or_default());
        call.arg(rules.follows.map_or(0, |follows| follows.gap_ms)).arg(Millis::NOT_YET.0);
        Created::read(call.invoke_async(&mut self.connection.clone()).await?)
    }

    /// Opens a scheduled auction whose start has come. None if its state is missing.
    pub async fn open(&self, auction_id: AuctionId) -> Result<Option<Opened>, HotstateError> {
        self.open_when_due(auction_id, None).await
    }

    /// The same. `due` is when an auction that follows another is due, by the log; for others it has no meaning.
    pub async fn open_when_due(
        &self,
        auction_id: AuctionId,
        due: Option<Millis>,
    ) -> Result<Option<Opened>, HotstateError> {
        let mut call = self.scripts.open.prepare_invoke();
        Keys::of(auction_id).all(&mut call);
        call.arg(ENDED_KEYS_SECONDS).arg(due.map(|due| due.0.to_string()).unwrap_or_default());
        Opened::read(call.invoke_async(&mut self.connection.clone()).await?)
    }

    /// Closes a live auction: because its end has passed (`by` is None), or at once for its host. None if its state is
    /// missing.
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

    /// Cancels an auction that is not over, in the name of its host. None if its state is missing.
    pub async fn cancel(
        &self,
        auction_id: AuctionId,
        by: domain::UserId,
        reason: CloseReason,
    ) -> Result<Option<Closed>, HotstateError> {
        let mut call = self.scripts.cancel.prepare_invoke();
        Keys::of(auction_id).all(&mut call);
        call.arg(by.to_string()).arg(ENDED_KEYS_SECONDS).arg(reason.name());
        Closed::read("cancel", call.invoke_async(&mut self.connection.clone()).await?)
    }

    /// Does something to a running auction for its host. None if its state is missing.
    pub async fn act(
        &self,
        auction_id: AuctionId,
        act: HostAct,
        by: domain::UserId,
    ) -> Result<Option<HostActed>, HotstateError> {
        let (keys, scripts) = (Keys::of(auction_id), &self.scripts);
        let (script, user_id) = match act {
            HostAct::Start => (&scripts.start, None),
            HostAct::Pause => (&scripts.pause, None),
            HostAct::Resume => (&scripts.resume, None),
            HostAct::Block(user_id) => (&scripts.block, Some(user_id)),
            HostAct::Unblock(user_id) => (&scripts.unblock, Some(user_id)),
        };
        let mut call = script.prepare_invoke();
        let by = by.to_string();
        if act == HostAct::Start {
            keys.all(&mut call);
            call.arg(by).arg(ENDED_KEYS_SECONDS);
        } else {
            call.key(&keys.state).key(&keys.outbox).arg(by);
        }
        if let Some(user_id) = user_id {
            call.arg(user_id.to_string()).arg(MAX_BLOCKED);
        }
        HostActed::read(call.invoke_async(&mut self.connection.clone()).await?)
    }

    /// Stores the number of people who watch an auction. Not a fact, and no answer rests on it.
    pub async fn set_participants(&self, auction_id: AuctionId, people: u64) -> Result<(), HotstateError> {
        let mut call = self.scripts.presence.prepare_invoke();
        call.key(Keys::of(auction_id).state).arg(people);
        Ok(call.invoke_async(&mut self.connection.clone()).await?)
    }

    /// Decides bids in their order, all at one moment. The log has all facts up to `committed`. None if the state is
    /// missing.
    pub async fn place(
        &self,
        auction_id: AuctionId,
        bids: &[BidRequest],
        committed: u64,
    ) -> Result<Option<Verdicts>, HotstateError> {
        let mut call = self.scripts.place_bid.prepare_invoke();
        Keys::of(auction_id).all(&mut call);
        call.arg(committed).arg(ENDED_KEYS_SECONDS).arg(MAX_PREBIDDERS).arg(MAX_PREBIDS_OF_ONE).arg(bids.len());
        for bid in bids {
            call.arg(bid.bid_id.to_string()).arg(bid.user_id.to_string()).arg(&bid.username);
            match &bid.offer {
                Offer::Exact(amount) => call.arg(amount.cents()),
                Offer::Kept { amount, sealed } => call.arg(format!("{}::{sealed}", amount.cents())),
                Offer::UpTo { amount, maximum, sealed } => {
                    let amount = amount.map(|amount| amount.cents().to_string()).unwrap_or_default();
                    call.arg(format!("{amount}:{}:{sealed}", maximum.cents()))
                }
            };
            call.arg(bid.bid_id.bytes().as_slice()).arg(bid.user_id.bytes().as_slice());
        }
        Verdicts::read(call.invoke_async(&mut self.connection.clone()).await?, bids.len())
    }

    /// The state, the newest bids and the mark they rest on, at one moment. None if the state is missing.
    pub async fn view(&self, auction_id: AuctionId) -> Result<Option<View>, HotstateError> {
        let (state, recent, slow_mode): (_, Vec<String>, Option<u64>) =
            view_pipe(auction_id).query_async(&mut self.connection.clone()).await?;
        View::read(auction_id, &state, &recent, slow_mode.unwrap_or(0))
    }

    /// How far the auction will bid for this person at its opening. None without a pre-bid.
    pub async fn prebid(&self, auction_id: AuctionId, user_id: UserId) -> Result<Option<Amount>, HotstateError> {
        let kept: Option<String> =
            self.connection.clone().hget(Keys::of(auction_id).prebids, user_id.to_string()).await?;
        kept.map(|text| reply::cents(text.split(' ').nth(1).unwrap_or_default())).transpose()
    }

    /// The same, and whether a bid of this id was accepted, at one moment.
    pub async fn view_with_answer(
        &self,
        auction_id: AuctionId,
        bid_id: BidId,
    ) -> Result<Option<(View, bool)>, HotstateError> {
        let mut pipe = view_pipe(auction_id);
        pipe.hget(Keys::of(auction_id).bids, &bid_id.bytes()[..]);
        let (state, recent, slow_mode, answer): (_, Vec<String>, Option<u64>, Option<Vec<u8>>) =
            pipe.query_async(&mut self.connection.clone()).await?;
        let view = View::read(auction_id, &state, &recent, slow_mode.unwrap_or(0))?;
        Ok(view.map(|view| (view, answer.is_some())))
    }

    /// Removes from the outbox what the log has (everything up to `committed`) and reads what it does not have yet,
    /// oldest first, both in one round trip. Repeatable.
    pub async fn outbox(&self, auction_id: AuctionId, committed: u64) -> Result<Vec<OutboxEntry>, HotstateError> {
        outbox::read(&mut self.connection.clone(), &Keys::of(auction_id).outbox, committed).await
    }

    /// Where Redis stands with an auction whose log has everything up to `committed`. None if its state is missing.
    pub async fn position(&self, auction_id: AuctionId, committed: u64) -> Result<Option<Position>, HotstateError> {
        restore::position(&mut self.connection.clone(), &Keys::of(auction_id), committed).await
    }

    /// Adds answers to those collected for a restoration.
    pub async fn write_answers(&self, rebuilt: &mut Rebuilt, answers: &[StoredAnswer]) -> Result<(), HotstateError> {
        restore::write_answers(&mut self.connection.clone(), rebuilt, answers).await
    }

    /// Drops answers that no restoration will take. They would expire, but a large auction has 100 MB of them.
    pub async fn discard(&self, rebuilt: &Rebuilt) -> Result<(), HotstateError> {
        restore::discard(&mut self.connection.clone(), rebuilt).await
    }

    /// Replaces all that Redis holds about an auction if it is still where it was `seen` (None: without a state), and
    /// its answers by those `rebuilt`. False if it is not, or if Redis has lost answers since they were written; then
    /// nothing is changed.
    pub async fn restore(
        &self,
        auction_id: AuctionId,
        seen: Option<Mark>,
        restoration: &Restoration<'_>,
        rebuilt: &Rebuilt,
    ) -> Result<bool, HotstateError> {
        let mut connection = self.connection.clone();
        restore::restore(&mut connection, &self.scripts, &Keys::of(auction_id), seen, restoration, rebuilt).await
    }

    /// Those of the given auctions that have facts in their outbox, with the seq of the last one.
    pub async fn with_outbox(&self, auctions: &[AuctionId]) -> Result<Vec<(AuctionId, u64)>, HotstateError> {
        let lasts = auctions.iter().copied().map(|auction_id| {
            let mut connection = self.connection.clone();
            async move {
                let outbox = Keys::of(auction_id).outbox;
                let last: redis::streams::StreamRangeReply = connection.xrevrange_count(outbox, "+", "-", 1).await?;
                let Some(entry) = last.ids.first() else { return Ok(None) };
                let seq = number(entry.id.split('-').next().unwrap_or_default())?;
                Ok::<_, HotstateError>(Some((auction_id, seq)))
            }
        });
        let found: Vec<_> = stream::iter(lasts).buffered(OUTBOXES_AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The clock of Redis; in a cluster, that of any master. Masters share one time by NTP, and scripts decide by the
    /// clock of the auction's own master.
    pub async fn time(&self) -> Result<Millis, HotstateError> {
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut self.connection.clone()).await?;
        Ok(Millis(seconds * 1000 + micros / 1000))
    }
}

/// Reads the state, the newest bids and the slow mode of the chat, at one moment.
fn view_pipe(auction_id: AuctionId) -> redis::Pipeline {
    let keys = Keys::of(auction_id);
    let mut pipe = redis::pipe();
    pipe.atomic().hgetall(&keys.state).lrange(&keys.recent, 0, -1);
    pipe.hget(talk::settings(auction_id), talk::SLOW_MODE);
    pipe
}
