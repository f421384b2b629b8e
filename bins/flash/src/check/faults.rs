//! Bidding during faults and after them: recovery (I15), the narrow path (I16).

use super::Verdict;
use super::history::{Call, History};

/// What a bid needs. Edges have other edges; the socket of one that dies is another matter.
const BID_NEEDS: [&str; 3] = ["redis", "nats", "bid-processing"];
const BACK_WITHIN_US: u64 = 5_000_000;

pub fn check(history: &History, verdict: &mut Verdict) {
    recovery(history, verdict);
    narrow_path(history, verdict);
}

/// I15: the next bid is accepted within 5 s of a fault's end, where bids that could be accepted were placed.
fn recovery(history: &History, verdict: &mut Verdict) {
    for fault in &history.faults {
        let window = fault.to..=fault.to + BACK_WITHIN_US;
        let tried = |call: &&Call| window.contains(&call.sent);
        let bid_back =
            |call: &Call| call.is_accepted() && call.answered.is_some_and(|answered| window.contains(&answered));
        let another = history.faults.iter().any(|other| other.line != fault.line && window.contains(&other.from));
        // Too low, late, own bid: decided, so bidding is possible.
        let decided =
            |call: &Call| call.is_ruled_out() && call.answered.is_some_and(|answered| window.contains(&answered));
        if another || history.end() < fault.to + BACK_WITHIN_US {
            continue;
        }
        for auction in history.auctions() {
            let mut placed = history.calls_of(auction).filter(tried).peekable();
            let was_tried = placed.peek().is_some();
            if was_tried && !history.calls_of(auction).any(bid_back) && !placed.all(decided) {
                verdict.add("I15", format!("{auction}: no bid was accepted within 5 s of a fault's end"), [fault.line]);
            }
        }
    }
}

/// I16: what a bid does not need may be dead.
fn narrow_path(history: &History, verdict: &mut Verdict) {
    for fault in history.faults.iter().filter(|fault| !fault.parts.iter().any(|part| needed(part))) {
        let meanwhile = |call: &&Call| call.sent >= fault.from && call.sent <= fault.to;
        for call in history.calls.iter().filter(meanwhile) {
            let until = call.answered.unwrap_or(call.sent);
            let failed = call.is_unknown() || matches!(call.code(), Some("unavailable" | "overloaded"));
            if failed && !history.excused(&BID_NEEDS, call.sent, until, BACK_WITHIN_US) {
                verdict.add(
                    "I16",
                    format!("a bid failed while only {:?} was away", fault.parts),
                    [fault.line, call.line],
                );
            }
        }
    }
}

fn needed(part: &str) -> bool {
    BID_NEEDS.contains(&part) || part == "websocket"
}
