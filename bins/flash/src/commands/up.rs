//! `cargo flash up`: starts the whole system and runs it until Ctrl-C.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use protocol::rights;
use testkit::Topology;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::checkout;
use crate::stack::{Name, Options, Ports, Stack};

/// First port of the services by default.
const DEFAULT_PORT_BASE: u16 = 8000;
/// Highest port base. The port base + 1005 must exist.
const MAX_PORT_BASE: u16 = u16::MAX - 1005;
/// Instances of one service.
const MAX_INSTANCES: usize = 16;

/// The arguments of `up`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// First port N; the services listen on N to N+3, N+1004 and N+1005
    #[arg(long, default_value_t = DEFAULT_PORT_BASE, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_PORT_BASE)))]
    port_base: u16,
    /// Start with empty servers: remove everything in `.flash/` except the installed tools
    #[arg(long)]
    fresh: bool,
    /// Run each service in its own process, as in production
    #[arg(long)]
    processes: bool,
    /// Run several instances of a service, such as bid-processing=2
    #[arg(long, value_name = "SERVICE=N", value_parser = instances)]
    instances: Vec<(Name, usize)>,
    /// Give NATS, Redis, PostgreSQL and the services certificates, and speak TLS alone
    #[arg(long)]
    tls: bool,
}

/// Reads `bid-processing=2`.
fn instances(text: &str) -> Result<(Name, usize), String> {
    let (name, count) = text.split_once('=').ok_or("write SERVICE=N")?;
    let name = Name::from_str(name, false)?;
    let count = count.parse().ok().filter(|count| (1..=MAX_INSTANCES).contains(count));
    Ok((name, count.ok_or_else(|| format!("N is 1 to {MAX_INSTANCES}"))?))
}

/// Runs the stack until Ctrl-C, or until a part of it ends.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let directory = checkout::directory();
    fs::create_dir_all(directory.join("logs"))?;
    // Held until the process ends: a second stack in this checkout would overwrite the data of the first.
    let lock = File::create(directory.join("lock"))?;
    if lock.try_lock().is_err() {
        bail!("a stack is already running in this checkout; `cargo flash down` stops it");
    }
    if arguments.fresh {
        remove_data(&directory)?;
    }
    log_to_file(&directory)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(up(arguments, directory))
}

