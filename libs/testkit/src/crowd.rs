//! Light clients in great numbers. Each joins one auction, reconnects and resumes by itself, and checks that it gets
//! every bid exactly once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt, TryStreamExt, stream};
use protocol::socketio::SocketPacket;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;

use crate::socket::Transport;

/// Handshakes at the same time while a crowd joins.
const JOINING: usize = 64;
/// Time to wait for the answer to a join.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Milliseconds of the pause before another attempt, which is drawn below the bound: the first bound and the longest,
/// as in `/client.js`.
const FIRST_PAUSE_MS: u64 = 250;
const LONGEST_PAUSE_MS: u64 = 5_000;
/// Read buffer of one connection. Small, because there are thousands.
pub const READ_BUFFER_BYTES: usize = 2 * 1024;
/// Interval between two checks whether a crowd is complete.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A connection of a light client.
pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Connects and joins at the edge `http://…` or `https://…`; returns the connection and the answer to the join.
pub async fn join(
    edge: &str,
    transport: Transport,
    token: &str,
    auction_id: &str,
    last_seq: Option<u64>,
) -> Result<(Socket, Value)> {
    let mut data = json!({"auction_id": auction_id});
    if let Some(last_seq) = last_seq {
        data["last_seq"] = json!(last_seq);
    }
    let path = match transport {
        Transport::Plain => format!("/ws?token={token}"),
        Transport::SocketIo => format!("/socket.io/?EIO=4&transport=websocket&token={token}"),
    };
    let stream = crate::tls::connect(edge).await?;
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
    let url = format!("{}{path}", edge.replacen("http", "ws", 1));
    let (mut socket, _) = tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await?;
    if transport == Transport::SocketIo {
        socket.send(Message::text(SocketPacket::Connect("").message("/"))).await?;
    }
    loop {
        let message = socket.next().await.context("the connection was closed")??;
        let text = message.to_text().unwrap_or_default();
        if text.contains("\"connected\"") {
            socket.send(Message::text(transport.request("join_auction", &data, 1))).await?;
        }
        if text.contains("\"recovered\":") {
            let mut answer = transport.frame(text)?.context("the answer to the join is not a frame")?;
            return Ok((socket, answer["data"].take()));
        }
    }
}

/// Joins one connection for each token.
pub async fn enter(edge: &str, transport: Transport, tokens: &[String], auction_id: &str) -> Result<Vec<Socket>> {
    let joining = stream::iter(tokens).map(|token| async move {
        let joined = tokio::time::timeout(ANSWER_TIMEOUT, join(edge, transport, token, auction_id, None));
        anyhow::Ok(joined.await.context("no answer to a join")??.0)
    });
    joining.buffer_unordered(JOINING).try_collect().await
}

/// The state that a crowd shares.
struct Shared {
    /// The address of each edge.
    edges: Vec<String>,
    auction_id: String,
    /// Clients that are joined now.
    joined: AtomicUsize,
    stalling: AtomicBool,
    over: CancellationToken,
}

/// Many clients of one auction.
pub struct Crowd {
    shared: Arc<Shared>,
    watchers: JoinSet<Result<Received>>,
    /// Clients that read, and are therefore expected to stay joined.
    reading: usize,
}

/// The bids that one client got.
struct Received {
    first_seq: u64,
    last_seq: u64,
    bids: u64,
    /// The time of its last rejoin.
    back_at: Option<Instant>,
}

/// The result of a crowd.
pub struct Report {
    /// The time at which each client that lost its connection last rejoined.
    pub back_at: Vec<Instant>,
}

impl Crowd {
    /// Joins one client for each token, over the edges by turns. The first `stalled` of them stop reading after
    /// [`Crowd::stall`].
    pub async fn enter(edges: Vec<String>, auction_id: &str, tokens: Vec<String>, stalled: usize) -> Result<Self> {
        let (reading, auction_id) = (tokens.len() - stalled, auction_id.to_owned());
        let (joined, stalling) = (AtomicUsize::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { edges, auction_id, joined, stalling, over: CancellationToken::new() });
        let mut crowd = Self { shared, watchers: JoinSet::new(), reading: 0 };
        for (nth, token) in tokens.into_iter().enumerate() {
            crowd.watchers.spawn(watch(Arc::clone(&crowd.shared), nth, token, nth < stalled));
            crowd.reading += 1;
            if crowd.reading.is_multiple_of(JOINING) {
                crowd.all_joined(ANSWER_TIMEOUT).await?;
            }
        }
        crowd.all_joined(ANSWER_TIMEOUT).await?;
        crowd.reading = reading;
        Ok(crowd)
    }

