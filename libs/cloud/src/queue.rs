//! An SQS queue: what was received and not deleted comes again, and after five times goes to the dead
//! letters (the queue's own redrive policy).

use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::DisplayErrorContext;

/// Long polling, but well below the time any call may take: a receive that is given up half-way may have
/// taken a message along, which nobody sees again until its visibility ends.
const RECEIVE_WAIT_SECONDS: i32 = 2;
const _: () = assert!(RECEIVE_WAIT_SECONDS.unsigned_abs() as u64 * 2 < crate::OPERATION_TIMEOUT.as_secs());
/// A message whose consumer dies is seen again after this. Whoever works longer says so, see
/// [`Queue::keep`].
pub const VISIBILITY_SECONDS: i32 = 30;

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

    /// The next message, if there is one within two seconds. One at a time: no other waits meanwhile with
    /// its time running.
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
            .send()
            .await
            .map_err(|error| failed(&error))?;
        let message = received.messages.unwrap_or_default().pop();
        Ok(message.and_then(|message| {
            Some(Received { body: message.body.unwrap_or_default(), handle: message.receipt_handle? })
        }))
    }

    /// Still at work: nobody else is to see it for [`VISIBILITY_SECONDS`] from now.
    ///
    /// # Errors
    /// When SQS does not confirm it: then it may come again meanwhile.
    pub async fn keep(&self, received: &Received) -> Result<(), QueueError> {
        self.retry_in(received, VISIBILITY_SECONDS).await
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
