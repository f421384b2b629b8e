//! A correct history passes; each wrong one is caught by the invariant that forbids it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::correct::{
    ANNA, AUCTION, BEN, CARL, END, HOST, MOVED_END, NATS_BACK, OPENED, accepted, bid_id, call, chained, correct,
    next_head, public, rejected,
};
use crate::history::{History, Kind};
use crate::invariant::Invariant;
use crate::report::report;
use crate::verdict::{Demands, Verdict};

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
    let (history, verdict) = judged(&correct(), &Demands { faults: 3, unknown: 1, ticks: 1, ..Demands::default() });
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
    ("no tick came after NATS had returned", Invariant::Recovery, |lines| {
        line(lines, "frame", 4)["at"] = json!((NATS_BACK + 5_100) * 1000);
    }),
    ("an extension came after NATS had returned, and no tick", Invariant::Recovery, |lines| {
        line(lines, "frame", 4)["data"]["sync_type"] = json!("extended");
    }),
    ("a service was not ready while only PostgreSQL was down", Invariant::NarrowPath, |lines| {
        line(lines, "probe", 0)["status"] = json!(503);
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
    assert_eq!(broken(&correct(), &Demands { faults: 4, ..Demands::default() }), input);
    assert_eq!(broken(&correct(), &Demands { ticks: 2, ..Demands::default() }), input);
    assert_eq!(broken(&correct(), &Demands { unknown: 2, ..Demands::default() }), input);
    let without_frames: Vec<Value> = correct().into_iter().filter(|line| line["kind"] != "frame").collect();
    assert_eq!(broken(&without_frames, &Demands::default()), input);
    let allowed = Demands { without: BTreeSet::from([Kind::Frame]), ..Demands::default() };
    assert_eq!(broken(&without_frames, &allowed), BTreeSet::new());
    assert!(History::parse("{\"kind\":\"call\"}").is_err());
}
