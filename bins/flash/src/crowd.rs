//! Light clients in great numbers: each joins one auction over either door, comes back by itself and resumes,
//! and holds what it is shown against what it has seen: each bid once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use service::Stop;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::issuer::Issuer;

/// Handshakes under way at once, when nothing presses.
const JOINING: usize = 64;
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// First and longest pause before another attempt; the real one is drawn below it, as `/client.js` does.
const FIRST_PAUSE_MS: u64 = 250;
const LONGEST_PAUSE_MS: u64 = 5_000;
pub const READ_BUFFER_BYTES: usize = 2 * 1024;
/// How often a change in a crowd is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Door {
    Plain,
    SocketIo,
}

pub type Socket = WebSocketStream<TcpStream>;

/// One connection, joined, and the answer to its join. `address` is host and port.
pub async fn join(
    address: &str,
    door: Door,
    token: &str,
    auction_id: &str,
    last_seq: Option<u64>,
) -> Result<(Socket, Value)> {
    let mut data = json!({"auction_id": auction_id});
    if let Some(last_seq) = last_seq {
        data["last_seq"] = json!(last_seq);
    }
    let (path, join) = match door {
        Door::Plain => {
            let join = json!({"event": "join_auction", "data": data, "id": 1}).to_string();
            (format!("/ws?token={token}"), join)
        }
        Door::SocketIo => (
            format!("/socket.io/?EIO=4&transport=websocket&token={token}"),
            format!("421{}", json!(["join_auction", data])),
        ),
    };
    let stream = TcpStream::connect(address).await?;
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
    let (mut socket, _) =
        tokio_tungstenite::client_async_with_config(format!("ws://{address}{path}"), stream, Some(config)).await?;
    if door == Door::SocketIo {
        socket.send(Message::text("40")).await?;
    }
    loop {
        let message = socket.next().await.context("the connection ended")??;
        let text = message.to_text().unwrap_or_default();
        if text.contains("\"connected\"") {
            socket.send(Message::text(join.clone())).await?;
        }
        if text.contains("\"recovered\":") {
            let start = text.find('{').context("an object")?;
            let answer: Value = serde_json::from_str(text[start..].trim_end_matches(']'))?;
            let data = if door == Door::Plain { answer["data"].clone() } else { answer };
            return Ok((socket, data));
        }
    }
}

/// Tokens of as many people.
pub async fn tokens(issuer: &Issuer, count: u64) -> Result<Vec<String>> {
    stream::iter(0..count)
        .map(|nth| {
            let issuer = issuer.clone();
            async move { tokio::task::spawn_blocking(move || issuer.token(&format!("watcher-{nth}"))).await? }
        })
        .buffered(JOINING)
        .try_collect()
        .await
}

/// All of them, joined.
pub async fn enter(address: &str, door: Door, tokens: &[String], auction_id: &str) -> Result<Vec<Socket>> {
    let joining = stream::iter(tokens).map(|token| async move {
        let joined = tokio::time::timeout(ANSWER_WITHIN, join(address, door, token, auction_id, None));
        anyhow::Ok(joined.await.context("no answer to a join")??.0)
    });
    joining.buffer_unordered(JOINING).try_collect().await
}

/// What a crowd has in common.
struct Shared {
    /// Host and port of each edge.
    edges: Vec<String>,
    auction_id: String,
    /// Joined now.
    here: AtomicUsize,
    stalling: AtomicBool,
    over: Stop,
}

pub struct Crowd {
    shared: Arc<Shared>,
    watchers: JoinSet<Result<Seen>>,
    /// Who reads, and so can be expected to be here.
    reading: usize,
}

/// What one of a crowd has seen.
struct Seen {
    first_seq: u64,
    last_seq: u64,
    bids: u64,
    back_at: Option<Instant>,
}

/// What a whole crowd has seen.
pub struct Sights {
    /// When each was in the room again after it was last thrown off.
    pub back_at: Vec<Instant>,
}

