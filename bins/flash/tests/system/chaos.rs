//! A minute of kills, stops and cuts while bids go on.

use anyhow::{Context, Result, ensure};

use crate::run_chaos::run;

/// How often anything was killed.
fn kills(table: &str) -> Result<u32> {
    let killed = table.lines().filter(|line| line.contains(" killed "));
    killed.map(|line| Ok(line.split_whitespace().last().context("a count")?.parse::<u32>()?)).sum()
}

#[test]
fn a_minute_of_chaos_loses_nothing() -> Result<()> {
    let (kept, table) = run("all", 60, &[], true)?;
    ensure!(kept, "{table}");
    ensure!(kills(&table)? >= 20, "too few kills");
    ensure!(table.contains("lost 0, duplicated 0, wrongly rejected 0, two winners 0"));
    Ok(())
}
