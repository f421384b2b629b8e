//! The log of an auction with a ladder, resets, self-raises, a pause, a block and a buy-now price, and wrong ones.

#![expect(clippy::needless_pass_by_value, reason = "lines are built as data, with values in place")]

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::correct::{ANNA, AUCTION, BEN, CARL, HOST, next_head};
use crate::history::{History, Kind};
use crate::invariant::Invariant;
use crate::verdict::{Demands, Verdict};

fn bid(seq: u64, user: &str, cents: u64, timestamp: u64) -> Value {
    json!({"seq": seq, "bid_id": format!("00000000-0000-4000-8000-0000000002{seq:02}"), "user_id": user,
           "username": "x", "amount_cents": cents, "timestamp": timestamp, "kind": "bid"})
}

/// A record, with those fields of the state that differ from the record before.
fn record(kind: &str, seq: u64, time: u64, changed: Value) -> Value {
    json!({"v": 1, "type": kind, "auction_id": AUCTION, "seq": seq, "time": time, "marks": [], "state": changed})
}

fn bids(time: u64, bid: Value, changed: Value) -> Value {
    let mut record = record("bids", bid["seq"].as_u64().expect("a seq"), time, changed);
    record["bids"] = json!([bid]);
    record
}

fn by_host(kind: &str, seq: u64, time: u64, changed: Value) -> Value {
    let mut record = record(kind, seq, time, changed);
    record["by"] = json!(HOST);
    record
}

fn top(ranked: &[(&str, u64)]) -> Value {
    ranked.iter().map(|(user, cents)| json!({"user_id": user, "username": "x", "amount_cents": cents})).collect()
}

/// From 1.00, in steps of 1.00 and from 3.00 of 2.00; a bid leaves at least 10 s, and 10.00 buys.
fn correct() -> Vec<Value> {
    let leads = |user: &str, cents: u64, minimum: u64, count: u64, step: u64, ranked: Value| {
        json!({"high_bidder_id": user, "high_bid_cents": cents, "minimum_bid_cents": minimum, "bid_count": count,
               "increment_cents": step, "top_bids": ranked})
    };
    let merge = |mut changed: Value, more: Value| {
        more.as_object().into_iter().flatten().for_each(|(field, value)| changed[field] = value.clone());
        changed
    };
    let mut blocked = by_host("blocked", 6, 12_000, json!({}));
    blocked["user_id"] = json!(BEN);
    blocked["state"]["by_host"] = json!({"pauses": 1, "remaining_ms": 50_000, "blocked": [BEN]});
    vec![
        record(
            "created",
            1,
            1_000,
            json!({
            "status": "scheduled", "host_user_id": HOST, "host_username": "host", "starting_bid_cents": 100,
            "increment_cents": 100, "duration_ms": 60_000, "anti_snipe_mode": "reset", "anti_snipe_window_ms": 0,
            "anti_snipe_extension_ms": 10_000, "anti_snipe_max_extensions": 0, "created_at": 1_000, "starts_at": 1_000,
            "end_time": 61_000, "extension_count": 0, "bid_count": 0, "high_bid_cents": null, "high_bidder_id": null,
            "minimum_bid_cents": 100, "top_bids": [], "reason": null, "outcome": null, "winner_id": null,
            "winning_bid_cents": null, "options": {"allow_self_raise": true, "buy_now_cents": 1_000,
            "increments": [{"from_cents": 0, "step_cents": 100}, {"from_cents": 300, "step_cents": 200}]}}),
        ),
        record("opened", 2, 1_000, json!({"status": "live"})),
        bids(2_000, bid(3, ANNA, 100, 2_000), leads(ANNA, 100, 200, 1, 100, top(&[(ANNA, 100)]))),
        bids(3_000, bid(4, ANNA, 300, 3_000), leads(ANNA, 300, 500, 2, 200, top(&[(ANNA, 300)]))),
        by_host("paused", 5, 11_000, json!({"status": "paused", "by_host": {"pauses": 1, "remaining_ms": 50_000}})),
        blocked,
        by_host(
            "resumed",
            7,
            21_000,
            json!({"status": "live", "end_time": 71_000,
            "by_host": {"pauses": 1, "blocked": [BEN]}}),
        ),
        bids(
            65_000,
            bid(8, CARL, 500, 65_000),
            merge(
                leads(CARL, 500, 700, 3, 200, top(&[(CARL, 500), (ANNA, 300)])),
                json!({"end_time": 75_000, "extension_count": 1}),
            ),
        ),
        bids(
            66_000,
            bid(9, ANNA, 1_000, 66_000),
            leads(ANNA, 1_000, 1_000, 4, 200, top(&[(ANNA, 1_000), (CARL, 500)])),
        ),
        record(
            "closed",
            10,
            66_000,
            json!({"status": "closed", "reason": "buy_now", "outcome": "sold",
            "winner_id": ANNA, "winning_bid_cents": 1_000}),
        ),
    ]
}

