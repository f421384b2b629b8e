//! A correct history passes; each wrong one is caught by the invariant that forbids it.

#![expect(clippy::needless_pass_by_value, reason = "lines are built as data, with values in place")]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use crate::history::{History, Kind};
use crate::invariant::Invariant;
use crate::report::report;
use crate::verdict::{Demands, Verdict};

const AUCTION: &str = "00000000-0000-4000-8000-0000000000aa";
const HOST: &str = "00000000-0000-4000-8000-000000000001";
const ANNA: &str = "00000000-0000-4000-8000-000000000002";
const BEN: &str = "00000000-0000-4000-8000-000000000003";
const CARL: &str = "00000000-0000-4000-8000-000000000004";
/// Milliseconds at which the auction is opened, and its end before and after the one extension.
const OPENED: u64 = 1_000_000;
const END: u64 = OPENED + 60_000;
const MOVED_END: u64 = END + 10_000;

fn bid_id(nth: u64) -> String {
    format!("00000000-0000-4000-8000-0000000001{nth:02}")
}

fn name(user: &str) -> &'static str {
    match user {
        HOST => "host",
        ANNA => "anna",
        BEN => "ben",
        _ => "carl",
    }
}

fn bid(seq: u64, user: &str, cents: u64, timestamp: u64) -> Value {
    json!({"seq": seq, "bid_id": bid_id(seq), "user_id": user, "username": name(user), "amount_cents": cents,
           "timestamp": timestamp, "kind": "bid"})
}

fn public(seq: u64, user: &str, cents: u64, timestamp: u64) -> Value {
    json!({"seq": seq, "bid_id": bid_id(seq), "user_id": user, "username": name(user), "amount": cents as f64 / 100.0,
           "timestamp": timestamp, "kind": "bid"})
}

fn state(status: &str, end_time: u64, extensions: u64, top: &[(&str, u64)], bid_count: u64) -> Value {
    let leader = top.first();
    let top: Vec<_> = top
        .iter()
        .map(|(user, cents)| json!({"user_id": user, "username": name(user), "amount_cents": cents}))
        .collect();
    json!({"status": status, "host_user_id": HOST, "host_username": "host", "starting_bid_cents": 100,
           "increment_cents": 100, "duration_ms": 60_000, "anti_snipe_mode": "extend", "anti_snipe_window_ms": 5_000,
           "anti_snipe_extension_ms": 10_000, "anti_snipe_max_extensions": 3, "created_at": OPENED, "starts_at": OPENED,
           "end_time": end_time, "extension_count": extensions, "bid_count": bid_count,
           "high_bid_cents": leader.map(|leader| leader.1), "high_bidder_id": leader.map(|leader| leader.0),
           "minimum_bid_cents": leader.map_or(100, |leader| leader.1 + 100), "top_bids": top,
           "reason": null, "outcome": null, "winner_id": null, "winning_bid_cents": null})
}

fn record(kind: &str, seq: u64, time: u64, bids: Value, state: Value) -> Value {
    json!({"kind": "record", "stream_seq": 100 + seq, "record": {"v": 1, "type": kind, "auction_id": AUCTION,
           "seq": seq, "prev": "", "head": "", "time": time, "bids": bids, "marks": [], "state": state}})
}

fn call(nth: u64, user: &str, cents: u64, sent_ms: u64, answer: Value) -> Value {
    json!({"kind": "call", "user_id": user, "bid_id": bid_id(nth), "auction_id": AUCTION, "cents": cents,
           "sent": sent_ms * 1000, "answered": (sent_ms + 5) * 1000, "answer": answer})
}

fn accepted(seq: u64, cents: u64) -> Value {
    json!({"status": "accepted", "bid_id": bid_id(seq), "seq": seq, "amount": cents as f64 / 100.0,
           "minimum_bid": (cents + 100) as f64 / 100.0})
}

fn rejected(code: &str, nth: u64, seq: u64, high: u64) -> Value {
    json!({"status": "rejected", "code": code, "bid_id": bid_id(nth), "seq": seq,
           "current_high_bid": high as f64 / 100.0, "minimum_bid": (high + 100) as f64 / 100.0})
}

