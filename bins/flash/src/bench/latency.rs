//! Where the time of a bid goes: the hops between its sender and the log, of a quiet auction and of a hot one.
//!
//! Hops are mean times from the histograms of the services, so that they add up to the whole that the senders measured.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::bidder::new_bid;
use testkit::http::Caller;
use testkit::socket::{Socket, Transport};
use tokio::time::Instant;

use super::answers::{Answers, Counted};
use super::bids::LongAuction;
use super::load::BidTransport;
use super::processes::{Processes, Used};
use super::system::System;
use super::{Impossible, chase};
use crate::stack::Name;

/// Pause between two bids of a quiet auction.
const QUIET_PAUSE: Duration = Duration::from_millis(20);
/// Bids before a measurement, in which tokens are verified and connections opened.
const WARM_UP_BIDS: usize = 50;

/// The error of a benchmark on a running stack whose limit of accepted bids two people by turns exceed.
const LIMITED: &str = "the stack accepts fewer bids per second from one person than this benchmark places: \
    start it with a higher MAX_BIDS_PER_USER_PER_SECOND";

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
    /// Least bids in the log of an auction before two people bid in it, quietly and by turns
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=5_000_000))]
    pub bids_before: u64,
    /// The door that bids come through; callers over `http` see no updates, so that there is no chase
    #[arg(long, value_enum, default_value_t = BidTransport::Ws)]
    pub door: BidTransport,
}

/// Someone who bids on one auction.
enum Person {
    Socket(Box<Socket>),
    Caller(Box<Caller>, String, String),
}

impl Person {
    async fn new(system: &System, door: BidTransport, name: &str, auction_id: &str) -> Result<Self> {
        if let Some(transport) = door.transport() {
            let socket = chase::join(system, transport, name, auction_id).await?;
            return Ok(Self::Socket(Box::new(socket)));
        }
        let url = format!("{}/bids", system.url(Name::BidProcessing));
        Ok(Self::Caller(Box::new(Caller::new()), url, system.token(name)?))
    }

    /// Places a bid and returns its answer.
    async fn bid(&mut self, bid: &Value) -> Result<Value> {
        match self {
            Self::Socket(socket) => Ok(socket.ask("place_bid", bid.clone()).await?["data"].take()),
            Self::Caller(caller, url, token) => Ok(caller.post(url, Some(token), bid).await?.json),
        }
    }
}

