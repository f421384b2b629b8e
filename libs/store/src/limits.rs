//! Limits of a host, counted in the transaction that starts a creation.

use domain::UserId;
use sqlx::PgConnection;

use crate::{Claimed, StoreError};

/// Most auctions of one host.
#[derive(Debug, Clone, Copy)]
pub struct HostLimits {
    /// Auctions that have not ended, those in creation included.
    pub open: u32,
    /// Auctions created in an hour, whatever has become of them.
    pub in_an_hour: u32,
}

impl HostLimits {
    /// The limit that one more auction of this host would exceed. The host's other creations wait until the end of the
    /// transaction, so that together they exceed none.
    pub(crate) async fn exceeded(
        self,
        transaction: &mut PgConnection,
        host: UserId,
    ) -> Result<Option<Claimed>, StoreError> {
        // A statement of its own: the next one sees what was committed while this one waited. NO KEY, because the rows that
        // refer to the host need not wait.
        sqlx::query("SELECT 1 FROM users WHERE user_id = $1 FOR NO KEY UPDATE")
            .bind(host.uuid())
            .execute(&mut *transaction)
            .await?;
        let (open, wait): (i64, Option<i64>) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM auctions WHERE host_user_id = $1 AND outcome IS NULL), \
             (SELECT ceil(extract(epoch FROM created_at + interval '1 hour' - now()))::bigint FROM auctions \
             WHERE host_user_id = $1 AND created_at > now() - interval '1 hour' \
             ORDER BY created_at DESC OFFSET $2 LIMIT 1)",
        )
        .bind(host.uuid())
        .bind(i64::from(self.in_an_hour) - 1)
        .fetch_one(transaction)
        .await?;
        if open >= i64::from(self.open) {
            return Ok(Some(Claimed::TooManyOpen));
        }
        // The oldest of the last `in_an_hour` creations gives way to the next.
        Ok(wait.map(|wait| Claimed::TooManyInAnHour { retry_after_seconds: u32::try_from(wait).unwrap_or(1) }))
    }
}
