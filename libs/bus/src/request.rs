//! Requests between services, and the NATS micro service that answers them.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_nats::client::{PublishError, RequestErrorKind};
use async_nats::service::endpoint::Endpoint;
use async_nats::service::error::Error;
use async_nats::service::{Service, ServiceExt};
use async_nats::{Client, HeaderMap, Message};
use bytes::Bytes;
use errors::BoxError;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use protocol::subject::AUTHORIZATION_HEADER;
use protocol::{MayFail, Reply, rights, subject};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, trace_span};

use crate::{Bus, trace};

/// Why a request has no answer, and whether it may have taken effect.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No instance received the request: it certainly took no effect.
    #[error("no instance of the service is running")]
    NoResponder,
    /// The request may have taken effect.
    #[error("no readable answer was received")]
    NoAnswer(#[source] BoxError),
}

/// Sends a request and waits for its answer, for at most `timeout`.
///
/// # Errors
/// Says whether the request may have taken effect.
pub async fn request<Q: Serialize, A: DeserializeOwned>(
    bus: &Bus,
    subject: impl Into<String>,
    question: &Q,
    timeout: Duration,
) -> Result<A, RequestError> {
    send(bus, subject.into(), question, None, timeout).await
}

/// As [`request`], for the person whose token this is. The receiver verifies it.
///
/// # Errors
/// As [`request`].
pub async fn request_for<Q: Serialize, A: DeserializeOwned>(
    bus: &Bus,
    subject: &'static str,
    question: &Q,
    token: &str,
    timeout: Duration,
) -> Result<A, RequestError> {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION_HEADER, format!("Bearer {token}"));
    send(bus, subject.to_owned(), question, Some(headers), timeout).await
}

async fn send<Q: Serialize, A: DeserializeOwned>(
    bus: &Bus,
    subject: String,
    question: &Q,
    mut headers: Option<HeaderMap>,
    timeout: Duration,
) -> Result<A, RequestError> {
    trace::inject(&mut headers);
    let payload = serde_json::to_vec(question).map_err(|error| RequestError::NoAnswer(error.into()))?;
    let mut request = async_nats::Request::new().payload(payload.into());
    if let Some(headers) = headers {
        request = request.headers(headers);
    }
    match bus.requests.send(subject, request, timeout).await {
        Ok(message) => serde_json::from_slice(&message.payload).map_err(|error| RequestError::NoAnswer(error.into())),
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Err(RequestError::NoResponder),
        Err(error) => Err(RequestError::NoAnswer(error.into())),
    }
}

/// Requests that wait to be sent; further ones wait for a place.
const WAITING_REQUESTS: usize = 1_024;

/// The requests of a connection. One task sends them all: those that become ready at the same moment, such as the bids
/// that arrived together, go to the server in one write. Sent by a task each, each would be a write, and a wake-up of the
/// server and of the receiver. Callers bound how many are in flight; one whose caller has gone stays until its reply or
/// its time limit.
#[derive(Clone)]
pub(crate) struct Requests(mpsc::Sender<Outgoing>);

struct Outgoing {
    subject: String,
    request: async_nats::Request,
    timeout: Duration,
    reply: oneshot::Sender<Result<Message, async_nats::RequestError>>,
}

impl Requests {
    /// Starts the task, which ends with the last handle.
    pub(crate) fn start(client: Client) -> Self {
        let (sender, waiting) = mpsc::channel(WAITING_REQUESTS);
        tokio::spawn(send_requests(client, waiting));
        Self(sender)
    }

    async fn send(
        &self,
        subject: String,
        request: async_nats::Request,
        timeout: Duration,
    ) -> Result<Message, async_nats::RequestError> {
        let (reply, replied) = oneshot::channel();
        let sent = self.0.send(Outgoing { subject, request, timeout, reply }).await;
        sent.map_err(|error| async_nats::RequestError::with_source(RequestErrorKind::Other, error.to_string()))?;
        replied.await.map_err(|error| async_nats::RequestError::with_source(RequestErrorKind::Other, error))?
    }
}

async fn send_requests(client: Client, mut waiting: mpsc::Receiver<Outgoing>) {
    let mut in_flight = FuturesUnordered::new();
    loop {
        let mut next = tokio::select! {
            Some(()) = in_flight.next() => continue,
            next = waiting.recv() => next,
        };
        // Lets the tasks that are ready now add their requests.
        tokio::task::yield_now().await;
        if next.is_none() {
            return in_flight.collect().await;
        }
        while let Some(Outgoing { subject, request, timeout, reply }) = next {
            // The client's own limit begins once its queue has taken the request. While the server is away, the queue
            // may be full.
            let asking = tokio::time::timeout(timeout, client.send_request(subject, request.timeout(None)));
            in_flight.push(async move {
                let replied = asking.await.unwrap_or_else(|late| {
                    Err(async_nats::RequestError::with_source(RequestErrorKind::TimedOut, late))
                });
                // Fails if the caller no longer waits.
                drop(reply.send(replied));
            });
            next = waiting.try_recv().ok();
        }
    }
}

