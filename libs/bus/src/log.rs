//! The log, as its readers see it. [`crate::append`] writes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::consumer;
use async_nats::jetstream::context::Context;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, PeerInfo, RawMessageError, Stream};
use domain::AuctionId;
use errors::BoxError;
use futures_util::{StreamExt, stream};
use protocol::subject::{self, LOG_STREAM};
use protocol::{Mark, Record};

use crate::group::Group;
use crate::{Bus, Reading};

/// A record and its position in the stream.
#[derive(Debug, Clone)]
pub struct Logged {
    /// The record's sequence in the stream. The records of all auctions share one numbering.
    pub stream_seq: u64,
    /// The stream sequence of the auction's previous record. Known of republished records and of those that [`Log::at`]
    /// reads.
    pub previous_stream_seq: Option<u64>,
    /// The record as stored.
    pub record: Record,
    /// The append, if its trace is exported. Known of republished records.
    pub trace: traces::Context,
}

/// Why a stream could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The server did not answer, or answered with an error. The request may be repeated.
    #[error("JetStream request failed")]
    Read(#[source] BoxError),
    /// A stored record is unreadable or contradicts the records before it. Repeating the request changes nothing.
    #[error("record {stream_seq} is invalid: {detail}")]
    Record {
        /// The record's sequence in the stream; 0 if the record is missing.
        stream_seq: u64,
        /// The contradiction, or the parser's message.
        detail: String,
    },
}

impl LogError {
    /// A failed request with its cause.
    pub(crate) fn read(cause: impl Into<BoxError>) -> Self {
        Self::Read(cause.into())
    }
}

/// Time limit for reading one record from the stream's leader. A healthy leader answers in milliseconds. During a
/// leader election no server answers; a short limit lets the caller retry soon after the election.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_millis(500);

/// Fill level of the log from which operators are alarmed. ARCHITECTURE.md, A bounded log.
pub const LOG_ALARM_RATIO: f64 = 0.7;
/// Fill level of the log from which no auction is created. The rest is kept for running auctions to end in.
pub const LOG_FULL_RATIO: f64 = 0.8;
/// Fill level of the log from which no bid is accepted. Openings, closings and cancellations alone use the rest.
pub const LOG_RESERVED_RATIO: f64 = 0.95;

/// Time without contact to its leader after which a replica is away. The leader sends a heartbeat every second.
const REPLICA_AWAY_AFTER: Duration = Duration::from_secs(5);

/// Whether the leader has no contact with this replica. A new leader that has never had any gives no time.
fn is_away(replica: &PeerInfo) -> bool {
    replica.offline || (!replica.current && (replica.active.is_zero() || replica.active > REPLICA_AWAY_AFTER))
}

/// The size of the log, its bound, and the state of its replicas.
#[derive(Debug, Clone, Copy)]
pub struct Fill {
    /// Bytes stored.
    pub used_bytes: u64,
    /// Bytes that fit; a full log rejects records. None: the log has no bound.
    pub max_bytes: Option<u64>,
    /// Replicas that the leader has no contact with.
    pub replicas_away: usize,
}

impl Fill {
    /// The fill level, from 0 to 1.
    #[must_use]
    pub fn ratio(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a ratio; a log of less than 8 PiB is counted exactly")]
        self.max_bytes.map_or(0.0, |most| self.used_bytes as f64 / most as f64)
    }

    /// Bytes that still fit.
    #[must_use]
    pub fn left_bytes(self) -> u64 {
        self.max_bytes.map_or(u64::MAX, |most| most.saturating_sub(self.used_bytes))
    }
}

/// The log of all auctions. A cheap handle; clones share the connection.
#[derive(Clone)]
pub struct Log {
    pub(crate) jetstream: Context,
    stream: Stream<()>,
    pub(crate) bus: Bus,
    pub(crate) group: Arc<Group>,
    /// See [`Log::generation`].
    pub(crate) generation: Arc<AtomicU64>,
    /// See [`Log::is_held`].
    pub(crate) is_held: Arc<AtomicBool>,
    /// See [`Log::restored_at`].
    pub(crate) restored_at: Arc<AtomicU64>,
}