fn update(previous: u64, seq: u64, bids: Value, top: (&str, u64), count: u64, end_time: u64, extensions: u64) -> Value {
    json!({"kind": "frame", "connection": "c1", "user_id": ANNA, "at": seq * 1_000_000, "event": "bid_update", "data": {
           "auction_id": AUCTION, "seq": seq, "previous_seq": previous, "bids": bids, "high_bid": top.1 as f64 / 100.0,
           "high_bidder_id": top.0, "bid_count": count, "minimum_bid": (top.1 + 100) as f64 / 100.0,
           "end_time": end_time, "extension_count": extensions, "status": "live", "you_are_winning": top.0 == ANNA}})
}

fn frame(event: &str, data: Value) -> Value {
    json!({"kind": "frame", "connection": "c1", "user_id": ANNA, "at": (MOVED_END + 3_000) * 1000, "event": event,
           "data": data})
}

/// An auction in which anna, ben and carl bid; anna's last bid moves the end and wins.
fn correct() -> Vec<Value> {
    let late = END - 2_000;
    let (third, fourth, fifth, sixth) = (OPENED + 100, OPENED + 200, OPENED + 201, late);
    let tops = [(ANNA, 400), (CARL, 300), (BEN, 200)];
    let mut closed = state("closed", MOVED_END, 1, &tops, 4);
    for (field, value) in [
        ("reason", json!("ended")),
        ("outcome", json!("sold")),
        ("winner_id", json!(ANNA)),
        ("winning_bid_cents", json!(400)),
    ] {
        closed[field] = value;
    }
    let mut lines = vec![
        record("created", 1, OPENED, json!([]), state("scheduled", END, 0, &[], 0)),
        record("opened", 2, OPENED, json!([]), state("live", END, 0, &[], 0)),
        record("bids", 3, third, json!([bid(3, ANNA, 100, third)]), state("live", END, 0, &[(ANNA, 100)], 1)),
        record(
            "bids",
            5,
            fifth,
            json!([bid(4, BEN, 200, fourth), bid(5, CARL, 300, fifth)]),
            state("live", END, 0, &[(CARL, 300), (BEN, 200), (ANNA, 100)], 3),
        ),
        record("bids", 6, sixth, json!([bid(6, ANNA, 400, sixth)]), state("live", MOVED_END, 1, &tops, 4)),
        record("closed", 7, MOVED_END + 20, json!([]), closed),
        call(3, ANNA, 100, third, accepted(3, 100)),
        call(4, BEN, 200, fourth, accepted(4, 200)),
        call(5, CARL, 300, fifth, accepted(5, 300)),
        call(4, BEN, 200, fifth + 50, accepted(4, 200)),
        call(20, BEN, 350, fifth + 100, rejected("bid_too_low", 20, 5, 300)),
        call(21, CARL, 900, fifth + 110, rejected("already_leading", 21, 5, 300)),
        call(22, HOST, 900, fifth + 120, rejected("host_cannot_bid", 22, 5, 300)),
        call(20, ANNA, 380, fifth + 130, rejected("bid_id_reused", 20, 5, 300)),
        json!({"kind": "call", "user_id": ANNA, "bid_id": bid_id(6), "auction_id": AUCTION, "cents": 400,
               "sent": (late - 3) * 1000, "answered": null, "answer": null}),
        call(23, BEN, 900, MOVED_END + 5, rejected("auction_closed", 23, 6, 400)),
        call(24, BEN, 900, MOVED_END + 900, rejected("auction_closed", 24, 7, 400)),
        json!({"kind": "fault", "what": "postgres killed", "parts": ["postgres"], "from": (fifth + 40) * 1000,
               "to": (fifth + 60) * 1000}),
        json!({"kind": "fault", "what": "redis emptied", "parts": ["redis"], "from": (fourth - 2) * 1000,
               "to": (fourth - 1) * 1000}),
        json!({"kind": "secret", "text": "stream-key-of-the-host"}),
        json!({"kind": "secret", "text": "anna@example.com"}),
        frame("connected", json!({})),
        frame(
            "joined_auction",
            json!({"auction_id": AUCTION, "seq": 2, "recovered": false, "current_high_bid": null,
               "high_bidder_id": null, "bid_count": 0, "minimum_bid": 1.0, "end_time": END, "extension_count": 0,
               "status": "live"}),
        ),
        update(2, 3, json!([public(3, ANNA, 100, third)]), (ANNA, 100), 1, END, 0),
        update(3, 5, json!([public(4, BEN, 200, fourth), public(5, CARL, 300, fifth)]), (CARL, 300), 3, END, 0),
        frame("timer_update", json!({"auction_id": AUCTION, "seq": 5})),
        update(5, 6, json!([public(6, ANNA, 400, sixth)]), (ANNA, 400), 4, MOVED_END, 1),
        frame(
            "auction_ended",
            json!({"auction_id": AUCTION, "seq": 7, "outcome": "sold", "winner_id": ANNA,
               "winning_bid": 4.0, "bid_count": 4, "you_won": true}),
        ),
        json!({"kind": "row", "row": {"auction_id": AUCTION, "status": "closed", "outcome": "sold", "winner_id": ANNA,
               "winning_bid": 4.0, "bid_count": 4}}),
    ];
    for (seq, user, cents, timestamp) in
        [(3, ANNA, 100, third), (4, BEN, 200, fourth), (5, CARL, 300, fifth), (6, ANNA, 400, sixth)]
    {
        lines.push(json!({"kind": "item", "auction_id": AUCTION, "item": public(seq, user, cents, timestamp)}));
    }
    for (user, mail) in [(ANNA, "won"), (BEN, "lost"), (CARL, "lost"), (HOST, "hosted")] {
        lines.push(json!({"kind": "mail", "auction_id": AUCTION, "user_id": user, "mail": mail}));
    }
    chained(&mut lines);
    lines
}

