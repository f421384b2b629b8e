//! The Socket.IO door: Socket.IO v4 over Engine.IO 4, by long polling, by WebSocket, and from the one to
//! the other, for the ready-made clients.
//!
//! Written here instead of taken from a library, for three reasons. Amounts must be read from the text of
//! a message (a library hands out parsed JSON, in which `1e3` and `1.001` are floats already). An event
//! must be framed once for all who get it. And a connection must stay as small as a plain one. The
//! protocols: <https://socket.io/docs/v4/engine-io-protocol/>, <https://socket.io/docs/v4/socket-io-protocol/>.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use protocol::frames::close;
use protocol::input::MAX_BODY_BYTES;
use protocol::{Code, Failure};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use service::http::origin_allowed;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use warp::reply::Response;

use crate::edge::Edge;
use crate::mailbox::Mailbox;
use crate::outgoing::{Door, Outgoing, To, text_in};
use crate::plain::{End, Socket, answer_close, close_socket, flush, hand_over};
use crate::session::{Session, token_of};
use crate::upgrade::{foreign_origin, no_place, parameter, upgrade};

const PING_EVERY: Duration = Duration::from_secs(25);
/// The client must answer a ping within this.
const PONG_WITHIN: Duration = Duration::from_secs(20);
/// From the handshake to the namespace's CONNECT, and from a probe to the upgrade.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// From the end of a session to the poll that is told of it.
const LAST_POLL_WITHIN: Duration = Duration::from_secs(2);
/// Between the packets of one polling body.
const SEPARATOR: char = '\u{1e}';
const NOOP: &str = "6";
const CLOSE: &str = "1";

/// All Socket.IO connections of this edge, by their Engine.IO session.
pub struct SocketIo {
    edge: Edge,
    engines: Arc<Engines>,
}

type Engines = Mutex<HashMap<String, Arc<Engine>>>;

fn lock(engines: &Engines) -> MutexGuard<'_, HashMap<String, Arc<Engine>>> {
    // The map is whole after every statement, so a panic elsewhere leaves nothing half done.
    engines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One Engine.IO session: its transport may change, it stays.
struct Engine {
    sid: String,
    /// The token in the query of the handshake; `auth` may carry another.
    query_token: Option<String>,
    edge: Edge,
    mailbox: Arc<Mailbox>,
    /// None until the namespace is connected.
    session: tokio::sync::Mutex<Option<Session>>,
    heard: Mutex<Instant>,
    /// Who may take from the mailbox: one poll at a time, or the WebSocket for good.
    reading: Semaphore,
    /// A WebSocket has probed: the poll that waits must go.
    released: Notify,
    /// Something has changed that the keeper waits for.
    changed: Notify,
    closed: CancellationToken,
    /// The last frames and the close have been taken.
    flushed: Notify,
}

impl SocketIo {
    pub fn new(edge: Edge) -> Self {
        Self { edge, engines: Arc::default() }
    }

    /// A handshake, a poll or a WebSocket.
    pub async fn get(&self, headers: &HeaderMap, query: &str, on_upgrade: Option<OnUpgrade>) -> Response {
        if parameter(query, "EIO") != Some("4") {
            return refusal(5, "Unsupported protocol version");
        }
        if !origin_allowed(headers, &self.edge.parts.origins) {
            return foreign_origin();
        }
        match (parameter(query, "transport"), parameter(query, "sid")) {
            (Some("polling"), Some(sid)) => match self.find(sid) {
                Some(engine) => engine.poll().await,
                None => unknown_session(),
            },
            (Some("polling"), None) => match self.open(query) {
                Some(engine) => text(engine.handshake(&["websocket"])),
                None => no_place(),
            },
            (Some("websocket"), sid) => self.websocket(headers, query, sid, on_upgrade),
            _ => refusal(0, "Transport unknown"),
        }
    }

    /// Packets of a client that polls.
    pub async fn post(&self, query: &str, body: &[u8]) -> Response {
        let Some(engine) = parameter(query, "sid").and_then(|sid| self.find(sid)) else { return unknown_session() };
        let Ok(body) = std::str::from_utf8(body) else {
            engine.closed.cancel();
            return refusal(3, "Bad request");
        };
        for packet in body.split(SEPARATOR) {
            engine.receive(packet).await;
        }
        text("ok".to_owned())
    }