impl Log {
    /// A handle to the stream. Sends nothing, so the stream need not exist yet.
    ///
    /// # Errors
    /// When the stream's name is invalid.
    pub async fn open(bus: &Bus) -> Result<Self, LogError> {
        let stream = bus.jetstream.get_stream_no_info(LOG_STREAM).await.map_err(LogError::read)?;
        Ok(Self {
            jetstream: bus.jetstream.clone(),
            stream,
            bus: bus.clone(),
            group: Arc::default(),
            generation: Arc::default(),
            // Until the stream has been looked at: a restore may be unfinished.
            is_held: Arc::new(AtomicBool::new(true)),
            restored_at: Arc::default(),
        })
    }

    /// The size of the log, its bound, and the state of its replicas.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn fill(&self) -> Result<Fill, LogError> {
        let info = self.stream.get_info().await.map_err(LogError::read)?;
        let max_bytes = u64::try_from(info.config.max_bytes).ok().filter(|most| *most > 0);
        let replicas = info.cluster.map(|cluster| cluster.replicas).unwrap_or_default();
        let replicas_away = replicas.iter().filter(|replica| is_away(replica)).count();
        Ok(Fill { used_bytes: info.state.bytes, max_bytes, replicas_away })
    }

    /// The auction's last record, from the stream's leader.
    ///
    /// # Errors
    /// When the server does not answer or the record is unreadable.
    pub async fn last(&self, auction_id: AuctionId) -> Result<Option<Logged>, LogError> {
        self.found(self.stream.get_last_raw_message_by_subject(&subject::log(auction_id))).await
    }

    /// The auction's first record at or after a stream sequence, from the stream's leader.
    ///
    /// # Errors
    /// When the server does not answer or the record is unreadable.
    pub async fn next(&self, auction_id: AuctionId, from: u64) -> Result<Option<Logged>, LogError> {
        self.found(self.stream.get_first_raw_message_by_subject(subject::log(auction_id), from)).await
    }

    /// One record by its stream sequence.
    ///
    /// # Errors
    /// When the server does not answer or the record is unreadable.
    pub async fn at(&self, stream_seq: u64) -> Result<Option<Logged>, LogError> {
        self.found(self.stream.get_raw_message(stream_seq)).await
    }

    async fn found(
        &self,
        reading: impl Future<Output = Result<StreamMessage, RawMessageError>> + Send,
    ) -> Result<Option<Logged>, LogError> {
        match tokio::time::timeout(READ_TIMEOUT, reading).await {
            Ok(Ok(message)) => {
                // bid-processing appends with a compare-and-set: each record after a certain one.
                let after = message.headers.get(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE);
                let after = after.and_then(|after| after.as_str().parse().ok());
                read(message.sequence, after, &message.payload).map(Some)
            }
            Ok(Err(error)) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Ok(Err(error)) => Err(LogError::read(error)),
            Err(elapsed) => Err(LogError::read(elapsed)),
        }
    }

    /// Whether a record that [`Self::at`] has read continues the one that it was appended after. One more reading.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn is_next(&self, logged: &Logged) -> Result<bool, LogError> {
        let record = &logged.record;
        let before = match logged.previous_stream_seq {
            // It was appended without a compare-and-set, which bid-processing never does.
            None => return Ok(false),
            Some(0) => Mark::default(),
            Some(stream_seq) => match self.at(stream_seq).await {
                Ok(Some(before)) if before.record.auction_id == record.auction_id => before.record.mark(),
                // It was purged: the auction ended long ago.
                Ok(None) => return Ok(record.is_whole()),
                Ok(Some(_)) | Err(LogError::Record { .. }) => return Ok(false),
                Err(error) => return Err(error),
            },
        };
        Ok(record.continues(before))
    }

    /// The records of an auction from a stream sequence on, oldest first.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn records(&self, auction_id: AuctionId, from: u64) -> Result<Records, LogError> {
        self.stored(auction_id, from).await.map(Records)
    }

    /// As [`Self::records`], as stored bytes with their stream sequences.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn stored(&self, auction_id: AuctionId, from: u64) -> Result<Reading, LogError> {
        let deliver = match from {
            0 | 1 => consumer::DeliverPolicy::All,
            start_sequence => consumer::DeliverPolicy::ByStartSequence { start_sequence },
        };
        Reading::start(&self.stream, subject::log(auction_id), deliver).await
    }

    /// The stream sequence up to which every durable consumer has acknowledged every record.
    ///
    /// # Errors
    /// When the server does not answer or a consumer is missing.
    pub async fn passed_by_all(&self) -> Result<u64, LogError> {
        let mut passed = u64::MAX;
        for name in [subject::PERSISTENCE_CONSUMER, subject::RESULTS_CONSUMER] {
            let info = self.stream.consumer_info(name).await;
            let info = info.map_err(|source| LogError::read(ConsumerInfo { name, source: source.into() }))?;
            passed = passed.min(info.ack_floor.stream_sequence);
        }
        Ok(passed)
    }

    /// Removes an auction's records up to and including a stream sequence from the log, for good.
    ///
    /// # Errors
    /// When the server rejects the purge or does not answer. Repeatable.
    pub async fn purge(&self, auction_id: AuctionId, up_to: u64) -> Result<(), LogError> {
        let purge = self.stream.purge().filter(subject::log(auction_id)).sequence(up_to + 1);
        purge.await.map(drop).map_err(LogError::read)
    }

    /// The last record of every auction. An unreadable record concerns its auction alone: it is logged and left out.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn last_of_each(&self) -> Result<LastRecords, LogError> {
        let last = consumer::DeliverPolicy::LastPerSubject;
        Reading::start(&self.stream, subject::ALL_LOGS.to_owned(), last).await.map(LastRecords)
    }

    /// The last record of every auction, then every new record, in order and without gaps, for as long as the server
    /// can be reached. [`LogError::Record`] concerns one auction alone; the records after it are good. After any other
    /// error, call `follow` again: it starts with the last records once more.
    ///
    /// # Errors
    /// When the consumer cannot be created.
    pub async fn follow(
        &self,
    ) -> Result<impl futures_util::Stream<Item = Result<Logged, LogError>> + Send + Unpin + use<>, LogError> {
        let connection = self.bus.connection();
        let config = consumer::pull::OrderedConfig {
            name: Some(format!("follow-{}", uuid::Uuid::new_v4().simple())),
            filter_subject: subject::ALL_LOGS.to_owned(),
            deliver_policy: consumer::DeliverPolicy::LastPerSubject,
            ..Default::default()
        };
        let ordered = self.stream.create_consumer(config).await.map_err(LogError::read)?;
        let messages = ordered.messages().await.map_err(LogError::read)?;
        let records = messages.map(|message| {
            let message = message.map_err(LogError::read)?;
            let info = message.info().map_err(LogError::Read)?;
            read(info.stream_sequence, None, &message.payload)
        });
        // A server that has restarted does not know the consumer; the client would notice only after some 15 s.
        let lost = stream::once(async { Err(LogError::read("the connection to the server, or the log, has changed")) });
        Ok(Box::pin(records.take_until(changed(self.clone(), connection, self.generation())).chain(lost)))
    }

    /// Every new record on `subject`, as the server republishes it after storing it, at most once. It is a hint: anyone
    /// who may publish can send one. Subscribers check that it continues the last record they have, read the log if it
    /// does not, and let the log confirm what they show. ARCHITECTURE.md, Forged messages.
    ///
    /// # Errors
    /// When the subscription cannot be created.
    pub async fn events(
        &self,
        subject: String,
    ) -> Result<impl futures_util::Stream<Item = Logged> + Send + Unpin + use<>, LogError> {
        let events = self.bus.client.subscribe(subject).await.map_err(LogError::read)?;
        Ok(Box::pin(events.filter_map(async |message| republished(&message))))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("failed to read the state of the consumer {name}")]
