//! `cargo flash bench`: what this machine carries, each figure beside its ceiling in the same run.
//!
//! A stack of its own, each service a process, everything synced as in production; its data is gone
//! afterwards. The client shares the machine: ratios say more than the rates.

mod watchers;

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use domain::{Amount, AuctionId, BidId, BidRequest, UserId};
use futures_util::StreamExt;
use hdrhistogram::Histogram;
use protocol::{Answer, CreateRequest, Person, PlaceBid, subject};
use serde_json::{Value, json};
use testkit::http::Caller;
use testkit::scratch::Scratch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use crate::stack::Name;
use crate::{Options, Ports, Stack};

/// Steps of a cent: nothing but order decides whether a bid is high enough.
const STEP_CENTS: u64 = 1;
/// A bid's size on the wire, about.
const ECHO_BYTES: usize = 300;
/// Bids in one script call where the ceiling of batches is measured.
const BATCH: usize = 64;
/// Not measured: connections are made, keys fetched, code warmed.
const WARM_UP: Duration = Duration::from_secs(1);
/// An answer takes three seconds at most.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Bids sent since the last answer: a rate that nothing can follow is an end, not a queue.
const MAX_UNANSWERED: usize = 100_000;

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

#[derive(Debug, Clone, Copy, clap::Args)]
struct Load {
    /// Seconds measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// Bids in flight, each by a person of its own
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=2_000))]
    in_flight: u64,
    /// Auctions that the bids are spread over
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    auctions: u64,
    /// Percent of the bids that cannot win
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=99))]
    hopeless: u64,
    /// Whom the bids are brought to. Over `http` they overtake each other, as people's do, and whoever is
    /// overtaken is refused; over `nats`, as an edge brings them, they stay in order
    #[arg(long, value_enum, default_value_t = Door::Nats)]
    door: Door,
    /// Bids a second by a schedule that waits for no answer; without it each person bids on at once
    #[arg(long)]
    rate: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Door {
    Nats,
    Http,
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
                let bids = bids(&stack, load).await?;
                json!({"bids": bids, "ceiling": ceiling(&stack, load).await?})
            }
            What::Ceiling(load) => json!({"ceiling": ceiling(&stack, load).await?}),
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
        What::Bids(_) | What::Ceiling(_) => print(&measured),
        What::Connections(_) | What::Fanout(_) | What::Reconnects(_) => watchers::print(&measured),
    }
    let folder = crate::root().join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{}.json", what.name()));
    std::fs::write(&file, serde_json::to_vec_pretty(&measured)?)?;
    println!("\nwritten to {}", file.display());
    Ok(ExitCode::SUCCESS)
}

/// What one worker, or all of them, have seen.
struct Seen {
    answers: BTreeMap<String, u64>,
    /// Microseconds from the scheduled time to the answer.
    latency: Histogram<u64>,
}

impl Seen {
    fn new() -> Result<Self> {
        Ok(Self { answers: BTreeMap::new(), latency: Histogram::new_with_bounds(1, 60_000_000, 3)? })
    }