    /// Lets the stalled clients stop reading.
    pub fn stall(&self) {
        self.shared.stalling.store(true, Ordering::Relaxed);
    }

    /// Clients that are joined now.
    pub fn joined(&self) -> usize {
        self.shared.joined.load(Ordering::Relaxed)
    }

    /// Waits until every client that reads is joined.
    ///
    /// # Errors
    /// When some are still missing after this time.
    pub async fn all_joined(&self, within: Duration) -> Result<()> {
        let since = Instant::now();
        while self.joined() < self.reading {
            ensure!(since.elapsed() < within, "only {} of {} clients are joined", self.joined(), self.reading);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Disconnects all clients.
    ///
    /// # Errors
    /// When a client that reads has not got each of these bids once, up to the last.
    pub async fn leave(mut self, bids: &[u64]) -> Result<Report> {
        self.shared.over.cancel();
        let (mut back_at, mut complete) = (Vec::new(), 0);
        while let Some(watcher) = self.watchers.join_next().await {
            let received = watcher??;
            let expected = bids.iter().filter(|seq| **seq > received.first_seq).count() as u64;
            complete +=
                usize::from(received.bids == expected && bids.last().is_none_or(|last| received.last_seq >= *last));
            back_at.extend(received.back_at);
        }
        ensure!(complete >= self.reading, "only {complete} of {} clients got each bid once", self.reading);
        Ok(Report { back_at })
    }
}

#[derive(Deserialize)]
struct Frame {
    data: Update,
}

#[derive(Deserialize)]
struct Update {
    seq: u64,
    #[serde(default)]
    previous_seq: u64,
    #[serde(default, alias = "missed_bids")]
    bids: Vec<BidSeq>,
}

#[derive(Deserialize)]
struct BidSeq {
    seq: u64,
}

/// One client, over as many connections as it takes.
async fn watch(shared: Arc<Shared>, nth: usize, token: String, stalls: bool) -> Result<Received> {
    let mut received: Option<Received> = None;
    let mut pause = FIRST_PAUSE_MS;
    for turn in nth.. {
        let edge = &shared.edges[turn % shared.edges.len()];
        let last_seq = received.as_ref().map(|received| received.last_seq);
        let joining =
            tokio::time::timeout(ANSWER_TIMEOUT, join(edge, Transport::Plain, &token, &shared.auction_id, last_seq));
        let answered = tokio::select! {
            answered = joining => answered,
            () = shared.over.cancelled() => break,
        };
        if let Ok(Ok((socket, answer))) = answered {
            let is_back = received.is_some();
            let answer = Update::deserialize(&answer)?;
            let received = received.get_or_insert(Received {
                first_seq: answer.seq,
                last_seq: answer.seq,
                bids: 0,
                back_at: None,
            });
            if is_back {
                received.back_at = Some(Instant::now());
                received.take(&answer)?;
            }
            pause = FIRST_PAUSE_MS;
            shared.joined.fetch_add(1, Ordering::Relaxed);
            let ended = stay(&shared, socket, received, stalls).await;
            shared.joined.fetch_sub(1, Ordering::Relaxed);
            if ended? {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..pause))).await;
        pause = LONGEST_PAUSE_MS.min(2 * pause);
    }
    received.context("the client was never joined")
}

/// One connection; true when the crowd was disconnected.
async fn stay(shared: &Shared, mut socket: Socket, received: &mut Received, stalls: bool) -> Result<bool> {
    loop {
        if stalls && shared.stalling.load(Ordering::Relaxed) {
            shared.over.cancelled().await;
            return Ok(true);
        }
        let message = tokio::select! {
            message = socket.next() => message,
            () = shared.over.cancelled() => return Ok(true),
        };
        let Some(Ok(message)) = message else { return Ok(false) };
        if let Message::Text(text) = message
            && text.contains("\"bid_update\"")
        {
            let Frame { data } = serde_json::from_str(&text)?;
            if data.previous_seq > received.last_seq {
                // The edge skipped frames because this client was slow; the next join brings their bids.
                return Ok(false);
            }
            received.take(&data)?;
        }
    }
}

impl Received {
    /// Counts the bids of an update.
    fn take(&mut self, update: &Update) -> Result<()> {
        for bid in &update.bids {
            if bid.seq <= self.last_seq {
                bail!("bid {} came after bid {}", bid.seq, self.last_seq);
            }
            self.last_seq = bid.seq;
            self.bids += 1;
        }
        ensure!(update.seq >= self.last_seq, "seq {} after {}", update.seq, self.last_seq);
        self.last_seq = update.seq;
        Ok(())
    }
}
