//! One Engine.IO session: its timeouts, its WebSocket, and the Socket.IO packets that it carries.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use protocol::frames::close;
use protocol::input::MAX_BODY_BYTES;
use protocol::socketio::{EnginePacket, SocketPacket, name_and_data};
use protocol::{Code, Failure};
use serde_json::json;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use crate::edge::Edge;
use crate::entry::{Entry, Shown};
use crate::event::{Outgoing, ReplyTo};
use crate::pace::TooFast;
use crate::places::{NoPlace, Place};
use crate::session::Session;
use crate::transport::framing::Transport;
use crate::transport::send_queue::SendQueue;
use crate::transport::socket::{End, Socket, answer_close, close_socket, flush, hand_over};
use crate::upgrade::Request;

/// Interval between two pings of the server.
const PING_EVERY: Duration = Duration::from_secs(25);
/// Time for the client to answer a ping.
const PONG_WITHIN: Duration = Duration::from_secs(20);
/// Time from the handshake to the namespace's CONNECT. CONTRACT.md, Connecting.
const CONNECT_NAMESPACE_WITHIN: Duration = Duration::from_secs(3);
/// Time for a WebSocket to open, and from its opening to the upgrade.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Packets before the CONNECT. A client sends none but a few that it sends again, and each may be answered.
const MAX_EARLY_PACKETS: u32 = 16;
/// Bytes of a ping's payload and of a namespace, which are repeated in the answer. The longest in use is `probe`.
const MAX_REPEATED_BYTES: usize = 64;
/// Time from the end of a session to the poll that takes the last packets and the close.
const LAST_POLL_WITHIN: Duration = Duration::from_secs(2);

/// The sessions of this edge, by their id.
#[derive(Clone, Default)]
pub struct Engines(Arc<Mutex<HashMap<String, Arc<Engine>>>>);

/// One Engine.IO session. Its transport may change from polling to WebSocket; the session stays.
pub struct Engine {
    /// The name of the edge, then one of the session: a request that reaches another edge is passed on.
    sid: String,
    /// The token of the handshake, in its query or `Authorization`; `auth` may carry another.
    token: Option<String>,
    edge: Edge,
    place: Arc<Mutex<Place>>,
    /// Packets received before the CONNECT.
    early_packets: AtomicU32,
    /// Where packets for the client go.
    pub queue: Arc<SendQueue>,
    /// None until the namespace is connected.
    session: tokio::sync::Mutex<Option<Session>>,
    last_received: Mutex<Instant>,
    /// The right to take from the queue: one poll at a time, or the WebSocket for good. Closed when no poll may have it
    /// any more.
    pub reading: Semaphore,
    /// The right to be the session's one WebSocket, from its handshake to its end.
    pub upgrading: Arc<Semaphore>,
    /// A WebSocket has probed and may take over at any time: no poll may wait.
    probing: AtomicBool,
    /// A WebSocket has probed, or the client has closed: the waiting poll must end.
    released: Notify,
    /// Wakes the keeper after a change that it must react to.
    changed: Notify,
    /// The session has ended.
    pub closed: CancellationToken,
    /// The last packets and the close have been taken.
    pub flushed: Notify,
}

/// The outcome of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// It was handled.
    Handled,
    /// It was none of Engine.IO.
    Invalid,
    /// The client sends too fast.
    TooFast,
}

impl Engines {
    /// The session with this id.
    pub fn find(&self, sid: &str) -> Option<Arc<Engine>> {
        self.lock().get(sid).cloned()
    }

