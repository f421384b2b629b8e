//! The life of an auction's channel: made at creation, removed some minutes after the end.

use std::time::Duration;

use cloud::{Video, VideoError};
use domain::AuctionId;
use protocol::{Channel, Code, Failure};
use store::Store;

const SWEEP_EVERY: Duration = Duration::from_secs(5);
const SWEEP_MOST: u64 = 50;

/// Makes the channel of an auction in creation, unless an earlier attempt has. Nothing is left behind:
/// what an attempt made and could not note down carries the auction's id as its name and is removed.
pub async fn ensure(video: &Video, store: &Store, auction_id: AuctionId) -> Result<Channel, Failure> {
    let trouble = |error: &dyn std::fmt::Display| {
        tracing::warn!(%auction_id, %error, "an auction has no channel");
        Failure::from(Code::Unavailable)
    };
    if let Some(channel) = store.channel(auction_id).await.map_err(|error| trouble(&error))? {
        return Ok(channel);
    }
    let channel = match video.create(auction_id).await {
        Ok(channel) => channel,
        Err(VideoError::Quota) => return Err(Code::VideoQuota.into()),
        Err(error) => return Err(trouble(&error)),
    };
    match store.set_channel(auction_id, &channel).await {
        Ok(true) => Ok(channel),
        Ok(false) => {
            // The creation was given up, or another request of the same key was faster.
            if let Err(error) = video.remove(&channel.arn).await {
                tracing::error!(%auction_id, arn = channel.arn, %error, "a channel is left behind");
            }
            Err(Code::Unavailable.into())
        }
        Err(error) => Err(trouble(&error)),
    }
}

/// Removes channels whose auctions ended `linger_seconds` ago.
pub async fn sweep(video: Video, store: Store, linger_seconds: u64) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let due = match store.channels_to_remove(linger_seconds, SWEEP_MOST).await {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(%error, "channels cannot be swept");
                continue;
            }
        };
        for (auction_id, arn) in due {
            if let Err(error) = video.remove(&arn).await {
                tracing::warn!(%auction_id, %error, "a channel could not be removed");
                continue;
            }
            match store.forget_channel(auction_id).await {
                Ok(()) => tracing::info!(%auction_id, "a channel was removed"),
                Err(error) => tracing::warn!(%auction_id, %error, "a removed channel is still noted"),
            }
        }
    }
}
