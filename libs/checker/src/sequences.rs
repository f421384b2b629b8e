//! Auctions that follow another one.

use serde_json::Value;

use crate::fields::{text, whole};
use crate::history::{History, Logged};
use crate::invariant::Invariant;
use crate::verdict::Verdict;

/// The auction that these options say this one follows, and the milliseconds from its end to the opening.
pub fn follows(options: &Value) -> Option<(String, u64)> {
    options["follows"].as_str().map(|id| (id.to_owned(), whole(options, "gap_ms")))
}

/// I4: an auction that follows another is opened, unless by its host, once that one has ended and the gap is over. One whose
/// records are not in the history is not judged: it may have been archived.
pub fn check(history: &History, auction: &str, verdict: &mut Verdict) {
    let mut records = history.records_of(auction);
    let Some(first) = records.next() else { return };
    let Some((id, gap)) = follows(&first.record["state"]["options"]) else { return };
    let opened = records.find(|logged| logged.record["type"] == "opened" && text(&logged.record, "by").is_empty());
    let (Some(opened), Some(before)) = (opened, history.records_of(&id).next_back()) else { return };
    if let Some(reason) = objection(opened, before, gap) {
        let message = format!("{auction} follows {id}, and was opened {reason}");
        verdict.add(Invariant::Legal, message, [first.line, before.line, opened.line]);
    }
}

/// Why an auction may not have been opened by this record, given the last one of the auction that it follows.
fn objection(opened: &Logged, before: &Logged, gap: u64) -> Option<String> {
    let opened_at = whole(&opened.record, "time");
    let Some(ended_at) = before.record["state"]["ended_at"].as_u64() else {
        return Some("although that one has not ended".to_owned());
    };
    match () {
        () if opened.stream_seq < before.stream_seq => Some("before the end of that one was in the log".to_owned()),
        () if opened_at < ended_at + gap => {
            Some(format!("at {opened_at}, less than {gap} ms after that one ended at {ended_at}"))
        }
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::correct::{AUCTION, HOST, next_head};

    const BEFORE: &str = "00000000-0000-4000-8000-0000000000ab";
    const GAP: u64 = 1_500;
    const ENDED: u64 = 90_000;

    fn record(auction: &str, stream_seq: u64, record: &Value) -> Value {
        let mut record = json!({"kind": "record", "stream_seq": stream_seq, "record": record});
        record["record"]["auction_id"] = json!(auction);
        record
    }

    /// The last record of the auction before, then the creation and the opening of the one that follows it.
    fn correct() -> Vec<Value> {
        let options = json!({"follows": BEFORE, "gap_ms": GAP});
        vec![
            record(AUCTION, 1, &json!({"type": "created", "time": 1_000, "state": {"options": options}})),
            record(BEFORE, 2, &json!({"type": "closed", "time": ENDED, "state": {"ended_at": ENDED}})),
            record(AUCTION, 3, &json!({"type": "opened", "time": ENDED + GAP, "state": {"options": options}})),
        ]
    }

    fn is_right(lines: &[Value]) -> bool {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let (history, mut verdict) = (History::parse(&text).expect("a history"), Verdict::default());
        check(&history, AUCTION, &mut verdict);
        verdict.violations.is_empty()
    }

    #[test]
    fn follower_is_opened_by_the_end_and_the_gap() {
        type Variant = (&'static str, bool, fn(&mut Vec<Value>));
        let variants: &[Variant] = &[
            ("as it should be", true, |_| {}),
            ("a millisecond early", false, |lines| lines[2]["record"]["time"] = json!(ENDED + GAP - 1)),
            ("early by its host", true, |lines| {
                lines[2]["record"]["time"] = json!(2_000);
                lines[2]["record"]["by"] = json!(HOST);
            }),
            ("while the other runs", false, |lines| lines[1]["record"]["state"]["ended_at"] = json!(null)),
            ("before the end is in the log", false, |lines| lines[1]["stream_seq"] = json!(4)),
            ("the other is archived", true, |lines| drop(lines.remove(1))),
            ("not opened yet", true, |lines| drop(lines.pop())),
            ("it follows none", true, |lines| {
                lines[0]["record"]["state"]["options"] = json!({});
                lines[2]["record"]["time"] = json!(2_000);
            }),
        ];
        for (name, expected, change) in variants {
            let mut lines = correct();
            change(&mut lines);
            assert_eq!(is_right(&lines), *expected, "{name}");
        }
    }

    #[test]
    fn creation_names_in_the_chain_what_it_follows() {
        let not_yet = 4_102_444_800_000_u64;
        let mut created = record(
            AUCTION,
            1,
            &json!({"v": 1, "type": "created", "seq": 1, "prev": "0".repeat(16), "time": 1_000, "marks": [],
            "state": {"status": "scheduled", "host_user_id": HOST, "host_username": "host", "starting_bid_cents": 100,
            "increment_cents": 100, "duration_ms": 60_000, "anti_snipe_mode": "off", "anti_snipe_window_ms": 0,
            "anti_snipe_extension_ms": 0, "anti_snipe_max_extensions": 0, "created_at": 1_000, "starts_at": not_yet,
            "end_time": not_yet + 60_000, "extension_count": 0, "bid_count": 0, "high_bid_cents": null,
            "high_bidder_id": null, "minimum_bid_cents": 100, "top_bids": [],
            "options": {"follows": BEFORE, "gap_ms": GAP}}}),
        );
        let fact = format!(
            "1\ncreated\n1000\n{AUCTION}\n{HOST}\nhost\n100\n100\n60000\noff\n0\n0\n0\n{not_yet}\nfollows {BEFORE} {GAP}"
        );
        created["record"]["head"] = json!(next_head(&"0".repeat(16), &fact));
        let judged = |line: &Value| {
            let (history, mut verdict) = (History::parse(&line.to_string()).expect("a history"), Verdict::default());
            crate::log::fold(&history, AUCTION, &mut verdict);
            verdict.broken()
        };
        assert!(judged(&created).is_empty(), "{:?}", judged(&created));
        created["record"]["state"]["options"]["gap_ms"] = json!(GAP + 1);
        assert!(judged(&created).contains(&Invariant::Dense), "the gap is part of the chain");
    }
}
