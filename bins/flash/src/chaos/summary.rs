//! The numbers that `chaos` prints after a run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use checker::history::{Call, Fault, History};
use checker::{Invariant, Verdict};
use serde_json::Value;

/// Faults by kind and part, bids by outcome, violations, and the time to the next accepted bid after a fault.
/// `healed` is the end of the last fault in microseconds.
pub fn summary(
    history: &History,
    verdict: &Verdict,
    done: &BTreeMap<(&'static str, &'static str), u32>,
    healed: u64,
) -> String {
    let mut text = String::new();
    for ((what, part), count) in done {
        text += &format!("{part:24} {what:12} {count}\n");
    }
    let calls = |fits: fn(&Call) -> bool| history.calls.iter().filter(|call| fits(call)).count();
    let violations = |invariant: Invariant, text: &str| {
        let found = verdict.violations.iter().filter(|violation| violation.invariant == invariant);
        found.filter(|violation| violation.message.contains(text)).count()
    };
    let lost = violations(Invariant::Durable, "");
    let duplicated = violations(Invariant::Dense, "twice");
    let wrong_rejections = violations(Invariant::JustRefusals, "");
    let winners = violations(Invariant::OneClose, "") + violations(Invariant::OneWinner, "");
    let accepted = history.calls.iter().filter(|call| call.is_accepted());
    let bids = accepted.map(|call| &call.bid_id).collect::<BTreeSet<_>>().len();
    text += &format!(
        "{bids} bids accepted in {} answers, rejected {}, unknown {}, lost {lost}, \
         duplicated {duplicated}, wrongly rejected {wrong_rejections}, two winners {winners}\n",
        calls(|call| call.is_accepted()),
        calls(|call| call.is_rejected_by_rules()),
        calls(|call| call.is_unknown()),
    );
    text += &rules(history);
    let mut accepted: Vec<u64> =
        history.calls.iter().filter(|call| call.is_accepted()).filter_map(|call| call.answered).collect();
    accepted.sort_unstable();
    let next = |fault: &Fault| {
        let at = accepted.partition_point(|answered| *answered < fault.to);
        accepted.get(at).map(|answered| answered - fault.to)
    };
    let faults = history.faults.iter().filter(|fault| fault.to <= healed);
    let mut recovery: Vec<u64> = faults.filter_map(next).collect();
    recovery.sort_unstable();
    let time = |micros: Option<&u64>| Duration::from_micros(micros.copied().unwrap_or(0));
    let (median, max) = (time(recovery.get(recovery.len() / 2)), time(recovery.last()));
    text += &format!("recovery (next accepted bid) p50 {median:?}, max {max:?}\n");
    text
}

/// How often each rule was at work, from the log.
fn rules(history: &History) -> String {
    let records = |fits: &dyn Fn(&Value) -> bool| history.records.iter().filter(|logged| fits(&logged.record)).count();
    let of_type = |kind: &str| records(&|record| record["type"] == kind);
    let counter_bids = history.records.iter().flat_map(|logged| logged.record["bids"].as_array().into_iter().flatten());
    let counter_bids = counter_bids.filter(|bid| bid["kind"] == "proxy").count();
    let (auctions, plain) = (of_type("created"), records(&is_plain));
    format!(
        "{auctions} auctions, {plain} of them plain; counter-bids {counter_bids}, changed maximums {}, pauses {}, blocks {}, \
         extended {}, bought {}, unsold {}, cancelled {}\n",
        of_type("maximum"),
        of_type("paused"),
        of_type("blocked"),
        records(&|record| record["type"] == "closed" && record["state"]["extension_count"] != 0),
        records(&|record| record["state"]["reason"] == "buy_now"),
        records(&|record| record["type"] == "closed" && record["state"]["outcome"] == "unsold"),
        of_type("cancelled"),
    )
}

/// Whether a record creates an auction without any option and without a reserve.
fn is_plain(record: &Value) -> bool {
    record["type"] == "created" && record["state"]["options"].is_null() && record["sealed"].is_null()
}