    fn find(&self, sid: &str) -> Option<Arc<Engine>> {
        lock(&self.engines).get(sid).cloned()
    }

    /// Opens a session and its keeper; None where there is no place.
    fn open(&self, query: &str) -> Option<Arc<Engine>> {
        let place = self.edge.place()?;
        let engine = Arc::new(Engine {
            sid: uuid::Uuid::new_v4().simple().to_string(),
            query_token: parameter(query, "token").map(str::to_owned),
            edge: self.edge.clone(),
            mailbox: Arc::new(self.edge.parts.mailbox(Door::SocketIo)),
            session: tokio::sync::Mutex::default(),
            heard: Mutex::new(Instant::now()),
            reading: Semaphore::new(1),
            released: Notify::new(),
            changed: Notify::new(),
            closed: CancellationToken::new(),
            flushed: Notify::new(),
        });
        lock(&self.engines).insert(engine.sid.clone(), Arc::clone(&engine));
        let (engines, kept) = (Arc::clone(&self.engines), Arc::clone(&engine));
        self.edge.run(place, async move {
            kept.keep().await;
            kept.closed.cancel();
            *kept.session.lock().await = None;
            // Whoever reads takes what is left and the close; one that polls may be between two polls.
            drop(tokio::time::timeout(LAST_POLL_WITHIN, kept.flushed.notified()).await);
            lock(&engines).remove(&kept.sid);
        });
        Some(engine)
    }

    fn websocket(
        &self,
        headers: &HeaderMap,
        query: &str,
        sid: Option<&str>,
        on_upgrade: Option<OnUpgrade>,
    ) -> Response {
        let known = match sid.map(|sid| self.find(sid)) {
            Some(None) => return unknown_session(),
            Some(Some(engine)) => Some(engine),
            None => None,
        };
        let (response, socket) = match upgrade(&self.edge, headers, on_upgrade) {
            Ok(accepted) => accepted,
            Err(refused) => return *refused,
        };
        let is_new = known.is_none();
        let Some(engine) = known.or_else(|| self.open(query)) else { return no_place() };
        tokio::spawn(async move {
            let Some(mut socket) = socket.await else {
                if is_new {
                    engine.closed.cancel();
                }
                return;
            };
            if is_new {
                engine.mailbox.raw(&engine.handshake(&[]));
            } else if !engine.take_over(&mut socket).await {
                return;
            }
            engine.serve(socket).await;
        });
        response
    }
}

impl Engine {
    fn handshake(&self, upgrades: &[&str]) -> String {
        let open = json!({
            "sid": self.sid,
            "upgrades": upgrades,
            "pingInterval": PING_EVERY.as_millis(),
            "pingTimeout": PONG_WITHIN.as_millis(),
            "maxPayload": MAX_BODY_BYTES,
        });
        format!("0{open}")
    }

    /// Watches over the session until it ends: pings, the token's expiry, the stop.
    async fn keep(&self) {
        let connect_by = Instant::now() + CONNECT_WITHIN;
        let mut pings = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        loop {
            let next = match &*self.session.lock().await {
                Some(session) => Instant::now() + session.until_expiry(),
                None => connect_by,
            };
            tokio::select! {
                () = self.closed.cancelled() => return,
                () = self.edge.parts.stop.cancelled() => {
                    if let Some(session) = &*self.session.lock().await {
                        session.drain().await;
                    }
                    return;
                }
                () = self.changed.notified() => {}
                _ = pings.tick() => {
                    let silent = self.heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
                    if silent > PING_EVERY + PONG_WITHIN {
                        return;
                    }
                    self.mailbox.raw("2");
                }
                () = tokio::time::sleep_until(next) => match &mut *self.session.lock().await {
                    Some(session) => if session.expire() { return },
                    None => return,
                },
            }
        }
    }

