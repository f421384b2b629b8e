//! Background requests with at-least-once delivery; callers do not wait.

use std::collections::HashSet;
use std::hash::Hash;
use std::time::Duration;

use protocol::Reply;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{Bus, request};

/// Messages that may wait for delivery. Further ones are dropped: the user's next appearance sends them again.
const QUEUE: usize = 10_000;
/// Delivered messages that are remembered. Deduplicates: a user's claims are sent once, not with every bid.
const MAX_REMEMBERED: usize = 50_000;
/// Time limit of one request. Far fewer messages arrive in this time than the queue holds.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after the first failed request. It doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause between two requests, so that delivery resumes soon after the receiver does.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Queues messages for delivery in the background. Clones share the queue.
pub struct BackgroundSender<M> {
    queue: mpsc::Sender<M>,
}

impl<M> Clone for BackgroundSender<M> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

impl<M: Serialize + Hash + Eq + Clone + Send + Sync + 'static> BackgroundSender<M> {
    /// The sender, and the task that delivers: each distinct message once, retried until the receiver confirms it.
    pub fn new(bus: Bus, subject: &'static str) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, mut messages) = mpsc::channel::<M>(QUEUE);
        let deliver = async move {
            let mut delivered = HashSet::new();
            while let Some(message) = messages.recv().await {
                if delivered.contains(&message) {
                    continue;
                }
                deliver(&bus, subject, &message).await;
                if delivered.len() >= MAX_REMEMBERED {
                    delivered.clear();
                }
                delivered.insert(message);
            }
            // Every sender was dropped: the service is stopping.
            std::future::pending::<()>().await;
        };
        (Self { queue }, deliver)
    }

    /// Queues a message, or drops it if the queue is full. Never waits.
    pub fn send(&self, message: M) {
        if self.queue.try_send(message).is_err() {
            tracing::debug!("dropped a background request: the queue is full");
        }
    }
}

/// Repeats a request until it is confirmed.
async fn deliver<M: Serialize>(bus: &Bus, subject: &'static str, message: &M) {
    let mut pause = FIRST_PAUSE;
    loop {
        match request::<M, Reply<()>>(bus, subject, message, TIMEOUT).await {
            Ok(Reply::Ok(())) => return,
            Ok(Reply::Failed(failure)) => {
                tracing::debug!(error = %errors::chain(&failure), subject, "background request rejected; will retry");
            }
            Err(error) => {
                tracing::debug!(error = %errors::chain(&error), subject, "background request failed; will retry");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
