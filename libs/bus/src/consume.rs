//! Durable consumption: batches of deliveries, each of which must be answered.

use std::time::Duration;

use async_nats::jetstream::consumer::{PullConsumer, pull::Batch};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_nats::jetstream::{self, AckKind};
use bytes::Bytes;
use errors::BoxError;
use futures_util::StreamExt;
use protocol::subject::{ALL_LOGS, LOG_STREAM, RECORD_HEADER};
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;

use crate::dead_letters::{self, DeadLetters};
use crate::{ApiError, Bus, api};

/// Time limit for each message of a batch and for its end, beyond the wait that the request asked for. An answer that
/// takes longer is lost.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// Time in which a fetch gathers what follows its first deliveries. Fetched one by one, the bids of a busy auction would
/// cost the server, and the consumer, more than it costs to decide them.
const GATHER: Duration = Duration::from_millis(100);

/// Interval between two measurements of a backlog: two small requests.
const MEASURE_EVERY: Duration = Duration::from_secs(2);

/// Delay before redelivery of a message whose dead letter could not be written.
const PARK_AGAIN: Duration = Duration::from_secs(5);

/// A durable consumer of the log. Instances that open the same one share its deliveries.
#[derive(Clone)]
pub struct Consumer {
    bus: Bus,
    consumer: PullConsumer,
    name: &'static str,
}

/// The work that a consumer has left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Backlog {
    /// Messages that it has not acknowledged, delivered or not.
    pub messages: u64,
    /// When the oldest of them was stored, in milliseconds since 1970. None if there is none.
    pub oldest_at: Option<u64>,
}

/// One message of the log, delivered again until it is answered by [`Delivery::ack`] or [`Delivery::park`].
pub struct Delivery {
    message: jetstream::Message,
    bus: Bus,
    consumer: &'static str,
    /// The message's sequence in the stream.
    pub stream_seq: u64,
    /// How often it was delivered, this time included.
    pub deliveries: u64,
}

impl Consumer {
    /// Opens a durable consumer of the log, which must have been declared.
    ///
    /// # Errors
    /// When it does not exist or the server does not answer.
    pub async fn open(bus: &Bus, name: &'static str) -> Result<Self, async_nats::Error> {
        let consumer = bus.jetstream.get_consumer_from_stream(name, LOG_STREAM).await?;
        Ok(Self { bus: bus.clone(), consumer, name })
    }

    /// Up to `most` deliveries. Waits up to `wait` for the first, then [`GATHER`] for those that follow it.
    ///
    /// # Errors
    /// When the server does not answer. Messages that were on their way are delivered again.
    pub async fn fetch(&self, most: usize, wait: Duration) -> Result<Vec<Delivery>, async_nats::Error> {
        let mut deliveries = self.fetch_stored(most).await?;
        if deliveries.is_empty() {
            deliveries = self.take(self.consumer.batch().max_messages(1).expires(wait).messages().await?, wait).await?;
        }
        if !deliveries.is_empty() && deliveries.len() < most {
            tokio::time::sleep(GATHER).await;
            match self.fetch_stored(most - deliveries.len()).await {
                Ok(further) => deliveries.extend(further),
                // Those that were received are used now; otherwise they would wait for their redelivery.
                Err(error) => {
                    tracing::debug!(consumer = self.name, error = %errors::chain(&*error), "failed to gather messages");
                }
            }
        }
        Ok(deliveries)
    }

    /// Up to `most` of the messages that are stored already.
    async fn fetch_stored(&self, most: usize) -> Result<Vec<Delivery>, async_nats::Error> {
        self.take(self.consumer.fetch().max_messages(most).messages().await?, Duration::ZERO).await
    }

    /// The deliveries of one request. A server that dies, or a broken connection, loses the request; without a time
    /// limit the client would wait for the end of the batch for ever.
    async fn take(&self, mut batch: Batch, wait: Duration) -> Result<Vec<Delivery>, async_nats::Error> {
        let mut deliveries = Vec::new();
        loop {
            match tokio::time::timeout(wait + ANSWER_PATIENCE, batch.next()).await {
                Ok(Some(Ok(message))) => deliveries.push(self.delivery(message)?),
                Ok(None) => return Ok(deliveries),
                // Received messages are used now; otherwise they would wait for their redelivery.
                Ok(Some(Err(_))) | Err(_) if !deliveries.is_empty() => return Ok(deliveries),
                Ok(Some(Err(error))) => return Err(error),
                Err(_) => return Err("the server did not finish the batch in time".into()),
            }
        }
    }

    /// Whether it exists, as far as the server says. True while the server does not answer: a leader may just be elected.
    pub async fn exists(&self) -> bool {
        api::exists(&self.bus.jetstream, &format!("CONSUMER.INFO.{LOG_STREAM}.{}", self.name)).await
    }

