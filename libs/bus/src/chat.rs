//! Chat: appended to its stream, shown as the server republishes it, read back when somebody joins.

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::Stream;
use domain::AuctionId;
use futures_util::StreamExt;
use protocol::subject::{self, CHAT_STREAM};
use protocol::{ChatMessage, MAX_CHAT_HISTORY, Talk};

use crate::log::{collect, republished_at};
use crate::{Bus, LogError};

/// A repeated append has the same message id, so it is stored once.
const ATTEMPTS: usize = 2;

#[derive(Clone)]
pub struct Chat {
    bus: Bus,
    stream: Stream<()>,
}

/// What was said, and where it stands in the stream.
#[derive(Debug, Clone)]
pub struct Said {
    pub stream_seq: u64,
    /// The one before it in the same auction; what is not known by then was missed.
    pub previous_stream_seq: Option<u64>,
    pub talk: Talk,
}

impl Chat {
    /// # Errors
    /// When the stream's name is refused.
    pub async fn open(bus: &Bus) -> Result<Self, LogError> {
        let stream = bus.jetstream.get_stream_no_info(CHAT_STREAM).await;
        Ok(Self { bus: bus.clone(), stream: stream.map_err(|error| LogError::Read(error.to_string()))? })
    }

    /// Stores a message. Ok once it is stored.
    ///
    /// # Errors
    /// When the server does not confirm it: it may have been stored all the same.
    pub async fn say(&self, message: &ChatMessage) -> Result<(), LogError> {
        let payload =
            serde_json::to_vec(&Talk::Message(message.clone())).map_err(|error| LogError::Read(error.to_string()))?;
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, message.message_id.as_str());
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let subject = subject::chat(message.auction_id);
            let sent = self.bus.jetstream.publish_with_headers(subject, headers.clone(), payload.clone().into()).await;
            let stored = match sent {
                Ok(acknowledged) => acknowledged.await,
                Err(error) => Err(error),
            };
            match stored {
                Ok(_) => return Ok(()),
                Err(error) => last = Some(error.to_string()),
            }
        }
        Err(LogError::Read(last.unwrap_or_default()))
    }

    /// The newest messages of an auction, oldest first, each with its stream sequence.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn history(&self, auction_id: AuctionId) -> Result<Vec<(u64, ChatMessage)>, LogError> {
        let mut messages = collect(&self.stream, subject::chat(auction_id), DeliverPolicy::All).await?;
        let old = messages.len().saturating_sub(MAX_CHAT_HISTORY);
        // What a newer version stored and this one cannot read is left out.
        let read = messages.drain(old..).filter_map(|(stream_seq, payload)| {
            let Talk::Message(message) = serde_json::from_slice(&payload).ok()?;
            Some((stream_seq, message))
        });
        Ok(read.collect())
    }

    /// What is said in an auction from now on, at most once.
    ///
    /// # Errors
    /// When the subscription cannot be made.
    pub async fn listen(
        &self,
        auction_id: AuctionId,
    ) -> Result<impl futures_util::Stream<Item = Said> + Send + Unpin + use<>, LogError> {
        let subject = subject::talk(auction_id);
        let said = self.bus.client.subscribe(subject).await.map_err(|error| LogError::Read(error.to_string()))?;
        Ok(Box::pin(said.filter_map(async |message| {
            let (stream_seq, previous_stream_seq) = republished_at(&message)?;
            let talk = serde_json::from_slice(&message.payload).ok()?;
            Some(Said { stream_seq, previous_stream_seq, talk })
        })))
    }
}
