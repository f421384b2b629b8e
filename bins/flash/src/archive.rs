//! `flash log archive`: takes auctions that ended long ago out of the log, which is bounded.
//!
//! Only what every consumer has passed and Redis has forgotten, so that nobody reads it any more. An
//! auction's records are written as one file of compressed JSON lines, read back and compared, and only
//! then purged. What dies half-way leaves the log as it was, or a file that the next run writes again.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use domain::AuctionId;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use hotstate::Hotstate;
use service::{Environment, Mistakes, Reader};

use crate::stack_file;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Log,
}

#[derive(Debug, clap::Subcommand)]
enum Log {
    /// Write auctions that ended long ago into files, and take them out of the log
    Archive {
        /// Where the files go: one an auction, `<auction id>.jsonl.gz`
        #[arg(long)]
        directory: PathBuf,
        /// Days since the end, in place of `LOG_KEEP_DAYS`; below 2 only where nobody asks for what has ended
        #[arg(long)]
        keep_days: Option<u32>,
    },
}

const DEFAULT_KEEP_DAYS: u32 = 30;
/// For 24 hours after its end an auction that is asked for is brought back into Redis from the log.
const LEAST_KEEP_DAYS: u32 = 2;
const MS_A_DAY: u64 = 24 * 60 * 60 * 1000;

/// Without `NATS_URL` it is the running stack's log.
pub struct Config {
    nats: bus::Settings,
    redis_url: String,
    keep_days: u32,
}

impl Config {
    /// # Errors
    /// Every mistake in the settings at once.
    pub fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let keep_days = reader.read("LOG_KEEP_DAYS", DEFAULT_KEEP_DAYS, "a whole number of days from 2 on", |text| {
            text.parse().ok().filter(|days| *days >= LEAST_KEEP_DAYS)
        });
        let (nats, redis_url) = (reader.part(bus::Settings::read), reader.required("REDIS_URL"));
        reader.finish(Self { nats, redis_url, keep_days })
    }

    fn of_the_stack() -> Result<Self> {
        let stack = stack_file::read(&crate::directory())?;
        let redis_url = stack_file::text(&stack["redis"]["url"])?;
        Ok(Self { nats: stack_file::operator(&stack)?, redis_url, keep_days: DEFAULT_KEEP_DAYS })
    }
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Log::Archive { directory, keep_days } = &arguments.command;
    let environment = Environment::of_process();
    let in_production = Reader::new(&environment).optional("NATS_URL").is_some();
    let config = if in_production { Config::read(&environment)? } else { Config::of_the_stack()? };
    let keep_days = keep_days.unwrap_or(config.keep_days);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(Box::pin(archive(&config, directory, keep_days)))
}

async fn archive(config: &Config, directory: &Path, keep_days: u32) -> Result<ExitCode> {
    let bus = bus::Bus::connect(&config.nats, "flash log archive").await?;
    let (log, hotstate) = (bus::Log::open(&bus).await?, Hotstate::connect(&config.redis_url).await?);
    let now = hotstate.time().await?.0;
    // Before the records are read: what comes later is not passed.
    let passed = log.passed_by_all().await?;
    let (mut archived, mut kept) = (0, 0);
    for last in log.last_of_each().await? {
        let ended_at = last.record.state.ended_at.filter(|_| last.record.state.outcome.is_some());
        if ended_at.is_none_or(|ended_at| ended_at + u64::from(keep_days) * MS_A_DAY > now) {
            continue;
        }
        let auction_id = last.record.auction_id;
        let why_not = if last.stream_seq > passed {
            Some("not every consumer has read it")
        } else if hotstate.view(auction_id).await?.is_some() {
            Some("Redis still knows it, for 24 hours after the end")
        } else {
            None
        };
        match why_not {
            Some(reason) => println!("{auction_id}  kept: {reason}"),
            None => {
                let file = directory.join(format!("{auction_id}.jsonl.gz"));
                let records = write(&log, auction_id, last.stream_seq, &file).await?;
                log.purge(auction_id, last.stream_seq).await?;
                println!("{auction_id}  {records} records in {}", file.display());
            }
        }
        kept += u64::from(why_not.is_some());
        archived += u64::from(why_not.is_none());
    }
    println!("{archived} archived, {kept} kept for later");
    Ok(ExitCode::SUCCESS)
}

/// Writes an auction's records as they are in the stream, and proves that they can be read again.
async fn write(log: &bus::Log, auction_id: AuctionId, last: u64, file: &Path) -> Result<usize> {
    let stored = log.stored(auction_id).await?;
    ensure!(stored.last().is_some_and(|(stream_seq, _)| *stream_seq == last), "{auction_id} has changed meanwhile");
    let mut lines = Vec::new();
    for (stream_seq, record) in &stored {
        let record = std::str::from_utf8(record).with_context(|| format!("record {stream_seq} is not text"))?;
        serde_json::from_str::<protocol::Record>(record).with_context(|| format!("record {stream_seq}"))?;
        // As `flash check` reads it.
        writeln!(lines, "{{\"kind\":\"record\",\"stream_seq\":{stream_seq},\"record\":{record}}}")?;
    }
    let (file, new) = (file.to_owned(), file.with_extension("new"));
    tokio::task::spawn_blocking(move || {
        fs::create_dir_all(file.parent().context("a directory")?)?;
        let mut encoder = GzEncoder::new(File::create(&new)?, Compression::default());
        encoder.write_all(&lines)?;
        encoder.finish()?.sync_all()?;
        let mut read = Vec::new();
        GzDecoder::new(File::open(&new)?).read_to_end(&mut read)?;
        ensure!(read == lines, "{} does not hold what was written", new.display());
        fs::rename(&new, &file)?;
        // The name must be on the disk as well before the log forgets.
        File::open(file.parent().context("a directory")?)?.sync_all()?;
        Ok(())
    })
    .await??;
    Ok(stored.len())
}
