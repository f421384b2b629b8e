//! `cargo flash bench`: benchmarks, each next to the raw limit of the machine in the same run.
//!
//! Each runs on a private stack with every service in its own process and all writes synced as in production; its data
//! is removed afterwards. With `--running` the stack of `flash up` is measured instead, where nothing has to be killed
//! for it. The load runs on the same machine, so ratios say more than rates.

mod answers;
mod bids;
mod ceiling;
mod chase;
mod doors;
mod figures;
mod frames;
mod latency;
mod load;
mod persistence;
mod processes;
mod recovery;
mod schedule;
mod system;
mod timers;
mod watchers;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use load::Load;
use processes::Processes;
use serde_json::{Value, json};
use system::System;
use testkit::scratch::Scratch;
use tokio::time::Instant;

use crate::checkout;
use crate::stack::{Name, Options, Ports, Stack};

/// The arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Measure a stack with TLS
    #[arg(long, global = true)]
    tls: bool,
    /// Measure the stack that `flash up` runs here, with its settings, where nothing has to be killed: `bids`, `latency`,
    /// `timers` and the lag of `persistence`
    #[arg(long, global = true)]
    running: bool,
    /// Stop bid-persistence first: the time of a bid where DynamoDB is elsewhere. Its emulator takes half of a core here
    #[arg(long, global = true)]
    without_history: bool,
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Benchmark {
    /// Bids on one hot auction or many, next to the raw limits
    Bids(Load),
    /// Raw limits of this machine: Redis, NATS and loopback sockets without the services
    Ceiling(Load),
    /// Memory of the edge per joined connection
    Connections(watchers::Connections),
    /// One auction with many watchers: cost of a frame, and time from a bid to the last watcher
    Fanout(watchers::Fanout),
    /// Where the time of a bid goes, when an auction is quiet and when people chase each other
    Latency(latency::Arguments),
    /// How far the history is behind the log, and how fast it drains a backlog
    Persistence(persistence::Arguments),
    /// All connections lost at once: time until every client is back and has missed nothing
    Reconnects(watchers::Reconnects),
    /// Time from the kill of bid-processing, Redis, NATS and an edge to the next accepted bid, on a private stack alone
    Recovery(recovery::Arguments),
    /// Many live auctions of which some end every second: evenness of ticks, and time from the end to its watchers
    Timers(timers::Arguments),
}

/// Numbers that no run can have together, or a stack that is not there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Impossible(String);

impl Benchmark {
    const fn name(&self) -> &'static str {
        match self {
            Self::Bids(_) => "bids",
            Self::Ceiling(_) => "ceiling",
            Self::Connections(_) => "connections",
            Self::Fanout(_) => "fanout",
            Self::Latency(_) => "latency",
            Self::Persistence(_) => "persistence",
            Self::Reconnects(_) => "reconnects",
            Self::Recovery(_) => "recovery",
            Self::Timers(_) => "timers",
        }
    }

    /// Refuses what cannot be run, before anything is started for it.
    fn check(&self, running: bool) -> Result<(), Impossible> {
        match self {
            Self::Bids(load) => load.check(),
            Self::Latency(arguments) => arguments.check(),
            Self::Timers(arguments) => arguments.check(),
            Self::Persistence(_) => Ok(()),
            Self::Ceiling(_) | Self::Connections(_) | Self::Fanout(_) | Self::Reconnects(_) | Self::Recovery(_)
                if running =>
            {
                let name = self.name();
                Err(Impossible(format!(
                    "`{name}` kills, fills or needs settings of its own: it cannot measure a running stack"
                )))
            }
            Self::Ceiling(_) | Self::Connections(_) | Self::Fanout(_) | Self::Reconnects(_) | Self::Recovery(_) => {
                Ok(())
            }
        }
    }

    /// Measures a private stack, and what its processes use where the benchmark itself does not.
    async fn measure(&self, stack: &mut Stack) -> Result<Value> {
        let (used, began) = (Processes::read(&System::of(stack).watched)?, Instant::now());
        let mut measured = Box::pin(self.measure_private(stack)).await?;
        if matches!(self, Self::Connections(_) | Self::Fanout(_) | Self::Reconnects(_)) {
            let later = Processes::read(&System::of(stack).watched)?;
            measured["processes"] = used.report(&later, began.elapsed().as_secs_f64());
        }
        Ok(measured)
    }

    async fn measure_private(&self, stack: &mut Stack) -> Result<Value> {
        let system = System::of(stack);
        match self {
            Self::Bids(load) => {
                let mut measured = bids::measure(&system, *load).await?;
                measured["ceiling"] = ceiling::measure(stack, *load).await?;
                Ok(measured)
            }
            Self::Ceiling(load) => Ok(json!({"ceiling": ceiling::measure(stack, *load).await?})),
            Self::Connections(arguments) => watchers::connections(stack, *arguments).await,
            Self::Fanout(arguments) => watchers::fanout(stack, *arguments).await,
            Self::Latency(arguments) => latency::measure(&system, arguments).await,
            Self::Persistence(arguments) => Box::pin(persistence::measure(&system, Some(stack), *arguments)).await,
            Self::Reconnects(arguments) => watchers::reconnects(stack, *arguments).await,
            Self::Recovery(arguments) => Box::pin(recovery::measure(stack, *arguments)).await,
            Self::Timers(arguments) => timers::measure(&system, *arguments).await,
        }
    }

    /// Measures the running stack.
    async fn measure_running(&self) -> Result<Value> {
        let system = System::running().await?;
        match self {
            Self::Bids(load) => bids::measure(&system, *load).await,
            Self::Latency(arguments) => latency::measure(&system, arguments).await,
            Self::Persistence(arguments) => Box::pin(persistence::measure(&system, None, *arguments)).await,
            Self::Timers(arguments) => timers::measure(&system, *arguments).await,
            _ => Ok(self.check(true).map(|()| Value::Null)?),
        }
    }

    fn print(&self, measured: &Value) {
        match self {
            Self::Bids(_) | Self::Ceiling(_) => bids::print(measured),
            Self::Latency(_) => latency::print(measured),
            Self::Persistence(_) => persistence::print(measured),
            Self::Recovery(_) => recovery::print(measured),
            Self::Timers(_) => timers::print(measured),
            Self::Connections(_) | Self::Fanout(_) | Self::Reconnects(_) => {
                watchers::print(measured);
                processes::print(&measured["processes"]);
            }
        }
    }
}