struct ConsumerInfo {
    name: &'static str,
    source: BoxError,
}

/// Interval between checks of the connection while the log is followed or an acknowledgement is awaited.
const CHECK_CONNECTION_EVERY: Duration = Duration::from_millis(250);

/// Returns once the connection to the server, or the log, is another one.
pub(crate) async fn changed(log: Log, connection: Option<u64>, generation: u64) {
    while log.bus.connection() == connection && log.generation() == generation {
        tokio::time::sleep(CHECK_CONNECTION_EVERY).await;
    }
}

/// An auction's records, read one after the other: a log may be larger than the memory.
pub struct Records(Reading);

impl Records {
    /// The next record. None at the end that the log had when reading began.
    ///
    /// # Errors
    /// When the server does not answer or the record is unreadable.
    pub async fn next(&mut self) -> Result<Option<Logged>, LogError> {
        let Some((stream_seq, payload)) = self.0.next().await? else { return Ok(None) };
        read(stream_seq, None, &payload).map(Some)
    }

    /// Reads all records into memory. For tools and tests, which know that the log is short.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn collect(mut self) -> Result<Vec<Logged>, LogError> {
        let mut records = Vec::new();
        while let Some(logged) = self.next().await? {
            records.push(logged);
        }
        Ok(records)
    }
}

