//! Many live auctions, of which some close every second: whether ticks come evenly, how long after its end an auction is
//! closed, and when its watchers learn of it.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use domain::AuctionId;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use protocol::{RecordKind, subject};
use serde_json::{Value, json};
use service::Stop;
use testkit::crowd::{self, Socket};
use testkit::socket::Transport;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Impossible;
use super::answers::{Probe, print_lag};
use super::figures::{row, rows, spread};
use super::processes::{self, Processes};
use super::system::System;
use crate::stack::Name;
use crate::stack::recorder::now as now_us;

/// Seconds that the auctions last which do not close during the measurement: longer than that takes, and short enough for
/// a running stack to be rid of them soon.
const STAYING_SECONDS: u64 = 900;
/// Least seconds of an auction that closes, by the contract, and time for the last watchers to join before the first end.
const SHORTEST_SECONDS: u64 = 5;
/// Auctions a second that are created at least. The ends of the closing ones are planned with the rate that was measured
/// before; this one if there was none.
const SLOWEST_CREATION: f64 = 50.0;
/// The same auctions may be created so many times slower than the ones before.
const CREATION_RESERVE: f64 = 2.0;
/// Auctions from which a rate of creations is measured.
const ENOUGH_CREATED: u64 = 50;
/// Joins at the same time.
const JOINING: usize = 32;
/// Time for the last closings to arrive.
const LAST_CLOSINGS: Duration = Duration::from_secs(30);
/// Time for the frames of the last closing to reach its watchers.
const LAST_FRAMES: Duration = Duration::from_secs(3);

/// The arguments of `bench timers`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Arguments {
    /// Live auctions
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    pub auctions: u64,
    /// Auctions that end each second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub closing: u64,
    /// Seconds in which auctions end
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub seconds: u64,
    /// Auctions with a watcher: at most so many of those that end, and as many of the others
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub watched: u64,
    /// Seconds between two ticks of an auction, as `TIMER_BROADCAST_INTERVAL` of a running stack
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub interval: u64,
}

impl Arguments {
    /// Refuses more closings than auctions.
    pub fn check(&self) -> Result<(), Impossible> {
        let (auctions, closings) = (self.auctions, self.closings());
        if closings <= auctions {
            return Ok(());
        }
        Err(Impossible(format!(
            "{} closings a second for {} s are {closings}: more than the {auctions} auctions of --auctions",
            self.closing, self.seconds
        )))
    }

    const fn closings(&self) -> u64 {
        self.closing * self.seconds
    }
}

/// The frames that one watcher got, with microseconds since 1970.
#[derive(Debug, Default)]
struct Watched {
    ticks: Vec<u64>,
    ended_at: Option<u64>,
}

/// A closing in the log: milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
struct Closing {
    end_time: u64,
    closed_at: u64,
}

/// Measures the timer.
pub async fn measure(system: &System, arguments: Arguments) -> Result<Value> {
    let closings = arguments.closings();
    let (began, staying) = (Instant::now(), arguments.auctions - closings);
    let staying = system.create(staying, |nth| Ok(auction(nth, STAYING_SECONDS))).await?;
    let (closing, begin) = create_closing(system, arguments, rate(staying.len(), began)).await?;
    let created_per_second = rate(staying.len() + closing.len(), began);

    // The subscription ends with its connection, which is kept to the end.
    let bus = system.bus().await?;
    let log = bus::Log::open(&bus).await?.events(subject::ALL_EVENTS.to_owned()).await?;
    let (over, sample) = (Stop::new(), usize::try_from(arguments.watched)?);
    let mut watchers = JoinSet::new();
    for (auction_id, socket) in join(system, &[spaced(&closing, sample), spaced(&staying, sample)].concat()).await? {
        watchers.spawn(watch(auction_id, socket, over.clone()));
    }
    ensure!(Instant::now() < begin, "the first auction ended before all watchers had joined; use fewer of --watched");
    let collecting = tokio::spawn(collect(log, closing));

    tokio::time::sleep_until(begin).await;
    let (used, probe) = (Processes::read(&system.watched)?, Probe::start());
    tokio::time::sleep_until(begin + Duration::from_secs(arguments.seconds)).await;
    let processes = used.report(&Processes::read(&system.watched)?, arguments.seconds as f64);
    let own_lag = probe.finish().await?;
    let collected = tokio::time::timeout(LAST_CLOSINGS, collecting).await;
    let closed = collected.with_context(|| format!("not all auctions were closed within {LAST_CLOSINGS:?}"))???;
    tokio::time::sleep(LAST_FRAMES).await;
    over.cancel();
    drop(bus);
    let mut frames = Frames::new(Duration::from_secs(arguments.interval));
    while let Some(watcher) = watchers.join_next().await {
        let (auction_id, watched) = watcher??;
        frames.add(&watched, closed.get(&auction_id).copied().flatten())?;
    }
    let lag = |closing: &Closing| closing.closed_at as f64 - closing.end_time as f64;
    Ok(json!({
        "auctions": arguments.auctions, "closing_per_second": arguments.closing, "seconds": arguments.seconds,
        "created_per_second": created_per_second,
        "closed": closed.values().flatten().count(),
        "close_lag_ms": spread(closed.values().flatten().map(lag).collect()),
        "watched": frames.watched, "ticks": frames.ticks, "missed_ticks": frames.missed,
        "tick_jitter_ms": spread(frames.jitter_ms),
        "hammer_to_screen_ms": spread(frames.hammer_ms),
        "processes": processes, "own_lag_ms": own_lag.report(),
    }))
}

