//! The log of an auction that opens with pre-bids, with the calls of the bidders, and wrong ones.

#![expect(clippy::needless_pass_by_value, reason = "lines are built as data, with values in place")]

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::correct::{ANNA, AUCTION, BEN, CARL, HOST, next_head};
use crate::history::{History, Kind};
use crate::invariant::Invariant;
use crate::verdict::Demands;

const START: u64 = 10_000;

fn id(number: u64) -> String {
    format!("00000000-0000-4000-8000-0000000003{number:02}")
}

/// Seq, kind, time, and the fields that a record of this kind has besides.
fn record(seq: u64, kind: &str, time: u64, more: Value, state: Value) -> Value {
    let mut record =
        json!({"v": 1, "type": kind, "auction_id": AUCTION, "seq": seq, "time": time, "marks": [], "state": state});
    more.as_object().into_iter().flatten().for_each(|(field, value)| record[field] = value.clone());
    record
}

fn kept(seq: u64, user: &str) -> Value {
    let prebid = json!({"bid_id": id(seq), "username": "x", "value": format!("sealed-{seq}")});
    record(seq, "maximum", 2_000, json!({"by": user, "sealed": {"prebid": prebid, "answers": seq}}), json!({}))
}

fn bid(seq: u64, user: &str, cents: u64) -> Value {
    json!({"seq": seq, "bid_id": format!("00000000-0000-f000-8000-0000000000{seq:02}"), "user_id": user,
           "username": "x", "amount_cents": cents, "timestamp": START, "kind": "prebid"})
}

/// From 70.00 in steps of 10.00. Carl, who has offered most, is blocked; Anna's second offer beats Ben's by 110.00.
fn correct() -> Vec<Value> {
    let created = json!({
        "status": "scheduled", "host_user_id": HOST, "host_username": "host", "starting_bid_cents": 7_000,
        "increment_cents": 1_000, "duration_ms": 60_000, "anti_snipe_mode": "off", "anti_snipe_window_ms": 0,
        "anti_snipe_extension_ms": 0, "anti_snipe_max_extensions": 0, "created_at": 1_000, "starts_at": START,
        "end_time": START + 60_000, "extension_count": 0, "bid_count": 0, "high_bid_cents": null, "high_bidder_id": null,
        "minimum_bid_cents": 7_000, "top_bids": [], "reason": null, "outcome": null, "winner_id": null,
        "winning_bid_cents": null, "options": {"allow_prebids": true}});
    let top = |user: &str, cents: u64| json!({"user_id": user, "username": "x", "amount_cents": cents});
    vec![
        record(1, "created", 1_000, json!({"sealed": {"answers": 0}}), created),
        kept(2, ANNA),
        kept(3, BEN),
        kept(4, CARL),
        kept(5, ANNA),
        record(
            6,
            "blocked",
            3_000,
            json!({"by": HOST, "user_id": CARL}),
            json!({"by_host": {"pauses": 0, "blocked": [CARL]}}),
        ),
        record(
            8,
            "bids",
            START,
            json!({"bids": [bid(7, BEN, 7_000), bid(8, ANNA, 20_000)]}),
            json!({"high_bidder_id": ANNA, "high_bid_cents": 20_000, "minimum_bid_cents": 21_000, "bid_count": 2,
                   "top_bids": [top(ANNA, 20_000), top(BEN, 7_000)]}),
        ),
        record(9, "opened", START, json!({}), json!({"status": "live"})),
    ]
}

/// The text of the fact, or of the bid with this number.
fn fact(record: &Value, nth: usize) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let (seq, time, by) = (&record["seq"], &record["time"], text(&record["by"]));
    let state = &record["state"];
    match text(&record["type"]).as_str() {
        "created" => {
            format!("1\ncreated\n{time}\n{AUCTION}\n{HOST}\nhost\n7000\n1000\n60000\noff\n0\n0\n0\n{START}\nprebids")
        }
        "maximum" => {
            let prebid = &record["sealed"]["prebid"];
            format!("{seq}\nmaximum\n{time}\n{by}\n{}\n{}", text(&prebid["bid_id"]), text(&prebid["value"]))
        }
        "blocked" => format!("{seq}\nblocked\n{time}\n{by}\n{}", text(&record["user_id"])),
        "opened" => format!("{seq}\nopened\n{time}\n{}", state["end_time"]),
        _ => {
            let bid = &record["bids"][nth];
            let fields = ["seq", "kind", "bid_id", "user_id", "username", "amount_cents", "timestamp"];
            fields.map(|name| text(&bid[name])).join("\n")
        }
    }
}

