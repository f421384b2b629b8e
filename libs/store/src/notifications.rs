//! The outbox of notifications about ended auctions, the contacts of their recipients, and the mails already sent.

use std::collections::HashSet;

use domain::{AuctionId, UserId};
use protocol::{Contact, MailKind};
use sqlx::FromRow;
use uuid::Uuid;

use crate::{Store, StoreError, signed};

/// Seconds after which an unfinished claim of a mail may be taken over: the instance that made it is dead or cut off.
pub const CLAIM_SECONDS: i64 = 30;

/// Seconds after which a notification that was taken and not answered is due again. Sending one takes far less; if it
/// takes longer, the notification is sent twice, which does no harm.
pub const TAKE_OVER_SECONDS: i64 = 30;
/// Longest noted error, in characters.
const MAX_ERROR_CHARACTERS: usize = 2_000;

/// An ended auction whose notification is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueNotification {
    /// The auction.
    pub auction_id: AuctionId,
    /// This attempt's number, from 1.
    pub attempts: u32,
    /// Seconds since the result was written.
    pub age_seconds: u64,
}

/// An error as PostgreSQL stores it.
fn storable(error: &str) -> String {
    error.chars().filter(|c| *c != '\0').take(MAX_ERROR_CHARACTERS).collect()
}

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
    /// Takes at most `most` ended auctions whose notification is due, the longest due first. One that is not answered by
    /// [`Store::notification_sent`], [`Store::postpone_notification`] or [`Store::park_notification`] is due again
    /// [`TAKE_OVER_SECONDS`] later: the instance that took it is dead or cut off.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn take_notifications(&self, most: u64) -> Result<Vec<DueNotification>, StoreError> {
        let rows: Vec<(Uuid, i32, i64)> = sqlx::query_as(
            "UPDATE notification_outbox SET attempts = attempts + 1, \
             next_attempt_at = now() + make_interval(secs => $2::bigint::double precision) \
             WHERE auction_id IN ( \
                 SELECT auction_id FROM notification_outbox \
                 WHERE sent_at IS NULL AND parked_at IS NULL AND next_attempt_at <= now() \
                 ORDER BY next_attempt_at LIMIT $1 FOR UPDATE SKIP LOCKED) \
             RETURNING auction_id, attempts, extract(epoch FROM now() - created_at)::bigint",
        )
        .bind(signed(most))
        .bind(TAKE_OVER_SECONDS)
        .fetch_all(&self.pool)
        .await?;
        let due = |(id, attempts, age): (Uuid, i32, i64)| DueNotification {
            auction_id: AuctionId::from_uuid(id),
            attempts: attempts.unsigned_abs(),
            age_seconds: age.unsigned_abs(),
        };
        Ok(rows.into_iter().map(due).collect())
    }

    /// Tries a notification again after this many seconds, and notes why.
    ///
    /// # Errors
    /// When the query fails: it is tried again after [`TAKE_OVER_SECONDS`].
    pub async fn postpone_notification(
        &self,
        auction_id: AuctionId,
        seconds: u64,
        error: &str,
    ) -> Result<(), StoreError> {
        let statement = sqlx::query(
            "UPDATE notification_outbox SET last_error = $3, \
             next_attempt_at = now() + make_interval(secs => $2::bigint::double precision) WHERE auction_id = $1",
        );
        statement.bind(auction_id.uuid()).bind(signed(seconds)).bind(storable(error)).execute(&self.pool).await?;
        Ok(())
    }

    /// Parks a notification that cannot be sent: it stays in the table with the reason, and is tried no more.
    ///
    /// # Errors
    /// When the query fails: it is tried again after [`TAKE_OVER_SECONDS`].
    pub async fn park_notification(&self, auction_id: AuctionId, error: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE notification_outbox SET last_error = $2, parked_at = now() WHERE auction_id = $1")
            .bind(auction_id.uuid())
            .bind(storable(error))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// How many notifications are parked.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn parked_notifications(&self) -> Result<u64, StoreError> {
        let (count,): (i64,) =
            sqlx::query_as("SELECT count(*) FROM notification_outbox WHERE parked_at IS NOT NULL AND sent_at IS NULL")
                .fetch_one(&self.pool)
                .await?;
        Ok(count.unsigned_abs())
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

    /// The contacts of these users, as far as the table has them. An address that no issuer has verified is left out.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn contacts(&self, people: &[UserId]) -> Result<Vec<Contact>, StoreError> {
        let ids: Vec<Uuid> = people.iter().map(|id| id.uuid()).collect();
        let rows = sqlx::query_as::<_, ContactRow>(
            "SELECT user_id, CASE WHEN is_verified THEN email END AS email, name, username FROM users WHERE user_id = ANY($1) ORDER BY user_id",
        );
        let rows = rows.bind(ids).fetch_all(&self.pool).await?;
        let contact = |ContactRow { user_id, email, name, username }| {
            let user_id = UserId::from_uuid(user_id);
            Contact { user_id, email, name, username }
        };
        Ok(rows.into_iter().map(contact).collect())
    }

    /// The mails about an auction that these people have been sent.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn sent_mails(
        &self,
        auction_id: AuctionId,
        people: &[UserId],
    ) -> Result<HashSet<(UserId, String)>, StoreError> {
        let ids: Vec<Uuid> = people.iter().map(|id| id.uuid()).collect();
        let rows: Vec<(Uuid, String)> = sqlx::query_as(
            "SELECT user_id, kind FROM mails WHERE auction_id = $1 AND user_id = ANY($2) AND status = 'sent'",
        )
        .bind(auction_id.uuid())
        .bind(ids)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(id, kind)| (UserId::from_uuid(id), kind)).collect())
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