    /// Waits for something to send, as the reply to a poll.
    async fn poll(&self) -> Response {
        let Ok(_reading) = self.reading.try_acquire() else {
            // Two polls at once: the client has lost track.
            self.closed.cancel();
            return refusal(3, "Bad request");
        };
        loop {
            let closed = tokio::select! {
                biased;
                () = self.mailbox.news() => false,
                () = self.released.notified() => return text(NOOP.to_owned()),
                () = self.closed.cancelled() => true,
            };
            let Some(frames) = self.mailbox.take() else {
                // It cannot keep up. It may come back and resume.
                self.closed.cancel();
                return text(CLOSE.to_owned());
            };
            let mut packets: Vec<&str> = frames.iter().map(|frame| text_in(frame)).collect();
            if closed {
                packets.push(CLOSE);
                self.flushed.notify_one();
            }
            if !packets.is_empty() {
                return text(packets.join(&SEPARATOR.to_string()));
            }
        }
    }

    /// A WebSocket wants to replace polling: probe, release the poll that waits, upgrade.
    async fn take_over(&self, socket: &mut Socket) -> bool {
        let probe = async {
            if next_text(socket).await? != "2probe" {
                return None;
            }
            socket.send(Message::text("3probe")).await.ok()?;
            self.released.notify_one();
            (next_text(socket).await? == "5").then_some(())
        };
        let upgraded = tokio::time::timeout(CONNECT_WITHIN, probe).await.ok().flatten().is_some();
        if !upgraded {
            // Polling goes on.
            close_socket(socket, close::DRAINING, "not upgraded").await;
        }
        upgraded
    }

    /// Carries the session over a WebSocket until it ends.
    async fn serve(&self, mut socket: Socket) {
        let Ok(_reading) = self.reading.acquire().await else { return };
        hand_over(&mut socket, &self.mailbox).await;
        let mut delivering = pin!(self.mailbox.deliver());
        // Made once, see the plain door.
        let mut closed = pin!(self.closed.cancelled());
        let end = loop {
            tokio::select! {
                biased;
                stuck = &mut delivering => break stuck.into(),
                () = &mut closed => {
                    flush(&mut socket).await;
                    break End::Close(close::DRAINING, "closed by the server");
                }
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => self.receive(&text).await,
                    // Attachments of a binary event, which was refused when it came.
                    Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                    Some(Ok(Message::Close(_))) => break answer_close(&mut socket).await,
                    None => break End::Gone,
                    Some(Err(error)) => break End::of(&error),
                },
            }
        };
        self.closed.cancel();
        if let End::Close(code, reason) = end {
            self.edge.parts.closing(code);
            close_socket(&mut socket, code, reason).await;
        }
        self.flushed.notify_one();
    }

    async fn receive(&self, packet: &str) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let mut rest = packet.chars();
        match rest.next() {
            Some('4') => self.message(rest.as_str()).await,
            Some('2') => self.mailbox.raw(&format!("3{}", rest.as_str())),
            Some('3' | '5' | '6') => {}
            // A close, or nothing that Engine.IO knows.
            _ => self.closed.cancel(),
        }
    }

    async fn message(&self, packet: &str) {
        let Some(packet) = Packet::read(packet) else { return self.closed.cancel() };
        if packet.namespace != "/" {
            if packet.kind == '0' {
                let namespace = packet.namespace;
                self.mailbox.raw(&format!("44{namespace},{}", json!({"message": "Invalid namespace"})));
            }
            return;
        }
        let mut session = self.session.lock().await;
        match (packet.kind, &mut *session) {
            ('0', None) => {
                *session = self.connect(packet.data).await;
                self.changed.notify_one();
            }
            ('1', Some(_)) => {
                *session = None;
                self.closed.cancel();
            }
            ('2', Some(session)) => match event(packet.data) {
                Some((event, data)) => {
                    let to = packet.number.map_or(To::Anybody, To::Acknowledge);
                    session.request(&event, data, to).await;
                    self.changed.notify_one();
                }
                None => self.refuse("An event is a list of its name and its data", packet.number),
            },
            ('3', Some(_)) => {}
            ('5' | '6', Some(_)) => self.refuse("Binary data is not understood here", packet.number),
            // Before the namespace is connected nothing may be sent, and it connects once.
            _ => self.closed.cancel(),
        }
    }

    fn refuse(&self, sentence: &str, number: Option<u64>) {
        let to = number.map_or(To::Anybody, To::Acknowledge);
        self.mailbox.push(&Outgoing::error(&Failure::new(Code::InvalidRequest, sentence), to));
    }

    /// The namespace's CONNECT: a session, or `connect_error` at the client.
    async fn connect(&self, auth: &str) -> Option<Session> {
        let auth = serde_json::from_str::<&RawValue>(auth).ok().and_then(token_of);
        let parts = &self.edge.parts;
        let verified = match auth.as_deref().or(self.query_token.as_deref()) {
            Some(token) => parts.verifier.verify(token).await,
            None => Err(identity::TokenError::Missing),
        };
        match verified {
            Ok(identity) => {
                self.mailbox.raw(&format!("40{}", json!({"sid": uuid::Uuid::new_v4().simple().to_string()})));
                Some(Session::begin(Arc::clone(parts), identity, Arc::clone(&self.mailbox)))
            }
            Err(error) => {
                let Failure { error, code } = error.into();
                self.mailbox.raw(&format!("44{}", json!({"message": error, "data": {"code": code, "error": error}})));
                None
            }
        }
    }
}

