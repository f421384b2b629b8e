//! bid-processing: every decision about an auction.
//!
//! **Owns** opening, closing and every bid: it alone runs the deciding scripts and publishes to `auction.*.log`. Bids
//! come in over HTTP (`POST /bids` and `/internal/bids`) and by the NATS request `bids.place`; other services send
//! `auctions.create`, `.open`, `.close`, `.cancel` and `.state`.
//!
//! **Never** touches PostgreSQL or AWS, and never waits for them: a bid needs Redis, NATS and this service.
//!
//! **Invariants**
//! - An answer is sent only once the log contains exactly the (seq, head) it rests on.
//! - Every record is appended with compare-and-set on the subject, and only if its `prev` is the head of the log's last
//!   record, so several instances may serve one auction.
//! - Where nothing is appended, the end of the log has been read since the call arrived: no answer is older than an
//!   answer that any instance has given before.
//! - Facts that were decided and not committed are committed before anything else is decided.
//! - Redis may lose everything or go back in time: it is rebuilt from the log, never the log from Redis.
//!
//! # The way of a bid
//!
//! A route ([`routes`]) or a NATS request ([`requests`]) → the limits and the committed price ([`intake`]) → the queue
//! of the auction's [`auctioneer`], which [`auctioneers`] starts if the auction exists ([`existence`]) →
//! `lua/place_bid.lua` in Redis, which decides, writes the outbox and replies it → the auctioneer's [`committer`], which
//! appends it as one record → the answer.
//!
//! Calls that wait for one auction are decided in one script call and committed in one record (group commit): one task
//! an auction, no locks. A decision is an `Attempt`: `begin` commits what was left before, `commit` brings the log up
//! to what the script has replied. Redis and the log are reached through [`Backend`], so that a simulator can run all
//! this against servers that fail.
//!
//! # Tests
//!
//! The behaviour of the running service is tested in `bins/flash/tests/system/` (`auction.rs`, `races.rs`, `faults.rs`,
//! `rebuild.rs`, `contract.rs`; `wrong.rs` runs it with deliberate mistakes), auctioneer and committer on thousands of
//! random failures in `bins/flash/src/simulate/`.

mod auctioneer;
mod auctioneers;
mod backend;
mod backoff;
mod call;
mod checkpoints;
mod committer;
mod config;
mod existence;
mod intake;
mod merge;
pub mod openapi;
mod pending;
mod presence;
mod rebuild;
mod replay;
mod requests;
mod reserve;
mod routes;
mod sealing;
mod shared;
mod tail;
mod trouble;

use auctioneers::Auctioneers;
use futures_util::future::BoxFuture;
use intake::Intake;
use routes::Routes;
use service::{Health, Stop, Tasks};

pub use auctioneer::Auctioneer;
pub use backend::{Backend, Decided, LiveBackend, Reading, RecallError};
pub use call::{Call, Command, CommandReply, Waiting};
pub use checkpoints::write as write_checkpoints;
pub use config::Config;
pub use replay::replay;
pub use sealing::{LogKeys, SealError};
pub use shared::{ANSWER_WITHIN, Counters, Shared};

/// The service's name: in logs, as the NATS micro service, and as the queue group of its requests.
pub const NAME: &str = "bid-processing";

/// Runs the service until it is stopped.
///
/// # Errors
/// When a dependency cannot be reached at the start, or a task dies.
pub fn run(config: Config, stop: Stop) -> service::Running<anyhow::Error> {
    Box::pin(run_with(config, stop, |live| live))
}

