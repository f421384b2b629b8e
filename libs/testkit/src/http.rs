//! A small HTTP client: JSON in, JSON out.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A reply, with its body as JSON (null if it is none).
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub text: String,
    pub json: Value,
}

/// A client that keeps its connections.
#[derive(Clone)]
pub struct Caller(Client<HttpConnector, Full<Bytes>>);

impl Default for Caller {
    fn default() -> Self {
        Self::new()
    }
}

impl Caller {
    #[must_use]
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(Client::builder(TokioExecutor::new()).build(connector))
    }

    /// Sends a request with a raw body.
    ///
    /// # Errors
    /// When no reply comes.
    pub async fn send(&self, request: http::Request<Full<Bytes>>) -> Result<Reply> {
        let url = request.uri().to_string();
        let exchange = async {
            let (parts, body) = self.0.request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            let text = String::from_utf8_lossy(&body).into_owned();
            let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
            anyhow::Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, text, json })
        };
        tokio::time::timeout(TIMEOUT, exchange).await.with_context(|| format!("{url}: no reply"))?.with_context(|| url)
    }

    /// # Errors
    /// When no reply comes.
    pub async fn post(&self, url: &str, token: Option<&str>, body: &Value) -> Result<Reply> {
        let request = request("POST", url, token).header("content-type", "application/json");
        self.send(request.body(Full::new(body.to_string().into()))?).await
    }
}

/// Sends a request with a raw body.
///
/// # Errors
/// When no reply comes.
pub async fn send(request: http::Request<Full<Bytes>>) -> Result<Reply> {
    // One client a request: a connection belongs to the runtime that made it, and each test has its own.
    Caller::new().send(request).await
}

/// A request that still wants headers and a body.
#[must_use]
pub fn request(method: &str, url: &str, token: Option<&str>) -> http::request::Builder {
    let request = http::Request::builder().method(method).uri(url);
    match token {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    }
}

/// # Errors
/// When no reply comes.
pub async fn get(url: &str, token: Option<&str>) -> Result<Reply> {
    send(request("GET", url, token).body(Full::default())?).await
}

/// # Errors
/// When no reply comes.
pub async fn post(url: &str, token: Option<&str>, body: &Value) -> Result<Reply> {
    post_raw(url, token, body.to_string()).await
}

/// # Errors
/// When no reply comes.
pub async fn post_raw(url: &str, token: Option<&str>, body: impl Into<Bytes>) -> Result<Reply> {
    let request = request("POST", url, token).header("content-type", "application/json");
    send(request.body(Full::new(body.into()))?).await
}

/// One call in the JSON protocol of AWS, for what no SDK is worth compiling.
///
/// # Errors
/// When no reply comes or it is not a success.
pub async fn aws_json(endpoint: &str, service: &str, target: &str, body: &Value) -> Result<Value> {
    let credential = format!("flash/20200101/us-east-1/{service}/aws4_request");
    let request = request("POST", endpoint, None)
        .header("content-type", "application/x-amz-json-1.0")
        .header("x-amz-target", target)
        // The emulator reads the service from here and checks no signature.
        .header(
            "authorization",
            format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=none"),
        );
    let reply = send(request.body(Full::new(body.to_string().into()))?).await?;
    anyhow::ensure!(reply.status == 200, "{target}: {} {}", reply.status, reply.text);
    Ok(reply.json)
}
