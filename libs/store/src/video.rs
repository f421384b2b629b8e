//! Video channels of auctions. The stream key is read only to answer the host.

use domain::AuctionId;
use protocol::Channel;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::{Store, StoreError, signed};

#[derive(FromRow)]
struct Row {
    ivs_channel_arn: Option<String>,
    ivs_playback_url: Option<String>,
    ivs_ingest_endpoint: Option<String>,
    ivs_stream_key: Option<String>,
}

impl Store {
    /// The channel of an auction, if it has one.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn channel(&self, auction_id: AuctionId) -> Result<Option<Channel>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        channel(&mut connection, auction_id).await
    }

    /// Writes the channel of an auction in creation. False when its row has a channel, is abandoned or gone: then the
    /// new one is surplus.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn set_channel(&self, auction_id: AuctionId, channel: &Channel) -> Result<bool, StoreError> {
        let written = sqlx::query(
            "UPDATE auctions SET ivs_channel_arn = $2, ivs_playback_url = $3, ivs_ingest_endpoint = $4, \
             ivs_stream_key = $5 WHERE auction_id = $1 AND ivs_channel_arn IS NULL \
             AND status = 'creating' AND NOT abandoned",
        )
        .bind(auction_id.uuid())
        .bind(&channel.arn)
        .bind(&channel.playback_url)
        .bind(&channel.ingest_endpoint)
        .bind(&channel.stream_key)
        .execute(&self.pool)
        .await?;
        Ok(written.rows_affected() == 1)
    }

    /// Whether an auction that is not over has a channel.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn has_channels(&self) -> Result<bool, StoreError> {
        let query = "SELECT EXISTS (SELECT FROM auctions WHERE ivs_channel_arn IS NOT NULL AND ended_at IS NULL)";
        Ok(sqlx::query_scalar(query).fetch_one(&self.pool).await?)
    }

    /// The auctions of these channels that are not over.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn auctions_of_channels(&self, arns: &[String]) -> Result<Vec<AuctionId>, StoreError> {
        let query = "SELECT auction_id FROM auctions \
                     WHERE ivs_channel_arn IS NOT NULL AND ended_at IS NULL AND ivs_channel_arn = ANY($1)";
        let ids: Vec<Uuid> = sqlx::query_scalar(query).bind(arns).fetch_all(&self.pool).await?;
        Ok(ids.into_iter().map(AuctionId::from_uuid).collect())
    }

    /// At most `most` channels whose auctions, all that share it, ended `seconds` ago or earlier, each with the first of
    /// these auctions, whose name it has. Once all have ended no other auction can follow one of them, so that none joins
    /// while the channel is removed. In random order, so that channels that cannot be removed do not keep the others.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn channels_to_remove(&self, seconds: u64, most: u64) -> Result<Vec<(AuctionId, String)>, StoreError> {
        let rows: Vec<(Uuid, String)> = sqlx::query_as(
            "SELECT (array_agg(auction_id ORDER BY created_at))[1], ivs_channel_arn FROM auctions \
             WHERE ivs_channel_arn IS NOT NULL GROUP BY ivs_channel_arn \
             HAVING bool_and(coalesce(ended_at < now() - make_interval(secs => $1::bigint::double precision), FALSE)) \
             ORDER BY random() LIMIT $2",
        )
        .bind(signed(seconds))
        .bind(signed(most))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(id, arn)| (AuctionId::from_uuid(id), arn)).collect())
    }

    /// Clears a channel in the rows of all auctions that share it, once it is deleted.
    ///
    /// # Errors
    /// When the query fails: the channel is removed again, which does no harm.
    pub async fn forget_channel(&self, arn: &str) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE auctions SET ivs_channel_arn = NULL, ivs_playback_url = NULL, ivs_ingest_endpoint = NULL, \
             ivs_stream_key = NULL WHERE ivs_channel_arn = $1",
        )
        .bind(arn)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// See [`Store::channel`].
pub(crate) async fn channel(
    connection: &mut PgConnection,
    auction_id: AuctionId,
) -> Result<Option<Channel>, StoreError> {
    let row = sqlx::query_as::<_, Row>(
        "SELECT ivs_channel_arn, ivs_playback_url, ivs_ingest_endpoint, ivs_stream_key FROM auctions WHERE auction_id = $1",
    );
    let row = row.bind(auction_id.uuid()).fetch_optional(connection).await?;
    Ok(row.and_then(|row| {
        Some(Channel {
            arn: row.ivs_channel_arn?,
            playback_url: row.ivs_playback_url?,
            ingest_endpoint: row.ivs_ingest_endpoint?,
            stream_key: row.ivs_stream_key?,
        })
    }))
}
