//! Creating an auction, step by step, and finishing what a crash left behind.
//!
//! 1. A row in status `creating`, with the host's id and the idempotency key. No reader sees it.
//! 2. The video channel, named by the auction's id, recorded in the row. An auction that follows another got the channel
//!    of that one, if it has one, in step 1.
//! 3. `auctions.create`: Redis, then the log. From here on the auction exists.
//! 4. The row gets the log's state and becomes visible.
//!
//! A crash before step 3 leaves a row that the sweep removes, together with every channel of that name: the request of
//! step 3 carries `valid_until`, so it cannot take effect later. A crash after step 3 leaves a row that the sweep or
//! the result writer completes. Each step may be repeated, by a request with the same key: it takes the row over, and
//! the sweep leaves it alone for as long as if it were new. No request continues a creation that
//! the sweep has abandoned. An auction whose creation has finished is only read, however old the key.

use std::time::Duration;

use bus::{Bus, LOG_FULL_RATIO, Log};
use cloud::Video;
use domain::{AntiSnipeMode, AuctionId, Ladder};
use hotstate::Clock;
use identity::{Identity, Token};
use prometheus_client::metrics::counter::Counter;
use protocol::{
    AuctionCreate, Channel, Code, CommittedState, CreateRequest, Failure, Options, Person, StateReply, StateRequest,
    Stored, subject,
};
use sha1::{Digest, Sha1};
use store::{Claimed, HostLimits, NewAuction, Store};

use crate::config::Defaults;
use crate::context::{changed, state, store_failure};
use crate::video;

/// Longest wait for bid-processing's answer: creation and, in the sweep, the state of an auction.
const ASK_TIMEOUT: Duration = Duration::from_secs(4);
/// Milliseconds after the claim of its row for which a creation request is valid. After that bid-processing rejects it.
const VALID_FOR_MS: u64 = 20_000;
/// Seconds after the claim of its row after which an unfinished creation is swept. Longer than [`VALID_FOR_MS`] by far
/// more than a measured clock drifts in that time.
const STUCK_AFTER_SECONDS: u64 = 60;
/// Interval between sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Most creations in one sweep.
const SWEEP_MOST: u64 = 100;
/// Milliseconds from the creation of an auction to its start at most: 30 days.
const MAX_AHEAD_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// Longest `Idempotency-Key`, in bytes.
const MAX_KEY_BYTES: usize = 200;

/// Creates auctions.
#[derive(Clone)]
pub struct Creation {
    pub store: Store,
    pub bus: Bus,
    pub log: Log,
    pub video: Video,
    pub clock: Clock,
    pub defaults: Defaults,
    pub limits: HostLimits,
    /// Creations rejected because their host exceeded a limit.
    pub over_limit: Counter,
}

/// A new auction, as its host is shown it.
pub struct Created {
    pub stored: Stored,
    /// None if it is over, or its state is unavailable: the row is answer enough.
    pub state: Option<CommittedState>,
    pub channel: Option<Channel>,
}