/// Runs the service with a decorated backend: tests make it fail on purpose.
///
/// # Errors
/// As [`run`].
pub async fn run_with<B: Backend>(
    config: Config,
    stop: Stop,
    decorate: impl FnOnce(LiveBackend) -> B,
) -> anyhow::Result<()> {
    let listener = config.listen.open()?;
    let bus = bus::Bus::connect(&config.nats, NAME).await?;
    let hotstate = hotstate::Hotstate::connect(&config.redis).await?;
    let log = bus::Log::open(&bus).await?;
    let verifier = identity::Verifier::new(config.identity);
    let keys = verifier.clone();

    let mut health = Health::new(NAME, &stop);
    config.http.register(&mut health.registry);
    health.requires("nats", &bus, |bus| async move { bus.is_connected() });
    health.refuses(&bus, bus::Bus::refused);
    bus.register(&mut health.registry);
    verifier.register(&mut health.registry);
    health.requires("log", &log, |log| async move { log.exists().await });
    health.requires("redis", &hotstate, |redis| async move { redis.time().await.is_ok() });
    health.requires("cognito", &verifier, |verifier| async move { verifier.is_ready() });

    let clock = hotstate::Clock::start(&hotstate).await?;
    let measuring = clock.clone().follow(hotstate.clone());
    let checkpoints = bus::Checkpoints::open(&bus).await?;
    let live = LiveBackend { hotstate: hotstate.clone(), log: log.clone(), checkpoints, clock, bus: bus.clone() };
    let counters = Counters::registered(&mut health.registry);
    let mut shared = Shared::new(decorate(live), counters, config.log_keys);
    shared.standing = admission::StandingLeads::new(config.default_person_limit);
    let watched = log.clone();
    watched.look_once().await;
    let per_second = config.max_bids_per_user_per_second;
    let accepted = admission::AcceptedBids::new(per_second, config.max_bids_per_user_per_day);
    let auctioneers = Auctioneers::new(shared, log, hotstate.clone(), accepted, &mut health.registry);
    let intake = Intake::new(auctioneers.clone(), admission::Limits::new(per_second));
    let names = admission::ShownNames::default();
    let named = names.clone();
    let (users_seen, sending_users) = bus::BackgroundSender::new(
        bus.clone(),
        protocol::subject::USERS_SEEN,
        &mut health.registry,
        move |person: Option<protocol::Person>| named.learn(person.into_iter().collect()),
    );
    let of_status = auctioneers.clone();
    let status = std::sync::Arc::new(move || of_status.status());
    let (following_names, following_limits) = follow_people(&bus, names.clone(), auctioneers.clone()).await?;
    let routes = Routes { intake: intake.clone(), verifier: verifier.clone(), users_seen, names, bus: bus.clone() };

    let mut tasks = Tasks::new(&stop);
    // Following comes first: from the moment a call can arrive, records of other instances are observed.
    let following = auctioneers.follow().await?;
    tasks.background("following the log", following);
    tasks.background("watching the log", watched.watch());
    tasks.background("refreshing the issuer's keys", keys.refresh_keys());
    tasks.background("measuring the clock of Redis", measuring);
    tasks.background("counting people", presence::follow(&bus, hotstate).await?);
    tasks.background("measuring the log", auctioneers.clone().measure_log());
    tasks.background("writing checkpoints", auctioneers.write_checkpoints());
    tasks.background("sweeping outboxes", auctioneers.sweep());
    tasks.background("sending users", sending_users);
    tasks.background("following names", following_names);
    tasks.background("following limits", following_limits);
    let micro = requests::serve(&intake, status, &verifier, &bus, &stop).await.map_err(anyhow::Error::from_boxed)?;
    tasks.spawn("HTTP", service::http::serve(listener, routes.filter(health), config.http, stop.clone()));
    tasks.spawn("NATS requests", async move {
        stop.cancelled().await;
        micro.finish().await;
        Ok::<_, std::convert::Infallible>(())
    });
    Ok(tasks.run().await?)
}

/// Follows the names and the limits of people. Both at once: each waits a moment while auction-management is away.
async fn follow_people<B: Backend>(
    bus: &bus::Bus,
    names: admission::ShownNames,
    auctioneers: Auctioneers<B>,
) -> anyhow::Result<(BoxFuture<'static, ()>, BoxFuture<'static, ()>)> {
    let (learned, limited) = (names.clone(), auctioneers.clone());
    let (names, limits) = tokio::try_join!(
        bus::follow_names(bus, move |people| learned.learn(people), move |all| names.set_complete(all)),
        bus::follow_limits(
            bus,
            move |limits| limited.standing().learn(&limits),
            move |all| auctioneers.standing().set_complete(all)
        ),
    )?;
    Ok((Box::pin(names), Box::pin(limits)))
}
