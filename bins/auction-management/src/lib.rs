//! auction-management: the HTTP API of auctions and people.
//!
//! **Owns** the HTTP API around an auction (create, get, list, state, history, close, cancel), profiles and own bids,
//! video channels, writing results into PostgreSQL, and queueing the notifications about them.
//!
//! **Never** decides about a bid, an opening or a closing: it asks bid-processing. No bid and no closing ever waits for
//! this service.
//!
//! **Invariants**
//! - A new auction is an invisible row, then a record in the log, then a visible row. Whatever a crash leaves in
//!   between is finished or removed by the sweep.
//! - A result and the outbox row of its notifications are one transaction.
//! - A stream key goes to the host alone: into no log, no record, no other reply.
//! - With aliases, names are replaced for each viewer when an answer is made; states and chats are kept with the names.
//! - While an auction runs, the status, outcome and winner shown come from one committed state.
//! - Readers share the requests that their answers need: states and chats follow what the server republishes, and an id
//!   that PostgreSQL does not have costs a few bytes.
//!
//! Files: `routes` is the route table, `openapi` its description; `auctions`, `catalogue` (lists), `bids`, `facts`, `people` and
//! `uploads` handle the requests of one resource each; `views` and `followed` keep the states and chats that they show
//! current; `on_air` finds the hosts that stream; `requests` answers other services; `creation`, `results`, `relay` and `video` are the workflows behind them.
//! The tests are in `bins/flash/tests/system`: `auction.rs`, `catalogue.rs`, `people.rs`, `history.rs`, `bad_input.rs`,
//! `contract.rs`, `unknown_ids.rs`.

mod auctions;
mod bids;
mod catalogue;
mod config;
mod context;
mod creation;
mod facts;
mod followed;
mod on_air;
pub mod openapi;
mod people;
mod relay;
mod requests;
mod results;
mod routes;
mod uploads;
mod video;
mod views;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use config::{Config, Defaults};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use protocol::subject;
use service::{Health, Stop, Tasks};

use crate::auctions::Auctions;
use crate::bids::Bids;
use crate::context::Context;
use crate::creation::Creation;
use crate::relay::Relay;
use crate::views::Views;

/// The service's name in logs, metrics and NATS.
pub const NAME: &str = "auction-management";

/// Runs the service until the stop.
///
/// # Errors
/// When a dependency cannot be reached at the start, or a task dies.
pub fn run(config: Config, stop: Stop) -> service::Running<anyhow::Error> {
    Box::pin(serve(config, stop))
}

