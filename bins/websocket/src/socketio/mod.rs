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
mod forward;
mod polling;

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use hyper::upgrade::OnUpgrade;
use service::http::origin_allowed;
use warp::reply::Response;

use crate::edge::Edge;
use crate::near_client::NearClient;
use crate::socketio::engine::{CONNECT_WITHIN, Engine, Engines};
use crate::socketio::forward::Forwarder;
use crate::socketio::polling::Rejection;
use crate::transport::socket::Socket;
use crate::upgrade::{Request, foreign_origin, parameter, upgrade};

/// All Socket.IO connections of this edge, by their Engine.IO session.
pub struct SocketIo {
    edge: Edge,
    engines: Engines,
    forwarder: Arc<Forwarder>,
}

impl SocketIo {
    /// No sessions yet. `client`: for other edges; `max_forwarded`: requests passed on to them at once.
    pub fn new(edge: Edge, client: NearClient, max_forwarded: usize) -> Self {
        let forwarder = Arc::new(Forwarder::new(edge.clone(), client, max_forwarded));
        Self { edge, engines: Engines::default(), forwarder }
    }

    /// Answers a handshake, a poll or a WebSocket upgrade.
    pub async fn get(&self, request: &Request, on_upgrade: Option<OnUpgrade>) -> Response {
        let query = &request.query;
        if parameter(query, "EIO") != Some("4") {
            return Rejection::UnsupportedVersion.into();
        }
        if !origin_allowed(&request.headers, &self.edge.context.origins) {
            return foreign_origin();
        }
        let sid = parameter(query, "sid");
        if let Some(owner) = sid.and_then(|sid| self.forwarder.owner(sid, request)) {
            return self.forwarder.forward(owner, request, Method::GET, Bytes::new(), on_upgrade).await;
        }
        let known = match sid {
            Some(sid) => match self.known(sid, request).await {
                Ok(engine) => Some(engine),
                Err(rejection) => return rejection.into(),
            },
            None => None,
        };
        match (parameter(query, "transport"), known) {
            (Some("polling"), Some(engine)) => polling::poll(&engine).await,
            (Some("polling"), None) => match self.engines.open(&self.edge, request).await {
                Ok(engine) => polling::text(engine.handshake(&["websocket"])),
                Err(no_place) => self.edge.reject(no_place).into(),
            },
            (Some("websocket"), known) => self.websocket(request, known, on_upgrade).await,
            _ => Rejection::UnknownTransport.into(),
        }
    }

    /// Answers a body of packets from a client that polls.
    pub async fn post(&self, request: &Request, body: Bytes) -> Response {
        if !origin_allowed(&request.headers, &self.edge.context.origins) {
            return foreign_origin();
        }
        let sid = parameter(&request.query, "sid").unwrap_or_default();
        if let Some(owner) = self.forwarder.owner(sid, request) {
            return self.forwarder.forward(owner, request, Method::POST, body, None).await;
        }
        match self.known(sid, request).await {
            Ok(engine) => polling::post(&engine, &body).await,
            Err(rejection) => rejection.into(),
        }
    }

    /// The session that a request names.
    async fn known(&self, sid: &str, request: &Request) -> Result<Arc<Engine>, Rejection> {
        let engine = self.engines.find(sid).ok_or(Rejection::UnknownSession)?;
        if engine.admits(request).await { Ok(engine) } else { Err(Rejection::BadRequest) }
    }

    async fn websocket(
        &self,
        request: &Request,
        known: Option<Arc<Engine>>,
        on_upgrade: Option<OnUpgrade>,
    ) -> Response {
        // Another WebSocket has the session already, or tries to take it, or the session has ended.
        let probe = match &known {
            Some(engine) if engine.reading.is_closed() => return Rejection::BadRequest.into(),
            Some(engine) => match Arc::clone(&engine.upgrading).try_acquire_owned() {
                Ok(probe) => Some(probe),
                Err(_) => return Rejection::BadRequest.into(),
            },
            None => None,
        };
        let (response, socket) = match upgrade(&self.edge.context, &request.headers, on_upgrade) {
            Ok(accepted) => accepted,
            Err(rejected) => return *rejected,
        };
        let engine = match known {
            Some(engine) => engine,
            None => match self.engines.open(&self.edge, request).await {
                Ok(engine) => engine,
                Err(no_place) => return self.edge.reject(no_place).into(),
            },
        };
        // Boxed: a connection takes no memory for its beginning.
        let beginning = Box::pin(begin(Arc::clone(&engine), probe.is_none(), socket));
        tokio::spawn(async move {
            let socket = beginning.await;
            if let Some(mut socket) = socket {
                engine.serve(&mut socket).await;
            }
            drop(probe);
        });
        response
    }
}

/// The WebSocket of a session once it may carry that. `is_new`: the session has no other transport.
async fn begin(engine: Arc<Engine>, is_new: bool, socket: impl Future<Output = Option<Socket>>) -> Option<Box<Socket>> {
    let Some(mut socket) = tokio::time::timeout(CONNECT_WITHIN, socket).await.ok().flatten() else {
        if is_new {
            engine.closed.cancel();
        }
        return None;
    };
    if is_new {
        engine.queue.send_text(&engine.handshake(&[]));
    } else if !engine.take_over(&mut socket).await {
        return None;
    }
    Some(Box::new(socket))
}

/// The answer to a method that no transport has.
pub fn wrong_method() -> Response {
    Rejection::WrongMethod.into()
}
