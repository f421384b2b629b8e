//! Checkpoints of long auctions, in a stream of their own. They are derived from the log and may be missing.

use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::context::Context;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use domain::AuctionId;
use protocol::Checkpoint;
use protocol::subject::{self, CHECKPOINT_STREAM};

use crate::append::append_error;
use crate::{AppendError, Bus, LogError, Reading};

/// Time limit for reading one checkpoint.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// The checkpoints of all auctions. A cheap handle; clones share the connection.
#[derive(Clone)]
pub struct Checkpoints {
    jetstream: Context,
    stream: Stream<()>,
}

/// A checkpoint and its position in the stream.
#[derive(Debug, Clone)]
pub struct StoredCheckpoint {
    /// The checkpoint's sequence in the stream of checkpoints.
    pub position: u64,
    /// The checkpoint as stored.
    pub checkpoint: Checkpoint,
}

impl Checkpoints {
    /// A handle to the stream. Sends nothing, so the stream need not exist yet.
    ///
    /// # Errors
    /// When the stream's name is invalid.
    pub async fn open(bus: &Bus) -> Result<Self, LogError> {
        let stream = bus.jetstream.get_stream_no_info(CHECKPOINT_STREAM).await.map_err(LogError::read)?;
        Ok(Self { jetstream: bus.jetstream.clone(), stream })
    }

    /// Appends a checkpoint if the auction's last one is at `expected` (0: none), and returns its own position.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn append(&self, checkpoint: &Checkpoint, expected: u64) -> Result<u64, AppendError> {
        let payload = serde_json::to_vec(checkpoint).map_err(|error| AppendError::Rejected(error.into()))?;
        let message = PublishMessage::build().payload(payload.into()).expected_last_subject_sequence(expected);
        let sent = self.jetstream.send_publish(subject::checkpoint(checkpoint.auction_id), message).await;
        let acknowledged = match sent {
            Ok(future) => future.await,
            Err(error) => Err(error),
        };
        acknowledged.map(|acknowledged| acknowledged.sequence).map_err(append_error)
    }

    /// The auction's last checkpoint.
    ///
    /// # Errors
    /// When the server does not answer or the checkpoint is unreadable.
    pub async fn last(&self, auction_id: AuctionId) -> Result<Option<StoredCheckpoint>, LogError> {
        let subject = subject::checkpoint(auction_id);
        let reading = self.stream.get_last_raw_message_by_subject(&subject);
        match tokio::time::timeout(READ_TIMEOUT, reading).await {
            Ok(Ok(message)) => read(message.sequence, &message.payload).map(Some),
            Ok(Err(error)) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Ok(Err(error)) => Err(LogError::read(error)),
            Err(elapsed) => Err(LogError::read(elapsed)),
        }
    }

    /// The auction's checkpoints, oldest first.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn all(&self, auction_id: AuctionId) -> Result<CheckpointReading, LogError> {
        Reading::start(&self.stream, subject::checkpoint(auction_id), DeliverPolicy::All).await.map(CheckpointReading)
    }
}

/// An auction's checkpoints, read one after the other.
pub struct CheckpointReading(Reading);

impl CheckpointReading {
    /// The next checkpoint. None after the last.
    ///
    /// # Errors
    /// When the server does not answer or the checkpoint is unreadable.
    pub async fn next(&mut self) -> Result<Option<StoredCheckpoint>, LogError> {
        let Some((position, payload)) = self.0.next().await? else { return Ok(None) };
        // Parsing half a megabyte takes milliseconds, in which other tasks would wait.
        let parsed = tokio::task::spawn_blocking(move || read(position, &payload));
        parsed.await.map_err(LogError::read)?.map(Some)
    }
}

fn read(position: u64, payload: &[u8]) -> Result<StoredCheckpoint, LogError> {
    let checkpoint = serde_json::from_slice(payload).map_err(LogError::read)?;
    Ok(StoredCheckpoint { position, checkpoint })
}
