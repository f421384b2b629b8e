//! Bids on one hot auction or on many: accepted bids and log records per second, and the latency of answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::HeaderMap;
use domain::{Amount, BidId};
use futures_util::StreamExt;
use hdrhistogram::Histogram;
use identity::development::DevelopmentUser;
use protocol::{Answer, Person, PlaceBid, subject};
use serde_json::{Value, json};
use testkit::bidder::new_bid;
use testkit::http::Caller;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::load::{BATCH, BidTransport, Load, PROXY_STEP_CENTS, STEP_CENTS};
use crate::stack::issuer::DEFAULT_TOKEN_SECONDS;
use crate::stack::{Name, Stack, connections};

/// Time before the measurement, in which connections are opened and keys fetched.
const WARM_UP: Duration = Duration::from_secs(1);
/// Time to wait for an answer. bid-processing answers or gives up within 3 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Unanswered bids. A rate that the system cannot follow ends the benchmark instead of filling a queue.
const MAX_UNANSWERED: usize = 100_000;

/// The answers that one worker, or all of them, got.
struct Answers {
    /// Numbers of answers by code.
    codes: BTreeMap<String, u64>,
    /// Microseconds from the scheduled time to the answer.
    latency: Histogram<u64>,
}

impl Answers {
    fn new() -> Result<Self> {
        Ok(Self { codes: BTreeMap::new(), latency: Histogram::new_with_bounds(1, 60_000_000, 3)? })
    }