async fn up(arguments: &Arguments, directory: std::path::PathBuf) -> Result<ExitCode> {
    let options = Options {
        topology: Topology { tls: arguments.tls, ..Topology::default() },
        tools: directory.clone(),
        directory: directory.clone(),
        ports: Ports::Base(arguments.port_base),
        instances: arguments.instances.iter().copied().collect::<BTreeMap<_, _>>(),
        processes: if arguments.processes { Some(std::env::current_exe()?) } else { None },
        settings: Vec::new(),
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut asked_to_stop = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    };
    // Dropping a half-started stack kills everything that it has started.
    let started = tokio::select! {
        started = Stack::start(options, &|step| eprintln!("flash: {step} …")) => started,
        () = asked_to_stop() => return Ok(ExitCode::SUCCESS),
    };
    let mut stack = started?;
    stack.write_file()?;
    if !stack.servers.postgres_data.starts_with(&directory) {
        eprintln!(
            "flash: the user that PostgreSQL runs as cannot enter this checkout; its data is in {}",
            stack.servers.postgres_data.display()
        );
    }
    if stack.prepared.history_is_rewritten {
        eprintln!("flash: the emulator has lost the history; bid-persistence writes it again from the log");
    }
    announce(&stack);
    let failed = tokio::select! {
        error = stack.watch() => Some(error),
        () = asked_to_stop() => None,
    };
    eprintln!("flash: stopping …");
    tokio::select! {
        () = stack.stop() => {}
        // A second Ctrl-C: the remaining processes die with this one.
        () = asked_to_stop() => {}
    }
    match failed {
        Some(error) => Err(error.context("a part of the stack ended; see .flash/logs/")),
        None => {
            eprintln!("flash: stopped");
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Prints the addresses, and commands to try.
fn announce(stack: &Stack) {
    let (management, edge, bids) =
        (stack.url(Name::AuctionManagement), stack.url(Name::Websocket), stack.url(Name::BidProcessing));
    let servers = &stack.servers;
    println!("Ready");
    println!();
    println!("  {:<20} {}   (watch, bid and sell; sign in with any name)", "Web page", stack.page_url());
    println!();
    for instance in &stack.instances {
        println!("  {:<20} {}", instance.name.text(), instance.url);
    }
    println!("  {:<20} {}/ws", "(WebSocket)", edge.replacen("http", "ws", 1));
    println!("  {:<20} {}://127.0.0.1:{}", "NATS", servers.nats_scheme(), servers.nats[0].port);
    let redis = if servers.tls.is_some() { "rediss" } else { "redis" };
    println!("  {:<20} {redis}://127.0.0.1:{}", "Redis", servers.redis[0].port);
    println!("  {:<20} postgres://127.0.0.1:{}", "PostgreSQL", servers.postgres_port);
    println!("  {:<20} {}", "AWS emulator", servers.aws_endpoint());
    println!("  {:<20} .flash/logs/", "logs");
    let curl = match &servers.tls {
        Some(tls) => {
            println!("  {:<20} {}", "authority", tls.authority.ca_file.display());
            format!("curl --cacert {}", tls.authority.ca_file.display())
        }
        None => "curl".to_owned(),
    };
    println!();
    println!("A token, an auction and a bid, from another terminal:");
    println!();
    println!("  HOST=$(cargo flash token --user host); ANNA=$(cargo flash token --user anna)");
    println!(
        "  AUCTION=$({curl} -s {management}/auctions -H \"Authorization: Bearer $HOST\" -d '{{\"title\":\"Lamp\",\"duration\":300,\"starting_bid\":10}}' | python3 -c 'import json,sys; print(json.load(sys.stdin)[\"auction_id\"])')"
    );
    println!(
        "  {curl} -s {bids}/bids -H \"Authorization: Bearer $ANNA\" -d \"{{\\\"auction_id\\\":\\\"$AUCTION\\\",\\\"amount\\\":12.50}}\""
    );
    println!();
    println!("The nats CLI, to look, to repair, and to ask the server itself (passwords in .flash/stack.json):");
    println!();
    for (user, password) in [
        (rights::OPERATOR, ".nats.password"),
        (rights::ADMIN, ".nats.admin.password"),
        (rights::SYSTEM, ".nats.system.password"),
    ] {
        println!(
            "  nats context save flash-{user} --server {}://127.0.0.1:{} --user {user} --password \"$(jq -r {password} .flash/stack.json)\"",
            servers.nats_scheme(),
            servers.nats[0].port
        );
    }
    println!();
    println!("Ctrl-C stops everything.");
}

/// Removes everything except the lock, the directory of logs and the installed tools.
fn remove_data(directory: &std::path::Path) -> Result<()> {
    let keep = ["lock", "venv", "venv.lock", "requirements.txt", "node", "node.lock"];
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if keep.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let removed =
            if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        removed.with_context(|| format!("failed to remove {}", entry.path().display()))?;
    }
    testkit::remove_postgres_data(&directory.join("postgres"))?;
    fs::create_dir_all(directory.join("logs"))?;
    Ok(())
}

/// Sends the log of the services to a file, so that the terminal shows only what is meant for people.
fn log_to_file(directory: &std::path::Path) -> Result<()> {
    let file = File::options().create(true).append(true).open(directory.join("logs/services.log"))?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log =
        tracing_subscriber::fmt().with_ansi(false).with_env_filter(filter).with_writer(std::sync::Mutex::new(file));
    log.try_init().map_err(anyhow::Error::from_boxed)
}
