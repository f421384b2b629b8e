//! PostgreSQL: users, auctions, results. Holds every SQL statement of the system.
//!
//! **Owns** the tables in `migrations/` and their meaning.
//!
//! **Never** decides anything about an auction: the log is the system of record, and a row is a copy of the auction's
//! last known record.
//!
//! **Invariants**
//! - A row is written from a record only if the record is newer than the row (`log_seq`).
//! - Status, outcome, winner and price of a row are written in one statement.
//! - A row in status `creating` is never returned to a client.

#![warn(missing_docs)]

mod auctions;
mod catalogue;
mod late;
mod limits;
mod notifications;
mod results;
mod users;
mod video;

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

pub use auctions::{Claimed, NewAuction};
pub use catalogue::{Filter, Order};
pub use late::LateRecipient;
pub use limits::HostLimits;
pub use notifications::{CLAIM_SECONDS, DueNotification, MailClaim};

/// Why a query has no result.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// PostgreSQL did not answer, or answered with an error.
    #[error("PostgreSQL query failed")]
    Database(#[from] sqlx::Error),
    /// A migration failed, or a past one was changed.
    #[error("failed to migrate the database")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A row holds, or would have to hold, an impossible value.
    #[error("invalid row: {0}")]
    Row(String),
}

impl StoreError {
    /// Whether the same statement with the same values fails again for certain: PostgreSQL refused a value.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Row(_) => true,
            // Classes of SQLSTATE: a value that its type or encoding cannot hold (22), and one larger than an index takes
            // (54). Broken constraints (23) are not among them: another transaction may have been faster.
            Self::Database(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("54"))
            }
            Self::Database(_) | Self::Migrate(_) => false,
        }
    }
}

/// Time limit for getting a connection from the pool. A caller behind a full pool is better answered "unavailable, try
/// again" than kept waiting.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections of one process. PostgreSQL allows 100 by default, which several instances share.
const MAX_CONNECTIONS: u32 = 10;
/// Time limit of one statement. Normal ones are far below it; a hanging one must not keep its connection.
const STATEMENT_TIMEOUT_MS: &str = "5000";

/// The database. A cheap handle; clones share the pool of connections.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
}

impl Store {
    /// Connects to the database at `url` (`postgres://…`).
    ///
    /// # Errors
    /// When the URL is invalid or PostgreSQL cannot be reached.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options: sqlx::postgres::PgConnectOptions = url.parse()?;
        // A search for punctuation makes a notice, which anybody could fill the log with.
        let options =
            options.options([("statement_timeout", STATEMENT_TIMEOUT_MS), ("client_min_messages", "warning")]);
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options)
            .await?;
        Ok(Self { pool })
    }

    /// Applies the missing migrations. Forward only, repeatable, safe to run twice at once.
    ///
    /// # Errors
    /// When a migration fails or a past one was changed.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        Ok(sqlx::migrate!("../../migrations").run(&self.pool).await?)
    }

    /// Whether PostgreSQL answers.
    pub async fn is_reachable(&self) -> bool {
        sqlx::query("SELECT 1").execute(&self.pool).await.is_ok()
    }

    /// Closes every connection; those in use are closed when they are returned.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// An amount from a `DECIMAL(10,2)` that was selected as `(column * 100)::bigint`.
fn amount(cents: i64) -> Result<domain::Amount, StoreError> {
    u64::try_from(cents)
        .ok()
        .and_then(domain::Amount::from_stored)
        .ok_or_else(|| StoreError::Row(format!("{cents} cents are not a valid amount")))
}

fn unsigned(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Row(format!("{number} is negative")))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