/// Time in which the instances of a service reply to a question for their statistics.
const STATISTICS_WITHIN: Duration = Duration::from_millis(500);

/// The status, as in [`About`], of every instance of a service that answers.
///
/// # Errors
/// When the question cannot be sent.
pub async fn statuses(bus: &Bus, service: &str) -> Result<Vec<Value>, RequestError> {
    let unanswered = |error: BoxError| RequestError::NoAnswer(error);
    let inbox = bus.client.new_inbox();
    let mut replies = bus.client.subscribe(inbox.clone()).await.map_err(|error| unanswered(error.into()))?;
    let asked = bus.client.publish_with_reply(format!("$SRV.STATS.{service}"), inbox, Bytes::new()).await;
    asked.map_err(|error| unanswered(error.into()))?;
    let until = tokio::time::Instant::now() + STATISTICS_WITHIN;
    let mut found = Vec::new();
    while let Ok(Some(reply)) = tokio::time::timeout_at(until, replies.next()).await {
        // Without an instance the server replies, without a body.
        if let Ok(mut statistics) = serde_json::from_slice::<Value>(&reply.payload) {
            found.push(statistics["endpoints"][0]["data"].take());
        }
    }
    Ok(found)
}

/// Requests of one subject that are worked on at once. Further ones wait in the subscription.
const CONCURRENT_REQUESTS: usize = 4096;
/// Time limit for the requests in flight when stopping. It leaves time for the flush within the service's drain.
const FINISH_TIMEOUT: Duration = Duration::from_secs(4);
/// Time limit for the last flush when stopping.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The description of a service for `nats micro info` and `nats micro stats`.
pub struct About {
    /// Its name, which is also the queue group of its requests.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Its purpose, in one line.
    pub description: &'static str,
    /// The state of this instance, as numbers. Must not wait.
    pub status: Arc<dyn Fn() -> Value + Send + Sync>,
}

/// This process in `nats micro ls`, and its endpoints. Instances share the requests through a queue group.
pub struct Micro {
    service: Service,
    bus: Bus,
    name: &'static str,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Micro {
    /// Registers the process as an instance of a service, with one endpoint: `status.<name>` answers what an instance
    /// knows about itself, which the statistics of every endpoint hold as well. Other endpoints are added by
    /// [`Micro::serve`].
    ///
    /// # Errors
    /// When the server rejects the registration.
    pub async fn start(bus: &Bus, about: About, stop: CancellationToken) -> Result<Self, async_nats::Error> {
        let About { name, version, description, status } = about;
        let for_stats = Arc::clone(&status);
        let metadata = HashMap::from([("connection".to_owned(), bus.name().to_owned())]);
        let service = bus
            .client
            .service_builder()
            .description(description)
            .metadata(metadata)
            .stats_handler(move |_, _| for_stats())
            .queue_group(name)
            .start(name, version)
            .await?;
        let micro = Self { service, bus: bus.clone(), name, tasks: TaskTracker::new(), stop };
        let endpoint = micro.service.endpoint_builder().name("status").queue_group(name);
        let endpoint = endpoint.add(subject::status(name)).await?;
        let answer = move |_: Bytes, _| std::future::ready(Reply::Ok(status()));
        micro.tasks.spawn(answer_requests(endpoint, bus.clone(), answer, micro.stop.clone()));
        Ok(micro)
    }

    /// Answers requests on `subject` with `work`. An unreadable request is answered by `unreadable`.
    ///
    /// Requests are started in the order of their arrival, each up to its first wait, and finish in any order: of two
    /// equal bids the first to arrive is the first to be decided.
    ///
    /// # Errors
    /// When the subscription cannot be created.
    pub async fn serve<Q, A, F, W>(
        &self,
        subject: impl Into<String>,
        unreadable: fn(&str) -> A,
        work: W,
    ) -> Result<(), async_nats::Error>
    where
        Q: DeserializeOwned + Send + 'static,
        A: Serialize + MayFail + Send + 'static,
        F: Future<Output = A> + Send + 'static,
        W: Fn(Q) -> F + Send + Sync + 'static,
    {
        self.serve_for(subject, unreadable, move |question, _| work(question)).await
    }

