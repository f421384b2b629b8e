//! A plain WebSocket client of the edge.

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

/// A connection, and every frame that came and was not asked for yet.
pub struct Socket {
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
        Ok(Self { stream, waiting: VecDeque::new(), seen: Vec::new(), next_id: 1 })
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
        self.send_raw(&json!({"event": event, "data": data, "id": id}).to_string()).await?;
        self.until(|frame| frame["id"] == id).await
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

    async fn next(&mut self) -> Result<Value> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text)?;
                    self.seen.push(frame.clone());
                    return Ok(frame);
                }
                Some(Ok(Message::Close(close))) => bail!("closed: {:?}", close.map(|close| u16::from(close.code))),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => bail!("the connection ended"),
            }
        }
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
