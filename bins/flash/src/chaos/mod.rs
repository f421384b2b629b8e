//! `cargo flash chaos`: a system of its own, bid in over all doors from outside the blast radius, while its
//! parts are killed, stand still and are cut off by turns; then the history is judged by `flash check`.
//!
//! The faults and their order follow from the seed; what they hit does not, because the clients and the
//! machine keep their own time.

mod crowd;
mod faults;
mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use testkit::{Disk, Proxy, Shape};
use tokio::time::Instant;

use crate::check::history::History;
use crate::check::recorder::{Recorder, books, now};
use crate::check::{Demands, Verdict, check, report};
use crate::dynamodb_stub::{Answer, DynamoDbStub};
use crate::stack::{Name, Options, Ports, Stack};
use crowd::Watched;
use faults::{Breaker, Fault, Hop, Part};
use load::{Addresses, Load};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How long faults are made; the last auctions then run to their end
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=7200))]
    seconds: u64,
    /// Which faults, in which order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, value_enum, default_value_t = Scenario::All)]
    scenario: Scenario,
    /// `flash` of another version: each deploy takes one of the two
    #[arg(long)]
    other: Option<PathBuf>,
    /// Let Redis and NATS sync by their own defaults: with `power-loss` this must lose something
    #[arg(long, hide = true)]
    careless: bool,
    /// Where the stack's data, logs and the history go; kept
    #[arg(long)]
    directory: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Most of the below by turns, more kills than anything else
    All,
    /// kill -9 of each service and server, and its restart
    Kills,
    /// SIGSTOP of each for 1 s, then it goes on
    Stops,
    /// SIGSTOP of each for 10 s
    LongStops,
    /// SIGSTOP of each for 60 s
    LongestStops,
    /// Requests that arrive while their replies do not; black holes; resets
    Cuts,
    /// Redis emptied, and rolled back by a second
    Redis,
    /// Redis out of memory
    Memory,
    /// Each service ends in order and comes back
    Deploy,
    /// `PostgreSQL`, AWS and whatever else a bid does not need stand still at once
    Narrow,
    /// `PostgreSQL`, issuer and auction-management dead, AWS silent, until every auction has closed without them
    Dead,
    /// The issuer of tokens away, then with a new key
    Keys,
    /// What writes the books killed, between garbage in the log
    Consumers,
    /// `DynamoDB` throttles, leaves items unprocessed, and fails after having written (a stub before the emulator)
    Throttle,
    /// Ten thousand watch one auction, one in a hundred without reading; all edges killed at once
    Crowd,
    /// Three nats-servers with R3: one killed, sent home as a lame duck, the log's leader moved
    Nats,
    /// Three masters of a Redis Cluster with replicas, one of them killed
    Masters,
    /// The machine of Redis, NATS and `PostgreSQL` loses power: what was not synced is gone (needs root)
    PowerLoss,
    /// The disk of Redis, NATS and `PostgreSQL` runs full (needs root)
    FullDisk,
}

const PARTS: [Part; 10] = [
    Part::Service(Name::BidProcessing),
    Part::Service(Name::Websocket),
    Part::Service(Name::Timer),
    Part::Service(Name::BidPersistence),
    Part::Service(Name::AuctionNotifications),
    Part::Service(Name::AuctionManagement),
    Part::Redis,
    Part::Nats,
    Part::Postgres,
    Part::Aws,
];

/// Whose turn it is.
struct Turns {
    random: fastrand::Rng,
    deck: Vec<Part>,
}

impl Turns {
    /// Each part comes once before any comes again.
    fn part(&mut self, fits: impl Fn(Part) -> bool) -> Part {
        loop {
            match self.deck.pop() {
                Some(part) if fits(part) => return part,
                Some(_) => {}
                None => {
                    self.deck = PARTS.to_vec();
                    self.random.shuffle(&mut self.deck);
                }
            }
        }
    }
}

impl Scenario {
    fn shape(self) -> Shape {
        let one = Shape::default();
        match self {
            Self::Nats => Shape { nats_servers: 3, ..one },
            Self::Masters => Shape { redis_masters: 3, ..one },
            _ => one,
        }
    }

