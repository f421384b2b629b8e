//! websocket: the edge that clients are connected to.
//!
//! **Owns** connections and rooms, and serves the web page. Other requests under `/api` are forwarded to the service
//! that owns their path. There is one room for each auction; it follows the auction's committed records,
//! ticks, chat and presence, and broadcasts them to its members. Two transports, plain WebSocket and Socket.IO, share
//! one vocabulary.
//!
//! **Never** decides: a bid goes to bid-processing over NATS, unless it is below a committed price and so cannot win.
//! No client is shown a bid that is not in the log.
//!
//! **Invariants**
//! - For each connection and auction `seq` only rises; if frames were left out, `previous_seq` says so.
//! - A slow client loses intermediate updates, never its answers or the end. The queue of a connection is bounded in
//!   bytes, and all queues together are; a connection whose queue overflows is closed with 4408.
//! - The answer to a bid is written before the broadcast of that bid by the same edge, and a broadcast to many members
//!   leaves each core to other tasks every few sends.
//! - No broadcast waits for a socket: each frame goes to the kernel at once or into a send queue.
//! - An event is serialised once for all its receivers, and framed once for each transport.
//! - A client that joins with `last_seq` gets every bid since, from memory or from the log, at most a thousand.
//! - A message that the host deletes is erased from the stream before the deletion is broadcast; Redis decides who may
//!   chat.
//! - A connection that has not authenticated costs a few kilobytes for a few seconds, and takes no other
//!   connection's place.
//! - All frames of a connection, and of a person, share one allowance.
//! - A Socket.IO session lives in one edge, which its id names; another edge that gets one of its requests passes it on.
//! - A person is notified on every socket when a bid of it is overtaken, once for each bid, and of the end of an auction
//!   that it has bid in. The memory that this takes is bounded; committed records alone decide.
//! - With aliases, a frame to anyone but the host has no other name than that of the host.
//! - Identity comes from the token alone; no token reaches a log. A connection without one watches, and gives way to
//!   people with one.
//! - A forwarded request that is not safe to repeat is sent once; a lost answer to it is `outcome_unknown`.
//!
//! The way of a record to a screen: NATS republishes the stored record → the auction's [`room`], which reads a gap from
//! the log → its open room (`room/open.rs`) applies the record, keeps its bids and updates the committed price → one
//! [`event`], serialised once → its [`room`]'s audience visits the members → the [`transport`]'s send queue of each
//! connection: to the kernel at once, or queued. The task of a connection ([`plain`], [`socketio`]) reads, and writes
//! only the frames that were queued because the socket was full.
//!
//! Files from the top: [`routes`] → [`page`], [`forward`], [`plain`], [`socketio`] → [`session`] and [`upgrade`] → [`bids`],
//! [`shared_bids`] and [`edge`] → [`peers`] and [`rooms`] → [`room`] → [`follow`] → [`context`] → [`answers`],
//! [`bidders`], [`places`], [`near_client`], [`transport`] and [`event`].
//!
//! Tests: `bins/flash/tests/system/{edge,crowds,resume,socketio,framing,chat,conformance,answers_first,outbid,aliases}.rs` run the
//! whole service; `transport/conformance.rs` runs the transport alone against the cases of Autobahn's WebSocket suite.

mod answers;
pub mod asyncapi;
mod bidders;
mod bids;
mod config;
mod context;
mod edge;
mod entry;
mod event;
mod follow;
mod forward;
mod near_client;
pub mod openapi;
mod pace;
mod page;
mod page_config;
mod peers;
mod places;
mod plain;
mod room;
mod rooms;
mod routes;
mod session;
mod shared_bids;
mod single_flight;
mod socketio;
mod transport;
mod upgrade;

pub use config::Config;
use service::{Health, Stop, Tasks};

/// The name of the service in logs, metrics and NATS.
pub const NAME: &str = "websocket";

/// Runs the service until the stop.
///
/// # Errors
/// When a dependency cannot be reached at the start, or a task dies.
pub fn run(config: Config, stop: Stop) -> service::Running<anyhow::Error> {
    Box::pin(serve(config, stop))
}

