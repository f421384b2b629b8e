//! The log: appending a record, and reading back what it says.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer;
use async_nats::jetstream::context::{Context, PublishErrorKind};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageError, Stream};
use domain::AuctionId;
use futures_util::StreamExt;
use protocol::Record;
use protocol::subject::{self, LOG_STREAM, RECORD_HEADER};

use crate::Bus;

/// A record and where it stands in the stream.
#[derive(Debug, Clone)]
pub struct Logged {
    pub stream_seq: u64,
    /// The stream sequence of the auction's record before it, where that is known (republished ones).
    pub previous_stream_seq: Option<u64>,
    pub record: Record,
}

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The subject's last sequence is another one: somebody else appended. Learn, then decide.
    #[error("another record was appended first")]
    Conflict,
    /// Certainly not appended.
    #[error("the log refused the record: {0}")]
    Refused(String),
    /// Appended or not: read the log.
    #[error("it is not known whether the record was appended: {0}")]
    Unknown(String),
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the log did not answer: {0}")]
    Read(String),
    #[error("record {stream_seq} cannot be read: {detail}")]
    Record { stream_seq: u64, detail: String },
}

/// The error code of "wrong last sequence" from a replicated stream, which the client reports as `Other`.
const WRONG_LAST_SEQUENCE_REPLICATED: u64 = 10164;

/// For one record, which the stream's leader has at hand. While the servers elect a new leader nobody
/// answers; whoever asks again soon goes on soon after.
const READ_TIMEOUT: Duration = Duration::from_millis(500);

/// Fill level of the log from which operators are alarmed. ARCHITECTURE.md, A bounded log.
pub const LOG_ALARM_RATIO: f64 = 0.7;
/// From here on no auction is created, so that those that run can end.
pub const LOG_FULL_RATIO: f64 = 0.8;

#[derive(Clone)]
pub struct Log {
    jetstream: Context,
    stream: Stream<()>,
    bus: Bus,
}

impl Log {
    /// # Errors
    /// When the stream's name is refused.
    pub async fn open(bus: &Bus) -> Result<Self, LogError> {
        let stream =
            bus.jetstream.get_stream_no_info(LOG_STREAM).await.map_err(|error| LogError::Read(error.to_string()))?;
        Ok(Self { jetstream: bus.jetstream.clone(), stream, bus: bus.clone() })
    }

    /// Appends a record if the last one on its subject has the stream sequence `expected` (0: none),
    /// and returns its own.
    ///
    /// # Errors
    /// See [`AppendError`]; only `Refused` says that nothing was appended and nobody else was faster.
    pub async fn append(&self, record: &Record, expected: u64) -> Result<u64, AppendError> {
        let payload = serde_json::to_vec(record).map_err(|error| AppendError::Refused(error.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(RECORD_HEADER, record.kind.to_string());
        let message =
            PublishMessage::build().payload(payload.into()).headers(headers).expected_last_subject_sequence(expected);
        let sent = self.jetstream.send_publish(subject::log(record.auction_id), message).await;
        let ack = match sent {
            Ok(future) => future.await,
            Err(error) => Err(error),
        };
        match ack {
            Ok(ack) if ack.duplicate => Err(AppendError::Unknown("acknowledged as a duplicate".to_owned())),
            Ok(ack) => Ok(ack.sequence),
            Err(error) => Err(append_error(&error)),
        }
    }

    /// Fill level of the log, from 0 to 1. A full log rejects records.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn used_ratio(&self) -> Result<f64, LogError> {
        let info = self.stream.get_info().await.map_err(|error| LogError::Read(error.to_string()))?;
        #[expect(clippy::cast_precision_loss, reason = "a ratio; a log of less than 8 PiB is counted exactly")]
        let (used, most) = (info.state.bytes as f64, info.config.max_bytes as f64);
        Ok(if most > 0.0 { used / most } else { 0.0 })
    }

    /// The auction's last record, from the stream's leader.
    ///
    /// # Errors
    /// When the server does not answer or the record cannot be read.
    pub async fn last(&self, auction_id: AuctionId) -> Result<Option<Logged>, LogError> {
        self.found(self.stream.get_last_raw_message_by_subject(&subject::log(auction_id))).await
    }

    /// The auction's first record at or after a stream sequence, from the stream's leader.
    ///
    /// # Errors
    /// When the server does not answer or the record cannot be read.
    pub async fn next(&self, auction_id: AuctionId, from: u64) -> Result<Option<Logged>, LogError> {
        self.found(self.stream.get_first_raw_message_by_subject(subject::log(auction_id), from)).await
    }

    /// One record by its stream sequence.
    ///
    /// # Errors
    /// When the server does not answer or the record cannot be read.
    pub async fn at(&self, stream_seq: u64) -> Result<Option<Logged>, LogError> {
        self.found(self.stream.get_raw_message(stream_seq)).await
    }

    async fn found(
        &self,
        reading: impl Future<Output = Result<StreamMessage, RawMessageError>> + Send,
    ) -> Result<Option<Logged>, LogError> {
        match tokio::time::timeout(READ_TIMEOUT, reading).await {
            Ok(Ok(message)) => read(message.sequence, None, &message.payload).map(Some),
            Ok(Err(error)) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Ok(Err(error)) => Err(LogError::Read(error.to_string())),
            Err(elapsed) => Err(LogError::Read(elapsed.to_string())),
        }
    }

    /// All records of an auction, oldest first.
    ///
    /// # Errors
    /// When the server does not answer or a record cannot be read.
    pub async fn all(&self, auction_id: AuctionId) -> Result<Vec<Logged>, LogError> {
        self.stored(auction_id).await?.iter().map(|(stream_seq, payload)| read(*stream_seq, None, payload)).collect()
    }

    /// All records of an auction as they are stored, oldest first.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn stored(&self, auction_id: AuctionId) -> Result<Vec<(u64, bytes::Bytes)>, LogError> {
        collect(&self.stream, subject::log(auction_id), consumer::DeliverPolicy::All).await
    }

