//! An SQS queue. A message that was received and not deleted is delivered again; after five receives the queue's
//! redrive policy moves it to the dead letters.

use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::MessageSystemAttributeName;
use errors::BoxError;

/// Wait of one receive: long polling, but well below the time limit of a call. A receive that is abandoned half-way may
/// have taken a message, which stays hidden until its visibility timeout.
const RECEIVE_WAIT_SECONDS: i32 = 2;
const _: () = assert!(RECEIVE_WAIT_SECONDS.unsigned_abs() as u64 * 2 < crate::OPERATION_TIMEOUT.as_secs());
/// Seconds for which a received message is hidden from other consumers. A message whose consumer dies is delivered
/// again after this. Longer work extends it by [`Queue::keep`].
pub const VISIBILITY_SECONDS: i32 = 30;

/// Why a request to SQS failed.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// SQS never takes this message: it holds a forbidden character or is too large.
    #[error("SQS rejected the message")]
    Rejected(#[source] BoxError),
    /// SQS did not answer, or answered with an error.
    #[error("SQS request failed")]
    Failed(#[source] BoxError),
}

fn failed(error: impl Into<BoxError>) -> QueueError {
    QueueError::Failed(error.into())
}

/// Codes with which SQS refuses a message for what it holds.
const REJECTIONS: [&str; 2] = ["InvalidMessageContents", "InvalidParameterValue"];

/// One queue. A cheap handle; clones share the client.
#[derive(Clone)]
pub struct Queue {
    client: Client,
    url: String,
}

/// A received message. It is delivered again unless it is deleted.
#[derive(Debug, Clone)]
pub struct Received {
    /// The message's text.
    pub body: String,
    /// How often the message was received, this time included.
    pub receives: u32,
    handle: String,
}

impl Queue {
    /// A client for the queue at `url`. Sends nothing.
    #[must_use]
    pub fn new(config: &SdkConfig, url: &str) -> Self {
        Self { client: Client::new(config), url: url.to_owned() }
    }

    /// Whether SQS answers for the queue.
    pub async fn is_reachable(&self) -> bool {
        self.client.get_queue_attributes().queue_url(&self.url).send().await.is_ok()
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When SQS does not confirm it: unless it rejected it, it may still have been sent.
    pub async fn send(&self, body: &str) -> Result<(), QueueError> {
        self.send_in(body, 0).await
    }

    /// Sends a message that is delivered after this many seconds, at most 900.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_in(&self, body: &str, seconds: i32) -> Result<(), QueueError> {
        let call = self.client.send_message().queue_url(&self.url).message_body(body).delay_seconds(seconds);
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) if error.code().is_some_and(|code| REJECTIONS.contains(&code)) => {
                Err(QueueError::Rejected(error.into()))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// The next message, if one arrives within two seconds. Messages are taken one at a time; the visibility of further
    /// ones would run out while they wait.
    ///
    /// # Errors
    /// When SQS does not answer.
    pub async fn receive(&self) -> Result<Option<Received>, QueueError> {
        let received = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(1)
            .wait_time_seconds(RECEIVE_WAIT_SECONDS)
            .visibility_timeout(VISIBILITY_SECONDS)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .send()
            .await
            .map_err(failed)?;
        let message = received.messages.unwrap_or_default().pop();
        Ok(message.and_then(|message| {
            let attributes = message.attributes.unwrap_or_default();
            let receives = attributes.get(&MessageSystemAttributeName::ApproximateReceiveCount);
            let receives = receives.and_then(|count| count.parse().ok()).unwrap_or(1);
            Some(Received { body: message.body.unwrap_or_default(), receives, handle: message.receipt_handle? })
        }))
    }

    /// Hides the message for [`VISIBILITY_SECONDS`] from now, while work on it continues.
    ///
    /// # Errors
    /// When SQS does not confirm it: the message may be delivered again during the work.
    pub async fn keep(&self, received: &Received) -> Result<(), QueueError> {
        self.retry_in(received, VISIBILITY_SECONDS).await
    }

    /// Deletes the message after its work is done.
    ///
    /// # Errors
    /// When SQS does not confirm it: the message may be delivered again.
    pub async fn delete(&self, received: &Received) -> Result<(), QueueError> {
        let deleted = self.client.delete_message().queue_url(&self.url).receipt_handle(&received.handle).send().await;
        deleted.map(drop).map_err(failed)
    }

    /// Releases the message: it is delivered again after this many seconds.
    ///
    /// # Errors
    /// When SQS does not confirm it: the message is delivered again after its visibility timeout.
    pub async fn retry_in(&self, received: &Received, seconds: i32) -> Result<(), QueueError> {
        let call = self.client.change_message_visibility().queue_url(&self.url).receipt_handle(&received.handle);
        call.visibility_timeout(seconds).send().await.map(drop).map_err(failed)
    }
}
