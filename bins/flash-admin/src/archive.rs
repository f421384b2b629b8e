//! `flash-admin log archive`: moves auctions that ended long ago out of the log, which is bounded.
//!
//! An auction is archived only after every consumer has acknowledged its records and Redis has expired its
//! keys, so that no service reads its log any more. The records are written to one file of compressed JSON
//! lines, read back and compared, and only then purged. A run that dies half-way leaves either the log as it
//! was, or a file that the next run writes again.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use domain::AuctionId;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use hotstate::Hotstate;
use service::{Environment, Mistakes, Reader};
use sha1::{Digest, Sha1};

/// The arguments of `log`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Log,
}

#[derive(Debug, clap::Subcommand)]
enum Log {
    /// Move auctions that ended long ago from the log into files
    Archive {
        /// Directory of the files, one for each auction: `<auction id>.jsonl.gz`
        #[arg(long)]
        directory: PathBuf,
        /// Days since the end, in place of `LOG_KEEP_DAYS`; below 2 only if no client asks for ended auctions
        #[arg(long)]
        keep_days: Option<u32>,
    },
}

/// Days that an ended auction stays in the log by default.
const DEFAULT_KEEP_DAYS: u32 = 30;
/// Fewest days that can be configured. For 24 hours after its end an auction is restored into Redis from the
/// log when a client asks for it.
const MIN_KEEP_DAYS: u32 = 2;
/// Milliseconds of a day.
const MS_A_DAY: u64 = 24 * 60 * 60 * 1000;

/// The settings of `log archive`.
#[derive(Clone)]
pub struct Config {
    /// Where NATS is.
    pub nats: bus::Settings,
    /// Where Redis is.
    pub redis: hotstate::Settings,
    /// Days that an ended auction stays in the log.
    pub keep_days: u32,
}

impl Config {
    /// Reads `NATS_URL`, `NATS_CREDS`, `REDIS_URL` and `LOG_KEEP_DAYS`.
    ///
    /// # Errors
    /// Every mistake in the settings at once.
    pub fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let keep_days = reader.read("LOG_KEEP_DAYS", DEFAULT_KEEP_DAYS, "a whole number of days from 2 on", |text| {
            text.parse().ok().filter(|days| *days >= MIN_KEEP_DAYS)
        });
        let (nats, redis) = (reader.part(bus::Settings::read), reader.part(hotstate::Settings::read));
        reader.finish(Self { nats, redis, keep_days })
    }
}

pub(crate) async fn run(arguments: &Arguments, environment: &Environment) -> Result<ExitCode> {
    let Log::Archive { directory, keep_days } = &arguments.command;
    let config = Config::read(environment)?;
    let keep_days = keep_days.unwrap_or(config.keep_days);
    let bus = bus::Bus::connect(&config.nats, "flash-admin log-archive").await?;
    let (log, hotstate) = (bus::Log::open(&bus).await?, Hotstate::connect(&config.redis).await?);
    let now = hotstate.time().await?.0;
    // Read before the records: a record appended later does not count as acknowledged.
    let acknowledged = log.passed_by_all().await?;
    let (mut archived, mut kept) = (0, 0);
    let mut every_last = log.last_of_each().await?;
    while let Some(last) = every_last.next().await? {
        let ended_at = last.record.state.ended_at.filter(|_| last.record.state.outcome.is_some());
        if ended_at.is_none_or(|ended_at| ended_at + u64::from(keep_days) * MS_A_DAY > now) {
            continue;
        }
        let auction_id = last.record.auction_id;
        let reason = if last.stream_seq > acknowledged {
            Some("a consumer has not acknowledged it yet")
        } else if hotstate.view(auction_id).await?.is_some() {
            Some("Redis keeps it for 24 hours after the end")
        } else {
            None
        };
        match reason {
            Some(reason) => println!("{auction_id}  kept: {reason}"),
            None => {
                let file = directory.join(format!("{auction_id}.jsonl.gz"));
                let records = write(&log, auction_id, last.stream_seq, &file).await?;
                log.purge(auction_id, last.stream_seq).await?;
                println!("{auction_id}  {records} records in {}", file.display());
            }
        }
        kept += u64::from(reason.is_some());
        archived += u64::from(reason.is_none());
    }
    println!("{archived} archived, {kept} kept for later");
    Ok(ExitCode::SUCCESS)
}

/// Writes an auction's records as they are in the stream, and checks that the file can be read back. Returns the number
/// of records. Neither the log nor the file is in memory as a whole: an auction may have a million records.
async fn write(log: &bus::Log, auction_id: AuctionId, last: u64, file: &Path) -> Result<usize> {
    let (file, new) = (file.to_owned(), file.with_extension("new"));
    let directory = file.parent().context("a directory")?.to_owned();
    fs::create_dir_all(&directory)?;
    let mut written = Checksum::default();
    let mut encoder = GzEncoder::new(BufWriter::new(File::create(&new)?), Compression::default());
    let (mut reading, mut records, mut read_up_to) = (log.stored(auction_id, 0).await?, 0, 0);
    while let Some((stream_seq, record)) = reading.next().await? {
        let record = std::str::from_utf8(&record).with_context(|| format!("record {stream_seq} is not text"))?;
        serde_json::from_str::<protocol::Record>(record).with_context(|| format!("record {stream_seq}"))?;
        // The format that `flash check` reads.
        let line = format!("{{\"kind\":\"record\",\"stream_seq\":{stream_seq},\"record\":{record}}}\n");
        written.add(line.as_bytes());
        // Blocks this task for the time of a write to a file: nothing else runs in this process.
        encoder.write_all(line.as_bytes())?;
        (records, read_up_to) = (records + 1, stream_seq);
    }
    ensure!(read_up_to == last, "{auction_id} got a record while it was archived");
    encoder.finish()?.into_inner()?.sync_all()?;
    let read_back = Checksum::of(GzDecoder::new(File::open(&new)?))?;
    ensure!(read_back == written, "{} differs from what was written to it", new.display());
    fs::rename(&new, &file)?;
    // The name of the file must be on the disk as well before the log is purged.
    File::open(directory)?.sync_all()?;
    Ok(records)
}

/// The length and the SHA-1 of the bytes that went by.
#[derive(Default)]
struct Checksum {
    bytes: u64,
    sha1: Sha1,
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.sha1.update(bytes);
    }

    fn of(mut reader: impl Read) -> Result<Self> {
        let (mut checksum, mut buffer) = (Self::default(), vec![0; 64 * 1024]);
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(checksum),
                read => checksum.add(&buffer[..read]),
            }
        }
    }
}

impl PartialEq for Checksum {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.sha1.clone().finalize() == other.sha1.clone().finalize()
    }
}
