//! Runs each kind of fault by itself, for a minute or more.

use anyhow::{Result, ensure};

use crate::run_chaos::run;

/// Scenarios of `flash chaos`, with the seconds in which each of their faults occurs at least once.
const SCENARIOS: [(&str, u64); 23] = [
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
    ("hanging-issuer", 60),
    ("mail", 90),
    ("ticks", 60),
    ("long-auction", 60),
    ("full-log", 100),
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
        let (held, table) = run(scenario, seconds, &[], true)?;
        ensure!(held, "{scenario}\n{table}");
    }
    Ok(())
}

/// The control: with the default settings of NATS a power cut loses accepted bids. If it does not, the scenario
/// `power-loss` above proves nothing.
#[test]
fn unsynced_servers_lose_bids_in_a_power_cut() -> Result<()> {
    let (held, table) = run("power-loss", 10, &["--unsynced"], false)?;
    ensure!(!held && table.contains("I1: bid"), "no bid was lost:\n{table}");
    Ok(())
}
