//! `cargo flash top`: all live auctions, with rates, lag and trouble.

mod collect;
mod report;
mod screen;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::mpsc::{self, Sender};

use crate::checkout;
use crate::stack::description;
use crate::terminal::{MAX_WAITING, Screen, show};
use crate::watch::Edge;
use collect::{Round, Sources};
use screen::Top;

/// The arguments of `top`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    edge: Edge,
    /// Print one report and exit, as is done without a terminal
    #[arg(long)]
    plain: bool,
}

/// Interval between two rounds. A round asks each service twice.
const EVERY: Duration = Duration::from_secs(2);

/// Shows the report until `q`, or prints it once.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let sources = sources(&arguments.edge)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let mut top = Top::default();
        if arguments.plain || !std::io::stdout().is_terminal() {
            // Rates are those between two rounds.
            top.update(sources.round().await);
            tokio::time::sleep(EVERY).await;
            top.update(sources.round().await);
            for line in top.report.iter().flat_map(report::Report::lines) {
                println!("{line}");
            }
            return Ok(ExitCode::SUCCESS);
        }
        let (sender, mut rounds) = mpsc::channel(MAX_WAITING);
        tokio::select! {
            () = ask(&sources, &sender) => {}
            shown = show(&mut top, &mut rounds) => shown?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Asks again and again, until the receiver is gone.
async fn ask(sources: &Sources, rounds: &Sender<Round>) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if rounds.send(sources.round().await).await.is_err() {
            return;
        }
    }
}

/// The running stack, or an edge alone.
fn sources(edge: &Edge) -> Result<Sources> {
    if let Some(edge) = edge.address()? {
        return Ok(Sources { api: format!("{edge}/api"), services: Vec::new(), monitor: None });
    }
    let stack = description::read(&checkout::directory())?;
    let services = stack["services"].as_object().context("stack.json is damaged")?.iter();
    let services = services.map(|(name, service)| Ok((name.clone(), description::text(&service["url"])?)));
    Ok(Sources {
        api: description::text(&stack["services"]["auction-management"]["url"])?,
        services: services.collect::<Result<_>>()?,
        monitor: stack["nats"]["monitor"].as_str().map(str::to_owned),
    })
}
