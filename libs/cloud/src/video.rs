//! IVS channels, one for each auction with video. A channel is named by the auction's id, so that one left by a crash or
//! by a lost answer can be found.

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_ivs::Client;
use aws_sdk_ivs::error::SdkError;
use aws_sdk_ivs::types::{ChannelLatencyMode, StreamState};
use domain::AuctionId;
use errors::BoxError;
use protocol::Channel;

/// Streams on one page, the most that IVS takes, and pages that are read: 10,000 streams, a hundred times the quota of a
/// new account.
const STREAMS_ON_PAGE: i32 = 100;
const MAX_PAGES: usize = 100;

/// Why a request to IVS failed.
#[derive(Debug, thiserror::Error)]
pub enum VideoError {
    /// The AWS account has reached its quota of channels.
    #[error("the account's quota of channels is used up")]
    Quota,
    /// IVS did not answer, or answered with an error.
    #[error("IVS request failed")]
    Call(#[source] BoxError),
    /// The account has more live streams than are read.
    #[error("there are more live streams than are read")]
    TooMany,
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
    /// Sends each call once: for CreateChannel, which makes one more channel each time.
    once: Client,
}

fn failed(error: impl Into<BoxError>) -> VideoError {
    VideoError::Call(error.into())
}

impl Video {
    /// A client. Sends nothing yet.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        let once = aws_sdk_ivs::config::Builder::from(config).retry_config(RetryConfig::disabled()).build();
        Self { client: Client::new(config), once: Client::from_conf(once) }
    }

    /// Creates the channel of an auction.
    ///
    /// # Errors
    /// After `Quota` there is no new channel. After `Call` there may be one: [`Video::named`] finds it.
    pub async fn create(&self, auction_id: AuctionId) -> Result<Channel, VideoError> {
        let call = self.once.create_channel().name(auction_id.to_string()).latency_mode(ChannelLatencyMode::LowLatency);
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

    /// The ARNs of the channels named after an auction, at most one page of them. More than one is left only by
    /// lost answers, so one page holds them all.
    ///
    /// # Errors
    /// When IVS does not answer.
    pub async fn named(&self, auction_id: AuctionId) -> Result<Vec<String>, VideoError> {
        let named = self.client.list_channels().filter_by_name(auction_id.to_string()).send().await;
        Ok(named.map_err(failed)?.channels.into_iter().filter_map(|channel| channel.arn).collect())
    }

    /// A channel that exists, with its stream key.
    ///
    /// # Errors
    /// When it does not exist, or IVS does not answer.
    pub async fn read(&self, arn: &str) -> Result<Channel, VideoError> {
        let missing = || failed("the answer lacks a field");
        let found = self.client.get_channel().arn(arn).send().await.map_err(failed)?;
        let channel = found.channel.ok_or_else(missing)?;
        let keys = self.client.list_stream_keys().channel_arn(arn).send().await.map_err(failed)?;
        let key = keys.stream_keys.into_iter().find_map(|key| key.arn).ok_or_else(missing)?;
        let key = self.client.get_stream_key().arn(key).send().await.map_err(failed)?;
        Ok(Channel {
            arn: arn.to_owned(),
            playback_url: channel.playback_url.ok_or_else(missing)?,
            ingest_endpoint: channel.ingest_endpoint.ok_or_else(missing)?,
            stream_key: key.stream_key.and_then(|key| key.value).ok_or_else(missing)?,
        })
    }

    /// Deletes every channel named after an auction, except the one to keep.
    ///
    /// # Errors
    /// When some may still be there.
    pub async fn remove_named(&self, auction_id: AuctionId, keep: Option<&str>) -> Result<(), VideoError> {
        for arn in self.named(auction_id).await? {
            if keep != Some(arn.as_str()) {
                self.remove(&arn).await?;
            }
        }
        Ok(())
    }

    /// The ARNs of all channels of the account that are live now.
    ///
    /// # Errors
    /// When IVS does not answer, or there are more than are read.
    pub async fn live(&self) -> Result<Vec<String>, VideoError> {
        let (mut live, mut next) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let page = self.client.list_streams().max_results(STREAMS_ON_PAGE).set_next_token(next);
            let page = page.send().await.map_err(failed)?;
            let streams = page.streams.into_iter().filter(|stream| stream.state == Some(StreamState::StreamLive));
            live.extend(streams.filter_map(|stream| stream.channel_arn));
            next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(live);
            }
        }
        Err(VideoError::TooMany)
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
