//! A client of the edge over either transport. Its Socket.IO uses only the WebSocket transport and answers pings. It
//! spells packets as the server does, so it does not test the protocol: the tests of `flash` do, with raw bytes and with
//! the client from npm.

use std::collections::VecDeque;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use protocol::socketio::{EnginePacket, SocketPacket};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Time to wait for a frame.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The protocol of a connection to the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// JSON frames over a WebSocket.
    Plain,
    /// Socket.IO over a WebSocket.
    SocketIo,
}

impl Transport {
    /// Every transport.
    pub const ALL: [Self; 2] = [Self::Plain, Self::SocketIo];

    /// Its name in arguments of commands.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::SocketIo => "socket-io",
        }
    }

    /// The text of a request with this id.
    #[must_use]
    pub fn request(self, event: &str, data: &Value, id: u64) -> String {
        match self {
            Self::Plain => json!({"event": event, "data": data, "id": id}).to_string(),
            Self::SocketIo => {
                SocketPacket::Event { number: Some(id), list: &json!([event, data]).to_string() }.message("/")
            }
        }
    }

    /// The event or acknowledgement in a text, as `{"event","data","id"?}`. None for other packets.
    ///
    /// # Errors
    /// When the server rejected the connect, or the text is not understood.
    pub fn frame(self, text: &str) -> Result<Option<Value>> {
        if self == Self::Plain {
            return Ok(Some(serde_json::from_str(text)?));
        }
        let Some(EnginePacket::Message(packet)) = EnginePacket::decode(text) else { return Ok(None) };
        let (_, packet) = SocketPacket::decode(packet).with_context(|| format!("not a packet: {text}"))?;
        match packet {
            SocketPacket::ConnectError(error) => bail!("rejected: {error}"),
            SocketPacket::Event { list, .. } => {
                let list: Value = serde_json::from_str(list)?;
                Ok(Some(json!({"event": list[0], "data": list[1]})))
            }
            SocketPacket::Acknowledgement { number, list } => {
                let id = number.context("an acknowledgement has a number")?;
                let list: Value = serde_json::from_str(list)?;
                Ok(Some(json!({"event": "acknowledgement", "data": list[0], "id": id})))
            }
            _ => Ok(None),
        }
    }
}

/// A word that names no transport.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no transport is called {0:?}")]
pub struct UnknownTransport(String);

impl FromStr for Transport {
    type Err = UnknownTransport;

    fn from_str(name: &str) -> Result<Self, UnknownTransport> {
        Self::ALL
            .into_iter()
            .find(|transport| transport.name() == name)
            .ok_or_else(|| UnknownTransport(name.to_owned()))
    }
}

/// Opens a WebSocket at `ws://…` or `wss://…`; returns it with the reply that switched protocols.
///
/// # Errors
/// When no server listens, the certificate is not trusted, or the upgrade is rejected.
pub async fn upgrade(url: &str) -> Result<(WebSocketStream<MaybeTlsStream<TcpStream>>, Response), tungstenite::Error> {
    let stream = Box::pin(crate::tls::connect(url)).await;
    let stream = stream.map_err(|error| tungstenite::Error::Io(std::io::Error::other(error)))?;
    tokio_tungstenite::client_async(url, stream).await
}

/// A connection, with the frames that arrived and were not taken yet.
pub struct Socket {
    transport: Transport,
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    waiting: VecDeque<Value>,
    /// Every frame that arrived, in order.
    pub seen: Vec<Value>,
    next_id: u64,
}

impl Socket {
    /// Opens a WebSocket.
    ///
    /// # Errors
    /// When the upgrade is rejected.
    pub async fn connect(url: &str) -> Result<Self> {
        let (stream, _) = upgrade(url).await.context("the upgrade was rejected")?;
        Ok(Self { transport: Transport::Plain, stream, waiting: VecDeque::new(), seen: Vec::new(), next_id: 1 })
    }

