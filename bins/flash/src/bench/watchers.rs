//! Cost of the edge: memory of a joined connection, processor time of a frame, and the time from a bid to the last
//! watcher; next to the cost of the same writes to as many bare loopback sockets.

use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use futures_util::{SinkExt, StreamExt};
use protocol::socketio::EnginePacket;
use serde_json::{Value, json};
use testkit::bidder::new_bid;
use testkit::crowd::{self, Crowd, READ_BUFFER_BYTES, Socket};
use testkit::http::Caller;
use testkit::socket::Transport;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::chase;
use super::figures::{row, rows, spread};
use super::processes::{processor_seconds, resident_bytes};
use super::system::System;
use crate::stack::issuer::tokens;
use crate::stack::{Name, Stack};

/// Time after a join for the first frames, such as presence and ticks.
const SETTLE: Duration = Duration::from_secs(5);
/// Time after the last bid for its frames to arrive.
const LAST_FRAMES: Duration = Duration::from_secs(3);
/// Time of bids before the edge is killed.
const BEFORE_KILL: Duration = Duration::from_secs(2);
/// Time for all clients to come back. A benchmark that takes longer has failed.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// Percentage of the watchers that stop reading in the second half.
const STOPPED_PERCENT: usize = 1;

/// The arguments of `bench connections`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Connections {
    /// Connections, each of another user, joined to one auction
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=15_000))]
    connections: u64,
    /// Transport of the connections
    #[arg(long, default_value = "plain", value_parser = transports())]
    transport: Transport,
}

/// The arguments of `bench fanout`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Fanout {
    /// Watchers of one auction
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=9_000))]
    watchers: u64,
    /// Accepted bids per second, each sent to all watchers
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=20))]
    rate: u64,
    /// Seconds in which all watchers read, followed by as many in which one in a hundred has stopped reading. With few
    /// bids the 99th percentile is nearly the maximum
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=300))]
    seconds: u64,
    /// Transport of the connections
    #[arg(long, default_value = "plain", value_parser = transports())]
    transport: Transport,
}

/// The arguments of `bench reconnects`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Reconnects {
    /// Connections, each of another user, that all lose their edge at once
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    connections: u64,
    /// Accepted bids per second, before, during and after the reconnects
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=20))]
    rate: u64,
}

fn transports() -> impl TypedValueParser<Value = Transport> {
    PossibleValuesParser::new(Transport::ALL.map(Transport::name)).try_map(|name| name.parse::<Transport>())
}

/// One auction, and the times at which each of its bids was decided and reached the last watcher.
struct Lot {
    id: String,
    /// Microseconds since 1970, by seq.
    decided: Vec<AtomicU64>,
    last_seen: Vec<AtomicU64>,
}

/// Facts of one run.
const MAX_SEQ: usize = 16_384;

impl Lot {
    async fn create(stack: &Stack) -> Result<Arc<Self>> {
        let lot = json!({"title": "Watched", "duration": 600_000, "starting_bid": 1, "video": false});
        let url = format!("{}/auctions", stack.url(Name::AuctionManagement));
        let created = testkit::http::post(&url, Some(&stack.issuer.token("bench-host")?), &lot).await?;
        let id = created.json["auction_id"].as_str().with_context(|| created.text.clone())?.to_owned();
        let table = || std::iter::repeat_with(|| AtomicU64::new(0)).take(MAX_SEQ).collect();
        Ok(Arc::new(Self { id, decided: table(), last_seen: table() }))
    }

