//! `cargo flash down`: stops a stack that was left behind.

use std::fs::{self, File};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::stack_file;

const PATIENCE: Duration = Duration::from_secs(12);
const POLL: Duration = Duration::from_millis(100);

pub fn run() -> Result<ExitCode> {
    let directory = crate::directory();
    let Ok(stack) = stack_file::read(&directory) else {
        println!("No stack is running here.");
        return Ok(ExitCode::SUCCESS);
    };
    // A running `up` holds the lock. Without one the file is left over, and so may be what it names.
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
    let deadline = Instant::now() + PATIENCE;
    while let Some(pid) = pids.iter().find(|pid| exists(**pid)) {
        if Instant::now() > deadline {
            bail!("process {pid} does not end; `kill -9 {pid}` ends it by force");
        }
        std::thread::sleep(POLL);
    }
    stack_file::remove(&directory);
    println!("Stopped.");
    Ok(ExitCode::SUCCESS)
}

fn exists(pid: u64) -> bool {
    // A zombie has ended; its parent has not looked yet.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Whether a process with this number still is one of this checkout: numbers are used again.
fn is_ours(pid: u64) -> bool {
    let directory = crate::directory();
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let needle = directory.to_string_lossy().into_owned();
    [command, environment].iter().any(|text| String::from_utf8_lossy(text).contains(&needle))
}
