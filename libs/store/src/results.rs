//! What the log says, written into an auction's row.

use protocol::{Person, Record, Snapshot};

use crate::users::ensure;
use crate::{Store, StoreError, signed};

impl Store {
    /// Writes status, times and result of an auction as of a state that stands at `seq` in the log,
    /// and fills in people the table does not know yet. Repeatable; an older state changes nothing.
    /// False when the auction has no row: then it was never created here.
    ///
    /// # Errors
    /// When PostgreSQL does not do it: then nothing was written.
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
             WHERE auction_id = $1 AND log_seq < $2",
        )
        .bind(auction_id.uuid())
        .bind(signed(seq))
        .bind(state.status.to_string())
        .bind(signed(state.created_at))
        .bind(signed(state.starts_at))
        .bind(signed(state.end_time))
        .bind(state.ended_at.map(signed))
        .bind(state.outcome.as_ref().map(ToString::to_string))
        .bind(state.winner_id.map(domain::UserId::uuid))
        .bind(state.winning_bid.map(|amount| signed(amount.cents())))
        .bind(signed(state.bid_count))
        .execute(&mut *transaction)
        .await?;
        if written.rows_affected() == 1 && state.outcome.is_some() {
            // In the same transaction as the result: whoever is to be told will be.
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

    /// The same, from a record.
    ///
    /// # Errors
    /// When PostgreSQL does not do it: then nothing was written.
    pub async fn write_record(&self, record: &Record) -> Result<bool, StoreError> {
        self.write_state(record.auction_id, record.seq, &record.state).await
    }
}
