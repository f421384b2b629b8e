//! The paths of the edge: `/ws`, `/socket.io/`, `/client.js` and the page at `/`.
//!
//! The upgrade is our own: warp's reads into a fixed 128 KiB buffer a connection, which makes a
//! connection twenty times as large as it needs to be.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use protocol::Code;
use service::Health;
use service::http::{document, origin_allowed, problem};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use crate::edge::Edge;
use crate::line::Line;
use crate::plain::{self, Presented, Socket};
use crate::socketio::SocketIo;

/// Requests of clients are small; a larger one makes the buffer grow for as long as it needs it.
const READ_BUFFER_BYTES: usize = 1024;
const WRITE_BUFFER_BYTES: usize = 4 * 1024;

const PAGE: &str = include_str!("page.html");
const CLIENT: &str = include_str!("client.js");

pub fn routes(
    edge: Edge,
    health: Health,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let socketio = Arc::new(SocketIo::new(edge.clone()));
    let socket = warp::path!("ws")
        .and(warp::get())
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::ext::optional::<OnUpgrade>())
        .map(move |headers: HeaderMap, query: String, on_upgrade: Option<OnUpgrade>| {
            plain_socket(&edge, &headers, &query, on_upgrade)
        });
    let polling = Arc::clone(&socketio);
    let get = warp::path!("socket.io")
        .and(warp::get())
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::ext::optional::<OnUpgrade>())
        .then(move |headers: HeaderMap, query: String, on_upgrade: Option<OnUpgrade>| {
            let socketio = Arc::clone(&polling);
            async move { socketio.get(&headers, &query, on_upgrade).await }
        });
    let post = warp::path!("socket.io").and(warp::post()).and(query).and(warp::body::bytes()).then(
        move |query: String, body: Bytes| {
            let socketio = Arc::clone(&socketio);
            async move { socketio.post(&query, &body).await }
        },
    );
    let documents = document("openapi.json", include_str!("openapi.json"))
        .or(document("asyncapi.json", include_str!("asyncapi.json")))
        .unify();
    let client = warp::path!("client.js")
        .and(warp::get())
        .map(|| warp::reply::with_header(CLIENT, header::CONTENT_TYPE, "text/javascript").into_response());
    let page = warp::path::end().and(warp::get()).map(|| warp::reply::html(PAGE).into_response());
    socket
        .or(get)
        .unify()
        .or(post)
        .unify()
        .boxed()
        .or(page)
        .unify()
        .or(client)
        .unify()
        .or(documents)
        .unify()
        .or(health.routes())
        .unify()
        .boxed()
}

fn plain_socket(edge: &Edge, headers: &HeaderMap, query: &str, on_upgrade: Option<OnUpgrade>) -> Response {
    let (response, socket) = match upgrade(edge, headers, on_upgrade) {
        Ok(accepted) => accepted,
        Err(refused) => return *refused,
    };
    let Some(place) = edge.place() else { return no_place() };
    let (presented, parts) = (presented(headers, query), Arc::clone(&edge.parts));
    edge.run(place, async move {
        if let Some(socket) = socket.await {
            plain::run(socket, presented, parts).await;
        }
    });
    response
}

pub fn no_place() -> Response {
    let sentence = "This server has no place for another connection now; try again in a moment";
    let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, Code::Overloaded.name(), sentence);
    if let Some(seconds) = Code::Overloaded.retry_after_seconds() {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// The reply that switches protocols, and the socket once it has been sent; or the refusal.
pub fn upgrade(
    edge: &Edge,
    headers: &HeaderMap,
    on_upgrade: Option<OnUpgrade>,
) -> Result<(Response, impl Future<Output = Option<Socket>> + Send + 'static), Box<Response>> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_websocket =
        text(header::UPGRADE).eq_ignore_ascii_case("websocket") && text(header::SEC_WEBSOCKET_VERSION) == "13";
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let (true, Some(key), Some(on_upgrade)) = (is_websocket, key, on_upgrade) else {
        let refused = problem(StatusCode::BAD_REQUEST, "invalid_request", "This path speaks WebSocket, version 13");
        return Err(Box::new(refused));
    };
    if !origin_allowed(headers, &edge.parts.origins) {
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

pub fn foreign_origin() -> Response {
    problem(StatusCode::FORBIDDEN, "invalid_request", "This origin may not connect")
}

/// The value of a parameter, as it stands: none that we read needs escaping.
pub fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.split_once('=').filter(|(found, _)| *found == name).map(|(_, value)| value))
}

/// The token, if the request carries one: in the query, else in `Authorization`.
fn presented(headers: &HeaderMap, query: &str) -> Presented {
    if let Some(token) = parameter(query, "token") {
        return Presented::Token(token.to_owned());
    }
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match authorization.map(|value| identity::bearer(Some(value)).map(str::to_owned)) {
        Some(Ok(token)) => Presented::Token(token),
        Some(Err(_)) => Presented::Token(String::new()),
        None => Presented::Nothing,
    }
}

async fn connect(on_upgrade: OnUpgrade) -> Option<Socket> {
    let upgraded = match on_upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "an upgrade broke off");
            return None;
        }
    };
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(protocol::input::MAX_BODY_BYTES))
        .max_frame_size(Some(protocol::input::MAX_BODY_BYTES));
    // What the client sent right behind its request was read with it. The buffer itself is let go.
    let early = parts.read_buf.to_vec();
    drop(parts.read_buf);
    let line = Line::new(parts.io.into_inner());
    Some(WebSocketStream::from_partially_read(line, early, Role::Server, Some(config)).await)
}
