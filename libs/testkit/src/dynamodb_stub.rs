//! A proxy in front of the AWS emulator that fails as DynamoDB can and the emulator never does: it leaves items of
//! a batch unprocessed, throttles, and fails after it has written. It speaks DynamoDB's wire format (JSON 1.0),
//! rejects batches that DynamoDB rejects and the emulator accepts, and forwards everything else.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use warp::Filter;
use warp::http::{HeaderMap, Request, StatusCode};

use crate::http::Caller;

const BATCH_WRITE: &str = "DynamoDB_20120810.BatchWriteItem";
/// Items of one batch that DynamoDB accepts. Deliberately not the constant of the code under test.
const MAX_BATCH_ITEMS: usize = 25;

/// The answer to a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The batch is forwarded.
    Pass,
    /// Only this number of items is written; the others come back as `UnprocessedItems`.
    Part(usize),
    /// Nothing is written and the answer is `ProvisionedThroughputExceededException`. If an auction is named, only
    /// batches with items of that auction are throttled.
    Throttle(Option<String>),
    /// The batch is written and the answer is `InternalServerError`.
    FailAfterwards,
}

/// Numbers of batches by what was done with them.
#[derive(Debug, Default)]
pub struct Done {
    /// Batches that were written in part.
    pub parts: AtomicU64,
    /// Batches that were throttled.
    pub throttled: AtomicU64,
    /// Batches that were written and answered as failed.
    pub failed: AtomicU64,
    /// Batches that DynamoDB would have rejected: more than 25 items, or one key twice.
    pub refused: AtomicU64,
}

struct Shared {
    emulator: String,
    caller: Caller,
    answer: Mutex<Answer>,
    done: Done,
}

/// A running stub. Dropping it stops it.
pub struct DynamoDbStub {
    /// The `AWS_ENDPOINT_URL` for services that use it.
    pub endpoint: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

type Reply = (u16, Value);

impl DynamoDbStub {
    /// Starts a stub in front of this emulator that forwards everything at first.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(emulator: &str) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let (emulator, caller) = (emulator.to_owned(), Caller::new());
        let shared = Arc::new(Shared { emulator, caller, answer: Mutex::new(Answer::Pass), done: Done::default() });
        let handler = Arc::clone(&shared);
        let route = warp::post().and(warp::header::headers_cloned()).and(warp::body::bytes());
        let route = route.then(move |headers: HeaderMap, body| {
            let shared = Arc::clone(&handler);
            async move {
                let answered = shared.answer(&headers, body).await;
                let (status, body) = answered.unwrap_or_else(|error| (502, json!({"message": format!("{error:#}")})));
                warp::reply::with_status(
                    warp::reply::json(&body),
                    StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY),
                )
            }
        });
        let server = tokio::spawn(warp::serve(route).incoming(listener).run());
        Ok(Self { endpoint, shared, server })
    }

    /// Sets the answer to all batches from now on.
    pub fn answer(&self, answer: Answer) {
        *self.shared.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// Numbers of batches so far.
    #[must_use]
    pub fn done(&self) -> &Done {
        &self.shared.done
    }
}

impl Drop for DynamoDbStub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    async fn answer(&self, headers: &HeaderMap, body: Bytes) -> Result<Reply> {
        let forward = |body: Bytes| self.forward(headers, body);
        if headers.get("x-amz-target").is_none_or(|target| target != BATCH_WRITE) {
            return forward(body).await;
        }
        let mut request: Value = serde_json::from_slice(&body)?;
        let items = request["RequestItems"].as_object_mut().and_then(|tables| tables.values_mut().next());
        let items = items.and_then(Value::as_array_mut).context("RequestItems of one table")?;
        let key = |item: &Value| {
            let item = &item["PutRequest"]["Item"];
            (item["auction_id"]["S"].to_string(), item["seq"]["N"].to_string())
        };
        if items.len() > MAX_BATCH_ITEMS || items.iter().map(key).collect::<HashSet<_>>().len() < items.len() {
            self.done.refused.fetch_add(1, Ordering::Relaxed);
            return Ok(refusal(400, "com.amazon.coral.validate#ValidationException"));
        }
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let throttled = |auction_id: &String| {
            items.iter().any(|item| item["PutRequest"]["Item"]["auction_id"]["S"] == **auction_id)
        };
        match answer {
            Answer::Part(most) if items.len() > most => {
                let left = items.split_off(most);
                let table = request["RequestItems"].as_object().and_then(|tables| tables.keys().next().cloned());
                let (status, mut reply) = forward(request.to_string().into()).await?;
                if status == 200 {
                    self.done.parts.fetch_add(1, Ordering::Relaxed);
                    reply["UnprocessedItems"] = json!({table.context("a table")?: left});
                }
                Ok((status, reply))
            }
            Answer::Throttle(only) if only.as_ref().is_none_or(throttled) => {
                self.done.throttled.fetch_add(1, Ordering::Relaxed);
                Ok(refusal(400, "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"))
            }
            Answer::FailAfterwards => {
                forward(body).await?;
                self.done.failed.fetch_add(1, Ordering::Relaxed);
                Ok(refusal(500, "com.amazonaws.dynamodb.v20120810#InternalServerError"))
            }
            Answer::Pass | Answer::Part(_) | Answer::Throttle(_) => forward(body).await,
        }
    }

    async fn forward(&self, headers: &HeaderMap, body: Bytes) -> Result<Reply> {
        let mut request = Request::post(&self.emulator);
        // The emulator reads the name of the service from the signature, and does not verify it.
        for name in ["authorization", "content-type", "x-amz-target"] {
            if let Some(value) = headers.get(name) {
                request = request.header(name, value);
            }
        }
        let reply = self.caller.send(request.body(Full::new(body))?).await?;
        Ok((reply.status, reply.json))
    }
}

fn refusal(status: u16, kind: &str) -> Reply {
    (status, json!({"__type": kind, "message": "injected by the stub"}))
}