    /// Opens a session and its keeper. A valid token in the request gives the session the place of an authenticated
    /// connection at once.
    ///
    /// # Errors
    /// When there is no place for it.
    pub async fn open(&self, edge: &Edge, request: &Request) -> Result<Arc<Engine>, NoPlace> {
        let mut place = edge.enter(request.client)?;
        let token = request.token();
        if let Some(token) = &token
            && let Ok(identity) = edge.context.verifier.verify(token).await
        {
            place.authenticate(identity.person.user_id)?;
        }
        let evicted = place.evicted();
        let engine = Arc::new(Engine {
            sid: format!("{}{}", edge.context.edge.simple(), uuid::Uuid::new_v4().simple()),
            token,
            edge: edge.clone(),
            place: Arc::new(Mutex::new(place)),
            early_packets: AtomicU32::new(0),
            queue: Arc::new(edge.context.send_queue(Transport::SocketIo)),
            session: tokio::sync::Mutex::default(),
            last_received: Mutex::new(Instant::now()),
            reading: Semaphore::new(1),
            upgrading: Arc::new(Semaphore::new(1)),
            probing: AtomicBool::new(false),
            released: Notify::new(),
            changed: Notify::new(),
            closed: CancellationToken::new(),
            flushed: Notify::new(),
        });
        self.lock().insert(engine.sid.clone(), Arc::clone(&engine));
        let (engines, kept) = (self.clone(), Arc::clone(&engine));
        edge.run(async move {
            let spoke = tokio::select! {
                spoke = kept.keep() => spoke,
                () = evicted.cancelled() => kept.give_way().await,
            };
            kept.closed.cancel();
            *kept.session.lock().await = None;
            if spoke {
                // The reader takes what is left and the close; a client that polls may be between two polls.
                drop(tokio::time::timeout(LAST_POLL_WITHIN, kept.flushed.notified()).await);
            }
            engines.lock().remove(&kept.sid);
        });
        Ok(engine)
    }

    /// A poisoned lock is still used: each change of the map is one call, so no panic leaves it half changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Engine>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// The handshake packet, which offers these upgrades.
    pub fn handshake(&self, upgrades: &[&str]) -> String {
        let open = json!({
            "sid": self.sid,
            "upgrades": upgrades,
            "pingInterval": PING_EVERY.as_millis(),
            "pingTimeout": PONG_WITHIN.as_millis(),
            "maxPayload": MAX_BODY_BYTES,
        });
        EnginePacket::Open(&open.to_string()).encode()
    }

    /// Watches over the session until it ends: pings, the token's expiry, the stop. False if it ends because its
    /// namespace was never connected.
    async fn keep(&self) -> bool {
        let connect_by = Instant::now() + CONNECT_NAMESPACE_WITHIN;
        let mut pings = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        loop {
            let next = match &*self.session.lock().await {
                Some(session) => Instant::now() + session.until_expiry(),
                None => connect_by,
            };
            tokio::select! {
                () = self.closed.cancelled() => return true,
                () = self.edge.context.stop.cancelled() => {
                    if let Some(session) = &*self.session.lock().await {
                        session.drain().await;
                    }
                    return true;
                }
                () = self.changed.notified() => {}
                _ = pings.tick() => {
                    let silent = self.last_received.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
                    if silent > PING_EVERY + PONG_WITHIN {
                        return true;
                    }
                    self.queue.send_text(&EnginePacket::Ping("").encode());
                }
                () = tokio::time::sleep_until(next) => match &mut *self.session.lock().await {
                    Some(session) => if session.expire() { return true },
                    None => return false,
                },
            }
        }
    }

    /// The session gives way to another connection. True if its client is notified.
    async fn give_way(&self) -> bool {
        let session = self.session.lock().await;
        if let Some(session) = &*session {
            session.give_way();
        }
        session.is_some()
    }

    /// A WebSocket is to replace polling: answers its probe, ends the waiting poll, waits for the upgrade. False if the
    /// client does not upgrade.
    pub async fn take_over(&self, socket: &mut Socket) -> bool {
        let probe = async {
            let probe = next_text(socket).await?;
            let EnginePacket::Ping(payload @ "probe") = EnginePacket::decode(&probe)? else { return None };
            socket.send(Message::text(EnginePacket::Pong(payload).encode())).await.ok()?;
            self.probing.store(true, Ordering::Relaxed);
            self.released.notify_one();
            let upgrade = next_text(socket).await?;
            (EnginePacket::decode(&upgrade)? == EnginePacket::Upgrade).then_some(())
        };
        let upgraded = tokio::select! {
            upgraded = tokio::time::timeout(CONNECT_WITHIN, probe) => upgraded.ok().flatten().is_some(),
            () = self.closed.cancelled() => false,
        };
        if !upgraded {
            // Polling goes on.
            self.probing.store(false, Ordering::Relaxed);
            close_socket(socket, close::DRAINING, "not upgraded").await;
        }
        upgraded
    }

