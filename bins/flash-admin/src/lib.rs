//! flash-admin: the operator's tool. Migrates a deployment, repairs its streams, backs up and archives its log, rebuilds
//! its auctions, puts dead letters back, limits people.
//!
//! **Owns** the operations that production needs in addition to the services: `migrate` before a version is deployed,
//! `streams` after one was changed by hand, `log archive` once a night, `backup` and `restore`, `rebuild` after Redis has
//! lost data, `dlq` for messages that could not be handled, `limit` for people, `ready` for health checks. Settings come
//! from the environment alone, under the names that the services use.
//!
//! **Never** decides anything about an auction, knows a running development stack, or starts a server. The
//! developer's tool `flash` builds an [`Environment`] for the running stack and calls [`run`].
//!
//! **Invariants**
//! - Every command can be repeated: a run that died half-way is finished by the next one.
//! - Nothing that could lose data is done without an argument that names it.
//! - Exit codes are those of the services: 0 done, 1 failed, 64 wrong settings.
//!
//! Tests: `bins/flash/tests/system/{admin,archive,rebuild,commands,standing_leads}.rs`.

pub mod archive;
pub mod backup;
pub mod dlq;
pub mod limit;
pub mod migrate;
pub mod ready;
pub mod rebuild;
pub mod streams;

use std::process::ExitCode;

use anyhow::Result;
use service::{Environment, Mistakes};

/// Exit code for wrong settings (`EX_USAGE`), as the services use it.
pub const EXIT_USAGE: u8 = 64;

/// Operate a Live Flash Auction deployment (settings from the environment).
#[derive(Debug, clap::Parser)]
#[command(name = "flash-admin", version)]
pub enum Command {
    /// Bring tables, streams and consumers to this version, and exit
    Migrate,
    /// Compare streams, consumers and the bucket of leases with this version, and repair them
    Streams(streams::Arguments),
    /// Maintain the log of auctions
    Log(archive::Arguments),
    /// Back up the streams into a directory
    Backup(backup::BackupArguments),
    /// Restore the streams from a backup, and cancel the auctions that ran when it was made
    Restore(backup::RestoreArguments),
    /// Restore one running auction that Redis has lost, or all, from the log
    Rebuild(rebuild::Arguments),
    /// List, show and put back messages that could not be handled
    Dlq(dlq::Arguments),
    /// Show or set what a person may lead with at once, in all auctions together
    Limit(limit::Arguments),
    /// Ask a program whether it is ready: exit code 0 if it answers 200, 1 otherwise
    Ready(ready::Arguments),
}

/// Reads the settings of every command, right or wrong: [`Environment::asked`] then names them.
pub fn read_all_settings(environment: &Environment) {
    drop(migrate::Config::read(environment));
    drop(archive::Config::read(environment));
    drop(rebuild::Config::read(environment));
    drop(streams::Config::read(environment));
    drop(dlq::NatsConfig::read(environment));
    drop(dlq::SqsConfig::read(environment));
    drop(limit::Config::read(environment));
}

/// Runs a command to its end, with these settings.
///
/// # Errors
/// [`Mistakes`] if the settings are wrong; otherwise what the command failed to do.
pub fn run(command: &Command, environment: &Environment) -> Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        match command {
            Command::Migrate => Box::pin(migrate::run(environment)).await,
            Command::Streams(arguments) => Box::pin(streams::run(arguments, environment)).await,
            Command::Backup(arguments) => Box::pin(backup::back_up(arguments, environment)).await,
            Command::Restore(arguments) => Box::pin(backup::restore(arguments, environment)).await,
            Command::Dlq(arguments) => Box::pin(dlq::run(arguments, environment)).await,
            Command::Limit(arguments) => Box::pin(limit::run(arguments, environment)).await,
            Command::Ready(arguments) => Box::pin(ready::run(arguments)).await,
            Command::Log(arguments) => Box::pin(archive::run(arguments, environment)).await,
            Command::Rebuild(arguments) => Box::pin(rebuild::run(arguments, environment)).await,
        }
    })
}

/// The whole of `main`: runs a command with the settings of the process and prints what failed.
#[must_use]
pub fn main(command: &Command) -> ExitCode {
    run(command, &Environment::of_process()).unwrap_or_else(|error| {
        if let Some(mistakes) = error.downcast_ref::<Mistakes>() {
            eprintln!("flash-admin: the settings are wrong:\n{mistakes}");
            return ExitCode::from(EXIT_USAGE);
        }
        eprintln!("flash-admin: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Command {
        clap::Parser::try_parse_from(["flash-admin"].iter().chain(arguments)).expect("a command")
    }

    #[test]
    fn wrong_settings_are_reported_before_anything_is_reached() {
        let missing = |arguments: &[&str]| {
            let error = run(&parse(arguments), &Environment::default()).expect_err("no settings");
            error.downcast::<Mistakes>().expect("mistakes").0
        };
        assert_eq!(missing(&["migrate"]), ["DATABASE_URL must be set", "NATS_URL must be set"]);
        assert_eq!(
            missing(&["log", "archive", "--directory", "/tmp"]),
            ["NATS_URL must be set", "REDIS_URL must be set"]
        );
        for arguments in [
            &["rebuild"][..],
            &["rebuild", "--all"],
            &["streams", "diff"],
            &["streams", "apply", "--allow-shrink", "AUCTION_LOG"],
            &["backup", "directory"],
            &["restore", "directory", "--keep-live"],
            &["dlq", "list", "nats", "--json"],
            &["dlq", "redrive", "nats", "--all"],
            &["limit", "--user", "0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e11", "--amount", "5000"],
        ] {
            assert_eq!(missing(arguments), ["NATS_URL must be set"], "{arguments:?}");
        }
        assert_eq!(
            missing(&["dlq", "show", "sqs", "an-id"]),
            ["AWS_REGION must be set", "SQS_NOTIFICATION_QUEUE_URL must be set"]
        );
    }

    #[test]
    fn stream_replicas_are_1_3_or_5_and_days_at_least_2() {
        let mut environment = Environment::default();
        for name in ["DATABASE_URL", "NATS_URL", "REDIS_URL"] {
            environment.set(name, "localhost");
        }
        environment.set("STREAM_REPLICAS", "2");
        environment.set("LOG_KEEP_DAYS", "1");
        let wrong = migrate::Config::read(&environment).map(drop).expect_err("a mistake");
        assert_eq!(wrong.0, ["STREAM_REPLICAS must be 1, 3 or 5"]);
        let wrong = archive::Config::read(&environment).map(drop).expect_err("a mistake");
        assert_eq!(wrong.0, ["LOG_KEEP_DAYS must be a whole number of days from 2 on"]);
    }
}
