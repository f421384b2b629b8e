//! `cargo flash bench`: benchmarks, each next to the raw limit of the machine in the same run.
//!
//! Each runs on a private stack with every service in its own process and all writes synced as in production; its data
//! is removed afterwards. The load generator runs on the same machine, so ratios say more than rates.

mod bids;
mod ceiling;
mod latency;
mod load;
mod processes;
mod watchers;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use load::Load;
use serde_json::json;
use testkit::scratch::Scratch;

use crate::checkout;
use crate::stack::{Options, Ports, Stack};

/// The arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Measure a stack with TLS
    #[arg(long, global = true)]
    tls: bool,
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
    /// All connections lost at once: time until every client is back and has missed nothing
    Reconnects(watchers::Reconnects),
}

impl Benchmark {
    const fn name(&self) -> &'static str {
        match self {
            Self::Bids(_) => "bids",
            Self::Ceiling(_) => "ceiling",
            Self::Connections(_) => "connections",
            Self::Fanout(_) => "fanout",
            Self::Latency(_) => "latency",
            Self::Reconnects(_) => "reconnects",
        }
    }
}

/// Runs a benchmark, prints its results and writes them to a file.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(!cfg!(debug_assertions), "an unoptimised build cannot be measured; use `cargo flash bench`");
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(Box::pin(bench(&arguments.benchmark, arguments.tls)))
}

async fn bench(benchmark: &Benchmark, tls: bool) -> Result<ExitCode> {
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
    let measured = Box::pin(async {
        anyhow::Ok(match benchmark {
            Benchmark::Bids(load) => {
                let bids = bids::measure(&stack, *load).await?;
                json!({"bids": bids, "ceiling": ceiling::measure(&stack, *load).await?})
            }
            Benchmark::Ceiling(load) => json!({"ceiling": ceiling::measure(&stack, *load).await?}),
            Benchmark::Connections(arguments) => watchers::connections(&stack, *arguments).await?,
            Benchmark::Fanout(arguments) => watchers::fanout(&stack, *arguments).await?,
            Benchmark::Latency(arguments) => latency::measure(&mut stack, arguments).await?,
            Benchmark::Reconnects(arguments) => watchers::reconnects(&mut stack, *arguments).await?,
        })
    })
    .await;
    stack.stop().await;
    scratch.remove();
    let measured = measured?;
    match benchmark {
        Benchmark::Bids(_) | Benchmark::Ceiling(_) => bids::print(&measured),
        Benchmark::Latency(_) => latency::print(&measured),
        Benchmark::Connections(_) | Benchmark::Fanout(_) | Benchmark::Reconnects(_) => watchers::print(&measured),
    }
    let folder = checkout::root().join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{}.json", benchmark.name()));
    std::fs::write(&file, serde_json::to_vec_pretty(&measured)?)?;
    println!("\nResults written to {}", file.display());
    Ok(ExitCode::SUCCESS)
}