impl Arguments {
    /// Refuses a door that has no chase, or whose hops are not known.
    pub fn check(&self) -> Result<(), Impossible> {
        match self.door {
            BidTransport::Nats => {
                Err(Impossible("the hops of a bid begin at a person: --door is ws, socketio or http".to_owned()))
            }
            BidTransport::Http if !self.people.is_empty() => {
                Err(Impossible("callers over http see no updates: they cannot chase each other".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// Measures the hops of quiet bids, of two people by turns, and of each chase.
pub async fn measure(system: &System, arguments: &Arguments) -> Result<Value> {
    let chases = match (arguments.door.transport(), arguments.people.as_slice()) {
        (Some(transport), []) => (Some(transport), CHASES.as_slice()),
        chases => chases,
    };
    let mut measured = Vec::new();
    for (name, pause) in [("quiet", Some(QUIET_PAUSE)), ("2 people by turns", None)] {
        measured.push(in_turn(system, arguments, name, pause).await?);
    }
    if let (Some(transport), chases) = chases {
        for people in chases {
            measured.push(measure_chase(system, arguments, transport, *people).await?);
        }
    }
    Ok(json!({"door": arguments.door.name(), "measurements": measured}))
}

/// Two people bid by turns, each when the other has its answer.
async fn in_turn(system: &System, arguments: &Arguments, name: &str, pause: Option<Duration>) -> Result<Value> {
    let LongAuction { id: auction_id, bids, next_cents: mut cents } =
        LongAuction::with_bids(system, arguments.bids_before).await?;
    let mut people = Vec::new();
    for nth in 0..2 {
        people.push(Person::new(system, arguments.door, &system.person(nth), &auction_id).await?);
    }
    for nth in 0..WARM_UP_BIDS {
        people[nth % 2].bid(&new_bid(&auction_id, cents)).await?;
        cents += 1;
    }
    let (before, mut answers) = (Snapshot::take(system).await?, Answers::new(Counted::Accepted)?);
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    for nth in WARM_UP_BIDS.. {
        let sent = Instant::now();
        if sent >= end {
            break;
        }
        let answer = people[nth % 2].bid(&new_bid(&auction_id, cents)).await?;
        ensure!(answer["code"] != "rate_limited", LIMITED);
        ensure!(answer["status"] == "accepted", "{answer}");
        answers.note(&answer, sent.elapsed());
        cents += 1;
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
    let mut report = before.report(system, arguments, name, &answers).await?;
    report["bids_before"] = bids.into();
    Ok(report)
}

/// People who chase each other in one auction.
async fn measure_chase(system: &System, arguments: &Arguments, transport: Transport, people: u64) -> Result<Value> {
    let auction_ids = system.create_for_bids(1).await?;
    let chasers = chase::enter(system, transport, people, &auction_ids).await?;
    let (before, begin) = (Snapshot::take(system).await?, Instant::now());
    let answers = chase::run(chasers, begin, begin + Duration::from_secs(arguments.seconds)).await?;
    before.report(system, arguments, &format!("{people} people chase each other"), &answers).await
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
    async fn take(system: &System) -> Result<Self> {
        let mut metrics = [String::new(), String::new()];
        for (text, name) in metrics.iter_mut().zip([Name::Websocket, Name::BidProcessing]) {
            *text = system.metrics(name).await?;
        }
        Ok(Self { at: Instant::now(), metrics, processes: Processes::read(&system.watched)? })
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
    async fn report(self, system: &System, arguments: &Arguments, name: &str, answers: &Answers) -> Result<Value> {
        let now = Self::take(system).await?;
        let seconds = (now.at - self.at).as_secs_f64();
        ensure!(answers.accepted() > 0, "no bid was accepted");
        let [edge, bid, queue, script, append] =
            ["edge_bid", "bid", "call_queue", "bid_script", "log_append"].map(|name| self.grown(&now, name));
        let (edge, bid, queue, script, append) = (edge?, bid?, queue?, script?, append?);
        // Many bids are rejected from the committed price and wait for none of these; many script calls append nothing.
        let (queued, appended) = (queue.part_of(bid), append.part_of(script));
        let (queue, script) = (queued * queue.mean_us(), queued * script.mean_us());
        let append = queued * appended * append.mean_us();
        let (edge, bid) = (edge.mean_us(), bid.mean_us());
        let whole = answers.mean_us();
        let mut hops = vec![("bid-processing itself", bid - queue - script - append)];
        hops.extend([("queue of the auction", queue), ("script in Redis", script), ("append to the log", append)]);
        if arguments.door == BidTransport::Http {
            hops.insert(0, ("client to bid-processing and back", whole - bid));
        } else {
            hops.insert(0, ("edge to bid-processing and back, NATS", edge - bid));
            hops.insert(0, ("client to edge and back", whole - edge));
        }
        let bids = answers.total() as f64;
        let used: Vec<Value> = self
            .processes
            .until(&now.processes)
            .into_iter()
            .map(|(process, used)| {
                let Used { processor_seconds, switches, resident_bytes } = used;
                json!({"process": process, "processor_us_a_bid": 1e6 * processor_seconds / bids,
                    "switches_a_bid": switches as f64 / bids, "resident_mb": resident_bytes / 1e6})
            })
            .collect();
        Ok(json!({
            "name": name,
            "accepted_per_second": answers.accepted() as f64 / seconds,
            "rejected_per_second": (answers.total() - answers.accepted()) as f64 / seconds,
            "answer_ms": {"p50": answers.ms(0.5), "p99": answers.ms(0.99), "max": answers.ms(1.0)},
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
        if let Some(bids) = measurement["bids_before"].as_u64().filter(|bids| *bids > 0) {
            println!("  bids before   {bids:>10}");
        }
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
