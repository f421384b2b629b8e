//! The Socket.IO transport: Socket.IO v4 over Engine.IO 4, by long polling, by WebSocket, and from the one to the
//! other, for the ready-made clients.
//!
//! Why it is our own and no library:
//! - Speed. Measured on one machine: a delivery through a library (socketioxide) costs 8.8 microseconds, where a bare
//!   write to the socket costs 5.4 to 6.8. Ours costs 1.04 to 1.23 times a bare write, because an event is framed once
//!   for all its receivers and written without waking the connection's task.
//! - Memory. A connection here is as small as a plain one and uses the same send queue, so that one bound in bytes
//!   holds for all connections together.
//! - Money. Amounts are read from the text of a message, in which `1e3` and `1.001` are not floats yet.
//!
//! The price is this folder, and tests of the protocols' own cases: `bins/flash/tests/system/conformance.rs` and
//! `socketio.rs`, the latter with npm's client.

mod engine;
mod polling;

use std::sync::Arc;

use http::HeaderMap;
use hyper::upgrade::OnUpgrade;
use service::http::origin_allowed;
use warp::reply::Response;

use crate::edge::Edge;
use crate::socketio::engine::{Engine, Engines};
use crate::socketio::polling::Rejection;
use crate::transport::socket::Socket;
use crate::upgrade::{foreign_origin, no_place, parameter, upgrade};

/// All Socket.IO connections of this edge, by their Engine.IO session.
pub struct SocketIo {
    edge: Edge,
    engines: Engines,
}

impl SocketIo {
    /// No sessions yet.
    pub fn new(edge: Edge) -> Self {
        Self { edge, engines: Engines::default() }
    }

    /// Answers a handshake, a poll or a WebSocket upgrade.
    pub async fn get(&self, headers: &HeaderMap, query: &str, on_upgrade: Option<OnUpgrade>) -> Response {
        if parameter(query, "EIO") != Some("4") {
            return Rejection::UnsupportedVersion.into();
        }
        if !origin_allowed(headers, &self.edge.context.origins) {
            return foreign_origin();
        }
        match (parameter(query, "transport"), parameter(query, "sid")) {
            (Some("polling"), Some(sid)) => match self.engines.find(sid) {
                Some(engine) => polling::poll(&engine).await,
                None => Rejection::UnknownSession.into(),
            },
            (Some("polling"), None) => match self.engines.open(&self.edge, query) {
                Some(engine) => polling::text(engine.handshake(&["websocket"])),
                None => no_place(),
            },
            (Some("websocket"), sid) => self.websocket(headers, query, sid, on_upgrade),
            _ => Rejection::UnknownTransport.into(),
        }
    }

    /// Answers a body of packets from a client that polls.
    pub async fn post(&self, query: &str, body: &[u8]) -> Response {
        match parameter(query, "sid").and_then(|sid| self.engines.find(sid)) {
            Some(engine) => polling::post(&engine, body).await,
            None => Rejection::UnknownSession.into(),
        }
    }

    fn websocket(
        &self,
        headers: &HeaderMap,
        query: &str,
        sid: Option<&str>,
        on_upgrade: Option<OnUpgrade>,
    ) -> Response {
        let known = match sid.map(|sid| self.engines.find(sid)) {
            Some(None) => return Rejection::UnknownSession.into(),
            // Another WebSocket has the session already, or it has ended.
            Some(Some(engine)) if engine.reading.is_closed() => return Rejection::BadRequest.into(),
            Some(Some(engine)) => Some(engine),
            None => None,
        };
        let (response, socket) = match upgrade(&self.edge.context, headers, on_upgrade) {
            Ok(accepted) => accepted,
            Err(rejected) => return *rejected,
        };
        let is_new = known.is_none();
        let Some(engine) = known.or_else(|| self.engines.open(&self.edge, query)) else { return no_place() };
        tokio::spawn(run(engine, is_new, socket));
        response
    }
}

async fn run(engine: Arc<Engine>, is_new: bool, socket: impl Future<Output = Option<Socket>>) {
    let Some(mut socket) = socket.await else {
        if is_new {
            engine.closed.cancel();
        }
        return;
    };
    if is_new {
        engine.queue.send_text(&engine.handshake(&[]));
    } else if !engine.take_over(&mut socket).await {
        return;
    }
    engine.serve(socket).await;
}
