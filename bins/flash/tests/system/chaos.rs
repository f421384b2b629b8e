//! A minute of kills, stops and cuts while bids go on: `flash chaos` as a person types it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::scratch::Scratch;

use crate::world::program;

/// Runs a scenario and returns its table. `FLASH_SEED` takes another order of faults.
pub fn chaos(scenario: &str, seconds: u64) -> Result<String> {
    let scratch = Scratch::new(&format!("chaos-{scenario}"))?;
    let seed = std::env::var("FLASH_SEED").unwrap_or_else(|_| "1".to_owned());
    let output = Command::new(program())
        .args(["chaos", "--seconds", &seconds.to_string(), "--seed", &seed, "--scenario", scenario, "--directory"])
        .arg(scratch.path())
        .output()?;
    let table = String::from_utf8(output.stdout)?;
    println!("{table}");
    ensure!(output.status.success(), "{}\n{table}", String::from_utf8_lossy(&output.stderr));
    scratch.remove();
    Ok(table)
}

/// How often anything was killed.
fn kills(table: &str) -> Result<u32> {
    let killed = table.lines().filter(|line| line.contains(" killed "));
    killed.map(|line| Ok(line.split_whitespace().last().context("a count")?.parse::<u32>()?)).sum()
}

#[test]
fn a_minute_of_chaos_loses_nothing() -> Result<()> {
    let table = chaos("all", 60)?;
    ensure!(kills(&table)? >= 20, "too few kills");
    ensure!(table.contains("lost 0, doubled 0, false refusals 0, two winners 0"));
    Ok(())
}