/// The closing of each of these auctions, from the records as the server republishes them.
async fn collect(
    mut log: impl Stream<Item = bus::Logged> + Unpin,
    auction_ids: Vec<String>,
) -> Result<HashMap<AuctionId, Option<Closing>>> {
    let mut closings = HashMap::new();
    for auction_id in auction_ids {
        closings.insert(auction_id.parse::<AuctionId>()?, None);
    }
    let mut missing = closings.len();
    while missing > 0 {
        let record = log.next().await.context("the connection to NATS was closed")?.record;
        if record.kind == RecordKind::Closed
            && let Some(closing) = closings.get_mut(&record.auction_id)
        {
            missing -= usize::from(closing.is_none());
            *closing = Some(Closing { end_time: record.state.end_time, closed_at: record.time });
        }
    }
    Ok(closings)
}

/// Things a second since this moment.
fn rate(count: usize, began: Instant) -> f64 {
    count as f64 / began.elapsed().as_secs_f64().max(0.001)
}

fn auction(nth: u64, seconds: u64) -> Value {
    json!({"title": format!("Timer {nth}"), "duration": seconds, "starting_bid": 1, "video": false,
        "anti_snipe": {"mode": "off"}})
}

/// Creates the auctions that end during the measurement, evenly spread over it; returns when it begins.
async fn create_closing(system: &System, arguments: Arguments, rate: f64) -> Result<(Vec<String>, Instant)> {
    let count = arguments.closings();
    let is_known = arguments.auctions - count >= ENOUGH_CREATED;
    let creating = count as f64 * if is_known { CREATION_RESERVE / rate } else { 1.0 / SLOWEST_CREATION };
    let begin = Instant::now() + Duration::from_secs(2 * SHORTEST_SECONDS) + Duration::from_secs_f64(creating);
    let ids = system.create(count, |nth| {
        let ends = begin + Duration::from_secs_f64(nth as f64 / arguments.closing as f64);
        let left = ends.saturating_duration_since(Instant::now());
        // A duration has whole seconds: without one that is cut off, no auction would end before its time.
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        ensure!(left.as_secs() >= SHORTEST_SECONDS, "auctions are created too slowly for so many closings");
        Ok(auction(nth, seconds))
    });
    Ok((ids.await?, begin))
}

/// At most this number of the ids, evenly spaced.
fn spaced(ids: &[String], most: usize) -> Vec<String> {
    ids.iter().step_by(ids.len().div_ceil(most).max(1)).cloned().collect()
}

/// Joins one watcher for each auction.
async fn join(system: &System, auction_ids: &[String]) -> Result<Vec<(AuctionId, Socket)>> {
    let edge = system.url(Name::Websocket);
    let joining = stream::iter(auction_ids.iter().zip(0..)).map(|(auction_id, nth)| async move {
        let token = system.token(&system.person(nth))?;
        let (socket, _) = crowd::join(edge, Transport::Plain, &token, auction_id, None).await?;
        anyhow::Ok((auction_id.parse()?, socket))
    });
    joining.buffer_unordered(JOINING).try_collect().await
}

