//! Rows of auctions: inserted before the log has the auction, visible once it has.

use domain::{AntiSnipeMode, AuctionId, Follows, Ladder, UserId};
use protocol::wire::Named;
use protocol::{AuctionCreate, Channel, Person, Stored};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::limits::HostLimits;
use crate::sequences;
use crate::users::ensure;
use crate::{Store, StoreError, amount, signed, unsigned};

/// A row to insert.
#[derive(Debug, Clone)]
pub struct NewAuction<'a> {
    /// The new auction's id.
    pub auction_id: AuctionId,
    /// The caller, who becomes the host.
    pub host: &'a Person,
    /// The request as the host sent it.
    pub create: &'a AuctionCreate,
    /// The increments, after defaults.
    pub increments: Ladder,
    /// The rule for late bids, after defaults.
    pub anti_snipe_mode: AntiSnipeMode,
    /// Seconds before the end in which a bid extends the auction.
    pub anti_snipe_window_seconds: u64,
    /// Seconds by which a late bid extends the auction.
    pub anti_snipe_extension_seconds: u64,
    /// Extensions after which the end is final.
    pub anti_snipe_max_extensions: u32,
}

/// The result of the first step of a creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// The key is new, or there is none: the row was inserted.
    New,
    /// An earlier request with this key did not finish, as far as the table knows. The caller continues it: from now
    /// on the row counts as made by this request.
    TakenOver(AuctionId),
    /// An earlier request with this key created this auction.
    Created(AuctionId),
    /// An earlier request with this key did not finish, and the sweep is deciding its fate.
    Abandoned,
    /// An earlier request used this key with another body.
    OtherBody,
    /// There is no auction of this id to follow.
    FollowsUnknown,
    /// The auction to follow has another host.
    FollowsAnotherHosts,
    /// The auction to follow has ended.
    FollowsEnded,
    /// The host has as many open auctions as one may have.
    TooManyOpen,
    /// The host has created as many auctions in the last hour as one may.
    TooManyInAnHour {
        /// Seconds until the next creation is allowed.
        retry_after_seconds: u32,
    },
}

/// The columns of [`Row`], in one place for every statement that reads auctions.
macro_rules! select_auction {
    ($rest:literal) => {
        select_auction!("", $rest)
    };
    ($more_columns:literal, $rest:expr) => {
        concat!(
            "SELECT auction_id, host_user_id, host.username AS host_username, title, description, auctions.category, \
             image_url, images, condition, seller_name, duration, (starting_bid * 100)::bigint AS starting_bid_cents, \
             (minimum_increment * 100)::bigint AS increment_cents, increments, allow_self_raise, (buy_now_price * 100)::bigint AS buy_now_cents, \
             (reserve_price * 100)::bigint AS reserve_cents, allow_prebids, follows, gap, anti_snipe_mode, anti_snipe_window, \
             anti_snipe_extension, anti_snipe_max_extensions, \
             (extract(epoch FROM auctions.created_at) * 1000)::bigint AS created_ms, status, \
             (extract(epoch FROM starts_at) * 1000)::bigint AS starts_ms, \
             (extract(epoch FROM end_time) * 1000)::bigint AS end_ms, \
             (extract(epoch FROM ended_at) * 1000)::bigint AS ended_ms, outcome, winner_id, \
             winner.username AS winner_username, (winning_bid * 100)::bigint AS winning_bid_cents, bid_count, \
             ivs_channel_arn, ivs_playback_url",
            $more_columns,
            " FROM auctions JOIN users AS host ON host.user_id = host_user_id \
             LEFT JOIN users AS winner ON winner.user_id = winner_id ",
            $rest
        )
    };
}

pub(crate) use select_auction;

