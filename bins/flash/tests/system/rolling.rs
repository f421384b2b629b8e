//! A rolling deployment as Nomad makes it, under load through the ingress: each service, then Redis, then each server
//! of NATS. Takes minutes.
//!
//! Order, signals and times are those of the job files, which are read. Each difference makes the sequence harder, but
//! for the last one:
//! - `shutdown_delay` is shortened to [`SHUTDOWN_DELAY`], while the ingress reads a list without the old instances as
//!   late as its template allows.
//! - New instances are in the list from their start, before they are ready, and the ingress reads that list as early as
//!   its template allows.
//! - A server of NATS is followed by the next one when all of them report that their streams are current, at least
//!   [`NATS_PAUSE`] after its start. The job waits for 30 s, and does not ask for the streams.
//!
//! Three delays follow from the design and are measured apart:
//! - A socket of an edge that stops is asked to come back within 2.5 s. The bids of that time wait for the new socket,
//!   so that they take as long; none is refused or lost.
//! - Redis runs alone. During its restart bids wait, or are refused as `unavailable` and accepted when they are sent
//!   again.
//! - Bids wait for the next leader of a stream of NATS whose leader leaves, or are repeated.

mod figures;
pub mod ingress;
mod link;
mod load;
mod sockets;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use checker::history::History;
use checker::{Demands, Invariant, check};
use flash::Stack;
use flash::stack::recorder::{books, now};
use flash::stack::{Instance, Name};
use identity::development::DevelopmentUser;
use serde_json::{Value, json};
use testkit::scratch::tools;
use testkit::tls::authority_of;
use testkit::{Signal, Topology, eventually, free_port, hcl};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::test_system::{TestSystem, program};
use figures::{Channel, Figures};
use ingress::{Ingress, Registration, Services};
use load::Load;
use sockets::{Client, bidder};

/// Auctions at the same time. Each has two bidders over HTTP, one with a WebSocket, and one that polls.
const LOTS: usize = 4;
/// Channels of the bidders with a socket.
const SOCKETS: [Channel; 2] = [Channel::WebSocket, Channel::Polling];
/// Time that is measured before anything is rolled.
const QUIET: Duration = Duration::from_secs(15);
/// Additional latency that a deployment may cost one request in a hundred.
const MOST_ADDED: Duration = Duration::from_millis(200);
/// Time from a change of Nomad's list to its reading by the ingress: `wait` of its template. A list that grows is read
/// at the earliest, one that shrinks at the latest.
const READ_FIRST: Duration = Duration::from_secs(1);
const READ_LAST: Duration = Duration::from_secs(4);
/// Time from the removal from the list to SIGTERM. The jobs say 8 s.
const SHUTDOWN_DELAY: Duration = Duration::from_secs(5);
/// Time for the sockets of a stopped edge to come back, and for the last answers.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// Pause after a server of NATS serves again. The job says 30 s.
const NATS_PAUSE: Duration = Duration::from_secs(5);
/// Time after the restart of Redis in which bids must be back.
const REDIS_PAUSE: Duration = Duration::from_secs(6);
/// Fewest bids that prove something.
const LEAST_BIDS: usize = 2_000;
/// Time for history, rows and mails after the last auction. The AWS emulator is slow.
const RESULTS_WITHIN: Duration = Duration::from_secs(60);
/// Interval between two looks at them.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Time for a client to end after its auction.
const CLIENTS_END_WITHIN: Duration = Duration::from_secs(20);

/// The settings of a rolling deployment in a job file.
struct Job {
    count: usize,
    min_healthy_time: Duration,
    shutdown_delay: Duration,
    kill_timeout: Duration,
    drain_delay: String,
}

impl Job {
    /// Reads the job file of a service or server.
    fn read(name: &str) -> Result<Self> {
        let body = job_file(name)?;
        let job = &body["job"][name];
        let (update, group) = (&job["update"], &job["group"][name]);
        // The task of nats-cluster is called nats.
        let task = group["task"].as_object().and_then(|tasks| tasks.values().next()).context("a task")?;
        let time = |value: &Value| humantime::parse_duration(value.as_str().unwrap_or("0s"));
        let variable = group["count"].as_str().and_then(|text| text.strip_prefix("${var.")?.strip_suffix('}'));
        let count = variable.map_or(&group["count"], |variable| &body["variable"][variable]["default"]);
        Ok(Self {
            count: usize::try_from(count.as_u64().with_context(|| format!("the count of {name}"))?)?,
            min_healthy_time: time(&update["min_healthy_time"])?,
            shutdown_delay: time(&group["shutdown_delay"])?,
            kill_timeout: time(&task["kill_timeout"])?,
            drain_delay: task["env"]["DRAIN_DELAY"].as_str().unwrap_or("0").to_owned(),
        })
    }
}