impl Creation {
    /// Runs the four steps. A repeated `key` with the same body continues or returns the auction of the first request.
    pub async fn create(
        &self,
        host: &Identity,
        create: &AuctionCreate,
        key: Option<&str>,
        body: &[u8],
    ) -> Result<Created, Failure> {
        if key.is_some_and(|key| key.is_empty() || key.len() > MAX_KEY_BYTES) {
            return Err(Failure::new(Code::InvalidRequest, "Idempotency-Key must have 1 to 200 characters"));
        }
        let (new, token) = (self.with_defaults(&host.person, create), &host.token);
        self.check_start(&host.person, create, key).await?;
        // bid-processing would reject the request later, but by then a row and a channel would need removal.
        if self.log.fill().await.is_ok_and(|fill| fill.ratio() >= LOG_FULL_RATIO) {
            return Err(Failure::log_full());
        }
        // Read before the claim, from which the sweep counts: whatever PostgreSQL's clock says, the request of step 3 is
        // no longer valid when the sweep gives the creation up.
        let valid_until = self.clock.now().0 + VALID_FOR_MS;
        let body_hash = hash(body);
        let key_and_hash = key.map(|key| (key, body_hash.as_str()));
        let claimed = self.store.start_auction(&new, key_and_hash, self.limits).await;
        let unknown = || Failure::creation_unknown(key.is_some());
        match claimed.map_err(|error| store_failure(&error))? {
            Claimed::New => self.carry_out(new.auction_id, &new, token, valid_until, unknown).await,
            // Whatever stops this request, the earlier one may yet take effect.
            Claimed::TakenOver(auction_id) => {
                let carried_out = self.carry_out(auction_id, &new, token, valid_until, unknown).await;
                carried_out.map_err(|failure| if failure.code == Code::Unavailable { unknown() } else { failure })
            }
            Claimed::Created(auction_id) => self.existing(auction_id).await,
            Claimed::Abandoned => Err(unknown()),
            Claimed::OtherBody => {
                Err(Failure::new(Code::InvalidRequest, "This Idempotency-Key was used with another body"))
            }
            Claimed::FollowsUnknown => {
                Err(Failure::new(Code::AuctionNotFound, "follows names an auction that does not exist"))
            }
            Claimed::FollowsAnotherHosts => {
                Err(Failure::new(Code::NotHost, "follows must name an auction of your own"))
            }
            Claimed::FollowsEnded => Err(Failure::new(
                Code::WrongState,
                "The auction that follows names has ended; start this one without it",
            )),
            Claimed::TooManyOpen => {
                self.over_limit.inc();
                let open = self.limits.open;
                let error = format!("You have {open} auctions that have not ended, the most that one person may have");
                Err(Failure::new(Code::LimitExceeded, error))
            }
            Claimed::TooManyInAnHour { retry_after_seconds } => {
                self.over_limit.inc();
                let error = "You have created too many auctions in the last hour; try again later";
                Err(Failure::new(Code::RateLimited, error).retry_after(retry_after_seconds))
            }
        }
    }

    /// The start must lie ahead, unless the request repeats one that was in time.
    async fn check_start(&self, host: &Person, create: &AuctionCreate, key: Option<&str>) -> Result<(), Failure> {
        let now = self.clock.now().0;
        let error = match create.starts_at {
            None => return Ok(()),
            Some(starts_at) if starts_at > now + MAX_AHEAD_MS => "starts_at must be at most 30 days ahead",
            Some(starts_at) if starts_at > now => return Ok(()),
            Some(_) => "starts_at must be in the future",
        };
        if let Some(key) = key
            && self.store.has_key(host.user_id, key).await.map_err(|error| store_failure(&error))?
        {
            return Ok(());
        }
        Err(Failure::new(Code::InvalidRequest, error))
    }

