//! Amounts are whole cents inside the system and have at most two decimals outside: money (I13).

use serde_json::Value;

use crate::history::{History, cents};
use crate::invariant::Invariant;
use crate::verdict::Verdict;

/// Cents of the highest amount that the system takes.
const MAX_CENTS: u64 = 9_999_999_999;
/// Names of the fields of answers and frames that hold decimal amounts.
const DECIMAL: [&str; 7] =
    ["amount", "your_bid", "current_high_bid", "high_bid", "minimum_bid", "starting_bid", "winning_bid"];

pub fn check(history: &History, verdict: &mut Verdict) {
    for logged in &history.records {
        inspect(&logged.record, logged.line, verdict);
    }
    for call in &history.calls {
        call.answer.iter().for_each(|answer| inspect(answer, call.line, verdict));
    }
    history.frames.iter().for_each(|frame| inspect(&frame.data, frame.line, verdict));
    history.items.iter().for_each(|item| inspect(&item.item, item.line, verdict));
}

fn inspect(value: &Value, line: usize, verdict: &mut Verdict) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Err(reason) = money(name, value) {
                    verdict.add(Invariant::Money, format!("{name}: {reason}"), [line]);
                }
                inspect(value, line, verdict);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| inspect(value, line, verdict)),
        _ => {}
    }
}

fn money(name: &str, value: &Value) -> Result<(), String> {
    let found = if name.ends_with("_cents") {
        match value {
            Value::Null => None,
            value => Some(value.as_u64().ok_or_else(|| format!("{value} is not a whole number of cents"))?),
        }
    } else if DECIMAL.contains(&name) {
        cents(value)?
    } else {
        None
    };
    // The minimum may exceed the highest amount that can be bid: then no bid is possible.
    let max = if name.starts_with("minimum_bid") { 2 * MAX_CENTS } else { MAX_CENTS };
    // The first band of increments begins at no price at all.
    let may_be_0 = name == "from_cents";
    match found {
        Some(cents) if (cents == 0 && !may_be_0) || cents > max => Err(format!("{cents} cents are out of range")),
        _ => Ok(()),
    }
}
