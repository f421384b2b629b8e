//! `cargo flash test`: the test suite on real servers.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use testkit::install::Programs;
use testkit::scratch::Scratch;
use testkit::{Servers, Topology};

use crate::checkout;

/// Lines about failed tests that are printed a second time.
const MAX_ERROR_LINES: usize = 500;

/// The arguments of `test`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Also run the tests that take minutes
    #[arg(long)]
    long: bool,
    /// Give every stack of the tests TLS: NATS, Redis, PostgreSQL and the services
    #[arg(long)]
    tls: bool,
    /// Run only tests whose name contains this text
    filter: Option<String>,
}

/// Installs missing programs, builds and runs the tests.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (tools, say) = (checkout::directory(), |step: &str| eprintln!("flash: {step} …"));
    let programs = testkit::install::ensure(&tools, &say)?;
    testkit::install::ensure_node(&tools, &say)?;
    testkit::install::ensure_python_clients(&tools, &say)?;
    testkit::install::ensure_chromium(&say)?;
    let built = cargo(arguments).arg("--no-run").status().context("failed to start cargo")?;
    if !built.success() {
        return Ok(ExitCode::FAILURE);
    }
    if arguments.filter.is_none() {
        // After the build, which needs most of the disk.
        start_servers_once(&programs).context("no test of the whole system can pass here: its servers do not start")?;
    }
    let mut child = cargo(arguments).stdout(Stdio::piped()).spawn().context("failed to start cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut results = Results::default();
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        results.note(&line);
    }
    let status = child.wait()?;
    let Results { passed, failed, errors, .. } = results;
    // Once more at the end: the output of hundreds of other tests may follow the errors.
    errors.iter().for_each(|line| println!("{line}"));
    // cargo prints a summary of each test binary; this line adds them up.
    println!("\n{passed} passed, {failed} failed");
    let ok = status.success() && failed == 0 && passed > 0;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `cargo test` with the tests of these arguments.
fn cargo(arguments: &Arguments) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(checkout::root()).args([
        "test",
        "--profile",
        "fast",
        "--workspace",
        "--lib",
        "--bins",
        "--tests",
        "--no-fail-fast",
    ]);
    if arguments.long {
        cargo.args(["--features", "flash/long"]);
    }
    cargo.args(&arguments.filter);
    if arguments.tls {
        cargo.env(testkit::TLS_VARIABLE, "1");
    }
    // The error of a test says what failed; a backtrace of forty frames would hide it.
    cargo.env("RUST_LIB_BACKTRACE", "0");
    // `cargo run` sets variables about the package of this tool. Build scripts that read them (that of ring) would
    // run again, and half of the workspace would be compiled a second time.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_CRATE_NAME" {
            cargo.env_remove(name.as_ref());
        }
    }
    cargo
}

/// Starts and stops the servers of one stack. If they do not start, one error says why instead of hundreds of tests.
fn start_servers_once(programs: &Programs) -> Result<()> {
    let scratch = Scratch::new("servers")?;
    let servers = Servers::start(programs, scratch.path(), Topology::default());
    tokio::runtime::Runtime::new()?.block_on(servers)?.stop();
    scratch.remove();
    Ok(())
}

/// The results in the output of several test binaries.
#[derive(Default)]
struct Results {
    passed: u64,
    failed: u64,
    /// Lines about failed tests, at most [`MAX_ERROR_LINES`].
    errors: Vec<String>,
    is_about_failures: bool,
}

impl Results {
    fn note(&mut self, line: &str) {
        if let Some((passed, failed)) = summary(line) {
            self.passed += passed;
            self.failed += failed;
            self.is_about_failures = false;
        }
        self.is_about_failures |= line == "failures:";
        if self.is_about_failures && self.errors.len() < MAX_ERROR_LINES {
            self.errors.push(line.to_owned());
        }
    }
}

/// The numbers of passed and failed tests in `test result: ok. 3 passed; 0 failed; …`.
fn summary(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?;
    let number =
        |word: &str| rest.split([';', '.']).find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok());
    Some((number("passed")?, number("failed")?))
}

#[cfg(test)]
mod tests {
    use super::{MAX_ERROR_LINES, Results};

    #[test]
    fn errors_of_failed_tests_are_kept_and_results_added_up() {
        let output = "test one ... FAILED\n\nfailures:\n\n---- one stdout ----\nError: too late\n\nfailures:\n    one\n
test result: FAILED. 1 passed; 1 failed; 0 ignored\ntest two ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored";
        let mut results = Results::default();
        output.lines().for_each(|line| results.note(line));
        assert_eq!((results.passed, results.failed), (3, 1));
        let errors = results.errors.join("\n");
        assert!(errors.starts_with("failures:") && errors.contains("Error: too late"), "{errors}");
        assert!(!errors.contains("test "), "only what is about failures: {errors}");
        std::iter::once("failures:").chain(std::iter::repeat_n("Error", 1_000)).for_each(|line| results.note(line));
        assert_eq!(results.errors.len(), MAX_ERROR_LINES);
    }

    #[test]
    fn summary_line_is_parsed() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.31s";
        assert_eq!(super::summary(line), Some((12, 3)));
        assert_eq!(super::summary("test result_is_fine ... ok"), None);
    }
}
