//! Auctions that follow another one: requests, and the state that records carry.

use domain::{AuctionId, Follows, Millis, Status};
use protocol::wire::Named;
use protocol::{Options, Record, Snapshot, parse_auction_create, time_remaining};
use serde_json::{Value, json};

const BEFORE: &str = "0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e11";

/// The auction that a request with these fields as well follows, or the error.
fn follows(more: &Value) -> Result<Option<Follows>, String> {
    let mut body = json!({"title": "Lot 2", "duration": 60, "starting_bid": 1});
    more.as_object().into_iter().flatten().for_each(|(field, value)| body[field] = value.clone());
    let parsed = parse_auction_create(body.to_string().as_bytes(), None);
    parsed.map(|create| create.follows).map_err(|failure| format!("{} {}", failure.code.name(), failure.error))
}

#[test]
fn request_follows_one_auction_after_a_gap() {
    let auction_id: AuctionId = BEFORE.parse().expect("an id");
    let after = |gap_ms| Ok(Some(Follows { auction_id, gap_ms }));
    for (more, expected) in [
        (json!({}), Ok(None)),
        (json!({"follows": null, "gap": null}), Ok(None)),
        (json!({"follows": BEFORE}), after(0)),
        (json!({"follows": BEFORE, "gap": 0}), after(0)),
        (json!({"follows": BEFORE.to_uppercase(), "gap": 86_400, "allow_prebids": true}), after(86_400_000)),
    ] {
        assert_eq!(follows(&more), expected, "{more}");
    }
    for (more, named) in [
        (json!({"follows": "lot 1"}), "follows must be a UUID"),
        (json!({"follows": 1}), "follows must be a UUID"),
        (json!({"follows": BEFORE, "gap": 86_401}), "gap must be a whole number from 0 to 86400"),
        (json!({"follows": BEFORE, "gap": -1}), "gap must be"),
        (json!({"follows": BEFORE, "gap": 1.5}), "gap must be"),
        (json!({"gap": 0}), "gap needs follows"),
        (json!({"follows": BEFORE, "starts_at": "2999-01-01T00:00:00Z"}), "starts_at and follows exclude each other"),
        (json!({"allow_prebids": true}), "allow_prebids needs starts_at or follows"),
    ] {
        let error = follows(&more).expect_err(named);
        assert!(error.starts_with("invalid_request") && error.contains(named), "{more}: {error}");
    }
}

/// A lot that waits, as a record has it.
fn waiting() -> Snapshot {
    let stored = include_str!("stored/live.jsonl").lines().next().expect("a record");
    let mut state = serde_json::from_str::<Record>(stored).expect("a record").state;
    state.options = Options { follows: BEFORE.parse().ok(), gap_ms: 1_500, ..Options::default() };
    state.status = Status::Scheduled.into();
    (state.starts_at, state.end_time) = (Millis::NOT_YET.0, Millis::NOT_YET.plus(state.duration_ms).0);
    state
}

#[test]
fn start_and_end_are_not_shown_while_an_auction_waits() {
    let state = waiting();
    assert_eq!((state.shown_start(), state.shown_end()), (None, None));
    assert_eq!(time_remaining(&state, 5), state.duration_ms, "whatever the time");
    let opened = Snapshot { status: Named::from(Status::Live), starts_at: 10_000, end_time: 70_000, ..state.clone() };
    assert_eq!((opened.shown_start(), opened.shown_end()), (Some(10_000), Some(70_000)));
    assert_eq!(time_remaining(&opened, 69_000), 1_000);
    let cancelled = Snapshot { status: Named::from(Status::Cancelled), ..state };
    assert_eq!((cancelled.shown_start(), cancelled.shown_end()), (None, None), "it never began");
}

/// An auction that follows none has the record that it always had; one that does can be read by a version that does not
/// know what these fields mean.
#[test]
fn record_names_what_an_auction_follows() {
    let state = waiting();
    let written = serde_json::to_value(&state).expect("JSON");
    assert_eq!(written["options"], json!({"follows": BEFORE, "gap_ms": 1_500}));
    assert!(written["starts_at"].is_u64() && written["end_time"].is_u64(), "{written}");
    let read: Snapshot = serde_json::from_value(written).expect("a state");
    assert_eq!(read.options.follows(), state.options.follows());
    let none = serde_json::to_value(Snapshot { options: Options::default(), ..state }).expect("JSON");
    assert_eq!(none.get("options"), None);
}