/// A job file as JSON.
fn job_file(name: &str) -> Result<Value> {
    let path = tools().with_file_name("nomad").join(format!("{name}.nomad.hcl"));
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    hcl::from_str(&text).with_context(|| path.display().to_string())
}

/// One part that was rolled, and when.
struct Period {
    part: String,
    from: Instant,
    to: Instant,
}

/// Nomad's list of the running instances.
pub fn services(stack: &Stack) -> Services {
    let mut services = Services::new();
    for instance in &stack.instances {
        let (_, port) = authority_of(&instance.url).rsplit_once(':').unwrap_or_default();
        for (name, url) in [
            (instance.name.text().to_owned(), &instance.url),
            (format!("{}-operations", instance.name.text()), &instance.operations),
        ] {
            let (address, own_port) = authority_of(url).rsplit_once(':').unwrap_or_default();
            services.entry(name).or_default().push(Registration {
                allocation: format!("allocation-{port}"),
                address: address.to_owned(),
                port: own_port.to_owned(),
            });
        }
    }
    services
}

/// Starts the new instances of a service beside the old ones, and returns when each has been ready for as long as the
/// job asks.
async fn add_canaries(stack: &mut Stack, ingress: &mut Ingress, name: Name, job: &Job) -> Result<()> {
    for _ in 0..job.count {
        let operations = format!("127.0.0.1:{}", free_port()?);
        let settings =
            [("OPERATIONS_ADDRESS".to_owned(), operations), ("DRAIN_DELAY".to_owned(), job.drain_delay.clone())];
        stack.add_unready_instance_with(name, &settings)?;
    }
    let list = services(stack);
    let from = stack.instances.len() - job.count;
    let new = &mut stack.instances[from..];
    let ready = async {
        for instance in new {
            instance.wait_ready().await?;
        }
        anyhow::Ok(Instant::now())
    };
    let listed = async {
        sleep(READ_FIRST).await;
        ingress.read_list(&list).await
    };
    let (ready, ()) = tokio::try_join!(ready, listed)?;
    sleep_until(ready + job.min_healthy_time).await;
    Ok(())
}

/// Takes the old instances of a service from the list and stops them.
async fn promote(stack: &mut Stack, ingress: &mut Ingress, name: Name, job: &Job) -> Result<()> {
    let mut old: Vec<Instance> = Vec::new();
    while old.len() < job.count {
        let first = stack.instances.iter().position(|instance| instance.name == name).context("an old instance")?;
        old.push(stack.instances.remove(first));
    }
    let list = services(stack);
    let delay = SHUTDOWN_DELAY.min(job.shutdown_delay);
    let listed = async {
        sleep(READ_LAST).await;
        ingress.read_list(&list).await
    };
    let stopped = async {
        sleep(delay).await;
        let mut stops = JoinSet::new();
        for instance in old {
            stops.spawn(instance.stop_within(job.kill_timeout));
        }
        while let Some(is_clean) = stops.join_next().await {
            ensure!(is_clean?, "an instance of {} did not end within {:?}", name.text(), job.kill_timeout);
        }
        anyhow::Ok(())
    };
    tokio::try_join!(listed, stopped)?;
    Ok(())
}

/// Waits until every socket is open.
async fn all_connected(load: &Load) -> Result<()> {
    let connected = async || {
        let count = load.connected.load(Ordering::Relaxed);
        Ok((count == SOCKETS.len() * LOTS).then_some(()))
    };
    eventually("every socket is open", connected).await
}

