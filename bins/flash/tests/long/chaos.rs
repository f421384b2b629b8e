//! Each kind of fault by itself, for a minute or more.

use std::process::Command;

use anyhow::{Result, ensure};
use testkit::scratch::Scratch;

/// What `flash chaos --scenario` takes, with the seconds that give each of its faults a turn.
const SCENARIOS: [(&str, u64); 11] = [
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
];

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