async fn serve(config: Config, stop: Stop) -> anyhow::Result<()> {
    let listener = config.listen.open()?;
    let store = store::Store::connect(&config.database_url).await?;
    let bus = bus::Bus::connect(&config.nats, NAME).await?;
    let hotstate = hotstate::Hotstate::connect(&config.redis).await?;
    let clock = hotstate::Clock::start(&hotstate).await?;
    let log = bus::Log::open(&bus).await?;
    let results = bus::Consumer::open(&bus, subject::RESULTS_CONSUMER).await.map_err(anyhow::Error::from_boxed)?;
    let aws = cloud::configuration(&config.aws).await;
    let history = cloud::History::new(&aws, &config.bids_table);
    let queue = cloud::Queue::new(&aws, &config.queue_url);
    let video = cloud::Video::new(&aws);
    let photos = config.photo_bucket.map(|bucket| cloud::Uploads::new(&aws, &bucket));
    let verifier = identity::Verifier::new(config.identity);
    let keys = verifier.clone();

    let mut health = Health::new(NAME, &stop);
    config.http.register(&mut health.registry);
    health.requires("nats", &bus, |bus| async move { bus.is_connected() });
    health.refuses(&bus, bus::Bus::refused);
    bus.register(&mut health.registry);
    verifier.register(&mut health.registry);
    health.requires("log", &log, |log| async move { log.exists().await });
    health.requires("postgres", &store, |store| async move { store.is_reachable().await });
    health.requires("cognito", &verifier, |verifier| async move { verifier.is_ready() });
    reports(&mut health, &results, &history, &queue);

    let currency = config.defaults.currency.clone();
    let (forged, over_limit) = counters(&mut health.registry);
    let counters = relay::Counters::registered(&mut health.registry);
    let relay = Relay { store: store.clone(), log: log.clone(), queue, currency: currency.clone(), counters };
    let views = Arc::new(Views::new(bus.clone(), bus::Chat::open(&bus).await?, config.show_aliases));
    let following = views.follow(&log).await?;
    let photos_url = photos.as_ref().map(|photos| photos.public_url().to_owned());
    let context =
        Context { store: store.clone(), bus: bus.clone(), clock: clock.clone(), verifier, views, currency, photos_url };
    let creation = Creation {
        store: store.clone(),
        bus: bus.clone(),
        log: log.clone(),
        video: video.clone(),
        clock: clock.clone(),
        defaults: config.defaults,
        limits: config.limits,
        over_limit,
    };
    let auctions = Auctions { context: context.clone(), creation, hotstate: hotstate.clone(), video: video.clone() };
    let bids = Bids { context: context.clone(), history };
    let (measuring, backlog) = results.clone().watch_backlog();
    let status = move || serde_json::json!({ "backlog": *backlog.borrow() });
    let micro = requests::serve(&bus, status, &stop, log.clone(), auctions.clone(), bids.clone())
        .await
        .map_err(anyhow::Error::from_boxed)?;
    let api = routes::Api::new(&context, auctions, bids, log.clone(), photos);
    let routes = routes::routes(api, health);

    let mut tasks = Tasks::new(&stop);
    tasks.background("refreshing the issuer's keys", keys.refresh_keys());
    tasks.background("the clock", clock.follow(hotstate));
    follow_streams(&mut tasks, &context, &video, config.stream_state_interval);
    tasks.background("the sweep of creations", creation::sweep(store.clone(), bus, video.clone()));
    tasks.background("the sweep of channels", video::sweep(video, store.clone(), config.video_linger_seconds));
    tasks.background("following states and chats", following);
    tasks.background("watching the log", log.clone().watch());
    tasks.background("measuring the backlog", measuring);
    tasks.background("the relay", relay.run());
    tasks.spawn("results", results::run(results, log, store.clone(), forged, stop.clone()));
    tasks.spawn("HTTP", service::http::serve(listener, routes, config.http, stop.clone()));
    tasks.spawn("NATS requests", finish(micro, stop));
    let result = tasks.run().await;
    store.close().await;
    Ok(result?)
}

/// Follows which hosts stream, and asks IVS for it at this interval, if there is one.
fn follow_streams(tasks: &mut Tasks, context: &Context, video: &cloud::Video, interval: Option<Duration>) {
    let Context { store, bus, views, .. } = context.clone();
    let heard = views.on_air.clone();
    let hear = move |message| heard.hear(message, Instant::now());
    tasks.background("following the auctions on air", bus::follow_on_air(bus.clone(), hear));
    if let Some(interval) = interval {
        let watch = on_air::Watch { video: video.clone(), store, bus, on_air: views.on_air.clone(), interval };
        tasks.background("watching the hosts' streams", watch.run());
    }
}

/// Dependencies without which auctions go on: results are not written, the history is not shown, notifications wait.
fn reports(health: &mut Health, results: &bus::Consumer, history: &cloud::History, queue: &cloud::Queue) {
    health.reports("consumer", results, |results| async move { results.exists().await });
    health.reports("dynamodb", history, |history| async move { history.is_reachable().await });
    health.reports("sqs", queue, |queue| async move { queue.is_reachable().await });
}

/// Ends the answers over NATS after the stop.
async fn finish(micro: bus::Micro, stop: Stop) -> Result<(), std::convert::Infallible> {
    stop.cancelled().await;
    micro.finish().await;
    Ok(())
}

/// Counters of forged records and of creations over a limit, which `/metrics` shows.
fn counters(registry: &mut Registry) -> (Counter, Counter) {
    let (forged, over_limit) = (Counter::default(), Counter::default());
    let help = "Records parked because they do not continue the log: another program published them";
    registry.register("forged_records", help, forged.clone());
    let help = "Creations rejected because their host exceeded a limit";
    registry.register("creations_over_limit", help, over_limit.clone());
    (forged, over_limit)
}
