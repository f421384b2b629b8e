//! One minute of kills, stops and cut connections under load.

use anyhow::{Context, Result, ensure};

use crate::run_chaos::run;

/// Number of kills in the table of faults.
fn kills(table: &str) -> Result<u32> {
    let killed = table.lines().filter(|line| line.contains(" killed "));
    killed.map(|line| Ok(line.split_whitespace().last().context("a count")?.parse::<u32>()?)).sum()
}

#[test]
fn minute_of_chaos_violates_no_invariant() -> Result<()> {
    let (held, table) = run("all", 60, &[], true)?;
    ensure!(held, "{table}");
    ensure!(kills(&table)? >= 20, "too few kills");
    ensure!(table.contains("lost 0, duplicated 0, wrongly rejected 0, two winners 0"));
    Ok(())
}
