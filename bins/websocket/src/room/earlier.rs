//! Bids from before those that a room keeps, read from the log for clients that resume.
//!
//! Each reading is a task of its own, so that the room goes on without it; there is one for a room at most, and a
//! bounded number for an edge. A reading finds its start by a binary search over the stream, and then reads the wanted records:
//! its cost does not grow with the auction.

use std::sync::Arc;
use std::time::Duration;

use bus::{Log, LogError};
use domain::AuctionId;
use errors::BoxError;
use protocol::Bid;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Time for a reading and for the wait for its turn. A client that resumes waits as long.
const READ_WITHIN: Duration = Duration::from_secs(1);
/// Facts that are read in vain at most. Reading so many takes about as long as two more steps of the search.
const MAX_SLACK: u64 = 256;

/// Every bid of an auction after `from` and up to `to`, oldest first.
#[derive(Debug)]
pub struct EarlierBids {
    /// The seq before the first fact that was read.
    pub from: u64,
    /// The seq of the last fact that was read.
    pub to: u64,
    /// The bids among the facts.
    pub bids: Vec<Bid>,
}

/// The bids that a reading is to find.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Their auction.
    pub auction_id: AuctionId,
    /// They come after this seq.
    pub from: u64,
    /// They come up to this seq, which is above `from`.
    pub to: u64,
    /// The stream sequence of a record that comes after `from`.
    pub before: u64,
}

/// Why the bids were not read.
#[derive(Debug, thiserror::Error)]
pub enum EarlierError {
    /// The log did not answer in time, or too many rooms were reading.
    #[error("the time for reading is over")]
    TooLate(#[from] tokio::time::error::Elapsed),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The reading did not end.
    #[error("the reading was cut off")]
    CutOff(#[source] BoxError),
}

/// A reading in progress.
pub struct Reading(JoinHandle<Result<EarlierBids, EarlierError>>);

impl Reading {
    /// Starts to read when `places` has one.
    pub fn start(log: Log, places: Arc<Semaphore>, wanted: Wanted) -> Self {
        Self(tokio::spawn(async move {
            tokio::time::timeout(READ_WITHIN, async {
                // The semaphore is never closed.
                let _place = places.acquire().await;
                read(&log, wanted).await
            })
            .await?
            .map_err(EarlierError::from)
        }))
    }

    /// Waits for the end of the reading. To be dropped after it.
    pub async fn end(&mut self) -> Result<EarlierBids, EarlierError> {
        (&mut self.0).await.unwrap_or_else(|error| Err(EarlierError::CutOff(error.into())))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn read(log: &Log, wanted: Wanted) -> Result<EarlierBids, LogError> {
    let next = |from| async move {
        let found = log.next(wanted.auction_id, from).await?;
        Ok(found.map(|logged| (logged.stream_seq, logged.record.seq)))
    };
    let start = start_of(wanted.from, wanted.before, next).await?;
    let mut records = log.records(wanted.auction_id, start).await?;
    let mut earlier = EarlierBids { from: wanted.from, to: wanted.from, bids: Vec::new() };
    while earlier.to < wanted.to {
        let missing = |stream_seq| LogError::Record { stream_seq, detail: "no record before it".to_owned() };
        let logged = records.next().await?.ok_or_else(|| missing(0))?;
        let record = logged.record;
        // Facts are numbered without gaps, so a hole in the log shows here.
        if record.seq.saturating_sub(record.facts()) > earlier.to {
            return Err(missing(logged.stream_seq));
        }
        earlier.to = earlier.to.max(record.seq);
        earlier.bids.extend(record.bids.into_iter().filter(|bid| bid.seq > wanted.from));
    }
    Ok(earlier)
}

/// A stream sequence from which on the log has every fact of the auction after `seq`, and at most [`MAX_SLACK`] older
/// ones. `before` is the stream sequence of a record after `seq`; `next` finds the first record at or after a stream
/// sequence. Each step halves the part of the stream that is searched: a million records take 20 steps, none more than
/// 64.
async fn start_of<F>(seq: u64, before: u64, next: impl Fn(u64) -> F) -> Result<u64, LogError>
where
    F: Future<Output = Result<Option<(u64, u64)>, LogError>>,
{
    // The auction's record at `low` ends at or before `seq`; all its records from `high` on end after it.
    let (mut low, mut low_seq, mut high) = (0, 0, before);
    while seq - low_seq > MAX_SLACK && high - low > 1 {
        let middle = low + (high - low) / 2;
        match next(middle).await? {
            Some((stream_seq, record_seq)) if record_seq <= seq => (low, low_seq) = (stream_seq, record_seq),
            _ => high = middle,
        }
    }
    Ok(low + 1)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Searches a stream in which the auction has these records, each (stream sequence, seq); returns the start and
    /// the number of steps.
    async fn search(records: &[(u64, u64)], seq: u64) -> (u64, u32) {
        let steps = Cell::new(0);
        let next = |from| {
            steps.set(steps.get() + 1);
            let found = records.get(records.partition_point(|(stream_seq, _)| *stream_seq < from)).copied();
            std::future::ready(Ok(found))
        };
        let (before, _) = records[records.partition_point(|(_, record_seq)| *record_seq <= seq)];
        (start_of(seq, before, next).await.unwrap(), steps.get())
    }

    /// Every fact after `seq` is at or after the start, and little else.
    async fn check(records: &[(u64, u64)], seq: u64, most_steps: u32) {
        let (start, steps) = search(records, seq).await;
        let first = records[records.partition_point(|(stream_seq, _)| *stream_seq < start)];
        let skipped = records.iter().rev().find(|(stream_seq, _)| *stream_seq < start).map_or(0, |(_, seq)| *seq);
        assert!(skipped <= seq, "the fact {} is before the start {start}", seq + 1);
        assert!(seq - skipped <= MAX_SLACK || first.1 > seq, "seq {seq}: starts at {first:?}");
        assert!(steps <= most_steps, "{steps} steps");
    }

    #[tokio::test]
    async fn start_is_found_in_few_steps_however_long_the_auction_is() {
        // One bid a record, every third record of the stream.
        let dense: Vec<_> = (1..=300_000).map(|seq| (3 * seq, seq)).collect();
        for seq in [0, 1, 255, 256, 257, 1_000, 150_000, 299_743, 299_998, 299_999] {
            check(&dense, seq, 20).await;
        }
        // Few records with many bids, far apart.
        let sparse: Vec<_> = (1..=500).map(|nth| (nth * 10_000, nth * 256)).collect();
        for seq in [0, 255, 256, 300, 64_000, 127_000, 127_999] {
            check(&sparse, seq, 23).await;
        }
        check(&[(1, 1), (7, 2)], 1, 3).await;
    }
}
