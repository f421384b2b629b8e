//! The HTTP client with which the edge reaches other services and edges, over connections that are kept.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// Time to connect. They are in the same network; one that does not accept at once is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle connections to one of them. More are opened for a burst, and closed after it.
const MAX_IDLE_CONNECTIONS: usize = 64;
/// Time that an idle connection is kept. Shorter than the 80 s after which the other side closes it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that sends bodies which are in memory.
pub type NearClient = Client<HttpConnector, Full<Bytes>>;

/// A client without connections.
pub fn near_client() -> NearClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        .build(connector)
}