#[derive(FromRow)]
pub(crate) struct Row {
    auction_id: Uuid,
    host_user_id: Uuid,
    host_username: String,
    title: String,
    description: Option<String>,
    category: Option<String>,
    image_url: Option<String>,
    images: Vec<String>,
    condition: Option<String>,
    seller_name: Option<String>,
    duration: i64,
    starting_bid_cents: i64,
    increment_cents: i64,
    increments: Option<String>,
    allow_self_raise: bool,
    buy_now_cents: Option<i64>,
    reserve_cents: Option<i64>,
    allow_prebids: bool,
    follows: Option<Uuid>,
    gap: i64,
    anti_snipe_mode: String,
    anti_snipe_window: i64,
    anti_snipe_extension: i64,
    anti_snipe_max_extensions: i64,
    created_ms: i64,
    status: String,
    starts_ms: Option<i64>,
    end_ms: Option<i64>,
    ended_ms: Option<i64>,
    outcome: Option<String>,
    winner_id: Option<Uuid>,
    winner_username: Option<String>,
    winning_bid_cents: Option<i64>,
    bid_count: i64,
    ivs_channel_arn: Option<String>,
    ivs_playback_url: Option<String>,
}

impl TryFrom<Row> for Stored {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let winner = row.winner_id.zip(row.winner_username);
        let gap_ms = unsigned(row.gap)? * 1000;
        Ok(Self {
            auction_id: AuctionId::from_uuid(row.auction_id),
            host: Person { user_id: UserId::from_uuid(row.host_user_id), username: row.host_username },
            title: row.title,
            description: row.description,
            category: row.category,
            image_url: row.image_url,
            images: row.images,
            condition: row.condition,
            seller_name: row.seller_name,
            duration_seconds: unsigned(row.duration)?,
            starting_bid: amount(row.starting_bid_cents)?,
            increments: match row.increments {
                Some(text) => text.parse().map_err(|_| StoreError::Row(format!("increments {text:?}")))?,
                None => Ladder::flat(amount(row.increment_cents)?),
            },
            allow_self_raise: row.allow_self_raise,
            buy_now: row.buy_now_cents.map(amount).transpose()?,
            reserve: row.reserve_cents.map(amount).transpose()?,
            allow_prebids: row.allow_prebids,
            follows: row.follows.map(|id| Follows { auction_id: AuctionId::from_uuid(id), gap_ms }),
            anti_snipe_mode: Named::read(&row.anti_snipe_mode),
            anti_snipe_window_seconds: unsigned(row.anti_snipe_window)?,
            anti_snipe_extension_seconds: unsigned(row.anti_snipe_extension)?,
            anti_snipe_max_extensions: u32::try_from(row.anti_snipe_max_extensions).unwrap_or(u32::MAX),
            created_at: unsigned(row.created_ms)?,
            status: Named::read(&row.status),
            starts_at: row.starts_ms.map(unsigned).transpose()?,
            end_time: row.end_ms.map(unsigned).transpose()?,
            ended_at: row.ended_ms.map(unsigned).transpose()?,
            outcome: row.outcome.as_deref().map(Named::read),
            winner: winner.map(|(id, username)| Person { user_id: UserId::from_uuid(id), username }),
            winning_bid: row.winning_bid_cents.map(amount).transpose()?,
            bid_count: unsigned(row.bid_count)?,
            ivs_channel_arn: row.ivs_channel_arn,
            ivs_playback_url: row.ivs_playback_url,
        })
    }
}

