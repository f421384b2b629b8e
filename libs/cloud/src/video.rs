//! IVS channels, one for each auction with video. A channel is named by the auction's id, so that a channel left by a
//! crash can be found.

use aws_config::SdkConfig;
use aws_sdk_ivs::Client;
use aws_sdk_ivs::error::SdkError;
use aws_sdk_ivs::types::{ChannelLatencyMode, StreamState};
use domain::AuctionId;
use errors::BoxError;
use protocol::Channel;

/// Why a request to IVS failed.
#[derive(Debug, thiserror::Error)]
pub enum VideoError {
    /// The AWS account has reached its quota of channels.
    #[error("the account's quota of channels is used up")]
    Quota,
    /// IVS did not answer, or answered with an error.
    #[error("IVS request failed")]
    Call(#[source] BoxError),
}

/// The state of a channel's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streaming {
    /// The host is sending.
    Live {
        /// Viewers as IVS counts them.
        viewers: u64,
    },
    /// The host is not sending.
    Offline,
}

/// The channels of an AWS account. A cheap handle; clones share the client.
#[derive(Clone)]
pub struct Video {
    client: Client,
}

fn failed(error: impl Into<BoxError>) -> VideoError {
    VideoError::Call(error.into())
}

impl Video {
    /// A client. Sends nothing yet.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        Self { client: Client::new(config) }
    }

    /// Creates the channel of an auction.
    ///
    /// # Errors
    /// After `Quota` there is no channel. After `Call` there may be one: [`Video::remove_named`] finds it.
    pub async fn create(&self, auction_id: AuctionId) -> Result<Channel, VideoError> {
        let call =
            self.client.create_channel().name(auction_id.to_string()).latency_mode(ChannelLatencyMode::LowLatency);
        let made = call.send().await.map_err(|error| match error.as_service_error() {
            Some(error) if error.is_service_quota_exceeded_exception() => VideoError::Quota,
            _ => failed(error),
        })?;
        let missing = || failed("the answer lacks a field");
        let (channel, key) = (made.channel.ok_or_else(missing)?, made.stream_key.ok_or_else(missing)?);
        Ok(Channel {
            arn: channel.arn.ok_or_else(missing)?,
            playback_url: channel.playback_url.ok_or_else(missing)?,
            ingest_endpoint: channel.ingest_endpoint.ok_or_else(missing)?,
            stream_key: key.value.ok_or_else(missing)?,
        })
    }

    /// Stops the stream, if there is one, and deletes the channel. Repeatable.
    ///
    /// # Errors
    /// When the channel may still be there.
    pub async fn remove(&self, arn: &str) -> Result<(), VideoError> {
        // IVS does not delete a channel with a running stream, and rejects stopping a stream that does not run.
        if let Err(error) = self.client.stop_stream().channel_arn(arn).send().await {
            tracing::debug!(error = %errors::chain(&error), "failed to stop the stream; it may not be running");
        }
        match self.client.delete_channel().arn(arn).send().await {
            Ok(_) => Ok(()),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
                Ok(())
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Deletes every channel named after an auction whose creation was abandoned.
    ///
    /// # Errors
    /// When some may still be there.
    pub async fn remove_named(&self, auction_id: AuctionId) -> Result<(), VideoError> {
        let named = self.client.list_channels().filter_by_name(auction_id.to_string()).send().await;
        for channel in named.map_err(failed)?.channels {
            if let Some(arn) = channel.arn {
                self.remove(&arn).await?;
            }
        }
        Ok(())
    }

    /// Whether a channel is live now.
    ///
    /// # Errors
    /// When IVS does not answer.
    pub async fn streaming(&self, arn: &str) -> Result<Streaming, VideoError> {
        match self.client.get_stream().channel_arn(arn).send().await {
            Ok(found) => Ok(match found.stream {
                Some(stream) if stream.state == Some(StreamState::StreamLive) => {
                    Streaming::Live { viewers: u64::try_from(stream.viewer_count).unwrap_or(0) }
                }
                _ => Streaming::Offline,
            }),
            Err(SdkError::ServiceError(error)) if error.err().is_channel_not_broadcasting() => Ok(Streaming::Offline),
            Err(error) => Err(failed(error)),
        }
    }
}
