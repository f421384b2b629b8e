//! A client of the edge, through either door. The Socket.IO one speaks WebSocket alone and answers pings;
//! npm's client is what the protocol is tested with.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Which door a client uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Plain,
    SocketIo,
}

/// A connection, and every frame that came and was not asked for yet.
pub struct Socket {
    door: Door,
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    waiting: VecDeque<Value>,
    /// Every frame that ever came, in order.
    pub seen: Vec<Value>,
    next_id: u64,
}

impl Socket {
    /// # Errors
    /// When the upgrade is refused.
    pub async fn connect(url: &str) -> Result<Self> {
        let (stream, _) = tokio_tungstenite::connect_async(url).await.context("the upgrade was refused")?;
        Ok(Self { door: Door::Plain, stream, waiting: VecDeque::new(), seen: Vec::new(), next_id: 1 })
    }

    /// Connects to the edge at `http://…` with a token and reads up to `connected`.
    ///
    /// # Errors
    /// When the door stays closed.
    pub async fn enter(edge: &str, door: Door, token: &str) -> Result<Self> {
        let edge = edge.replacen("http", "ws", 1);
        let mut socket = match door {
            Door::Plain => Self::connect(&format!("{edge}/ws?token={token}")).await?,
            Door::SocketIo => {
                let url = format!("{edge}/socket.io/?EIO=4&transport=websocket");
                let mut socket = Self { door, ..Self::connect(&url).await? };
                socket.send_raw(&format!("40{}", json!({"token": token}))).await?;
                socket
            }
        };
        socket.event("connected").await?;
        Ok(socket)
    }

    /// Sends a frame as it is.
    ///
    /// # Errors
    /// When the connection is gone.
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

    /// Sends a request with this id, and does not wait. By Socket.IO its answer comes as the event
    /// `acknowledgement`.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn request(&mut self, event: &str, data: Value, id: u64) -> Result<()> {
        let text = match self.door {
            Door::Plain => json!({"event": event, "data": data, "id": id}).to_string(),
            Door::SocketIo => format!("42{id}{}", json!([event, data])),
        };
        self.send_raw(&text).await
    }

    /// The next frame of this event, leaving others for later.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn event(&mut self, event: &str) -> Result<Value> {
        self.until(|frame| frame["event"] == event).await.with_context(|| format!("waiting for {event}"))
    }

    /// The next frame that fits, leaving others for later.
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

    /// The next frame, whatever it is, as `{"event","data","id"?}`.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn next(&mut self) -> Result<Value> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    let frame = match self.door {
                        Door::Plain => Some(serde_json::from_str(&text)?),
                        Door::SocketIo => self.packet(&text).await?,
                    };
                    if let Some(frame) = frame {
                        self.seen.push(frame.clone());
                        return Ok(frame);
                    }
                }
                Some(Ok(Message::Close(close))) => bail!("closed: {:?}", close.map(|close| u16::from(close.code))),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => bail!("the connection ended"),
            }
        }
    }

    /// An event or an acknowledgement as a frame; None for what belongs to the protocol alone.
    async fn packet(&mut self, text: &str) -> Result<Option<Value>> {
        if text == "2" {
            self.send_raw("3").await?;
        }
        if let Some(error) = text.strip_prefix("44") {
            bail!("refused: {error}");
        }
        if let Some(list) = text.strip_prefix("42") {
            let list: Value = serde_json::from_str(list)?;
            return Ok(Some(json!({"event": list[0], "data": list[1]})));
        }
        let Some(rest) = text.strip_prefix("43") else { return Ok(None) };
        let (id, list) = rest.split_at(rest.find('[').context("an acknowledgement has a list")?);
        let (id, list): (u64, Value) = (id.parse()?, serde_json::from_str(list)?);
        Ok(Some(json!({"event": "acknowledgement", "data": list[0], "id": id})))
    }

    /// Reads until the server closes, and returns the code.
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
                None => bail!("the connection ended without a close"),
            }
        }
    }
}
