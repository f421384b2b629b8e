//! A proxy in front of the AWS emulator that fails as DynamoDB can and the emulator never does: it leaves items of
//! a batch unprocessed, throttles, and fails after it has written. It speaks DynamoDB's wire format (JSON 1.0),
//! rejects batches that DynamoDB rejects and the emulator accepts, and forwards everything else. SES alone can be cut
//! off.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use warp::Filter;
use warp::http::{HeaderMap, Request, Response, StatusCode};

use crate::http::Caller;

const BATCH_WRITE: &str = "DynamoDB_20120810.BatchWriteItem";
/// Part of the signature of every request to SES.
const SES_SCOPE: &str = "/ses/aws4_request";
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
    /// A batch with the bid of this id is answered by `ValidationException`, and nothing of it is written.
    Reject(String),
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
    /// Whether requests to SES wait, and then fail.
    is_ses_cut: watch::Sender<bool>,
    done: Done,
}

/// A running stub. Dropping it stops it.
pub struct DynamoDbStub {
    /// The `AWS_ENDPOINT_URL` for services that use it.
    pub endpoint: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

type Reply = Response<String>;

impl DynamoDbStub {
    /// Starts a stub in front of this emulator that forwards everything at first.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(emulator: &str) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let (emulator, caller) = (emulator.to_owned(), Caller::new());
        let (answer, is_ses_cut) = (Mutex::new(Answer::Pass), watch::Sender::new(false));
        let shared = Arc::new(Shared { emulator, caller, answer, is_ses_cut, done: Done::default() });
        let handler = Arc::clone(&shared);
        let route = warp::post().and(warp::header::headers_cloned()).and(warp::body::bytes());
        let route = route.then(move |headers: HeaderMap, body| {
            let shared = Arc::clone(&handler);
            async move {
                shared.answer(&headers, body).await.unwrap_or_else(|error| {
                    let mut failed = Response::new(format!("{error:#}"));
                    *failed.status_mut() = StatusCode::BAD_GATEWAY;
                    failed
                })
            }
        });
        let server = tokio::spawn(warp::serve(route).incoming(listener).run());
        Ok(Self { endpoint, shared, server })
    }

    /// Sets the answer to all batches from now on.
    pub fn answer(&self, answer: Answer) {
        *self.shared.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// Cuts SES off, or connects it again: until then its requests wait, and none of them reaches it.
    pub fn cut_ses(&self, is_cut: bool) {
        self.shared.is_ses_cut.send_replace(is_cut);
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
        let signed = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if signed.contains(SES_SCOPE) && *self.is_ses_cut.borrow() {
            self.is_ses_cut.subscribe().wait_for(|is_cut| !is_cut).await?;
            return Ok(Response::builder().status(503).body("injected by the stub".to_owned())?);
        }
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
            return refusal(400, "com.amazon.coral.validate#ValidationException");
        }
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let throttled = |auction_id: &String| {
            items.iter().any(|item| item["PutRequest"]["Item"]["auction_id"]["S"] == **auction_id)
        };
        match answer {
            Answer::Part(most) if items.len() > most => {
                let left = items.split_off(most);
                let table = request["RequestItems"].as_object().and_then(|tables| tables.keys().next().cloned());
                let mut reply = forward(request.to_string().into()).await?;
                if reply.status() == StatusCode::OK {
                    self.done.parts.fetch_add(1, Ordering::Relaxed);
                    let mut written: Value = serde_json::from_str(reply.body())?;
                    written["UnprocessedItems"] = json!({table.context("a table")?: left});
                    *reply.body_mut() = written.to_string();
                }
                Ok(reply)
            }
            Answer::Throttle(only) if only.as_ref().is_none_or(throttled) => {
                self.done.throttled.fetch_add(1, Ordering::Relaxed);
                refusal(400, "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException")
            }
            Answer::FailAfterwards => {
                forward(body).await?;
                self.done.failed.fetch_add(1, Ordering::Relaxed);
                refusal(500, "com.amazonaws.dynamodb.v20120810#InternalServerError")
            }
            Answer::Reject(bid_id) if items.iter().any(|item| item["PutRequest"]["Item"]["bid_id"]["S"] == *bid_id) => {
                refusal(400, "com.amazon.coral.validate#ValidationException")
            }
            Answer::Pass | Answer::Part(_) | Answer::Throttle(_) | Answer::Reject(_) => forward(body).await,
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
        let mut response = Response::builder().status(reply.status);
        // SES answers in XML, the others in JSON.
        if let Some(kind) = reply.headers.get("content-type") {
            response = response.header("content-type", kind);
        }
        Ok(response.body(reply.text)?)
    }
}

fn refusal(status: u16, kind: &str) -> Result<Reply> {
    let body = json!({"__type": kind, "message": "injected by the stub"}).to_string();
    Ok(Response::builder().status(status).header("content-type", "application/x-amz-json-1.0").body(body)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn status(endpoint: &str, service: &str) -> u16 {
        let scope = format!("AWS4-HMAC-SHA256 Credential=flash/20200101/us-east-1/{service}/aws4_request");
        let request = Request::post(endpoint).header("authorization", scope);
        Caller::new().send(request.body(Full::default()).expect("a request")).await.expect("a reply").status
    }

    #[tokio::test]
    async fn cut_holds_requests_to_ses_alone_and_forwards_none_of_them() {
        // No emulator listens: a forwarded request is answered with 502.
        let stub = DynamoDbStub::start("http://127.0.0.1:1").await.expect("a stub");
        assert_eq!(status(&stub.endpoint, "ses").await, 502);
        stub.cut_ses(true);
        assert_eq!(status(&stub.endpoint, "sqs").await, 502);
        let endpoint = stub.endpoint.clone();
        let mut held = tokio::spawn(async move { status(&endpoint, "ses").await });
        assert!(tokio::time::timeout(Duration::from_millis(100), &mut held).await.is_err(), "it was answered");
        stub.cut_ses(false);
        assert_eq!(held.await.expect("a status"), 503);
        assert_eq!(status(&stub.endpoint, "ses").await, 502);
    }
}
