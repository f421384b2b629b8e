//! bid-persistence: copies every bid of the log into the history in DynamoDB.
//!
//! **Owns** the durable consumer `bid-persistence` and the items it writes.
//!
//! **Never** delays a bid, and never drops one: a message is acknowledged only when each of its items is confirmed; a
//! message that is unreadable, or holds a bid that DynamoDB rejects, goes to the dead letters with the reason.
//!
//! **Invariants**
//! - Items are keyed by (auction, seq): a message that is delivered again writes the same items.
//! - Auctions are written independently: an auction that DynamoDB throttles does not hold up the others.
//!
//! Tests: `bins/flash/tests/system` and the simulator in `bins/flash/src/simulate`.

mod backend;
mod config;
mod persist;
mod requests;

pub use backend::{Backend, Delivery, FetchError, LiveBackend};
pub use config::Config;
pub use persist::{Counters, Persist};
use service::{Health, Stop, Tasks};

/// The service's name in logs, health and NATS.
pub const NAME: &str = "bid-persistence";

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
    let consumer =
        bus::Consumer::open(&bus, protocol::subject::PERSISTENCE_CONSUMER).await.map_err(anyhow::Error::from_boxed)?;
    let log = bus::Log::open(&bus).await?;
    let history = cloud::History::new(&cloud::configuration(&config.aws).await, &config.bids_table);

    let mut health = Health::new(NAME, &stop);
    config.http.register(&mut health.registry);
    health.requires("nats", &bus, |bus| async move { bus.is_connected() });
    health.refuses(&bus, bus::Bus::refused);
    bus.register(&mut health.registry);
    health.requires("log", &log, |log| async move { log.exists().await });
    health.requires("consumer", &consumer, |consumer| async move { consumer.exists().await });
    health.requires("dynamodb", &history, |history| async move { history.is_reachable().await });
    let counters = Counters::default();
    health.registry.register("history_items_written", "Bids written to DynamoDB", counters.items.clone());
    health.registry.register(
        "history_write_failures",
        "Batches with at least one bid that must be written again",
        counters.failures.clone(),
    );
    let lag = "Time from the decision of the first bid of a record to its confirmed write to DynamoDB";
    counters.lag.register(&mut health.registry, "history_lag_seconds", lag);
    health.registry.register(
        "forged_records",
        "Records parked because they break the chain of their auction: another program published them",
        counters.forged.clone(),
    );
    health.registry.register(
        "history_items_rejected",
        "Bids that DynamoDB can never take, parked with their records",
        counters.rejected.clone(),
    );
    let (measuring, measured) = consumer.clone().watch_backlog();
    let written = counters.items.clone();
    let persist = Persist::new(decorate(LiveBackend { consumer, history }), counters);
    let status = move || requests::status(*measured.borrow(), written.get());
    let micro = requests::serve(&bus, status, &stop, log, persist.clone()).await.map_err(anyhow::Error::from_boxed)?;
    let mut tasks = Tasks::new(&stop);
    tasks.background("measuring the backlog", measuring);
    tasks.spawn("HTTP", service::http::serve(listener, health.routes(), config.http, stop.clone()));
    tasks.spawn("the consumer", async move {
        persist.run(stop).await;
        // After the last acknowledgement, so that the flush sends it.
        micro.finish().await;
        Ok::<_, std::convert::Infallible>(())
    });
    Ok(tasks.run().await?)
}