    fn note(&mut self, answer: &str, scheduled: Instant) {
        *self.answers.entry(answer.to_owned()).or_default() += 1;
        let micros = u64::try_from(scheduled.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latency.saturating_record(micros.max(1));
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        for (answer, count) in &other.answers {
            *self.answers.entry(answer.clone()).or_default() += count;
        }
        Ok(self.latency.add(&other.latency)?)
    }
}

struct Lot {
    auction_id: String,
    price: AtomicU64,
}

impl Lot {
    fn next_cents(&self, load: Load) -> u64 {
        if fastrand::u64(0..100) < load.hopeless { 1 } else { self.price.fetch_add(STEP_CENTS, Ordering::Relaxed) }
    }
}

async fn bids(stack: &Stack, load: Load) -> Result<Value> {
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
    match load.door {
        Door::Http => {
            let url = format!("{}/bids", stack.url(Name::BidProcessing));
            for bidder in 0..load.in_flight {
                let token = stack.issuer.token(&format!("bench-{bidder}"))?;
                bidders.spawn(over_http(bidder, load, Arc::clone(&lots), url.clone(), token, begin, end));
            }
        }
        Door::Nats => {
            let settings = bus::Settings { url: stack.servers.nats_url(), credentials_file: None };
            let bus = bus::Bus::connect(&settings, "bench").await?;
            bidders.spawn(over_nats(load, Arc::clone(&lots), bus, begin, end));
        }
    }
    tokio::time::sleep_until(begin).await;
    let records_before = records(stack).await?;
    tokio::time::sleep_until(end).await;
    let appended = records(stack).await? - records_before;
    let mut all = Seen::new()?;
    while let Some(seen) = bidders.join_next().await {
        all.add(&seen??)?;
    }
    let seconds = load.seconds as f64;
    let total: u64 = all.answers.values().sum();
    ensure!(total > 0, "no bid was answered");
    let ms = |quantile: f64| all.latency.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(json!({
        "door": format!("{:?}", load.door).to_lowercase(),
        "in_flight": load.in_flight, "auctions": load.auctions, "hopeless_percent": load.hopeless, "rate": load.rate,
        "answers_per_second": total as f64 / seconds,
        "accepted_per_second": all.answers.get("accepted").copied().unwrap_or_default() as f64 / seconds,
        "log_records_per_second": appended as f64 / seconds,
        "answers": all.answers,
        "answer_ms": {"p50": ms(0.5), "p99": ms(0.99), "p999": ms(0.999), "max": ms(1.0)},
    }))
}

/// One person with a connection of its own.
async fn over_http(
    bidder: u64,
    load: Load,
    lots: Arc<Vec<Lot>>,
    url: String,
    token: String,
    begin: Instant,
    end: Instant,
) -> Result<Seen> {
    let (caller, mut seen) = (Caller::new(), Seen::new()?);
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
        let cents = lot.next_cents(load);
        let amount = Amount::from_cents(cents)?.to_string();
        let bid = json!({"auction_id": lot.auction_id, "amount": amount, "bid_id": Uuid::new_v4().to_string()});
        let answer = caller.post(&url, Some(&token), &bid).await?;
        if scheduled >= begin {
            seen.note(answer.json["code"].as_str().unwrap_or("accepted"), scheduled);
        }
    }
    Ok(seen)
}

