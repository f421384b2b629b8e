//! An SQS queue: what was received and not deleted comes again, and after five times goes to the dead
//! letters (the queue's own redrive policy).

use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::DisplayErrorContext;

/// Long polling: as long as SQS lets one wait.
const RECEIVE_WAIT_SECONDS: i32 = 20;
/// Longer than all mails of one message take; what is not deleted by then comes again.
const VISIBILITY_SECONDS: i32 = 120;
/// What SQS gives at most.
const MAX_RECEIVED: i32 = 10;

#[derive(Debug, thiserror::Error)]
#[error("SQS did not do it: {0}")]
pub struct QueueError(String);

fn failed(error: &(impl std::error::Error + 'static)) -> QueueError {
    QueueError(DisplayErrorContext(error).to_string())
}

#[derive(Clone)]
pub struct Queue {
    client: Client,
    url: String,
}

/// A message, to be deleted or to come again.
#[derive(Debug, Clone)]
pub struct Received {
    pub body: String,
    handle: String,
}

impl Queue {
    #[must_use]
    pub fn new(config: &SdkConfig, url: &str) -> Self {
        Self { client: Client::new(config), url: url.to_owned() }
    }

    /// Whether the queue is there.
    pub async fn is_reachable(&self) -> bool {
        self.client.get_queue_attributes().queue_url(&self.url).send().await.is_ok()
    }

    /// # Errors
    /// When SQS does not confirm it: it may have been sent all the same.
    pub async fn send(&self, body: &str) -> Result<(), QueueError> {
        let sent = self.client.send_message().queue_url(&self.url).message_body(body).send().await;
        sent.map(|_| ()).map_err(|error| failed(&error))
    }

    /// Waits for messages, at most 20 s.
    ///
    /// # Errors
    /// When SQS does not answer.
    pub async fn receive(&self) -> Result<Vec<Received>, QueueError> {
        let received = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(MAX_RECEIVED)
            .wait_time_seconds(RECEIVE_WAIT_SECONDS)
            .visibility_timeout(VISIBILITY_SECONDS)
            // The wait is longer than any other call may take.
            .customize()
            .config_override(aws_sdk_sqs::config::Builder::new().timeout_config(crate::waiting_timeouts()))
            .send()
            .await
            .map_err(|error| failed(&error))?;
        let message = |message: aws_sdk_sqs::types::Message| {
            Some(Received { body: message.body.unwrap_or_default(), handle: message.receipt_handle? })
        };
        Ok(received.messages.unwrap_or_default().into_iter().filter_map(message).collect())
    }

    /// Done: it does not come again.
    ///
    /// # Errors
    /// When SQS does not confirm it: then it comes again.
    pub async fn delete(&self, received: &Received) -> Result<(), QueueError> {
        let deleted = self.client.delete_message().queue_url(&self.url).receipt_handle(&received.handle).send().await;
        deleted.map(|_| ()).map_err(|error| failed(&error))
    }

    /// Not done: it comes again after this, instead of after the usual time.
    ///
    /// # Errors
    /// When SQS does not confirm it.
    pub async fn retry_in(&self, received: &Received, seconds: i32) -> Result<(), QueueError> {
        let call = self.client.change_message_visibility().queue_url(&self.url).receipt_handle(&received.handle);
        call.visibility_timeout(seconds).send().await.map(|_| ()).map_err(|error| failed(&error))
    }
}
