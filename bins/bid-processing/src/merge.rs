//! Outbox entries merged into one record: the group commit.

use domain::AuctionId;
use hotstate::OutboxEntry;
use protocol::{RECORD_VERSION, Record, RecordKind};

/// Bids in one record. With the longest names such a record is still far below the largest message.
const MAX_BIDS_IN_RECORD: usize = 1024;

/// A record of the first entry. If that entry holds bids, the entries of bids directly after it are merged into the
/// record.
pub fn record(auction_id: AuctionId, entries: &[OutboxEntry]) -> Record {
    let first = &entries[0];
    let mut merged = 1;
    if first.kind == RecordKind::Bids {
        let mut bids = first.bids.len();
        while let Some(next) = entries.get(merged) {
            bids += next.bids.len();
            if next.kind != RecordKind::Bids || bids > MAX_BIDS_IN_RECORD {
                break;
            }
            merged += 1;
        }
    }
    let entries = &entries[..merged];
    let last = &entries[merged - 1];
    Record {
        v: RECORD_VERSION,
        kind: first.kind.into(),
        auction_id,
        seq: last.mark.seq,
        prev: first.prev,
        head: last.mark.head,
        time: last.time,
        by: first.by,
        user_id: first.user_id,
        bids: entries.iter().flat_map(|entry| entry.bids.iter().cloned()).collect(),
        marks: entries.iter().map(|entry| entry.mark).collect(),
        state: last.state.clone(),
        sealed: last.secrets.as_ref().map(Into::into),
    }
}
