//! `cargo flash bench`: what this machine carries, each figure beside its ceiling in the same run.
//!
//! A stack of its own, each service a process, everything synced as in production; its data is gone
//! afterwards. The client shares the machine: ratios say more than the rates.

mod bids;
mod ceiling;
mod watchers;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use bids::Load;
use serde_json::json;
use testkit::scratch::Scratch;

use crate::{Options, Ports, Stack};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Copy, clap::Subcommand)]
enum What {
    /// Bids on one hot auction or many, beside the ceiling
    Bids(Load),
    /// What this machine's Redis, NATS and loopback sockets give bare
    Ceiling(Load),
    /// Memory of the edge for a joined connection
    Connections(watchers::Connections),
    /// One room: what an event to all costs, and how long a bid takes to the last screen
    Fanout(watchers::Fanout),
    /// Everybody thrown off at once: how long until all are back and have missed nothing
    Reconnects(watchers::Reconnects),
}

impl What {
    const fn name(self) -> &'static str {
        match self {
            Self::Bids(_) => "bids",
            Self::Ceiling(_) => "ceiling",
            Self::Connections(_) => "connections",
            Self::Fanout(_) => "fanout",
            Self::Reconnects(_) => "reconnects",
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(!cfg!(debug_assertions), "an unoptimised build measures nothing; use `cargo flash bench`");
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(Box::pin(bench(arguments.what)))
}

async fn bench(what: What) -> Result<ExitCode> {
    let scratch = Scratch::new("bench")?;
    let options = Options {
        shape: testkit::Shape::default(),
        directory: scratch.path().to_owned(),
        tools: crate::directory(),
        ports: Ports::Free,
        instances: BTreeMap::new(),
        processes: Some(std::env::current_exe()?),
        // The bound on a person is not what is measured.
        settings: vec![
            ("MAX_BIDS_PER_USER_PER_SECOND".to_owned(), "1000000".to_owned()),
            ("MAX_CONNECTIONS".to_owned(), "16000".to_owned()),
            ("RUST_LOG".to_owned(), "warn".to_owned()),
        ],
    };
    let mut stack = Stack::start(options, &|step| eprintln!("flash: {step} …")).await?;
    let measured = Box::pin(async {
        anyhow::Ok(match what {
            What::Bids(load) => {
                let bids = bids::measure(&stack, load).await?;
                json!({"bids": bids, "ceiling": ceiling::measure(&stack, load).await?})
            }
            What::Ceiling(load) => json!({"ceiling": ceiling::measure(&stack, load).await?}),
            What::Connections(asked) => watchers::connections(&stack, asked).await?,
            What::Fanout(asked) => watchers::fanout(&stack, asked).await?,
            What::Reconnects(asked) => watchers::reconnects(&mut stack, asked).await?,
        })
    })
    .await;
    stack.stop().await;
    scratch.remove();
    let measured = measured?;
    match what {
        What::Bids(_) | What::Ceiling(_) => bids::print(&measured),
        What::Connections(_) | What::Fanout(_) | What::Reconnects(_) => watchers::print(&measured),
    }
    let folder = crate::root().join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{}.json", what.name()));
    std::fs::write(&file, serde_json::to_vec_pretty(&measured)?)?;
    println!("\nwritten to {}", file.display());
    Ok(ExitCode::SUCCESS)
}
