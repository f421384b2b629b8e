//! Copies records of the log into the rows of auctions.

use protocol::{Person, Record, Snapshot};

use crate::users::ensure;
use crate::{Store, StoreError, signed};

impl Store {
    /// Writes status, times and result of an auction from a state at `seq` of its log, and inserts the winner's row if
    /// it is missing. Repeatable; an older state changes nothing. An end always replaces a row without one: an auction
    /// ends once, and a log that was restored from a backup uses its numbers a second time. False when the auction has no
    /// row, so it was not created through this database.
    ///
    /// # Errors
    /// When the transaction fails. Repeatable.
    pub async fn write_state(
        &self,
        auction_id: domain::AuctionId,
        seq: u64,
        state: &Snapshot,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        if let (Some(user_id), Some(username)) = (state.winner_id, &state.winner_username) {
            ensure(&mut transaction, &Person { user_id, username: username.clone() }).await?;
        }
        let written = sqlx::query(
            "UPDATE auctions SET log_seq = $2, status = $3, created_at = to_timestamp($4::bigint / 1000.0::double precision), \
             starts_at = to_timestamp($5::bigint / 1000.0::double precision), \
             end_time = to_timestamp($6::bigint / 1000.0::double precision), \
             ended_at = to_timestamp($7::bigint / 1000.0::double precision), \
             outcome = $8, winner_id = $9, winning_bid = $10::bigint::numeric / 100, bid_count = $11 \
             WHERE auction_id = $1 AND (log_seq < $2 OR (outcome IS NULL AND $8::text IS NOT NULL))",
        )
        .bind(auction_id.uuid())
        .bind(signed(seq))
        .bind(state.status.to_string())
        .bind(signed(state.created_at))
        .bind(state.shown_start().map(signed))
        .bind(state.shown_end().map(signed))
        .bind(state.ended_at.map(signed))
        .bind(state.outcome.as_ref().map(ToString::to_string))
        .bind(state.winner_id.map(domain::UserId::uuid))
        .bind(state.winning_bid.map(|amount| signed(amount.cents())))
        .bind(signed(state.bid_count))
        .execute(&mut *transaction)
        .await?;
        if written.rows_affected() == 1 && state.outcome.is_some() {
            // In the same transaction as the result, so that no ended auction is left without its notification.
            sqlx::query("INSERT INTO notification_outbox (auction_id) VALUES ($1) ON CONFLICT DO NOTHING")
                .bind(auction_id.uuid())
                .execute(&mut *transaction)
                .await?;
        }
        let known = written.rows_affected() == 1
            || sqlx::query("SELECT 1 FROM auctions WHERE auction_id = $1")
                .bind(auction_id.uuid())
                .fetch_optional(&mut *transaction)
                .await?
                .is_some();
        transaction.commit().await?;
        Ok(known)
    }

    /// [`Store::write_state`] with the state of a record.
    ///
    /// # Errors
    /// When the transaction fails. Repeatable.
    pub async fn write_record(&self, record: &Record) -> Result<bool, StoreError> {
        self.write_state(record.auction_id, record.seq, &record.state).await
    }
}
