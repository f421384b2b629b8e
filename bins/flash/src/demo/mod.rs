//! `cargo flash demo`: bots bid in a real auction on the running stack; then all stored results are compared.

mod bots;
mod results;
mod running;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use testkit::http;
use testkit::socket::Transport;
use tokio::time::Instant;

use bots::{Bot, Observations};
use results::StoredResult;
use running::Running;

/// The arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Seconds that the auction lasts before late bids extend it
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(5..=600))]
    seconds: u64,
    /// Number of bidding bots, half of them over each transport
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=200))]
    bots: u64,
}

/// Seconds before the end in which a bid extends the auction, seconds of an extension, and the number of extensions.
const ANTI_SNIPE: (u64, u64, u64) = (4, 3, 3);
/// Time after the latest possible end until its frame must arrive.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the demo.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let running = Arc::new(Running::find()?);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(demo(arguments, running))
}

async fn demo(arguments: &Arguments, running: Arc<Running>) -> Result<ExitCode> {
    let title = format!("Demo {}", uuid::Uuid::new_v4().simple());
    let (window, extension, max_extensions) = ANTI_SNIPE;
    let auction = json!({
        "title": title, "duration": arguments.seconds, "starting_bid": 10, "category": "demo",
        "anti_snipe": {"mode": "extend", "window": window, "extension": extension, "max_extensions": max_extensions},
    });
    let url = format!("{}/auctions", running.management);
    let created = http::post(&url, Some(&running.token("demo-host")?), &auction).await?;
    ensure!(created.status == 201, "failed to create the auction: {} {}", created.status, created.text);
    let id = created.json["auction_id"].as_str().context("the answer has no auction_id")?.to_owned();
    println!("Auction {id}: {} bots, {} s\n", arguments.bots, arguments.seconds);

    let observations = Arc::new(Observations::default());
    let give_up = Instant::now() + Duration::from_secs(arguments.seconds + extension * max_extensions) + GRACE;
    let bots: Vec<_> = (0..arguments.bots)
        .map(|number| {
            let transport = if number % 2 == 0 { Transport::Plain } else { Transport::SocketIo };
            let bot = Bot { name: format!("bot-{number}"), transport, auction_id: id.clone() };
            tokio::spawn(bot.run(Arc::clone(&running), Arc::clone(&observations), give_up))
        })
        .collect();
    let progress = tokio::spawn(progress(Arc::clone(&running), id.clone()));
    let mut ended = Vec::new();
    for bot in bots {
        ended.push(bot.await??);
    }
    progress.abort();
    let Some(end) = ended.first().cloned() else { bail!("no bot got the end") };
    ensure!(
        ended.iter().all(|other| other["winner_id"] == end["winner_id"] && other["winning_bid"] == end["winning_bid"]),
        "the bots got different ends: {ended:?}"
    );
    println!("\nThe hammer has fallen. Comparing the stored results …\n");
    let compared = results::compare(&running, &id, &title, &end).await?;
    print(&end, &observations, &compared);
    let agree = compared.iter().all(|result| result.agrees);
    if !agree {
        eprintln!("flash: the stored results differ");
    }
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the public state once a second.
async fn progress(running: Arc<Running>, id: String) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let url = format!("{}/auctions/{id}/state", running.management);
        let Ok(reply) = http::get(&url, None).await else { continue };
        let state = &reply.json;
        let leader = state["high_bidder_username"].as_str().unwrap_or("-");
        println!(
            "{:>3} s left   {:>10} by {leader:<8} {:>4} bids   {} extensions   {} participants",
            state["time_remaining_seconds"],
            price(&state["current_high_bid"]),
            state["bid_count"],
            state["extension_count"],
            state["participant_count"],
        );
    }
}

/// Prints the result, the latencies and the comparison.
fn print(end: &Value, observations: &Observations, results: &[StoredResult]) {
    let row = |name: &str, text: String| println!("  {name:<22} {text}");
    let counts = observations.counts();
    row("winner", end["winner_username"].as_str().unwrap_or("none").to_owned());
    row("price", price(&end["winning_bid"]));
    row("accepted bids", counts.accepted.to_string());
    row("rejected bids", counts.rejected.to_string());
    row("extensions", counts.extensions.to_string());
    row("answer", times(counts.answers));
    row("bid to screen", times(counts.deliveries));
    println!();
    for result in results {
        row(result.name, format!("{} {}", if result.agrees { "ok" } else { "DIFFERS" }, result.summary));
    }
}

/// An amount with two decimals. JSON numbers have no trailing zeros.
fn price(value: &Value) -> String {
    domain::Amount::parse(&value.to_string()).map_or_else(|_| "none".to_owned(), |amount| amount.to_string())
}

/// Median and 99th percentile.
fn times(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied();
    match (at(50), at(99)) {
        (Some(median), Some(high)) => {
            let ms = |time: Duration| time.as_secs_f64() * 1000.0;
            format!("median {:.1} ms, p99 {:.1} ms ({} measured)", ms(median), ms(high), times.len())
        }
        _ => "not measured".to_owned(),
    }
}
