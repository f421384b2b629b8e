//! auction-notifications: mails the winner, the losers and the host how an auction ended.
//!
//! **Owns** the queue's consumer, the texts of the mails, and which mail was sent.
//!
//! **Never** decides who has won: the message names the winner. No bid and no closing waits for this service.
//!
//! **Invariants**
//! - Each user gets each mail once: it is claimed in PostgreSQL before it is sent and marked as sent afterwards. Only a
//!   stop between SES's answer and that mark can repeat a mail, and such repeats are counted.
//! - A message is deleted only when each of its mails was sent, or after it was sent to the queue again; one that can
//!   never be sent, or be read, goes to the dead letters after five receives. SES or PostgreSQL being away costs no
//!   receives, and throttling only time.
//! - No mail address reaches a log.
//!
//! Tests: `bins/flash/tests/system`.

mod config;
mod mails;
mod pace;
mod texts;

pub use config::Config;
use service::{Health, Stop, Tasks};

/// The service's name in logs, health and NATS.
pub const NAME: &str = "auction-notifications";

/// Runs the service until the stop.
///
/// # Errors
/// When a dependency cannot be reached at the start, or a task dies.
pub fn run(config: Config, stop: Stop) -> service::Running<anyhow::Error> {
    Box::pin(serve(config, stop))
}

async fn serve(config: Config, stop: Stop) -> anyhow::Result<()> {
    let listener = config.listen.open()?;
    let bus = bus::Bus::connect(&config.nats, NAME).await?;
    let store = store::Store::connect(&config.database_url).await?;
    let aws = cloud::configuration(&config.aws).await;
    let (queue, mail) = (cloud::Queue::new(&aws, &config.queue_url), cloud::Mail::new(&aws, &config.from));

    let mut health = Health::new(NAME, &stop);
    config.http.register(&mut health.registry);
    health.requires("nats", &bus, |bus| async move { bus.is_connected() });
    health.refuses(&bus, bus::Bus::refused);
    bus.register(&mut health.registry);
    health.requires("postgres", &store, |store| async move { store.is_reachable().await });
    health.requires("sqs", &queue, |queue| async move { queue.is_reachable().await });
    health.requires("ses", &mail, |mail| async move { mail.is_reachable().await });
    let mails = mails::Mails::new(queue, mail, store.clone(), &mut health.registry);

    let counters = mails.counters();
    let about = bus::About {
        name: NAME,
        version: service::VERSION,
        description: "Mails the winner, the losers and the host how an auction ended",
        status: std::sync::Arc::new(move || counters.status()),
    };
    let micro = bus::Micro::start(&bus, about, stop.child_token()).await.map_err(anyhow::Error::from_boxed)?;
    let mut tasks = Tasks::new(&stop);
    tasks.spawn("HTTP", service::http::serve(listener, health.routes(), config.http, stop.clone()));
    tasks.spawn("the queue", async move {
        mails.run(stop).await;
        micro.finish().await;
        Ok::<_, std::convert::Infallible>(())
    });
    let result = tasks.run().await;
    store.close().await;
    Ok(result?)
}