/// The text of the record's one fact, from what the record says.
fn fact(record: &Value) -> String {
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        value => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    };
    let state = &record["state"];
    let of_state = |names: &[&str]| names.iter().map(|name| text(&state[*name])).collect::<Vec<_>>().join("\n");
    let (seq, time, by) = (&record["seq"], &record["time"], text(&record["by"]));
    let kind = text(&record["type"]);
    match kind.as_str() {
        "created" => format!(
            "1\ncreated\n{time}\n{AUCTION}\n{HOST}\nhost\n100\n0:100 300:200\n60000\nreset\n0\n10000\n0\n1000\nself_raise\n\
             buy_now 1000"
        ),
        "opened" => format!("{seq}\nopened\n{time}\n{}", state["end_time"]),
        "bids" => {
            let bid = &record["bids"][0];
            let fields = ["bid_id", "user_id", "username", "amount_cents", "timestamp"].map(|name| text(&bid[name]));
            format!("{seq}\nbid\n{}", fields.join("\n"))
        }
        "paused" => format!("{seq}\npaused\n{time}\n{by}\n{}", state["by_host"]["remaining_ms"]),
        "resumed" => format!("{seq}\nresumed\n{time}\n{by}\n{}", state["end_time"]),
        "closed" => format!(
            "{seq}\nclosed\n{time}\n{}",
            of_state(&["reason", "by", "outcome", "winner_id", "winning_bid_cents"])
        ),
        _ => format!("{seq}\n{kind}\n{time}\n{by}\n{}", text(&record["user_id"])),
    }
}

/// Judges these records, with whole states and a chain over whatever they say.
fn judged(records: Vec<Value>) -> Verdict {
    judged_with(records, Vec::new())
}

/// The same beside other lines.
fn judged_with(records: Vec<Value>, mut lines: Vec<String>) -> Verdict {
    let (mut state, mut head) = (json!({}), "0".repeat(16));
    for mut record in records {
        for (field, value) in record["state"].as_object().into_iter().flatten() {
            state[field] = value.clone();
        }
        record["state"] = state.clone();
        record["prev"] = json!(head);
        head = next_head(&head, &fact(&record));
        record["head"] = json!(head);
        lines.push(json!({"kind": "record", "stream_seq": record["seq"], "record": record}).to_string());
    }
    let history = History::parse(&lines.join("\n")).expect("a history");
    let without = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Record).collect();
    let mut verdict = Verdict::default();
    let folded = crate::log::fold(&history, AUCTION, &mut verdict);
    crate::ends::check(&history, AUCTION, &folded, &mut verdict);
    crate::check_demands(&history, &Demands { without, ..Demands::default() }, &mut verdict);
    verdict
}

#[test]
fn log_that_keeps_the_rules_passes() {
    assert_eq!(judged(correct()).violations, []);
}