impl Crowd {
    /// Lets everybody in, over the edges by turns. The first `stalled` of them stop reading when they are told to.
    pub async fn enter(edges: Vec<String>, auction_id: &str, tokens: Vec<String>, stalled: usize) -> Result<Self> {
        let (reading, auction_id) = (tokens.len() - stalled, auction_id.to_owned());
        let (here, stalling) = (AtomicUsize::new(0), AtomicBool::new(false));
        let shared = Arc::new(Shared { edges, auction_id, here, stalling, over: Stop::new() });
        let mut crowd = Self { shared, watchers: JoinSet::new(), reading: 0 };
        for (nth, token) in tokens.into_iter().enumerate() {
            crowd.watchers.spawn(watch(Arc::clone(&crowd.shared), nth, token, nth < stalled));
            crowd.reading += 1;
            if crowd.reading.is_multiple_of(JOINING) {
                crowd.all_here(ANSWER_WITHIN).await?;
            }
        }
        crowd.all_here(ANSWER_WITHIN).await?;
        crowd.reading = reading;
        Ok(crowd)
    }

    /// Who is to stall reads no more, from now on.
    pub fn stall(&self) {
        self.shared.stalling.store(true, Ordering::Relaxed);
    }

    pub fn here(&self) -> usize {
        self.shared.here.load(Ordering::Relaxed)
    }

    /// Waits until everybody who reads is in the room.
    ///
    /// # Errors
    /// When some are still missing after that time.
    pub async fn all_here(&self, within: Duration) -> Result<()> {
        let since = Instant::now();
        while self.here() < self.reading {
            ensure!(since.elapsed() < within, "only {} of {} are in the room", self.here(), self.reading);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// When one of those who read has not seen each of these bids once, up to the last.
    pub async fn leave(mut self, bids: &[u64]) -> Result<Sights> {
        self.shared.over.cancel();
        let (mut back_at, mut complete) = (Vec::new(), 0);
        while let Some(watcher) = self.watchers.join_next().await {
            let seen = watcher??;
            let expected = bids.iter().filter(|seq| **seq > seen.first_seq).count() as u64;
            complete += usize::from(seen.bids == expected && bids.last().is_none_or(|last| seen.last_seq >= *last));
            back_at.extend(seen.back_at);
        }
        ensure!(complete >= self.reading, "only {complete} of {} saw each bid once", self.reading);
        Ok(Sights { back_at })
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

/// One of a crowd, over as many connections as it takes.
async fn watch(shared: Arc<Shared>, nth: usize, token: String, stalls: bool) -> Result<Seen> {
    let mut seen: Option<Seen> = None;
    let mut pause = FIRST_PAUSE_MS;
    for turn in nth.. {
        let edge = &shared.edges[turn % shared.edges.len()];
        let last_seq = seen.as_ref().map(|seen| seen.last_seq);
        let joining =
            tokio::time::timeout(ANSWER_WITHIN, join(edge, Door::Plain, &token, &shared.auction_id, last_seq));
        let joined = tokio::select! {
            joined = joining => joined,
            () = shared.over.cancelled() => break,
        };
        if let Ok(Ok((socket, answer))) = joined {
            let was_away = seen.is_some();
            let answer = Update::deserialize(&answer)?;
            let seen = seen.get_or_insert(Seen { first_seq: answer.seq, last_seq: answer.seq, bids: 0, back_at: None });
            if was_away {
                seen.back_at = Some(Instant::now());
                seen.take(&answer)?;
            }
            pause = FIRST_PAUSE_MS;
            shared.here.fetch_add(1, Ordering::Relaxed);
            let ended = stay(&shared, socket, seen, stalls).await;
            shared.here.fetch_sub(1, Ordering::Relaxed);
            if ended? {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..pause))).await;
        pause = LONGEST_PAUSE_MS.min(2 * pause);
    }
    seen.context("never let in")
}

/// One connection: true when the crowd is over.
async fn stay(shared: &Shared, mut socket: Socket, seen: &mut Seen, stalls: bool) -> Result<bool> {
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
            if data.previous_seq > seen.last_seq {
                // Frames were left out for one who was slow: what they said comes with the next join.
                return Ok(false);
            }
            seen.take(&data)?;
        }
    }
}

impl Seen {
    fn take(&mut self, update: &Update) -> Result<()> {
        for bid in &update.bids {
            if bid.seq <= self.last_seq {
                bail!("bid {} was shown again after {}", bid.seq, self.last_seq);
            }
            self.last_seq = bid.seq;
            self.bids += 1;
        }
        ensure!(update.seq >= self.last_seq, "seq {} after {}", update.seq, self.last_seq);
        self.last_seq = update.seq;
        Ok(())
    }
}
