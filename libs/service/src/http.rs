//! The HTTP server of every service: accept loop, limits, `/api`, CORS, errors as JSON.
//!
//! A client costs little before its request is understood, and nothing for long: headers, bodies, idle connections and
//! replies that are not read have time limits, and when all slots are taken the connection that has been idle for
//! longest gives way.

mod address;
mod body;
mod certificate;
mod origin;
mod reply;
mod request_id;
mod slots;
mod socket;
mod stream;
mod traced;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::{HeaderMap, Method, Request, Uri, Version, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use warp::http::StatusCode;
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use crate::Stop;
use crate::http::body::{BodyError, whole};
use crate::http::origin::allowed;
use crate::http::reply::{Methods, rejected, with_common_headers, with_origin};
use crate::http::request_id::REQUEST_ID;
use crate::http::slots::{Slot, Slots};
use crate::http::socket::HttpStream;
use crate::http::stream::{Handling, TimedStream};
use crate::quota::{Held, Quota};

pub use crate::http::address::{ClientAddress, TrustedProxies};
pub use crate::http::certificate::{Certificate, CertificateError};
pub use crate::http::origin::origin_allowed;
pub use crate::http::reply::{CACHE_BRIEFLY, document, json, problem, try_again};
pub use crate::http::socket::{Socket, into_socket};

/// Bytes of a request's headers, and of the buffer of one connection. Several times the largest token.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Time limit for receiving a request's body. A slow client must not hold a connection slot for long.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for the requests in flight when stopping, within the service's drain.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed `accept` (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections of the listener for operations: an orchestrator and a collector of metrics.
const MAX_OPERATIONS_CONNECTIONS: usize = 64;

/// Settings of the HTTP server.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Browser origins that may call.
    pub origins: Arc<[String]>,
    /// Connections at once. Beyond them the one that has been idle for longest is closed.
    pub max_connections: usize,
    /// Connections of one address at once.
    pub max_connections_per_address: usize,
    /// Proxies that name the client's address.
    pub trusted_proxies: TrustedProxies,
    /// Where `/ready` and `/metrics` are served, if not on the public port.
    pub operations: Option<SocketAddr>,
    /// Certificate of the public port; without it the port has no TLS. The port for operations never has.
    pub certificate: Option<Certificate>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            origins: Arc::default(),
            max_connections: 10_000,
            max_connections_per_address: DEFAULT_CONNECTIONS_PER_ADDRESS,
            trusted_proxies: TrustedProxies::default(),
            operations: None,
            certificate: None,
        }
    }
}

/// Pages of development servers, which browsers load from another port.
const DEFAULT_ORIGINS: &str = "http://localhost:3000,http://localhost:5173,http://127.0.0.1:3000,http://127.0.0.1:5173";
/// Connections of one address. An office or a mobile network shares one.
const DEFAULT_CONNECTIONS_PER_ADDRESS: usize = 1_000;
/// Trusted proxies: those on the same machine or in a private network, as load balancers and bridges of containers are.
const DEFAULT_TRUSTED_PROXIES: &str = "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,::1,fc00::/7";

impl HttpSettings {
    /// Reads `CORS_ORIGINS`, comma-separated, the limits of connections, `TRUSTED_PROXIES`, `OPERATIONS_ADDRESS` and the
    /// files of the certificate.
    pub fn read(reader: &mut crate::Reader<'_>) -> Self {
        let origins = reader.optional("CORS_ORIGINS").unwrap_or_else(|| DEFAULT_ORIGINS.to_owned());
        let origins = origins.split(',').map(|origin| origin.trim().to_owned()).filter(|origin| !origin.is_empty());
        let default = Self::default();
        let operations = |text: &str| text.parse().ok().map(Some);
        let proxies = DEFAULT_TRUSTED_PROXIES.parse().unwrap_or_default();
        Self {
            origins: origins.collect(),
            max_connections: reader.above_0("MAX_CONNECTIONS", default.max_connections),
            max_connections_per_address: reader
                .above_0("MAX_CONNECTIONS_PER_ADDRESS", default.max_connections_per_address),
            trusted_proxies: reader.parsed("TRUSTED_PROXIES", proxies, "addresses and networks such as 10.0.0.0/8"),
            operations: reader.read("OPERATIONS_ADDRESS", None, "an address and port such as 0.0.0.0:9100", operations),
            certificate: Certificate::from_settings(reader),
        }
    }

    /// Adds the expiry of the certificate, if there is one, to the metrics.
    pub fn register(&self, registry: &mut Registry) {
        if let Some(certificate) = &self.certificate {
            certificate.register(registry);
        }
    }
}

/// The paths that one listener serves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    /// Everything.
    Whole,
    /// Everything but `/ready` and `/metrics`, which another port has.
    Public,
    /// `/health`, `/ready` and `/metrics` alone.
    Operations,
}

impl Port {
    fn serves(self, path: &str) -> bool {
        match self {
            Self::Whole => true,
            Self::Public => !matches!(path, "/ready" | "/metrics"),
            Self::Operations => is_operations(path),
        }
    }
}

