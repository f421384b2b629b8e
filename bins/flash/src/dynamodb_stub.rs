//! A stub before the AWS emulator for what the emulator never does: it leaves items of a batch unprocessed,
//! throttles, and fails after having written. It speaks DynamoDB's wire format (JSON 1.0) and passes on all else,
//! but for batches that the real one refuses and the emulator takes.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};
use service::Stop;
use service::http::HttpSettings;
use testkit::http::Caller;
use warp::Filter;
use warp::http::{HeaderMap, Request, StatusCode};

const BATCH_WRITE: &str = "DynamoDB_20120810.BatchWriteItem";
/// What the real one takes at most. Not the constant of the code that is tested.
const MAX_BATCH_ITEMS: usize = 25;

/// What becomes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Pass,
    /// Only so many items are written, the rest come back as `UnprocessedItems`.
    Part(usize),
    /// Nothing is written: `ProvisionedThroughputExceededException`; for this auction's items alone, if one is named.
    Throttle(Option<String>),
    /// All is written, and the answer says `InternalServerError`.
    FailAfterwards,
}

/// How often it did each.
#[derive(Debug, Default)]
pub struct Done {
    pub parts: AtomicU64,
    pub throttled: AtomicU64,
    pub failed: AtomicU64,
    /// Batches that the real one would not have taken: more than 25 items, or a key twice.
    pub refused: AtomicU64,
}

struct Shared {
    emulator: String,
    caller: Caller,
    answer: Mutex<Answer>,
    done: Done,
}

/// Runs until it is dropped.
pub struct DynamoDbStub {
    pub endpoint: String,
    shared: Arc<Shared>,
    over: Stop,
}

type Reply = (u16, Value);

impl DynamoDbStub {
    /// Before this emulator, passing on everything at first.
    ///
    /// # Errors
    /// When no port can be had.
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
                service::http::json(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY), &body)
            }
        });
        let over = Stop::new();
        tokio::spawn(service::http::serve(listener, route, HttpSettings::default(), over.clone()));
        Ok(Self { endpoint, shared, over })
    }

    /// What becomes of batches from now on.
    pub fn answer(&self, answer: Answer) {
        *self.shared.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    #[must_use]
    pub fn done(&self) -> &Done {
        &self.shared.done
    }
}

impl Drop for DynamoDbStub {
    fn drop(&mut self) {
        self.over.cancel();
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
        // The emulator reads the service from the signature, and checks none.
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
    (status, json!({"__type": kind, "message": "as the stub was told"}))
}