/// The head after one more fact.
fn next_head(head: &str, fact: &str) -> String {
    let digest = Sha1::digest(format!("{head}\n{fact}"));
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Computes the chain over whatever the records say, as a system would that is wrong and consistent.
fn chained(lines: &mut [Value]) {
    let mut head = "0".repeat(16);
    for line in lines.iter_mut().filter(|line| line["kind"] == "record") {
        let record = &mut line["record"];
        record["prev"] = json!(head.to_string());
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let (kind, state) = (text(&record["type"]), record["state"].clone());
        let fields = |names: &[&str]| names.iter().map(|name| text(&state[*name])).collect::<Vec<_>>().join("\n");
        let (seq, time) = (record["seq"].clone(), record["time"].clone());
        let facts: Vec<String> = match kind.as_str() {
            "created" => {
                let rules = fields(&[
                    "host_user_id",
                    "host_username",
                    "starting_bid_cents",
                    "increment_cents",
                    "duration_ms",
                    "anti_snipe_mode",
                    "anti_snipe_window_ms",
                    "anti_snipe_extension_ms",
                    "anti_snipe_max_extensions",
                    "starts_at",
                ]);
                vec![format!("1\ncreated\n{time}\n{AUCTION}\n{rules}")]
            }
            "opened" => vec![format!("{seq}\nopened\n{time}\n{}", state["end_time"])],
            "bids" => record["bids"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|bid| {
                    let fields = ["bid_id", "user_id", "username", "amount_cents", "timestamp"];
                    let fields: Vec<_> = fields.iter().map(|field| text(&bid[*field])).collect();
                    format!("{}\nbid\n{}", bid["seq"], fields.join("\n"))
                })
                .collect(),
            _ => vec![format!(
                "{seq}\nclosed\n{time}\n{}",
                fields(&["reason"]) + "\n\n" + &fields(&["outcome", "winner_id", "winning_bid_cents"])
            )],
        };
        for fact in facts {
            head = next_head(&head, &fact);
        }
        record["head"] = json!(head.to_string());
        record["marks"] = json!([{"seq": record["seq"], "head": record["head"]}]);
    }
}

fn judged(lines: &[Value], demands: &Demands) -> (History, Verdict) {
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    let history = History::parse(&text.join("\n")).expect("a history");
    let verdict = crate::check(&history, demands);
    (history, verdict)
}

fn find(lines: &mut [Value], kind: &str, nth: usize) -> usize {
    lines.iter().enumerate().filter(|(_, line)| line["kind"] == kind).nth(nth).expect("a line").0
}

#[test]
fn chain_is_the_one_of_sha1sum() {
    // SHA-1("0000000000000000\na") by `printf '0000000000000000\na' | sha1sum`.
    assert_eq!(next_head(&"0".repeat(16), "a"), "4c8df2d00fde7a5b");
}

#[test]
fn correct_history_passes() {
    let (history, verdict) = judged(&correct(), &Demands { faults: 2, unknown: 1, ..Demands::default() });
    assert_eq!(verdict.violations, [], "{}", report(&history, &verdict));
}

/// A wrong history: its name, the invariant that forbids it, and the change that makes a correct history wrong.
type Variant = (&'static str, Invariant, fn(&mut Vec<Value>));

fn line<'a>(lines: &'a mut [Value], kind: &str, nth: usize) -> &'a mut Value {
    let at = find(lines, kind, nth);
    &mut lines[at]
}

