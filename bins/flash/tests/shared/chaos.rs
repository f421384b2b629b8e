//! `flash chaos` as a person types it; both the tests of CI and the long ones do.

use std::process::Command;

use anyhow::Result;
use testkit::scratch::Scratch;

/// Runs a scenario; returns whether every promise was kept, and what was printed. `FLASH_SEED` takes another
/// order of faults. What is left of a run that went otherwise than `expected` is kept.
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
    let kept = output.status.success();
    if kept == expected {
        scratch.remove();
    }
    Ok((kept, table))
}
