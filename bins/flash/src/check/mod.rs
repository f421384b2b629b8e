//! `cargo flash check`: was everything that was promised kept? Offline, from what was written down.
//!
//! The input is JSON lines, in any order of kinds: what clients sent and were answered, the log, the
//! history, the rows, the frames of each socket, the mails, and the faults that were made ([`history`]).
//! The output is a verdict on I1 to I16, each violation with the few lines that prove it.
//!
//! The rules here are written anew, on plain JSON, and share no code with what they judge: a mistake in
//! `domain` or in a script must not excuse itself.
//!
//! A run that hit nothing proves nothing: missing input, too few faults, or no unknown outcome where some
//! were asked for, fail the check as well.

mod answers;
mod books;
mod faults;
mod frames;
pub mod history;
mod log;
mod money;
pub mod recorder;
mod secrets;
#[cfg(test)]
mod variants;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use history::{History, Kind};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Histories as JSON lines; `-` is the standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Fail if fewer faults than this were made
    #[arg(long, default_value_t = 0)]
    least_faults: usize,
    /// Fail if fewer calls than this had no known outcome
    #[arg(long, default_value_t = 0)]
    least_unknown: usize,
    /// What is not there and need not be
    #[arg(long)]
    without: Vec<Kind>,
}

/// What a run must have had to prove anything.
#[derive(Debug, Clone)]
pub struct Demands {
    pub faults: usize,
    pub unknown: usize,
    pub without: BTreeSet<Kind>,
    /// Between the clocks of the clients and of Redis, at most, and what rounding to milliseconds costs.
    pub clocks_apart_us: u64,
}

impl Default for Demands {
    fn default() -> Self {
        Self { faults: 0, unknown: 0, without: BTreeSet::new(), clocks_apart_us: 50_000 }
    }
}

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// `I1` to `I16`, or `input`.
    pub invariant: &'static str,
    pub says: String,
    /// Lines of the input that prove it, counted from 0.
    pub witness: Vec<usize>,
}

/// Collects what the checks find.
#[derive(Debug, Default)]
pub struct Verdict {
    pub violations: Vec<Violation>,
    /// Allowed, and worth knowing.
    pub notes: Vec<String>,
}

impl Verdict {
    pub fn add(&mut self, invariant: &'static str, says: impl Into<String>, witness: impl IntoIterator<Item = usize>) {
        self.violations.push(Violation { invariant, says: says.into(), witness: witness.into_iter().collect() });
    }

    /// The invariants that do not hold.
    #[must_use]
    pub fn broken(&self) -> BTreeSet<&'static str> {
        self.violations.iter().map(|violation| violation.invariant).collect()
    }
}

/// Judges a history.
#[must_use]
pub fn check(history: &History, demands: &Demands) -> Verdict {
    let mut verdict = Verdict::default();
    demanded(history, demands, &mut verdict);
    for auction in history.auctions() {
        let folded = log::fold(history, auction, &mut verdict);
        answers::check(history, auction, &folded, demands, &mut verdict);
        log::check_end(history, auction, &folded, &mut verdict);
        books::check(history, auction, &folded, demands, &mut verdict);
        frames::check(history, auction, &folded, &mut verdict);
    }
    money::check(history, &mut verdict);
    secrets::check(history, &mut verdict);
    faults::check(history, &mut verdict);
    verdict
}

fn demanded(history: &History, demands: &Demands, verdict: &mut Verdict) {
    for kind in Kind::NEEDED {
        if !demands.without.contains(&kind) && history.count(kind) == 0 {
            verdict.add("input", format!("there is no line of kind {}", kind.name()), []);
        }
    }
    let (faults, unknown) = (history.faults.len(), history.calls.iter().filter(|call| call.is_unknown()).count());
    if faults < demands.faults {
        verdict.add("input", format!("{faults} faults were made, {} are needed", demands.faults), []);
    }
    if unknown < demands.unknown {
        verdict.add("input", format!("{unknown} outcomes are unknown, {} are needed", demands.unknown), []);
    }
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut text = String::new();
    for file in &arguments.files {
        if file.as_os_str() == "-" {
            std::io::stdin().read_to_string(&mut text)?;
        } else {
            text += &std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    let history = History::parse(&text)?;
    let without = arguments.without.iter().copied().collect();
    let (faults, unknown) = (arguments.least_faults, arguments.least_unknown);
    let demands = Demands { faults, unknown, without, ..Demands::default() };
    let verdict = check(&history, &demands);
    print!("{}", report(&history, &verdict));
    Ok(if verdict.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Violations of one invariant that are told; one mistake often makes hundreds.
const MOST_TOLD: usize = 3;
/// Lines of the input that prove one violation on the screen, and how much of each.
const MOST_WITNESSES: usize = 4;
const MOST_CHARACTERS: usize = 400;

/// The verdict as a person reads it: of each invariant the violations with the fewest lines to prove them.
#[must_use]
pub fn report(history: &History, verdict: &Verdict) -> String {
    let mut text = String::new();
    for invariant in verdict.broken() {
        let mut of_it: Vec<&Violation> = verdict.violations.iter().filter(|one| one.invariant == invariant).collect();
        of_it.sort_by_key(|violation| violation.witness.len());
        for Violation { says, witness, .. } in of_it.iter().take(MOST_TOLD) {
            text += &format!("{invariant}: {says}\n");
            for line in witness.iter().take(MOST_WITNESSES) {
                let shown: String = history.lines[*line].chars().take(MOST_CHARACTERS).collect();
                text += &format!("    line {}: {shown}\n", line + 1);
            }
        }
        if of_it.len() > MOST_TOLD {
            text += &format!("{invariant}: and {} more\n", of_it.len() - MOST_TOLD);
        }
    }
    for note in &verdict.notes {
        text += &format!("note: {note}\n");
    }
    let counts = Kind::NEEDED.map(|kind| format!("{} {}", history.count(kind), kind.name())).join(", ");
    let unknown = history.calls.iter().filter(|call| call.is_unknown()).count();
    text += &format!("{counts}, {} faults, {unknown} unknown outcomes\n", history.faults.len());
    text += &match verdict.violations.len() {
        0 => "I1 to I16 hold\n".to_owned(),
        count => format!("{count} violations of {:?}\n", verdict.broken()),
    };
    text
}
