//! Auctions that follow another one, checked in the transaction that starts a creation.
//!
//! Only an auction that exists can be followed, and what an auction follows never changes. Auctions therefore cannot wait
//! for each other in a circle, and nothing needs to look for one.

use domain::{AuctionId, UserId};
use protocol::Channel;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Claimed, StoreError, video};

/// The video channel of an auction that another auction of this host is to follow, if it has one; or why it may not be
/// followed. Its row is locked until the end of the transaction, so that its channel is not removed in between: the end
/// of the auction is written afterwards, and by then the channel belongs to the follower as well.
pub async fn followed(
    transaction: &mut PgConnection,
    auction_id: AuctionId,
    host: UserId,
) -> Result<Result<Option<Channel>, Claimed>, StoreError> {
    let found: Option<(Uuid, bool)> = sqlx::query_as(
        "SELECT host_user_id, outcome IS NOT NULL FROM auctions WHERE auction_id = $1 AND status <> 'creating' FOR SHARE",
    )
    .bind(auction_id.uuid())
    .fetch_optional(&mut *transaction)
    .await?;
    Ok(match found {
        None => Err(Claimed::FollowsUnknown),
        Some((of, _)) if of != host.uuid() => Err(Claimed::FollowsAnotherHosts),
        Some((_, true)) => Err(Claimed::FollowsEnded),
        Some((_, false)) => Ok(video::channel(transaction, auction_id).await?),
    })
}