#[test]
fn every_broken_rule_is_found() {
    type Variant = (&'static str, Invariant, fn(&mut Vec<Value>));
    let variants: &[Variant] = &[
        ("a bid is below the step of its band", Invariant::Legal, |records| {
            records[7]["bids"][0]["amount_cents"] = json!(499);
        }),
        ("a blocked person bids", Invariant::Legal, |records| records[7]["bids"][0]["user_id"] = json!(BEN)),
        ("a bid leaves less than the extension", Invariant::Legal, |records| {
            records[7]["state"]["end_time"] = json!(71_000);
        }),
        ("the pause costs time", Invariant::Dense, |records| records[6]["state"]["end_time"] = json!(61_000)),
        ("a guest pauses", Invariant::Legal, |records| records[4]["by"] = json!(ANNA)),
        ("a paused auction is paused", Invariant::Legal, |records| {
            records[5] = by_host("paused", 6, 12_000, json!({"by_host": {"pauses": 2, "remaining_ms": 49_000}}));
        }),
        ("a bid comes while the auction is paused", Invariant::Legal, |records| {
            records[5] = bids(12_000, bid(6, CARL, 500, 12_000), json!({}));
        }),
        ("a block is not in the state", Invariant::Legal, |records| {
            records[5]["state"]["by_host"] = json!({"pauses": 1, "remaining_ms": 50_000});
        }),
        ("a bid goes beyond the buy-now price", Invariant::Legal, |records| {
            records[8]["bids"][0]["amount_cents"] = json!(1_001);
        }),
        ("a bid follows the one that bought", Invariant::Legal, |records| {
            records[9] = bids(66_000, bid(10, CARL, 1_000, 66_000), json!({}));
        }),
        ("the auction is closed as if it had ended", Invariant::OneClose, |records| {
            records[9]["state"]["reason"] = json!("ended");
        }),
        ("the auction is bought below the price", Invariant::OneClose, |records| {
            records.remove(8);
            records[8]["seq"] = json!(9);
        }),
    ];
    for (name, invariant, break_it) in variants {
        let mut records = correct();
        break_it(&mut records);
        let broken: BTreeSet<Invariant> = judged(records).broken();
        assert!(broken.contains(invariant), "{name}: {broken:?}");
    }
    // Without that option the same log is wrong: a leader raised their own bid.
    let mut records = correct();
    records[0]["state"]["options"]["allow_self_raise"] = json!(false);
    assert_ne!(judged(records).violations, []);
}

/// The same auction without its purchase: it had ended at 75,000, and went on at 78,000.
fn recovered() -> Vec<Value> {
    let mut records = correct();
    records.truncate(8);
    records.push(record("resumed", 9, 78_000, json!({"end_time": 88_000, "recoveries": 1})));
    records.push(record(
        "closed",
        10,
        88_005,
        json!({"status": "closed", "reason": "ended", "outcome": "sold", "winner_id": CARL, "winning_bid_cents": 500}),
    ));
    records
}

#[test]
fn outage_over_the_end_gives_time_once() {
    // NATS is away from before the end until shortly before the auction goes on.
    let outage = json!({"kind": "fault", "parts": ["nats"], "from": 74_000_000, "to": 77_900_000}).to_string();
    assert_eq!(judged_with(recovered(), vec![outage.clone()]).violations, []);
    assert!(judged(recovered()).broken().contains(&Invariant::OneClose), "a closing was late without a fault");
    type Variant = (&'static str, Invariant, fn(&mut Vec<Value>));
    let variants: &[Variant] = &[
        ("the closing was not late", Invariant::Legal, |records| {
            records[8] = record("resumed", 9, 77_000, json!({"end_time": 87_000, "recoveries": 1}));
        }),
        ("it gives too much time", Invariant::Dense, |records| records[8]["state"]["end_time"] = json!(99_000)),
        ("it is not counted", Invariant::Legal, |records| records[8]["state"]["recoveries"] = json!(0)),
        ("a late closing gives no time", Invariant::OneClose, |records| {
            let closed = records.pop().expect("a closing");
            records[8] = closed;
            (records[8]["seq"], records[8]["time"]) = (json!(9), json!(78_000));
        }),
    ];
    for (name, invariant, change) in variants {
        let mut records = recovered();
        change(&mut records);
        let broken: BTreeSet<Invariant> = judged_with(records, vec![outage.clone()]).broken();
        assert!(broken.contains(invariant), "{name}: {broken:?}");
    }
}
