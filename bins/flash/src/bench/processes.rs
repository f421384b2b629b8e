//! Processor time and context switches of the processes of a stack.

use std::fs;

use anyhow::{Context, Result};

use crate::stack::Stack;

/// Clock ticks of `/proc` in a second.
const TICKS_A_SECOND: f64 = 100.0;

/// Resources that a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    /// Processor seconds of all its threads.
    pub processor_seconds: f64,
    /// Context switches of all its threads.
    pub switches: u64,
}

/// The use of each process of a stack, and of this one, which makes the load.
pub struct Processes(Vec<(String, Used)>);

impl Processes {
    /// Reads `/proc`.
    pub fn read(stack: &mut Stack) -> Result<Self> {
        let mut pids: Vec<(String, u32)> =
            stack.instances.iter().map(|instance| (instance.name.text().to_owned(), instance.pid())).collect();
        pids.extend(stack.servers.nats.iter().map(|nats| ("nats-server".to_owned(), nats.process.pid())));
        pids.extend(stack.servers.redis.iter().map(|redis| ("redis-server".to_owned(), redis.process.pid())));
        pids.push(("the load".to_owned(), std::process::id()));
        Ok(Self(pids.into_iter().map(|(name, pid)| Ok((name, used(pid)?))).collect::<Result<_>>()?))
    }

    /// The use of each process between these and `later` ones of the same stack.
    pub fn until(&self, later: &Self) -> Vec<(String, Used)> {
        let pairs = self.0.iter().zip(&later.0);
        pairs
            .map(|((name, before), (_, after))| {
                let processor_seconds = after.processor_seconds - before.processor_seconds;
                (name.clone(), Used { processor_seconds, switches: after.switches.saturating_sub(before.switches) })
            })
            .collect()
    }
}

fn used(pid: u32) -> Result<Used> {
    let mut used = Used { processor_seconds: processor_seconds(&format!("/proc/{pid}/stat"))?, ..Used::default() };
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end in between.
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else { continue };
        let counts = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        used.switches += counts.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum::<u64>();
    }
    Ok(used)
}

/// Processor seconds of a process or thread, from its `stat` file.
pub fn processor_seconds(stat: &str) -> Result<f64> {
    let stat = fs::read_to_string(stat)?;
    // The name in parentheses may contain spaces; the fields are counted after it.
    let fields: Vec<&str> = stat[stat.rfind(')').context("no name in stat")? + 2..].split(' ').collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / TICKS_A_SECOND)
}