    async fn info(&self) -> Result<serde_json::Value, ApiError> {
        api::call(&self.bus.jetstream, &format!("CONSUMER.INFO.{LOG_STREAM}.{}", self.name), &json!({})).await
    }

    /// The work that it has left.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn backlog(&self) -> Result<Backlog, BoxError> {
        let info = self.info().await?;
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or_default();
        let messages = number(&info["num_pending"]) + number(&info["num_ack_pending"]);
        if messages == 0 {
            return Ok(Backlog::default());
        }
        let oldest = number(&info["ack_floor"]["stream_seq"]) + 1;
        let log = self.bus.jetstream.get_stream_no_info(LOG_STREAM).await?;
        let reading = log.get_first_raw_message_by_subject(ALL_LOGS, oldest);
        let oldest_at = match tokio::time::timeout(ANSWER_PATIENCE, reading).await? {
            Ok(message) => u64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).ok(),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Backlog { messages, oldest_at })
    }

    /// A task that measures the backlog every two seconds, and the newest measurement. None before the first, and
    /// after one that failed.
    pub fn watch_backlog(self) -> (impl Future<Output = ()> + Send, watch::Receiver<Option<Backlog>>) {
        let (sender, measured) = watch::channel(None);
        let measuring = async move {
            loop {
                match self.backlog().await {
                    Ok(backlog) => _ = sender.send_replace(Some(backlog)),
                    Err(error) => {
                        sender.send_replace(None);
                        tracing::debug!(consumer = self.name, error = %errors::chain(&*error), "failed to measure a backlog");
                    }
                }
                tokio::time::sleep(MEASURE_EVERY).await;
            }
        };
        (measuring, measured)
    }

    fn delivery(&self, message: jetstream::Message) -> Result<Delivery, async_nats::Error> {
        let info = message.info()?;
        let (stream_seq, deliveries) = (info.stream_sequence, info.delivered.unsigned_abs());
        Ok(Delivery { message, bus: self.bus.clone(), consumer: self.name, stream_seq, deliveries })
    }
}

impl Delivery {
    /// The message's body.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.message.message.payload
    }

    /// The subject the message was published on.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.message.message.subject
    }

    /// The `Auction-Record` header: the kind of record.
    #[must_use]
    pub fn record_type(&self) -> Option<&str> {
        self.message.message.headers.as_ref()?.get(RECORD_HEADER).map(async_nats::HeaderValue::as_str)
    }

    /// The append, if its trace is exported.
    #[must_use]
    pub fn trace(&self) -> traces::Context {
        crate::trace::extract(self.message.message.headers.as_ref())
    }

    /// Acknowledges the message. The server does not confirm it: if the acknowledgement is lost, the message is
    /// delivered again, so everything a consumer does must be repeatable.
    pub async fn ack(self) {
        self.answer(AckKind::Ack).await;
    }

    /// Asks for another delivery after `delay`.
    pub async fn retry_in(self, delay: Duration) {
        self.answer(AckKind::Nak(Some(delay))).await;
    }

    /// Writes the message to the dead letters with the reason, then ends its deliveries. The server sends no more than
    /// an advisory when deliveries run out, so the dead letter is written here. A delivery of headers alone is parked with
    /// the body that the log has.
    pub async fn park(self, reason: &str) {
        tracing::error!(
            consumer = self.consumer,
            stream_seq = self.stream_seq,
            reason,
            "parked a message in the dead letters"
        );
        match self.write_dead_letter(reason).await {
            Ok(()) => self.answer(AckKind::Term).await,
            Err(error) => {
                tracing::error!(error = %errors::chain(&*error), "failed to write a dead letter; will retry");
                self.retry_in(PARK_AGAIN).await;
            }
        }
    }

    async fn write_dead_letter(&self, reason: &str) -> Result<(), BoxError> {
        let letters = DeadLetters::open(&self.bus).await?;
        let payload = match self.payload() {
            payload if payload.is_empty() => {
                let log = self.bus.jetstream.get_stream_no_info(LOG_STREAM).await?;
                dead_letters::body(&log, self.stream_seq).await?
            }
            payload => payload.clone(),
        };
        // Headers for the server are left out: the stored record has the compare-and-set of its own append.
        let mut headers = async_nats::HeaderMap::new();
        for (name, values) in self.message.message.headers.iter().flat_map(async_nats::HeaderMap::iter) {
            if !AsRef::<str>::as_ref(name).starts_with("Nats-") {
                values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
            }
        }
        letters.store(self.consumer, self.stream_seq, reason, headers, payload).await
    }

    async fn answer(self, kind: AckKind) {
        if let Err(error) = self.message.ack_with(kind).await {
            tracing::warn!(error = %errors::chain(&*error), consumer = self.consumer, "failed to send an acknowledgement");
        }
    }
}
