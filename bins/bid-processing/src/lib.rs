//! bid-processing: every decision about an auction.
//!
//! **Owns** opening, closing and every bid: it alone runs the deciding scripts and publishes to
//! `auction.*.log`. Doors: `POST /bids` and `/internal/bids`, and the NATS requests `bids.place`,
//! `auctions.create`, `.open`, `.close`, `.state`.
//!
//! **Never** touches PostgreSQL or AWS, and never waits for them: a bid needs Redis, NATS and this.
//!
//! **Invariants**
//! - An answer is given only once the log contains exactly the (seq, head) it rests on.
//! - Every record is appended with compare-and-set on the subject and only if its `prev` is the head
//!   of the log's last record, so several instances may serve one auction.
//! - Where nothing is appended, the end of the log has been read since the call came: no answer is older than
//!   what any instance has answered before.
//! - What was decided and not committed is committed before anything else is decided.
//! - Redis may lose everything or go back in time: it is rebuilt from the log, never the other way round.
//!
//! The way of a bid: a door ([`doors`]) → the auction's [`auctioneer`] → `lua/place_bid.lua` → the
//! outbox → its [`committer`] → one record in the log → the answer. Calls that wait for one auction are decided in one
//! script call and committed in one record (group commit): one loop, no locks. Redis and the log are reached
//! through [`Backend`], so that a simulator can play all this in a world that fails.

mod auctioneer;
mod committer;
mod config;
mod doors;
mod house;
mod presence;
mod rebuild;
mod tail;
mod world;

// For the simulator: the same auctioneer in another world.
pub use auctioneer::{ANSWER_WITHIN, Auctioneer, Call, StandingReply, Waiting};
pub use config::Config;
pub use house::{Counters, Shared};
pub use rebuild::replay;
use service::{Health, Stop, Tasks};
pub use world::{Backend, Decided, RecallError};

pub const NAME: &str = "bid-processing";

/// Runs the service until the stop.
///
/// # Errors
/// When a dependency cannot be reached at the start, or a task dies.
pub async fn run(config: Config, stop: Stop) -> anyhow::Result<()> {
    let listener = config.listen.open()?;
    let bus = bus::Bus::connect(&config.nats, NAME).await?;
    let hotstate = hotstate::Hotstate::connect(&config.redis_url).await?;
    let log = bus::Log::open(&bus).await?;
    let verifier = identity::Verifier::new(config.identity);

    let mut health = Health::new(NAME, &stop);
    health.requires("nats", &bus, |bus| async move { bus.is_connected() });
    health.requires("redis", &hotstate, |redis| async move { redis.time().await.is_ok() });

    health.requires("cognito", &verifier, |verifier| async move { verifier.is_ready().await });

    let (courier, deliver) = bus::BackgroundSender::new(bus.clone(), protocol::subject::USERS_SEEN);
    let people = hotstate.clone();
    let clock = hotstate::Clock::start(&hotstate).await?;
    let measuring = clock.clone().follow(hotstate.clone());
    let house = house::House::open(hotstate, log, bus.clone(), clock, &mut health.registry);
    let doors = doors::Doors {
        house: house.clone(),
        verifier,
        courier,
        limits: admission::Limits::new(config.max_bids_per_user_per_second),
        bus: bus.clone(),
    };

    let mut tasks = Tasks::new(&stop);
    // Following comes first: from the moment a door is open, records of other instances are heard.
    let events = house.follow().await?;
    tasks.background("following the log", events);
    tasks.background("measuring the clock of Redis", measuring);
    tasks.background("counting people", presence::follow(&bus, people).await?);
    tasks.background("measuring the log", house.clone().measure_log());
    tasks.background("sweeping outboxes", house.clone().sweep());
    tasks.background("telling of users", deliver);
    let micro = doors.serve_requests(&bus, &stop).await.map_err(anyhow::Error::from_boxed)?;
    tasks.spawn("HTTP", service::http::serve(listener, doors.routes(health), config.http, stop.clone()));
    tasks.spawn("NATS requests", async move {
        stop.cancelled().await;
        micro.finish().await;
        Ok::<_, std::convert::Infallible>(())
    });
    Ok(tasks.run().await?)
}