async fn serve(config: Config, stop: Stop) -> anyhow::Result<()> {
    let (listener, places, has_tls) = (config.listen.open()?, config.places(), config.http.certificate.is_some());
    let bus = bus::Bus::connect(&config.nats, NAME).await?;
    let hotstate = hotstate::Hotstate::connect(&config.redis).await?;
    let clock = hotstate::Clock::start(&hotstate).await?;
    let log = bus::Log::open(&bus).await?;

    let verifier = identity::Verifier::new(config.identity);
    let keys = verifier.clone();
    let mut health = dependencies(&stop, &bus, &log, &verifier);
    config.http.register(&mut health.registry);

    let names = admission::ShownNames::default();
    let (named, learned, complete) = (names.clone(), names.clone(), names.clone());
    let (users_seen, send_users_seen) = bus::BackgroundSender::new(
        bus.clone(),
        protocol::subject::USERS_SEEN,
        &mut health.registry,
        move |person: Option<protocol::Person>| named.learn(person.into_iter().collect()),
    );
    let following_names =
        bus::follow_names(&bus, move |people| learned.learn(people), move |all| complete.set_complete(all)).await?;
    let (timer_lease, metrics) = (bus::LeaseToken::default(), context::Metrics::register(&mut health.registry));
    let (sign_ins, signed_in) = tokio::sync::mpsc::channel(context::MAX_SIGN_INS);
    let edge = edge::Edge::new(
        context::EdgeContext {
            log,
            chat: bus::Chat::open(&bus).await?,
            hotstate: hotstate.clone(),
            clock: clock.clone(),
            verifier,
            users_seen,
            names,
            show_aliases: config.show_aliases,
            prices: admission::CommittedPrices::default(),
            on_air: admission::OnAirAuctions::default(),
            timer_lease: timer_lease.clone(),
            answers: std::sync::Arc::default(),
            price_waits: context::PriceWaits::default(),
            bidders: bidders::Bidders::new(metrics.followed.clone()),
            sign_ins,
            limits: admission::Limits::new(config.max_bids_per_user_per_second),
            origins: config.http.origins.clone(),
            rooms: context::RoomPlaces::default(),
            max_members: config.max_connections_per_auction,
            frames: pace::of_connection(config.max_bids_per_user_per_second),
            edge: uuid::Uuid::new_v4(),
            stop: stop.clone(),
            metrics,
            sessions: std::sync::atomic::AtomicU64::default(),
            bus: bus.clone(),
        },
        places,
    );

    let micro = bus::Micro::start(&bus, about(&edge), stop.child_token()).await.map_err(anyhow::Error::from_boxed)?;
    peers::serve(&micro, &edge.context, config.edge_address, listener.local_addr()?, has_tls).await?;
    let mut tasks = Tasks::new(&stop);
    tasks.background("refreshing the issuer's keys", keys.refresh_keys());
    tasks.background("the clock", clock.follow(hotstate));
    tasks.background("sending of people seen", send_users_seen);
    tasks.background("following names", following_names);
    follow_others(&mut tasks, &edge.context);
    tasks.background("learning of bids", follow::learn(std::sync::Arc::clone(&edge.context), signed_in));
    tasks.background("the timer's lease", timer_lease.follow(bus.clone(), protocol::subject::TIMER_LEASE));
    let forwarder = forward::Forwarder::new(config.owners, &config.near_tls, edge.context.metrics.clone())?;
    let routes =
        routes::routes(edge.clone(), page::Page::new(&config.page)?, forwarder, health, config.http.max_connections);
    // Clients that poll are notified of the stop in the reply to a poll, so HTTP continues until the connections have
    // ended.
    let connections_ended = Stop::new();
    tasks.spawn("HTTP", service::http::serve(listener, routes, config.http, connections_ended.clone()));
    tasks.spawn("connections", drain(edge, stop, connections_ended, micro));
    Ok(tasks.run().await?)
}

/// Follows the log's stream, the other edges, and which hosts stream.
fn follow_others(tasks: &mut Tasks, context: &std::sync::Arc<context::EdgeContext>) {
    let on_air = context.on_air.clone();
    let hear = move |message| on_air.hear(message, std::time::Instant::now());
    tasks.background("following the auctions on air", bus::follow_on_air(context.bus.clone(), hear));
    tasks.background("watching the log", context.log.clone().watch());
    tasks.background("other edges' bids", shared_bids::follow(std::sync::Arc::clone(context)));
}

/// The dependencies that `/ready` shows.
fn dependencies(stop: &Stop, bus: &bus::Bus, log: &bus::Log, verifier: &identity::Verifier) -> Health {
    let mut health = Health::new(NAME, stop);
    health.requires("nats", bus, |bus| async move { bus.is_connected() });
    health.refuses(bus, bus::Bus::refused);
    bus.register(&mut health.registry);
    verifier.register(&mut health.registry);
    health.requires("log", log, |log| async move { log.exists().await });
    health.requires("cognito", verifier, |verifier| async move { verifier.is_ready() });
    health
}

/// Description of this edge, as `nats micro` shows it.
fn about(edge: &edge::Edge) -> bus::About {
    let edge = edge.clone();
    bus::About {
        name: NAME,
        version: service::VERSION,
        description: "Connects clients: events, chat and presence over WebSocket and Socket.IO",
        status: std::sync::Arc::new(move || edge.status()),
    }
}

/// Closes the connections after the stop, then ends HTTP and the answers over NATS.
async fn drain(
    edge: edge::Edge,
    stop: Stop,
    connections_ended: Stop,
    micro: bus::Micro,
) -> Result<(), std::convert::Infallible> {
    stop.cancelled().await;
    edge.drain().await;
    connections_ended.cancel();
    micro.finish().await;
    Ok(())
}
