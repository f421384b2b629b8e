//! Writes checkpoints of long auctions, so that a rebuild takes bounded time however long the auction is.
//!
//! A checkpoint holds the answers to some thousand accepted bids and names the record it ends with. Checkpoints are
//! derived from the log alone and appended with a compare-and-set, so that any instance may write any of them; one that
//! is missing makes a rebuild slower, not wrong.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bus::{AppendError, LogError};
use domain::AuctionId;
use futures_util::TryStreamExt;
use protocol::{Checkpoint, Record};
use tokio::sync::Notify;

use crate::backend::Backend;
use crate::replay::Replay;
use crate::shared::Shared;

/// Facts in one checkpoint, and up to a record more. Its answers then have at most 700 KB of JSON; a message may have
/// 1 MB.
pub const FACTS_PER_CHECKPOINT: u64 = 4_096;
/// Auctions that may wait for their checkpoint. One that does not fit waits for its next few thousand facts.
const MAX_DUE: usize = 1_024;

/// Auctions that have grown enough for another checkpoint.
#[derive(Default)]
pub struct DueCheckpoints {
    auctions: Mutex<BTreeSet<AuctionId>>,
    added: Notify,
}

impl DueCheckpoints {
    /// Notes that an auction has grown enough.
    pub fn add(&self, auction_id: AuctionId) {
        let mut auctions = self.lock();
        if auctions.len() < MAX_DUE {
            auctions.insert(auction_id);
            self.added.notify_one();
        }
    }

    async fn next(&self) -> AuctionId {
        loop {
            let taken = self.lock().pop_first();
            match taken {
                Some(auction_id) => return auction_id,
                None => self.added.notified().await,
            }
        }
    }

    /// A poisoned lock is still used: each change of the set is one call, so no panic leaves it half changed.
    fn lock(&self) -> MutexGuard<'_, BTreeSet<AuctionId>> {
        self.auctions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an auction's next checkpoint is due once it has this record.
pub const fn is_due_after(record: &Record, facts_per_checkpoint: u64) -> bool {
    record.seq / facts_per_checkpoint != record.seq.saturating_sub(record.facts()) / facts_per_checkpoint
}

/// Why a checkpoint could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The log or the earlier checkpoints could not be read.
    #[error("failed to read the auction's log or its last checkpoint")]
    Read(#[from] LogError),
    /// The checkpoint was not confirmed.
    #[error("failed to append a checkpoint")]
    Append(#[from] AppendError),
}

/// Writes the checkpoints that are due, for ever, one auction after the other.
pub async fn run<B: Backend>(shared: Arc<Shared<B>>) {
    loop {
        let auction_id = shared.due_checkpoints.next().await;
        match write(&shared, auction_id).await {
            Ok(written) => drop(shared.counters.checkpoints.inc_by(written)),
            Err(CheckpointError::Append(AppendError::Conflict)) => {
                tracing::debug!(%auction_id, "another instance wrote the checkpoint");
            }
            Err(error) => {
                tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to write a checkpoint");
            }
        }
    }
}

/// Writes an auction's missing checkpoints and returns their number.
///
/// # Errors
/// When the log cannot be read or an append is not confirmed: the next call goes on from the last checkpoint.
pub async fn write<B: Backend>(shared: &Shared<B>, auction_id: AuctionId) -> Result<u64, CheckpointError> {
    let backend = &shared.backend;
    let (mut replay, mut from, mut position) = (Replay::new(&shared.keys), protocol::Mark::default(), 0);
    if let Some(bus::StoredCheckpoint { position: last, checkpoint }) = backend.last_checkpoint(auction_id).await? {
        let logged = backend.next(auction_id, checkpoint.stream_seq).await?;
        let Some(continued) = logged
            .filter(|logged| logged.record.mark() == checkpoint.mark)
            .and_then(|logged| Replay::after(logged, &shared.keys))
        else {
            tracing::warn!(%auction_id, "last checkpoint is of another log or version; no more are written");
            return Ok(0);
        };
        (replay, from, position) = (continued, checkpoint.mark, last);
    }
    let mut written = 0;
    let mut records = backend.records(auction_id, replay.stream_seq() + 1).await?;
    while let Some(logged) = records.try_next().await? {
        replay.push(logged)?;
        let (mark, stream_seq) = (replay.mark(), replay.stream_seq());
        if mark.seq - from.seq < shared.facts_per_checkpoint || !replay.can_be_continued() {
            continue;
        }
        let answers = replay.take_answers();
        let v = replay.checkpoint_version();
        let checkpoint = Checkpoint { v, auction_id, from, mark, stream_seq, answers };
        position = backend.append_checkpoint(&checkpoint, position).await?;
        from = mark;
        written += 1;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoint_is_due_once_every_so_many_facts() {
        let lines = include_str!("../../../libs/protocol/tests/stored/closed.jsonl").lines();
        let records: Vec<Record> = lines.map(|line| serde_json::from_str(line).expect("a record")).collect();
        let facts: Vec<u64> = records.iter().map(Record::facts).collect();
        let due = |every| records.iter().filter(|record| is_due_after(record, every)).count();
        let all: u64 = facts.iter().sum();
        assert_eq!(due(1), records.len());
        assert_eq!(due(all), 1, "the last record of {facts:?}");
        assert_eq!(due(all + 1), 0);
    }

    #[tokio::test]
    async fn due_auctions_are_bounded_and_taken_once() {
        let due = DueCheckpoints::default();
        let id = |number: usize| AuctionId::from_uuid(uuid::Uuid::from_u128(number as u128));
        (0..2 * MAX_DUE).for_each(|number| due.add(id(number % (MAX_DUE + 1))));
        for number in 0..MAX_DUE {
            assert_eq!(due.next().await, id(number));
        }
        assert!(due.lock().is_empty());
    }
}
