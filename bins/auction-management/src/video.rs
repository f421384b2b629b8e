//! The video channel of an auction: created with it, removed some minutes after its end.
//!
//! A channel carries the auction's id as its name. One that was made and not recorded (a crash, a lost answer, two
//! requests with one key) is found by that name: it is adopted or removed when the creation is repeated, and removed with
//! the auction's own channel after the end, or by the sweep of creations.
//!
//! An auction that follows another has the channel of that one, so that a host streams to one place all along a sequence.
//! The channel carries the name of the first auction, and is removed some minutes after the last end.

use std::time::Duration;

use cloud::{Video, VideoError};
use domain::AuctionId;
use protocol::{Channel, Code, Failure};
use store::Store;

/// Interval between sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Most channels in one sweep.
const SWEEP_MOST: u64 = 50;

/// The channel of an auction in creation: the recorded one, or one that an earlier attempt made, or a new one.
pub async fn ensure(video: &Video, store: &Store, auction_id: AuctionId) -> Result<Channel, Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        tracing::warn!(%auction_id, error = %errors::chain(error), "failed to create a video channel");
        Failure::from(Code::Unavailable)
    };
    if let Some(channel) = store.channel(auction_id).await.map_err(|error| failed(&error))? {
        return Ok(channel);
    }
    let made = match adopt(video, auction_id).await.map_err(|error| failed(&error))? {
        Some(channel) => channel,
        None => match video.create(auction_id).await {
            Ok(channel) => channel,
            Err(VideoError::Quota) => return Err(Code::VideoQuota.into()),
            Err(error) => return Err(failed(&error)),
        },
    };
    let channel = if store.set_channel(auction_id, &made).await.map_err(|error| failed(&error))? {
        Some(made)
    } else {
        // Another request with the same key recorded its channel first, or the sweep has given the creation up.
        store.channel(auction_id).await.map_err(|error| failed(&error))?
    };
    // Only after the recording: from then on every request for this auction keeps the same channel.
    let keep = channel.as_ref().map(|channel| channel.arn.as_str());
    if let Err(error) = video.remove_named(auction_id, keep).await {
        // They are removed with the auction's own channel at the latest.
        tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to remove surplus video channels");
    }
    channel.ok_or_else(|| Code::Unavailable.into())
}

/// A channel that an earlier attempt made and did not record.
async fn adopt(video: &Video, auction_id: AuctionId) -> Result<Option<Channel>, VideoError> {
    // The least of several, so that two requests adopt the same one.
    let Some(arn) = video.named(auction_id).await?.into_iter().min() else { return Ok(None) };
    match video.read(&arn).await {
        Ok(channel) => Ok(Some(channel)),
        Err(error) => {
            // It may just have been removed. A new one takes its place; this one is surplus then.
            tracing::warn!(%auction_id, arn, error = %errors::chain(&error), "failed to adopt a video channel");
            Ok(None)
        }
    }
}

/// Removes the channels whose last auction ended `linger_seconds` ago, forever.
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
            if let Err(error) = remove(&video, auction_id, &arn).await {
                tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to remove a video channel");
                continue;
            }
            match store.forget_channel(&arn).await {
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

/// Removes a channel, and whatever else carries the name of its first auction.
async fn remove(video: &Video, auction_id: AuctionId, arn: &str) -> Result<(), VideoError> {
    video.remove(arn).await?;
    video.remove_named(auction_id, None).await
}