    /// Time from the decision of a bid to the last watcher, in milliseconds, at this percentile of these bids.
    fn last_screen_ms(&self, seqs: std::ops::RangeInclusive<u64>, percent: usize) -> Result<f64> {
        let mut delays = Vec::new();
        for seq in seqs {
            let at = usize::try_from(seq)?;
            let (decided, seen) =
                (self.decided[at].load(Ordering::Relaxed), self.last_seen[at].load(Ordering::Relaxed));
            ensure!(decided > 0 && seen > 0, "no watcher got seq {seq}");
            delays.push(seen.saturating_sub(decided));
        }
        delays.sort_unstable();
        Ok(delays[(delays.len() - 1) * percent / 100] as f64 / 1000.0)
    }
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The frames that one watcher got.
#[derive(Debug, Default, Clone, Copy)]
struct Received {
    /// Updates that did not follow the one before.
    gaps: u64,
    seq: u64,
}

/// The state that all watchers share.
struct Room {
    lot: Arc<Lot>,
    transport: Transport,
    /// The watchers that are to stop no longer read.
    stops: AtomicBool,
    over: Notify,
    frames: AtomicU64,
    bytes: AtomicU64,
}

/// The number after a field name, without parsing the frame: the watchers share the machine with the edge.
fn number_after(text: &str, name: &str) -> Option<u64> {
    let rest = &text[text.find(name)? + name.len()..];
    let end = rest.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// Reads until the end, or until the moment at which a watcher that is to stop does so.
async fn watch(mut socket: Socket, room: Arc<Room>, stops: bool) -> Result<Received> {
    let mut received = Received::default();
    let mut over = std::pin::pin!(room.over.notified());
    loop {
        if stops && room.stops.load(Ordering::Relaxed) {
            over.await;
            return Ok(received);
        }
        let message = tokio::select! {
            () = &mut over => return Ok(received),
            message = socket.next() => message.context("the edge closed the connection")??,
        };
        let Message::Text(text) = message else { continue };
        let arrived = now_us();
        room.frames.fetch_add(1, Ordering::Relaxed);
        room.bytes.fetch_add(text.len() as u64, Ordering::Relaxed);
        if room.transport == Transport::SocketIo
            && let Some(EnginePacket::Ping(payload)) = EnginePacket::decode(&text)
        {
            socket.send(Message::text(EnginePacket::Pong(payload).encode())).await?;
        }
        if !text.contains("\"bid_update\"") {
            continue;
        }
        let (seq, previous) = (number_after(&text, "\"seq\":"), number_after(&text, "\"previous_seq\":"));
        let (seq, previous) =
            (seq.context("an update without seq")?, previous.context("an update without previous_seq")?);
        received.gaps += u64::from(received.seq != 0 && previous != received.seq);
        for shown in previous + 1..=seq {
            room.lot.last_seen[usize::try_from(shown)?].fetch_max(arrived, Ordering::Relaxed);
        }
        received.seq = seq;
    }
}

/// Joins all watchers; returns them with the NATS messages that this took.
async fn enter(stack: &Stack, lot: &Arc<Lot>, transport: Transport, count: u64) -> Result<(Vec<Socket>, Value)> {
    let edge = stack.url(Name::Websocket);
    let tokens = tokens(&stack.issuer, count).await?;
    let (messages_before, began) = (messages(stack).await?, Instant::now());
    let sockets = crowd::enter(edge, transport, &tokens, &lot.id).await?;
    let seconds = began.elapsed().as_secs_f64();
    let (received, sent) = messages(stack).await?;
    let messages = json!({"to_nats": received - messages_before.0, "from_nats": sent - messages_before.1});
    Ok((sockets, json!({"connections": count, "joining_seconds": seconds, "nats_messages_for_joining": messages})))
}

/// Messages that nats-server has received and sent so far.
async fn messages(stack: &Stack) -> Result<(u64, u64)> {
    let url = format!("http://127.0.0.1:{}/varz", stack.servers.nats[0].monitor_port);
    let varz = testkit::http::get(&url, None).await?.json;
    Ok((varz["in_msgs"].as_u64().context("in_msgs")?, varz["out_msgs"].as_u64().context("out_msgs")?))
}

/// The process of the edge.
fn edge_pid(stack: &Stack) -> Result<u32> {
    let edge = stack.instances.iter().find(|instance| instance.name == Name::Websocket);
    Ok(edge.context("no edge is running")?.pid())
}

/// Measures the memory of the edge per idle connection.
pub async fn connections(stack: &Stack, arguments: Connections) -> Result<Value> {
    let (lot, pid) = (Lot::create(stack).await?, edge_pid(stack)?);
    // The first connection loads keys and the room, so that they are not counted.
    let (first, _) = enter(stack, &lot, arguments.transport, 1).await?;
    tokio::time::sleep(SETTLE).await;
    let before = resident_bytes(pid)?;
    let (sockets, mut measured) = enter(stack, &lot, arguments.transport, arguments.connections).await?;
    let room = Room::new(lot, arguments.transport);
    let mut watchers: JoinSet<Result<Received>> =
        first.into_iter().chain(sockets).map(|socket| watch(socket, Arc::clone(&room), false)).collect();
    tokio::time::sleep(SETTLE).await;
    let each = (resident_bytes(pid)? - before) / arguments.connections as f64;
    room.over.notify_waiters();
    while let Some(watcher) = watchers.join_next().await {
        watcher??;
    }
    measured["transport"] = json!(format!("{:?}", arguments.transport).to_lowercase());
    measured["bytes_a_connection"] = json!(each);
    Ok(measured)
}

impl Room {
    fn new(lot: Arc<Lot>, transport: Transport) -> Arc<Self> {
        let (frames, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { lot, transport, stops: AtomicBool::new(false), over: Notify::new(), frames, bytes })
    }
}

/// The work of the edge during a series of bids.
struct Span {
    seqs: std::ops::RangeInclusive<u64>,
    edge_seconds: f64,
    frames: u64,
    bytes: u64,
    /// The times of the answers to the bidders.
    answers_ms: Vec<f64>,
}

/// Places bids at the rate, alternately by two people in the same room; returns after the frames of the last bid.
async fn bid(stack: &Stack, room: &Room, arguments: Fanout, first_cents: u64) -> Result<Span> {
    let mut people = Vec::new();
    for name in ["bench-anna", "bench-ben"] {
        people.push(chase::join(&System::of(stack), arguments.transport, name, &room.lot.id).await?);
    }
    let stat = format!("/proc/{}/stat", edge_pid(stack)?);
    let (mut seqs, mut answers_ms) = (Vec::new(), Vec::new());
    let (before, frames, bytes) =
        (processor_seconds(&stat)?, room.frames.load(Ordering::Relaxed), room.bytes.load(Ordering::Relaxed));
    let mut due = tokio::time::interval(Duration::from_secs_f64(1.0 / arguments.rate as f64));
    for nth in 0..arguments.rate * arguments.seconds {
        due.tick().await;
        let person = &mut people[usize::try_from(nth % 2)?];
        let sent = Instant::now();
        let answer = person.ask("place_bid", new_bid(&room.lot.id, first_cents + 100 * nth)).await?["data"].take();
        answers_ms.push(sent.elapsed().as_secs_f64() * 1000.0);
        person.seen.clear();
        let (seq, decided) = (answer["seq"].as_u64(), answer["timestamp"].as_u64());
        let (seq, decided) = (seq.context("the bid was not accepted")?, decided.with_context(|| answer.to_string())?);
        room.lot.decided[usize::try_from(seq)?].store(decided * 1000, Ordering::Relaxed);
        seqs.push(seq);
    }
    tokio::time::sleep(LAST_FRAMES).await;
    Ok(Span {
        seqs: *seqs.first().context("a bid")?..=*seqs.last().context("a bid")?,
        edge_seconds: processor_seconds(&stat)? - before,
        frames: room.frames.load(Ordering::Relaxed) - frames,
        bytes: room.bytes.load(Ordering::Relaxed) - bytes,
        answers_ms,
    })
}

/// Measures one auction with many watchers at a steady rate of bids: first with all of them reading, then with some
/// that have stopped, then the same writes to bare sockets.
pub async fn fanout(stack: &Stack, arguments: Fanout) -> Result<Value> {
    let lot = Lot::create(stack).await?;
    let (sockets, mut measured) = enter(stack, &lot, arguments.transport, arguments.watchers).await?;
    let room = Room::new(Arc::clone(&lot), arguments.transport);
    let stopping = sockets.len() * STOPPED_PERCENT / 100;
    let watchers = sockets.into_iter().enumerate();
    let mut watchers: JoinSet<Result<Received>> =
        watchers.map(|(nth, socket)| watch(socket, Arc::clone(&room), nth < stopping)).collect();
    tokio::time::sleep(SETTLE).await;
    let all = bid(stack, &room, arguments, 100).await?;
    room.stops.store(true, Ordering::Relaxed);
    let some = bid(stack, &room, arguments, 100 + 100 * arguments.rate * arguments.seconds).await?;
    room.over.notify_waiters();
    let (mut gaps, mut complete) = (0, 0);
    while let Some(watcher) = watchers.join_next().await {
        let received = watcher??;
        gaps += received.gaps;
        complete += u64::from(received.seq == *some.seqs.end());
    }
    ensure!(gaps == 0, "{gaps} updates did not follow the one before");
    ensure!(complete >= arguments.watchers - stopping as u64, "only {complete} watchers got the last bid");
    let bytes = usize::try_from(all.bytes / all.frames)?;
    let bare = tokio::task::spawn_blocking(move || bare(arguments, bytes)).await??;
    let edge = all.edge_seconds / all.frames as f64;
    measured["transport"] = json!(format!("{:?}", arguments.transport).to_lowercase());
    measured["updates_per_second"] = json!(arguments.rate);
    measured["bytes_a_frame"] = json!(bytes);
    measured["edge_us_a_frame"] = json!(edge * 1e6);
    measured["bare_us_a_write"] = json!(bare * 1e6);
    measured["edge_to_bare"] = json!(edge / bare);
    measured["answer_ms"] = spread(all.answers_ms);
    measured["last_screen_ms"] =
        json!({"p50": lot.last_screen_ms(all.seqs.clone(), 50)?, "p99": lot.last_screen_ms(all.seqs, 99)?});
    measured["last_screen_ms_with_some_stopped"] =
        json!({"p50": lot.last_screen_ms(some.seqs.clone(), 50)?, "p99": lot.last_screen_ms(some.seqs, 99)?});
    Ok(measured)
}

/// Measures how long all clients take to reconnect after a `kill -9` of the edge, which is restarted at once.
pub async fn reconnects(stack: &mut Stack, arguments: Reconnects) -> Result<Value> {
    let lot = Lot::create(stack).await?;
    let edge = stack.url(Name::Websocket).to_owned();
    let tokens = tokens(&stack.issuer, arguments.connections).await?;
    let crowd = Crowd::enter(vec![edge], &lot.id, tokens, 0).await?;
    let over = Arc::new(AtomicBool::new(false));
    let bidding = tokio::spawn(bid_on(
        format!("{}/bids", stack.url(Name::BidProcessing)),
        [stack.issuer.token("bench-anna")?, stack.issuer.token("bench-ben")?],
        lot.id.clone(),
        arguments.rate,
        Arc::clone(&over),
    ));
    tokio::time::sleep(BEFORE_KILL).await;
    let killed = Instant::now();
    stack.kill_and_restart_instance(Name::Websocket, 0).await?;
    let restarted = killed.elapsed().as_secs_f64();
    let all_back = crowd.all_joined(BACK_WITHIN).await;
    tokio::time::sleep(LAST_FRAMES).await;
    over.store(true, Ordering::Relaxed);
    let bids = bidding.await??;
    tokio::time::sleep(LAST_FRAMES).await;
    all_back?;
    let mut back: Vec<f64> = crowd.leave(&bids).await?.back_at.iter().map(|at| (*at - killed).as_secs_f64()).collect();
    ensure!(back.len() as u64 == arguments.connections, "only {} clients lost their connection", back.len());
    back.sort_unstable_by(f64::total_cmp);
    Ok(json!({
        "transport": "plain", "connections": arguments.connections, "bids": bids.len(), "edge_is_back_seconds": restarted,
        "back_seconds": {"p50": back[back.len() / 2], "p99": back[(back.len() - 1) * 99 / 100], "max": back[back.len() - 1]},
    }))
}

/// Places bids alternately by two users until `over`; returns the seqs of the accepted ones.
async fn bid_on(
    url: String,
    tokens: [String; 2],
    auction_id: String,
    rate: u64,
    over: Arc<AtomicBool>,
) -> Result<Vec<u64>> {
    let (caller, mut seqs) = (Caller::new(), Vec::new());
    let mut due = tokio::time::interval(Duration::from_secs_f64(1.0 / rate as f64));
    for nth in 0u64.. {
        due.tick().await;
        if over.load(Ordering::Relaxed) {
            break;
        }
        let amount = domain::Amount::from_cents(100 + 100 * nth)?.to_string();
        let bid = json!({"auction_id": auction_id, "amount": amount});
        let answer = caller.post(&url, Some(&tokens[usize::try_from(nth % 2)?]), &bid).await?.json;
        seqs.push(
            answer["seq"].as_u64().filter(|_| answer["status"] == "accepted").context("the bid was not accepted")?,
        );
    }
    Ok(seqs)
}

/// Writes as many frames of the same size to as many bare sockets, whose other ends are read; returns processor seconds
/// per write.
fn bare(arguments: Fanout, bytes: usize) -> Result<f64> {
    let runtime = tokio::runtime::Handle::current();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let mut sockets = Vec::new();
    for _ in 0..arguments.watchers {
        let reader = std::net::TcpStream::connect(address)?;
        reader.set_nonblocking(true)?;
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        sockets.push(socket);
        runtime.spawn(async move {
            let mut buffer = vec![0; READ_BUFFER_BYTES];
            // Ends with the writer.
            if let Ok(mut reader) = TcpStream::from_std(reader) {
                while reader.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
            }
        });
    }
    let stat = format!("/proc/{}/stat", fs::read_link("/proc/thread-self")?.display());
    let frame = vec![b'x'; bytes];
    let before = processor_seconds(&stat)?;
    let pause = Duration::from_secs_f64(1.0 / arguments.rate as f64);
    let rounds = arguments.rate * arguments.seconds;
    for _ in 0..rounds {
        let began = std::time::Instant::now();
        for socket in &mut sockets {
            socket.write_all(&frame)?;
        }
        std::thread::sleep(pause.saturating_sub(began.elapsed()));
    }
    Ok((processor_seconds(&stat)? - before) / (rounds * arguments.watchers) as f64)
}

/// Prints the results of a benchmark of watchers.
pub fn print(measured: &Value) {
    println!("\n{} connections, {}", measured["connections"], measured["transport"].as_str().unwrap_or_default());
    row("joining all of them", &measured["joining_seconds"], "s");
    let messages = &measured["nats_messages_for_joining"];
    row("messages to NATS for joining", &messages["to_nats"], "");
    row("messages from NATS for joining", &messages["from_nats"], "");
    row("bids, each received once", &measured["bids"], "");
    row("restart of the killed edge", &measured["edge_is_back_seconds"], "s");
    rows("client has rejoined and resumed", &measured["back_seconds"], "s");
    row("edge memory per connection", &measured["bytes_a_connection"], "bytes");
    row("frame size", &measured["bytes_a_frame"], "bytes");
    row("edge processor time per frame", &measured["edge_us_a_frame"], "us");
    row("processor time of a bare write", &measured["bare_us_a_write"], "us");
    row("edge relative to bare", &measured["edge_to_bare"], "");
    rows("answer to a bidder in the room", &measured["answer_ms"], "ms");
    for (name, text) in [("last_screen_ms", "all read"), ("last_screen_ms_with_some_stopped", "1 % not reading")] {
        for quantile in ["p50", "p99"] {
            row(&format!("bid to last watcher {quantile}, {text}"), &measured[name][quantile], "ms");
        }
    }
}
