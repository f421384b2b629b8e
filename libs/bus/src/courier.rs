//! Requests that must arrive some time, and for which nobody waits.

use std::collections::HashSet;
use std::hash::Hash;
use std::time::Duration;

use protocol::Reply;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{Bus, request};

/// What may wait to be delivered; more is dropped, because it comes again with the next appearance.
const QUEUE: usize = 10_000;
/// Remembered as delivered, so that each bid of a person does not tell of the person again.
const MAX_REMEMBERED: usize = 50_000;
const TIMEOUT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Hands messages over to be delivered in the background.
pub struct BackgroundSender<M> {
    queue: mpsc::Sender<M>,
}

impl<M> Clone for BackgroundSender<M> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

impl<M: Serialize + Hash + Eq + Clone + Send + Sync + 'static> BackgroundSender<M> {
    /// The courier, and the task that delivers: each distinct message once, repeated until the answer
    /// says that it worked.
    pub fn new(bus: Bus, subject: &'static str) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, mut messages) = mpsc::channel::<M>(QUEUE);
        let deliver = async move {
            let mut delivered = HashSet::new();
            while let Some(message) = messages.recv().await {
                if delivered.contains(&message) {
                    continue;
                }
                let mut pause = FIRST_PAUSE;
                loop {
                    match request::<M, Reply<()>>(&bus, subject, &message, TIMEOUT).await {
                        Ok(Reply::Ok(())) => break,
                        Ok(Reply::Failed(error)) => tracing::debug!(%error, subject, "not delivered yet"),
                        Err(error) => tracing::debug!(%error, subject, "not delivered yet"),
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
                if delivered.len() >= MAX_REMEMBERED {
                    delivered.clear();
                }
                delivered.insert(message);
            }
            // The last sender is gone: the service is stopping.
            std::future::pending::<()>().await;
        };
        (Self { queue }, deliver)
    }

    /// Never waits.
    pub fn send(&self, message: M) {
        if self.queue.try_send(message).is_err() {
            tracing::debug!("the queue of announcements is full");
        }
    }
}
