//! Requests of sessions that another edge has. A load balancer without sticky sessions spreads the polls of a client,
//! and its upgrade, over all edges. The edge that gets one passes it on to the session's edge, which the `sid` names,
//! and passes the reply back; after an upgrade it carries the bytes of the WebSocket both ways, without a look at them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use errors::BoxError;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use protocol::Code;
use protocol::socketio::EnginePacket;
use service::http::try_again;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;
use warp::reply::Response;

use crate::edge::Edge;
use crate::near_client::{NearClient, Origin};
use crate::peers::{Lost, Peers};
use crate::socketio::engine::CONNECT_WITHIN;
use crate::socketio::polling::Rejection;
use crate::upgrade::Request;

/// Marks a request that was passed on by another edge. It goes no further, whatever its `sid`.
const FORWARDED: HeaderName = HeaderName::from_static("flash-forwarded");
/// Where proxies name the client.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The headers of a request that the session's edge reads.
const PASSED_ON: [HeaderName; 5] =
    [header::HOST, header::ORIGIN, header::AUTHORIZATION, header::SEC_WEBSOCKET_KEY, header::SEC_WEBSOCKET_VERSION];
/// The headers of a reply that the client reads. The server adds those that every reply has.
const PASSED_BACK: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::CACHE_CONTROL, header::RETRY_AFTER, header::SEC_WEBSOCKET_ACCEPT];
/// Time for the reply of another edge. A poll waits for the next ping, 25 s at most.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a reply. Twice what may wait for a client.
const MAX_REPLY_BYTES: usize = 2 * 1024 * 1024;
/// Bytes that are carried at once in each direction of a WebSocket.
const CHUNK_BYTES: usize = 2 * 1024;
/// Time without a byte in one direction, after which that end is gone. The session's edge pings every 25 s, and ends
/// a session whose client has not answered for 45 s.
const SILENT_FOR: Duration = Duration::from_secs(60);
/// Time for one end to take what the other has sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a poll or a WebSocket to end when this edge stops.
const LAST_REPLY_WITHIN: Duration = Duration::from_secs(2);

/// Passes requests on to other edges.
pub struct Forwarder {
    edge: Edge,
    peers: Peers,
    client: NearClient,
    /// One for each request in flight and each WebSocket that is carried.
    places: Arc<Semaphore>,
}

/// Why a request was not passed on.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("failed to find the edge of a session")]
    Lost(#[from] Lost),
    #[error("too many requests are being forwarded")]
    Full,
    #[error("failed to build the forwarded request")]
    Request(#[from] http::Error),
    #[error("failed to send the request")]
    Send(#[from] hyper_util::client::legacy::Error),
    #[error("failed to read the reply")]
    Reply(#[source] BoxError),
    #[error("the edge did not reply in time")]
    Late,
}

/// The edge whose name begins this session id.
pub fn edge_of(sid: &str) -> Option<Uuid> {
    let (edge, session) = sid.split_at_checked(32)?;
    (session.len() == 32).then(|| Uuid::try_parse(edge).ok()).flatten()
}

impl Forwarder {
    /// Passes on at most `places` requests at once.
    pub fn new(edge: Edge, client: NearClient, places: usize) -> Self {
        let peers = Peers::new(edge.context.bus.clone());
        Self { edge, peers, client, places: Arc::new(Semaphore::new(places)) }
    }

    /// The edge that has the session of this request, if it is another one.
    pub fn owner(&self, sid: &str, request: &Request) -> Option<Uuid> {
        let owner = edge_of(sid).filter(|owner| *owner != self.edge.context.edge)?;
        (!request.headers.contains_key(FORWARDED)).then_some(owner)
    }

    /// Lets the session's edge answer a request.
    pub async fn forward(
        self: &Arc<Self>,
        owner: Uuid,
        request: &Request,
        method: Method,
        body: Bytes,
        on_upgrade: Option<OnUpgrade>,
    ) -> Response {
        let metrics = &self.edge.context.metrics;
        metrics.forwarded_session_requests.inc();
        let failed = match self.exchange(owner, request, method, body, on_upgrade).await {
            Ok(response) => return response,
            // The session ended with its edge: the client opens another one at once.
            Err(Failed::Lost(Lost::Gone)) => return Rejection::UnknownSession.into(),
            Err(failed) => failed,
        };
        metrics.failed_session_requests.inc();
        self.peers.forget(owner);
        tracing::debug!(error = %errors::chain(&failed), edge = %owner, "failed to forward a request");
        let busy = matches!(failed, Failed::Full | Failed::Lost(Lost::Busy));
        let code = if busy { Code::Overloaded } else { Code::Unavailable };
        try_again(StatusCode::SERVICE_UNAVAILABLE, code.name(), "The server of this connection cannot be reached now")
    }

    async fn exchange(
        self: &Arc<Self>,
        owner: Uuid,
        request: &Request,
        method: Method,
        body: Bytes,
        on_upgrade: Option<OnUpgrade>,
    ) -> Result<Response, Failed> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Failed::Full)?;
        let address = self.peers.find(owner).await?;
        let is_poll = method == Method::GET && on_upgrade.is_none();
        let forwarded = passed_on(&address, request, method, body, on_upgrade.is_some())?;
        let mut reply = std::pin::pin!(self.send(forwarded));
        let (mut reply, body) = tokio::select! {
            reply = &mut reply => reply?,
            () = self.edge.context.stop.cancelled(), if is_poll => {
                // The poll ends without losing a packet, and the client sends the next one to another edge.
                self.post(&address, request, EnginePacket::Noop).await;
                let (mut reply, body) =
                    tokio::time::timeout(LAST_REPLY_WITHIN, reply).await.map_err(|_| Failed::Late)??;
                reply.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
                (reply, body)
            }
        };
        if reply.status == StatusCode::SWITCHING_PROTOCOLS {
            if let (Some(owner), Some(client)) = (reply.extensions.remove::<OnUpgrade>(), on_upgrade) {
                self.carry(client, owner, address, request, place);
            }
            reply.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            reply.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        let mut response = Response::new(body.into());
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        Ok(response)
    }

    /// Sends a request and reads the whole reply, of which only the headers for the client are kept.
    async fn send(&self, request: http::Request<Full<Bytes>>) -> Result<(http::response::Parts, Bytes), Failed> {
        let exchange = async {
            let (mut parts, body) = self.client.request(request).await?.into_parts();
            parts.headers =
                PASSED_BACK.into_iter().filter_map(|name| Some((name.clone(), parts.headers.remove(name)?))).collect();
            if parts.status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok((parts, Bytes::new()));
            }
            let body = Limited::new(body, MAX_REPLY_BYTES).collect().await.map_err(Failed::Reply)?.to_bytes();
            Ok((parts, body))
        };
        tokio::time::timeout(REPLY_TIMEOUT, exchange).await.map_err(|_| Failed::Late)?
    }

    /// Posts a packet to a session on behalf of this edge, which stops.
    async fn post(&self, address: &Origin, request: &Request, packet: EnginePacket<'_>) {
        let body = Bytes::from(packet.encode());
        let sent = async { self.send(passed_on(address, request, Method::POST, body, false)?).await };
        match tokio::time::timeout(LAST_REPLY_WITHIN, sent).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(error = %errors::chain(&error), "failed to end a forwarded connection"),
            Err(_) => tracing::debug!("a forwarded connection did not end in time"),
        }
    }

    /// Carries a WebSocket between the client and the session's edge until either ends it. If this edge stops, the
    /// session ends as if its own edge did, and the client opens another one.
    fn carry(
        self: &Arc<Self>,
        client: OnUpgrade,
        owner: OnUpgrade,
        address: Origin,
        request: &Request,
        place: OwnedSemaphorePermit,
    ) {
        let forwarder = Arc::clone(self);
        let request =
            Request { headers: request.headers.clone(), query: request.query.clone(), client: request.client };
        self.edge.track(async move {
            let mut carrying = std::pin::pin!(carry_bytes(client, owner));
            tokio::select! {
                () = &mut carrying => {}
                () = forwarder.edge.context.stop.cancelled() => {
                    forwarder.post(&address, &request, EnginePacket::Close).await;
                    if tokio::time::timeout(LAST_REPLY_WITHIN, carrying).await.is_err() {
                        tracing::debug!("cut a forwarded WebSocket that did not end in time");
                    }
                }
            }
            drop(place);
        });
    }
}