/// The invariants that these records break, with a chain over whatever they say, and calls of these amounts and maximums.
fn broken(records: Vec<Value>, limits: [(u64, Option<u64>); 4]) -> BTreeSet<Invariant> {
    let (mut state, mut head, mut lines) = (json!({}), "0".repeat(16), Vec::new());
    for mut record in records {
        record["state"].as_object().into_iter().flatten().for_each(|(field, value)| state[field] = value.clone());
        (record["state"], record["prev"]) = (state.clone(), json!(head));
        for nth in 0..record["bids"].as_array().map_or(1, Vec::len) {
            head = next_head(&head, &fact(&record, nth));
        }
        record["head"] = json!(head);
        lines.push(json!({"kind": "record", "stream_seq": record["seq"], "record": record}).to_string());
    }
    for ((seq, user), (cents, max_cents)) in (2..).zip([ANNA, BEN, CARL, ANNA]).zip(limits) {
        let answer = json!({"status": "accepted", "bid_id": id(seq), "seq": seq, "amount": 70});
        lines.push(
            json!({"kind": "call", "user_id": user, "bid_id": id(seq), "auction_id": AUCTION, "cents": cents,
                   "max_cents": max_cents, "sent": seq * 1_000, "answered": seq * 1_000 + 500, "answer": answer})
            .to_string(),
        );
    }
    let history = History::parse(&lines.join("\n")).expect("a history");
    let without = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Record && *kind != Kind::Call).collect();
    let mut verdict = crate::check(&history, &Demands { without, ..Demands::default() });
    verdict.violations.retain(|violation| violation.invariant != Invariant::Input);
    verdict.broken()
}

/// Anna's offers, Ben's (an amount alone), and Carl's.
const LIMITS: [(u64, Option<u64>); 4] = [(0, Some(8_000)), (19_000, None), (0, Some(90_000)), (0, Some(30_000))];

#[test]
fn opening_that_follows_from_the_prebids_passes() {
    assert_eq!(broken(correct(), LIMITS), BTreeSet::new());
}

#[test]
fn every_wrong_opening_is_found() {
    type Variant = (&'static str, fn(&mut Vec<Value>));
    let variants: &[Variant] = &[
        ("a blocked person keeps a bid", |records| records.swap(4, 5)),
        ("a pre-bid is left out", |records| drop(records[6]["bids"].as_array_mut().expect("bids").remove(0))),
        ("a blocked person leads", |records| records[6]["bids"][1]["user_id"] = json!(CARL)),
        ("another bid is not at the start", |records| records[6]["bids"][0]["amount_cents"] = json!(19_000)),
        ("another name", |records| records[6]["bids"][1]["username"] = json!("y")),
        ("the kind of a person's bid", |records| records[6]["bids"][1]["kind"] = json!("bid")),
        ("the opening leaves them all out", |records| drop(records.remove(6))),
        ("the auction keeps none", |records| records[0]["state"]["options"] = json!({})),
        ("the host keeps one", |records| records[2]["by"] = json!(HOST)),
    ];
    for (name, break_it) in variants {
        let mut records = correct();
        break_it(&mut records);
        let broken = broken(records, LIMITS);
        assert!(broken.contains(&Invariant::Legal) || broken.contains(&Invariant::Dense), "{name}: {broken:?}");
    }
}

#[test]
fn leader_and_price_are_those_of_the_calls() {
    for (name, limits) in [
        ("Ben offered more", [LIMITS[0], (31_000, None), LIMITS[2], LIMITS[3]]),
        ("Ben offered as much before", [LIMITS[0], (30_000, None), LIMITS[2], LIMITS[3]]),
        ("another step", [LIMITS[0], (18_999, None), LIMITS[2], LIMITS[3]]),
    ] {
        assert_eq!(broken(correct(), limits), BTreeSet::from([Invariant::Legal]), "{name}");
    }
}