    /// Connects to the edge at `http://…` or `https://…` with a token and reads up to `connected`.
    ///
    /// # Errors
    /// When the edge rejects the connection.
    pub async fn enter(edge: &str, transport: Transport, token: &str) -> Result<Self> {
        let edge = edge.replacen("http", "ws", 1);
        let mut socket = match transport {
            Transport::Plain => Self::connect(&format!("{edge}/ws?token={token}")).await?,
            Transport::SocketIo => {
                let url = format!("{edge}/socket.io/?EIO=4&transport=websocket");
                let mut socket = Self { transport, ..Self::connect(&url).await? };
                let credentials = json!({"token": token}).to_string();
                socket.send_raw(&SocketPacket::Connect(&credentials).message("/")).await?;
                socket
            }
        };
        socket.event("connected").await?;
        Ok(socket)
    }

    /// Sends a frame without change.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn send_raw(&mut self, text: &str) -> Result<()> {
        Ok(self.stream.send(Message::text(text)).await?)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn ask(&mut self, event: &str, data: Value) -> Result<Value> {
        let id = self.next_id;
        self.next_id += 1;
        self.request(event, data, id).await?;
        self.until(|frame| frame["id"] == id).await
    }

    /// Sends a request with this id and does not wait. Over Socket.IO its answer arrives as the event
    /// `acknowledgement`.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn request(&mut self, event: &str, data: Value, id: u64) -> Result<()> {
        self.send_raw(&self.transport.request(event, &data, id)).await
    }

    /// Waits for the next frame of this event; other frames stay for later.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn event(&mut self, event: &str) -> Result<Value> {
        self.until(|frame| frame["event"] == event).await.with_context(|| format!("waiting for {event}"))
    }

    /// Waits for the next frame that fits; other frames stay for later.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn until(&mut self, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        if let Some(index) = self.waiting.iter().position(&fits) {
            return self.waiting.remove(index).context("a frame");
        }
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let frame = tokio::time::timeout_at(deadline, self.next()).await.context("no frame in time")??;
            if fits(&frame) {
                return Ok(frame);
            }
            self.waiting.push_back(frame);
        }
    }

    /// Waits for the next frame, as `{"event","data","id"?}`.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn next(&mut self) -> Result<Value> {
        self.next_within(Duration::MAX).await
    }

    /// The same. A server that sends nothing for so long, not even a ping, is taken for lost.
    ///
    /// # Errors
    /// When the connection ends or the server is silent.
    pub async fn next_within(&mut self, silence: Duration) -> Result<Value> {
        loop {
            let text = self.next_text(silence).await?;
            if let Some(frame) = self.transport.frame(&text)? {
                self.seen.push(frame.clone());
                return Ok(frame);
            }
        }
    }

    /// The next text as it came. Pings of Socket.IO are answered, and returned as well.
    ///
    /// # Errors
    /// As [`Socket::next_within`].
    pub async fn next_text(&mut self, silence: Duration) -> Result<Utf8Bytes> {
        loop {
            match tokio::time::timeout(silence, self.stream.next()).await.context("the server is silent")? {
                Some(Ok(Message::Text(text))) => {
                    if self.transport == Transport::SocketIo
                        && let Some(EnginePacket::Ping(payload)) = EnginePacket::decode(&text)
                    {
                        self.send_raw(&EnginePacket::Pong(payload).encode()).await?;
                    }
                    return Ok(text);
                }
                Some(Ok(Message::Close(close))) => bail!("closed: {:?}", close.map(|close| u16::from(close.code))),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => bail!("the connection was lost"),
            }
        }
    }

    /// The transport of the connection.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// Reads until the server closes the connection; returns the close code.
    ///
    /// # Errors
    /// When it does not close.
    pub async fn closed(&mut self) -> Result<u16> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match tokio::time::timeout_at(deadline, self.stream.next()).await.context("not closed in time")? {
                Some(Ok(Message::Close(close))) => return Ok(close.map_or(1005, |close| close.code.into())),
                Some(Ok(Message::Text(text))) => self.seen.push(serde_json::from_str(&text)?),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => bail!("the connection was lost without a close frame"),
            }
        }
    }
}