fn is_operations(path: &str) -> bool {
    matches!(path, "/health" | "/ready" | "/metrics")
}

/// State shared by all connections of a service.
struct Server<S> {
    routes: S,
    methods: Methods,
    settings: HttpSettings,
    addresses: Quota<IpAddr>,
}

/// One connection, as its requests see it.
struct Connection {
    peer: IpAddr,
    port: Port,
    slot: Slot,
    handling: Handling,
    _address: Option<Held<IpAddr>>,
}

/// Serves `routes`, and the same under `/api`, until the stop; then finishes the requests in flight.
///
/// # Errors
/// When the address for operations cannot be bound. A failed connection affects no other.
pub async fn serve<F>(
    listener: TcpListener,
    routes: F,
    settings: HttpSettings,
    stop: Stop,
) -> Result<(), std::io::Error>
where
    F: Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static,
    F::Future: Send,
{
    let operations = match settings.operations {
        Some(address) => Some(TcpListener::bind(address).await?),
        None => None,
    };
    let mut routes = warp::service(routes.recover(rejected));
    let methods = Methods::of(&described(&mut routes).await);
    let addresses = Quota::new(settings.max_connections_per_address);
    let max_connections = settings.max_connections;
    let server = Arc::new(Server { routes, methods, settings, addresses });
    let certificate = server.settings.certificate.clone();
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "listening");
    }
    let serving = async {
        match operations {
            Some(operations) => {
                let server_apart = Arc::clone(&server);
                let apart = accept(operations, server_apart, Port::Operations, MAX_OPERATIONS_CONNECTIONS, &stop);
                tokio::join!(apart, accept(listener, server, Port::Public, max_connections, &stop));
            }
            None => accept(listener, server, Port::Whole, max_connections, &stop).await,
        }
    };
    match certificate {
        Some(certificate) => tokio::select! {
            () = serving => {}
            () = certificate.follow() => {}
        },
        None => serving.await,
    }
    Ok(())
}

/// The service's own description, empty if it has none.
async fn described<S>(routes: &mut S) -> Bytes
where
    S: tower_service::Service<Request<Full<Bytes>>, Response = Response, Error = Infallible>,
{
    let mut request = Request::new(Full::default());
    *request.uri_mut() = Uri::from_static("/openapi.json");
    let Ok(response) = routes.call(request).await;
    response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default()
}

/// Accepts connections until the stop, then waits for the requests in flight.
async fn accept<S>(listener: TcpListener, server: Arc<Server<S>>, port: Port, max_connections: usize, stop: &Stop)
where
    S: tower_service::Service<Request<Full<Bytes>>, Response = Response, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let slots = Slots::new(max_connections);
    let connections = TaskTracker::new();
    let certificate = server.settings.certificate.as_ref().filter(|_| port != Port::Operations);
    let acceptor = certificate.map(Certificate::acceptor);
    loop {
        let next = async {
            match listener.accept().await {
                Ok((stream, peer)) => Ok((stream, peer.ip(), slots.take().await)),
                Err(error) => Err(error),
            }
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = next => accepted,
        };
        let (stream, peer, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = %errors::chain(&error), "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let counted = server.settings.trusted_proxies.peer(peer);
        let address = counted.map(|address| server.addresses.take(address));
        let Some(address) = address.map_or(Some(None), |held| held.map(Some)) else {
            tracing::debug!("closed a connection of an address that has too many");
            continue;
        };
        // Answers are small and clients wait for them; warp's own server would leave Nagle's algorithm on.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = %errors::chain(&error), "failed to set TCP_NODELAY");
        }
        let connection = Connection { peer, port, slot, handling: Handling::default(), _address: address };
        connections.spawn(open_connection(stream, acceptor.clone(), connection, Arc::clone(&server), stop.clone()));
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(FINISH_TIMEOUT, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "stopped with requests in flight");
    }
}

/// Does the TLS handshake, if there is one. During this time the connection counts as idle: it gives way to others.
async fn open_connection<S>(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    connection: Connection,
    server: Arc<Server<S>>,
    stop: Stop,
) where
    S: tower_service::Service<Request<Full<Bytes>>, Response = Response, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let opened = tokio::select! {
        opened = HttpStream::open(stream, acceptor.as_ref()) => opened,
        () = connection.slot.gives_way() => return,
        () = stop.cancelled() => return,
    };
    match opened {
        Ok(stream) => serve_connection(stream, connection, server, stop).await,
        Err(error) => tracing::debug!(error = %errors::chain(&error), "TLS handshake failed"),
    }
}

