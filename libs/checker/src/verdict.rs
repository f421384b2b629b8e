//! The demands of a check and its findings.

use std::collections::BTreeSet;

use crate::history::Kind;
use crate::invariant::Invariant;

/// Minimum contents of a run that can prove anything.
#[derive(Debug, Clone)]
pub struct Demands {
    /// Fewest injected faults.
    pub faults: usize,
    /// Fewest calls whose outcome stayed unknown.
    pub unknown: usize,
    /// Fewest rooms that waited for ticks after NATS had returned.
    pub ticks: usize,
    /// Kinds of lines that may be missing.
    pub without: BTreeSet<Kind>,
    /// Largest difference between the clocks of the clients and of Redis, in microseconds. It includes what
    /// rounding to milliseconds costs.
    pub clocks_apart_us: u64,
}

impl Default for Demands {
    fn default() -> Self {
        Self { faults: 0, unknown: 0, ticks: 0, without: BTreeSet::new(), clocks_apart_us: 50_000 }
    }
}

/// One thing that must not happen and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The invariant that does not hold.
    pub invariant: Invariant,
    /// The finding in one sentence.
    pub message: String,
    /// Lines of the input that prove it, counted from 0.
    pub witness: Vec<usize>,
}

/// Collects what the checks find.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Everything that must not be, in the order in which it was found.
    pub violations: Vec<Violation>,
    /// Allowed, and worth knowing.
    pub notes: Vec<String>,
}

impl Verdict {
    /// Adds a violation with the lines that prove it.
    pub fn add(&mut self, invariant: Invariant, message: impl Into<String>, witness: impl IntoIterator<Item = usize>) {
        let (message, witness) = (message.into(), witness.into_iter().collect());
        self.violations.push(Violation { invariant, message, witness });
    }

    /// The invariants that do not hold.
    #[must_use]
    pub fn broken(&self) -> BTreeSet<Invariant> {
        self.violations.iter().map(|violation| violation.invariant).collect()
    }
}
