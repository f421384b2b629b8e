//! Each kind of fault by itself, for a minute or more.

use anyhow::{Result, ensure};

use crate::run_chaos::run;

/// What `flash chaos --scenario` takes, with the seconds that give each of its faults a turn.
const SCENARIOS: [(&str, u64); 18] = [
    ("kills", 60),
    ("stops", 60),
    ("long-stops", 180),
    ("longest-stops", 700),
    ("cuts", 60),
    ("redis", 60),
    ("memory", 30),
    ("deploy", 60),
    ("narrow", 60),
    ("dead", 110),
    ("keys", 140),
    ("consumers", 60),
    ("crowd", 90),
    ("nats", 180),
    ("masters", 90),
    ("power-loss", 90),
    ("full-disk", 60),
    ("throttle", 60),
];

#[test]
fn no_fault_loses_anything() -> Result<()> {
    for (scenario, seconds) in SCENARIOS {
        let (kept, table) = run(scenario, seconds, &[], true)?;
        ensure!(kept, "{scenario}\n{table}");
    }
    Ok(())
}

/// The control: with the servers' own defaults a power cut loses what was accepted, or the run above is blind.
#[test]
fn without_syncing_a_power_cut_loses_bids() -> Result<()> {
    let (kept, table) = run("power-loss", 10, &["--unsynced"], false)?;
    ensure!(!kept && table.contains("I1: bid"), "nothing was lost:\n{table}");
    Ok(())
}
