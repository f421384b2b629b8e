//! Time from `kill -9` of a part of the system, which is restarted at once, to the next accepted bid.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use testkit::Signal;
use testkit::bidder::new_bid;
use testkit::http::Caller;
use testkit::socket::{Socket, Transport};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::answers::{Probe, print_lag};
use super::bids::LongAuction;
use super::figures::{rows, spread};
use super::processes::{self, Processes};
use super::system::System;
use crate::stack::{Name, Stack};

/// Interval between two attempts to bid, or to join, and so the precision of the results.
const ATTEMPT_EVERY: Duration = Duration::from_millis(20);
/// People who bid by turns. A person may have a bounded number of bids in flight, and none is answered during an outage.
const BIDDERS: u64 = 16;
/// Attempts that wait for their answers.
const MAX_WAITING: usize = 256;
/// Time for a join to be answered; an edge that is starting may accept a connection that it does not serve yet.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for the system to recover. A benchmark that takes longer has failed.
const RECOVERS_WITHIN: Duration = Duration::from_secs(60);
/// Time before a kill in which the system does what the one before has left to do.
const SETTLE: Duration = Duration::from_secs(1);

/// The arguments of `bench recovery`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Arguments {
    /// Kills of each part
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub rounds: u64,
    /// Least bids in the log of the auction before the first kill
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=5_000_000))]
    pub bids_before: u64,
}

/// A part that is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    BidProcessing,
    Redis,
    Nats,
    Edge,
}

impl Part {
    const ALL: [Self; 4] = [Self::BidProcessing, Self::Redis, Self::Nats, Self::Edge];

    const fn name(self) -> &'static str {
        match self {
            Self::BidProcessing => "bid-processing",
            Self::Redis => "redis-server",
            Self::Nats => "nats-server",
            Self::Edge => "websocket",
        }
    }

    /// Kills it; returns when.
    fn kill(self, stack: &Stack) -> Result<Instant> {
        let kill = |name: Name| {
            let instance = stack.instances.iter().find(|instance| instance.name == name);
            instance.context("no such instance")?.signal(Signal::Kill)
        };
        match self {
            Self::BidProcessing => kill(Name::BidProcessing)?,
            Self::Redis => stack.servers.redis[0].process.signal(Signal::Kill)?,
            Self::Nats => stack.servers.nats[0].process.signal(Signal::Kill)?,
            Self::Edge => kill(Name::Websocket)?,
        }
        Ok(Instant::now())
    }

    /// Starts it again on the same data and address, and waits until it is ready.
    async fn restart(self, stack: &mut Stack) -> Result<Instant> {
        match self {
            Self::BidProcessing => stack.kill_and_restart_instance(Name::BidProcessing, 0).await?,
            Self::Redis => stack.servers.restart_redis().await?,
            Self::Nats => stack.servers.restart_nats().await?,
            Self::Edge => stack.kill_and_restart_instance(Name::Websocket, 0).await?,
        }
        Ok(Instant::now())
    }
}

/// When the system took a bid again.
struct Recovered {
    /// When a client of the killed edge had joined again.
    joined: Option<Instant>,
    accepted: Instant,
}

/// People who try to bid in one auction.
struct Bidders {
    bids: String,
    edge: String,
    auction_id: String,
    tokens: Vec<String>,
    /// The person who watches, and bids once after a rejoin.
    watcher: String,
    caller: Caller,
    /// The amount of the next bid.
    next_cents: AtomicU64,
}

/// Measures each part by turns.
pub async fn measure(stack: &mut Stack, arguments: Arguments) -> Result<Value> {
    let system = System::of(stack);
    let auction = LongAuction::with_bids(&system, arguments.bids_before).await?;
    let bids_before = auction.bids;
    let bidders = Arc::new(Bidders::new(&system, auction)?);
    let (used, probe, began) = (Processes::read(&system.watched)?, Probe::start(), Instant::now());
    let mut parts = Vec::new();
    for part in Part::ALL {
        let measured = Box::pin(rounds(stack, &bidders, part, arguments.rounds)).await;
        parts.push(measured.with_context(|| part.name())?);
    }
    let seconds = began.elapsed().as_secs_f64();
    let later = Processes::read(&System::of(stack).watched)?;
    Ok(json!({
        "rounds": arguments.rounds, "bids_before": bids_before, "recovery": parts,
        "processes": used.report(&later, seconds), "own_lag_ms": probe.finish().await?.report(),
    }))
}

