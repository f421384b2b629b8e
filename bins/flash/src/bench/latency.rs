//! Where the time of a bid goes: the hops between its sender and the log, of a quiet auction and of a hot one.
//!
//! Hops are mean times from the histograms of the services, so that they add up to the whole that the senders measured.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use testkit::bidder::{minimum_bid, new_bid};
use testkit::http::Caller;
use testkit::socket::{Socket, Transport};
use tokio::time::Instant;

use super::processes::{Processes, Used};
use crate::stack::{Name, Stack};

/// Pause between two bids of a quiet auction.
const QUIET_PAUSE: Duration = Duration::from_millis(20);
/// Bids before a measurement, in which tokens are verified and connections opened.
const WARM_UP_BIDS: usize = 50;
/// Time after which a person in a chase whose frames do not come looks at the clock.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// People in each chase, unless the caller says otherwise.
const CHASES: [u64; 3] = [16, 64, 256];

/// The arguments of `bench latency`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub seconds: u64,
    /// People who chase each other, each bidding the next amount as soon as it is outbid; may be given several times
    /// [default: 16, 64 and 256, each in turn]
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=2_000))]
    pub people: Vec<u64>,
    /// The connection that bids arrive on
    #[arg(long, value_enum, default_value_t = Protocol::Ws)]
    pub door: Protocol,
}

/// The protocol of bids on their way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// A plain WebSocket of the edge
    Ws,
    /// Socket.IO over a WebSocket of the edge
    Socketio,
    /// `POST /bids` of bid-processing. Its callers see no updates: there is no chase
    Http,
}

/// Someone who bids on one auction.
enum Person {
    Socket(Box<Socket>),
    Caller(Box<Caller>, String, String),
}

impl Person {
    async fn new(stack: &Stack, door: Protocol, name: &str, auction_id: &str) -> Result<Self> {
        let token = stack.issuer.token(name)?;
        let transport = match door {
            Protocol::Ws => Transport::Plain,
            Protocol::Socketio => Transport::SocketIo,
            Protocol::Http => {
                let url = format!("{}/bids", stack.url(Name::BidProcessing));
                return Ok(Self::Caller(Box::new(Caller::new()), url, token));
            }
        };
        let mut socket = Socket::enter(stack.url(Name::Websocket), transport, &token).await?;
        let joined = socket.ask("join_auction", json!({"auction_id": auction_id})).await?;
        ensure!(joined["data"]["auction_id"] == auction_id, "{joined}");
        Ok(Self::Socket(Box::new(socket)))
    }

    /// Places a bid and returns its answer.
    async fn bid(&mut self, bid: &Value) -> Result<Value> {
        match self {
            Self::Socket(socket) => Ok(socket.ask("place_bid", bid.clone()).await?["data"].take()),
            Self::Caller(caller, url, token) => Ok(caller.post(url, Some(token), bid).await?.json),
        }
    }
}

/// Answers to bids, and what they cost.
struct Answers {
    accepted: u64,
    rejected: u64,
    /// Microseconds from sending a bid that was accepted to its answer.
    latency: Histogram<u64>,
}

impl Answers {
    fn new() -> Result<Self> {
        Ok(Self { accepted: 0, rejected: 0, latency: Histogram::new_with_bounds(1, 60_000_000, 3)? })
    }

    fn note(&mut self, answer: &Value, sent: Instant) {
        if answer["status"] == "accepted" {
            self.accepted += 1;
            self.latency.saturating_record(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX).max(1));
        } else {
            self.rejected += 1;
        }
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        Ok(self.latency.add(&other.latency)?)
    }
}

/// Measures the hops of quiet bids, of two people by turns, and of each chase.
pub async fn measure(stack: &mut Stack, arguments: &Arguments) -> Result<Value> {
    let is_chase_possible = arguments.door != Protocol::Http;
    ensure!(is_chase_possible || arguments.people.is_empty(), "callers over HTTP see no updates: they cannot chase");
    let chases = match arguments.people.as_slice() {
        [] if is_chase_possible => &CHASES,
        people => people,
    };
    let mut measured = Vec::new();
    for (name, pause) in [("quiet", Some(QUIET_PAUSE)), ("2 people by turns", None)] {
        measured.push(in_turn(stack, arguments, name, pause).await?);
    }
    for people in chases {
        measured.push(chase(stack, arguments, *people).await?);
    }
    Ok(json!({"door": format!("{:?}", arguments.door).to_lowercase(), "measurements": measured}))
}

