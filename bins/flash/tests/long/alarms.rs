//! Prometheus itself evaluates the alarms of `nomad/observability`.

use std::process::Command;

use anyhow::Result;
use testkit::scratch::tools;
use testkit::{install, run_quietly};

#[test]
fn each_alarm_rises_on_its_fault_and_no_other_does() -> Result<()> {
    install::ensure_prometheus(&|step| eprintln!("{step} …"))?;
    let directory = tools().with_file_name("nomad").join("observability");
    let checks: [&[&str]; 3] = [
        &["check", "rules", "recording.yml", "alerts.yml"],
        &["check", "config", "prometheus.yml"],
        &["test", "rules", "alerts_test.yml"],
    ];
    for arguments in checks {
        run_quietly(Command::new("promtool").args(arguments).current_dir(&directory))?;
    }
    Ok(())
}
