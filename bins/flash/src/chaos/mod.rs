//! `cargo flash chaos`: a fault-injection test on a private stack. Clients bid over all transports while its parts are
//! killed, frozen and cut off; afterwards [`checker`] judges the recorded history.
//!
//! The faults and their order follow from the seed. The calls that they hit do not, because clients and machine run
//! in real time.

mod crowd;
mod faults;
mod load;
mod long;
mod rules;
mod scenario;
mod summary;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use checker::history::History;
use checker::{Demands, Invariant, Verdict, check, report};
use testkit::dynamodb_stub::DynamoDbStub;
use testkit::{Disk, Proxy, Topology};
use tokio::time::Instant;

use crate::checkout;
use crate::stack::recorder::{Recorder, books, now};
use crate::stack::{Name, Options, Ports, Stack, connections};
use crowd::WatchedAuction;
use faults::FaultInjector;
use load::{Addresses, Load};
use long::LongAuction;
use scenario::{Scenario, Schedule};
use summary::summary;

/// The arguments of `chaos`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Seconds in which faults are injected; the last auctions then run to their end
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=7200))]
    seconds: u64,
    /// Seed of the faults and their order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The faults to inject
    #[arg(long, value_enum, default_value_t = Scenario::All)]
    scenario: Scenario,
    /// A `flash` of another version; each deployment picks one of the two
    #[arg(long)]
    other: Option<PathBuf>,
    /// Let NATS answer before it syncs; with `power-loss` this must lose data
    #[arg(long, hide = true)]
    unsynced: bool,
    /// Directory for data, logs and the history of the stack; it is kept
    #[arg(long)]
    directory: Option<PathBuf>,
}

/// Time after the last auction until its results must be stored, and additional time for each auction: the AWS emulator
/// is slow.
const RESULTS_WITHIN: Duration = Duration::from_secs(60);
const RESULTS_WITHIN_EACH: Duration = Duration::from_secs(1);
/// Interval between two checks of the stored results.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Runs the test.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(Box::pin(chaos(arguments)))
}

