//! The stream of dead letters: writing one, and for operators reading, putting back and removing.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::Context;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use errors::BoxError;
use protocol::subject::{self, DEAD_LETTER_STREAM, LOG_STREAM, REASON_HEADER, RECORD_HEADER, SEQUENCE_HEADER};
use serde::Serialize;

use crate::{Bus, LogError};

/// Subjects of all dead letters.
const ALL: &str = "dlq.*";
/// Time limit for reading one message.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Attempts to store a letter whose earlier copy was deleted within the duplicate window.
const STORE_ATTEMPTS: u32 = 3;

/// A message that a consumer could not handle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// Its sequence in the stream of dead letters.
    pub letter: u64,
    /// When it was parked, in milliseconds since 1970.
    pub parked_at: u64,
    /// The consumer that could not handle it.
    pub consumer: String,
    /// Why.
    pub reason: String,
    /// The sequence that the message has in the log. None in a letter that does not say it.
    pub stream_seq: Option<u64>,
    /// The type of the record, from its header.
    pub record_type: Option<String>,
    /// The body; empty if the log no longer had it.
    pub body: String,
}

/// The dead letters of all consumers. A cheap handle; clones share the connection.
#[derive(Clone)]
pub struct DeadLetters {
    jetstream: Context,
    stream: Stream<()>,
    log: Stream<()>,
}

impl DeadLetters {
    /// A handle to the stream. Sends nothing, so the stream need not exist yet.
    ///
    /// # Errors
    /// When the stream's name is invalid.
    pub async fn open(bus: &Bus) -> Result<Self, LogError> {
        let stream = bus.jetstream.get_stream_no_info(DEAD_LETTER_STREAM).await.map_err(LogError::read)?;
        let log = bus.jetstream.get_stream_no_info(LOG_STREAM).await.map_err(LogError::read)?;
        Ok(Self { jetstream: bus.jetstream.clone(), stream, log })
    }

    /// The first letter at or after a sequence. None after the last.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn next(&self, from: u64) -> Result<Option<DeadLetter>, LogError> {
        let reading = self.stream.get_first_raw_message_by_subject(ALL, from);
        let message = match tokio::time::timeout(READ_TIMEOUT, reading).await.map_err(LogError::read)? {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
            Err(error) => return Err(LogError::read(error)),
        };
        let header = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned());
        let consumer = message.subject.strip_prefix("dlq.").unwrap_or(&message.subject).to_owned();
        // Letters of an earlier version carry the sequence only in their message id: `<consumer>.<sequence>`.
        let id = header("Nats-Msg-Id");
        let of_id = id.as_deref().and_then(|id| id.strip_prefix(&consumer)?.strip_prefix('.')?.split('.').next());
        let stream_seq = header(SEQUENCE_HEADER).as_deref().or(of_id).and_then(|text| text.parse().ok());
        let mut letter = DeadLetter {
            letter: message.sequence,
            parked_at: u64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default(),
            reason: header(REASON_HEADER).unwrap_or_default(),
            record_type: header(RECORD_HEADER),
            body: String::from_utf8_lossy(&message.payload).into_owned(),
            stream_seq,
            consumer,
        };
        // Letters of an earlier version whose consumer reads headers only have no body.
        if let Some(stream_seq) = letter.stream_seq.filter(|_| letter.body.is_empty()) {
            letter.body = String::from_utf8_lossy(&body(&self.log, stream_seq).await?).into_owned();
        }
        Ok(Some(letter))
    }

    /// The letter with this sequence.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn at(&self, letter: u64) -> Result<Option<DeadLetter>, LogError> {
        Ok(self.next(letter).await?.filter(|found| found.letter == letter))
    }

    /// Removes a letter. Repeatable.
    ///
    /// # Errors
    /// When the server rejects it or does not answer.
    pub async fn remove(&self, letter: u64) -> Result<(), LogError> {
        match self.stream.delete_message(letter).await {
            Ok(_) => Ok(()),
            // Removed already, by an attempt whose answer was lost.
            Err(_) if self.at(letter).await?.is_none() => Ok(()),
            Err(error) => Err(LogError::read(error)),
        }
    }

    /// Stores a letter, once: storing it again changes nothing, unless it was removed in the meantime.
    pub(crate) async fn store(
        &self,
        consumer: &str,
        stream_seq: u64,
        reason: &str,
        mut headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), BoxError> {
        headers.insert(REASON_HEADER, reason.replace(['\r', '\n'], " ").as_str());
        headers.insert(SEQUENCE_HEADER, stream_seq.to_string().as_str());
        let subject = subject::dead_letter(consumer);
        // A repeated letter has the same id and is stored once.
        let mut id = format!("{consumer}.{stream_seq}");
        for _ in 0..STORE_ATTEMPTS {
            headers.insert("Nats-Msg-Id", id.as_str());
            let sent = self.jetstream.publish_with_headers(subject.clone(), headers.clone(), payload.clone()).await?;
            let stored = sent.await?;
            if !stored.duplicate || self.at(stored.sequence).await?.is_some() {
                return Ok(());
            }
            // For two minutes the server remembers the id of a letter that an operator has removed as well.
            id = format!("{consumer}.{stream_seq}.{}", stored.sequence);
        }
        Err("the server took the letter for one that was removed".into())
    }
}

/// The body of a message as the log has it. Empty if the log has it no more.
pub(crate) async fn body(log: &Stream<()>, stream_seq: u64) -> Result<Bytes, LogError> {
    match tokio::time::timeout(READ_TIMEOUT, log.get_raw_message(stream_seq)).await.map_err(LogError::read)? {
        Ok(message) => Ok(message.payload),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(Bytes::new()),
        Err(error) => Err(LogError::read(error)),
    }
}
