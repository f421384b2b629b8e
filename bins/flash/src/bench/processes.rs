//! Processor time, context switches and memory of the processes of a stack.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Clock ticks of `/proc` in a second.
const TICKS_A_SECOND: f64 = 100.0;

/// A process of the system, or this one, which makes the load.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The name of its program.
    pub name: String,
    /// Its id.
    pub pid: u32,
    /// Whether its child processes do the work, as those of PostgreSQL.
    pub has_children: bool,
}

impl Watched {
    /// A process that works by itself.
    pub fn alone(name: &str, pid: u32) -> Self {
        Self { name: name.to_owned(), pid, has_children: false }
    }

    /// This process.
    pub fn load() -> Self {
        Self::alone("the load", std::process::id())
    }
}

/// Resources that a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    /// Processor seconds of all its threads.
    pub processor_seconds: f64,
    /// Context switches of all its threads.
    pub switches: u64,
    /// Resident memory now.
    pub resident_bytes: f64,
}

/// The use of each process of a stack at one moment.
pub struct Processes(Vec<(Watched, Used)>);

impl Processes {
    /// Reads `/proc`.
    pub fn read(watched: &[Watched]) -> Result<Self> {
        let watched = watched.iter();
        Ok(Self(watched.map(|process| Ok((process.clone(), used(process)?))).collect::<Result<_>>()?))
    }

    /// The use of each process between these and `later` ones of the same stack. One that was replaced in between has
    /// used what its successor has.
    pub fn until(&self, later: &Self) -> Vec<(String, Used)> {
        let pairs = later.0.iter();
        pairs
            .map(|(process, after)| {
                let before = self.0.iter().find(|(before, _)| before.pid == process.pid);
                let before = before.map_or_else(Used::default, |(_, used)| *used);
                let used = Used {
                    // The children of a process may have ended, and their use with them.
                    processor_seconds: (after.processor_seconds - before.processor_seconds).max(0.0),
                    switches: after.switches.saturating_sub(before.switches),
                    resident_bytes: after.resident_bytes,
                };
                (process.name.clone(), used)
            })
            .collect()
    }

    /// Cores and memory of each process in these seconds, until `later`.
    pub fn report(&self, later: &Self, seconds: f64) -> Value {
        let used = self.until(later).into_iter();
        used.map(|(name, used)| {
            json!({"process": name, "cores": used.processor_seconds / seconds,
                "processor_seconds": used.processor_seconds, "resident_mb": used.resident_bytes / 1e6})
        })
        .collect()
    }
}

/// Prints a [`Processes::report`].
pub fn print(report: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    for process in report.as_array().into_iter().flatten() {
        let name = process["process"].as_str().unwrap_or_default();
        let (cores, memory) = (number(&process["cores"]), number(&process["resident_mb"]));
        println!("    {name:<42} {cores:>10.2} cores {memory:>7.0} MB");
    }
}

fn used(process: &Watched) -> Result<Used> {
    let mut all = used_by(process.pid).with_context(|| format!("{} does not run", process.name))?;
    if process.has_children {
        // A child may end at this moment.
        for child in children(process.pid)?.into_iter().filter_map(|child| used_by(child).ok()) {
            all.processor_seconds += child.processor_seconds;
            all.switches += child.switches;
            all.resident_bytes += child.resident_bytes;
        }
    }
    Ok(all)
}

fn used_by(pid: u32) -> Result<Used> {
    let processor_seconds = processor_seconds(&format!("/proc/{pid}/stat"))?;
    let mut used = Used { processor_seconds, switches: 0, resident_bytes: resident_bytes(pid)? };
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end in between.
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else { continue };
        let counts = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        used.switches += counts.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum::<u64>();
    }
    Ok(used)
}

/// The ids of the child processes.
fn children(pid: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = fields(&stat).and_then(|fields| fields.get(1)?.parse::<u32>().ok());
        if parent == Some(pid) {
            children.push(child);
        }
    }
    Ok(children)
}

/// Processor seconds of a process or thread, from its `stat` file.
pub fn processor_seconds(stat: &str) -> Result<f64> {
    let stat = fs::read_to_string(stat)?;
    let fields = fields(&stat).context("no name in stat")?;
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / TICKS_A_SECOND)
}

/// The fields of a `stat` file after the name, which is in parentheses and may contain spaces.
fn fields(stat: &str) -> Option<Vec<&str>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace().collect())
}

/// Resident memory of a process.
pub fn resident_bytes(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_use_is_read_and_grows() {
        let watched = [Watched::load()];
        let before = Processes::read(&watched).expect("this process");
        let spent = std::time::Instant::now();
        while processor_seconds("/proc/self/stat").expect("this process") < before.0[0].1.processor_seconds + 0.02 {
            assert!(spent.elapsed().as_secs() < 10, "no processor time is counted");
        }
        let after = Processes::read(&watched).expect("this process");
        let (name, used) = &before.until(&after)[0];
        assert_eq!(name, "the load");
        assert!(used.processor_seconds > 0.0 && used.resident_bytes > 1e6, "{used:?}");
    }
}
