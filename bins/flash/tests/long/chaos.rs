//! Each kind of fault by itself, for a minute or more.

use std::process::Command;

use anyhow::{Result, ensure};
use testkit::scratch::Scratch;

/// What `flash chaos --scenario` takes, with the seconds that give each of its faults a turn.
const SCENARIOS: [(&str, u64); 12] = [
    ("kills", 60),
    ("stops", 60),
    ("long-stops", 180),
    ("longest-stops", 700),
    ("cuts", 60),
    ("redis", 60),
    ("memory", 30),
    ("deploy", 60),
    ("narrow", 60),
    ("nats", 120),
    ("masters", 90),
    ("power-loss", 90),
];

/// The control: with the servers' own defaults a power cut loses what was accepted, or the run above is blind.
#[test]
fn without_syncing_a_power_cut_loses_bids() -> Result<()> {
    let scratch = Scratch::new("chaos-careless")?;
    let output = Command::new(env!("CARGO_BIN_EXE_flash"))
        .args(["chaos", "--seconds", "10", "--scenario", "power-loss", "--careless", "--directory"])
        .arg(scratch.path())
        .output()?;
    let table = String::from_utf8(output.stdout)?;
    println!("{table}");
    ensure!(!output.status.success() && table.contains("I1: bid"), "nothing was lost:\n{table}");
    scratch.remove();
    Ok(())
}

#[test]
fn no_fault_loses_anything() -> Result<()> {
    for (scenario, seconds) in SCENARIOS {
        let scratch = Scratch::new(&format!("chaos-{scenario}"))?;
        let output = Command::new(env!("CARGO_BIN_EXE_flash"))
            .args(["chaos", "--seconds", &seconds.to_string(), "--scenario", scenario, "--directory"])
            .arg(scratch.path())
            .output()?;
        let table = String::from_utf8(output.stdout)?;
        println!("{scenario}\n{table}");
        ensure!(output.status.success(), "{scenario}\n{}", String::from_utf8_lossy(&output.stderr));
        scratch.remove();
    }
    Ok(())
}