impl Store {
    /// Inserts the row (and the host's, if new) in status `creating`. With a `key` (and the hash of the body) only the
    /// host's first call inserts one; a later call takes the row over while it is in creation, so that the sweep counts
    /// its age from that call. Beyond the `limits`, or if the new auction may not follow the one that it names, nothing is
    /// inserted, not even the key. An auction that follows another begins with its video channel.
    ///
    /// # Errors
    /// When the transaction fails or its outcome is unknown. Repeatable with the same `key`.
    pub async fn start_auction(
        &self,
        new: &NewAuction<'_>,
        key: Option<(&str, &str)>,
        limits: HostLimits,
    ) -> Result<Claimed, StoreError> {
        let mut transaction = self.pool.begin().await?;
        ensure(&mut transaction, new.host).await?;
        if let Some((key, body_hash)) = key {
            let claim = sqlx::query_as::<_, (Uuid, String)>(
                "INSERT INTO auction_keys (host_user_id, key, auction_id, body_hash) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT ON CONSTRAINT auction_keys_primary_key DO UPDATE SET key = auction_keys.key \
                 RETURNING auction_id, body_hash",
            );
            let (auction_id, hash) = claim
                .bind(new.host.user_id.uuid())
                .bind(key)
                .bind(new.auction_id.uuid())
                .bind(body_hash)
                .fetch_one(&mut *transaction)
                .await?;
            if hash != body_hash {
                return Ok(Claimed::OtherBody);
            }
            if auction_id != new.auction_id.uuid() {
                let claimed = take_over(&mut transaction, auction_id).await?;
                transaction.commit().await?;
                return Ok(claimed);
            }
        }
        if let Some(exceeded) = limits.exceeded(&mut transaction, new.host.user_id).await? {
            transaction.rollback().await?;
            return Ok(exceeded);
        }
        let create = new.create;
        let channel = match create.follows {
            None => None,
            Some(Follows { auction_id, .. }) => {
                match sequences::followed(&mut transaction, auction_id, new.host.user_id).await? {
                    Ok(channel) => channel.filter(|_| create.video),
                    Err(refused) => {
                        transaction.rollback().await?;
                        return Ok(refused);
                    }
                }
            }
        };
        insert(&mut transaction, new, channel.as_ref()).await?;
        transaction.commit().await?;
        Ok(Claimed::New)
    }

