//! Chat: appends to its stream, follows what the server republishes, reads it back when a client joins.

use std::time::Duration;

use async_nats::StatusCode;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use domain::AuctionId;
use futures_util::StreamExt;
use protocol::subject::{self, CHAT_STREAM};
use protocol::{ChatDeleted, ChatMessage, ChatMuted, ChatSlowed, Talk};

use crate::log::{READ_TIMEOUT as READ_ONE_TIMEOUT, republished_at};
use crate::{Bus, LogError};

/// Entries that one request reads; more than the stream keeps of an auction.
const BATCH_ENTRIES: usize = 512;
/// Entries that are read one by one after that request: those that the server which answered it did not have yet, or all
/// of them if the stream does not allow such requests.
const MAX_SINGLE_ENTRIES: usize = 1_024;
/// Status of the answer that ends a batch. The client has no name for it.
const END_OF_BATCH: u16 = 204;
/// Longest pause between two entries. A healthy server sends them back to back.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Attempts to append one entry. A repeated attempt has the same message id, if any, so the entry is stored once.
const ATTEMPTS: usize = 2;

/// The chat of all auctions. A cheap handle; clones share the connection.
#[derive(Clone)]
pub struct Chat {
    bus: Bus,
    stream: Stream<()>,
}

/// A chat entry and its position in the stream.
#[derive(Debug, Clone)]
pub struct Said {
    /// The entry's sequence in the stream.
    pub stream_seq: u64,
    /// The stream sequence of the auction's previous entry. If the reader does not have that entry, it missed one.
    pub previous_stream_seq: Option<u64>,
    /// The entry: a message or an act of moderation.
    pub talk: Talk,
}

impl Chat {
    /// A handle to the stream. Sends nothing, so the stream need not exist yet.
    ///
    /// # Errors
    /// When the stream's name is invalid.
    pub async fn open(bus: &Bus) -> Result<Self, LogError> {
        let stream = bus.jetstream.get_stream_no_info(CHAT_STREAM).await.map_err(LogError::read)?;
        Ok(Self { bus: bus.clone(), stream })
    }

    /// Stores a message. Ok once it is stored.
    ///
    /// # Errors
    /// When the server does not confirm it: it may still have been stored.
    pub async fn say(&self, message: &ChatMessage) -> Result<(), LogError> {
        self.append(message.auction_id, Some(&message.message_id), &Talk::Message(message.clone())).await
    }

    /// Erases a message from the stream and appends its deletion, also when the message is already gone.
    ///
    /// # Errors
    /// When the server does not confirm it. Repeatable.
    pub async fn delete(&self, deleted: ChatDeleted) -> Result<(), LogError> {
        for (stream_seq, talk) in self.history(deleted.auction_id).await? {
            if matches!(talk, Talk::Message(message) if message.message_id == deleted.message_id) {
                self.stream.delete_message(stream_seq).await.map_err(LogError::read)?;
            }
        }
        let id = format!("deleted.{}", deleted.message_id);
        self.append(deleted.auction_id, Some(&id), &Talk::Deleted(deleted)).await
    }

    /// Appends that a user is muted. Has no message id: a second entry changes nothing.
    ///
    /// # Errors
    /// When the server does not confirm it. Repeatable.
    pub async fn muted(&self, muted: ChatMuted) -> Result<(), LogError> {
        self.append(muted.auction_id, None, &Talk::Muted(muted)).await
    }

    /// Appends that the chat's slow mode is set. Has no message id: a second entry changes nothing.
    ///
    /// # Errors
    /// When the server does not confirm it. Repeatable.
    pub async fn slowed(&self, slowed: ChatSlowed) -> Result<(), LogError> {
        self.append(slowed.auction_id, None, &Talk::Slowed(slowed)).await
    }

    async fn append(&self, auction_id: AuctionId, message_id: Option<&str>, talk: &Talk) -> Result<(), LogError> {
        let payload = serde_json::to_vec(talk).map_err(LogError::read)?;
        let mut headers = async_nats::HeaderMap::new();
        if let Some(message_id) = message_id {
            headers.insert(async_nats::header::NATS_MESSAGE_ID, message_id);
        }
        let mut attempts = 1;
        loop {
            let subject = subject::chat(auction_id);
            let sent = self.bus.jetstream.publish_with_headers(subject, headers.clone(), payload.clone().into()).await;
            let stored = match sent {
                Ok(acknowledged) => acknowledged.await,
                Err(error) => Err(error),
            };
            match stored {
                Ok(_) => return Ok(()),
                Err(error) if attempts == ATTEMPTS => return Err(LogError::read(error)),
                Err(_) => attempts += 1,
            }
        }
    }

