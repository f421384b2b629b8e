//! A correct history, line by line, for the tests that make it wrong.

#![expect(clippy::needless_pass_by_value, reason = "lines are built as data, with values in place")]

use serde_json::{Value, json};
use sha1::{Digest, Sha1};

pub const AUCTION: &str = "00000000-0000-4000-8000-0000000000aa";
pub const HOST: &str = "00000000-0000-4000-8000-000000000001";
pub const ANNA: &str = "00000000-0000-4000-8000-000000000002";
pub const BEN: &str = "00000000-0000-4000-8000-000000000003";
pub const CARL: &str = "00000000-0000-4000-8000-000000000004";
/// Milliseconds at which the auction is opened, and its end before and after the one extension.
pub const OPENED: u64 = 1_000_000;
pub const END: u64 = OPENED + 60_000;
pub const MOVED_END: u64 = END + 10_000;
/// Millisecond at which a killed NATS answers again.
pub const NATS_BACK: u64 = OPENED + 10_000;

pub fn bid_id(nth: u64) -> String {
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

pub fn public(seq: u64, user: &str, cents: u64, timestamp: u64) -> Value {
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

pub fn call(nth: u64, user: &str, cents: u64, sent_ms: u64, answer: Value) -> Value {
    json!({"kind": "call", "user_id": user, "bid_id": bid_id(nth), "auction_id": AUCTION, "cents": cents,
           "sent": sent_ms * 1000, "answered": (sent_ms + 5) * 1000, "answer": answer})
}

pub fn accepted(seq: u64, cents: u64) -> Value {
    json!({"status": "accepted", "bid_id": bid_id(seq), "seq": seq, "amount": cents as f64 / 100.0,
           "minimum_bid": (cents + 100) as f64 / 100.0})
}

pub fn rejected(code: &str, nth: u64, seq: u64, high: u64) -> Value {
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
#[allow(clippy::too_many_lines, reason = "one history, line by line")]
pub fn correct() -> Vec<Value> {
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
        json!({"kind": "fault", "what": "nats killed", "parts": ["nats"], "from": (NATS_BACK - 900) * 1000,
               "to": NATS_BACK * 1000}),
        json!({"kind": "probe", "service": "timer", "at": (fifth + 50) * 1000, "status": 200}),
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
        frame("timer_update", json!({"auction_id": AUCTION, "seq": 5, "sync_type": "tick"})),
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
    let at = |lines: &mut [Value], event: &str, at: u64| {
        lines.iter_mut().filter(|line| line["event"] == event).for_each(|line| line["at"] = json!(at * 1000));
    };
    at(&mut lines, "joined_auction", OPENED + 10);
    at(&mut lines, "timer_update", NATS_BACK + 1_200);
    chained(&mut lines);
    lines
}

/// The head after one more fact.
pub fn next_head(head: &str, fact: &str) -> String {
    let digest = Sha1::digest(format!("{head}\n{fact}"));
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Computes the chain over whatever the records say, as a system would that is wrong and consistent.
pub fn chained(lines: &mut [Value]) {
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