/// Runs a benchmark, prints its results and writes them to a file.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let benchmark = &arguments.benchmark;
    if arguments.running && arguments.tls {
        return Err(
            Impossible("the running stack has TLS or not, as it was started: leave out --tls".to_owned()).into()
        );
    }
    if arguments.without_history && (arguments.running || matches!(benchmark, Benchmark::Persistence(_))) {
        return Err(Impossible(
            "--without-history stops bid-persistence: not on a running stack, and not for `persistence`".to_owned(),
        )
        .into());
    }
    benchmark.check(arguments.running)?;
    ensure!(!cfg!(debug_assertions), "an unoptimised build cannot be measured; use `cargo flash bench`");
    let runtime = tokio::runtime::Runtime::new()?;
    let measured = if arguments.running {
        runtime.block_on(Box::pin(benchmark.measure_running()))?
    } else {
        runtime.block_on(Box::pin(private(arguments)))?
    };
    benchmark.print(&measured);
    let folder = checkout::root().join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{}.json", benchmark.name()));
    std::fs::write(&file, serde_json::to_vec_pretty(&measured)?)?;
    println!("\nResults written to {}", file.display());
    if let Some(sentence) = answers::limit(&measured) {
        eprintln!("flash: {sentence}");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a benchmark on a stack that is started and removed for it.
async fn private(arguments: &Arguments) -> Result<Value> {
    let Arguments { tls, without_history, ref benchmark, .. } = *arguments;
    let scratch = Scratch::new("bench")?;
    let options = Options {
        topology: testkit::Topology { tls, ..testkit::Topology::default() },
        directory: scratch.path().to_owned(),
        tools: checkout::directory(),
        ports: Ports::Free,
        instances: BTreeMap::new(),
        processes: Some(std::env::current_exe()?),
        // The limits per user and per process are not under test.
        settings: vec![
            ("MAX_OPEN_AUCTIONS_PER_USER".to_owned(), "1000000".to_owned()),
            ("MAX_AUCTIONS_PER_USER_PER_HOUR".to_owned(), "1000000".to_owned()),
            ("MAX_BIDS_PER_USER_PER_SECOND".to_owned(), "1000000".to_owned()),
            ("MAX_BIDS_PER_USER_PER_DAY".to_owned(), "1000000000".to_owned()),
            ("DEFAULT_PERSON_LIMIT".to_owned(), "none".to_owned()),
            ("MAX_CONNECTIONS".to_owned(), "16000".to_owned()),
            ("RUST_LOG".to_owned(), "warn".to_owned()),
        ],
    };
    let mut stack = Stack::start(options, &|step| eprintln!("flash: {step} …")).await?;
    if without_history {
        stack.stop_instance(Name::BidPersistence, 0).await?;
    }
    let measured = Box::pin(benchmark.measure(&mut stack)).await;
    stack.stop().await;
    scratch.remove();
    measured
}