    /// Steps 2 to 4. `unknown` is the answer where the auction may exist.
    async fn carry_out(
        &self,
        auction_id: AuctionId,
        new: &NewAuction<'_>,
        token: &Token,
        valid_until: u64,
        unknown: impl Fn() -> Failure,
    ) -> Result<Created, Failure> {
        let channel =
            if new.create.video { Some(video::ensure(&self.video, &self.store, auction_id).await?) } else { None };
        let state = self.begin(auction_id, new, token, valid_until).await.map_err(|failure| match failure.code {
            Code::OutcomeUnknown => unknown(),
            _ => failure,
        })?;
        if let Err(error) = self.store.write_state(auction_id, state.seq, &state.state).await {
            // The auction exists; the result writer completes the row.
            tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to make a new auction visible");
        }
        let stored = match self.store.auction(auction_id).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Err(unknown()),
            Err(error) => {
                store_failure(&error);
                return Err(unknown());
            }
        };
        Ok(Created { stored, state: Some(state), channel })
    }

    /// The auction that an earlier request with the same key created: as it is now, running or over. Changes nothing.
    async fn existing(&self, auction_id: AuctionId) -> Result<Created, Failure> {
        let stored = self.store.auction(auction_id).await.map_err(|error| store_failure(&error))?;
        let stored = stored.ok_or_else(|| Failure::from(Code::Unavailable))?;
        let channel = self.store.channel(auction_id).await.map_err(|error| store_failure(&error))?;
        let state = if stored.outcome.is_some() { None } else { state(&self.bus, auction_id, ASK_TIMEOUT).await.ok() };
        Ok(Created { stored, state, channel })
    }

    /// The auction to create, with the defaults where the host gave no value.
    fn with_defaults<'a>(&self, host: &'a Person, create: &'a AuctionCreate) -> NewAuction<'a> {
        let defaults = &self.defaults;
        NewAuction {
            auction_id: AuctionId::from_uuid(uuid::Uuid::new_v4()),
            host,
            create,
            increments: create.increments.clone().unwrap_or_else(|| Ladder::flat(defaults.increment)),
            anti_snipe_mode: create.anti_snipe_mode.unwrap_or(AntiSnipeMode::Extend),
            // A default window longer than the auction would make every bid a late one.
            anti_snipe_window_seconds: create
                .anti_snipe_window_seconds
                .unwrap_or_else(|| defaults.anti_snipe_window_seconds.min(create.duration_seconds)),
            anti_snipe_extension_seconds: create
                .anti_snipe_extension_seconds
                .unwrap_or(defaults.anti_snipe_extension_seconds),
            anti_snipe_max_extensions: create
                .anti_snipe_max_extensions
                .map_or(defaults.max_extensions, |most| u32::try_from(most).unwrap_or(u32::MAX)),
        }
    }

    /// Step 3.
    async fn begin(
        &self,
        auction_id: AuctionId,
        new: &NewAuction<'_>,
        token: &Token,
        valid_until: u64,
    ) -> Result<CommittedState, Failure> {
        let request = CreateRequest {
            auction_id,
            host: new.host.clone(),
            starting_bid: new.create.starting_bid,
            increment: new.increments.step(new.create.starting_bid),
            options: Options {
                increments: new.increments.flat_step().is_none().then(|| new.increments.clone()),
                allow_self_raise: new.create.allow_self_raise,
                buy_now: new.create.buy_now,
                allow_prebids: new.create.allow_prebids,
                follows: new.create.follows.map(|follows| follows.auction_id),
                gap_ms: new.create.follows.map_or(0, |follows| follows.gap_ms),
            },
            reserve: new.create.reserve,
            sealed_reserve: None,
            duration_ms: new.create.duration_seconds * 1000,
            anti_snipe_mode: new.anti_snipe_mode,
            anti_snipe_window_ms: new.anti_snipe_window_seconds * 1000,
            anti_snipe_extension_ms: new.anti_snipe_extension_seconds * 1000,
            anti_snipe_max_extensions: new.anti_snipe_max_extensions,
            starts_at: new.create.starts_at,
            valid_until,
        };
        let plain = request.rules().is_plain() && request.starts_at.is_none();
        let subject = match request.reserve {
            _ if request.options.follows.is_some() => subject::AUCTIONS_CREATE_FOLLOWER,
            _ if request.options.allow_prebids => subject::AUCTIONS_CREATE_WITH_PREBIDS,
            Some(_) => subject::AUCTIONS_CREATE_WITH_RESERVE,
            None if plain => subject::AUCTIONS_CREATE,
            None => subject::AUCTIONS_CREATE_WITH_RULES,
        };
        // If it is not confirmed, the sweep resolves it.
        changed(bus::request_for(&self.bus, subject, &request, token.text(), ASK_TIMEOUT).await)
    }
}

/// Distinguishes a repeated body from a different one, across restarts and versions.
fn hash(body: &[u8]) -> String {
    format!("{:x}", Sha1::digest(body))
}

/// Finishes or removes unfinished creations, forever.
pub async fn sweep(store: Store, bus: Bus, video: Video) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        match store.stuck_creations(STUCK_AFTER_SECONDS, SWEEP_MOST).await {
            Ok(stuck) => {
                for auction_id in stuck {
                    sweep_one(&store, &bus, &video, auction_id).await;
                }
            }
            Err(error) => {
                tracing::warn!(error = %errors::chain(&error), "failed to find unfinished creations");
            }
        }
    }
}

async fn sweep_one(store: &Store, bus: &Bus, video: &Video, auction_id: AuctionId) {
    // From here on no request continues this creation, so that what bid-processing says stays true.
    match store.abandon_creation(auction_id, STUCK_AFTER_SECONDS).await {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => {
            tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to abandon an unfinished creation");
            return;
        }
    }
    let asked: Result<StateReply, _> =
        bus::request(bus, subject::AUCTIONS_STATE, &StateRequest { auction_id }, ASK_TIMEOUT).await;
    let swept = match asked.map(StateReply::into_result) {
        Ok(Ok(state)) => store.write_state(auction_id, state.seq, &state.state).await.map(|_| ()),
        Ok(Err(failure)) if failure.code == Code::AuctionNotFound => {
            // The channel goes first: the row is the only reference to it.
            if let Err(error) = video.remove_named(auction_id, None).await {
                tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to remove a video channel");
                return;
            }
            store.forget_creation(auction_id).await
        }
        Ok(Err(_)) | Err(_) => Ok(()),
    };
    match swept {
        Ok(()) => tracing::info!(%auction_id, "swept an unfinished creation"),
        Err(error) => {
            tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to sweep an unfinished creation");
        }
    }
}
