//! `flash-admin backup` and `restore`: the streams, in the files that the nats CLI uses as well, and what must follow a
//! restore so that the services go on without a restart.
//!
//! A backup lacks the bids that were accepted after it. Auctions that ran when it was made are therefore cancelled, with
//! the reason `restored` in their last record, before anything can be decided about them: the log is held from the
//! moment it exists again until the restore is finished.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use bus::{Bus, ServerArchive};
use domain::{CloseReason, UserId};
use futures_util::{StreamExt, stream};
use protocol::{CancelRequest, Code, Record, StateReply, StateRequest, subject};
use service::Environment;
use tokio::time::Instant;

use crate::streams::{self, Config};

/// Time in which every service has noticed that the log is another one: it looks once a second.
const NOTICED_WITHIN: Duration = Duration::from_millis(2_500);
/// Time that one auction may take. bid-processing answers or gives up within 3 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for bid-processing to answer at all, and to rebuild an auction: the services may just be starting.
const SETTLE_WITHIN: Duration = Duration::from_secs(60);
/// Pause before an auction that is not available is asked for again.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Auctions settled at once. bid-processing rebuilds four at once.
const CONCURRENT: usize = 16;

/// The arguments of `backup`.
#[derive(Debug, clap::Args)]
pub struct BackupArguments {
    /// Directory of the backup, which must not hold one: a directory for each stream, as `nats stream backup` makes it
    directory: PathBuf,
    /// Only this stream (repeatable); without it every declared one
    #[arg(long, value_name = "STREAM")]
    stream: Vec<String>,
}

/// The arguments of `restore`.
#[derive(Debug, clap::Args)]
pub struct RestoreArguments {
    /// Directory of the backup
    directory: PathBuf,
    /// Delete this stream, with everything in it, and restore it (repeatable); without it a stream that holds messages
    /// is an error
    #[arg(long, value_name = "STREAM")]
    overwrite: Vec<String>,
    /// Let auctions go on that ran when the backup was made, without the bids that were accepted after it
    #[arg(long)]
    keep_live: bool,
    /// Restore no stream, and do only what must follow: after a restore that broke off, or by the nats CLI
    #[arg(long)]
    finish: bool,
}

