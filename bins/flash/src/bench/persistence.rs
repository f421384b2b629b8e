//! The history behind the log: how long after its decision a bid is in DynamoDB, and how fast a backlog drains.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cloud::{History, MAX_BATCH_ITEMS};
use domain::{Amount, AuctionId, BidId, BidKind, UserId};
use protocol::Bid;
use protocol::subject::PERSISTENCE_CONSUMER;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::answers::print_lag;
use super::bids::{self, Driven};
use super::figures::row;
use super::load::{BidTransport, Load};
use super::processes::{self, Processes};
use super::system::System;
use crate::stack::recorder::now as now_us;
use crate::stack::{Name, Stack, prepare};

/// Bids in flight at most while a backlog is made.
const IN_FLIGHT: u64 = 64;
/// Bids a second of which a backlog is made: well below what the log takes, so that the backlog is as large as asked for.
const BACKLOG_RATE: u64 = 1_000;
/// Batches at the same time in the raw limit, as many as bid-persistence writes of one auction.
const RAW_WRITERS: usize = 4;
/// Interval between two looks at the consumer.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Time for the history to be whole. A benchmark that takes longer has failed.
const WHOLE_WITHIN: Duration = Duration::from_secs(600);

/// The arguments of `bench persistence`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Arguments {
    /// Seconds of bids while the history follows
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub seconds: u64,
    /// Bids per second, by a schedule that does not wait for answers
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rate: u64,
    /// Auctions that the bids are spread over
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub auctions: u64,
    /// Bids that are placed while bid-persistence is stopped, with those of one more second before; 0: it is not stopped.
    /// A running stack is never stopped
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(0..=200_000))]
    pub backlog: u64,
}

impl Arguments {
    const fn load(self, seconds: u64, rate: u64) -> Load {
        let (auctions, in_flight) = (self.auctions, IN_FLIGHT);
        Load {
            seconds,
            in_flight,
            auctions,
            too_low: 0,
            watchers: 0,
            proxy: 0.0,
            door: BidTransport::Nats,
            chase: false,
            rate: Some(rate),
        }
    }
}

/// Measures the lag of the history, and on a private stack the drain of a backlog.
pub async fn measure(system: &System, stack: Option<&mut Stack>, arguments: Arguments) -> Result<Value> {
    let bus = system.bus().await?;
    let consumer = bus::Consumer::open(&bus, PERSISTENCE_CONSUMER).await.map_err(anyhow::Error::from_boxed)?;
    whole(&consumer).await?;
    let before = Written::read(system).await?;
    let driven = bids::drive(system, arguments.load(arguments.seconds, arguments.rate)).await?;
    let Driven { seen, processes, .. } = driven;
    let behind = whole(&consumer).await?;
    let written = Written::read(system).await?.since(&before);
    ensure!(written.items > 0.0, "bid-persistence has written nothing");
    let mut measured = json!({
        "rate": arguments.rate, "auctions": arguments.auctions, "seconds": arguments.seconds,
        "accepted": seen.answers.accepted(),
        "items_written": written.items,
        "lag_ms": {"mean": 1000.0 * written.mean(), "p50_at_most": written.at_most_ms(0.5),
            "p99_at_most": written.at_most_ms(0.99)},
        "whole_after_last_bid_seconds": behind.as_secs_f64(),
        "processes": processes, "own_lag_ms": seen.own_lag.report(),
    });
    if let Some(stack) = stack.filter(|_| arguments.backlog > 0) {
        measured["drain"] = drain(stack, &consumer, arguments).await?;
    }
    Ok(measured)
}

