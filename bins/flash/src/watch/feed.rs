//! The frames of an auction, from the edge's plain WebSocket, for as long as someone watches.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use testkit::http;
use testkit::socket::Socket;
use tokio::sync::mpsc::Sender;

use super::auction::Link;
use super::screen::Update;

/// Pause before the next connection, after one was lost.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// Time to connect and to join.
const JOIN_WITHIN: Duration = Duration::from_secs(10);
/// Longest silence of a live connection. The edge pings every 25 s.
const SILENCE: Duration = Duration::from_secs(60);

/// An auction at an edge.
pub struct Feed {
    /// The address of the edge, `http://…` or `https://…`.
    pub edge: String,
    /// The auction's id.
    pub auction_id: String,
}

impl Feed {
    /// Sends updates until their receiver is gone, over a new connection after each that is lost.
    ///
    /// # Errors
    /// When the edge cannot be reached the first time, or does not let this client watch.
    pub async fn run(&self, updates: Sender<Update>) -> Result<()> {
        self.describe(&updates).await;
        let mut socket = self.join(&updates).await?;
        loop {
            // The reason does not matter: what follows is the same.
            while let Ok(frame) = socket.next_within(SILENCE).await {
                // Tests look at them; here they would only grow.
                socket.seen.clear();
                send(&updates, frame).await?;
            }
            updates.send(Update::Link(Link::Lost)).await?;
            socket = loop {
                tokio::time::sleep(RECONNECT_AFTER).await;
                match self.join(&updates).await {
                    Ok(socket) => break socket,
                    Err(error) if error.is::<Refused>() => return Err(error),
                    Err(error) => tracing::debug!("failed to connect again: {error:#}"),
                }
            };
        }
    }

    /// Title, host and currency, which frames do not have. They are only decoration.
    async fn describe(&self, updates: &Sender<Update>) {
        let url = format!("{}/api/auctions/{}", self.edge, self.auction_id);
        match http::get(&url, None).await {
            Ok(reply) if reply.status == 200 => drop(updates.send(Update::Object(reply.json)).await),
            Ok(reply) => tracing::debug!(status = reply.status, "failed to read the auction"),
            Err(error) => tracing::debug!("failed to read the auction: {error:#}"),
        }
    }

    async fn join(&self, updates: &Sender<Update>) -> Result<Socket> {
        let joined = tokio::time::timeout(JOIN_WITHIN, self.connect(updates)).await;
        joined.with_context(|| format!("{} did not answer within {JOIN_WITHIN:?}", self.edge))?
    }

    async fn connect(&self, updates: &Sender<Update>) -> Result<Socket> {
        let address = format!("{}/ws", self.edge.replacen("http", "ws", 1));
        let mut socket = Socket::connect(&address).await.with_context(|| format!("no edge at {}", self.edge))?;
        // Without a token: this connection only watches.
        refused(socket.ask("authenticate", json!({})).await?)?;
        let joined = refused(socket.ask("join_auction", json!({"auction_id": self.auction_id})).await?)?;
        send(updates, joined).await?;
        Ok(socket)
    }
}

/// The edge does not let this client watch, whichever connection it comes over.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

fn refused(answer: Value) -> Result<Value> {
    if answer["event"] != "error" {
        return Ok(answer);
    }
    let sentence = answer["data"]["error"].as_str().unwrap_or("the request was refused").to_owned();
    match answer["data"]["code"].as_str() {
        Some("unavailable" | "overloaded" | "rate_limited" | "room_full" | "outcome_unknown") => bail!("{sentence}"),
        _ => Err(Refused(sentence).into()),
    }
}

async fn send(updates: &Sender<Update>, mut frame: Value) -> Result<()> {
    let event = frame["event"].as_str().unwrap_or_default().to_owned();
    updates.send(Update::Frame(event, frame["data"].take())).await?;
    Ok(())
}
