//! Bids on one hot auction or on many: accepted bids and log records per second, and the latency of answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::HeaderMap;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use identity::development::DevelopmentUser;
use protocol::{Person, subject};
use serde_json::{Value, json};
use testkit::crowd;
use testkit::socket::Transport;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::answers::{OwnLag, Probe, print_lag};
use super::chase;
use super::doors::{Lot, Run, Seen, over_http, over_nats, over_socket};
use super::figures::row;
use super::load::{BATCH, BidTransport, Load};
use super::processes::{self, Processes};
use super::schedule::{self, Schedule};
use super::system::System;
use crate::stack::Name;

/// Time before the measurement, in which connections are opened and keys fetched.
const WARM_UP: Duration = Duration::from_secs(1);

/// Time between two looks at how long a log has become.
const LENGTHEN_FOR: Duration = Duration::from_secs(1);

/// The results of a load.
pub struct Driven {
    /// The answers to its people, and its own lag.
    pub seen: Seen,
    /// Records that bid-processing appended to the log.
    pub records: u64,
    /// The use of each process.
    pub processes: Value,
}

/// Measures bids at this load.
pub async fn measure(system: &System, load: Load) -> Result<Value> {
    let Driven { seen: Seen { answers, own_lag }, records, processes } = drive(system, load).await?;
    let seconds = load.seconds as f64;
    ensure!(answers.total() > 0, "no bid was answered");
    Ok(json!({
        "bids": {
            "door": load.door.name(), "chase": load.chase,
            "in_flight": load.in_flight, "auctions": load.auctions, "too_low_percent": load.too_low,
            "rate": load.rate, "proxy": load.proxy, "watchers": load.watchers,
            "answers_per_second": answers.total() as f64 / seconds,
            "accepted_per_second": answers.accepted() as f64 / seconds,
            "log_records_per_second": records as f64 / seconds,
            "answers": answers.codes(),
            "answer_ms":
                {"p50": answers.ms(0.5), "p99": answers.ms(0.99), "p999": answers.ms(0.999), "max": answers.ms(1.0)},
        },
        "processes": processes,
        "own_lag_ms": own_lag.report(),
    }))
}

/// Puts this load on the system.
pub async fn drive(system: &System, load: Load) -> Result<Driven> {
    let auction_ids = system.create_for_bids(load.auctions).await?;
    let bidders = arrive(system, load, &auction_ids).await?;
    let mut watching = watch(system, load, &auction_ids[0]).await?;
    let begin = Instant::now() + WARM_UP;
    let end = begin + Duration::from_secs(load.seconds);
    let run = Run { load, lots: Arc::new(auction_ids.into_iter().map(Lot::new).collect()), begin, end };
    let schedules = schedule::begin(bidders.len(), load.rate, end)?;
    let mut bidding: JoinSet<_> =
        bidders.into_iter().zip(schedules).map(|(bidder, schedule)| bidder(run.clone(), schedule)).collect();
    tokio::time::sleep_until(begin).await;
    let (used, before, probe) = (Processes::read(&system.watched)?, records(system).await?, Probe::start());
    tokio::time::sleep_until(end).await;
    let appended = records(system).await? - before;
    let processes = used.report(&Processes::read(&system.watched)?, load.seconds as f64);
    let woken = probe.finish().await?;
    let mut seen = Seen::new()?;
    while let Some(one) = bidding.join_next().await {
        seen.add(&one??)?;
    }
    ensure!(watching.try_join_next().is_none(), "the edge closed the connection of a watcher");
    if load.rate.is_none() {
        seen.own_lag = woken;
    }
    Ok(Driven { seen, records: appended, processes })
}

/// The load that makes a log long.
const LENGTHENING: Load = Load {
    seconds: 1,
    in_flight: 64,
    auctions: 1,
    too_low: 0,
    proxy: 0.0,
    door: BidTransport::Nats,
    chase: false,
    watchers: 0,
    rate: None,
};

/// An auction with a long log.
pub struct LongAuction {
    pub id: String,
    /// Its accepted bids.
    pub bids: u64,
    /// The amount of the next bid.
    pub next_cents: u64,
}

impl LongAuction {
    /// Creates an auction, and places bids until so many are accepted.
    pub async fn with_bids(system: &System, least: u64) -> Result<Self> {
        let lots = Arc::new(vec![Lot::new(system.create_for_bids(1).await?.remove(0))]);
        let mut bids = 0;
        while bids < least {
            let begin = Instant::now();
            let run = Run { load: LENGTHENING, lots: Arc::clone(&lots), begin, end: begin + LENGTHEN_FOR };
            let mut accepted = 0;
            for bidder in arrive(system, LENGTHENING, &[]).await? {
                accepted += bidder(run.clone(), Schedule::AfterAnswer).await?.answers.accepted();
            }
            ensure!(accepted > 0, "no bid was accepted");
            bids += accepted;
        }
        let Lot { auction_id, price } = &lots[0];
        Ok(Self { id: auction_id.clone(), bids, next_cents: price.load(Ordering::Relaxed) })
    }
}

/// Someone who is ready to bid, or several people of one connection.
type Bidder = Box<dyn FnOnce(Run, Schedule) -> BoxFuture<'static, Result<Seen>> + Send>;

