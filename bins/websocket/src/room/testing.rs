//! Bids and states for tests of the room's parts.

use domain::{Amount, BidId, BidKind, UserId};
use protocol::{Bid, CommittedState, Record};

use crate::room::open::MAX_RECENT_BIDS;

/// A bid with this seq.
pub fn bid(seq: u64) -> Bid {
    let id = uuid::Uuid::from_u128(seq.into());
    Bid {
        seq,
        bid_id: BidId::from_uuid(id),
        user_id: UserId::from_uuid(id),
        username: "anna".to_owned(),
        amount: Amount::from_cents(100 * seq).unwrap(),
        timestamp: seq,
        kind: BidKind::Bid.into(),
        sealed: None,
    }
}

/// The state at this seq after so many bids, which are the last facts.
pub fn committed(seq: u64, bid_count: u64) -> CommittedState {
    let stored = include_str!("../../../../libs/protocol/tests/stored/live.jsonl");
    let record: Record = serde_json::from_str(stored.lines().next().unwrap()).unwrap();
    let mut state = record.state;
    state.bid_count = bid_count;
    let recent = (seq - bid_count + 1..=seq).rev().take(MAX_RECENT_BIDS);
    CommittedState {
        auction_id: record.auction_id,
        seq,
        head: record.head,
        stream_seq: seq,
        state,
        recent_bids: recent.map(bid).collect(),
        participant_count: 0,
        slow_mode_seconds: 0,
        has_secrets: false,
        opens_at: None,
    }
}
