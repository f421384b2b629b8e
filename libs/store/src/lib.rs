//! PostgreSQL: users, auctions, results. Holds every SQL statement of the system.
//!
//! **Owns** the tables in `migrations/` and their meaning.
//!
//! **Never** decides anything about an auction: the log is the system of record, and a row is a copy of the auction's
//! last known record.
//!
//! **Invariants**
//! - A row is written from a record only if the record is newer than the row (`log_seq`), or ends the auction for the
//!   first time.
//! - Status, outcome, winner and price of a row are written in one statement.
//! - A row in status `creating` is never returned to a client.

#![warn(missing_docs)]

mod auctions;
mod catalogue;
mod late;
mod limits;
mod notifications;
mod person_limits;
mod results;
mod roles;
mod sequences;
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
pub use users::Named;

/// Why a query has no result.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// PostgreSQL did not answer, or answered with an error.
    #[error("PostgreSQL query failed")]
    Database(#[from] sqlx::Error),
    /// There is no connection.
    #[error("failed to connect to PostgreSQL")]
    Connect(#[source] sqlx::Error),
    /// A migration failed, or a past one was changed.
    #[error("failed to migrate the database")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A row holds, or would have to hold, an impossible value.
    #[error("invalid row: {0}")]
    Row(String),
}

impl StoreError {
    /// Whether PostgreSQL cannot be reached, is shutting down or is starting.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut) => true,
            Self::Connect(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut) => true,
            Self::Database(sqlx::Error::Database(error)) | Self::Connect(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| matches!(&*code, "57P01" | "57P02" | "57P03"))
            }
            Self::Database(_) | Self::Connect(_) | Self::Migrate(_) | Self::Row(_) => false,
        }
    }

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
            Self::Database(_) | Self::Connect(_) | Self::Migrate(_) => false,
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
    /// Connects to the database at `url`: `postgres://…`, with `?sslmode=verify-full` for TLS, and `sslrootcert=<file>` for
    /// authorities in addition to those of the system.
    ///
    /// # Errors
    /// When the URL is invalid or PostgreSQL cannot be reached.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options: sqlx::postgres::PgConnectOptions = url.parse().map_err(StoreError::Connect)?;
        // A search for punctuation makes a notice, which anybody could fill the log with.
        let options =
            options.options([("statement_timeout", STATEMENT_TIMEOUT_MS), ("client_min_messages", "warning")]);
        let pool = PgPoolOptions::new().max_connections(MAX_CONNECTIONS).acquire_timeout(ACQUIRE_TIMEOUT);
        // Boxed: the handshakes of TLS and PostgreSQL would be part of every future that starts something.
        let pool = Box::pin(pool.connect_with(options)).await.map_err(StoreError::Connect)?;
        Ok(Self { pool })
    }

    /// Applies the missing migrations and returns their number. Forward only, repeatable, safe to run twice at once.
    ///
    /// # Errors
    /// When a migration fails or a past one was changed.
    pub async fn migrate(&self) -> Result<usize, StoreError> {
        let before = self.applied_migrations().await?;
        sqlx::migrate!("../../migrations").run(&self.pool).await?;
        Ok(self.applied_migrations().await?.saturating_sub(before))
    }

    async fn applied_migrations(&self) -> Result<usize, StoreError> {
        let table = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
        if !sqlx::query_scalar::<_, bool>(table).fetch_one(&self.pool).await? {
            return Ok(0);
        }
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations").fetch_one(&self.pool).await?;
        Ok(usize::try_from(count).unwrap_or_default())
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