    /// The stream sequence up to which every durable consumer has dealt with every record.
    ///
    /// # Errors
    /// When the server does not answer or a consumer is missing.
    pub async fn passed_by_all(&self) -> Result<u64, LogError> {
        let mut passed = u64::MAX;
        for name in [subject::PERSISTENCE_CONSUMER, subject::RESULTS_CONSUMER] {
            let info =
                self.stream.consumer_info(name).await.map_err(|error| LogError::Read(format!("{name}: {error}")))?;
            passed = passed.min(info.ack_floor.stream_sequence);
        }
        Ok(passed)
    }

    /// Takes an auction's records up to a stream sequence out of the log, for good.
    ///
    /// # Errors
    /// When the server refuses or does not answer; repeatable.
    pub async fn purge(&self, auction_id: AuctionId, up_to: u64) -> Result<(), LogError> {
        let purge = self.stream.purge().filter(subject::log(auction_id)).sequence(up_to + 1);
        purge.await.map(drop).map_err(|error| LogError::Read(error.to_string()))
    }

    /// The last record of every auction. One that cannot be read concerns its auction alone: the log
    /// says so, the others are returned.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn last_of_each(&self) -> Result<Vec<Logged>, LogError> {
        let filter = subject::ALL_LOGS.to_owned();
        let messages = collect(&self.stream, filter, consumer::DeliverPolicy::LastPerSubject).await?;
        let records = messages.iter().map(|(stream_seq, payload)| read(*stream_seq, None, payload));
        Ok(records.filter_map(|record| record.inspect_err(|error| tracing::error!(%error, "skipped")).ok()).collect())
    }

    /// The last record of every auction, then every new record, in order and without gaps, for as long
    /// as the server can be reached. [`LogError::Record`] concerns one auction alone, what comes after
    /// it is good; after another error follow anew: the last records come again.
    ///
    /// # Errors
    /// When the consumer cannot be made.
    pub async fn follow(
        &self,
    ) -> Result<impl futures_util::Stream<Item = Result<Logged, LogError>> + Send + Unpin + use<>, LogError> {
        let config = consumer::pull::OrderedConfig {
            filter_subject: subject::ALL_LOGS.to_owned(),
            deliver_policy: consumer::DeliverPolicy::LastPerSubject,
            ..Default::default()
        };
        let ordered = self.stream.create_consumer(config).await.map_err(|error| LogError::Read(error.to_string()))?;
        let messages = ordered.messages().await.map_err(|error| LogError::Read(error.to_string()))?;
        Ok(Box::pin(messages.map(|message| {
            let message = message.map_err(|error| LogError::Read(error.to_string()))?;
            let info = message.info().map_err(|error| LogError::Read(error.to_string()))?;
            read(info.stream_sequence, None, &message.payload)
        })))
    }

    /// Every record of every auction from now on, as the server republishes it after storing it. At
    /// most once: whoever follows compares `previous_stream_seq` and reads the log on a gap.
    ///
    /// # Errors
    /// When the subscription cannot be made.
    pub async fn events(
        &self,
        subject: String,
    ) -> Result<impl futures_util::Stream<Item = Logged> + Send + Unpin + use<>, LogError> {
        let events = self.bus.client.subscribe(subject).await.map_err(|error| LogError::Read(error.to_string()))?;
        Ok(Box::pin(events.filter_map(async |message| republished(&message))))
    }
}