/// The last record of every auction, read one after the other.
pub struct LastRecords(Reading);

impl LastRecords {
    /// The next auction's last record. None after the last auction.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn next(&mut self) -> Result<Option<Logged>, LogError> {
        while let Some((stream_seq, payload)) = self.0.next().await? {
            match read(stream_seq, None, &payload) {
                Ok(logged) => return Ok(Some(logged)),
                Err(error) => {
                    tracing::error!(error = %errors::chain(&error), "skipped an unreadable last record");
                }
            }
        }
        Ok(None)
    }
}

/// The stream sequence of a republished message, and that of the previous message on its subject.
pub(crate) fn republished_at(message: &async_nats::Message) -> Option<(u64, Option<u64>)> {
    let number = |name: &str| message.headers.as_ref()?.get(name)?.as_str().parse::<u64>().ok();
    Some((number("Nats-Sequence")?, number("Nats-Last-Sequence")))
}

fn read(stream_seq: u64, previous_stream_seq: Option<u64>, payload: &[u8]) -> Result<Logged, LogError> {
    let record =
        serde_json::from_slice(payload).map_err(|error| LogError::Record { stream_seq, detail: error.to_string() })?;
    Ok(Logged { stream_seq, previous_stream_seq, record, trace: traces::Context::default() })
}

fn republished(message: &async_nats::Message) -> Option<Logged> {
    let (stream_seq, previous) = republished_at(message)?;
    match read(stream_seq, previous, &message.payload) {
        Ok(logged) => Some(Logged { trace: crate::trace::extract(message.headers.as_ref()), ..logged }),
        Err(error) => {
            tracing::error!(error = %errors::chain(&error), "failed to read a republished record");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_is_away_without_contact_to_its_leader() {
        let seen = |current, seconds, offline| PeerInfo {
            current,
            active: Duration::from_secs(seconds),
            offline,
            ..PeerInfo::default()
        };
        let cases = [
            ("seen just now", seen(true, 0, false), false),
            ("catches up", seen(false, 1, false), false),
            ("current, and seen long ago", seen(true, 60, false), false),
            ("not seen for long", seen(false, 6, false), true),
            ("never seen by a new leader", seen(false, 0, false), true),
            ("offline", seen(true, 0, true), true),
        ];
        for (name, replica, expected) in cases {
            assert_eq!(is_away(&replica), expected, "{name}");
        }
    }
}