async fn auction(stack: &Stack) -> Result<String> {
    let lot = json!({"title": "Bench", "duration": 600_000, "starting_bid": 1, "video": false,
        "minimum_increment": "0.01"});
    let url = format!("{}/auctions", stack.url(Name::AuctionManagement));
    let created = testkit::http::post(&url, Some(&stack.issuer.token("bench-host")?), &lot).await?;
    Ok(created.json["auction_id"].as_str().with_context(|| created.text.clone())?.to_owned())
}

/// Two people bid by turns, each when the other has its answer.
async fn in_turn(stack: &mut Stack, arguments: &Arguments, name: &str, pause: Option<Duration>) -> Result<Value> {
    let auction_id = auction(stack).await?;
    let mut people = Vec::new();
    for name in ["bench-0", "bench-1"] {
        people.push(Person::new(stack, arguments.door, name, &auction_id).await?);
    }
    let mut cents = 100;
    for nth in 0..WARM_UP_BIDS {
        people[nth % 2].bid(&new_bid(&auction_id, cents)).await?;
        cents += 1;
    }
    let (before, mut answers) = (Snapshot::take(stack).await?, Answers::new()?);
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    for nth in WARM_UP_BIDS.. {
        let sent = Instant::now();
        if sent >= end {
            break;
        }
        let answer = people[nth % 2].bid(&new_bid(&auction_id, cents)).await?;
        ensure!(answer["status"] == "accepted", "{answer}");
        answers.note(&answer, sent);
        cents += 1;
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
    before.report(stack, arguments, name, &answers).await
}

/// People who each bid the least amount they know of as soon as they do not lead.
async fn chase(stack: &mut Stack, arguments: &Arguments, people: u64) -> Result<Value> {
    let auction_id = auction(stack).await?;
    let mut sockets = Vec::new();
    for nth in 0..people {
        match Person::new(stack, arguments.door, &format!("bench-{nth}"), &auction_id).await? {
            Person::Socket(socket) => sockets.push(*socket),
            Person::Caller(..) => bail!("callers over HTTP see no updates"),
        }
    }
    let before = Snapshot::take(stack).await?;
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let chasing = sockets.into_iter().map(|socket| tokio::spawn(chase_as(socket, auction_id.clone(), end)));
    let mut answers = Answers::new()?;
    for person in try_join_all(chasing).await? {
        answers.add(&person?)?;
    }
    before.report(stack, arguments, &format!("{people} people chase each other"), &answers).await
}

/// One person of a chase.
async fn chase_as(mut socket: Socket, auction_id: String, end: Instant) -> Result<Answers> {
    let mut answers = Answers::new()?;
    let (mut known_seq, mut cents, mut leads) = (0, 100, false);
    let (mut id, mut asked) = (1_000_000, None);
    while Instant::now() < end || asked.is_some() {
        if asked.is_none() && !leads {
            id += 1;
            asked = Some(Instant::now());
            socket.request("place_bid", new_bid(&auction_id, cents), id).await?;
        }
        socket.seen.clear();
        let Ok(frame) = tokio::time::timeout(LOOK_AGAIN, socket.next()).await else { continue };
        let frame = frame?;
        let data = &frame["data"];
        let is_answer = frame["id"] == id;
        if let Some(sent) = asked.take_if(|_| is_answer) {
            answers.note(data, sent);
        }
        // An update may be older than an answer that came before it.
        let is_news = data["seq"].as_u64().is_some_and(|seq| seq >= known_seq);
        if is_news && (is_answer || frame["event"] == "bid_update") {
            known_seq = data["seq"].as_u64().unwrap_or(known_seq);
            cents = minimum_bid(data).unwrap_or(cents);
            leads = [&data["is_highest"], &data["you_are_winning"]].iter().any(|leads| **leads == true)
                || data["code"] == "already_leading";
        }
    }
    Ok(answers)
}

/// The growth of a histogram of seconds.
#[derive(Debug, Clone, Copy)]
struct Grown {
    sum: f64,
    count: f64,
}

impl Grown {
    /// Mean microseconds; 0 if nothing was added.
    fn mean_us(self) -> f64 {
        if self.count > 0.0 { 1e6 * self.sum / self.count } else { 0.0 }
    }

    /// The part of `all` that this was counted for as well, at most the whole.
    fn part_of(self, all: Self) -> f64 {
        if all.count > 0.0 { (self.count / all.count).min(1.0) } else { 0.0 }
    }
}

/// The counts of the services and of the kernel at one moment.
struct Snapshot {
    at: Instant,
    metrics: [String; 2],
    processes: Processes,
}

impl Snapshot {
    async fn take(stack: &mut Stack) -> Result<Self> {
        let mut metrics = [String::new(), String::new()];
        for (text, name) in metrics.iter_mut().zip([Name::Websocket, Name::BidProcessing]) {
            *text = testkit::http::get(&format!("{}/metrics", stack.url(name)), None).await?.text;
        }
        Ok(Self { at: Instant::now(), metrics, processes: Processes::read(stack)? })
    }

    /// The growth of a histogram since this snapshot.
    fn grown(&self, now: &Self, name: &str) -> Result<Grown> {
        let number = |metrics: &[String; 2], part: &str| -> Result<f64> {
            let prefix = format!("flash_{name}_seconds_{part} ");
            let line = metrics.iter().flat_map(|text| text.lines()).find_map(|line| line.strip_prefix(prefix.as_str()));
            Ok(line.with_context(|| format!("no metric {prefix}"))?.trim().parse()?)
        };
        let grown = |part| Ok::<_, anyhow::Error>(number(&now.metrics, part)? - number(&self.metrics, part)?);
        Ok(Grown { sum: grown("sum")?, count: grown("count")? })
    }

    /// The results of the time since this snapshot.
    async fn report(self, stack: &mut Stack, arguments: &Arguments, name: &str, answers: &Answers) -> Result<Value> {
        let now = Self::take(stack).await?;
        let seconds = (now.at - self.at).as_secs_f64();
        ensure!(answers.accepted > 0, "no bid was accepted");
        let ms = |quantile: f64| answers.latency.value_at_quantile(quantile) as f64 / 1000.0;
        let [edge, bid, queue, script, append] =
            ["edge_bid", "bid", "call_queue", "bid_script", "log_append"].map(|name| self.grown(&now, name));
        let (edge, bid, queue, script, append) = (edge?, bid?, queue?, script?, append?);
        // Many bids are rejected from the committed price and wait for none of these; many script calls append nothing.
        let (queued, appended) = (queue.part_of(bid), append.part_of(script));
        let (queue, script) = (queued * queue.mean_us(), queued * script.mean_us());
        let append = queued * appended * append.mean_us();
        let (edge, bid) = (edge.mean_us(), bid.mean_us());
        let whole = answers.latency.mean();
        let mut hops = vec![("bid-processing itself", bid - queue - script - append)];
        hops.extend([("queue of the auction", queue), ("script in Redis", script), ("append to the log", append)]);
        if arguments.door == Protocol::Http {
            hops.insert(0, ("client to bid-processing and back", whole - bid));
        } else {
            hops.insert(0, ("edge to bid-processing and back, NATS", edge - bid));
            hops.insert(0, ("client to edge and back", whole - edge));
        }
        let bids = (answers.accepted + answers.rejected) as f64;
        let used: Vec<Value> = self
            .processes
            .until(&now.processes)
            .into_iter()
            .map(|(process, Used { processor_seconds, switches })| {
                json!({"process": process, "processor_us_a_bid": 1e6 * processor_seconds / bids,
                    "switches_a_bid": switches as f64 / bids})
            })
            .collect();
        Ok(json!({
            "name": name,
            "accepted_per_second": answers.accepted as f64 / seconds,
            "rejected_per_second": answers.rejected as f64 / seconds,
            "answer_ms": {"p50": ms(0.5), "p99": ms(0.99), "max": ms(1.0)},
            "mean_us": whole,
            "hops": hops.iter().map(|(hop, us)| json!({"hop": hop, "us": us})).collect::<Vec<_>>(),
            "processes": used,
        }))
    }
}

/// Prints each measurement as a table of hops that add up to the whole.
pub fn print(measured: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    for measurement in measured["measurements"].as_array().into_iter().flatten() {
        println!("\n{}, over {}", measurement["name"].as_str().unwrap_or_default(), measured["door"]);
        println!("  accepted bids {:>10.0} /s", number(&measurement["accepted_per_second"]));
        println!("  rejected bids {:>10.0} /s", number(&measurement["rejected_per_second"]));
        let answer = &measurement["answer_ms"];
        println!(
            "  answer        {:>10.2} ms p50, {:.2} p99, {:.2} max",
            number(&answer["p50"]),
            number(&answer["p99"]),
            number(&answer["max"])
        );
        let whole = number(&measurement["mean_us"]);
        for hop in measurement["hops"].as_array().into_iter().flatten() {
            let us = number(&hop["us"]);
            println!("    {:<38} {us:>8.0} us {:>4.0} %", hop["hop"].as_str().unwrap_or_default(), 100.0 * us / whole);
        }
        println!("    {:<38} {whole:>8.0} us", "whole, mean");
        for process in measurement["processes"].as_array().into_iter().flatten() {
            println!(
                "    {:<38} {:>8.0} us of processor and {:.1} context switches a bid",
                process["process"].as_str().unwrap_or_default(),
                number(&process["processor_us_a_bid"]),
                number(&process["switches_a_bid"])
            );
        }
    }
}