/// Between two messages of a read that is under way.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads what is in a stream now through an ordered consumer: each message with its stream sequence.
pub(crate) async fn collect(
    stream: &Stream<()>,
    filter: String,
    deliver: consumer::DeliverPolicy,
) -> Result<Vec<(u64, bytes::Bytes)>, LogError> {
    let config =
        consumer::pull::OrderedConfig { filter_subject: filter, deliver_policy: deliver, ..Default::default() };
    let ordered = stream.create_consumer(config).await.map_err(|error| LogError::Read(error.to_string()))?;
    let name = ordered.cached_info().name.clone();
    let found = drain(ordered).await;
    // The server forgets it by itself, but only after minutes: frequent readers would leave thousands.
    if let Err(error) = stream.delete_consumer(&name).await {
        tracing::debug!(%error, "a consumer is left to be forgotten");
    }
    found
}

async fn drain(
    mut ordered: consumer::Consumer<consumer::pull::OrderedConfig>,
) -> Result<Vec<(u64, bytes::Bytes)>, LogError> {
    let read_error = |error: &dyn std::fmt::Display| LogError::Read(error.to_string());
    let mut left = ordered.info().await.map_err(|error| read_error(&error))?.num_pending;
    let mut found = Vec::new();
    if left == 0 {
        return Ok(found);
    }
    let mut messages = ordered.messages().await.map_err(|error| read_error(&error))?;
    while left > 0 {
        let message = match tokio::time::timeout(COLLECT_TIMEOUT, messages.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return Err(read_error(&error)),
            Ok(None) | Err(_) => return Err(LogError::Read("the messages stopped coming".to_owned())),
        };
        let info = message.info().map_err(|error| read_error(&error))?;
        left = info.pending;
        found.push((info.stream_sequence, message.payload.clone()));
    }
    Ok(found)
}

/// The stream sequence of a republished message, and that of the one before it on its subject.
pub(crate) fn republished_at(message: &async_nats::Message) -> Option<(u64, Option<u64>)> {
    let number = |name: &str| message.headers.as_ref()?.get(name)?.as_str().parse::<u64>().ok();
    Some((number("Nats-Sequence")?, number("Nats-Last-Sequence")))
}

fn append_error(error: &async_nats::jetstream::context::PublishError) -> AppendError {
    use std::error::Error;
    match error.kind() {
        PublishErrorKind::WrongLastSequence => AppendError::Conflict,
        PublishErrorKind::MaxAckPending | PublishErrorKind::MaxPayloadExceeded => {
            AppendError::Refused(error.to_string())
        }
        PublishErrorKind::Other => {
            let api = error.source().and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
            match api {
                Some(api) if api.error_code().0 == WRONG_LAST_SEQUENCE_REPLICATED => AppendError::Conflict,
                Some(api) => AppendError::Refused(api.to_string()),
                None => AppendError::Unknown(error.to_string()),
            }
        }
        _ => AppendError::Unknown(error.to_string()),
    }
}

fn read(stream_seq: u64, previous_stream_seq: Option<u64>, payload: &[u8]) -> Result<Logged, LogError> {
    let record =
        serde_json::from_slice(payload).map_err(|error| LogError::Record { stream_seq, detail: error.to_string() })?;
    Ok(Logged { stream_seq, previous_stream_seq, record })
}

fn republished(message: &async_nats::Message) -> Option<Logged> {
    let (stream_seq, previous) = republished_at(message)?;
    match read(stream_seq, previous, &message.payload) {
        Ok(logged) => Some(logged),
        Err(error) => {
            tracing::error!(%error, "a republished record cannot be read");
            None
        }
    }
}
