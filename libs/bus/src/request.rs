//! Requests between services, and the NATS micro service that answers them.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::service::{Service, ServiceExt};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Bus;

#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nobody was there to hear it: certainly not done.
    #[error("no instance of the service is running")]
    NobodyThere,
    /// Done or not.
    #[error("no answer came: {0}")]
    NoAnswer(String),
}

/// Asks and waits for the answer.
///
/// # Errors
/// Says whether the request may have taken effect.
pub async fn request<Q: Serialize, A: DeserializeOwned>(
    bus: &Bus,
    subject: &'static str,
    question: &Q,
    timeout: Duration,
) -> Result<A, RequestError> {
    let payload = serde_json::to_vec(question).map_err(|error| RequestError::NoAnswer(error.to_string()))?;
    let request = async_nats::Request::new().payload(payload.into()).timeout(Some(timeout));
    match bus.client.send_request(subject, request).await {
        Ok(message) => serde_json::from_slice(&message.payload)
            .map_err(|error| RequestError::NoAnswer(format!("the answer cannot be read: {error}"))),
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Err(RequestError::NobodyThere),
        Err(error) => Err(RequestError::NoAnswer(error.to_string())),
    }
}

/// Requests of one subject that are worked on at once; more wait in the subscription.
const CONCURRENT_REQUESTS: usize = 4096;
/// What is in flight when stopping gets this long to finish.
const FINISH_TIMEOUT: Duration = Duration::from_secs(4);

/// This process in `nats micro ls`, and its endpoints. Instances share the work by queue group.
pub struct Micro {
    service: Service,
    bus: Bus,
    name: &'static str,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Micro {
    /// # Errors
    /// When the server refuses the registration.
    pub async fn start(
        bus: &Bus,
        name: &'static str,
        version: &str,
        stop: CancellationToken,
    ) -> Result<Self, async_nats::Error> {
        let service = bus.client.service_builder().queue_group(name).start(name, version).await?;
        Ok(Self { service, bus: bus.clone(), name, tasks: TaskTracker::new(), stop })
    }

    /// Answers requests on `subject`. A request that cannot be read is answered by `unreadable`.
    ///
    /// Each piece of work is begun in the order in which the requests came, up to its first wait, and
    /// finished in any: of two equal bids the first to arrive is the first to be decided.
    ///
    /// # Errors
    /// When the subscription cannot be made.
    pub async fn serve<Q, A, F, W>(
        &self,
        subject: &'static str,
        unreadable: fn(&str) -> A,
        work: W,
    ) -> Result<(), async_nats::Error>
    where
        Q: DeserializeOwned + Send + 'static,
        A: Serialize + Send + 'static,
        F: Future<Output = A> + Send + 'static,
        W: Fn(Q) -> F + Send + Sync + 'static,
    {
        let name = subject.replace('.', "-");
        let mut endpoint = self.service.endpoint_builder().name(name).queue_group(self.name).add(subject).await?;
        let (tasks, stop) = (self.tasks.clone(), self.stop.clone());
        let permits = Arc::new(Semaphore::new(CONCURRENT_REQUESTS));
        let work = Arc::new(work);
        self.tasks.spawn(async move {
            loop {
                let request = tokio::select! {
                    () = stop.cancelled() => break,
                    request = endpoint.next() => request,
                };
                let Some(request) = request else { break };
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
                let question = serde_json::from_slice(&request.message.payload);
                let work = Arc::clone(&work);
                let mut answering = Box::pin(async move {
                    match question {
                        Ok(question) => work(question).await,
                        Err(error) => unreadable(&error.to_string()),
                    }
                });
                let begun = futures_util::poll!(&mut answering);
                tasks.spawn(async move {
                    let answer = match begun {
                        Poll::Ready(answer) => answer,
                        Poll::Pending => answering.await,
                    };
                    let payload = serde_json::to_vec(&answer).unwrap_or_default();
                    if let Err(error) = request.respond(Ok(Bytes::from(payload))).await {
                        tracing::warn!(%error, "an answer could not be sent");
                    }
                    drop(permit);
                });
            }
            if let Err(error) = endpoint.stop().await {
                tracing::debug!(%error, "an endpoint could not be stopped");
            }
        });
        Ok(())
    }

    /// Takes no more requests, finishes those in flight, sends what is buffered, and leaves. Dropping
    /// the registration would not stop it.
    pub async fn finish(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(FINISH_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!(service = self.name, left = self.tasks.len(), "requests were still in flight");
        }
        if let Err(error) = self.service.stop().await {
            tracing::debug!(%error, "the registration could not be stopped");
        }
        if tokio::time::timeout(Duration::from_secs(1), self.bus.client.flush()).await.is_err() {
            tracing::warn!("NATS took no more bytes");
        }
    }
}
