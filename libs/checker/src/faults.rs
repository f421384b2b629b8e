//! Bidding and ticks during faults and after them: recovery (I15), the narrow path (I16).

use serde_json::Value;

use crate::fields::{text, whole};
use crate::history::{Call, Fault, Frame, History, Kind, Probe};
use crate::invariant::Invariant;
use crate::verdict::{Demands, Verdict};

/// Parts that a bid needs. `websocket` is not among them: a client whose edge dies uses another one. `log space` is
/// room in the log.
const BID_NEEDS: [&str; 4] = ["redis", "nats", "bid-processing", "log space"];
/// Time from the end of a fault to the next accepted bid, and to the next tick.
const BACK_WITHIN_US: u64 = 5_000_000;

pub fn check(history: &History, demands: &Demands, verdict: &mut Verdict) {
    recovery(history, verdict);
    if !demands.without.contains(&Kind::Frame) {
        ticks(history, demands, verdict);
    }
    narrow_path(history, verdict);
}

/// I15: a bid is accepted within 5 s of the end of a fault, wherever bids were placed that could be accepted.
fn recovery(history: &History, verdict: &mut Verdict) {
    for fault in &history.faults {
        let window = fault.to..=fault.to + BACK_WITHIN_US;
        let tried = |call: &&Call| window.contains(&call.sent);
        let bid_back =
            |call: &Call| call.is_accepted() && call.answered.is_some_and(|answered| window.contains(&answered));
        // A bid that the rules reject (too low, after the end) was still decided, so bidding is possible.
        let decided = |call: &Call| {
            call.is_rejected_by_rules() && call.answered.is_some_and(|answered| window.contains(&answered))
        };
        if !is_quiet_after(history, fault) {
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

/// Whether the time for the recovery from a fault is part of the run, without another fault.
fn is_quiet_after(history: &History, fault: &Fault) -> bool {
    let window = fault.to..=fault.to + BACK_WITHIN_US;
    let another = history.faults.iter().any(|other| other.line != fault.line && window.contains(&other.from));
    !another && history.end() >= *window.end()
}

/// I15: a room gets a tick within 5 s of the return of NATS, if it was watched before and its auction is live all the
/// time. In a cluster NATS returns when its leaders are elected, at a time that the history does not have.
fn ticks(history: &History, demands: &Demands, verdict: &mut Verdict) {
    let mut awaited = 0;
    let elects = |fault: &Fault| fault.parts.iter().any(|part| part == "nats leader");
    for fault in history.faults_of(&["nats"]).filter(|fault| is_quiet_after(history, fault) && !elects(fault)) {
        let window = fault.to..=fault.to + BACK_WITHIN_US;
        for auction in history.auctions().filter(|auction| is_live(history, auction, fault.from, *window.end())) {
            let mut frames = history.frames_of(auction);
            let watched = |frame: &Frame| frame.event == "joined_auction" && frame.at < fault.from;
            if !frames.clone().any(watched) {
                continue;
            }
            awaited += 1;
            if !frames.any(|frame| is_tick(frame) && window.contains(&frame.at)) {
                let message = format!("{auction}: no tick came within 5 s of the return of NATS");
                verdict.add(Invariant::Recovery, message, [fault.line]);
            }
        }
    }
    if awaited < demands.ticks {
        let message = format!("{awaited} rooms waited for ticks after NATS had returned, {} are needed", demands.ticks);
        verdict.add(Invariant::Input, message, []);
    }
}

/// Whether an auction is live, and not paused, from before `from` until after `to`, both in microseconds.
fn is_live(history: &History, auction: &str, from: u64, to: u64) -> bool {
    let mut changes = history.records_of(auction).map(|logged| &logged.record);
    let time_us = |record: &Value| whole(record, "time") * 1000;
    let opened = changes.clone().any(|record| record["type"] == "opened" && time_us(record) < from);
    let ends_the_ticks = |record: &Value| matches!(text(record, "type"), "paused" | "closed" | "cancelled");
    opened && !changes.any(|record| ends_the_ticks(record) && time_us(record) <= to)
}

/// Whether an elected timer sent this frame. Other updates of the clock follow from records.
fn is_tick(frame: &Frame) -> bool {
    frame.event == "timer_update" && frame.data["sync_type"] == "tick"
}

/// I16: bids go on, and services stay ready, while parts are down that they do not need.
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
        let during =
            |probe: &&Probe| probe.at >= fault.from && probe.at <= fault.to && !fault.parts.contains(&probe.service);
        for probe in history.probes.iter().filter(during).filter(|probe| probe.status != 200) {
            verdict.add(
                Invariant::NarrowPath,
                format!("{} was not ready while only {:?} was down", probe.service, fault.parts),
                [fault.line, probe.line],
            );
        }
    }
}

/// Whether a fault of this part may make a bid fail.
fn is_needed(part: &str) -> bool {
    BID_NEEDS.contains(&part) || part == "websocket"
}
