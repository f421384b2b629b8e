//! auction-management: auctions and people as a person sees them.
//!
//! **Owns** the HTTP API around an auction (create, get, list, state, history, close, cancel), profiles
//! and own bids, video channels, writing results into PostgreSQL, and handing over whom to tell of them.
//!
//! **Never** decides about a bid, an opening or a closing: it asks bid-processing. No bid and no
//! closing ever waits for this service.
//!
//! **Invariants**
//! - A new auction is a row nobody sees, then a record in the log, then a visible row; whatever a crash
//!   leaves in between is finished or removed by the sweep.
//! - A result and the outbox row that tells people of it are one transaction.
//! - A stream key goes to the host alone: into no log, no record, no other reply.
//! - While an auction runs, status, outcome and winner shown come from one committed state.

mod config;
mod create;
mod doors;
mod relay;
mod results;
mod video;

pub use config::{Config, Defaults};
use protocol::{OwnBidsRequest, Reply, StateRequest, UserSeen, subject};
use service::{Health, Stop, Tasks};

pub const NAME: &str = "auction-management";

/// Runs the service until the stop.
///
/// # Errors
/// When a dependency cannot be reached at the start, or a task dies.
pub async fn run(config: Config, stop: Stop) -> anyhow::Result<()> {
    let listener = config.listen.open()?;
    let store = store::Store::connect(&config.database_url).await?;
    let bus = bus::Bus::connect(&config.nats, NAME).await?;
    let hotstate = hotstate::Hotstate::connect(&config.redis_url).await?;
    let clock = hotstate::Clock::start(&hotstate).await?;
    let log = bus::Log::open(&bus).await?;
    let results = bus::Consumer::open(&bus, subject::RESULTS_CONSUMER).await.map_err(anyhow::Error::from_boxed)?;
    let aws = cloud::configuration(&config.aws).await;
    let history = cloud::History::new(&aws, &config.bids_table);
    let (queue, video) = (cloud::Queue::new(&aws, &config.queue_url), cloud::Video::new(&aws));

    let mut health = Health::new(NAME, &stop);
    health.requires("nats", &bus, |bus| async move { bus.is_connected() });
    health.requires("postgres", &store, |store| async move { store.is_reachable().await });

    let verifier = identity::Verifier::new(config.identity);
    health.requires("cognito", &verifier, |verifier| async move { verifier.is_ready().await });
    // Without these the history is not shown and nobody is told yet; auctions go on.
    health.reports("dynamodb", &history, |history| async move { history.is_reachable().await });
    health.reports("sqs", &queue, |queue| async move { queue.is_reachable().await });
    let relay =
        relay::Relay { store: store.clone(), log: log.clone(), queue, currency: config.defaults.currency.clone() };

    let doors = doors::Doors {
        store: store.clone(),
        bus: bus.clone(),
        log: log.clone(),
        chat: bus::Chat::open(&bus).await?,
        hotstate: hotstate.clone(),
        clock: clock.clone(),
        history,
        video: video.clone(),
        verifier,
        defaults: config.defaults,
    };

    let micro =
        bus::Micro::start(&bus, NAME, service::VERSION, stop.child_token()).await.map_err(anyhow::Error::from_boxed)?;
    let users = store.clone();
    let seen = move |user: UserSeen| {
        let users = users.clone();
        async move { user_seen(&users, &user).await }
    };
    micro.serve(subject::USERS_SEEN, unreadable, seen).await.map_err(anyhow::Error::from_boxed)?;
    let asked = doors.clone();
    let own_bids = move |request: OwnBidsRequest| {
        let doors = asked.clone();
        async move { Reply::from(doors.own_bids(&request).await) }
    };
    micro.serve(subject::BIDS_OWN, unreadable, own_bids).await.map_err(anyhow::Error::from_boxed)?;
    let asked = doors.clone();
    let recall = move |request: StateRequest| {
        let doors = asked.clone();
        async move { Reply::from(doors.is_over(request.auction_id).await) }
    };
    micro.serve(subject::AUCTIONS_RECALL, unreadable, recall).await.map_err(anyhow::Error::from_boxed)?;

    let mut tasks = Tasks::new(&stop);
    tasks.background("the clock", clock.follow(hotstate));
    tasks.background("the sweep of creations", create::sweep(store.clone(), bus, video.clone()));
    tasks.background("the sweep of channels", video::sweep(video, store.clone(), config.video_linger_seconds));
    tasks.background("the relay", relay.run());
    tasks.spawn("results", results::run(results, log, store.clone(), stop.clone()));
    tasks.spawn("HTTP", service::http::serve(listener, doors.routes(health), config.http, stop.clone()));
    tasks.spawn("NATS requests", async move {
        stop.cancelled().await;
        micro.finish().await;
        Ok::<_, std::convert::Infallible>(())
    });
    let result = tasks.run().await;
    store.close().await;
    Ok(result?)
}

async fn user_seen(store: &store::Store, user: &UserSeen) -> Reply<()> {
    match store.user_seen(user).await {
        Ok(()) => Reply::Ok(()),
        Err(error) => {
            tracing::warn!(%error, "a user could not be written");
            Reply::Failed(protocol::Code::Unavailable.into())
        }
    }
}

fn unreadable<T>(error: &str) -> Reply<T> {
    tracing::warn!(error, "a request cannot be read");
    Reply::Failed(protocol::Code::InvalidRequest.into())
}
