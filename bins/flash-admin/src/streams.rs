//! `flash-admin streams`: compares streams, consumers and the bucket of leases with their files, and repairs them.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bus::{Deviation, Difference};
use serde_json::json;
use service::{Environment, Mistakes, Reader};

/// The arguments of `streams`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Streams,
}

#[derive(Debug, clap::Subcommand)]
enum Streams {
    /// Show every difference between the files of this version and the server; exit code 2 if `apply` would change
    /// something
    Diff {
        /// Print JSON, one difference a line
        #[arg(long)]
        json: bool,
    },
    /// Create what is missing and change what differs, except for what could lose data
    Apply {
        /// Also lower limits and replicas of this stream, and drop subjects that its file does not name (repeatable)
        #[arg(long, value_name = "STREAM")]
        allow_shrink: Vec<String>,
        /// Print JSON, one difference a line
        #[arg(long)]
        json: bool,
    },
}

/// Exit code of `diff` if `apply` would change something.
const EXIT_DIFFERENT: u8 = 2;

/// The settings of `streams`.
#[derive(Clone)]
pub struct Config {
    /// Where NATS is.
    pub nats: bus::Settings,
    /// Copies of each stream.
    pub replicas: usize,
}

impl Config {
    /// Reads `NATS_URL`, `NATS_CREDS` and `STREAM_REPLICAS`.
    ///
    /// # Errors
    /// Every mistake in the settings at once.
    pub fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let (replicas, nats) = (read_replicas(&mut reader), reader.part(bus::Settings::read));
        reader.finish(Self { nats, replicas })
    }
}

/// Reads `STREAM_REPLICAS`.
pub(crate) fn read_replicas(reader: &mut Reader<'_>) -> usize {
    reader.read("STREAM_REPLICAS", 1, "1, 3 or 5", |text| {
        text.parse().ok().filter(|replicas| [1, 3, 5].contains(replicas))
    })
}

pub(crate) async fn run(arguments: &Arguments, environment: &Environment) -> Result<ExitCode> {
    let config = Config::read(environment)?;
    let bus = bus::Bus::connect(&config.nats, "flash-admin streams").await?;
    match &arguments.command {
        Streams::Diff { json } => {
            let found = bus::differences(&bus.jetstream, config.replicas, &BTreeSet::new()).await;
            let found = found.map_err(anyhow::Error::from_boxed)?;
            print(&found, Mode::Diff, *json);
            let is_same = found.iter().all(Difference::is_kept);
            Ok(if is_same { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DIFFERENT) })
        }
        Streams::Apply { allow_shrink, json } => {
            let known = bus::stored_streams();
            for name in allow_shrink {
                ensure!(known.contains(name), "{name} is not a stream of this version: {}", known.join(", "));
            }
            let shrink = allow_shrink.iter().cloned().collect();
            let found = bus::apply(&bus.jetstream, config.replicas, &shrink).await;
            print(&found.map_err(anyhow::Error::from_boxed)?, Mode::Apply, *json);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Whether differences were repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Diff,
    Apply,
}

/// Prints each difference and what is done about it.
pub(crate) fn print(found: &[Difference], mode: Mode, as_json: bool) {
    let change = if mode == Mode::Diff { "would be changed" } else { "changed" };
    for difference in found {
        if as_json {
            println!("{}", as_value(difference));
        } else {
            let done = match &difference.deviation {
                Deviation::Missing if mode == Mode::Apply => "created".to_owned(),
                _ if difference.is_kept() => match difference.what.strip_prefix("stream ") {
                    Some(stream) => format!("kept; --allow-shrink {stream} permits what could lose data"),
                    None => "kept".to_owned(),
                },
                _ => change.to_owned(),
            };
            println!("{difference} ({done})");
        }
    }
    if !as_json {
        let changes = found.iter().filter(|difference| !difference.is_kept()).count();
        println!("{} differences, {changes} {change}", found.len());
    }
}

fn as_value(difference: &Difference) -> serde_json::Value {
    let what = &difference.what;
    match &difference.deviation {
        Deviation::Missing => json!({ "what": what, "missing": true, "kept": false }),
        Deviation::Field(field) => json!({
            "what": what, "field": field.field, "declared": field.declared, "actual": field.actual,
            "kept": difference.is_kept(),
        }),
    }
}

/// Whether a failed declaration may succeed a moment later: no server answered, or no leader is elected.
pub(crate) fn is_temporary(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<bus::ApiError>()).any(bus::ApiError::is_temporary)
}

/// Applies the declarations of this version without permission to shrink. Returns the differences that it found.
pub(crate) async fn apply(bus: &bus::Bus, replicas: usize) -> Result<Vec<Difference>> {
    let applied = bus::apply(&bus.jetstream, replicas, &BTreeSet::new()).await;
    applied.map_err(anyhow::Error::from_boxed).context("failed to declare the streams")
}
