//! The outbox of notifications about ended auctions, the contacts of their recipients, and the mails already sent.

use domain::{AuctionId, UserId};
use protocol::{Contact, MailKind};
use sqlx::FromRow;
use uuid::Uuid;

use crate::{Store, StoreError, signed};

/// Seconds after which an unfinished claim of a mail may be taken over: the instance that made it is dead or cut off.
pub const CLAIM_SECONDS: i64 = 30;

/// Whether the caller may send a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailClaim {
    /// The caller holds the claim: send the mail, then call [`Store::mail_sent`].
    Ours {
        /// An earlier claim expired unfinished, so its mail may have been sent: this one may be a second mail.
        again: bool,
    },
    /// The mail was sent before.
    Sent,
    /// Another instance holds the claim.
    Busy,
}

#[derive(FromRow)]
struct ContactRow {
    user_id: Uuid,
    email: Option<String>,
    name: Option<String>,
    username: String,
}

impl Store {
    /// At most `most` ended auctions whose notification was not sent yet, oldest first, each with its age in seconds.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn unsent_notifications(&self, most: u64) -> Result<Vec<(AuctionId, u64)>, StoreError> {
        let rows: Vec<(Uuid, i64)> = sqlx::query_as(
            "SELECT auction_id, extract(epoch FROM now() - created_at)::bigint FROM notification_outbox \
             WHERE sent_at IS NULL ORDER BY created_at LIMIT $1",
        )
        .bind(signed(most))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(id, age)| (AuctionId::from_uuid(id), u64::try_from(age).unwrap_or(0))).collect())
    }

    /// Marks an auction's notification as sent, once the queue has it.
    ///
    /// # Errors
    /// When the query fails: the notification is sent again, which does no harm.
    pub async fn notification_sent(&self, auction_id: AuctionId) -> Result<(), StoreError> {
        sqlx::query("UPDATE notification_outbox SET sent_at = now() WHERE auction_id = $1 AND sent_at IS NULL")
            .bind(auction_id.uuid())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The contacts of these users, as far as the table has them.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn contacts(&self, people: &[UserId]) -> Result<Vec<Contact>, StoreError> {
        let ids: Vec<Uuid> = people.iter().map(|id| id.uuid()).collect();
        let rows = sqlx::query_as::<_, ContactRow>(
            "SELECT user_id, email, name, username FROM users WHERE user_id = ANY($1) ORDER BY user_id",
        );
        let rows = rows.bind(ids).fetch_all(&self.pool).await?;
        let contact = |ContactRow { user_id, email, name, username }| {
            let user_id = UserId::from_uuid(user_id);
            Contact { user_id, email, name, username }
        };
        Ok(rows.into_iter().map(contact).collect())
    }

    /// Claims one mail before it is sent.
    ///
    /// # Errors
    /// When the query fails: do not send the mail.
    pub async fn claim_mail(
        &self,
        auction_id: AuctionId,
        user_id: UserId,
        kind: MailKind,
    ) -> Result<MailClaim, StoreError> {
        let claimed: Option<(i32,)> = sqlx::query_as(
            "INSERT INTO mails (auction_id, user_id, kind, status) VALUES ($1, $2, $3, 'sending') \
             ON CONFLICT ON CONSTRAINT mails_primary_key DO UPDATE \
             SET attempts = mails.attempts + 1, claimed_at = now() \
             WHERE mails.status = 'sending' AND mails.claimed_at < now() - make_interval(secs => $4::bigint::double precision) \
             RETURNING attempts",
        )
        .bind(auction_id.uuid())
        .bind(user_id.uuid())
        .bind(kind.name())
        .bind(CLAIM_SECONDS)
        .fetch_optional(&self.pool)
        .await?;
        if let Some((attempts,)) = claimed {
            return Ok(MailClaim::Ours { again: attempts > 1 });
        }
        let row =
            sqlx::query("SELECT 1 FROM mails WHERE auction_id = $1 AND user_id = $2 AND kind = $3 AND status = 'sent'");
        let row = row.bind(auction_id.uuid()).bind(user_id.uuid()).bind(kind.name()).fetch_optional(&self.pool).await?;
        Ok(if row.is_some() { MailClaim::Sent } else { MailClaim::Busy })
    }

    /// Marks a claimed mail as sent.
    ///
    /// # Errors
    /// When the query fails: the mail may be sent once more.
    pub async fn mail_sent(&self, auction_id: AuctionId, user_id: UserId, kind: MailKind) -> Result<(), StoreError> {
        self.finish_claim(
            "UPDATE mails SET status = 'sent' WHERE auction_id = $1 AND user_id = $2 AND kind = $3",
            auction_id,
            user_id,
            kind,
        )
        .await
    }

    /// Releases a claimed mail that this attempt certainly did not send, so that the next one need not wait. Attempts
    /// before this one whose outcome is unknown stay counted.
    ///
    /// # Errors
    /// When the query fails: the next attempt waits until the claim expires.
    pub async fn release_mail(&self, auction_id: AuctionId, user_id: UserId, kind: MailKind) -> Result<(), StoreError> {
        self.finish_claim(
            "DELETE FROM mails WHERE auction_id = $1 AND user_id = $2 AND kind = $3 AND status = 'sending' \
             AND attempts = 1",
            auction_id,
            user_id,
            kind,
        )
        .await?;
        self.finish_claim(
            "UPDATE mails SET attempts = attempts - 1, claimed_at = '-infinity' \
             WHERE auction_id = $1 AND user_id = $2 AND kind = $3 AND status = 'sending' AND attempts > 1",
            auction_id,
            user_id,
            kind,
        )
        .await
    }

    async fn finish_claim(
        &self,
        statement: &'static str,
        auction_id: AuctionId,
        user_id: UserId,
        kind: MailKind,
    ) -> Result<(), StoreError> {
        let statement = sqlx::query(statement).bind(auction_id.uuid()).bind(user_id.uuid()).bind(kind.name());
        statement.execute(&self.pool).await?;
        Ok(())
    }
}
