//! `flash-admin migrate`: runs once before the services of a version start.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use bus::Difference;
use protocol::rights::{self, Login};
use service::{Environment, Mistakes, Reader};
use tokio::time::Instant;

use crate::streams;

/// Time for PostgreSQL and NATS to answer: they may be started together with this command. A deployment that waits for
/// it fails within two minutes.
const WAIT_FOR_SERVERS: Duration = Duration::from_secs(60);
/// Pause between two attempts.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The settings of `migrate`.
#[derive(Clone)]
pub struct Config {
    /// Where PostgreSQL is.
    pub database_url: String,
    /// Where NATS is.
    pub nats: bus::Settings,
    /// Copies of each stream.
    pub replicas: usize,
    /// Passwords of the services' logins to PostgreSQL, which are created with them; none for logins that exist already.
    pub logins: Vec<(&'static Login, String)>,
}

/// Logins to PostgreSQL, and the setting with the password of each.
const LOGINS: [(&str, &str); 2] = [
    ("auction-management", "DATABASE_AUCTION_MANAGEMENT_PASSWORD"),
    ("auction-notifications", "DATABASE_AUCTION_NOTIFICATIONS_PASSWORD"),
];

impl Config {
    /// Reads `DATABASE_URL`, `NATS_URL`, `NATS_CREDS`, `STREAM_REPLICAS` and the passwords of the logins.
    ///
    /// # Errors
    /// Every mistake in the settings at once.
    pub fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let replicas = streams::read_replicas(&mut reader);
        let (database_url, nats) = (reader.required("DATABASE_URL"), reader.part(bus::Settings::read));
        let logins = LOGINS.iter().filter_map(|(name, setting)| rights::login(name).zip(reader.optional(setting)));
        let logins = logins.collect();
        reader.finish(Self { database_url, nats, replicas, logins })
    }
}

/// The changes that `migrate` has made.
#[derive(Debug, Default)]
pub struct Migrated {
    /// Migrations of the tables that were applied.
    pub migrations: usize,
    /// How the server's streams, consumers and bucket differed from those of this version.
    pub differences: Vec<Difference>,
}

pub(crate) async fn run(environment: &Environment) -> Result<ExitCode> {
    let migrated = Box::pin(migrate(&Config::read(environment)?)).await?;
    println!("tables: {} migrations applied", migrated.migrations);
    streams::print(&migrated.differences, streams::Mode::Apply, false);
    println!("Tables, streams and consumers are at this version.");
    Ok(ExitCode::SUCCESS)
}

/// Brings tables, streams and consumers to this version. Can be repeated and run twice at the same time. Waits for the
/// servers, at most [`WAIT_FOR_SERVERS`]. A change by an operator stays if undoing it could lose data.
///
/// # Errors
/// The server that refused, and its reason.
pub async fn migrate(config: &Config) -> Result<Migrated> {
    let until = Instant::now() + WAIT_FOR_SERVERS;
    let tables = retried(until, "PostgreSQL", store_is_away, || async {
        let store = store::Store::connect(&config.database_url).await?;
        let migrated = tables(&store, &config.logins).await;
        store.close().await;
        migrated
    });
    let streams = retried(until, "NATS", nats_is_away, || async {
        let bus = bus::Bus::connect(&config.nats, "flash-admin migrate").await?;
        streams::apply(&bus, config.replicas).await
    });
    let (migrations, differences) = tokio::try_join!(tables, streams)?;
    Ok(Migrated { migrations, differences })
}

/// Repeats `work` while its server is away.
async fn retried<T, F: Future<Output = Result<T>>>(
    until: Instant,
    server: &str,
    is_away: fn(&anyhow::Error) -> bool,
    work: impl Fn() -> F,
) -> Result<T> {
    let mut is_waiting = false;
    loop {
        match work().await {
            Err(error) if is_away(&error) && Instant::now() < until => {
                if !std::mem::replace(&mut is_waiting, true) {
                    eprintln!("waiting for {server}: {error:#}");
                }
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
            }
            done => return done,
        }
    }
}

fn store_is_away(error: &anyhow::Error) -> bool {
    error.downcast_ref::<store::StoreError>().is_some_and(store::StoreError::is_away)
}

fn nats_is_away(error: &anyhow::Error) -> bool {
    error.downcast_ref::<bus::ConnectError>().is_some_and(bus::ConnectError::is_away) || streams::is_temporary(error)
}

/// Returns how many migrations were new.
async fn tables(store: &store::Store, logins: &[(&Login, String)]) -> Result<usize> {
    let migrations = store.migrate().await.context("failed to migrate the tables")?;
    store.grant().await.context("failed to grant the rights on the tables")?;
    for (login, password) in logins {
        store.set_login(login, password).await.with_context(|| format!("failed to set the login {}", login.name))?;
    }
    Ok(migrations)
}
