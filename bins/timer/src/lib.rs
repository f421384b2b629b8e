//! timer: opens and closes auctions on time and sends their ticks.
//!
//! **Owns** the schedule of openings and closings, and the ticks on `auction.<id>.timer`.
//!
//! **Never** opens or closes anything itself: it asks bid-processing, which rejects early requests.
//!
//! **Invariants**
//! - The schedule is read from the log, in order and without gaps, so no auction is forgotten.
//! - Every instance requests every due opening and closing; exactly one of these requests takes effect. Openings and
//!   closings never wait for an election.
//! - An auction that follows another is opened by that one's ending record. The first request for it asks bid-processing
//!   whether there is one already: after a start only the last record of each auction is known, in any order.
//! - While the log cannot be followed, due requests and ticks go on from what is known.
//! - Only the holder of the lease `timer` sends ticks, each with its fencing token.
//!
//! Tests: `bins/flash/tests/system` and the simulator in `bins/flash/src/simulate`.

mod backend;
mod config;
mod elected;
pub mod openapi;
mod pace;
mod routes;
mod running;
mod schedule;
mod ticker;
mod waiting;

pub use backend::{ASK_TIMEOUT, Backend, BackendError, LiveBackend, Records};
use bus::Election;
pub use config::Config;
use protocol::subject;
pub use running::Running;
pub use schedule::Schedule;
use service::{Health, Stop, Tasks};
use tokio::sync::watch;
use uuid::Uuid;

use crate::elected::Elected;
use crate::ticker::Metrics;

/// The service's name in logs, health and NATS.
pub const NAME: &str = "timer";

/// Runs the service until the stop.
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
    let clock = hotstate::Clock::start(&hotstate).await?;

    let mut health = Health::new(NAME, &stop);
    config.http.register(&mut health.registry);
    health.requires("nats", &bus, |bus| async move { bus.is_connected() });
    health.refuses(&bus, bus::Bus::refused);
    bus.register(&mut health.registry);
    health.requires("log", &log, |log| async move { log.exists().await });
    health.requires("redis", &hotstate, |redis| async move { redis.time().await.is_ok() });

    let (elected, election) = watch::channel(Election::default());
    // An opening and a closing need no election, so that the service is ready without one.
    health.reports("leases", &bus, |bus| async move { bus.has_leases().await });
    health.reports("ticker", &election, |election| async move { election.borrow().has_holder() });
    health.registry.register_collector(Box::new(Elected(election.clone())));
    // Process ids repeat in containers; the holder of a lease must differ for each process.
    let instance = format!("{NAME}-{}", Uuid::new_v4());
    let metrics = Metrics::registered(&mut health.registry);
    let (watched, of_status) = (log.clone(), election.clone());
    let sent_of_status = metrics.sent.clone();
    let backend = decorate(LiveBackend { bus: bus.clone(), log, clock: clock.clone(), election });
    let schedule = Schedule::new(backend, config.broadcast_interval, metrics);
    let routes = routes::Routes { running: schedule.shown(), bus: bus.clone(), clock: clock.clone() };

    let (running, ticks) = (schedule.shown(), sent_of_status);
    let status = move || {
        let election = *of_status.borrow();
        serde_json::json!({
            "live_auctions": running.count(),
            "is_elected": election.token_now().is_some(),
            "has_elected_instance": election.has_holder(),
            "ticks_sent": ticks.get(),
        })
    };
    let about = bus::About {
        name: NAME,
        version: service::VERSION,
        description: "Requests openings and closings when they are due, and sends the ticks of auctions",
        status: std::sync::Arc::new(status),
    };
    let micro = bus::Micro::start(&bus, about, stop.child_token()).await.map_err(anyhow::Error::from_boxed)?;
    let mut tasks = Tasks::new(&stop);
    let now_ms = {
        let clock = clock.clone();
        move || clock.now().0
    };
    let holding = bus::hold(bus, subject::TIMER_LEASE, instance, now_ms, elected, stop.clone());
    tasks.spawn("the lease", async move {
        holding.await;
        Ok::<_, std::convert::Infallible>(())
    });
    tasks.background("the clock", clock.follow(hotstate));
    tasks.background("watching the log", watched.watch());
    tasks.background("the schedule", schedule.run());
    tasks.spawn("HTTP", service::http::serve(listener, routes.serve(health), config.http, stop.clone()));
    tasks.spawn("NATS requests", async move {
        stop.cancelled().await;
        micro.finish().await;
        Ok::<_, std::convert::Infallible>(())
    });
    Ok(tasks.run().await?)
}
