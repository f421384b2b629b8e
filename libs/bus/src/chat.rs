//! Chat: appended to its stream, shown as the server republishes it, read back when somebody joins.

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::Stream;
use domain::AuctionId;
use futures_util::StreamExt;
use protocol::subject::{self, CHAT_STREAM};
use protocol::{ChatDeleted, ChatMessage, ChatMuted, Talk};

use crate::log::{collect, republished_at};
use crate::{Bus, LogError};

/// A repeated append has the same message id, if any, so it is stored once.
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
        self.append(message.auction_id, Some(&message.message_id), &Talk::Message(message.clone())).await
    }

    /// Erases a message from the stream, and says that it is deleted; also when it is not there (any more).
    ///
    /// # Errors
    /// When the server does not confirm it. It may be repeated.
    pub async fn delete(&self, deleted: ChatDeleted) -> Result<(), LogError> {
        for (stream_seq, talk) in self.history(deleted.auction_id).await? {
            if matches!(talk, Talk::Message(message) if message.message_id == deleted.message_id) {
                let erased = self.stream.delete_message(stream_seq).await;
                erased.map_err(|error| LogError::Read(error.to_string()))?;
            }
        }
        let id = format!("deleted.{}", deleted.message_id);
        self.append(deleted.auction_id, Some(&id), &Talk::Deleted(deleted)).await
    }

    /// Says that somebody is muted. Not told apart from the same said again: said twice it is as true.
    ///
    /// # Errors
    /// When the server does not confirm it. It may be repeated.
    pub async fn muted(&self, muted: ChatMuted) -> Result<(), LogError> {
        self.append(muted.auction_id, None, &Talk::Muted(muted)).await
    }

    async fn append(&self, auction_id: AuctionId, message_id: Option<&str>, talk: &Talk) -> Result<(), LogError> {
        let payload = serde_json::to_vec(talk).map_err(|error| LogError::Read(error.to_string()))?;
        let mut headers = async_nats::HeaderMap::new();
        if let Some(message_id) = message_id {
            headers.insert(async_nats::header::NATS_MESSAGE_ID, message_id);
        }
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let subject = subject::chat(auction_id);
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

    /// What is kept of an auction's talk, oldest first, each with its stream sequence.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn history(&self, auction_id: AuctionId) -> Result<Vec<(u64, Talk)>, LogError> {
        let stored = collect(&self.stream, subject::chat(auction_id), DeliverPolicy::All).await?;
        // What a newer version stored and this one cannot read is left out.
        let read = stored.into_iter().filter_map(|(seq, payload)| Some((seq, serde_json::from_slice(&payload).ok()?)));
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