async fn chaos(arguments: &Arguments) -> Result<ExitCode> {
    let directory = match &arguments.directory {
        Some(directory) => std::path::absolute(directory)?,
        None => checkout::root().join(format!("target/chaos/{}", std::process::id())),
    };
    std::fs::create_dir_all(&directory)?;
    let needs_disk = matches!(arguments.scenario, Scenario::PowerLoss | Scenario::FullDisk);
    let mount = || Disk::mount(&directory.join("disk.img"), &directory.join("disk"));
    let disk = needs_disk.then(mount).transpose()?;
    let data = if disk.is_some() { directory.join("disk") } else { directory.clone() };
    let mut stack = start_stack(arguments, data).await?;
    if let Some(disk) = &disk {
        disk.sync()?;
    }
    let proxies = second_instances(&mut stack).await?;
    let dynamodb = DynamoDbStub::start(&stack.servers.aws_endpoint()).await?;
    match arguments.scenario {
        Scenario::Throttle => call_aws_through(&dynamodb, &mut stack, Name::BidPersistence).await?,
        Scenario::Mail => call_aws_through(&dynamodb, &mut stack, Name::AuctionNotifications).await?,
        _ => {}
    }
    let load = load_on(&stack, arguments.scenario.hosts_may_pause());

    eprintln!("{:?} for {} s, seed {} …", arguments.scenario, arguments.seconds, arguments.seed);
    let time = Duration::from_secs(arguments.seconds);
    let featured = FeaturedAuction::begin(arguments.scenario, &load, &stack, time).await?;
    let until = Instant::now() + time;
    let playing = tokio::spawn(Arc::clone(&load).run(until));
    let mut injector = FaultInjector {
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
    inject_faults(arguments, &mut injector, until).await?;
    let (done, healed) = (injector.done, now());
    // An error here means that a client waited in vain; everything else is in the verdict.
    let played = playing.await?.and(featured.finish(&stack).await);
    let auctions = std::mem::take(&mut *load.auctions.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    eprintln!("{} auctions are over; waiting for their results …", auctions.len());

    let waiting_since = Instant::now();
    let (text, history, verdict) = judge(arguments, &stack, &load, &auctions).await?;
    let waited = waiting_since.elapsed();
    let file = directory.join("history.jsonl");
    std::fs::write(&file, text).with_context(|| file.display().to_string())?;
    println!("{}", summary(&history, &verdict, &done, healed));
    print!("{}", report(&history, &verdict));
    println!("the results were complete {waited:?} after the last auction; history: {}", file.display());
    stack.stop().await;
    drop(disk);
    if let Err(error) = &played {
        println!("{error:#}");
    }
    let passed = verdict.violations.is_empty() && played.is_ok();
    if passed && arguments.directory.is_none() {
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The auction that a scenario has besides those that come and go.
enum FeaturedAuction {
    None,
    Watched(WatchedAuction),
    Long(LongAuction),
}

impl FeaturedAuction {
    async fn begin(scenario: Scenario, load: &Arc<Load>, stack: &Stack, time: Duration) -> Result<Self> {
        Ok(match scenario {
            Scenario::Crowd => Self::Watched(WatchedAuction::begin(load, &stack.issuer, time).await?),
            Scenario::LongAuction => Self::Long(LongAuction::begin(load, time).await?),
            _ => Self::None,
        })
    }

    /// Waits for its end.
    async fn finish(self, stack: &Stack) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Long(long) => long.finish().await,
            Self::Watched(crowd) => {
                let nats = connections::nats(&stack.servers);
                let log = bus::Log::open(&bus::Bus::connect(&nats, "flash chaos").await?).await?;
                crowd.finish(&log).await
            }
        }
    }
}

/// Starts the stack of the scenario, each service as a process of its own.
async fn start_stack(arguments: &Arguments, directory: PathBuf) -> Result<Stack> {
    let options = Options {
        directory,
        tools: checkout::directory(),
        ports: Ports::Free,
        topology: Topology { unsynced: arguments.unsynced, ..arguments.scenario.topology() },
        instances: BTreeMap::new(),
        processes: Some(std::env::current_exe()?),
        // One host creates every auction of the run.
        settings: vec![("MAX_AUCTIONS_PER_USER_PER_HOUR".to_owned(), "1000000".to_owned())],
    };
    Stack::start(options, &|step| eprintln!("{step} …")).await
}

/// Replaces the instance of a service by one that calls AWS through the stub.
async fn call_aws_through(stub: &DynamoDbStub, stack: &mut Stack, name: Name) -> Result<()> {
    stack.add_instance_with(name, &[("AWS_ENDPOINT_URL", stub.endpoint.clone())]).await?;
    stack.kill_instance(name, 0).await
}

/// The clients of the run, with the addresses of the stack.
fn load_on(stack: &Stack, hosts_may_pause: bool) -> Arc<Load> {
    let urls = |name| stack.urls(name).iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
    let addresses = Addresses {
        management: stack.url(Name::AuctionManagement).to_owned(),
        bids: urls(Name::BidProcessing).iter().map(|url| format!("{url}/bids")).collect(),
        edges: urls(Name::Websocket),
    };
    let load = Load {
        addresses,
        issuer: std::sync::Mutex::new(stack.issuer.clone()),
        recorder: Recorder::default(),
        number: std::sync::atomic::AtomicU64::new(1),
        auctions: std::sync::Mutex::default(),
        hosts_may_pause,
    };
    for person in Load::people() {
        load.recorder.secret(&person.email);
    }
    Arc::new(load)
}

/// Injects the scenario's faults, one after the other, until the time is over.
async fn inject_faults(arguments: &Arguments, injector: &mut FaultInjector<'_>, until: Instant) -> Result<()> {
    let mut schedule = Schedule::new(arguments.seed);
    // Some bids must have been accepted, so that the first fault can lose one.
    tokio::time::sleep(arguments.scenario.pause(&mut schedule).max(Duration::from_secs(2))).await;
    while Instant::now() < until {
        let fault = arguments.scenario.next(&mut schedule);
        injector.inject(fault).await?;
        tokio::time::sleep(arguments.scenario.pause(&mut schedule)).await;
    }
    Ok(())
}

/// Waits until the results of all auctions are complete, or until they are late, and checks every invariant.
async fn judge(
    arguments: &Arguments,
    stack: &Stack,
    load: &Load,
    auctions: &[String],
) -> Result<(String, History, Verdict)> {
    // Without an unknown outcome no fault has hit a bid in progress.
    let hits_bids = [Scenario::All, Scenario::Kills].contains(&arguments.scenario) && arguments.seconds >= 30;
    let ticks = usize::from(arguments.scenario == Scenario::Ticks);
    let demands = Demands { faults: 1, unknown: usize::from(hits_bids), ticks, ..Demands::default() };
    let waiting_since = Instant::now();
    let within = RESULTS_WITHIN + RESULTS_WITHIN_EACH * u32::try_from(auctions.len())?;
    loop {
        let is_late = waiting_since.elapsed() > within;
        match books(stack, auctions, &Load::people()).await {
            Ok(results) => {
                let text = load.recorder.text(&results);
                let history = History::parse(&text)?;
                let verdict = check(&history, &demands);
                let awaited = [Invariant::OneWinner, Invariant::History, Invariant::Notified];
                let is_waiting = verdict.broken().iter().any(|invariant| awaited.contains(invariant));
                if !is_waiting || is_late {
                    return Ok((text, history, verdict));
                }
            }
            Err(error) if is_late => return Err(error),
            // The emulator may be minutes behind.
            Err(error) => eprintln!("failed to read the results, retrying: {error:#}"),
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

/// Starts a second bid-processing and a second edge behind proxies; returns these in the order of
/// [`Hop::ALL`](faults::Hop::ALL).
async fn second_instances(stack: &mut Stack) -> Result<[Proxy; 3]> {
    let (nats, redis) = (stack.servers.nats[0].port, stack.servers.redis[0].port);
    let proxies = [Proxy::start(redis).await?, Proxy::start(nats).await?, Proxy::start(nats).await?];
    let through = |url: String, port: u16, proxy: &Proxy| {
        // In a cluster only the first server is behind the proxy.
        url.replace(&format!(":{port}"), &format!(":{}", proxy.port))
    };
    const BIDS: &str = Name::BidProcessing.text();
    let settings = [
        ("REDIS_URL", through(stack.servers.redis_url_of(BIDS).context("a login to Redis")?, redis, &proxies[0])),
        ("NATS_URL", through(stack.servers.nats_url_of(BIDS), nats, &proxies[1])),
    ];
    stack.add_instance_with(Name::BidProcessing, &settings).await?;
    let edge = stack.servers.nats_url_of(Name::Websocket.text());
    let settings = [("NATS_URL", through(edge, nats, &proxies[2]))];
    stack.add_instance_with(Name::Websocket, &settings).await?;
    Ok(proxies)
}