/// Waits until every record is confirmed in the history; returns how long that took.
async fn whole(consumer: &bus::Consumer) -> Result<Duration> {
    let since = Instant::now();
    while backlog(consumer).await? > 0 {
        ensure!(since.elapsed() < WHOLE_WITHIN, "the history is not whole after {WHOLE_WITHIN:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(since.elapsed())
}

/// Records that are not confirmed in the history.
async fn backlog(consumer: &bus::Consumer) -> Result<u64> {
    Ok(consumer.backlog().await.map_err(anyhow::Error::from_boxed)?.messages)
}

/// Stops bid-persistence, places bids, and starts it again.
async fn drain(stack: &mut Stack, consumer: &bus::Consumer, arguments: Arguments) -> Result<Value> {
    stack.stop_instance(Name::BidPersistence, 0).await?;
    let seconds = arguments.backlog.div_ceil(BACKLOG_RATE);
    // The stack as it is now, without the stopped process.
    let without = System::of(stack);
    let driven = bids::drive(&without, arguments.load(seconds, arguments.backlog / seconds)).await?;
    let records = backlog(consumer).await?;
    ensure!(records > 0, "no record waits for the history");
    let (used, started) = (Processes::read(&without.watched)?, Instant::now());
    let (ready, drained) = tokio::try_join!(
        async {
            stack.add_instance(Name::BidPersistence).await?;
            anyhow::Ok(started.elapsed())
        },
        drained(consumer, records),
    )?;
    let after = started.elapsed();
    let now = System::of(stack);
    let written = Written::read(&now).await?;
    let accepted = driven.seen.answers.accepted() as f64;
    ensure!(written.items >= accepted, "{} of {accepted} accepted bids are in the history", written.items);
    let processes = used.report(&Processes::read(&now.watched)?, after.as_secs_f64());
    let raw = raw_items_per_second(stack, arguments.seconds).await?;
    Ok(json!({
        "records": records, "bids": written.items,
        "ready_seconds": ready.as_secs_f64(),
        "whole_seconds": drained.whole_at.duration_since(started).as_secs_f64(),
        "bids_per_second": written.items / drained.took().as_secs_f64(),
        "records_per_second": records as f64 / drained.took().as_secs_f64(),
        "raw_items_per_second": raw,
        "processes": processes,
    }))
}

/// The raw limit of a drain: items a second that DynamoDB, which is the emulator here, takes in full batches of one auction.
async fn raw_items_per_second(stack: &Stack, seconds: u64) -> Result<f64> {
    let history = History::new(&cloud::configuration(&prepare::aws(&stack.servers)).await, stack.prepared.bids_table);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut writers = JoinSet::new();
    for _ in 0..RAW_WRITERS {
        let (history, auction_id) = (history.clone(), AuctionId::from_uuid(Uuid::new_v4()));
        writers.spawn(async move {
            let mut items = 0;
            while Instant::now() < end {
                let bids: Vec<Bid> = (items..items + MAX_BATCH_ITEMS as u64).map(any_bid).collect::<Result<_>>()?;
                history.write(auction_id, &bids).await?;
                items += bids.len() as u64;
            }
            anyhow::Ok(items)
        });
    }
    let mut items = 0;
    while let Some(written) = writers.join_next().await {
        items += written??;
    }
    Ok(items as f64 / seconds as f64)
}

fn any_bid(seq: u64) -> Result<Bid> {
    Ok(Bid {
        seq,
        bid_id: BidId::from_uuid(Uuid::new_v4()),
        user_id: UserId::from_uuid(Uuid::from_u128(u128::from(seq))),
        username: "bench".to_owned(),
        amount: Amount::from_cents(100 + seq)?,
        timestamp: now_us() / 1_000,
        kind: BidKind::Bid.into(),
        sealed: None,
    })
}

/// The course of a drain.
struct Drained {
    /// When the last record was waiting together with all others.
    full_at: Instant,
    whole_at: Instant,
}

impl Drained {
    fn took(&self) -> Duration {
        (self.whole_at - self.full_at).max(LOOK_EVERY)
    }
}

/// Waits until a backlog of this size is gone.
async fn drained(consumer: &bus::Consumer, records: u64) -> Result<Drained> {
    let since = Instant::now();
    let mut full_at = since;
    loop {
        let left = backlog(consumer).await?;
        let now = Instant::now();
        if left == 0 {
            return Ok(Drained { full_at, whole_at: now });
        }
        if left >= records {
            full_at = now;
        }
        ensure!(since.elapsed() < WHOLE_WITHIN, "{left} records still wait for the history after {WHOLE_WITHIN:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Counts of bid-persistence.
struct Written {
    items: f64,
    lag_seconds: f64,
    records: f64,
    /// Upper bound of each bucket of the lag in seconds, and records up to it.
    buckets: Vec<(f64, f64)>,
}

impl Written {
    async fn read(system: &System) -> Result<Self> {
        Self::parse(&system.metrics(Name::BidPersistence).await?)
    }

    fn parse(metrics: &str) -> Result<Self> {
        let number = |name: &str| -> Result<f64> {
            let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            Ok(value.with_context(|| format!("bid-persistence has no metric {name}"))?.trim().parse()?)
        };
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix("flash_history_lag_seconds_bucket{le=\"")?.split_once("\"} ")?;
            Some((bound.trim_start_matches('+').parse().ok()?, count.trim().parse().ok()?))
        };
        Ok(Self {
            items: number("flash_history_items_written_total")?,
            lag_seconds: number("flash_history_lag_seconds_sum")?,
            records: number("flash_history_lag_seconds_count")?,
            buckets: metrics.lines().filter_map(bucket).collect(),
        })
    }

    /// The counts since an earlier reading of the same process.
    fn since(mut self, earlier: &Self) -> Self {
        self.items -= earlier.items;
        self.lag_seconds -= earlier.lag_seconds;
        self.records -= earlier.records;
        for (bucket, earlier) in self.buckets.iter_mut().zip(&earlier.buckets) {
            bucket.1 -= earlier.1;
        }
        self
    }

    /// Mean seconds.
    fn mean(&self) -> f64 {
        self.lag_seconds / self.records.max(1.0)
    }

    /// The bound of the bucket with this quantile, in milliseconds. None beyond the last bucket.
    fn at_most_ms(&self, quantile: f64) -> Option<f64> {
        let (bound, _) = self.buckets.iter().find(|(_, count)| *count >= quantile * self.records)?;
        bound.is_finite().then_some(1000.0 * bound)
    }
}

/// Prints the results.
pub fn print(measured: &Value) {
    println!("\n{} bids a second on {} auctions", measured["rate"], measured["auctions"]);
    row("accepted bids", &measured["accepted"], "");
    row("bid to its item in DynamoDB, mean", &measured["lag_ms"]["mean"], "ms");
    row("bid to its item in DynamoDB, p50 at most", &measured["lag_ms"]["p50_at_most"], "ms");
    row("bid to its item in DynamoDB, p99 at most", &measured["lag_ms"]["p99_at_most"], "ms");
    row("history whole after the last bid", &measured["whole_after_last_bid_seconds"], "s");
    print_lag(&measured["own_lag_ms"]);
    processes::print(&measured["processes"]);
    let drain = &measured["drain"];
    if drain.is_object() {
        println!("bid-persistence started on a backlog of {} bids", drain["bids"]);
        row("ready", &drain["ready_seconds"], "s");
        row("history whole", &drain["whole_seconds"], "s");
        row("bids while it drains", &drain["bids_per_second"], "/s");
        row("items of full batches, bare", &drain["raw_items_per_second"], "/s");
        row("records while it drains", &drain["records_per_second"], "/s");
        processes::print(&drain["processes"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# TYPE flash_history_lag_seconds histogram
flash_history_items_written_total 40
flash_history_lag_seconds_sum 1.5
flash_history_lag_seconds_count 30
flash_history_lag_seconds_bucket{le=\"0.008\"} 10
flash_history_lag_seconds_bucket{le=\"0.016\"} 25
flash_history_lag_seconds_bucket{le=\"+Inf\"} 30
";

    #[test]
    fn lag_is_of_what_was_written_in_between() {
        let before = Written::parse(METRICS).expect("metrics");
        let after = METRICS
            .replace("total 40", "total 60")
            .replace("sum 1.5", "sum 1.6")
            .replace("count 30", "count 40")
            .replace("} 10", "} 19")
            .replace("} 25", "} 35")
            .replace("} 30", "} 40");
        let written = Written::parse(&after).expect("metrics").since(&before);
        assert!((written.items - 20.0).abs() < 1e-9 && (written.mean() - 0.01).abs() < 1e-9);
        assert_eq!((written.at_most_ms(0.5), written.at_most_ms(0.99)), (Some(8.0), Some(16.0)));
        assert_eq!(before.at_most_ms(0.99), None, "beyond the last bucket");
        assert!(Written::parse("").is_err());
    }
}