    fn next(self, turns: &mut Turns) -> Fault {
        let second = Duration::from_secs(1);
        match self {
            Self::All => {
                let kinds = [
                    Self::Kills,
                    Self::Kills,
                    Self::Kills,
                    Self::Kills,
                    Self::Kills,
                    Self::Kills,
                    Self::Kills,
                    Self::Kills,
                    Self::Stops,
                    Self::Cuts,
                    Self::Redis,
                    Self::Deploy,
                    Self::Narrow,
                    Self::Memory,
                ];
                kinds[turns.random.usize(..kinds.len())].next(turns)
            }
            Self::Kills => Fault::Kill(turns.part(|part| part != Part::Aws)),
            Self::Stops => Fault::Stop(turns.part(|_| true), second),
            Self::LongStops => Fault::Stop(turns.part(|_| true), 10 * second),
            Self::LongestStops => Fault::Stop(turns.part(|_| true), 60 * second),
            Self::Cuts => {
                let hop = turns.random.choice(Hop::ALL).unwrap_or(Hop::BidsToNats);
                match turns.random.u8(..4) {
                    0 => Fault::BlackHole(hop, second),
                    1 => Fault::Reset(hop),
                    _ => Fault::CutReplies(hop),
                }
            }
            Self::Redis if turns.random.bool() => Fault::EmptyRedis,
            Self::Redis => Fault::RollBackRedis,
            Self::Memory => Fault::FullRedis(second),
            Self::Deploy => Fault::Deploy(turns.random.choice(Name::ALL).unwrap_or(Name::Timer)),
            Self::Narrow => Fault::Narrow(3 * second),
            Self::Dead => Fault::Dead(30 * second),
            Self::Keys => Fault::Keys(5 * second),
            Self::Consumers => match turns.random.u8(..3) {
                0 => Fault::Kill(Part::Service(Name::BidPersistence)),
                1 => Fault::Kill(Part::Service(Name::AuctionNotifications)),
                _ => Fault::Poison,
            },
            Self::Nats => match turns.random.u8(..3) {
                0 => Fault::Kill(Part::Nats),
                1 => Fault::LameDuck,
                _ => Fault::StepDown,
            },
            Self::Throttle => Fault::DynamoDb(
                match turns.random.u8(..3) {
                    0 => Answer::Throttle(None),
                    1 => Answer::Part(2),
                    _ => Answer::FailAfterwards,
                },
                3 * second,
            ),
            Self::Crowd => Fault::Edges,
            Self::Masters => Fault::Kill(Part::Redis),
            Self::PowerLoss => Fault::LosePower,
            Self::FullDisk => Fault::FullDisk(2 * second),
        }
    }

    /// Until the next fault: long enough that most find the system at work again.
    fn rest(self, turns: &mut Turns) -> Duration {
        match self {
            // An election takes its 4 to 9 s.
            Self::Nats => Duration::from_secs(12),
            // By then they are back.
            Self::Crowd => Duration::from_secs(15),
            // New lots are well under way before all is dead again.
            Self::Dead => Duration::from_secs(8),
            // Keys that were not known are asked for once a minute.
            Self::Keys => Duration::from_secs(61),
            Self::Masters | Self::LongStops | Self::LongestStops | Self::PowerLoss | Self::FullDisk => {
                Duration::from_secs(6)
            }
            _ => Duration::from_millis(turns.random.u64(300..1_000)),
        }
    }
}

/// For the books to be written after the last auction, and for each auction's to be read: the emulator is slow.
const BOOKS_WITHIN: Duration = Duration::from_secs(60);
const BOOK_WITHIN: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(Box::pin(chaos(arguments)))
}

