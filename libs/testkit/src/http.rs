//! A small HTTP client: JSON in, JSON out.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Time to wait for a reply.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A reply.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status code.
    pub status: u16,
    /// HTTP headers.
    pub headers: http::HeaderMap,
    /// The body.
    pub text: String,
    /// The body parsed as JSON, or null if it is not JSON.
    pub json: Value,
}

/// A client that reuses its connections.
#[derive(Clone)]
pub struct Caller(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Default for Caller {
    fn default() -> Self {
        Self::new()
    }
}

impl Caller {
    /// A client without connections. It trusts the authorities that are trusted now: [`crate::tls::trust`].
    #[must_use]
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(crate::tls::client_config().as_ref().clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
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

    /// Sends a POST request with a JSON body.
    ///
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
    // A new client for each request: a connection belongs to the runtime that opened it, and each test has its own.
    Caller::new().send(request).await
}

/// Begins a request, without a body.
#[must_use]
pub fn request(method: &str, url: &str, token: Option<&str>) -> http::request::Builder {
    let request = http::Request::builder().method(method).uri(url);
    match token {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    }
}

/// Sends a GET request.
///
/// # Errors
/// When no reply comes.
pub async fn get(url: &str, token: Option<&str>) -> Result<Reply> {
    send(request("GET", url, token).body(Full::default())?).await
}

/// Sends a POST request with a JSON body.
///
/// # Errors
/// When no reply comes.
pub async fn post(url: &str, token: Option<&str>, body: &Value) -> Result<Reply> {
    post_raw(url, token, body.to_string()).await
}

/// Sends a POST request with this body, as JSON or not.
///
/// # Errors
/// When no reply comes.
pub async fn post_raw(url: &str, token: Option<&str>, body: impl Into<Bytes>) -> Result<Reply> {
    let request = request("POST", url, token).header("content-type", "application/json");
    send(request.body(Full::new(body.into()))?).await
}

/// The header from which the emulator reads the names of the service and the region. It does not verify the signature.
#[must_use]
pub fn emulator_authorization(service: &str, region: &str) -> String {
    let credential = format!("flash/20200101/{region}/{service}/aws4_request");
    format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=none")
}

/// The whole state of the AWS emulator. While another request changes it the emulator cannot write it, and answers 500.
///
/// # Errors
/// When no reply comes, or none with the state within ten seconds.
pub async fn emulator_state(endpoint: &str) -> Result<Value> {
    let url = format!("{endpoint}/moto-api/data.json");
    let look = async || Ok(Some(get(&url, None).await?).filter(|reply| reply.status == 200).map(|reply| reply.json));
    crate::eventually("the emulator's state", look).await
}

/// Calls AWS in its JSON protocol, for calls that are not worth compiling an SDK.
///
/// # Errors
/// When no reply comes or it is not a success.
pub async fn aws_json(endpoint: &str, service: &str, target: &str, body: &Value) -> Result<Value> {
    let request = request("POST", endpoint, None)
        .header("content-type", "application/x-amz-json-1.0")
        .header("x-amz-target", target)
        .header("authorization", emulator_authorization(service, "us-east-1"));
    let reply = send(request.body(Full::new(body.to_string().into()))?).await?;
    anyhow::ensure!(reply.status == 200, "{target}: {} {}", reply.status, reply.text);
    Ok(reply.json)
}
