//! A verdict as text for people.

use crate::history::{History, Kind};
use crate::verdict::{Verdict, Violation};

/// Violations printed of one invariant. One mistake often causes hundreds.
const MAX_PRINTED: usize = 3;
/// Input lines printed as proof of one violation.
const MAX_WITNESSES: usize = 4;
/// Characters printed of one input line.
const MAX_CHARACTERS: usize = 400;

/// The verdict as text: for each broken invariant the violations that the fewest lines prove.
#[must_use]
pub fn report(history: &History, verdict: &Verdict) -> String {
    let mut text = String::new();
    for invariant in verdict.broken() {
        let mut violations: Vec<&Violation> =
            verdict.violations.iter().filter(|violation| violation.invariant == invariant).collect();
        violations.sort_by_key(|violation| violation.witness.len());
        for Violation { message, witness, .. } in violations.iter().take(MAX_PRINTED) {
            text += &format!("{invariant}: {message}\n");
            for line in witness.iter().take(MAX_WITNESSES) {
                let shown: String = history.lines[*line].chars().take(MAX_CHARACTERS).collect();
                text += &format!("    line {}: {shown}\n", line + 1);
            }
        }
        if violations.len() > MAX_PRINTED {
            text += &format!("{invariant}: and {} more\n", violations.len() - MAX_PRINTED);
        }
    }
    for note in &verdict.notes {
        text += &format!("note: {note}\n");
    }
    let counts = Kind::ALL.map(|kind| format!("{} {}", history.count(kind), kind.name())).join(", ");
    let unknown = history.calls.iter().filter(|call| call.is_unknown()).count();
    text += &format!("{counts}, {} faults, {unknown} unknown outcomes\n", history.faults.len());
    text += &match verdict.violations.len() {
        0 => "I1 to I16 hold\n".to_owned(),
        count => {
            let broken: Vec<String> = verdict.broken().iter().map(ToString::to_string).collect();
            format!("{count} violations of {}\n", broken.join(", "))
        }
    };
    text
}
