//! The video channel of an auction: created with it, removed some minutes after its end.

use std::time::Duration;

use cloud::{Video, VideoError};
use domain::AuctionId;
use protocol::{Channel, Code, Failure};
use store::Store;

/// Interval between sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Most channels in one sweep.
const SWEEP_MOST: u64 = 50;

/// Creates the channel of an auction in creation, unless an earlier attempt did. No channel is left behind: one that
/// could not be recorded carries the auction's id as its name, by which the sweep of creations removes it.
pub async fn ensure(video: &Video, store: &Store, auction_id: AuctionId) -> Result<Channel, Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        tracing::warn!(%auction_id, error = %errors::chain(error), "failed to create a video channel");
        Failure::from(Code::Unavailable)
    };
    if let Some(channel) = store.channel(auction_id).await.map_err(|error| failed(&error))? {
        return Ok(channel);
    }
    let channel = match video.create(auction_id).await {
        Ok(channel) => channel,
        Err(VideoError::Quota) => return Err(Code::VideoQuota.into()),
        Err(error) => return Err(failed(&error)),
    };
    match store.set_channel(auction_id, &channel).await {
        Ok(true) => Ok(channel),
        Ok(false) => {
            // The sweep removed the row, or another request with the same key recorded its channel first.
            if let Err(error) = video.remove(&channel.arn).await {
                tracing::error!(
                    %auction_id,
                    arn = channel.arn,
                    error = %errors::chain(&error),
                    "failed to remove a surplus video channel"
                );
            }
            Err(Code::Unavailable.into())
        }
        Err(error) => Err(failed(&error)),
    }
}

/// Removes the channels of auctions that ended `linger_seconds` ago, forever.
pub async fn sweep(video: Video, store: Store, linger_seconds: u64) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let due = match store.channels_to_remove(linger_seconds, SWEEP_MOST).await {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(error = %errors::chain(&error), "failed to find video channels to remove");
                continue;
            }
        };
        for (auction_id, arn) in due {
            if let Err(error) = video.remove(&arn).await {
                tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to remove a video channel");
                continue;
            }
            match store.forget_channel(auction_id).await {
                Ok(()) => tracing::info!(%auction_id, "removed a video channel"),
                Err(error) => {
                    tracing::warn!(
                        %auction_id,
                        error = %errors::chain(&error),
                        "failed to forget a removed video channel"
                    );
                }
            }
        }
    }
}
