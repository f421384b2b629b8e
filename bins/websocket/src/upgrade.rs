//! The WebSocket handshake, and the small things that both transports read from a request.
//!
//! The upgrade is our own: warp's reads into a fixed buffer of 128 KiB for each connection, which makes a connection
//! twenty times as large as it needs to be.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use service::http::{ClientAddress, into_socket, origin_allowed, problem};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use warp::Reply;
use warp::reply::Response;

use crate::context::EdgeContext;
use crate::transport::socket::{self, Socket};

/// A request for a connection.
pub struct Request {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its query, not parsed.
    pub query: String,
    /// Where it comes from.
    pub client: ClientAddress,
}

/// The reply that switches protocols, and the socket once it has been sent.
///
/// # Errors
/// The response to a request that is no WebSocket handshake, or comes from a foreign origin.
pub fn upgrade(
    context: &EdgeContext,
    headers: &HeaderMap,
    on_upgrade: Option<OnUpgrade>,
) -> Result<(Response, impl Future<Output = Option<Socket>> + Send + 'static), Box<Response>> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_websocket =
        text(header::UPGRADE).eq_ignore_ascii_case("websocket") && text(header::SEC_WEBSOCKET_VERSION) == "13";
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let (true, Some(key), Some(on_upgrade)) = (is_websocket, key, on_upgrade) else {
        let rejected = problem(StatusCode::BAD_REQUEST, "invalid_request", "This path speaks WebSocket, version 13");
        return Err(Box::new(rejected));
    };
    if !origin_allowed(headers, &context.origins) {
        return Err(Box::new(foreign_origin()));
    }
    let switching = http::Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
        .body(Bytes::new().into());
    let response = switching.map_err(|_| Box::new(StatusCode::INTERNAL_SERVER_ERROR.into_response()))?;
    Ok((response, connect(on_upgrade)))
}

async fn connect(on_upgrade: OnUpgrade) -> Option<Socket> {
    let upgraded = match on_upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(error = %errors::chain(&error), "failed to finish an upgrade");
            return None;
        }
    };
    // The buffer of HTTP is freed.
    let (stream, early) = into_socket(upgraded)?;
    Some(socket::open(stream, early).await)
}

impl Request {
    /// The token: in the query, else in `Authorization`. Empty if that header has no bearer token.
    pub fn token(&self) -> Option<String> {
        if let Some(token) = parameter(&self.query, "token") {
            return Some(token.to_owned());
        }
        let authorization = self.headers.get(header::AUTHORIZATION)?.to_str().unwrap_or_default();
        Some(identity::bearer(Some(authorization)).unwrap_or_default().to_owned())
    }
}

/// The response to a browser whose page comes from an origin that is not allowed.
pub fn foreign_origin() -> Response {
    problem(StatusCode::FORBIDDEN, "invalid_request", "This origin may not connect")
}

/// The value of a query parameter, not unescaped: no parameter that the edge reads needs escaping.
pub fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.split_once('=').filter(|(found, _)| *found == name).map(|(_, value)| value))
}
