//! IVS channels: one an auction, named by its id, so that whatever a crash leaves can be found.

use aws_config::SdkConfig;
use aws_sdk_ivs::Client;
use aws_sdk_ivs::error::{DisplayErrorContext, SdkError};
use aws_sdk_ivs::types::{ChannelLatencyMode, StreamState};
use domain::AuctionId;
use protocol::Channel;

#[derive(Debug, thiserror::Error)]
pub enum VideoError {
    /// The account has as many channels as it may have.
    #[error("no more channels may be made")]
    Quota,
    #[error("IVS did not do it: {0}")]
    Call(String),
}

/// What a channel is sending now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streaming {
    Live { viewers: u64 },
    Offline,
}

#[derive(Clone)]
pub struct Video {
    client: Client,
}

fn failed(error: &(impl std::error::Error + 'static)) -> VideoError {
    VideoError::Call(DisplayErrorContext(error).to_string())
}

impl Video {
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        Self { client: Client::new(config) }
    }

    /// Makes the channel of an auction.
    ///
    /// # Errors
    /// `Quota`, or that it may or may not have been made: [`Video::remove_named`] finds it then.
    pub async fn create(&self, auction_id: AuctionId) -> Result<Channel, VideoError> {
        let call =
            self.client.create_channel().name(auction_id.to_string()).latency_mode(ChannelLatencyMode::LowLatency);
        let made = call.send().await.map_err(|error| match error.as_service_error() {
            Some(error) if error.is_service_quota_exceeded_exception() => VideoError::Quota,
            _ => failed(&error),
        })?;
        let missing = || VideoError::Call("the answer lacks a field".to_owned());
        let (channel, key) = (made.channel.ok_or_else(missing)?, made.stream_key.ok_or_else(missing)?);
        Ok(Channel {
            arn: channel.arn.ok_or_else(missing)?,
            playback_url: channel.playback_url.ok_or_else(missing)?,
            ingest_endpoint: channel.ingest_endpoint.ok_or_else(missing)?,
            stream_key: key.value.ok_or_else(missing)?,
        })
    }

    /// Ends the stream, if there is one, and removes the channel. Repeatable.
    ///
    /// # Errors
    /// When the channel may still be there.
    pub async fn remove(&self, arn: &str) -> Result<(), VideoError> {
        // A channel that streams cannot be removed; one that does not refuses to be stopped.
        if let Err(error) = self.client.stop_stream().channel_arn(arn).send().await {
            tracing::debug!(error = %DisplayErrorContext(&error), "no stream was stopped");
        }
        match self.client.delete_channel().arn(arn).send().await {
            Ok(_) => Ok(()),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
                Ok(())
            }
            Err(error) => Err(failed(&error)),
        }
    }

    /// Removes every channel of an auction that never came to be.
    ///
    /// # Errors
    /// When some may still be there.
    pub async fn remove_named(&self, auction_id: AuctionId) -> Result<(), VideoError> {
        let named = self.client.list_channels().filter_by_name(auction_id.to_string()).send().await;
        for channel in named.map_err(|error| failed(&error))?.channels {
            if let Some(arn) = channel.arn {
                self.remove(&arn).await?;
            }
        }
        Ok(())
    }

    /// What a channel is sending now.
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
            Err(error) => Err(failed(&error)),
        }
    }
}
