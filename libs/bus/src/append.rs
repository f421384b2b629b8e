//! Appends records to the log, each with a compare-and-set: alone, or several auctions' records in one batch.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use errors::BoxError;
use protocol::Record;
use protocol::subject::{self, RECORD_HEADER};
use serde::Deserialize;
use tokio::time::error::Elapsed;

use crate::Log;
use crate::connect::JETSTREAM_TIMEOUT;
use crate::log::changed;

/// Headers of the messages of a batch, by which the server stores all of them or none.
const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";

/// The error code of "wrong last sequence" from a replicated stream, which the client reports as `Other`.
const WRONG_LAST_SEQUENCE_REPLICATED: u64 = 10164;

/// Time for the acknowledgement of an append once the connection has changed. A server that has restarted sends none for
/// an append before that; one that was sent on the new connection is acknowledged within milliseconds. An
/// auction that waited for the full time limit could not close on time.
const LATE_ACK_WITHIN: Duration = Duration::from_millis(100);

/// Why an append was not confirmed, and what the caller may conclude from it.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The subject's last sequence is not the expected one, because another instance appended. Read the log, then
    /// decide again.
    #[error("another record was appended first")]
    Conflict,
    /// Certainly not appended.
    #[error("the log rejected the record")]
    Rejected(#[source] BoxError),
    /// Appended or not: read the log.
    #[error("it is unknown whether the record was appended")]
    Unknown(#[source] BoxError),
}

/// Why a batch was not confirmed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    /// Certainly none of it was appended.
    #[error("the log rejected a batch of records: {description} ({code})")]
    Refused { code: u64, description: String },
    /// Appended or not.
    #[error("it is unknown whether a batch of records was appended")]
    Unknown(#[source] BoxError),
}

/// The answer to the last message of a batch.
#[derive(Deserialize)]
struct BatchAck {
    /// Sequence of the last message in the stream.
    #[serde(default)]
    seq: u64,
    /// Messages in the batch.
    #[serde(default)]
    count: usize,
    error: Option<BatchFailure>,
}

#[derive(Deserialize)]
struct BatchFailure {
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// A record on its way to the log.
pub(crate) struct Unsent {
    subject: String,
    kind: String,
    payload: Bytes,
    /// Stream sequence of the last record on the subject; 0 if there is none.
    expected: u64,
    /// The header of the trace that the append belongs to.
    trace: Option<HeaderMap>,
}

impl Unsent {
    /// A record that is to follow the one with the stream sequence `expected`.
    pub fn new(record: &Record, expected: u64) -> Result<Self, AppendError> {
        let payload = serde_json::to_vec(record).map_err(|error| AppendError::Rejected(error.into()))?;
        let (subject, kind) = (subject::log(record.auction_id), record.kind.to_string());
        let mut trace = None;
        crate::trace::inject(&mut trace);
        Ok(Self { subject, kind, payload: payload.into(), expected, trace })
    }

    #[cfg(test)]
    pub const fn expected(&self) -> u64 {
        self.expected
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = self.trace.clone().unwrap_or_default();
        headers.insert(RECORD_HEADER, self.kind.as_str());
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, self.expected.to_string());
        headers
    }
}

impl Log {
    /// Appends a record if the last one on its subject has the stream sequence `expected` (0: none), and returns the
    /// record's own stream sequence. Under load it shares a synced write with records of other auctions.
    ///
    /// # Errors
    /// See [`AppendError`]. Only `Rejected` proves that nothing was appended and that no other instance was faster.
    pub async fn append(&self, record: &Record, expected: u64) -> Result<u64, AppendError> {
        crate::group::append(self, Unsent::new(record, expected)?).await
    }

    /// Appends one record by itself.
    pub(crate) async fn append_one(&self, unsent: Unsent) -> Result<u64, AppendError> {
        let message = PublishMessage::build().headers(unsent.headers()).payload(unsent.payload);
        let begun = self.begun();
        let sent = self.jetstream.send_publish(unsent.subject, message).await;
        let ack = match sent {
            Ok(acknowledged) => match self.acknowledged(begun, acknowledged.into_future()).await {
                Ok(ack) => ack,
                Err(elapsed) => return Err(AppendError::Unknown(elapsed.into())),
            },
            Err(error) => Err(error),
        };
        match ack {
            Ok(ack) if ack.duplicate => Err(AppendError::Unknown("acknowledged as a duplicate".into())),
            Ok(ack) => Ok(ack.sequence),
            Err(error) => Err(append_error(error)),
        }
    }

    /// Appends all these records, or none if one of them is not expected there. Returns the stream sequence of the last
    /// one; the others are directly before it, in order.
    pub(crate) async fn append_batch(&self, batch: &[Unsent]) -> Result<u64, BatchError> {
        let unknown = |error: BoxError| BatchError::Unknown(error);
        let (id, client) = (uuid::Uuid::new_v4().simple().to_string(), &self.bus.client);
        let headers = |unsent: &Unsent, number: usize| {
            let mut headers = unsent.headers();
            headers.insert(BATCH_ID, id.as_str());
            headers.insert(BATCH_SEQUENCE, number.to_string());
            headers
        };
        let Some((last, others)) = batch.split_last() else { return Ok(0) };
        let begun = self.begun();
        for (unsent, number) in others.iter().zip(1..) {
            let (subject, payload) = (unsent.subject.clone(), unsent.payload.clone());
            let published = client.publish_with_headers(subject, headers(unsent, number), payload).await;
            published.map_err(|error| unknown(error.into()))?;
        }
        let mut commit = headers(last, batch.len());
        commit.insert(BATCH_COMMIT, "1");
        let request =
            async_nats::Request::new().payload(last.payload.clone()).headers(commit).timeout(Some(JETSTREAM_TIMEOUT));
        let answered = self.acknowledged(begun, client.send_request(last.subject.clone(), request)).await;
        let answer = answered.map_err(|elapsed| unknown(elapsed.into()))?.map_err(|error| unknown(error.into()))?;
        let ack: BatchAck = serde_json::from_slice(&answer.payload).map_err(|error| unknown(error.into()))?;
        match ack.error {
            Some(BatchFailure { err_code, description }) => Err(BatchError::Refused { code: err_code, description }),
            None if ack.count == batch.len() => Ok(ack.seq),
            // A server that does not know batches has stored each message by itself, or has refused it.
            None => Err(unknown("the server does not know batches".into())),
        }
    }

    /// Waits for the acknowledgement of an append, for not much longer once the connection or the log is another one than
    /// at its beginning.
    async fn acknowledged<T>(&self, begun: Begun, ack: impl Future<Output = T>) -> Result<T, Elapsed> {
        let mut ack = std::pin::pin!(ack);
        tokio::select! {
            ack = &mut ack => Ok(ack),
            () = changed(self.clone(), begun.connection, begun.generation) => {
                tokio::time::timeout(LATE_ACK_WITHIN, ack).await
            }
        }
    }

    fn begun(&self) -> Begun {
        Begun { connection: self.bus.connection(), generation: self.generation() }
    }
}

/// The connection and the log at the beginning of an append.
struct Begun {
    connection: Option<u64>,
    generation: u64,
}

pub(crate) fn append_error(error: PublishError) -> AppendError {
    use std::error::Error;
    match error.kind() {
        PublishErrorKind::WrongLastSequence => AppendError::Conflict,
        PublishErrorKind::MaxAckPending | PublishErrorKind::MaxPayloadExceeded => AppendError::Rejected(error.into()),
        PublishErrorKind::Other => {
            let api = error.source().and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
            match api.map(|api| api.error_code().0) {
                Some(WRONG_LAST_SEQUENCE_REPLICATED) => AppendError::Conflict,
                Some(_) => AppendError::Rejected(error.into()),
                None => AppendError::Unknown(error.into()),
            }
        }
        _ => AppendError::Unknown(error.into()),
    }
}
