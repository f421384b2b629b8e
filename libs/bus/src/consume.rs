//! Durable consumption: batches of deliveries, each of which must be answered.

use std::time::Duration;

use async_nats::jetstream::consumer::{PullConsumer, pull::Batch};
use async_nats::jetstream::{self, AckKind};
use bytes::Bytes;
use futures_util::StreamExt;
use protocol::subject::{LOG_STREAM, REASON_HEADER, RECORD_HEADER, dead_letter};

use crate::Bus;

/// From a request for messages, beyond its own wait, to each message and to its end.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Consumer {
    bus: Bus,
    consumer: PullConsumer,
    name: &'static str,
}

/// One message of the log, delivered until it is acknowledged.
pub struct Delivery {
    message: jetstream::Message,
    bus: Bus,
    consumer: &'static str,
    pub stream_seq: u64,
}

impl Consumer {
    /// A durable consumer of the log that has been declared before.
    ///
    /// # Errors
    /// When it does not exist or the server does not answer.
    pub async fn open(bus: &Bus, name: &'static str) -> Result<Self, async_nats::Error> {
        let consumer = bus.jetstream.get_consumer_from_stream(name, LOG_STREAM).await?;
        Ok(Self { bus: bus.clone(), consumer, name })
    }

    /// Up to `most` deliveries; waits up to `wait` for the first and returns with what is there.
    ///
    /// # Errors
    /// When the server does not answer. What was delivered meanwhile comes again.
    pub async fn fetch(&self, most: usize, wait: Duration) -> Result<Vec<Delivery>, async_nats::Error> {
        let deliveries = self.take(self.consumer.fetch().max_messages(most).messages().await?, Duration::ZERO).await?;
        if !deliveries.is_empty() {
            return Ok(deliveries);
        }
        // Nothing there: wait for one, then take what has come with it next time.
        self.take(self.consumer.batch().max_messages(1).expires(wait).messages().await?, wait).await
    }

    /// What a request brings. A server that dies, or a connection that breaks, forgets the request, and
    /// the client would wait for its end for ever.
    async fn take(&self, mut batch: Batch, wait: Duration) -> Result<Vec<Delivery>, async_nats::Error> {
        let mut deliveries = Vec::new();
        loop {
            match tokio::time::timeout(wait + ANSWER_PATIENCE, batch.next()).await {
                Ok(Some(Ok(message))) => deliveries.push(self.delivery(message)?),
                Ok(None) => return Ok(deliveries),
                // What has come is not left to wait for its redelivery.
                Ok(Some(Err(_))) | Err(_) if !deliveries.is_empty() => return Ok(deliveries),
                Ok(Some(Err(error))) => return Err(error),
                Err(_) => return Err("a request for messages was forgotten".into()),
            }
        }
    }

    fn delivery(&self, message: jetstream::Message) -> Result<Delivery, async_nats::Error> {
        let stream_seq = message.info()?.stream_sequence;
        Ok(Delivery { message, bus: self.bus.clone(), consumer: self.name, stream_seq })
    }
}

impl Delivery {
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.message.message.payload
    }

    #[must_use]
    pub fn subject(&self) -> &str {
        &self.message.message.subject
    }

    /// The `Auction-Record` header.
    #[must_use]
    pub fn record_type(&self) -> Option<&str> {
        self.message.message.headers.as_ref()?.get(RECORD_HEADER).map(async_nats::HeaderValue::as_str)
    }

    /// Done. Not confirmed by the server: a lost acknowledgement means that it comes again, and
    /// everything a consumer does may be repeated.
    pub async fn ack(self) {
        self.answer(AckKind::Ack).await;
    }

    /// Not now: deliver it again after `delay`.
    pub async fn retry_in(self, delay: Duration) {
        self.answer(AckKind::Nak(Some(delay))).await;
    }

    /// Never: it goes to the dead letters with the reason, and only then out of the way. The server
    /// gives no more than an advisory when deliveries run out, so the letter is written here.
    pub async fn park(self, reason: &str) {
        tracing::error!(consumer = self.consumer, stream_seq = self.stream_seq, reason, "parked in the dead letters");
        let mut headers = self.message.message.headers.clone().unwrap_or_default();
        headers.insert(REASON_HEADER, reason.replace(['\r', '\n'], " ").as_str());
        // The same letter twice is one: parking may be repeated.
        headers.insert("Nats-Msg-Id", format!("{}.{}", self.consumer, self.stream_seq).as_str());
        let sent =
            self.bus.jetstream.publish_with_headers(dead_letter(self.consumer), headers, self.payload().clone()).await;
        let stored = match sent {
            Ok(future) => future.await.map(|_| ()),
            Err(error) => Err(error),
        };
        match stored {
            Ok(()) => self.answer(AckKind::Term).await,
            Err(error) => {
                tracing::error!(%error, "the dead letters cannot be reached");
                self.retry_in(Duration::from_secs(5)).await;
            }
        }
    }

    async fn answer(self, kind: AckKind) {
        if let Err(error) = self.message.ack_with(kind).await {
            tracing::warn!(%error, consumer = self.consumer, "an acknowledgement could not be sent");
        }
    }
}