/// One Socket.IO packet, taken apart.
struct Packet<'a> {
    kind: char,
    namespace: &'a str,
    /// The acknowledgement that the client wants.
    number: Option<u64>,
    data: &'a str,
}

impl<'a> Packet<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let kind = text.chars().next().filter(|kind| ('0'..='6').contains(kind))?;
        let mut rest = &text[1..];
        if matches!(kind, '5' | '6') {
            // The number of attachments.
            rest = rest.split_once('-')?.1;
        }
        let mut namespace = "/";
        if rest.starts_with('/') {
            (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
        }
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number = if digits == 0 { None } else { Some(rest[..digits].parse().ok()?) };
        Some(Self { kind, namespace, number, data: &rest[digits..] })
    }
}

/// Name and data of `["name", data, …]`.
fn event(list: &str) -> Option<(String, &str)> {
    #[derive(Deserialize)]
    struct List<'a>(#[serde(borrow)] Vec<&'a RawValue>);
    let List(parts) = serde_json::from_str(list).ok()?;
    let name = serde_json::from_str(parts.first()?.get()).ok()?;
    Some((name, parts.get(1).map_or("{}", |data| data.get())))
}

async fn next_text(socket: &mut Socket) -> Option<String> {
    loop {
        match socket.next().await?.ok()? {
            Message::Text(text) => return Some(text.to_string()),
            Message::Ping(_) | Message::Pong(_) => {}
            _ => return None,
        }
    }
}

fn text(body: String) -> Response {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Engine.IO's own list of errors.
fn refusal(code: u8, message: &str) -> Response {
    service::http::json(StatusCode::BAD_REQUEST, &json!({"code": code, "message": message}))
}

fn unknown_session() -> Response {
    refusal(1, "Session ID unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_taken_apart() {
        let check = |text: &str, expected: Option<(char, &str, Option<u64>, &str)>| {
            let read = Packet::read(text).map(|packet| (packet.kind, packet.namespace, packet.number, packet.data));
            assert_eq!(read, expected, "{text}");
        };
        check("0", Some(('0', "/", None, "")));
        check(r#"0{"token":"t"}"#, Some(('0', "/", None, r#"{"token":"t"}"#)));
        check("0/admin,", Some(('0', "/admin", None, "")));
        check("1/admin", Some(('1', "/admin", None, "")));
        check(r#"2["ping"]"#, Some(('2', "/", None, r#"["ping"]"#)));
        check(r#"212["ping",{}]"#, Some(('2', "/", Some(12), r#"["ping",{}]"#)));
        check(r#"51-7["x",{}]"#, Some(('5', "/", Some(7), r#"["x",{}]"#)));
        for bad in ["", "7", "x", "5[]", "299999999999999999999999[]"] {
            check(bad, None);
        }
    }

    #[test]
    fn events_keep_their_text() {
        let check = |list: &str, expected: Option<(&str, &str)>| {
            let read = event(list);
            assert_eq!(read.as_ref().map(|(name, data)| (name.as_str(), *data)), expected, "{list}");
        };
        check(r#"["place_bid",{"amount":1e3}]"#, Some(("place_bid", r#"{"amount":1e3}"#)));
        check(r#"["ping"]"#, Some(("ping", "{}")));
        for bad in ["", "[]", "{}", "[5]", r#"["a""#, r#"{"a":1}"#] {
            check(bad, None);
        }
    }
}