    /// The stored entries of an auction, oldest first, each with its stream sequence. Read without a consumer: one can
    /// deliver to any subject, so a login that writes a stream must not create any on it.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn history(&self, auction_id: AuctionId) -> Result<Vec<(u64, Talk)>, LogError> {
        let subject = subject::chat(auction_id);
        let mut stored = self.batch(&subject).await?;
        // Any replica may have answered; the leader has what that one lacked.
        for _ in 0..MAX_SINGLE_ENTRIES {
            let from = stored.last().map_or(1, |(stream_seq, _)| stream_seq + 1);
            let reading = self.stream.get_first_raw_message_by_subject(&subject, from);
            match tokio::time::timeout(READ_TIMEOUT, reading).await.map_err(LogError::read)? {
                Ok(message) => stored.push((message.sequence, message.payload)),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => break,
                Err(error) => return Err(LogError::read(error)),
            }
        }
        // Entries of a newer version that this one cannot read are left out.
        let read = stored.into_iter().filter_map(|(seq, payload)| Some((seq, serde_json::from_slice(&payload).ok()?)));
        Ok(read.collect())
    }

    /// The first stored entry of an auction at or after a stream sequence, with its own: None in place of an entry that
    /// this version cannot read.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn next(&self, auction_id: AuctionId, from: u64) -> Result<Option<(u64, Option<Talk>)>, LogError> {
        let reading = self.stream.get_first_raw_message_by_subject(subject::chat(auction_id), from);
        match tokio::time::timeout(READ_ONE_TIMEOUT, reading).await {
            Ok(Ok(message)) => Ok(Some((message.sequence, serde_json::from_slice(&message.payload).ok()))),
            Ok(Err(error)) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Ok(Err(error)) => Err(LogError::read(error)),
            Err(elapsed) => Err(LogError::read(elapsed)),
        }
    }

    /// The entries of an auction as one server has them, in one request. Empty if the stream does not allow it.
    async fn batch(&self, subject: &str) -> Result<Vec<(u64, Bytes)>, LogError> {
        let client = &self.bus.client;
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(LogError::read)?;
        let wanted = serde_json::json!({"next_by_subj": subject, "seq": 1, "batch": BATCH_ENTRIES}).to_string();
        let request = client.publish_with_reply(subject::direct_get(CHAT_STREAM), inbox, wanted.into());
        request.await.map_err(LogError::read)?;
        let mut stored = Vec::new();
        // One more than the entries: the end of the batch.
        for _ in 0..=BATCH_ENTRIES {
            let answer = tokio::time::timeout(READ_TIMEOUT, answers.next()).await.map_err(LogError::read)?;
            let answer = answer.ok_or_else(|| LogError::read("the subscription ended"))?;
            match answer.status {
                None => {
                    let stream_seq = republished_at(&answer).map(|(stream_seq, _)| stream_seq);
                    stored.push((stream_seq.ok_or_else(|| LogError::read("no sequence"))?, answer.payload));
                }
                // No entry, or no server that answers such requests.
                Some(StatusCode::NOT_FOUND | StatusCode::NO_RESPONDERS) => break,
                Some(status) if status.as_u16() == END_OF_BATCH => break,
                Some(status) => return Err(LogError::read(format!("status {status}"))),
            }
        }
        Ok(stored)
    }

    /// The new entries of an auction, at most once each, as hints: anyone who may publish can send one.
    ///
    /// # Errors
    /// When the subscription cannot be created.
    pub async fn listen(
        &self,
        auction_id: AuctionId,
    ) -> Result<impl futures_util::Stream<Item = Said> + Send + Unpin + use<>, LogError> {
        let entries = self.bus.client.subscribe(subject::talk(auction_id)).await.map_err(LogError::read)?;
        Ok(Box::pin(entries.filter_map(async |message| said(&message))))
    }

    /// The new entries of all auctions, at most once each.
    ///
    /// # Errors
    /// When the subscription cannot be created.
    pub async fn listen_to_all(
        &self,
    ) -> Result<impl futures_util::Stream<Item = (AuctionId, Said)> + Send + Unpin + use<>, LogError> {
        let entries = self.bus.client.subscribe(subject::ALL_TALK).await.map_err(LogError::read)?;
        Ok(Box::pin(
            entries.filter_map(async |message| Some((subject::auction_of(&message.subject)?, said(&message)?))),
        ))
    }
}

fn said(message: &async_nats::Message) -> Option<Said> {
    let (stream_seq, previous_stream_seq) = republished_at(message)?;
    let talk = serde_json::from_slice(&message.payload).ok()?;
    Some(Said { stream_seq, previous_stream_seq, talk })
}
