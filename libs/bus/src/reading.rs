//! Reads a stream from a start to its current end, in memory that does not grow with the stream.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull, pull::Batch};
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures_util::StreamExt;
use uuid::Uuid;

use crate::LogError;

/// Messages in one request. One request runs at a time: the server would spread the messages over several.
const BATCH_MESSAGES: usize = 1024;
/// Bytes in one request; more than the largest message has. Bids and answers on the same connection wait for them.
const BATCH_BYTES: usize = 1536 * 1024;
/// Messages in one request for the last ones of their subjects, in place of a bound of bytes: nats-server 2.15.1
/// loses the message that does not fit into such a request, and counts it as delivered.
const BATCH_OF_LAST: usize = 64;
/// Text of the server for a next message that would exceed the bytes of a request.
const BATCH_IS_FULL: &str = "Message Size Exceeds MaxBytes";
/// Longest pause between two messages of a request. A healthy server sends them back to back.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time after which the server deletes a consumer whose reader has died. A reader deletes its consumer itself.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(30);
/// Messages after which other tasks of the same core have their turn.
const MESSAGES_IN_A_ROW: usize = 32;

/// Consumers from one message to the next. Each failure costs one: a restart of a server, a new leader, a lost message.
const MAX_CONSUMERS: usize = 5;
/// Pause before the next consumer. A server that has just lost its leader needs some time.
const RESTART_PAUSE: Duration = Duration::from_millis(250);

/// The messages of a stream from a start to the end that it had when reading began.
pub struct Reading {
    stream: Stream<()>,
    filter: String,
    deliver: DeliverPolicy,
    consumer: PullConsumer,
    batch: Option<Batch>,
    /// Messages of this consumer that were taken.
    taken: u64,
    /// Messages that are still to come.
    left: u64,
    /// The stream sequence of the last message.
    last: u64,
    /// Consumers that may still be made.
    restarts: usize,
}

impl Reading {
    /// Begins to read the messages whose subject matches `filter`.
    pub(crate) async fn start(stream: &Stream<()>, filter: String, deliver: DeliverPolicy) -> Result<Self, LogError> {
        let consumer = consumer(stream, &filter, deliver).await?;
        let left = consumer.cached_info().num_pending;
        let (stream, restarts) = (stream.clone(), MAX_CONSUMERS - 1);
        Ok(Self { stream, filter, deliver, consumer, batch: None, taken: 0, left, last: 0, restarts })
    }

    /// The next message with its stream sequence. None at the end. Other tasks have their turn every few messages.
    ///
    /// # Errors
    /// When the server fails for longer than a change of its leader takes.
    pub async fn next(&mut self) -> Result<Option<(u64, Bytes)>, LogError> {
        if self.taken.is_multiple_of(MESSAGES_IN_A_ROW as u64) {
            tokio::task::yield_now().await;
        }
        loop {
            match self.receive().await {
                // Only a consumer that began again sends messages for the second time.
                Ok(Some((stream_seq, _))) if stream_seq <= self.last => {}
                Ok(Some(message)) => {
                    self.last = message.0;
                    self.restarts = MAX_CONSUMERS - 1;
                    return Ok(Some(message));
                }
                Ok(None) => return Ok(None),
                Err(error) => self.restart(error).await?,
            }
        }
    }

    /// Goes on after the last message with another consumer.
    async fn restart(&mut self, error: LogError) -> Result<(), LogError> {
        let mut error = error;
        while self.restarts > 0 {
            self.restarts -= 1;
            tracing::debug!(error = %errors::chain(&error), "failed to read a stream; will go on with another consumer");
            tokio::time::sleep(RESTART_PAUSE).await;
            let deliver = match self.deliver {
                // It has no start: what was read is skipped.
                DeliverPolicy::LastPerSubject => self.deliver,
                deliver if self.last == 0 => deliver,
                _ => DeliverPolicy::ByStartSequence { start_sequence: self.last + 1 },
            };
            match consumer(&self.stream, &self.filter, deliver).await {
                Ok(consumer) => {
                    self.delete_consumer();
                    self.left = consumer.cached_info().num_pending;
                    (self.consumer, self.batch, self.taken) = (consumer, None, 0);
                    return Ok(());
                }
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    async fn receive(&mut self) -> Result<Option<(u64, Bytes)>, LogError> {
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
                Ok(Some(Ok(message))) => return self.take(&message).map(Some),
                // The next message does not fit into the request: another one gets it.
                Ok(Some(Err(error))) if self.taken > 0 && error.to_string().contains(BATCH_IS_FULL) => {
                    self.batch = None
                }
                Ok(Some(Err(error))) => return Err(LogError::Read(error)),
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
        let request = match self.deliver {
            DeliverPolicy::LastPerSubject => self.consumer.fetch().max_messages(BATCH_OF_LAST),
            _ => self.consumer.fetch().max_messages(BATCH_MESSAGES).max_bytes(BATCH_BYTES),
        };
        match tokio::time::timeout(MESSAGE_TIMEOUT, request.messages()).await {
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

    fn delete_consumer(&self) {
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

impl Drop for Reading {
    fn drop(&mut self) {
        self.delete_consumer();
    }
}

async fn consumer(stream: &Stream<()>, filter: &str, deliver: DeliverPolicy) -> Result<PullConsumer, LogError> {
    let config = pull::Config {
        // Without a name in its subject, a request could name a durable consumer in its body and change it: no login may
        // send one.
        name: Some(format!("read-{}", Uuid::new_v4().simple())),
        filter_subject: filter.to_owned(),
        deliver_policy: deliver,
        ack_policy: AckPolicy::None,
        inactive_threshold: INACTIVE_THRESHOLD,
        memory_storage: true,
        num_replicas: 1,
        ..Default::default()
    };
    stream.create_consumer(config).await.map_err(LogError::read)
}
