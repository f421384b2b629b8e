//! The end of an auction (I8): one closing, on time, and more time only after an outage over the end.

use crate::fields::{text, whole};
use crate::history::History;
use crate::invariant::Invariant;
use crate::log::Folded;
use crate::verdict::Verdict;

/// Parts that a closing needs.
const CLOSING_NEEDS: [&str; 4] = ["redis", "nats", "bid-processing", "timer"];
/// Time from the end of an auction, or of the fault that delayed it, to the closing record.
const GRACE_US: u64 = 1_000_000;

/// When an auction with this end, in milliseconds, must have been closed or given more time, in microseconds: 1 s after its
/// end or after the faults then.
fn deadline(history: &History, end_time: u64) -> u64 {
    let mut deadline = end_time * 1000 + GRACE_US;
    let mut faults: Vec<_> = history.faults_of(&CLOSING_NEEDS).collect();
    faults.sort_by_key(|fault| fault.from);
    for fault in faults.into_iter().filter(|fault| fault.to + GRACE_US >= end_time * 1000) {
        if fault.from <= deadline {
            deadline = deadline.max(fault.to + GRACE_US);
        }
    }
    deadline
}

/// An auction whose end has passed was closed once and in time; one that was given more time was so in time as well, or its
/// closing was late without a fault.
pub fn check(history: &History, auction: &str, folded: &Folded, verdict: &mut Verdict) {
    if !folded.is_whole {
        return;
    }
    for logged in history.records_of(auction) {
        let record = &logged.record;
        if record["type"] != "resumed" || !text(record, "by").is_empty() {
            continue;
        }
        let Some(before) = folded.states.get(&(whole(record, "seq") - 1)) else { continue };
        if whole(record, "time") * 1000 > deadline(history, before.end_time) {
            let message = format!("{auction} was given more time after its end {} without a fault", before.end_time);
            verdict.add(Invariant::OneClose, message, [logged.line]);
        }
    }
    let Some((_, state)) = folded.states.last_key_value() else { return };
    if state.status == "paused" {
        return;
    }
    let deadline = deadline(history, state.end_time);
    match &folded.closing {
        None if history.end() > deadline => {
            let message = format!("{auction} has passed its end {} and was not closed", state.end_time);
            verdict.add(Invariant::OneClose, message, history.records_of(auction).next_back().map(|last| last.line));
        }
        Some((line, record)) if record["type"] == "closed" && text(&record["state"], "reason") == "ended" => {
            let closed = whole(record, "time");
            if closed * 1000 > deadline {
                let late = closed.saturating_sub(state.end_time);
                verdict.add(Invariant::OneClose, format!("{auction} was closed {late} ms late"), [*line]);
            }
        }
        _ => {}
    }
}