    /// Carries the session over a WebSocket until it ends.
    pub async fn serve(&self, socket: &mut Socket) {
        // A poll that waits ends at once.
        let reading = tokio::time::timeout(CONNECT_WITHIN, self.reading.acquire());
        let Ok(Ok(_reading)) = reading.await else { return self.closed.cancel() };
        self.reading.close();
        self.probing.store(false, Ordering::Relaxed);
        Box::pin(hand_over(socket, &self.queue)).await;
        let mut writer = pin!(self.queue.run());
        // Created once, see the plain transport.
        let mut closed = pin!(self.closed.cancelled());
        let end = loop {
            tokio::select! {
                biased;
                error = &mut writer => break error.into(),
                () = &mut closed => {
                    Box::pin(flush(socket)).await;
                    break End::Close(close::DRAINING, "closed by the server");
                }
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        if self.receive(&text).await == Received::TooFast {
                            break End::Close(close::TOO_SLOW, "sent faster than allowed");
                        }
                    }
                    // Binary frames are attachments of a binary event that has been rejected already; the others carry
                    // no packet.
                    Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                        if self.keep_pace().await.is_err() {
                            break End::Close(close::TOO_SLOW, "sent faster than allowed");
                        }
                    }
                    Some(Ok(Message::Close(_))) => break Box::pin(answer_close(socket)).await,
                    None => break End::Gone,
                    Some(Err(error)) => break End::of(&error),
                },
            }
        };
        self.closed.cancel();
        if let End::Close(code, reason) = end {
            self.edge.context.count_close(code);
            Box::pin(close_socket(socket, code, reason)).await;
        }
        self.flushed.notify_one();
    }

    /// Whether a poll must be answered at once because a WebSocket may take over.
    pub fn is_probing(&self) -> bool {
        self.probing.load(Ordering::Relaxed)
    }

    /// Completes when the waiting poll must end: at once while a WebSocket probes.
    pub async fn released(&self) {
        if !self.is_probing() {
            self.released.notified().await;
        }
    }

    /// Whether a request may use this session: it carries no token, or one of the session's person.
    pub async fn admits(&self, request: &Request) -> bool {
        let Some(token) = request.token().filter(|token| self.token.as_ref() != Some(token)) else { return true };
        let Some(user_id) = self.session.lock().await.as_ref().and_then(Session::user_id) else { return true };
        let verified = self.edge.context.verifier.verify(&token).await;
        verified.is_ok_and(|identity| identity.person.user_id == user_id)
    }

    /// Counts one packet or frame of the client. Returns when the next one may be read.
    async fn keep_pace(&self) -> Result<(), TooFast> {
        if let Some(session) = &mut *self.session.lock().await {
            return session.keep_pace().await;
        }
        let early = self.early_packets.fetch_add(1, Ordering::Relaxed);
        if early < MAX_EARLY_PACKETS { Ok(()) } else { Err(TooFast) }
    }

    /// Handles one Engine.IO packet of the client. If it is none, or comes too fast, the session is closed.
    pub async fn receive(&self, packet: &str) -> Received {
        *self.last_received.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if self.keep_pace().await.is_err() {
            self.end_now();
            return Received::TooFast;
        }
        match EnginePacket::decode(packet) {
            Some(EnginePacket::Message(packet)) => self.message(packet).await,
            Some(EnginePacket::Ping(payload)) if payload.len() <= MAX_REPEATED_BYTES => {
                self.queue.send_text(&EnginePacket::Pong(payload).encode());
            }
            // The attachments of a binary event follow it; the event itself has been rejected already.
            Some(EnginePacket::Pong(_) | EnginePacket::Upgrade | EnginePacket::Binary(_)) => {}
            // From an edge that passed a poll on and stops.
            Some(EnginePacket::Noop) => self.released.notify_one(),
            Some(EnginePacket::Close) => {
                self.released.notify_one();
                self.end_now();
            }
            Some(EnginePacket::Ping(_) | EnginePacket::Open(_)) | None => {
                self.end_now();
                return Received::Invalid;
            }
        }
        Received::Handled
    }

    /// Ends the session at once: no further poll gets anything.
    pub fn end_now(&self) {
        self.closed.cancel();
        self.reading.close();
    }

    async fn message(&self, packet: &str) {
        let Some((namespace, packet)) = SocketPacket::decode(packet) else { return self.closed.cancel() };
        if namespace.len() > MAX_REPEATED_BYTES {
            return self.closed.cancel();
        }
        if namespace != "/" {
            if matches!(packet, SocketPacket::Connect(_)) {
                let error = json!({"message": "Invalid namespace"}).to_string();
                self.send(namespace, SocketPacket::ConnectError(&error));
            }
            return;
        }
        let mut session = self.session.lock().await;
        match (packet, &mut *session) {
            (SocketPacket::Connect(auth), None) => {
                *session = self.connect(auth).await;
                self.changed.notify_one();
            }
            (SocketPacket::Disconnect, Some(_)) => {
                *session = None;
                self.closed.cancel();
            }
            (SocketPacket::Event { number, list }, Some(session)) => match name_and_data(list) {
                Some((event, data)) => {
                    let reply_to = number.map_or(ReplyTo::Nothing, ReplyTo::Acknowledge);
                    session.request(&event, data, reply_to).await;
                    self.changed.notify_one();
                }
                None => self.reject("An event is a list of its name and its data", number),
            },
            (SocketPacket::Acknowledgement { .. }, Some(_)) => {}
            (
                SocketPacket::BinaryEvent { number, .. } | SocketPacket::BinaryAcknowledgement { number, .. },
                Some(_),
            ) => self.reject("Binary data is not understood here", number),
            // Before the namespace is connected nothing may be sent, and it connects once.
            _ => self.closed.cancel(),
        }
    }

    fn send(&self, namespace: &str, packet: SocketPacket<'_>) {
        self.queue.send_text(&packet.message(namespace));
    }

    fn reject(&self, sentence: &str, number: Option<u64>) {
        let reply_to = number.map_or(ReplyTo::Nothing, ReplyTo::Acknowledge);
        self.queue.send(&Outgoing::error(&Failure::new(Code::InvalidRequest, sentence), reply_to));
    }

    /// Connects the namespace: begins a session, or sends the error that the client shows as `connect_error`.
    async fn connect(&self, auth: &str) -> Option<Session> {
        let shown = match (Shown::in_connect(auth), &self.token) {
            // The token of the handshake counts, unless there is another.
            (Shown::Nothing | Shown::Anonymous, Some(token)) => Shown::Token(token.clone()),
            (shown, _) => shown,
        };
        let verified = match shown {
            Shown::Token(token) => self.edge.context.verifier.verify(&token).await.map(Some),
            Shown::Anonymous => Ok(None),
            Shown::Nothing => Err(identity::TokenError::Missing),
        };
        let connected = verified.map_err(Failure::from).and_then(|identity| {
            let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
            let frames = place.take(identity.as_ref().map(|identity| identity.person.user_id));
            let frames = frames.map_err(|no_place| self.edge.reject(no_place).failure())?;
            Ok(Entry { identity, frames })
        });
        match connected {
            Ok(entry) => {
                let connection = json!({"sid": uuid::Uuid::new_v4().simple().to_string()}).to_string();
                self.send("/", SocketPacket::Connect(&connection));
                let (rooms, place) = (Arc::clone(&self.edge.rooms), Arc::clone(&self.place));
                Some(Session::begin(rooms, entry, place, Arc::clone(&self.queue)))
            }
            Err(Failure { error, code, .. }) => {
                let error = json!({"message": error, "data": {"code": code, "error": error}}).to_string();
                self.send("/", SocketPacket::ConnectError(&error));
                None
            }
        }
    }
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
