//! HTTP long polling: what one poll returns, and the bodies of Engine.IO's responses.

use http::{HeaderValue, StatusCode, header};
use protocol::socketio::{EnginePacket, SEPARATOR};
use serde_json::json;
use tokio::sync::TryAcquireError;
use warp::reply::Response;

use crate::socketio::engine::{Engine, Received};
use crate::transport::framing::text_in;

/// A rejected request, with the code that Engine.IO gives its reason.
#[derive(Debug, Clone, Copy)]
pub enum Rejection {
    /// `transport` is neither `polling` nor `websocket`.
    UnknownTransport,
    /// There is no session with this `sid`.
    UnknownSession,
    /// The method is none that a transport uses.
    WrongMethod,
    /// The request is not allowed in the session's state.
    BadRequest,
    /// `EIO` is not 4.
    UnsupportedVersion,
}

impl From<Rejection> for Response {
    fn from(rejection: Rejection) -> Self {
        let (code, message) = match rejection {
            Rejection::UnknownTransport => (0, "Transport unknown"),
            Rejection::UnknownSession => (1, "Session ID unknown"),
            Rejection::WrongMethod => (2, "Bad handshake method"),
            Rejection::BadRequest => (3, "Bad request"),
            Rejection::UnsupportedVersion => (5, "Unsupported protocol version"),
        };
        service::http::json(StatusCode::BAD_REQUEST, &json!({"code": code, "message": message}))
    }
}

/// A response with packets, which no cache may keep.
pub fn text(body: String) -> Response {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Waits for something to send, and returns it as the reply to a poll.
pub async fn poll(engine: &Engine) -> Response {
    let _reading = match engine.reading.try_acquire() {
        Ok(reading) => reading,
        // The close has been sent: for the client the session is gone.
        Err(TryAcquireError::Closed) if engine.closed.is_cancelled() => return Rejection::UnknownSession.into(),
        // A WebSocket has replaced polling; it goes on.
        Err(TryAcquireError::Closed) => return Rejection::BadRequest.into(),
        // A proxy or the client has repeated a poll during the upgrade; both are answered at once.
        Err(TryAcquireError::NoPermits) if engine.is_probing() => return text(EnginePacket::Noop.encode()),
        Err(TryAcquireError::NoPermits) => {
            // Two polls at once: the client has lost track.
            engine.closed.cancel();
            return Rejection::BadRequest.into();
        }
    };
    loop {
        let closed = tokio::select! {
            biased;
            () = engine.queue.changed() => false,
            () = engine.released() => {
                if engine.closed.is_cancelled() {
                    // Closed by the client, which needs no close packet.
                    engine.flushed.notify_one();
                }
                return text(EnginePacket::Noop.encode());
            }
            () = engine.closed.cancelled() => true,
        };
        let Some(frames) = engine.queue.take() else {
            // The client cannot keep up. It may reconnect and resume.
            engine.closed.cancel();
            engine.reading.close();
            return text(EnginePacket::Close.encode());
        };
        let close = EnginePacket::Close.encode();
        let mut packets: Vec<&str> = frames.iter().map(|frame| text_in(frame)).collect();
        if closed {
            packets.push(&close);
            engine.reading.close();
            engine.flushed.notify_one();
        }
        if !packets.is_empty() {
            return text(packets.join(&SEPARATOR.to_string()));
        }
    }
}

/// Hands the packets of a posted body to the session.
pub async fn post(engine: &Engine, body: &[u8]) -> Response {
    let Ok(body) = std::str::from_utf8(body) else {
        engine.end_now();
        return Rejection::BadRequest.into();
    };
    for packet in body.split(SEPARATOR) {
        if engine.receive(packet).await != Received::Handled {
            return Rejection::BadRequest.into();
        }
    }
    text("ok".to_owned())
}