/// The request for the session's edge. The address of the client goes with it, for the limits of an address.
fn passed_on(
    address: &Origin,
    request: &Request,
    method: Method,
    body: Bytes,
    upgrade: bool,
) -> Result<http::Request<Full<Bytes>>, http::Error> {
    let path = format!("/socket.io/?{}", request.query);
    let uri = address.uri(path.parse().map_err(http::Error::from)?);
    let mut forwarded = http::Request::builder().method(method).uri(uri).header(FORWARDED, "1");
    for name in PASSED_ON {
        if let Some(value) = request.headers.get(&name) {
            forwarded = forwarded.header(name, value);
        }
    }
    if upgrade {
        forwarded = forwarded.header(header::CONNECTION, "upgrade").header(header::UPGRADE, "websocket");
    }
    if let Some(client) = request.client.0 {
        forwarded = forwarded.header(FORWARDED_FOR, client.to_string());
    }
    forwarded.body(Full::new(body))
}

async fn carry_bytes(client: OnUpgrade, owner: OnUpgrade) {
    let opened = tokio::time::timeout(CONNECT_WITHIN, async { tokio::try_join!(client, owner) }).await;
    let Ok(Ok((client, owner))) = opened else { return };
    let (from_client, to_client) = tokio::io::split(TokioIo::new(client));
    let (from_owner, to_owner) = tokio::io::split(TokioIo::new(owner));
    // The first end that closes, fails or falls silent ends both directions: what it had sent before has been written.
    tokio::select! {
        () = pump(from_client, to_owner) => {}
        () = pump(from_owner, to_client) => {}
    }
}

/// Carries one direction.
async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        let Ok(Ok(length @ 1..)) = tokio::time::timeout(SILENT_FOR, from.read(&mut chunk)).await else { return };
        let written = tokio::time::timeout(WRITE_TIMEOUT, to.write_all(&chunk[..length])).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    #[test]
    fn session_id_names_its_edge() {
        let edge = Uuid::from_u128(17);
        let sid = format!("{}{}", edge.simple(), Uuid::from_u128(4).simple());
        assert_eq!(edge_of(&sid), Some(edge));
        let shifted = format!("ä{}", &sid[2..]);
        let injected = format!("*.>{}", &sid[3..]);
        for other in ["", "unknown", &sid[..63], &format!("{sid}0"), &shifted, &injected] {
            assert_eq!(edge_of(other), None, "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silent_or_stuck_end_ends_the_carrying() {
        let (from, _silent) = duplex(8);
        let since = tokio::time::Instant::now();
        pump(from, tokio::io::sink()).await;
        assert_eq!(since.elapsed(), SILENT_FOR);

        let (mut sender, from) = duplex(8);
        let (to, _stuck) = duplex(1);
        sender.write_all(b"four").await.expect("the pipe has room");
        let since = tokio::time::Instant::now();
        pump(from, to).await;
        assert_eq!(since.elapsed(), WRITE_TIMEOUT);
    }
}
