//! Records as other versions write them. During a rolling deploy two versions read each other's records, and the log is
//! older than any of them.

use protocol::Record;
use serde_json::Value;

/// Records that an earlier version wrote, byte for byte.
const EARLIER: [&str; 3] =
    [include_str!("stored/live.jsonl"), include_str!("stored/closed.jsonl"), include_str!("stored/cancelled.jsonl")];
/// The same, each with a name and with fields that only a newer version knows.
const NEWER: &str = include_str!("stored/newer.jsonl");

#[test]
fn records_of_an_earlier_version_are_read_and_written_byte_for_byte() {
    let lines: Vec<&str> = EARLIER.iter().flat_map(|file| file.lines()).collect();
    assert_eq!(lines.len(), 14);
    for line in lines {
        let record: Record = serde_json::from_str(line).expect("a record");
        assert!(record.kind.known().is_some() && record.state.status.known().is_some(), "{line}");
        assert_eq!(serde_json::to_string(&record).expect("JSON"), line);
    }
}

/// The names of a record that this version does not know.
fn unknown_names(record: &Record) -> Vec<String> {
    let state = &record.state;
    let unknown = |is_known: bool, name: String| (!is_known).then_some(name);
    let optional = |name: Option<(bool, String)>| name.and_then(|(is_known, name)| unknown(is_known, name));
    let mut names = vec![
        unknown(record.kind.known().is_some(), record.kind.to_string()),
        unknown(state.status.known().is_some(), state.status.to_string()),
        unknown(state.anti_snipe_mode.known().is_some(), state.anti_snipe_mode.to_string()),
        optional(state.reason.as_ref().map(|name| (name.known().is_some(), name.to_string()))),
        optional(state.outcome.as_ref().map(|name| (name.known().is_some(), name.to_string()))),
    ];
    names.extend(record.bids.iter().map(|bid| unknown(bid.kind.known().is_some(), bid.kind.to_string())));
    names.into_iter().flatten().collect()
}

#[test]
fn names_of_a_newer_version_are_kept_and_stay_unknown() {
    let expected = ["bundle", "ghost", "suspended", "shuffle", "rained_off", "withdrawn"];
    assert_eq!(NEWER.lines().count(), expected.len());
    for (line, name) in NEWER.lines().zip(expected) {
        let record: Record = serde_json::from_str(line).expect("a record");
        assert_eq!(unknown_names(&record), [name], "{line}");

        // Written back with the same names; fields that this version does not know are left out.
        let mut stored: Value = serde_json::from_str(line).expect("JSON");
        assert!(stored.as_object_mut().expect("an object").remove("zone").is_some());
        assert!(stored["state"].as_object_mut().expect("an object").remove("reserve_cents").is_some());
        assert_eq!(serde_json::to_value(&record).expect("JSON"), stored);
    }
}

#[test]
fn an_unknown_anti_snipe_mode_gives_no_rules() {
    let record =
        |nth: usize| -> Record { serde_json::from_str(NEWER.lines().nth(nth).expect("a line")).expect("a record") };
    assert!(record(3).state.rules().is_none());
    assert!(record(0).state.rules().is_some());
}