pub(crate) async fn back_up(arguments: &BackupArguments, environment: &Environment) -> Result<ExitCode> {
    let bus = Bus::connect(&Config::read(environment)?.nats, "flash-admin backup").await?;
    let archive = ServerArchive::new(&bus);
    let known = bus::stored_streams();
    for name in &arguments.stream {
        ensure!(known.contains(name), "{name} is not a stream of this version: {}", known.join(", "));
    }
    let is_wanted = |name: &&String| arguments.stream.is_empty() || arguments.stream.contains(name);
    for stream in known.iter().filter(is_wanted) {
        let made = archive.back_up(stream, &arguments.directory.join(stream)).await;
        let made = made.with_context(|| format!("failed to back up {stream}"))?;
        println!("{stream}: {} messages up to {}, {} bytes", made.messages, made.last_seq, made.archive_bytes);
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn restore(arguments: &RestoreArguments, environment: &Environment) -> Result<ExitCode> {
    let config = Config::read(environment)?;
    let bus = Bus::connect(&config.nats, "flash-admin restore").await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    if arguments.finish {
        bus::hold_log(&bus, now).await.context("failed to hold the log")?;
    } else {
        restore_streams(arguments, &bus, now).await?;
    }
    let differences = streams::apply(&bus, config.replicas).await?;
    streams::print(&differences, false, "changed");
    tokio::time::sleep(NOTICED_WITHIN).await;
    let failed = settle(&bus, arguments.keep_live).await?;
    if failed > 0 {
        println!("{failed} auctions are not settled and no bid is accepted: repeat the command with --finish");
        return Ok(ExitCode::FAILURE);
    }
    bus::release_log(&bus).await.context("failed to release the log")?;
    tokio::time::sleep(NOTICED_WITHIN).await;
    println!("The restore is finished: auctions can be created, and bids are accepted.");
    Ok(ExitCode::SUCCESS)
}

/// Restores every stream of the backup. Nothing is deleted before it is certain that all of them may be restored.
async fn restore_streams(arguments: &RestoreArguments, bus: &Bus, now: u64) -> Result<()> {
    let archive = ServerArchive::new(bus);
    let in_backup = |name: &String| arguments.directory.join(name).join("backup.json").is_file();
    let streams: Vec<String> = bus::stored_streams().into_iter().filter(in_backup).collect();
    ensure!(!streams.is_empty(), "{} has no backup", arguments.directory.display());
    let overwrite: BTreeSet<&String> = arguments.overwrite.iter().collect();
    let mut existing = Vec::new();
    for name in &streams {
        match archive.messages(name).await? {
            None => {}
            Some(messages) if messages > 0 && !overwrite.contains(name) => {
                bail!("{name} holds {messages} messages: --overwrite {name} deletes them");
            }
            Some(_) => existing.push(name),
        }
    }
    if existing.iter().any(|name| *name == subject::LOG_STREAM) {
        // Held before it goes, so that nothing is decided in the moment when it is there again.
        bus::hold_log(bus, now).await.context("failed to hold the log")?;
    }
    // The services notice that it is held or missing, and decide nothing from then on.
    tokio::time::sleep(NOTICED_WITHIN).await;
    for name in existing {
        archive.delete(name).await.with_context(|| format!("failed to delete {name}"))?;
    }
    for name in &streams {
        let restored = archive.restore(name, &arguments.directory.join(name), now).await;
        let restored = restored.with_context(|| format!("failed to restore {name}"))?;
        println!("{name}: {} messages up to {}", restored.messages, restored.last_seq);
    }
    Ok(())
}

/// Cancels the auctions that are not over, or has them rebuilt. Returns the number of those for which it failed.
async fn settle(bus: &Bus, keep_live: bool) -> Result<usize> {
    let mut last = bus::Log::open(bus).await?.last_of_each().await?;
    let mut running = Vec::new();
    while let Some(logged) = last.next().await? {
        if logged.record.state.outcome.is_none() {
            running.push(logged.record);
        }
    }
    let until = Instant::now() + SETTLE_WITHIN;
    let settled = stream::iter(&running).map(|record| async move {
        match settle_one(bus, record, keep_live, until).await {
            Ok(done) => println!("{}  {done}", record.auction_id),
            Err(error) => {
                println!("{}  failed: {error:#}", record.auction_id);
                return 1;
            }
        }
        0
    });
    let failed: usize = settled.buffer_unordered(CONCURRENT).fold(0, async |sum, failed| sum + failed).await;
    println!("{} auctions were not over, {failed} failed", running.len());
    Ok(failed)
}

async fn settle_one(bus: &Bus, record: &Record, keep_live: bool, until: Instant) -> Result<&'static str> {
    let auction_id = record.auction_id;
    loop {
        let reply: Result<StateReply, bus::RequestError> = if keep_live {
            bus::request(bus, subject::AUCTIONS_STATE, &StateRequest { auction_id }, ANSWER_TIMEOUT).await
        } else {
            let by: UserId = record.state.host_user_id;
            let request = CancelRequest { auction_id, by, reason: Some(CloseReason::Restored.into()) };
            bus::request(bus, subject::AUCTIONS_CANCEL, &request, ANSWER_TIMEOUT).await
        };
        let error = match reply.map(protocol::Reply::into_result) {
            Ok(Ok(_)) => return Ok(if keep_live { "goes on" } else { "cancelled" }),
            // An earlier attempt whose answer was lost.
            Ok(Err(failure)) if failure.code == Code::WrongState => return Ok("is over"),
            Ok(Err(failure)) => anyhow::Error::new(failure),
            Err(error) => anyhow::Error::new(error).context("bid-processing did not answer"),
        };
        if Instant::now() >= until {
            return Err(error);
        }
        tokio::time::sleep(TRY_AGAIN_AFTER).await;
    }
}
