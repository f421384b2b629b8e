//! Recipients whose address was not known when an auction's notification was sent.

use domain::{AuctionId, UserId};
use protocol::MailKind;
use uuid::Uuid;

use crate::notifications::TAKE_OVER_SECONDS;
use crate::{Store, StoreError, signed};

/// Seconds for which a late address still brings the mail.
const KEEP_SECONDS: i64 = 7 * 24 * 60 * 60;

/// One mail that waits for an address, or had to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LateRecipient {
    /// The person.
    pub user_id: UserId,
    /// The auction.
    pub auction_id: AuctionId,
    /// The mail.
    pub kind: MailKind,
}

impl Store {
    /// Remembers recipients of one auction that have no address. Those whose address has arrived by now are due at
    /// once. Repeatable.
    ///
    /// # Errors
    /// When a query fails.
    pub async fn remember_late(&self, auction_id: AuctionId, people: &[(UserId, MailKind)]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = people.iter().map(|(user_id, _)| user_id.uuid()).collect();
        let kinds: Vec<&str> = people.iter().map(|(_, kind)| kind.name()).collect();
        sqlx::query(
            "INSERT INTO late_recipients (auction_id, user_id, kind) \
             SELECT $1, late.user_id, late.kind FROM unnest($2::uuid[], $3::text[]) AS late (user_id, kind) \
             ON CONFLICT DO NOTHING",
        )
        .bind(auction_id.uuid())
        .bind(&ids)
        .bind(kinds)
        .execute(&self.pool)
        .await?;
        // A statement of its own, after the rows are there for `address_arrived`.
        sqlx::query(
            "UPDATE late_recipients SET next_attempt_at = now() FROM users \
             WHERE auction_id = $1 AND late_recipients.user_id = ANY($2) AND next_attempt_at IS NULL \
             AND users.user_id = late_recipients.user_id AND users.is_verified AND users.email IS NOT NULL",
        )
        .bind(auction_id.uuid())
        .bind(ids)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Makes the mails due that have waited for this person's address.
    pub(crate) async fn address_arrived(&self, user_id: UserId) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE late_recipients SET next_attempt_at = now() WHERE user_id = $1 AND next_attempt_at IS NULL",
        )
        .bind(user_id.uuid())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Takes at most `most` late mails that are due. One that is neither removed nor postponed is due again some
    /// seconds later.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn take_late(&self, most: u64) -> Result<Vec<LateRecipient>, StoreError> {
        let rows: Vec<(Uuid, Uuid, String)> = sqlx::query_as(
            "UPDATE late_recipients SET next_attempt_at = now() + make_interval(secs => $2::bigint::double precision) \
             WHERE (user_id, auction_id, kind) IN ( \
                 SELECT user_id, auction_id, kind FROM late_recipients WHERE next_attempt_at <= now() \
                 ORDER BY next_attempt_at LIMIT $1 FOR UPDATE SKIP LOCKED) \
             RETURNING user_id, auction_id, kind",
        )
        .bind(signed(most))
        .bind(TAKE_OVER_SECONDS)
        .fetch_all(&self.pool)
        .await?;
        let late = |(user_id, auction_id, kind): (Uuid, Uuid, String)| {
            let kind = kind.parse().map_err(|_| StoreError::Row(format!("unknown kind of mail: {kind}")))?;
            let (user_id, auction_id) = (UserId::from_uuid(user_id), AuctionId::from_uuid(auction_id));
            Ok(LateRecipient { user_id, auction_id, kind })
        };
        rows.into_iter().map(late).collect()
    }

    /// Removes a late mail that the queue has.
    ///
    /// # Errors
    /// When the query fails: it is sent again, which does no harm.
    pub async fn late_sent(&self, late: LateRecipient) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM late_recipients WHERE user_id = $1 AND auction_id = $2 AND kind = $3")
            .bind(late.user_id.uuid())
            .bind(late.auction_id.uuid())
            .bind(late.kind.name())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Removes the recipients whose address has not arrived in time.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn forget_late(&self) -> Result<u64, StoreError> {
        let forgotten = sqlx::query(
            "DELETE FROM late_recipients WHERE created_at < now() - make_interval(secs => $1::bigint::double precision)",
        );
        Ok(forgotten.bind(KEEP_SECONDS).execute(&self.pool).await?.rows_affected())
    }
}
