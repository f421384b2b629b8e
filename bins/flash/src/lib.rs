//! flash: the developer's tool. Starts the whole system on one machine, tests it, breaks it, measures it, and
//! judges what happened.
//!
//! **Owns** how the services and their servers are put together on a developer's machine. It is the only crate
//! that knows all services.
//!
//! **Never** is part of the system: a service runs the same `run(config, stop)` without it, and the production
//! image does not contain it. The operator's commands live in `flash-admin`; this tool runs them on the running
//! stack.
//!
//! **Invariants**
//! - Everything that `up` starts ends with it: in order at Ctrl-C, by the kernel if it is killed.
//! - All its files lie under `.flash/` of the checkout, except for PostgreSQL's data where the user that
//!   PostgreSQL runs as cannot enter the checkout; `up` then prints the directory.

mod bench;
mod chaos;
pub mod checkout;
mod commands;
mod demo;
mod simulate;
pub mod stack;
mod terminal;
mod top;
mod watch;

use std::process::ExitCode;

pub use commands::issuer::Config as IssuerConfig;
use commands::{admin, check, down, fuzz, issuer, manual, test, token, up};
use flash_admin::{archive, backup, dlq, limit, rebuild, streams};
pub use stack::{Issuer, Options, Ports, Stack};

/// Exit code when the user must act first: install a program, free a port, or give numbers that are possible.
const EXIT_ACTION_NEEDED: u8 = 2;

/// Live Flash Auction on this machine
#[derive(Debug, clap::Parser)]
#[command(name = "cargo flash", version)]
pub enum Command {
    /// Install missing programs, start everything, run until Ctrl-C
    Up(up::Arguments),
    /// Stop a stack that was left behind
    Down,
    /// Print a development token for each name
    Token(token::Arguments),
    /// Let bots bid in a real auction on the running stack, then compare all stored results
    Demo(demo::Arguments),
    /// Watch a live auction on the terminal, until q
    Watch(watch::Arguments),
    /// Show all live auctions on the terminal, with rates, lag and trouble, until q
    Top(top::Arguments),
    /// Install missing programs and run the tests on real servers
    Test(test::Arguments),
    /// Run benchmarks next to the machine's raw limits
    Bench(bench::Arguments),
    /// Run a fault-injection test on a private stack and check every invariant
    Chaos(chaos::Arguments),
    /// Simulate the services in a failing environment, one run for each seed, and check every invariant
    Simulate(simulate::Arguments),
    /// Try parsers of input from outside with mutated inputs
    Fuzz(fuzz::Arguments),
    /// Check the recorded history of a run against every invariant
    Check(check::Arguments),
    /// Run `flash-admin migrate` (on the running stack unless NATS_URL is set)
    Migrate,
    /// Run `flash-admin streams` (on the running stack unless NATS_URL is set)
    Streams(streams::Arguments),
    /// Run `flash-admin backup` (on the running stack unless NATS_URL is set)
    Backup(backup::BackupArguments),
    /// Run `flash-admin restore` (on the running stack unless NATS_URL is set)
    Restore(backup::RestoreArguments),
    /// Run `flash-admin dlq` (on the running stack unless NATS_URL is set)
    Dlq(dlq::Arguments),
    /// Run `flash-admin limit` (on the running stack unless NATS_URL is set)
    Limit(limit::Arguments),
    /// Run `flash-admin log` (on the running stack unless NATS_URL is set)
    Log(archive::Arguments),
    /// Run `flash-admin rebuild` (on the running stack unless NATS_URL is set)
    Rebuild(rebuild::Arguments),
    /// Serve the development key and its sign-in, and prepare the AWS emulator, for containers on one machine
    Issuer(issuer::Arguments),
    /// Print the completions of `flash` and `flash-admin` for a shell
    Completions(manual::Completions),
    /// Write the manual pages of `flash` and `flash-admin`
    Man(manual::Pages),
    /// Run one service with settings from the environment, as its own binary does
    #[command(hide = true)]
    Service {
        /// The service to run
        name: stack::Name,
    },
}

/// Reads the settings of every service and of `flash-admin`, right or wrong:
/// [`service::Environment::asked`] then names them.
pub fn read_all_settings(environment: &service::Environment) {
    for name in stack::Name::ALL {
        drop(name.read_settings(environment));
    }
    flash_admin::read_all_settings(environment);
}

/// Runs a command to its end.
#[must_use]
pub fn run(command: Command) -> ExitCode {
    let result = match command {
        Command::Up(arguments) => up::run(&arguments),
        Command::Down => down::run(),
        Command::Token(arguments) => token::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Watch(arguments) => watch::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Chaos(arguments) => chaos::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Migrate => admin::run(&flash_admin::Command::Migrate),
        Command::Streams(arguments) => admin::run(&flash_admin::Command::Streams(arguments)),
        Command::Backup(arguments) => admin::run(&flash_admin::Command::Backup(arguments)),
        Command::Restore(arguments) => admin::run(&flash_admin::Command::Restore(arguments)),
        Command::Dlq(arguments) => admin::run(&flash_admin::Command::Dlq(arguments)),
        Command::Limit(arguments) => admin::run(&flash_admin::Command::Limit(arguments)),
        Command::Log(arguments) => admin::run(&flash_admin::Command::Log(arguments)),
        Command::Rebuild(arguments) => admin::run(&flash_admin::Command::Rebuild(arguments)),
        Command::Issuer(arguments) => issuer::run(&arguments),
        Command::Completions(arguments) => manual::completions(&arguments),
        Command::Man(arguments) => manual::pages(&arguments),
        Command::Service { name } => return name.main(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("flash: {error:#}");
            if error.is::<service::Mistakes>() {
                return ExitCode::from(flash_admin::EXIT_USAGE);
            }
            let action_needed = error.is::<testkit::install::Missing>()
                || error.is::<stack::PortTaken>()
                || error.is::<bench::Impossible>();
            if action_needed { ExitCode::from(EXIT_ACTION_NEEDED) } else { ExitCode::FAILURE }
        }
    }
}
