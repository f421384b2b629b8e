//! websocket: the edge that bidders are connected to.
//!
//! **Owns** connections and rooms: one room an auction, which follows its committed records, ticks, talk
//! and presence, and tells everybody in it. Two doors, plain WebSocket and Socket.IO, one vocabulary.
//!
//! **Never** decides: a bid goes to bid-processing over NATS, unless it is below a committed price and so
//! cannot win; and nobody is shown a bid that is not in the log.
//!
//! **Invariants**
//! - For each connection and auction `seq` only rises; where frames were left out, `previous_seq` says so.
//! - A slow client loses intermediate updates, never its answers or the end; what waits for a connection is
//!   bounded in bytes, for it and for all together, and one that overflows is closed with 4408.
//! - Nobody waits for anybody's socket: each frame goes to the kernel at once or into a mailbox.
//! - An event is written once for all who get it, and framed once a door.
//! - Who comes back with `last_seq` gets every bid since, from memory or from the log, at most a thousand.
//! - What the host deletes is erased from the stream before anybody is told; Redis says who may talk.
//! - Identity comes from the token alone; no token reaches a log.

pub mod asyncapi;
mod config;
mod edge;
mod line;
mod mailbox;
pub mod openapi;
mod outgoing;
mod people;
mod plain;
mod room;
mod rooms;
mod session;
mod socketio;
mod upgrade;

pub use config::Config;
use service::{Health, Stop, Tasks};

pub const NAME: &str = "websocket";

/// Runs the service until the stop.
///
/// # Errors
/// When a dependency cannot be reached at the start, or a task dies.
pub async fn run(config: Config, stop: Stop) -> anyhow::Result<()> {
    let listener = config.listen.open()?;
    let bus = bus::Bus::connect(&config.nats, NAME).await?;
    let hotstate = hotstate::Hotstate::connect(&config.redis_url).await?;
    let clock = hotstate::Clock::start(&hotstate).await?;
    let log = bus::Log::open(&bus).await?;

    let mut health = Health::new(NAME, &stop);
    health.requires("nats", &bus, |bus| async move { bus.is_connected() });

    let verifier = identity::Verifier::new(config.identity);
    health.requires("cognito", &verifier, |verifier| async move { verifier.is_ready().await });

    let (courier, deliver) = bus::BackgroundSender::new(bus.clone(), protocol::subject::USERS_SEEN);
    let edge = edge::Edge::new(
        edge::Parts {
            rooms: rooms::Rooms::new(rooms::Shared {
                bus: bus.clone(),
                log,
                chat: bus::Chat::open(&bus).await?,
                hotstate: hotstate.clone(),
                clock: clock.clone(),
                prices: admission::CommittedPrices::default(),
                max_members: config.max_connections_per_auction,
                edge: uuid::Uuid::new_v4().to_string(),
            }),
            bus: bus.clone(),
            clock: clock.clone(),
            verifier,
            courier,
            origins: config.http.origins.clone(),
            max_connections: config.http.max_connections,
            accepting: config.accepting,
            waiting: prometheus_client::metrics::gauge::Gauge::default(),
            too_slow: prometheus_client::metrics::counter::Counter::default(),
            stop: stop.clone(),
            sessions: std::sync::atomic::AtomicU64::default(),
            limits: admission::Limits::new(config.max_bids_per_user_per_second),
            refused: prometheus_client::metrics::counter::Counter::default(),
        },
        &mut health.registry,
    );

    let micro =
        bus::Micro::start(&bus, NAME, service::VERSION, stop.child_token()).await.map_err(anyhow::Error::from_boxed)?;
    let mut tasks = Tasks::new(&stop);
    tasks.background("the clock", clock.follow(hotstate));
    tasks.background("telling of users", deliver);
    let routes = upgrade::routes(edge.clone(), health);
    // Polling clients are told of the stop by a poll: HTTP goes on until the connections have ended.
    let connections_ended = Stop::new();
    tasks.spawn("HTTP", service::http::serve(listener, routes, config.http, connections_ended.clone()));
    tasks.spawn("sessions", async move {
        stop.cancelled().await;
        edge.drain().await;
        connections_ended.cancel();
        micro.finish().await;
        Ok::<_, std::convert::Infallible>(())
    });
    Ok(tasks.run().await?)
}
