//! The HTTP server of every service: accept loop, limits, `/api`, CORS, errors as JSON.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderValue, Method, Request, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use warp::http::StatusCode;
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use crate::Stop;

/// Largest request body. Every valid request is far smaller.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Bytes of a too large body that are read and discarded, so that the client finishes writing and reads the answer
/// instead of meeting a reset connection.
const MAX_DISCARDED_BYTES: usize = 4 * 1024 * 1024;
/// Time limit for receiving a request's body. A slow client must not hold a connection slot for long.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for receiving a request's headers, for the same reason.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for the requests in flight when stopping, within the service's drain.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed `accept` (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The client's address, as a request extension (`warp::addr::remote` cannot be set by our accept loop).
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Settings of the HTTP server.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Browser origins that may call, besides the server's own.
    pub origins: Arc<[String]>,
    /// Connections at once. Further ones wait in the kernel's accept queue.
    pub max_connections: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self { origins: Arc::default(), max_connections: 10_000 }
    }
}

/// Pages of development servers, which browsers load from another port.
const DEFAULT_ORIGINS: &str = "http://localhost:3000,http://localhost:5173";

impl HttpSettings {
    /// Reads `CORS_ORIGINS`, comma-separated, and `MAX_CONNECTIONS`.
    pub fn read(reader: &mut crate::Reader<'_>) -> Self {
        let origins = reader.optional("CORS_ORIGINS").unwrap_or_else(|| DEFAULT_ORIGINS.to_owned());
        let origins = origins.split(',').map(|origin| origin.trim().to_owned()).filter(|origin| !origin.is_empty());
        let max_connections = reader.above_0("MAX_CONNECTIONS", Self::default().max_connections);
        Self { origins: origins.collect(), max_connections }
    }
}

/// Serves `routes`, and the same under `/api`, until the stop; then finishes the requests in flight.
///
/// # Errors
/// Never: a failed connection affects no other.
pub async fn serve<F>(listener: TcpListener, routes: F, settings: HttpSettings, stop: Stop) -> Result<(), Infallible>
where
    F: Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static,
    F::Future: Send,
{
    let routes = warp::service(routes.recover(rejected));
    let slots = Arc::new(Semaphore::new(settings.max_connections));
    let connections = TaskTracker::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { break };
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(error = %errors::chain(&error), "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        // Answers are small and clients wait for them; warp's own server would leave Nagle's algorithm on.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = %errors::chain(&error), "failed to set TCP_NODELAY");
        }
        let (routes, origins) = (routes.clone(), Arc::clone(&settings.origins));
        let service =
            hyper::service::service_fn(move |request| answer(request, peer, routes.clone(), Arc::clone(&origins)));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let stopping = stop.clone();
        connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let result = tokio::select! {
                result = &mut connection => result,
                () = stopping.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(error = %errors::chain(&error), "connection failed");
            }
            drop(slot);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(FINISH_TIMEOUT, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "stopped with requests in flight");
    }
    Ok(())
}

/// Answers one request: checks the origin, reads the body as a whole, then calls the routes.
async fn answer<S>(
    request: Request<Incoming>,
    peer: SocketAddr,
    mut routes: S,
    origins: Arc<[String]>,
) -> Result<Response, Infallible>
where
    S: tower_service::Service<Request<Full<Bytes>>, Response = Response, Error = Infallible>,
{
    let origin =
        request.headers().get(header::ORIGIN).filter(|origin| allowed(origin, request.headers(), &origins)).cloned();
    if is_preflight(&request) {
        return Ok(with_origin(StatusCode::NO_CONTENT.into_response(), origin, true));
    }
    let (mut parts, body) = request.into_parts();
    strip_api(&mut parts.uri);
    parts.extensions.insert(Peer(peer));
    let response = match tokio::time::timeout(BODY_TIMEOUT, whole(body)).await {
        Ok(Some(body)) => routes.call(Request::from_parts(parts, Full::new(body))).await?,
        Ok(None) => problem(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The body is larger than 64 KiB"),
        Err(_) => problem(StatusCode::BAD_REQUEST, "invalid_request", "The body did not arrive in time"),
    };
    Ok(with_origin(response, origin, false))
}

/// The body, or None if it is too large or incomplete.
async fn whole(mut body: Incoming) -> Option<Bytes> {
    let mut read = Vec::new();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let data = frame.ok()?.into_data().unwrap_or_default();
        size += data.len();
        if size <= MAX_BODY_BYTES {
            read.extend_from_slice(&data);
        } else if size > MAX_DISCARDED_BYTES {
            return None;
        }
    }
    (size <= MAX_BODY_BYTES).then(|| read.into())
}

/// Turns `/api/x` into `/x`, for an ingress that serves everything from one origin and routes by path.
fn strip_api(uri: &mut ::http::Uri) {
    let Some(path_and_query) = uri.path_and_query() else { return };
    let Some(rest) = path_and_query.as_str().strip_prefix("/api").filter(|rest| rest.starts_with('/')) else { return };
    if let Ok(stripped) = rest.parse() {
        *uri = stripped;
    }
}

fn allowed(origin: &HeaderValue, headers: &::http::HeaderMap, origins: &[String]) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let own = host.is_some() && origin.split_once("://").map(|(_, rest)| rest) == host;
    own || origins.iter().any(|allowed| allowed == origin || allowed == "*")
}

/// Whether a browser page of the request's origin may call; for requests that CORS does not cover (WebSocket).
#[must_use]
pub fn origin_allowed(headers: &::http::HeaderMap, origins: &[String]) -> bool {
    headers.get(header::ORIGIN).is_none_or(|origin| allowed(origin, headers, origins))
}

fn is_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn with_origin(mut response: Response, origin: Option<HeaderValue>, preflight: bool) -> Response {
    let Some(origin) = origin else { return response };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    if preflight {
        let methods = HeaderValue::from_static("GET, POST, PUT, OPTIONS");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let names = HeaderValue::from_static("authorization, content-type, idempotency-key");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    response
}

/// A JSON reply.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => {
            let mut response = Response::new(bytes.into());
            *response.status_mut() = status;
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => {
            tracing::error!(error = %errors::chain(&error), "failed to encode a reply");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A JSON document of this build, such as `/openapi.json`.
pub fn document(
    name: &'static str,
    text: &'static str,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
    warp::path(name).and(warp::path::end()).and(warp::get()).map(move || {
        let mut response = Response::new(text.into());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    })
}

/// An error reply: `{"error", "code"}`.
#[must_use]
pub fn problem(status: StatusCode, code: &str, sentence: &str) -> Response {
    json(status, &serde_json::json!({"error": sentence, "code": code}))
}

/// Answers a request that no route accepted.
async fn rejected(rejection: Rejection) -> Result<(Response,), Infallible> {
    let response = if rejection.is_not_found() {
        problem(StatusCode::NOT_FOUND, "not_found", "There is nothing at this path")
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This path does not take that method")
    } else {
        problem(StatusCode::BAD_REQUEST, "invalid_request", "The request could not be understood")
    };
    Ok((response,))
}
