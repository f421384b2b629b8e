//! `cargo flash demo`: a real auction of the running stack, bots as bidders, and whether all books agree.

mod books;
mod bots;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use testkit::http;
use testkit::socket::Door;
use tokio::time::Instant;

use crate::issuer::Issuer;
use crate::stack_file;
use bots::{Bot, Seen};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Seconds the auction lasts, before late bids move its end
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(5..=600))]
    seconds: u64,
    /// How many bid; half of them through each door
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=200))]
    bots: u64,
}

/// Late bids: with less than this left the end moves on, by so much, so often at most.
const ANTI_SNIPE: (u64, u64, u64) = (4, 3, 3);
/// From the latest possible end to the frame that says so.
const GRACE: Duration = Duration::from_secs(10);

/// Where the running stack is.
pub struct Running {
    management: String,
    edge: String,
    stack: Value,
    issuer: Issuer,
}

impl Running {
    fn find() -> Result<Self> {
        let directory = crate::directory();
        let stack = stack_file::read(&directory)?;
        let url = |name: &str| stack_file::text(&stack["services"][name]["url"]);
        let issuer = stack_file::issuer(&directory, &stack)?;
        Ok(Self { management: url("auction-management")?, edge: url("websocket")?, issuer, stack })
    }

    fn token(&self, name: &str) -> Result<String> {
        self.issuer.token(name)
    }
}

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
    ensure!(created.status == 201, "no auction: {} {}", created.status, created.text);
    let id = created.json["auction_id"].as_str().context("an id")?.to_owned();
    println!("Auction {id}: {} bots, {} s\n", arguments.bots, arguments.seconds);

    let seen = Arc::new(Seen::default());
    let give_up = Instant::now() + Duration::from_secs(arguments.seconds + extension * max_extensions) + GRACE;
    let bots: Vec<_> = (0..arguments.bots)
        .map(|number| {
            let door = if number % 2 == 0 { Door::Plain } else { Door::SocketIo };
            let bot = Bot { name: format!("bot-{number}"), door, auction_id: id.clone() };
            tokio::spawn(bot.run(Arc::clone(&running), Arc::clone(&seen), give_up))
        })
        .collect();
    let progress = tokio::spawn(progress(Arc::clone(&running), id.clone()));
    let mut ended = Vec::new();
    for bot in bots {
        ended.push(bot.await??);
    }
    progress.abort();
    let Some(end) = ended.first().cloned() else { bail!("no bot has seen the end") };
    ensure!(
        ended.iter().all(|other| other["winner_id"] == end["winner_id"] && other["winning_bid"] == end["winning_bid"]),
        "the bots were told different ends: {ended:?}"
    );
    println!("\nThe hammer has fallen. Comparing the books …\n");
    let compared = books::compare(&running, &id, &title, &end).await?;
    print(&end, &seen, &compared);
    let agree = compared.iter().all(|book| book.agrees);
    if !agree {
        eprintln!("flash: the books disagree");
    }
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One line a second, from the public state.
async fn progress(running: Arc<Running>, id: String) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let url = format!("{}/auctions/{id}/state", running.management);
        let Ok(reply) = http::get(&url, None).await else { continue };
        let state = &reply.json;
        let leader = state["high_bidder_username"].as_str().unwrap_or("nobody");
        println!(
            "{:>3} s left   {:>10} by {leader:<8} {:>4} bids   {} extensions   {} people",
            state["time_remaining_seconds"],
            price(&state["current_high_bid"]),
            state["bid_count"],
            state["extension_count"],
            state["participant_count"],
        );
    }
}

fn print(end: &Value, seen: &Seen, books: &[books::Book]) {
    let row = |name: &str, text: String| println!("  {name:<22} {text}");
    let counts = seen.counts();
    row("winner", end["winner_username"].as_str().unwrap_or("nobody").to_owned());
    row("price", price(&end["winning_bid"]));
    row("accepted bids", counts.accepted.to_string());
    row("refused bids", counts.refused.to_string());
    row("extensions", counts.extensions.to_string());
    row("answer", times(counts.answers));
    row("bid to screen", times(counts.screens));
    println!();
    for book in books {
        row(book.name, format!("{} {}", if book.agrees { "ok" } else { "DISAGREES" }, book.says));
    }
}

/// JSON numbers come without trailing zeros.
fn price(value: &Value) -> String {
    domain::Amount::parse(&value.to_string()).map_or_else(|_| "nothing".to_owned(), |amount| amount.to_string())
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
        _ => "nothing was measured".to_owned(),
    }
}