fn remove(lines: &mut Vec<Value>, kind: &str, nth: usize) {
    let at = find(lines, kind, nth);
    lines.remove(at);
}

fn repeat(lines: &mut Vec<Value>, kind: &str, nth: usize) {
    let copy = line(lines, kind, nth).clone();
    lines.push(copy);
}

const VARIANTS: &[Variant] = &[
    ("an accepted bid was lost", Invariant::Durable, |lines| {
        lines.push(call(30, CARL, 500, OPENED + 400, accepted(30, 500)));
    }),
    ("an accepted bid has another seq in the log", Invariant::Durable, |lines| {
        line(lines, "call", 0)["answer"]["seq"] = json!(2);
    }),
    ("an accepted bid has another amount in the log", Invariant::Durable, |lines| {
        line(lines, "call", 0)["cents"] = json!(150)
    }),
    ("a rejected bid is in the log", Invariant::NoPhantom, |lines| {
        let call = line(lines, "call", 8);
        (call["answer"], call["answered"]) = (rejected("bid_too_low", 6, 5, 300), json!(END * 1000));
    }),
    ("a bid that no client placed is in the log", Invariant::NoPhantom, |lines| remove(lines, "call", 8)),
    ("a seq is skipped", Invariant::Dense, |lines| {
        line(lines, "record", 4)["record"]["seq"] = json!(8);
        line(lines, "record", 4)["record"]["bids"][0]["seq"] = json!(8);
        chained(lines);
    }),
    ("a bid is in the log twice", Invariant::Dense, |lines| {
        line(lines, "record", 4)["record"]["bids"][0]["bid_id"] = json!(bid_id(4));
        chained(lines);
    }),
    ("a record was altered", Invariant::Dense, |lines| {
        line(lines, "record", 2)["record"]["bids"][0]["amount_cents"] = json!(120)
    }),
    ("a record is missing", Invariant::Dense, |lines| remove(lines, "record", 2)),
    ("two records are swapped", Invariant::Dense, |lines| {
        line(lines, "record", 2)["stream_seq"] = json!(105);
        line(lines, "record", 3)["stream_seq"] = json!(103);
    }),
    ("a bid below the increment was accepted", Invariant::Legal, |lines| {
        line(lines, "record", 4)["record"]["bids"][0]["amount_cents"] = json!(350);
        chained(lines);
    }),
    ("a late bid was accepted", Invariant::Legal, |lines| {
        line(lines, "record", 4)["record"]["bids"][0]["timestamp"] = json!(END);
        chained(lines);
    }),
    ("the host bid", Invariant::Legal, |lines| {
        line(lines, "record", 4)["record"]["bids"][0]["user_id"] = json!(HOST);
        chained(lines);
    }),
    ("the leader outbid their own bid", Invariant::Legal, |lines| {
        line(lines, "record", 4)["record"]["bids"][0]["user_id"] = json!(CARL);
        chained(lines);
    }),
    ("an extension was lost", Invariant::Legal, |lines| {
        line(lines, "record", 4)["record"]["state"]["end_time"] = json!(END);
        line(lines, "record", 4)["record"]["state"]["extension_count"] = json!(0);
    }),
    ("the end moved back", Invariant::Legal, |lines| {
        line(lines, "record", 3)["record"]["state"]["end_time"] = json!(END - 1);
    }),
    ("the state names another leader", Invariant::Legal, |lines| {
        line(lines, "record", 3)["record"]["state"]["high_bidder_id"] = json!(BEN);
    }),
    ("a later bid got an earlier seq", Invariant::RealTime, |lines| {
        for (nth, sent) in [(1, OPENED + 300), (2, OPENED + 100)] {
            line(lines, "call", nth)["sent"] = json!(sent * 1000);
            line(lines, "call", nth)["answered"] = json!((sent + 5) * 1000);
        }
        remove(lines, "call", 3);
    }),
    ("a bid that was high enough was rejected", Invariant::JustRefusals, |lines| {
        line(lines, "call", 4)["cents"] = json!(450)
    }),
    ("a rejection rests on an outdated state", Invariant::JustRefusals, |lines| {
        let call = line(lines, "call", 4);
        (call["cents"], call["answer"]) = (json!(450), rejected("already_leading", 20, 3, 100));
        call["user_id"] = json!(ANNA);
    }),
    ("a bid in time was rejected as late", Invariant::JustRefusals, |lines| {
        line(lines, "call", 4)["answer"] = rejected("auction_closed", 20, 5, 300);
    }),
    ("a rejection shows another price", Invariant::JustRefusals, |lines| {
        line(lines, "call", 4)["answer"]["minimum_bid"] = json!(4.5);
    }),
    ("a rejection names a seq that the log does not have", Invariant::JustRefusals, |lines| {
        line(lines, "call", 4)["answer"]["seq"] = json!(99)
    }),
    ("a repeated bid got another answer", Invariant::Idempotent, |lines| {
        line(lines, "call", 3)["answer"]["minimum_bid"] = json!(9.0);
    }),
    ("an accepted bid was rejected when repeated", Invariant::Idempotent, |lines| {
        line(lines, "call", 3)["answer"] = rejected("bid_too_low", 4, 5, 300);
    }),
    ("the auction closed early", Invariant::OneClose, |lines| {
        line(lines, "record", 5)["record"]["time"] = json!(MOVED_END - 10);
        chained(lines);
    }),
    ("the auction closed late", Invariant::OneClose, |lines| {
        line(lines, "record", 5)["record"]["time"] = json!(MOVED_END + 1_500);
        chained(lines);
    }),
    ("the auction never closed", Invariant::OneClose, |lines| remove(lines, "record", 5)),
    ("the auction closed twice", Invariant::OneClose, |lines| {
        let mut again = line(lines, "record", 5).clone();
        (again["stream_seq"], again["record"]["seq"]) = (json!(108), json!(8));
        lines.push(again);
        chained(lines);
    }),
    ("the closing record names another winner", Invariant::OneWinner, |lines| {
        line(lines, "record", 5)["record"]["state"]["winner_id"] = json!(CARL);
        chained(lines);
    }),
    ("the row names another winner", Invariant::OneWinner, |lines| {
        line(lines, "row", 0)["row"]["winner_id"] = json!(BEN)
    }),
    ("the row is still live", Invariant::OneWinner, |lines| line(lines, "row", 0)["row"]["status"] = json!("live")),
    ("a frame names another winner", Invariant::OneWinner, |lines| {
        line(lines, "frame", 6)["data"]["winner_id"] = json!(BEN);
    }),
    ("a frame says you_won to a loser", Invariant::OneWinner, |lines| line(lines, "frame", 6)["user_id"] = json!(BEN)),
    ("a loser got the mail of the winner", Invariant::OneWinner, |lines| line(lines, "mail", 1)["mail"] = json!("won")),
    ("the history lacks a bid", Invariant::History, |lines| remove(lines, "item", 1)),
    ("the history has another amount", Invariant::History, |lines| {
        line(lines, "item", 1)["item"]["amount"] = json!(2.5)
    }),
    ("the history has a bid that the log does not have", Invariant::History, |lines| {
        lines.push(json!({"kind": "item", "auction_id": AUCTION, "item": public(9, BEN, 900, END)}));
    }),
    ("a loser got no mail", Invariant::Notified, |lines| remove(lines, "mail", 1)),
    ("the winner got the mail twice", Invariant::Notified, |lines| {
        repeat(lines, "mail", 0);
        remove(lines, "fault", 0);
    }),
    ("a frame repeats an older seq", Invariant::Sockets, |lines| repeat(lines, "frame", 2)),
    ("a frame hides a gap", Invariant::Sockets, |lines| {
        remove(lines, "frame", 3);
        line(lines, "frame", 4)["data"]["previous_seq"] = json!(3);
    }),
    ("a frame repeats bids", Invariant::Sockets, |lines| line(lines, "frame", 5)["data"]["previous_seq"] = json!(3)),
    ("a frame shows another price", Invariant::Sockets, |lines| {
        line(lines, "frame", 3)["data"]["high_bid"] = json!(9.0)
    }),
    ("a frame lacks a bid", Invariant::Sockets, |lines| line(lines, "frame", 3)["data"]["bids"] = json!([])),
    ("a frame shows a bid that is not in the log", Invariant::Sockets, |lines| {
        line(lines, "frame", 4)["data"]["seq"] = json!(9);
    }),
    ("a connection did not get the last record", Invariant::Sockets, |lines| remove(lines, "frame", 6)),
    ("a resumed client missed a bid", Invariant::Sockets, |lines| {
        let joined = line(lines, "frame", 1);
        (joined["last_seq"], joined["data"]["recovered"]) = (json!(1), json!(true));
        joined["data"]["missed_bids"] = json!([public(3, ANNA, 100, OPENED)]);
    }),
    ("cents have a fraction", Invariant::Money, |lines| {
        line(lines, "record", 0)["record"]["state"]["increment_cents"] = json!(100.5);
    }),
    ("an amount has three decimals", Invariant::Money, |lines| line(lines, "item", 0)["item"]["amount"] = json!(1.005)),
    ("a bid of 0", Invariant::Money, |lines| line(lines, "frame", 2)["data"]["high_bid"] = json!(0)),
    ("an error contains a stream key", Invariant::Secrets, |lines| {
        line(lines, "call", 4)["answer"]["error"] = json!("no stream-key-of-the-host here");
    }),
    ("a frame contains an e-mail address", Invariant::Secrets, |lines| {
        line(lines, "frame", 4)["data"]["by"] = json!("anna@example.com")
    }),
    ("a record contains a token", Invariant::Secrets, |lines| {
        line(lines, "record", 1)["record"]["note"] = json!("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln");
    }),
    ("no bid was accepted after a fault", Invariant::Recovery, |lines| {
        for nth in [1, 2, 3, 4, 5, 6, 7] {
            line(lines, "call", nth)["answer"] = json!({"status": "rejected", "code": "unavailable"});
        }
    }),
    ("a bid failed while only PostgreSQL was down", Invariant::NarrowPath, |lines| {
        line(lines, "call", 3)["answer"] = json!({"status": "rejected", "code": "unavailable"});
        line(lines, "fault", 1)["from"] = json!(1);
        line(lines, "fault", 1)["to"] = json!(2);
    }),
];