/// Rolls each service, one after the other.
async fn roll_services(system: &mut TestSystem, ingress: &mut Ingress, load: &Load) -> Result<Vec<Period>> {
    let wait = &job_file("ingress")?["job"]["ingress"]["group"]["ingress"]["task"]["ingress"]["template"][0]["wait"];
    ensure!(wait["min"] == "1s" && wait["max"] == "4s", "READ_FIRST and READ_LAST differ from the job: {wait}");
    let mut periods = Vec::new();
    for name in Name::ALL {
        let (job, from) = (Job::read(name.text())?, Instant::now());
        ensure!(system.stack.urls(name).len() == job.count, "as many instances as in the job");
        eprintln!("rolling {} …", name.text());
        add_canaries(&mut system.stack, ingress, name, &job).await?;
        promote(&mut system.stack, ingress, name, &job).await?;
        all_connected(load).await?;
        sleep(AFTERWARDS).await;
        periods.push(Period { part: name.text().to_owned(), from, to: Instant::now() });
    }
    Ok(periods)
}

/// Restarts Redis, then each server of NATS, as their jobs do.
async fn roll_servers(system: &mut TestSystem, load: &Load) -> Result<Vec<Period>> {
    let mut periods = Vec::new();
    let (redis, nats) = (Job::read("redis")?, Job::read("nats-cluster")?);
    let servers = &mut system.stack.servers;
    ensure!(servers.nats.len() == nats.count && servers.redis.len() == redis.count, "as many servers as in the jobs");
    eprintln!("restarting Redis …");
    let (from, since) = (Instant::now(), now());
    let process = &mut servers.redis[0].process;
    process.signal(Signal::Terminate)?;
    process.ended(redis.kill_timeout).await?;
    servers.restart_redis().await?;
    load.recorder.fault("Redis is restarted", &["redis"], since, now());
    sleep(REDIS_PAUSE).await;
    periods.push(Period { part: "Redis".to_owned(), from, to: Instant::now() });
    for nth in 0..nats.count {
        eprintln!("restarting server {nth} of NATS …");
        let (from, since) = (Instant::now(), now());
        let process = &mut servers.nats[nth].process;
        process.signal(Signal::LameDuck)?;
        process.ended(nats.kill_timeout).await?;
        servers.restart_nats_server(nth).await?;
        load.recorder.fault("a server of NATS is restarted", &["nats", "nats leader"], since, now());
        sleep(NATS_PAUSE).await;
        periods.push(Period { part: format!("NATS {nth}"), from, to: Instant::now() });
    }
    Ok(periods)
}

/// Everyone who may get a mail.
fn people() -> Vec<DevelopmentUser> {
    let bidders = (0..LOTS).flat_map(|lot| {
        let with_sockets = SOCKETS.into_iter().map(move |channel| bidder(channel, lot));
        Load::http_bidders(lot).into_iter().chain(with_sockets)
    });
    bidders.chain([DevelopmentUser::named("host")]).collect()
}

/// Waits until history, rows and mails are complete, and lets `flash check` judge the whole run.
async fn judge(system: &TestSystem, load: &Load) -> Result<()> {
    let ids: Vec<String> = load.lots.iter().map(|lot| lot.id.clone()).collect();
    let until = Instant::now() + RESULTS_WITHIN;
    let text = loop {
        let is_late = Instant::now() > until;
        match books(&system.stack, &ids, &people()).await {
            Ok(results) => {
                let text = load.recorder.text(&results);
                let broken = check(&History::parse(&text)?, &Demands::default()).broken();
                let awaited = [Invariant::OneWinner, Invariant::History, Invariant::Notified];
                if is_late || !awaited.iter().any(|invariant| broken.contains(invariant)) {
                    break text;
                }
            }
            Err(error) if is_late => return Err(error),
            // The emulator may be behind.
            Err(error) => eprintln!("failed to read the results, retrying: {error:#}"),
        }
        sleep(CHECK_EVERY).await;
    };
    let file = system.path().join("history.jsonl");
    std::fs::write(&file, text)?;
    let mut command = Command::new(program());
    command.arg("check").arg(file);
    let judged = tokio::task::spawn_blocking(move || command.output()).await??;
    let report = String::from_utf8_lossy(&judged.stdout);
    eprintln!("{report}");
    ensure!(judged.status.success(), "flash check: {}{report}", String::from_utf8_lossy(&judged.stderr));
    Ok(())
}