    /// Whether a person has used this idempotency key.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn has_key(&self, host: UserId, key: &str) -> Result<bool, StoreError> {
        let found = sqlx::query("SELECT 1 FROM auction_keys WHERE host_user_id = $1 AND key = $2");
        Ok(found.bind(host.uuid()).bind(key).fetch_optional(&self.pool).await?.is_some())
    }

    /// One auction, unless its creation has not finished.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn auction(&self, auction_id: AuctionId) -> Result<Option<Stored>, StoreError> {
        let row = sqlx::query_as::<_, Row>(select_auction!("WHERE auction_id = $1 AND status <> 'creating'"))
            .bind(auction_id.uuid())
            .fetch_optional(&self.pool)
            .await?;
        row.map(Stored::try_from).transpose()
    }

    /// The auctions among `ids` that exist and whose creation has finished.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn auctions_of(&self, ids: &[AuctionId]) -> Result<Vec<Stored>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        let rows = sqlx::query_as::<_, Row>(select_auction!("WHERE auction_id = ANY($1) AND status <> 'creating'"))
            .bind(ids)
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(Stored::try_from).collect()
    }

    /// At most `most` auctions that have been in creation for longer than `seconds`, counted from the last request for
    /// them: the instances that worked on them gave up or died. In random order, so that those that cannot be finished
    /// do not keep the others out.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn stuck_creations(&self, seconds: u64, most: u64) -> Result<Vec<AuctionId>, StoreError> {
        let rows: Vec<(Uuid,)> = sqlx::query_as(
            "SELECT auction_id FROM auctions WHERE status = 'creating' \
             AND created_at < now() - make_interval(secs => $1::bigint::double precision) ORDER BY random() LIMIT $2",
        )
        .bind(signed(seconds))
        .bind(signed(most))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(id,)| AuctionId::from_uuid(id)).collect())
    }

    /// Marks an auction that has been in creation for longer than `seconds` as abandoned: no request takes it over any
    /// more. False when a request has taken it over or finished it in the meantime.
    ///
    /// # Errors
    /// When the query fails. Repeatable.
    pub async fn abandon_creation(&self, auction_id: AuctionId, seconds: u64) -> Result<bool, StoreError> {
        let marked = sqlx::query(
            "UPDATE auctions SET abandoned = TRUE WHERE auction_id = $1 AND status = 'creating' \
             AND created_at < now() - make_interval(secs => $2::bigint::double precision)",
        );
        let marked = marked.bind(auction_id.uuid()).bind(signed(seconds)).execute(&self.pool).await?;
        Ok(marked.rows_affected() == 1)
    }

    /// Deletes an auction whose creation was abandoned, and its idempotency key.
    ///
    /// # Errors
    /// When the transaction fails. Repeatable.
    pub async fn forget_creation(&self, auction_id: AuctionId) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        // The key first, like `start_auction`: taking the locks in another order could end in a deadlock.
        sqlx::query(
            "DELETE FROM auction_keys WHERE auction_id = $1 AND EXISTS \
             (SELECT 1 FROM auctions WHERE auction_id = $1 AND status = 'creating' AND abandoned)",
        )
        .bind(auction_id.uuid())
        .execute(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM auctions WHERE auction_id = $1 AND status = 'creating' AND abandoned")
            .bind(auction_id.uuid())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// Inserts the row of an auction in creation.
async fn insert(
    connection: &mut PgConnection,
    new: &NewAuction<'_>,
    channel: Option<&Channel>,
) -> Result<(), StoreError> {
    let create = new.create;
    sqlx::query(
        "INSERT INTO auctions (auction_id, host_user_id, title, description, duration, category, starting_bid, status, \
         image_url, images, condition, seller_name, minimum_increment, anti_snipe_mode, anti_snipe_window, \
         anti_snipe_extension, anti_snipe_max_extensions, video, increments, allow_self_raise, \
         buy_now_price, reserve_price, allow_prebids, follows, gap, \
         ivs_channel_arn, ivs_playback_url, ivs_ingest_endpoint, ivs_stream_key) \
         VALUES ($1, $2, $3, $4, $5, $6, $7::bigint::numeric / 100, 'creating', $8, $9, $10, $11, \
         $12::bigint::numeric / 100, $13, $14, $15, $16, $17, $18, $19, $20::bigint::numeric / 100, $21::bigint::numeric / 100, $22, \
         $23, $24, $25, $26, $27, $28)",
    )
    .bind(new.auction_id.uuid())
    .bind(new.host.user_id.uuid())
    .bind(&create.title)
    .bind(&create.description)
    .bind(signed(create.duration_seconds))
    .bind(&create.category)
    .bind(signed(create.starting_bid.cents()))
    .bind(&create.image_url)
    .bind(&create.images)
    .bind(&create.condition)
    .bind(&create.seller_name)
    .bind(signed(new.increments.bands()[0].step.cents()))
    .bind(new.anti_snipe_mode.name())
    .bind(signed(new.anti_snipe_window_seconds))
    .bind(signed(new.anti_snipe_extension_seconds))
    .bind(i64::from(new.anti_snipe_max_extensions))
    .bind(create.video)
    .bind(new.increments.flat_step().is_none().then(|| new.increments.to_string()))
    .bind(create.allow_self_raise)
    .bind(create.buy_now.map(|buy_now| signed(buy_now.cents())))
    .bind(create.reserve.map(|reserve| signed(reserve.cents())))
    .bind(create.allow_prebids)
    .bind(create.follows.map(|follows| follows.auction_id.uuid()))
    .bind(create.follows.map_or(0, |follows| signed(follows.gap_seconds())))
    .bind(channel.map(|channel| &channel.arn))
    .bind(channel.map(|channel| &channel.playback_url))
    .bind(channel.map(|channel| &channel.ingest_endpoint))
    .bind(channel.map(|channel| &channel.stream_key))
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes over a row that an earlier request with the same key inserted, if it is still in creation.
async fn take_over(connection: &mut PgConnection, auction_id: Uuid) -> Result<Claimed, StoreError> {
    let taken = sqlx::query(
        "UPDATE auctions SET created_at = now() WHERE auction_id = $1 AND status = 'creating' AND NOT abandoned",
    );
    if taken.bind(auction_id).execute(&mut *connection).await?.rows_affected() == 1 {
        return Ok(Claimed::TakenOver(AuctionId::from_uuid(auction_id)));
    }
    let created = sqlx::query("SELECT 1 FROM auctions WHERE auction_id = $1 AND status <> 'creating'");
    let created = created.bind(auction_id).fetch_optional(&mut *connection).await?.is_some();
    Ok(if created { Claimed::Created(AuctionId::from_uuid(auction_id)) } else { Claimed::Abandoned })
}