/// Kills one part again and again.
async fn rounds(stack: &mut Stack, bidders: &Arc<Bidders>, part: Part, rounds: u64) -> Result<Value> {
    let (mut restarted, mut joined, mut accepted) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        bidders.next_accepted().await?;
        tokio::time::sleep(SETTLE).await;
        let killed = part.kill(stack)?;
        let recovering =
            async { if part == Part::Edge { bidders.rejoined().await } else { bidders.next_accepted().await } };
        let (ready, recovered) = tokio::try_join!(part.restart(stack), recovering)?;
        let after = |at: Instant| (at - killed).as_secs_f64();
        restarted.push(after(ready));
        joined.extend(recovered.joined.map(after));
        accepted.push(after(recovered.accepted));
    }
    Ok(json!({
        "part": part.name(),
        "ready_seconds": spread(restarted), "rejoined_seconds": spread(joined), "accepted_seconds": spread(accepted),
    }))
}

impl Bidders {
    fn new(system: &System, auction: LongAuction) -> Result<Self> {
        let tokens = (0..BIDDERS).map(|nth| system.token(&system.person(nth))).collect::<Result<_>>()?;
        Ok(Self {
            bids: format!("{}/bids", system.url(Name::BidProcessing)),
            edge: system.url(Name::Websocket).to_owned(),
            auction_id: auction.id,
            tokens,
            watcher: system.token(&system.person(BIDDERS))?,
            caller: Caller::new(),
            next_cents: AtomicU64::new(auction.next_cents),
        })
    }

    /// The next bid and its cents: each is higher than all before, whatever became of those.
    fn next_bid(&self) -> (u64, Value) {
        let cents = self.next_cents.fetch_add(1, Ordering::Relaxed);
        (cents, new_bid(&self.auction_id, cents))
    }

    /// Bids without waiting for answers until a bid is accepted.
    async fn next_accepted(self: &Arc<Self>) -> Result<Recovered> {
        let (mut attempts, mut due) = (JoinSet::new(), tokio::time::interval(ATTEMPT_EVERY));
        let give_up = Instant::now() + RECOVERS_WITHIN;
        loop {
            tokio::select! {
                _ = due.tick(), if attempts.len() < MAX_WAITING => {
                    attempts.spawn(Arc::clone(self).attempt());
                }
                Some(answered) = attempts.join_next() => {
                    if let Some(accepted) = answered? {
                        return Ok(Recovered { joined: None, accepted });
                    }
                }
                () = tokio::time::sleep_until(give_up) => bail!("no bid was accepted within {RECOVERS_WITHIN:?}"),
            }
        }
    }

    /// One bid over HTTP; returns when it was answered, if it was accepted.
    async fn attempt(self: Arc<Self>) -> Option<Instant> {
        let (cents, bid) = self.next_bid();
        let token = usize::try_from(cents % BIDDERS).ok().and_then(|bidder| self.tokens.get(bidder));
        // Attempts fail in many ways while a part is down.
        let answer = self.caller.post(&self.bids, token.map(String::as_str), &bid).await.ok()?;
        (answer.json["status"] == "accepted").then(Instant::now)
    }

    /// Joins at the edge as soon as it lets a client in, then bids through it.
    async fn rejoined(&self) -> Result<Recovered> {
        let (mut due, give_up) = (tokio::time::interval(ATTEMPT_EVERY), Instant::now() + RECOVERS_WITHIN);
        let mut socket = loop {
            due.tick().await;
            if let Ok(Ok(socket)) = tokio::time::timeout(JOIN_TIMEOUT, self.join()).await {
                break socket;
            }
            ensure!(Instant::now() < give_up, "no client could join within {RECOVERS_WITHIN:?}");
        };
        let joined = Some(Instant::now());
        loop {
            let answer = socket.ask("place_bid", self.next_bid().1).await?;
            if answer["data"]["status"] == "accepted" {
                return Ok(Recovered { joined, accepted: Instant::now() });
            }
            ensure!(Instant::now() < give_up, "no bid was accepted within {RECOVERS_WITHIN:?}: {answer}");
            due.tick().await;
        }
    }

    async fn join(&self) -> Result<Socket> {
        let mut socket = Socket::enter(&self.edge, Transport::Plain, &self.watcher).await?;
        let joined = socket.ask("join_auction", json!({"auction_id": self.auction_id})).await?;
        ensure!(joined["data"]["auction_id"] == self.auction_id.as_str(), "{joined}");
        Ok(socket)
    }
}

/// Prints the results.
pub fn print(measured: &Value) {
    println!("\nafter kill -9 and an immediate restart, {} times each", measured["rounds"]);
    println!("  bids before the first kill: {}", measured["bids_before"]);
    for part in measured["recovery"].as_array().into_iter().flatten() {
        let name = part["part"].as_str().unwrap_or_default();
        rows(&format!("{name}: ready"), &part["ready_seconds"], "s");
        rows(&format!("{name}: client has joined again"), &part["rejoined_seconds"], "s");
        rows(&format!("{name}: next accepted bid"), &part["accepted_seconds"], "s");
    }
    print_lag(&measured["own_lag_ms"]);
    processes::print(&measured["processes"]);
}
