//! The dead letters of an SQS queue, for operators: list them, and send them to the queue again.

use std::collections::HashSet;

use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName, QueueAttributeName};
use errors::BoxError;

use crate::QueueError;

/// Seconds for which a letter that is looked at is hidden from others who look. It is released afterwards.
const LOOK_SECONDS: i32 = 30;
/// Letters of one receive: the most that SQS returns.
const RECEIVE_LETTERS: i32 = 10;
/// Receives of one command: it looks at ten thousand letters at most.
const MAX_RECEIVES: u32 = 1_000;
/// Receives in a row that return no new letter, after which there are none. SQS asks a part of its servers only.
const MAX_EMPTY_RECEIVES: u32 = 3;

/// A message that was received as often as the queue allows and not deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedLetter {
    /// The message's id.
    pub id: String,
    /// When it was sent to the queue, in milliseconds since 1970.
    pub sent_at: Option<u64>,
    /// How often it was received, also by commands that looked at it.
    pub receives: u32,
    /// The message's text.
    pub body: String,
    handle: String,
}

/// The queue of the dead letters of another queue.
#[derive(Clone)]
pub struct QueueDeadLetters {
    client: Client,
    queue: String,
    letters: String,
}

fn failed(error: impl Into<BoxError>) -> QueueError {
    QueueError::Failed(error.into())
}

impl QueueDeadLetters {
    /// Finds the dead letters of the queue at `url` by its redrive policy.
    ///
    /// # Errors
    /// When SQS does not answer, or the queue has no redrive policy.
    pub async fn of(config: &SdkConfig, url: &str) -> Result<Self, QueueError> {
        let client = Client::new(config);
        let policy = QueueAttributeName::RedrivePolicy;
        let asked = client.get_queue_attributes().queue_url(url).attribute_names(policy.clone()).send();
        let attributes = asked.await.map_err(failed)?.attributes.unwrap_or_default();
        let policy: serde_json::Value = match attributes.get(&policy) {
            Some(text) => serde_json::from_str(text).map_err(failed)?,
            None => return Err(failed("the queue has no redrive policy")),
        };
        let arn = policy["deadLetterTargetArn"].as_str().ok_or_else(|| failed("the redrive policy names no queue"))?;
        let name = arn.rsplit(':').next().unwrap_or(arn);
        let found = client.get_queue_url().queue_name(name).send().await.map_err(failed)?;
        let letters = found.queue_url.ok_or_else(|| failed("the queue of the dead letters has no address"))?;
        Ok(Self { client, queue: url.to_owned(), letters })
    }

    /// Receives letters, at most this many, and sorts them by their age, oldest first. SQS returns them in any order. Those that `wanted` does not want are released again, the others are hidden
    /// for [`LOOK_SECONDS`].
    ///
    /// # Errors
    /// When SQS does not answer.
    pub async fn receive(
        &self,
        limit: usize,
        wanted: impl Fn(&QueuedLetter) -> bool,
    ) -> Result<Vec<QueuedLetter>, QueueError> {
        let (mut seen, mut found, mut others) = (HashSet::new(), Vec::<QueuedLetter>::new(), Vec::new());
        let (mut empty, mut receives) = (0, 0);
        while found.len() < limit && empty < MAX_EMPTY_RECEIVES && receives < MAX_RECEIVES {
            receives += 1;
            let received = self
                .client
                .receive_message()
                .queue_url(&self.letters)
                .max_number_of_messages(RECEIVE_LETTERS)
                .visibility_timeout(LOOK_SECONDS)
                .message_system_attribute_names(MessageSystemAttributeName::All)
                .send()
                .await
                .map_err(failed)?;
            let new: Vec<QueuedLetter> = received.messages.unwrap_or_default().into_iter().filter_map(read).collect();
            let mut has_new = false;
            for letter in new {
                let is_new = seen.insert(letter.id.clone());
                has_new |= is_new;
                if !is_new {
                    // Received again: only its newest handle is valid.
                    if let Some(known) = found.iter_mut().chain(&mut others).find(|known| known.id == letter.id) {
                        *known = letter;
                    }
                } else if found.len() < limit && wanted(&letter) {
                    found.push(letter);
                } else {
                    others.push(letter);
                }
            }
            empty = if has_new { 0 } else { empty + 1 };
        }
        for other in others {
            self.release(&other).await?;
        }
        found.sort_by_key(|letter| letter.sent_at);
        Ok(found)
    }

    /// Makes a letter visible to others again.
    ///
    /// # Errors
    /// When SQS does not confirm it: it is visible again after [`LOOK_SECONDS`].
    pub async fn release(&self, letter: &QueuedLetter) -> Result<(), QueueError> {
        let call = self.client.change_message_visibility().queue_url(&self.letters).receipt_handle(&letter.handle);
        call.visibility_timeout(0).send().await.map(drop).map_err(failed)
    }

    /// Sends a letter to its queue again and deletes it. If it breaks off in between, the letter is in both: its mails
    /// are claimed in PostgreSQL, so that none is sent twice.
    ///
    /// # Errors
    /// When SQS does not confirm it. Repeatable.
    pub async fn redrive(&self, letter: &QueuedLetter) -> Result<(), QueueError> {
        let sent = self.client.send_message().queue_url(&self.queue).message_body(&letter.body).send().await;
        sent.map_err(failed)?;
        let deleted = self.client.delete_message().queue_url(&self.letters).receipt_handle(&letter.handle).send().await;
        deleted.map(drop).map_err(failed)
    }
}

fn read(message: Message) -> Option<QueuedLetter> {
    let attributes = message.attributes.unwrap_or_default();
    let number = |name| attributes.get(&name).and_then(|text| text.parse::<u64>().ok());
    let receives = number(MessageSystemAttributeName::ApproximateReceiveCount).unwrap_or(1);
    Some(QueuedLetter {
        id: message.message_id?,
        sent_at: number(MessageSystemAttributeName::SentTimestamp),
        receives: u32::try_from(receives).unwrap_or(u32::MAX),
        body: message.body.unwrap_or_default(),
        handle: message.receipt_handle?,
    })
}