    /// As [`Micro::serve`], for requests that a service sends for a person. `work` also gets the value of
    /// [`AUTHORIZATION_HEADER`], if there is one, and verifies it.
    ///
    /// # Errors
    /// As [`Micro::serve`].
    pub async fn serve_for<Q, A, F, W>(
        &self,
        subject: impl Into<String>,
        unreadable: fn(&str) -> A,
        work: W,
    ) -> Result<(), async_nats::Error>
    where
        Q: DeserializeOwned + Send + 'static,
        A: Serialize + MayFail + Send + 'static,
        F: Future<Output = A> + Send + 'static,
        W: Fn(Q, Option<String>) -> F + Send + Sync + 'static,
    {
        let subject: String = subject.into();
        let name = subject.replace('.', "-");
        let endpoint = self.service.endpoint_builder().name(name).queue_group(self.name).add(subject).await?;
        let work = Arc::new(work);
        let answer = move |payload: Bytes, authorization: Option<String>| {
            let work = Arc::clone(&work);
            async move {
                match serde_json::from_slice(&payload) {
                    Ok(question) => work(question, authorization).await,
                    Err(error) => unreadable(&error.to_string()),
                }
            }
        };
        self.tasks.spawn(answer_requests(endpoint, self.bus.clone(), answer, self.stop.clone()));
        Ok(())
    }

    /// Stops taking requests, finishes those in flight, flushes what is buffered, and deregisters. Dropping the
    /// registration would not stop it.
    pub async fn finish(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(FINISH_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!(service = self.name, endpoints = self.tasks.len(), "stopped with requests in flight");
        }
        if let Err(error) = self.service.stop().await {
            tracing::debug!(error = %errors::chain(&*error), "failed to deregister the NATS service");
        }
        if tokio::time::timeout(FLUSH_TIMEOUT, self.bus.client.flush()).await.is_err() {
            tracing::warn!("failed to flush the NATS connection in time");
        }
    }
}

/// Answers the requests of one endpoint until the stop, then those in flight.
///
/// One task drives them all: answers that are ready at the same moment, such as those to the bids of one script call, go
/// to the server in one write. A task for each would write for each.
async fn answer_requests<A, F>(
    mut endpoint: Endpoint,
    bus: Bus,
    answer: impl Fn(Bytes, Option<String>) -> F,
    stop: CancellationToken,
) where
    A: Serialize + MayFail + Send + 'static,
    F: Future<Output = A> + Send + 'static,
{
    let mut in_flight = FuturesUnordered::new();
    loop {
        let request = tokio::select! {
            () = stop.cancelled() => break,
            Some(()) = in_flight.next() => continue,
            request = endpoint.next(), if in_flight.len() < CONCURRENT_REQUESTS => request,
        };
        let Some(request) = request else { break };
        // A stream may republish to this subject, and a consumer may deliver to it: such a message is no request, and its
        // reply is no inbox.
        if !request.message.reply.as_ref().is_some_and(|reply| rights::is_inbox(reply)) {
            tracing::debug!(subject = %request.message.subject, "dropped a message whose reply is no inbox");
            continue;
        }
        let headers = request.message.headers.as_ref();
        let authorization = headers.and_then(|headers| headers.get(AUTHORIZATION_HEADER)).map(ToString::to_string);
        let subject = &request.message.subject;
        let span = trace::extract(headers)
            .continued(|| trace_span!(target: traces::TARGET, "answer", otel.name = %subject, otel.kind = "server"));
        let answering = answer(request.message.payload.clone(), authorization).instrument(span);
        let bus = &bus;
        let mut answered = Box::pin(async move {
            // A panic costs one request its answer, not all later ones theirs.
            let Ok(answer) = AssertUnwindSafe(answering).catch_unwind().await else {
                return tracing::error!("a request has no answer: the code that answers it panicked");
            };
            if let Err(error) = respond(bus, request, answer).await {
                tracing::warn!(error = %errors::chain(&error), "failed to send an answer");
            }
        });
        if futures_util::poll!(&mut answered).is_pending() {
            in_flight.push(answered);
        }
    }
    let (stopped, ()) = tokio::join!(endpoint.stop(), in_flight.collect::<()>());
    if let Err(error) = stopped {
        tracing::debug!(error = %errors::chain(&error), "failed to stop a NATS endpoint");
    }
}

/// Sends an answer, and counts it as an error of the endpoint if it is a failure.
async fn respond<A: Serialize + MayFail>(
    bus: &Bus,
    mut request: async_nats::service::Request,
    answer: A,
) -> Result<(), PublishError> {
    let payload = Bytes::from(serde_json::to_vec(&answer).unwrap_or_default());
    let Some(code) = answer.failed_with() else { return request.respond(Ok(payload)).await };
    let Some(reply) = request.message.reply.take() else { return Ok(()) };
    bus.client.publish(reply.clone(), payload).await?;
    // The client counts only errors that it sends itself, and these have no body. It sends one to a subject below the
    // reply's: nothing reads it there, and the service may publish it.
    request.message.reply = Some(format!("{reply}.counted").into());
    request.respond(Err(Error { status: code.name().to_owned(), code: usize::from(code.status().as_u16()) })).await
}
