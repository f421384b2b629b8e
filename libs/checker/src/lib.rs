//! Judges a recorded run of the system: was everything that was promised kept?
//!
//! **Owns** the rules that decide whether a history is right. The input is JSON lines: what clients sent and
//! were answered, the log, the history table, the database rows, the frames of each socket, the mails, and
//! the injected faults ([`history`] lists every kind). The output is a [`Verdict`] on each [`Invariant`],
//! where every violation comes with the few lines that prove it.
//!
//! **Never** uses another crate of this workspace. The rules are written a second time, on plain JSON, and
//! share no code with what they judge: a mistake in `domain` or in a script must not excuse itself.
//!
//! **Invariants**
//! - It works offline and changes nothing: the same lines give the same verdict.
//! - A run that hit nothing proves nothing: missing input, too few faults, or too few unknown outcomes where
//!   [`Demands`] asks for some, fail the check as well.

#![warn(missing_docs)]

mod answers;
mod books;
#[cfg(test)]
mod correct;
mod ends;
mod faults;
mod fields;
mod frames;
pub mod history;
mod invariant;
mod log;
mod money;
mod prebids;
mod proxy;
mod report;
#[cfg(test)]
mod rules;
mod secrets;
mod sequences;
mod state;
#[cfg(test)]
mod variants;
mod verdict;

use history::{History, Kind};

pub use invariant::{Invariant, UnknownInvariant};
pub use report::report;
pub use verdict::{Demands, Verdict, Violation};

/// Judges a history.
#[must_use]
pub fn check(history: &History, demands: &Demands) -> Verdict {
    let mut verdict = Verdict::default();
    check_demands(history, demands, &mut verdict);
    for auction in history.auctions() {
        let folded = log::fold(history, auction, &mut verdict);
        answers::check(history, auction, &folded, demands, &mut verdict);
        ends::check(history, auction, &folded, &mut verdict);
        sequences::check(history, auction, &mut verdict);
        books::check(history, auction, &folded, demands, &mut verdict);
        frames::check(history, auction, &folded, &mut verdict);
    }
    money::check(history, &mut verdict);
    secrets::check(history, &mut verdict);
    faults::check(history, demands, &mut verdict);
    verdict
}

fn check_demands(history: &History, demands: &Demands, verdict: &mut Verdict) {
    for kind in Kind::ALL {
        if !demands.without.contains(&kind) && history.count(kind) == 0 {
            verdict.add(Invariant::Input, format!("there is no line of kind {}", kind.name()), []);
        }
    }
    let (faults, unknown) = (history.faults.len(), history.calls.iter().filter(|call| call.is_unknown()).count());
    if faults < demands.faults {
        verdict.add(Invariant::Input, format!("{faults} faults were injected, {} are needed", demands.faults), []);
    }
    if unknown < demands.unknown {
        verdict.add(Invariant::Input, format!("{unknown} outcomes are unknown, {} are needed", demands.unknown), []);
    }
}