/// As many people over one connection, as an edge has it.
async fn over_nats(load: Load, lots: Arc<Vec<Lot>>, bus: bus::Bus, begin: Instant, end: Instant) -> Result<Seen> {
    let free = Arc::new(Semaphore::new(usize::try_from(load.in_flight)?));
    let inbox = bus.client.new_inbox();
    let mut answers = bus.client.subscribe(format!("{inbox}.*")).await?;
    let mut interval = load.rate.map(|rate| tokio::time::interval(Duration::from_secs_f64(1.0 / rate.max(1) as f64)));
    let (sent, mut to_answer) = mpsc::channel::<(u64, Instant)>(MAX_UNANSWERED);
    let answered = Arc::clone(&free);
    let listener = tokio::spawn(async move {
        let (mut seen, mut waiting) = (Seen::new()?, HashMap::new());
        let mut last = None;
        while last.is_none_or(|last| last > 0) {
            let next = tokio::time::timeout(ANSWER_PATIENCE, answers.next()).await;
            let answer = next.context("answers stopped coming")?.context("the connection has ended")?;
            while let Ok((number, scheduled)) = to_answer.try_recv() {
                waiting.insert(number, scheduled);
            }
            let number: u64 = answer.subject.rsplit('.').next().unwrap_or_default().parse()?;
            let scheduled: Instant = waiting.remove(&number).context("an answer to nothing")?;
            answered.add_permits(1);
            if scheduled >= begin {
                match serde_json::from_slice(&answer.payload)? {
                    Answer::Accepted(_) => seen.note("accepted", scheduled),
                    Answer::Rejected(refused) => seen.note(refused.code.name(), scheduled),
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
        let bidder = (number / lots.len() as u64) % load.in_flight.max(2);
        let bid = PlaceBid {
            auction_id: lot.auction_id.parse()?,
            bid_id: Some(BidId::from_uuid(Uuid::new_v4())),
            amount: Amount::from_cents(lot.next_cents(load))?,
            user: Person {
                user_id: UserId::from_uuid(Uuid::from_u128(1 + u128::from(bidder))),
                username: format!("bench-{bidder}"),
            },
        };
        ensure!(sent.try_send((number, scheduled)).is_ok(), "the answers are too far behind this rate");
        let payload = serde_json::to_vec(&bid)?;
        bus.client.publish_with_reply(subject::BIDS_PLACE, format!("{inbox}.{number}"), payload.into()).await?;
    }
    drop(sent);
    listener.await?
}

/// How many records bid-processing has appended.
async fn records(stack: &Stack) -> Result<u64> {
    let metrics = testkit::http::get(&format!("{}/metrics", stack.url(Name::BidProcessing)), None).await?;
    let line = metrics.text.lines().find_map(|line| line.strip_prefix("records_appended_total "));
    Ok(line.context("no such metric")?.trim().parse()?)
}

async fn ceiling(stack: &Stack, load: Load) -> Result<Value> {
    let (one, batched) = (script(stack, load, 1).await?, script(stack, load, BATCH).await?);
    Ok(json!({
        "in_flight": load.in_flight,
        "script_calls_per_second": one,
        "script_bids_per_second_in_batches": batched,
        "batch": BATCH,
        "log_appends_per_second": appends(stack, load).await?,
        "loopback_round_trips_per_second": round_trips(load).await?,
    }))
}

/// Runs `call` over and over, so many at once; returns how often a second it succeeded, times what it says.
async fn rate<Call, Done>(load: Load, call: Call) -> Result<f64>
where
    Call: Fn() -> Done + Clone + Send + 'static,
    Done: Future<Output = Result<u64>> + Send,
{
    let end = Instant::now() + Duration::from_secs(load.seconds);
    let mut workers = JoinSet::new();
    for _ in 0..load.in_flight {
        let call = call.clone();
        workers.spawn(async move {
            let mut done = 0;
            while Instant::now() < end {
                done += call().await?;
            }
            anyhow::Ok(done)
        });
    }
    let mut done = 0;
    while let Some(worker) = workers.join_next().await {
        done += worker??;
    }
    Ok(done as f64 / load.seconds as f64)
}

/// The deciding script alone on this Redis: accepted bids a second.
async fn script(stack: &Stack, load: Load, batch: usize) -> Result<f64> {
    let hotstate = hotstate::Hotstate::connect(&stack.servers.redis_url()).await?;
    let auction_id = AuctionId::from_uuid(Uuid::new_v4());
    let request = CreateRequest {
        auction_id,
        host: Person { user_id: UserId::from_uuid(Uuid::new_v4()), username: "host".to_owned() },
        starting_bid: Amount::from_cents(100)?,
        increment: Amount::from_cents(STEP_CENTS)?,
        duration_ms: 600_000,
        anti_snipe_mode: "off".to_owned(),
        anti_snipe_window_ms: 0,
        anti_snipe_extension_ms: 0,
        anti_snipe_max_extensions: 0,
        valid_until: u64::MAX / 2,
    };
    hotstate.create(&request).await?;
    hotstate.open(auction_id).await?.context("a state")?;
    let price = Arc::new(AtomicU64::new(100));
    let place = move || {
        let (hotstate, price) = (hotstate.clone(), Arc::clone(&price));
        async move {
            let first = price.fetch_add(STEP_CENTS * batch as u64, Ordering::Relaxed);
            let bids: Vec<BidRequest> = (0..batch as u64)
                .map(|nth| {
                    let cents = first + nth * STEP_CENTS;
                    Ok(BidRequest {
                        bid_id: BidId::from_uuid(Uuid::new_v4()),
                        user_id: UserId::from_uuid(Uuid::from_u128(u128::from(1 + cents % 64))),
                        username: "robot".to_owned(),
                        amount: Amount::from_cents(cents)?,
                    })
                })
                .collect::<Result<_>>()?;
            let verdicts = hotstate.place(auction_id, &bids).await?.context("a state")?;
            let accepted = verdicts.decisions.iter();
            Ok(accepted.filter(|decision| matches!(decision, domain::Decision::Accepted { .. })).count() as u64)
        }
    };
    rate(load, place).await
}

/// Synced appends of about one bid to a stream of its own.
async fn appends(stack: &Stack, load: Load) -> Result<f64> {
    let settings = bus::Settings { url: stack.servers.nats_url(), credentials_file: None };
    let bus = bus::Bus::connect(&settings, "bench").await?;
    let config = async_nats::jetstream::stream::Config {
        name: "BENCH".to_owned(),
        subjects: vec!["bench.append".to_owned()],
        max_bytes: 512 * 1024 * 1024,
        ..Default::default()
    };
    bus.jetstream.create_stream(config).await?;
    let jetstream = bus.jetstream.clone();
    let append = move || {
        let jetstream = jetstream.clone();
        async move {
            jetstream.publish("bench.append", vec![b'x'; ECHO_BYTES].into()).await?.await?;
            Ok(1)
        }
    };
    let rate = rate(load, append).await;
    bus.jetstream.delete_stream("BENCH").await?;
    rate
}

/// A loopback connection each, a message there and back.
async fn round_trips(load: Load) -> Result<f64> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let echo = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; ECHO_BYTES];
                while socket.read_exact(&mut buffer).await.is_ok() && socket.write_all(&buffer).await.is_ok() {}
            });
        }
    });
    let end = Instant::now() + Duration::from_secs(load.seconds);
    let mut workers = JoinSet::new();
    for _ in 0..load.in_flight {
        workers.spawn(async move {
            let mut socket = tokio::net::TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            let (mut buffer, mut done) = ([0; ECHO_BYTES], 0u64);
            while Instant::now() < end {
                socket.write_all(&buffer).await?;
                socket.read_exact(&mut buffer).await?;
                done += 1;
            }
            anyhow::Ok(done)
        });
    }
    let mut done = 0;
    while let Some(worker) = workers.join_next().await {
        done += worker??;
    }
    echo.abort();
    if done == 0 {
        bail!("no message came back");
    }
    Ok(done as f64 / load.seconds as f64)
}

fn print(measured: &Value) {
    let row = |name: &str, value: &Value, unit: &str| {
        if let Some(number) = value.as_f64() {
            println!("  {name:<38} {number:>10.1} {unit}");
        }
    };
    let (bids, ceiling) = (&measured["bids"], &measured["ceiling"]);
    println!("\n{} in flight", ceiling["in_flight"]);
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
    println!("ceiling");
    row("the script alone, accepted", &ceiling["script_calls_per_second"], "/s");
    row(&format!("in calls of {BATCH}, accepted"), &ceiling["script_bids_per_second_in_batches"], "/s");
    row("synced appends", &ceiling["log_appends_per_second"], "/s");
    row("loopback round trips", &ceiling["loopback_round_trips_per_second"], "/s");
    if let (Some(accepted), Some(script)) =
        (bids["accepted_per_second"].as_f64(), ceiling["script_calls_per_second"].as_f64())
    {
        println!("accepted bids are {:.0} % of the script alone", 100.0 * accepted / script);
    }
}