/// Prints the figures of each period; returns everything that a deployment must not cost.
fn assess(load: &Load, quiet: &Period, services: &[Period], servers: &[Period]) -> Vec<String> {
    let figures = |period: &Period| Figures::of(&load.samples(period.from, period.to));
    let before = figures(quiet);
    eprintln!("{:22} {before}", quiet.part);
    let mut broken = Vec::new();
    for (period, is_service) in
        services.iter().zip(std::iter::repeat(true)).chain(servers.iter().zip(std::iter::repeat(false)))
    {
        let Period { part, from, to } = period;
        let figures = figures(period);
        let added = figures.p99.saturating_sub(before.p99);
        eprintln!("{part:22} {figures}; {added:.1?} added to the p99 of {:.1?}; {:.0?}", before.p99, *to - *from);
        if figures.failed > 0 {
            broken.push(format!("{part}: {} requests failed", figures.failed));
        }
        if !is_service {
            continue;
        }
        if figures.refused > 0 {
            broken.push(format!("{part}: {} requests were refused", figures.refused));
        }
        if added > MOST_ADDED {
            broken.push(format!("{part}: {added:?} added to the p99"));
        }
        if figures.moved > 0 && part != Name::Websocket.text() {
            broken.push(format!("{part}: {} bids lost their socket", figures.moved));
        }
    }
    eprintln!("refusals: {:?}", load.refusals());
    broken
}

/// Every service and every server is replaced under load through the ingress. No request fails; while services are
/// replaced none is refused, no socket is lost but those of the edges, and the p99 rises by at most 200 ms. `flash
/// check` compares the log, the history, the frames and the answers bid for bid.
#[tokio::test(flavor = "multi_thread")]
async fn rolling_every_service_and_server_refuses_and_loses_no_bid() -> Result<()> {
    let mut system = TestSystem::start_with("rolling", |options| {
        options.instances = Name::ALL.into_iter().map(|name| (name, 2)).collect();
        options.processes = Some(program());
        options.topology = Topology { nats_servers: 3, tls: false, ..Topology::default() };
        // As in the jobs: the ingress leads /api to the services itself.
        let unset = ["AUCTION_MANAGEMENT_URL", "BID_PROCESSING_URL", "TIMER_URL"];
        options.settings = unset.map(|setting| (setting.to_owned(), String::new())).to_vec();
    })
    .await?;
    let mut ingress = Ingress::start(system.path(), &services(&system.stack)).await?;
    let mut auctions = Vec::new();
    for nth in 0..LOTS {
        let lot = json!({"title": format!("Rolled lot {nth}."), "duration": 1_800, "starting_bid": 1, "video": false,
                         "anti_snipe": {"mode": "off"}});
        auctions.push(system.auction(&lot).await?);
    }
    let load = Arc::new(Load::new(ingress.url.clone(), system.stack.issuer.clone(), auctions));
    let (mut schedules, mut clients) = (JoinSet::new(), JoinSet::new());
    schedules.spawn(Arc::clone(&load).read());
    for nth in 0..LOTS {
        schedules.spawn(Arc::clone(&load).bid_over_http(nth));
        for channel in SOCKETS {
            clients.spawn(Client::new(Arc::clone(&load), channel, nth)?.run());
        }
    }
    all_connected(&load).await?;
    // The first requests open connections.
    sleep(QUIET / 3).await;
    let from = Instant::now();
    sleep(QUIET).await;
    let quiet = Period { part: "quiet".to_owned(), from, to: Instant::now() };

    let services = roll_services(&mut system, &mut ingress, &load).await?;
    let empty = ingress.empty_backends()?;
    let servers = roll_servers(&mut system, &load).await?;

    load.stop();
    while let Some(schedule) = schedules.join_next().await {
        schedule??;
    }
    load.answered().await?;
    let broken = assess(&load, &quiet, &services, &servers);
    eprintln!("empty backends while servers restarted: {:?}", &ingress.empty_backends()?[empty.len()..]);
    all_connected(&load).await?;
    load.close_all(&DevelopmentUser::named("host")).await?;
    let ended = async {
        while let Some(client) = clients.join_next().await {
            client??;
        }
        anyhow::Ok(())
    };
    timeout(CLIENTS_END_WITHIN, ended).await.context("a client did not get the end of its auction")??;

    judge(&system, &load).await?;
    let mut bids = 0;
    for lot in &load.lots {
        bids += system.checked_bids(&lot.id).await?.len();
    }
    eprintln!("{bids} bids are in the log");
    ensure!(bids > LEAST_BIDS, "only {bids} bids were accepted, too few for a proof");
    ensure!(broken.is_empty(), "{broken:#?}");
    ensure!(empty.is_empty(), "a backend had no instance while services were rolled: {empty:#?}");
    ingress.stop().await?;
    system.end().await;
    Ok(())
}