async fn serve_connection<S>(stream: HttpStream, connection: Connection, server: Arc<Server<S>>, stop: Stop)
where
    S: tower_service::Service<Request<Full<Bytes>>, Response = Response, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let is_reserved = connection.slot.is_reserved;
    let stream = TimedStream::new(stream, connection.handling.clone());
    let connection = Arc::new(connection);
    let handler = Arc::clone(&connection);
    let service = hyper::service::service_fn(move |request| {
        let (server, connection) = (Arc::clone(&server), Arc::clone(&handler));
        async move {
            connection.handling.begin();
            let response = server.answer(request, &connection).await;
            connection.slot.idle();
            connection.handling.end();
            Ok::<_, Infallible>(response)
        }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // The stream has the time limits: hyper's would close idle connections as well.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEADER_BYTES)
        // A client that has finished sending may still wait for its answer (RFC 9112, 9.6).
        .half_close(true)
        .keep_alive(!is_reserved)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let result = tokio::select! {
        result = &mut serving => result,
        () = connection.slot.gives_way() => return,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = %errors::chain(&error), "connection failed");
    }
}

impl<S> Server<S>
where
    S: tower_service::Service<Request<Full<Bytes>>, Response = Response, Error = Infallible> + Clone,
{
    /// Answers one request under its id, which its log lines carry and the reply returns.
    async fn answer(&self, mut request: Request<Incoming>, connection: &Connection) -> Response {
        let id = request_id::ensure(request.headers_mut());
        let span = tracing::error_span!("request", request_id = id.to_str().unwrap_or_default());
        let (traced, caller) = traced::begin(&request, &id);
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let answering = async {
            let arrived = Instant::now();
            let mut response = self.answer_request(request, connection).await;
            let (status, took_us) = (response.status().as_u16(), arrived.elapsed().as_micros());
            tracing::debug!(%method, path, status, took_us, "answered a request");
            response.headers_mut().insert(REQUEST_ID, id);
            traced::answer(&mut response, caller);
            response
        };
        answering.instrument(traced).instrument(span).await
    }

    /// Checks the host and origin of a request, reads its body as a whole, then calls the routes.
    async fn answer_request(&self, request: Request<Incoming>, connection: &Connection) -> Response {
        let (mut parts, body) = request.into_parts();
        let origin = parts.headers.get(header::ORIGIN);
        let origin = origin.filter(|origin| allowed(origin, &parts.headers, &self.settings.origins)).cloned();
        if parts.method == Method::OPTIONS && parts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
            return with_origin(StatusCode::NO_CONTENT.into_response(), origin, true);
        }
        strip_api(&mut parts.uri);
        let path = parts.uri.path();
        let response = if !names_one_host(parts.version, &parts.headers) {
            problem(StatusCode::BAD_REQUEST, "invalid_request", "A request names its host once")
        } else if !connection.port.serves(path) {
            problem(StatusCode::NOT_FOUND, "not_found", "There is nothing at this path")
        } else if connection.slot.is_reserved && !is_operations(path) {
            let sentence = "This server has no place for another connection now; try again in a moment";
            try_again(StatusCode::SERVICE_UNAVAILABLE, "overloaded", sentence)
        } else {
            match tokio::time::timeout(BODY_TIMEOUT, whole(body)).await {
                Ok(Ok(body)) => {
                    let client = self.settings.trusted_proxies.client(connection.peer, &parts.headers);
                    parts.extensions.insert(client);
                    connection.slot.busy();
                    self.route(parts, body).await
                }
                Ok(Err(BodyError::TooLarge)) => {
                    problem(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The body is larger than 64 KiB")
                }
                Ok(Err(BodyError::Broken)) => {
                    problem(StatusCode::BAD_REQUEST, "invalid_request", "The body is broken or incomplete")
                }
                Err(_) => problem(StatusCode::BAD_REQUEST, "invalid_request", "The body did not arrive in time"),
            }
        };
        with_origin(with_common_headers(response), origin, false)
    }

    async fn route(&self, parts: ::http::request::Parts, body: Bytes) -> Response {
        let mut routes = self.routes.clone();
        let path = parts.uri.path().to_owned();
        let get = (parts.method == Method::HEAD).then(|| parts.clone());
        let Ok(mut response) = routes.call(Request::from_parts(parts, Full::new(body))).await;
        if let Some(mut get) = get.filter(|_| response.status() == StatusCode::METHOD_NOT_ALLOWED) {
            // No route takes HEAD itself: it is GET without the body of the reply, which hyper leaves out.
            get.method = Method::GET;
            let Ok(got) = routes.call(Request::from_parts(get, Full::default())).await;
            response = got;
        }
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            self.methods.add_to(response.headers_mut(), &path);
        }
        response
    }
}

/// RFC 9112, 3.2: a request of HTTP/1.1 has one `Host`; none has two.
fn names_one_host(version: Version, headers: &HeaderMap) -> bool {
    let hosts = headers.get_all(header::HOST).iter().count();
    hosts == 1 || (hosts == 0 && version < Version::HTTP_11)
}

/// Turns `/api/x` into `/x`, for an ingress that serves everything from one origin and routes by path.
fn strip_api(uri: &mut Uri) {
    let Some(path_and_query) = uri.path_and_query() else { return };
    let Some(rest) = path_and_query.as_str().strip_prefix("/api").filter(|rest| rest.starts_with('/')) else { return };
    if let Ok(stripped) = rest.parse() {
        *uri = stripped;
    }
}

#[cfg(test)]
mod tests;
