//! Reads a stream from a start to its current end, in memory that does not grow with the stream.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull, pull::Batch};
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures_util::StreamExt;

use crate::LogError;

/// Messages in one request. One request runs at a time: the server would spread the messages over several.
const BATCH_MESSAGES: usize = 1024;
/// Bytes in one request; more than the largest message has.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Longest pause between two messages of a request. A healthy server sends them back to back.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time after which the server deletes a consumer whose reader has died. A reader deletes its consumer itself.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(30);
/// Messages after which other tasks of the same core have their turn.
const MESSAGES_IN_A_ROW: usize = 32;

/// The messages of a stream from a start to the end that it had when reading began.
pub struct Reading {
    stream: Stream<()>,
    consumer: PullConsumer,
    batch: Option<Batch>,
    /// Messages of this consumer that were taken.
    taken: u64,
    /// Messages that are still to come.
    left: u64,
}

impl Reading {
    /// Begins to read the messages whose subject matches `filter`.
    pub(crate) async fn start(stream: &Stream<()>, filter: String, deliver: DeliverPolicy) -> Result<Self, LogError> {
        let config = pull::Config {
            filter_subject: filter,
            deliver_policy: deliver,
            ack_policy: AckPolicy::None,
            inactive_threshold: INACTIVE_THRESHOLD,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(LogError::read)?;
        let left = consumer.cached_info().num_pending;
        Ok(Self { stream: stream.clone(), consumer, batch: None, taken: 0, left })
    }

    /// The number of messages that are still to come.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// The next message with its stream sequence. None at the end. Other tasks have their turn every few messages.
    ///
    /// # Errors
    /// When the server does not answer, or a message was lost on its way: then begin again.
    pub async fn next(&mut self) -> Result<Option<(u64, Bytes)>, LogError> {
        if self.taken.is_multiple_of(MESSAGES_IN_A_ROW as u64) {
            tokio::task::yield_now().await;
        }
        let mut is_new = false;
        while self.left > 0 {
            let Some(batch) = self.batch.as_mut() else {
                if is_new {
                    return Err(LogError::read("the server stopped sending messages"));
                }
                is_new = true;
                self.batch = Some(self.request().await?);
                continue;
            };
            match tokio::time::timeout(MESSAGE_TIMEOUT, batch.next()).await {
                Ok(Some(message)) => return self.take(&message.map_err(LogError::Read)?).map(Some),
                Ok(None) => self.batch = None,
                Err(elapsed) => return Err(LogError::read(elapsed)),
            }
        }
        Ok(None)
    }

    fn take(&mut self, message: &async_nats::jetstream::Message) -> Result<(u64, Bytes), LogError> {
        let info = message.info().map_err(LogError::Read)?;
        self.taken += 1;
        if info.consumer_sequence != self.taken {
            return Err(LogError::read("a message was lost on its way"));
        }
        // Messages that are stored during the reading are not waited for, and purged ones never come.
        self.left = info.pending.min(self.left - 1);
        Ok((info.stream_sequence, message.payload.clone()))
    }

    async fn request(&self) -> Result<Batch, LogError> {
        let request = self.consumer.fetch().max_messages(BATCH_MESSAGES).max_bytes(BATCH_BYTES).messages();
        match tokio::time::timeout(MESSAGE_TIMEOUT, request).await {
            Ok(requested) => requested.map_err(LogError::read),
            Err(elapsed) => Err(LogError::read(elapsed)),
        }
    }

    /// Reads the rest into memory.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn collect(mut self) -> Result<Vec<(u64, Bytes)>, LogError> {
        let mut found = Vec::new();
        while let Some(message) = self.next().await? {
            found.push(message);
        }
        Ok(found)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (stream, name) = (self.stream.clone(), self.consumer.cached_info().name.clone());
        // The server deletes an unused consumer by itself, but late: frequent reads would leave many.
        runtime.spawn(async move {
            if let Err(error) = stream.delete_consumer(&name).await {
                tracing::debug!(
                    error = %errors::chain(&error),
                    "failed to delete a temporary consumer; the server will"
                );
            }
        });
    }
}