/// Opens the connections of everyone.
async fn arrive(system: &System, load: Load, auction_ids: &[String]) -> Result<Vec<Bidder>> {
    match (load.door, load.door.transport()) {
        (_, Some(transport)) if load.chase => {
            let chasers = chase::enter(system, transport, load.in_flight, auction_ids).await?;
            let chase = move |run: Run| async move {
                let answers = chase::run(chasers, run.begin, run.end).await?;
                anyhow::Ok(Seen { answers, own_lag: OwnLag::new()? })
            };
            let together: Bidder = Box::new(move |run, _| chase(run).boxed());
            Ok(vec![together])
        }
        (_, Some(transport)) => {
            let mut bidders: Vec<Bidder> = Vec::new();
            for nth in 0..load.in_flight {
                let auction_id = &auction_ids[usize::try_from(nth)? % auction_ids.len()];
                let socket = chase::join(system, transport, &system.person(nth), auction_id).await?;
                bidders.push(Box::new(move |run, schedule| over_socket(nth, run, schedule, socket).boxed()));
            }
            Ok(bidders)
        }
        (BidTransport::Nats, _) => {
            let bus = system.bus().await?;
            let people =
                (0..load.in_flight.max(2)).map(|nth| known_to_edge(system, nth)).collect::<Result<Vec<_>>>()?;
            let together: Bidder = Box::new(move |run, schedule| over_nats(run, schedule, bus, people).boxed());
            Ok(vec![together])
        }
        (_, None) => {
            let url = format!("{}/bids", system.url(Name::BidProcessing));
            let callers = (0..load.in_flight).map(|nth| -> Result<Bidder> {
                let (url, token) = (url.clone(), system.token(&system.person(nth))?);
                Ok(Box::new(move |run, schedule| over_http(nth, run, schedule, url, token).boxed()))
            });
            callers.collect()
        }
    }
}

/// Joins the people who watch. Each reads until its connection is closed, or the set is dropped.
async fn watch(system: &System, load: Load, auction_id: &str) -> Result<JoinSet<()>> {
    let names = (load.in_flight..load.in_flight + load.watchers).map(|nth| system.person(nth));
    let tokens = names.map(|name| system.token(&name)).collect::<Result<Vec<_>>>()?;
    let sockets = crowd::enter(system.url(Name::Websocket), Transport::Plain, &tokens, auction_id).await?;
    let watching = sockets.into_iter().map(|mut socket| async move { while let Some(Ok(_)) = socket.next().await {} });
    Ok(watching.collect())
}

/// A person as an edge knows it, and the headers of its bids.
fn known_to_edge(system: &System, nth: u64) -> Result<(Person, HeaderMap)> {
    let user = DevelopmentUser::named(&system.person(nth));
    let mut headers = HeaderMap::new();
    headers.insert(subject::AUTHORIZATION_HEADER, format!("Bearer {}", system.token(&user.name)?));
    Ok((Person { user_id: user.user_id, username: user.name }, headers))
}

/// Records that bid-processing has appended so far.
async fn records(system: &System) -> Result<u64> {
    let metrics = system.metrics(Name::BidProcessing).await?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("flash_log_records_appended_total "));
    Ok(line.context("bid-processing has no metric of appended records")?.trim().parse()?)
}

/// Prints the results next to the raw limits.
pub fn print(measured: &Value) {
    let (bids, ceiling) = (&measured["bids"], &measured["ceiling"]);
    if bids.is_object() {
        let chase = if bids["chase"] == true { ", chasing each other" } else { "" };
        println!("\n{} in flight over {}{chase}", bids["in_flight"], bids["door"].as_str().unwrap_or_default());
        if let Some(share) = bids["proxy"].as_f64().filter(|share| *share > 0.0) {
            row("bids with a maximum", &json!(100.0 * share), "%");
        }
        if let Some(watchers) = bids["watchers"].as_u64().filter(|watchers| *watchers > 0) {
            println!("before {watchers} watchers");
        }
        row("accepted bids", &bids["accepted_per_second"], "/s");
        row("all answers", &bids["answers_per_second"], "/s");
        row("log records", &bids["log_records_per_second"], "/s");
        for quantile in ["p50", "p99", "p999", "max"] {
            row(&format!("answer, {quantile}"), &bids["answer_ms"][quantile], "ms");
        }
        if let Some(answers) = bids["answers"].as_object() {
            let answers: Vec<String> = answers.iter().map(|(code, count)| format!("{code} {count}")).collect();
            println!("  {}", answers.join(", "));
        }
        print_lag(&measured["own_lag_ms"]);
        processes::print(&measured["processes"]);
    }
    if ceiling.is_object() {
        println!("raw limits, {} in flight", ceiling["in_flight"]);
        row("the script alone, accepted", &ceiling["script_calls_per_second"], "/s");
        row(&format!("the script in calls of {BATCH}, accepted"), &ceiling["script_bids_per_second_in_batches"], "/s");
        row("synced appends to the log", &ceiling["log_appends_per_second"], "/s");
        row("loopback round trips", &ceiling["loopback_round_trips_per_second"], "/s");
    }
    if let (Some(accepted), Some(script)) =
        (bids["accepted_per_second"].as_f64(), ceiling["script_calls_per_second"].as_f64())
    {
        println!("accepted bids are {:.0} % of the script alone", 100.0 * accepted / script);
    }
}
