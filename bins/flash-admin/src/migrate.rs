//! `flash-admin migrate`: runs once before the services of a version start.

use std::process::ExitCode;

use anyhow::{Context, Result};
use protocol::rights::{self, Login};
use service::{Environment, Mistakes, Reader};

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
        let replicas = reader.read("STREAM_REPLICAS", 1, "1, 3 or 5", |text| {
            text.parse().ok().filter(|replicas| [1, 3, 5].contains(replicas))
        });
        let (database_url, nats) = (reader.required("DATABASE_URL"), reader.part(bus::Settings::read));
        let logins = LOGINS.iter().filter_map(|(name, setting)| rights::login(name).zip(reader.optional(setting)));
        let logins = logins.collect();
        reader.finish(Self { database_url, nats, replicas, logins })
    }
}

pub(crate) async fn run(environment: &Environment) -> Result<ExitCode> {
    Box::pin(migrate(&Config::read(environment)?)).await?;
    println!("Tables, streams and consumers are at this version.");
    Ok(ExitCode::SUCCESS)
}

/// Brings tables, streams and consumers to this version. Can be repeated and run twice at the same time.
///
/// # Errors
/// The server that refused, and its reason.
pub async fn migrate(config: &Config) -> Result<()> {
    let tables = async {
        let store = store::Store::connect(&config.database_url).await?;
        let migrated = tables(&store, &config.logins).await;
        store.close().await;
        migrated
    };
    let streams = async {
        let bus = bus::Bus::connect(&config.nats, "flash-admin migrate").await?;
        let declared = bus::declare(&bus.jetstream, config.replicas).await.map_err(anyhow::Error::from_boxed);
        declared.context("failed to declare the streams")
    };
    tokio::try_join!(tables, streams).map(|_| ())
}

async fn tables(store: &store::Store, logins: &[(&Login, String)]) -> Result<()> {
    store.migrate().await.context("failed to migrate the tables")?;
    store.grant().await.context("failed to grant the rights on the tables")?;
    for (login, password) in logins {
        store.set_login(login, password).await.with_context(|| format!("failed to set the login {}", login.name))?;
    }
    Ok(())
}
