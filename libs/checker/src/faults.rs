//! Bidding during faults and after them: recovery (I15), the narrow path (I16).

use crate::history::{Call, History};
use crate::invariant::Invariant;
use crate::verdict::Verdict;

/// Parts that a bid needs. `websocket` is not among them: a client whose edge dies uses another one.
const BID_NEEDS: [&str; 3] = ["redis", "nats", "bid-processing"];
/// Time from the end of a fault to the next accepted bid.
const BACK_WITHIN_US: u64 = 5_000_000;

pub fn check(history: &History, verdict: &mut Verdict) {
    recovery(history, verdict);
    narrow_path(history, verdict);
}

/// I15: a bid is accepted within 5 s of the end of a fault, wherever bids were placed that could be accepted.
fn recovery(history: &History, verdict: &mut Verdict) {
    for fault in &history.faults {
        let window = fault.to..=fault.to + BACK_WITHIN_US;
        let tried = |call: &&Call| window.contains(&call.sent);
        let bid_back =
            |call: &Call| call.is_accepted() && call.answered.is_some_and(|answered| window.contains(&answered));
        let another = history.faults.iter().any(|other| other.line != fault.line && window.contains(&other.from));
        // A bid that the rules reject (too low, after the end) was still decided, so bidding is possible.
        let decided = |call: &Call| {
            call.is_rejected_by_rules() && call.answered.is_some_and(|answered| window.contains(&answered))
        };
        if another || history.end() < fault.to + BACK_WITHIN_US {
            continue;
        }
        for auction in history.auctions() {
            let mut placed = history.calls_of(auction).filter(tried).peekable();
            let was_tried = placed.peek().is_some();
            if was_tried && !history.calls_of(auction).any(bid_back) && !placed.all(decided) {
                verdict.add(
                    Invariant::Recovery,
                    format!("{auction}: no bid was accepted within 5 s of the end of a fault"),
                    [fault.line],
                );
            }
        }
    }
}

/// I16: bids go on while parts are down that a bid does not need.
fn narrow_path(history: &History, verdict: &mut Verdict) {
    for fault in history.faults.iter().filter(|fault| !fault.parts.iter().any(|part| is_needed(part))) {
        let during = |call: &&Call| call.sent >= fault.from && call.sent <= fault.to;
        for call in history.calls.iter().filter(during) {
            let until = call.answered.unwrap_or(call.sent);
            let failed = call.is_unknown() || matches!(call.code(), Some("unavailable" | "overloaded"));
            if failed && !history.excused(&BID_NEEDS, call.sent, until, BACK_WITHIN_US) {
                verdict.add(
                    Invariant::NarrowPath,
                    format!("a bid failed while only {:?} was down", fault.parts),
                    [fault.line, call.line],
                );
            }
        }
    }
}

/// Whether a fault of this part may make a bid fail.
fn is_needed(part: &str) -> bool {
    BID_NEEDS.contains(&part) || part == "websocket"
}
