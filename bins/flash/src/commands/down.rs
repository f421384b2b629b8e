//! `cargo flash down`: stops a running stack, or what is left of one whose `up` was killed.

use std::fs::{self, File};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::checkout;
use crate::stack::description;

/// Time that the processes get to end. Ctrl-C promises 10 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(12);
/// Interval between two checks whether a process still runs.
const POLL: Duration = Duration::from_millis(100);

/// Stops the stack of this checkout.
pub fn run() -> Result<ExitCode> {
    let directory = checkout::directory();
    let Ok(stack) = description::read(&directory) else {
        println!("No stack is running here.");
        return Ok(ExitCode::SUCCESS);
    };
    // A running `up` holds the lock and stops everything itself. Without it, the processes that the file names may
    // be left over.
    let running = File::open(directory.join("lock")).is_ok_and(|lock| lock.try_lock().is_err());
    let mut pids: Vec<u64> = Vec::new();
    if running {
        pids.extend(stack["flash_pid"].as_u64());
    } else {
        let servers = ["nats", "redis", "postgres", "aws"].iter().map(|name| &stack[name]["pid"]);
        let services = stack["services"].as_object().into_iter().flatten().map(|(_, service)| &service["pid"]);
        pids.extend(servers.chain(services).filter_map(Value::as_u64).filter(|pid| is_ours(*pid)));
    }
    for pid in &pids {
        testkit::run_quietly(Command::new("kill").args(["-s", "TERM", "--", &pid.to_string()]))?;
    }
    let deadline = Instant::now() + STOP_TIMEOUT;
    while let Some(pid) = pids.iter().find(|pid| exists(**pid)) {
        if Instant::now() > deadline {
            bail!("process {pid} did not end; `kill -9 {pid}` ends it by force");
        }
        std::thread::sleep(POLL);
    }
    description::remove(&directory);
    println!("Stopped.");
    Ok(ExitCode::SUCCESS)
}

/// Whether the process still runs.
fn exists(pid: u64) -> bool {
    // A zombie has ended, and its parent has not collected it yet.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Whether the process with this id belongs to this checkout. The kernel reuses ids.
fn is_ours(pid: u64) -> bool {
    let directory = checkout::directory();
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let needle = directory.to_string_lossy().into_owned();
    [command, environment].iter().any(|text| String::from_utf8_lossy(text).contains(&needle))
}
