//! flash: the tool. Starts the whole system on one machine, tests it, makes tokens.
//!
//! **Owns** how everything is put together on a developer's or an operator's machine; it alone knows
//! all services.
//!
//! **Never** is part of the system: a service runs the same `run(config, stop)` without it.
//!
//! **Invariants**
//! - What `up` starts ends with it, in order at Ctrl-C and all the same when it is killed.
//! - Everything lies under `.flash/` of the checkout (but for PostgreSQL's data, where root's
//!   PostgreSQL could not go there: `up` says where).

mod archive;
mod bench;
mod chaos;
pub mod check;
mod crowd;
mod demo;
mod down;
pub mod dynamodb_stub;
mod issuer;
mod migrate;
mod prepare;
mod rebuild;
mod services;
mod simulate;
pub mod stack;
mod stack_file;
mod test;
mod token;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

pub use issuer::Issuer;
pub use stack::{Options, Ports, Stack};

/// Nothing can go on before somebody installs something, or frees a port.
const EXIT_NEEDS_SOMEBODY: u8 = 2;
/// Wrong settings (`EX_USAGE`), as the services say it.
const EXIT_USAGE: u8 = 64;

/// Live Flash Auction on this machine.
#[derive(Debug, clap::Parser)]
#[command(name = "cargo flash", version)]
pub enum Command {
    /// Install what is missing, start everything, run until Ctrl-C
    Up(up::Arguments),
    /// Stop a stack that was left behind
    Down,
    /// Print a development token for each name
    Token(token::Arguments),
    /// Let bots bid against each other in a real auction of the running stack, and compare the books
    Demo(demo::Arguments),
    /// Bring back every running auction that Redis has lost, from the log
    Rebuild(rebuild::Arguments),
    /// Keep the log from growing
    Log(archive::Arguments),
    /// Break a system of its own while it is bid in, then judge whether every promise was kept
    Chaos(chaos::Arguments),
    /// Judge the history of a run: was everything that was promised kept?
    Check(check::Arguments),
    /// Measure what this machine carries, beside its ceiling
    Bench(bench::Arguments),
    /// Play the decisions of bid-processing in a world that fails, one run a seed, and judge each
    Simulate(simulate::Arguments),
    /// Install what is missing and run the tests on real servers
    Test(test::Arguments),
    /// Bring tables, streams and consumers to this version (settings from the environment), and end
    Migrate,
    /// Sign tokens for containers on one machine: serve the development key, fill the AWS emulator
    Issuer(issuer::Arguments),
    /// Run one service with settings from the environment, as its own binary does
    #[command(hide = true)]
    Service { name: services::Name },
}

/// Reads the settings of every service from here, right or wrong: [`service::Environment::asked`] then
/// names them.
pub fn read_all_settings(environment: &service::Environment) {
    for name in services::Name::ALL {
        drop(name.read_settings(environment));
    }
    drop(migrate::Config::read(environment));
    drop(archive::Config::read(environment));
}

/// Runs a command to its end.
#[must_use]
pub fn run(command: Command) -> ExitCode {
    let result = match command {
        Command::Up(arguments) => up::run(&arguments),
        Command::Down => down::run(),
        Command::Token(arguments) => token::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Rebuild(arguments) => rebuild::run(&arguments),
        Command::Log(arguments) => archive::run(&arguments),
        Command::Chaos(arguments) => chaos::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Migrate => migrate::run(),
        Command::Issuer(arguments) => issuer::run(&arguments),
        Command::Service { name } => return name.main(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("flash: {error:#}");
            if error.is::<service::Mistakes>() {
                return ExitCode::from(EXIT_USAGE);
            }
            let needs_somebody = error.is::<testkit::install::Missing>() || error.is::<stack::PortTaken>();
            if needs_somebody { ExitCode::from(EXIT_NEEDS_SOMEBODY) } else { ExitCode::FAILURE }
        }
    }
}

/// The root of the checkout. `cargo run` names the package; the tool itself knows where it was built.
#[must_use]
pub fn root() -> PathBuf {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.ancestors().nth(2).map_or(package.clone(), PathBuf::from)
}

/// `.flash/` of the checkout, or `FLASH_DIRECTORY` where there is none (in a container).
#[must_use]
pub fn directory() -> PathBuf {
    std::env::var_os("FLASH_DIRECTORY").map_or_else(|| root().join(".flash"), PathBuf::from)
}
