//! Money is whole cents inside, and at most two decimals outside (I13).

use serde_json::Value;

use super::Verdict;
use super::history::{History, cents};

const MOST_CENTS: u64 = 9_999_999_999;
/// Fields of answers and frames that are money.
const DECIMAL: [&str; 7] =
    ["amount", "your_bid", "current_high_bid", "high_bid", "minimum_bid", "starting_bid", "winning_bid"];

pub fn check(history: &History, verdict: &mut Verdict) {
    for logged in &history.records {
        look(&logged.record, logged.line, verdict);
    }
    for call in &history.calls {
        call.answer.iter().for_each(|answer| look(answer, call.line, verdict));
    }
    history.frames.iter().for_each(|frame| look(&frame.data, frame.line, verdict));
    history.items.iter().for_each(|item| look(&item.item, item.line, verdict));
}

fn look(value: &Value, line: usize, verdict: &mut Verdict) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Err(says) = money(name, value) {
                    verdict.add("I13", format!("{name}: {says}"), [line]);
                }
                look(value, line, verdict);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| look(value, line, verdict)),
        _ => {}
    }
}

fn money(name: &str, value: &Value) -> Result<(), String> {
    let found = if name.ends_with("_cents") {
        match value {
            Value::Null => None,
            value => Some(value.as_u64().ok_or_else(|| format!("{value} is no whole number of cents"))?),
        }
    } else if DECIMAL.contains(&name) {
        cents(value)?
    } else {
        None
    };
    // A minimum may lie above what can be bid: then nobody can.
    let most = if name.starts_with("minimum_bid") { 2 * MOST_CENTS } else { MOST_CENTS };
    match found {
        Some(cents) if cents == 0 || cents > most => Err(format!("{cents} cents")),
        _ => Ok(()),
    }
}
