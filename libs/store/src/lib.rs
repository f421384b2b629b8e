//! PostgreSQL: users, auctions, results. Every SQL statement there is.
//!
//! **Owns** the tables in `migrations/` and their meaning.
//!
//! **Never** decides anything about an auction: while one lives, the log is the truth and a row here
//! is what the log said last.
//!
//! **Invariants**
//! - A row is written from a record only if the record is newer than the row (`log_seq`).
//! - Status, outcome, winner and price of a row are written in one statement.
//! - A row in status `creating` is shown to nobody.

mod auctions;
mod notifications;
mod results;
mod users;
mod video;

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

pub use auctions::{Claimed, Filter, NewAuction};
pub use notifications::MailClaim;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("PostgreSQL did not do it")]
    Database(#[from] sqlx::Error),
    #[error("the migrations failed")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("a row cannot be read: {0}")]
    Row(String),
}

/// Nothing here waits longer for a connection: the caller is told to come back instead.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_CONNECTIONS: u32 = 10;
/// No statement here is anywhere near this long; one that is must not hold a connection.
const STATEMENT_TIMEOUT_MS: &str = "5000";

#[derive(Clone)]
pub struct Store {
    pool: PgPool,
}

impl Store {
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options: sqlx::postgres::PgConnectOptions = url.parse()?;
        let options = options.options([("statement_timeout", STATEMENT_TIMEOUT_MS)]);
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options)
            .await?;
        Ok(Self { pool })
    }

    /// Brings the tables to this version. Forward only, repeatable, safe to run twice at once.
    ///
    /// # Errors
    /// When a migration fails or a past one was changed.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        Ok(sqlx::migrate!("../../migrations").run(&self.pool).await?)
    }

    pub async fn is_reachable(&self) -> bool {
        sqlx::query("SELECT 1").execute(&self.pool).await.is_ok()
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Cents of a `DECIMAL(10,2)` that was selected as `(column * 100)::bigint`.
fn amount(cents: i64) -> Result<domain::Amount, StoreError> {
    u64::try_from(cents)
        .ok()
        .and_then(domain::Amount::from_stored)
        .ok_or_else(|| StoreError::Row(format!("{cents} cents are no amount")))
}

fn unsigned(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Row(format!("{number} is negative")))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
