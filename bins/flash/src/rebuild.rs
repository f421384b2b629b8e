//! `cargo flash rebuild`: has every running auction looked at, and so brought back where Redis has lost it.
//!
//! The same happens by itself when an auction is next touched; this touches them all, before bidders do.

use std::process::ExitCode;

use anyhow::{Context, Result};
use domain::AuctionId;
use testkit::http;

use crate::stack_file;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only this auction; without it all that are not over
    auction: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(Box::pin(rebuild(arguments)))
}

async fn rebuild(arguments: &Arguments) -> Result<ExitCode> {
    let stack = stack_file::read(&crate::directory())?;
    let auctions: Vec<AuctionId> = match &arguments.auction {
        Some(text) => vec![text.parse().with_context(|| format!("{text} is no auction's id"))?],
        None => {
            let bus = bus::Bus::connect(&stack_file::operator(&stack)?, "flash rebuild").await?;
            let last = bus::Log::open(&bus).await?.last_of_each().await?;
            let running = last.iter().filter(|logged| logged.record.state.outcome.is_none());
            running.map(|logged| logged.record.auction_id).collect()
        }
    };
    let management = stack_file::text(&stack["services"]["auction-management"]["url"])?;
    let mut failed = 0;
    for auction_id in &auctions {
        let reply = http::get(&format!("{management}/auctions/{auction_id}/state"), None).await?;
        let is_well = reply.status == 200;
        failed += u64::from(!is_well);
        let says = if is_well { format!("seq {}", reply.json["seq"]) } else { reply.text };
        println!("{auction_id}  {says}");
    }
    println!("{} looked at, {failed} not in order", auctions.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