/// Notes when ticks and the end arrive, until the stop.
async fn watch(auction_id: AuctionId, mut socket: Socket, over: Stop) -> Result<(AuctionId, Watched)> {
    let mut watched = Watched::default();
    loop {
        let message = tokio::select! {
            () = over.cancelled() => return Ok((auction_id, watched)),
            message = socket.next() => message.context("the edge closed the connection")??,
        };
        let arrived = now_us();
        let Ok(text) = message.to_text() else { continue };
        if text.contains("\"timer_update\"") && text.contains("\"tick\"") {
            watched.ticks.push(arrived);
        } else if text.contains("\"auction_ended\"") {
            watched.ended_at = Some(arrived);
        }
    }
}

/// The frames of all watchers.
struct Frames {
    interval: Duration,
    watched: u64,
    ticks: usize,
    missed: usize,
    jitter_ms: Vec<f64>,
    hammer_ms: Vec<f64>,
}

impl Frames {
    const fn new(interval: Duration) -> Self {
        Self { interval, watched: 0, ticks: 0, missed: 0, jitter_ms: Vec::new(), hammer_ms: Vec::new() }
    }

    fn add(&mut self, watched: &Watched, closing: Option<Closing>) -> Result<()> {
        self.watched += 1;
        self.ticks += watched.ticks.len();
        let interval = self.interval.as_secs_f64() * 1000.0;
        for pair in watched.ticks.windows(2) {
            let gap = (pair[1] - pair[0]) as f64 / 1000.0;
            self.jitter_ms.push((gap - interval).abs());
            self.missed += usize::from(gap > 1.5 * interval);
        }
        if let Some(closing) = closing {
            let ended_at = watched.ended_at.context("a watcher did not learn that its auction has ended")?;
            self.hammer_ms.push(ended_at as f64 / 1000.0 - closing.end_time as f64);
        }
        Ok(())
    }
}

/// Prints the results.
pub fn print(measured: &Value) {
    let [auctions, closing, seconds] =
        ["auctions", "closing_per_second", "seconds"].map(|field| measured[field].as_u64().unwrap_or_default());
    println!("\n{auctions} live auctions, {closing} of them ending each second for {seconds} s");
    row("creations", &measured["created_per_second"], "/s");
    row("closings", &measured["closed"], "");
    rows("end to closing record", &measured["close_lag_ms"], "ms");
    rows("end to auction_ended at a watcher", &measured["hammer_to_screen_ms"], "ms");
    rows("tick off its interval at a watcher", &measured["tick_jitter_ms"], "ms");
    row("ticks at watchers", &measured["ticks"], "");
    row("gaps of more than one and a half intervals", &measured["missed_ticks"], "");
    print_lag(&measured["own_lag_ms"]);
    processes::print(&measured["processes"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_is_spread_over_all() {
        let ids: Vec<String> = (0..10).map(|nth| nth.to_string()).collect();
        assert_eq!(spaced(&ids, 3), ["0", "4", "8"]);
        assert_eq!(spaced(&ids, 20).len(), 10);
        assert!(spaced(&[], 3).is_empty());
    }

    #[test]
    fn gaps_are_held_against_the_interval() {
        let mut frames = Frames::new(Duration::from_secs(1));
        let ticks = vec![0, 1_002_000, 1_999_000, 4_999_000];
        let watched = Watched { ticks, ended_at: Some(5_010_000) };
        frames.add(&watched, Some(Closing { end_time: 5_000, closed_at: 5_003 })).expect("an end");
        let rounded: Vec<f64> = frames.jitter_ms.iter().map(|jitter| jitter.round()).collect();
        assert_eq!((rounded, frames.missed), (vec![2.0, 3.0, 2_000.0], 1));
        assert!((frames.hammer_ms[0] - 10.0).abs() < 0.001, "{:?}", frames.hammer_ms);
        let unseen = Watched::default();
        assert!(frames.add(&unseen, Some(Closing { end_time: 5_000, closed_at: 5_003 })).is_err());
    }
}