async fn chaos(arguments: &Arguments) -> Result<ExitCode> {
    let directory = match &arguments.directory {
        Some(directory) => std::path::absolute(directory)?,
        None => crate::root().join(format!("target/chaos/{}", std::process::id())),
    };
    std::fs::create_dir_all(&directory)?;
    let disk = match arguments.scenario {
        Scenario::PowerLoss | Scenario::FullDisk => {
            Some(Disk::mount(&directory.join("disk.img"), &directory.join("disk"))?)
        }
        _ => None,
    };
    let options = Options {
        directory: if disk.is_some() { directory.join("disk") } else { directory.clone() },
        tools: crate::directory(),
        ports: Ports::Free,
        shape: Shape { careless: arguments.careless, ..arguments.scenario.shape() },
        instances: BTreeMap::new(),
        processes: Some(std::env::current_exe()?),
        settings: Vec::new(),
    };
    let mut stack = Stack::start(options, &|step| eprintln!("{step} …")).await?;
    if let Some(disk) = &disk {
        disk.sync()?;
    }
    let proxies = second_instances(&mut stack).await?;
    let dynamodb = DynamoDbStub::start(&stack.servers.aws_endpoint()).await?;
    if arguments.scenario == Scenario::Throttle {
        let settings = [("AWS_ENDPOINT_URL", dynamodb.endpoint.clone())];
        stack.add_instance_with(Name::BidPersistence, &settings).await?;
        stack.kill_instance(Name::BidPersistence, 0).await?;
    }
    let urls = |name| stack.urls(name).iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
    let addresses = Addresses {
        management: stack.url(Name::AuctionManagement).to_owned(),
        bids: urls(Name::BidProcessing).iter().map(|url| format!("{url}/bids")).collect(),
        edges: urls(Name::Websocket),
    };
    let load = Arc::new(Load {
        addresses,
        issuer: std::sync::Mutex::new(stack.issuer.clone()),
        recorder: Recorder::default(),
        number: std::sync::atomic::AtomicU64::new(1),
        auctions: std::sync::Mutex::default(),
    });
    for person in Load::people() {
        load.recorder.secret(&person.email);
    }

    eprintln!("{:?} for {} s, seed {} …", arguments.scenario, arguments.seconds, arguments.seed);
    let watched = match arguments.scenario {
        Scenario::Crowd => Some(Watched::begin(&load, &stack.issuer, Duration::from_secs(arguments.seconds)).await?),
        _ => None,
    };
    let until = Instant::now() + Duration::from_secs(arguments.seconds);
    let playing = tokio::spawn(Arc::clone(&load).run(until));
    let mut breaker = Breaker {
        stack: &mut stack,
        proxies,
        recorder: &load.recorder,
        disk: disk.as_ref(),
        dynamodb,
        issuer: &load.issuer,
        programs: std::iter::once(std::env::current_exe()?).chain(arguments.other.clone()).collect(),
        scratch: directory.clone(),
        random: fastrand::Rng::with_seed(arguments.seed),
        done: BTreeMap::new(),
    };
    let mut turns = Turns { random: fastrand::Rng::with_seed(arguments.seed), deck: Vec::new() };
    // Something must have been accepted before the first fault can lose it.
    tokio::time::sleep(arguments.scenario.rest(&mut turns).max(Duration::from_secs(2))).await;
    while Instant::now() < until {
        let fault = arguments.scenario.next(&mut turns);
        breaker.break_one(fault).await?;
        tokio::time::sleep(arguments.scenario.rest(&mut turns)).await;
    }
    let (done, healed) = (breaker.done, now());
    // Whoever waits in vain is told of; what else is wrong, the verdict says.
    let mut played = playing.await?;
    if let Some(watched) = watched {
        let nats = bus::Settings { url: stack.servers.nats_url(), credentials_file: None };
        let log = bus::Log::open(&bus::Bus::connect(&nats, "flash chaos").await?).await?;
        played = played.and(watched.finish(&log).await);
    }
    let auctions = std::mem::take(&mut *load.auctions.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    eprintln!("{} auctions are over; waiting for their books …", auctions.len());

    // A run in which nothing was left unknown has not hit anybody in the middle of a bid.
    let hits_bids = [Scenario::All, Scenario::Kills].contains(&arguments.scenario) && arguments.seconds >= 30;
    let demands = Demands { faults: 1, unknown: usize::from(hits_bids), ..Demands::default() };
    let looking = Instant::now();
    let within = BOOKS_WITHIN + BOOK_WITHIN * u32::try_from(auctions.len())?;
    let (text, history, verdict) = loop {
        let is_over = looking.elapsed() > within;
        match books(&stack, &auctions, &Load::people()).await {
            Ok(books) => {
                let text = load.recorder.text(&books);
                let history = History::parse(&text)?;
                let verdict = check(&history, &demands);
                let waiting = verdict.broken().iter().any(|invariant| ["I9", "I10", "I11"].contains(invariant));
                if !waiting || is_over {
                    break (text, history, verdict);
                }
            }
            Err(error) if is_over => return Err(error),
            // The emulator may have minutes of writes before it.
            Err(error) => eprintln!("the books cannot be read yet: {error:#}"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    let file = directory.join("history.jsonl");
    std::fs::write(&file, text).with_context(|| file.display().to_string())?;
    println!("{}", table(&history, &verdict, &done, healed));
    print!("{}", report(&history, &verdict));
    println!("the books were complete {:?} after the last auction; history: {}", looking.elapsed(), file.display());
    stack.stop().await;
    drop(disk);
    if let Err(error) = &played {
        println!("{error:#}");
    }
    let whole = verdict.violations.is_empty() && played.is_ok();
    if whole && arguments.directory.is_none() {
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A second bid-processing and a second edge, behind proxies; in the order of [`Hop::ALL`].
async fn second_instances(stack: &mut Stack) -> Result<[Proxy; 3]> {
    let (nats, redis) = (stack.servers.nats[0].port, stack.servers.redis[0].port);
    let proxies = [Proxy::start(redis).await?, Proxy::start(nats).await?, Proxy::start(nats).await?];
    let through = |url: String, port: u16, proxy: &Proxy| {
        // Of a cluster the first server alone lies behind the proxy.
        url.replace(&format!(":{port}"), &format!(":{}", proxy.port))
    };
    let settings = [
        ("REDIS_URL", through(stack.servers.redis_url(), redis, &proxies[0])),
        ("NATS_URL", through(stack.servers.nats_url(), nats, &proxies[1])),
    ];
    stack.add_instance_with(Name::BidProcessing, &settings).await?;
    let settings = [("NATS_URL", through(stack.servers.nats_url(), nats, &proxies[2]))];
    stack.add_instance_with(Name::Websocket, &settings).await?;
    Ok(proxies)
}

fn table(
    history: &History,
    verdict: &Verdict,
    done: &BTreeMap<(&'static str, &'static str), u32>,
    healed: u64,
) -> String {
    let mut text = String::new();
    for ((what, part), count) in done {
        text += &format!("{part:24} {what:12} {count}\n");
    }
    let calls = |fits: fn(&crate::check::history::Call) -> bool| history.calls.iter().filter(|call| fits(call)).count();
    let broken = |invariant: &str, about: &str| {
        let of_it = verdict.violations.iter().filter(|violation| violation.invariant == invariant);
        of_it.filter(|violation| violation.says.contains(about)).count()
    };
    let lost = broken("I1", "");
    let doubled = broken("I3", "twice");
    let false_refusals = broken("I6", "");
    let winners = broken("I8", "") + broken("I9", "");
    let accepted = history.calls.iter().filter(|call| call.is_accepted());
    let bids = accepted.map(|call| &call.bid_id).collect::<BTreeSet<_>>().len();
    text += &format!(
        "{bids} bids accepted in {} answers, refused {}, unknown {}, lost {lost}, doubled {doubled}, false refusals {false_refusals}, \
         two winners {winners}\n",
        calls(|call| call.is_accepted()),
        calls(|call| call.is_ruled_out()),
        calls(|call| call.is_unknown()),
    );
    let mut accepted: Vec<u64> =
        history.calls.iter().filter(|call| call.is_accepted()).filter_map(|call| call.answered).collect();
    accepted.sort_unstable();
    let next = |fault: &crate::check::history::Fault| {
        let at = accepted.partition_point(|answered| *answered < fault.to);
        accepted.get(at).map(|answered| answered - fault.to)
    };
    let faults = history.faults.iter().filter(|fault| fault.to <= healed);
    let mut recovery: Vec<u64> = faults.filter_map(next).collect();
    recovery.sort_unstable();
    let time = |micros: Option<&u64>| Duration::from_micros(micros.copied().unwrap_or(0));
    let (median, most) = (time(recovery.get(recovery.len() / 2)), time(recovery.last()));
    text += &format!("recovery (next accepted bid) p50 {median:?}, max {most:?}\n");
    text
}