    fn note(&mut self, answer: &str, scheduled: Instant) {
        *self.codes.entry(answer.to_owned()).or_default() += 1;
        let micros = u64::try_from(scheduled.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latency.saturating_record(micros.max(1));
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        for (answer, count) in &other.codes {
            *self.codes.entry(answer.clone()).or_default() += count;
        }
        Ok(self.latency.add(&other.latency)?)
    }
}

/// An auction that bids are placed on.
struct Lot {
    auction_id: String,
    price: AtomicU64,
}

impl Lot {
    /// The amount of the next bid, and its maximum if it has one.
    fn next_cents(&self, load: Load) -> (u64, Option<u64>) {
        if fastrand::u64(0..100) < load.too_low {
            return (1, None);
        }
        let step = if load.proxy > 0.0 { PROXY_STEP_CENTS } else { STEP_CENTS };
        let amount = self.price.fetch_add(step, Ordering::Relaxed);
        (amount, (fastrand::f64() < load.proxy).then_some(amount + step))
    }
}

/// Measures bids at this load.
pub async fn measure(stack: &Stack, load: Load) -> Result<Value> {
    let mut lots = Vec::new();
    for nth in 0..load.auctions {
        let lot = json!({"title": format!("Bench {nth}"), "duration": 600_000, "starting_bid": 1, "video": false,
            "minimum_increment": "0.01"});
        let url = format!("{}/auctions", stack.url(Name::AuctionManagement));
        let created = testkit::http::post(&url, Some(&stack.issuer.token("bench-host")?), &lot).await?;
        let auction_id = created.json["auction_id"].as_str().with_context(|| created.text.clone())?.to_owned();
        lots.push(Lot { auction_id, price: AtomicU64::new(100) });
    }
    let lots = Arc::new(lots);
    let begin = Instant::now() + WARM_UP;
    let end = begin + Duration::from_secs(load.seconds);
    let mut bidders = JoinSet::new();
    match load.transport {
        BidTransport::Http => {
            let url = format!("{}/bids", stack.url(Name::BidProcessing));
            for bidder in 0..load.in_flight {
                let token = stack.issuer.token(&format!("bench-{bidder}"))?;
                bidders.spawn(over_http(bidder, load, Arc::clone(&lots), url.clone(), token, begin, end));
            }
        }
        BidTransport::Nats => {
            let bus = bus::Bus::connect(&connections::nats(&stack.servers), "bench").await?;
            let mut people = Vec::new();
            for bidder in 0..load.in_flight.max(2) {
                let user = DevelopmentUser::named(&format!("bench-{bidder}"));
                let mut headers = HeaderMap::new();
                let token = stack.issuer.token_of(&user, DEFAULT_TOKEN_SECONDS)?;
                headers.insert(subject::AUTHORIZATION_HEADER, format!("Bearer {token}"));
                people.push((Person { user_id: user.user_id, username: user.name }, headers));
            }
            bidders.spawn(over_nats(load, Arc::clone(&lots), bus, people, begin, end));
        }
    }
    tokio::time::sleep_until(begin).await;
    let records_before = records(stack).await?;
    tokio::time::sleep_until(end).await;
    let appended = records(stack).await? - records_before;
    let mut all = Answers::new()?;
    while let Some(seen) = bidders.join_next().await {
        all.add(&seen??)?;
    }
    let seconds = load.seconds as f64;
    let total: u64 = all.codes.values().sum();
    ensure!(total > 0, "no bid was answered");
    let ms = |quantile: f64| all.latency.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(json!({
        "transport": format!("{:?}", load.transport).to_lowercase(),
        "in_flight": load.in_flight, "auctions": load.auctions, "too_low_percent": load.too_low, "rate": load.rate,
        "proxy": load.proxy,
        "answers_per_second": total as f64 / seconds,
        "accepted_per_second": all.codes.get("accepted").copied().unwrap_or_default() as f64 / seconds,
        "log_records_per_second": appended as f64 / seconds,
        "answers": all.codes,
        "answer_ms": {"p50": ms(0.5), "p99": ms(0.99), "p999": ms(0.999), "max": ms(1.0)},
    }))
}

/// One user with one HTTP connection.
async fn over_http(
    bidder: u64,
    load: Load,
    lots: Arc<Vec<Lot>>,
    url: String,
    token: String,
    begin: Instant,
    end: Instant,
) -> Result<Answers> {
    let (caller, mut seen) = (Caller::new(), Answers::new()?);
    let interval = load.rate.map(|rate| Duration::from_secs_f64(load.in_flight as f64 / rate.max(1) as f64));
    let mut scheduled = Instant::now();
    for turn in bidder.. {
        if let Some(interval) = interval {
            scheduled += interval;
            tokio::time::sleep_until(scheduled).await;
        } else {
            scheduled = Instant::now();
        }
        if scheduled >= end {
            break;
        }
        let lot = &lots[usize::try_from(turn)? % lots.len()];
        let (amount, maximum) = lot.next_cents(load);
        let mut bid = new_bid(&lot.auction_id, amount);
        if let Some(maximum) = maximum {
            bid["max_amount"] = json!(Amount::from_cents(maximum)?.to_string());
        }
        let answer = caller.post(&url, Some(&token), &bid).await?;
        if scheduled >= begin {
            seen.note(answer.json["code"].as_str().unwrap_or("accepted"), scheduled);
        }
    }
    Ok(seen)
}

/// All users over one NATS connection, as an edge uses it.
async fn over_nats(
    load: Load,
    lots: Arc<Vec<Lot>>,
    bus: bus::Bus,
    people: Vec<(Person, HeaderMap)>,
    begin: Instant,
    end: Instant,
) -> Result<Answers> {
    let free = Arc::new(Semaphore::new(usize::try_from(load.in_flight)?));
    let inbox = bus.client.new_inbox();
    let mut answers = bus.client.subscribe(format!("{inbox}.*")).await?;
    let mut interval = load.rate.map(|rate| tokio::time::interval(Duration::from_secs_f64(1.0 / rate.max(1) as f64)));
    let (sent, mut to_answer) = mpsc::channel::<(u64, Instant)>(MAX_UNANSWERED);
    let answered = Arc::clone(&free);
    let listener = tokio::spawn(async move {
        let (mut seen, mut waiting) = (Answers::new()?, HashMap::new());
        let mut last = None;
        while last.is_none_or(|last| last > 0) {
            let next = tokio::time::timeout(ANSWER_TIMEOUT, answers.next()).await;
            let answer = next.context("no more answers arrive")?.context("the connection was closed")?;
            while let Ok((number, scheduled)) = to_answer.try_recv() {
                waiting.insert(number, scheduled);
            }
            let number: u64 = answer.subject.rsplit('.').next().unwrap_or_default().parse()?;
            let scheduled: Instant = waiting.remove(&number).context("an answer without a bid")?;
            answered.add_permits(1);
            if scheduled >= begin {
                match serde_json::from_slice(&answer.payload)? {
                    Answer::Accepted(_) => seen.note("accepted", scheduled),
                    Answer::Rejected(rejected) => seen.note(rejected.code.name(), scheduled),
                }
            }
            if to_answer.is_closed() {
                last = Some(waiting.len() + to_answer.len());
            }
        }
        anyhow::Ok(seen)
    });
    for number in 0.. {
        let scheduled = match &mut interval {
            Some(interval) => interval.tick().await,
            None => {
                free.acquire().await?.forget();
                Instant::now()
            }
        };
        if scheduled >= end {
            break;
        }
        let lot = &lots[usize::try_from(number)? % lots.len()];
        // Another person for the next auction, and for the next bid in the same one.
        let (round, nth) = (number / lots.len() as u64, number % lots.len() as u64);
        let bidder = (round + nth) % load.in_flight.max(2);
        let (user, headers) = &people[usize::try_from(bidder)?];
        let (amount, maximum) = lot.next_cents(load);
        let bid = PlaceBid {
            auction_id: lot.auction_id.parse()?,
            bid_id: Some(BidId::from_uuid(Uuid::new_v4())),
            amount: Some(Amount::from_cents(amount)?),
            max_amount: maximum.map(Amount::from_cents).transpose()?,
            user: user.clone(),
        };
        ensure!(sent.try_send((number, scheduled)).is_ok(), "the system cannot follow this rate");
        let payload = serde_json::to_vec(&bid)?;
        let reply_to = format!("{inbox}.{number}");
        let headers = headers.clone();
        let subject = maximum.map_or(subject::BIDS_PLACE, |_| subject::BIDS_PLACE_WITH_MAXIMUM);
        bus.client.publish_with_reply_and_headers(subject, reply_to, headers, payload.into()).await?;
    }
    drop(sent);
    listener.await?
}

/// Records that bid-processing has appended so far.
async fn records(stack: &Stack) -> Result<u64> {
    let metrics = testkit::http::get(&format!("{}/metrics", stack.url(Name::BidProcessing)), None).await?;
    let line = metrics.text.lines().find_map(|line| line.strip_prefix("flash_log_records_appended_total "));
    Ok(line.context("bid-processing has no metric of appended records")?.trim().parse()?)
}

/// Prints the results next to the raw limits.
pub fn print(measured: &Value) {
    let row = |name: &str, value: &Value, unit: &str| {
        if let Some(number) = value.as_f64() {
            println!("  {name:<38} {number:>10.1} {unit}");
        }
    };
    let (bids, ceiling) = (&measured["bids"], &measured["ceiling"]);
    println!("\n{} in flight", ceiling["in_flight"]);
    if let Some(share) = bids["proxy"].as_f64().filter(|share| *share > 0.0) {
        row("bids with a maximum", &json!(100.0 * share), "%");
    }
    row("accepted bids", &bids["accepted_per_second"], "/s");
    row("all answers", &bids["answers_per_second"], "/s");
    row("log records", &bids["log_records_per_second"], "/s");
    for quantile in ["p50", "p99", "p999", "max"] {
        row(&format!("answer {quantile}"), &bids["answer_ms"][quantile], "ms");
    }
    if let Some(answers) = bids["answers"].as_object() {
        let answers: Vec<String> = answers.iter().map(|(code, count)| format!("{code} {count}")).collect();
        println!("  {}", answers.join(", "));
    }
    println!("raw limits");
    row("the script alone, accepted", &ceiling["script_calls_per_second"], "/s");
    row(&format!("the script in calls of {BATCH}, accepted"), &ceiling["script_bids_per_second_in_batches"], "/s");
    row("synced appends to the log", &ceiling["log_appends_per_second"], "/s");
    row("loopback round trips", &ceiling["loopback_round_trips_per_second"], "/s");
    if let (Some(accepted), Some(script)) =
        (bids["accepted_per_second"].as_f64(), ceiling["script_calls_per_second"].as_f64())
    {
        println!("accepted bids are {:.0} % of the script alone", 100.0 * accepted / script);
    }
}
