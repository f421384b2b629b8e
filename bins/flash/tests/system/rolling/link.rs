//! A client's connection to the edge through the ingress: `/ws`, or Socket.IO that only polls.

use anyhow::{Context, Result, bail, ensure};
use protocol::socketio::{EnginePacket, SEPARATOR, SocketPacket};
use serde_json::{Value, json};
use testkit::http::{self, Caller, Reply};
use testkit::socket::{Socket, Transport};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Frames of a session that polls, between its polls and its reader. The reader takes each at once.
const FRAMES: usize = 256;

/// A connection to the edge.
pub enum Link {
    /// A plain WebSocket.
    Plain(Box<Socket>),
    /// A session of Socket.IO that polls.
    Polling(Box<Polling>),
}

impl Link {
    /// Opens a WebSocket at this address, up to its `connected`.
    pub async fn plain(base: &str, token: &str) -> Result<Self> {
        Ok(Self::Plain(Box::new(Socket::enter(base, Transport::Plain, token).await?)))
    }

    /// Opens a session that polls, up to its `connected`. A client that keeps the cookie of the ingress is led to one
    /// edge, as a browser is; others are led by their address.
    pub async fn polling(base: &str, token: &str, keeps_cookie: bool) -> Result<Self> {
        let mut session =
            Session { caller: Caller::new(), url: format!("{base}/socket.io/?EIO=4&transport=polling"), cookie: None };
        let opened = session.get().await?;
        let Some(EnginePacket::Open(handshake)) = EnginePacket::decode(&opened.text) else {
            bail!("no session: {} {}", opened.status, opened.text);
        };
        let handshake: Value = serde_json::from_str(handshake)?;
        session.url += &format!("&sid={}", handshake["sid"].as_str().context("a sid")?);
        if keeps_cookie {
            let cookie = opened.headers.get("set-cookie").context("the ingress sets a cookie")?.to_str()?;
            session.cookie = cookie.split(';').next().map(str::to_owned);
        }
        session.post(SocketPacket::Connect(&json!({"token": token}).to_string()).message("/")).await?;
        let (sender, frames) = mpsc::channel(FRAMES);
        let polling = tokio::spawn(session.clone().poll(sender));
        let mut link = Self::Polling(Box::new(Polling { session, frames, polling }));
        while link.next().await?["event"] != "connected" {}
        Ok(link)
    }

    /// Sends a request with this id.
    pub async fn request(&mut self, event: &str, data: Value, id: u64) -> Result<()> {
        match self {
            Self::Plain(socket) => socket.request(event, data, id).await,
            Self::Polling(polling) => polling.session.post(Transport::SocketIo.request(event, &data, id)).await,
        }
    }

    /// Waits for the next frame, as `{"event","data","id"?}`. A wait that is given up loses none.
    pub async fn next(&mut self) -> Result<Value> {
        match self {
            Self::Plain(socket) => socket.next().await,
            Self::Polling(polling) => polling.frames.recv().await.context("the session has ended"),
        }
    }
}

/// A session of Socket.IO whose polls a task makes.
pub struct Polling {
    session: Session,
    frames: mpsc::Receiver<Value>,
    polling: JoinHandle<()>,
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.polling.abort();
    }
}

#[derive(Clone)]
struct Session {
    caller: Caller,
    url: String,
    cookie: Option<String>,
}

impl Session {
    async fn send(&self, method: &str, body: String) -> Result<Reply> {
        let mut request = http::request(method, &self.url, None).header("content-type", "text/plain;charset=UTF-8");
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        self.caller.send(request.body(body.into())?).await
    }

    async fn get(&self) -> Result<Reply> {
        self.send("GET", String::new()).await
    }

    async fn post(&self, packet: String) -> Result<()> {
        let reply = self.send("POST", packet).await?;
        ensure!(reply.status == 200, "{} {}", reply.status, reply.text);
        Ok(())
    }

    /// Polls until the session ends, and passes its frames on.
    async fn poll(self, frames: mpsc::Sender<Value>) {
        while let Ok(reply) = self.get().await {
            if reply.status != 200 || !self.take(&reply.text, &frames).await {
                return;
            }
        }
    }

    /// Takes the packets of one poll. False at the end of the session.
    async fn take(&self, packets: &str, frames: &mpsc::Sender<Value>) -> bool {
        for packet in packets.split(SEPARATOR) {
            match EnginePacket::decode(packet) {
                Some(EnginePacket::Close) | None => return false,
                Some(EnginePacket::Ping(payload)) => {
                    if self.post(EnginePacket::Pong(payload).encode()).await.is_err() {
                        return false;
                    }
                }
                Some(_) => match Transport::SocketIo.frame(packet) {
                    Ok(Some(frame)) => {
                        if frames.send(frame).await.is_err() {
                            return false;
                        }
                    }
                    Ok(None) => {}
                    Err(_) => return false,
                },
            }
        }
        true
    }
}
