//! Runs `flash chaos` as on a command line. Shared by the system tests and the long tests.

use std::process::Command;

use anyhow::Result;
use testkit::scratch::Scratch;

/// Runs a scenario; returns whether every invariant held, and the output. `FLASH_SEED` selects another order of
/// faults. The directory of a run with another result than `expected` is kept.
pub fn run(scenario: &str, seconds: u64, more: &[&str], expected: bool) -> Result<(bool, String)> {
    let scratch = Scratch::new(&format!("chaos-{scenario}"))?;
    let seed = std::env::var("FLASH_SEED").unwrap_or_else(|_| "1".to_owned());
    let output = Command::new(env!("CARGO_BIN_EXE_flash"))
        .args(["chaos", "--seconds", &seconds.to_string(), "--seed", &seed, "--scenario", scenario, "--directory"])
        .arg(scratch.path())
        .args(more)
        .output()?;
    let table = String::from_utf8(output.stdout)? + &String::from_utf8_lossy(&output.stderr);
    println!("{scenario}\n{table}");
    let held = output.status.success();
    if held == expected {
        scratch.remove();
    }
    Ok((held, table))
}
