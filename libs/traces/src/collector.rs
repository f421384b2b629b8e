//! The HTTP client of the exporter: the TLS stack that everything else here uses.

use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;

use crate::EXPORT_TIMEOUT;

/// Bytes of a collector's answer. It is empty, or a sentence about rejected spans.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

type Hyper = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Sends the exporter's requests from a runtime: the exporter has a thread without one.
#[derive(Debug)]
pub(crate) struct Client {
    hyper: Hyper,
    runtime: Handle,
}

impl Client {
    /// A client that sends from the current runtime.
    pub fn new() -> Result<Self, std::io::Error> {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())?
            .https_or_http()
            .enable_http1()
            .build();
        let hyper = legacy::Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { hyper, runtime: Handle::current() })
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let hyper = self.hyper.clone();
        let sent = self.runtime.spawn(async move { tokio::time::timeout(EXPORT_TIMEOUT, send(&hyper, request)).await });
        sent.await??
    }
}

async fn send(hyper: &Hyper, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (parts, body) = hyper.request(request.map(Full::new)).await?.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
    Ok(Response::from_parts(parts, body))
}