#[test]
fn every_wrong_history_is_caught_by_its_invariant() {
    assert!(VARIANTS.len() >= 20);
    let covered: BTreeSet<Invariant> = VARIANTS.iter().map(|(_, invariant, _)| *invariant).collect();
    let expected: BTreeSet<Invariant> =
        Invariant::ALL.iter().copied().filter(|invariant| *invariant != Invariant::Input).collect();
    assert_eq!(covered, expected, "every invariant has a history that breaks it");
    for (name, invariant, make_wrong) in VARIANTS {
        let mut lines = correct();
        make_wrong(&mut lines);
        let (history, verdict) = judged(&lines, &Demands::default());
        let text = report(&history, &verdict);
        assert!(verdict.broken().contains(invariant), "{name}: not caught as {invariant}:\n{text}");
        let proven = verdict.violations.iter().filter(|violation| violation.invariant == *invariant);
        assert!(
            proven.clone().any(|violation| !violation.witness.is_empty()),
            "{name}: no violation has a witness:\n{text}"
        );
    }
}

#[test]
fn run_that_hit_nothing_fails() {
    let broken = |lines: &[Value], demands: &Demands| judged(lines, demands).1.broken();
    let input = BTreeSet::from([Invariant::Input]);
    assert_eq!(broken(&correct(), &Demands { faults: 3, ..Demands::default() }), input);
    assert_eq!(broken(&correct(), &Demands { unknown: 2, ..Demands::default() }), input);
    let without_frames: Vec<Value> = correct().into_iter().filter(|line| line["kind"] != "frame").collect();
    assert_eq!(broken(&without_frames, &Demands::default()), input);
    let allowed = Demands { without: BTreeSet::from([Kind::Frame]), ..Demands::default() };
    assert_eq!(broken(&without_frames, &allowed), BTreeSet::new());
    assert!(History::parse("{\"kind\":\"call\"}").is_err());
}
