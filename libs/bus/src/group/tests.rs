//! The group before a log with given answers.

use std::sync::atomic::{AtomicU64, Ordering};

use protocol::Record;
use tokio::time::Instant;

use super::*;

/// The outcome of a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Batch {
    Stored,
    Refused,
    /// Stored, and the acknowledgement is lost.
    Lost,
}

/// Time of a synced write.
const SYNC: Duration = Duration::from_millis(10);
/// Time after which an append gives up its acknowledgement.
const GIVE_UP: Duration = Duration::from_millis(2_500);
/// The place in the log at which a record is not expected.
const UNEXPECTED: u64 = 1_000;

#[derive(Default)]
struct Stored {
    group: Group,
    last: AtomicU64,
    /// Sizes of the batches, 1 for a single append.
    writes: Mutex<Vec<usize>>,
    /// Single appends whose acknowledgement is lost, from now on.
    losing: AtomicU64,
}

#[derive(Clone)]
struct FakeLog(Arc<Stored>, Batch);

impl FakeLog {
    fn new(batch: Batch) -> Self {
        Self(Arc::default(), batch)
    }

    fn write(&self, records: usize) -> u64 {
        self.0.writes.lock().expect("no panic").push(records);
        self.0.last.fetch_add(records as u64, Ordering::Relaxed) + records as u64
    }

    fn writes(&self) -> Vec<usize> {
        self.0.writes.lock().expect("no panic").clone()
    }
}

impl Writer for FakeLog {
    fn group(&self) -> &Group {
        &self.0.group
    }

    async fn append_one(&self, unsent: Unsent) -> Result<u64, AppendError> {
        let is_lost = self.0.losing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        tokio::time::sleep(if is_lost.is_ok() { GIVE_UP } else { SYNC }).await;
        if unsent.expected() == UNEXPECTED {
            return Err(AppendError::Conflict);
        }
        let stream_seq = self.write(1);
        if is_lost.is_ok() { Err(AppendError::Unknown("no acknowledgement".into())) } else { Ok(stream_seq) }
    }

    async fn append_batch(&self, batch: &[Unsent]) -> Result<u64, BatchError> {
        tokio::time::sleep(SYNC).await;
        if self.1 == Batch::Refused || batch.iter().any(|unsent| unsent.expected() == UNEXPECTED) {
            return Err(BatchError::Refused { code: 10071, description: "wrong last sequence".to_owned() });
        }
        let last = self.write(batch.len());
        if self.1 == Batch::Lost { Err(BatchError::Unknown("no acknowledgement".into())) } else { Ok(last) }
    }
}

fn unsent(expected: u64) -> Unsent {
    let stored = include_str!("../../../protocol/tests/stored/closed.jsonl").lines().next().expect("a record");
    let record: Record = serde_json::from_str(stored).expect("a record");
    Unsent::new(&record, expected).expect("JSON")
}

/// Appends this many records at once; the last one is expected at `expected`.
async fn append_all(log: &FakeLog, count: usize, expected: u64) -> Vec<Result<u64, AppendError>> {
    let place = |number| if number + 1 == count { expected } else { 0 };
    let appending = join_all((0..count).map(|number| append(log, unsent(place(number)))));
    timeout(4 * GIVE_UP, appending).await.expect("each append is answered")
}

fn is_idle(log: &FakeLog) -> bool {
    let state = log.group().state();
    state.under_way == 0 && state.waiting.is_empty()
}

#[tokio::test(start_paused = true)]
async fn records_that_wait_share_a_write_of_bounded_size() {
    let log = FakeLog::new(Batch::Stored);
    let appended = append_all(&log, 2 + 2 * MAX_BATCH + 5, 0).await;
    let mut places: Vec<u64> = appended.into_iter().map(|appended| appended.expect("appended")).collect();
    // Those of one batch are in the order in which they came.
    assert!(places[2..2 + MAX_BATCH].windows(2).all(|pair| pair[1] == pair[0] + 1), "{places:?}");
    places.sort_unstable();
    assert_eq!(places, (1..=2 + 2 * MAX_BATCH as u64 + 5).collect::<Vec<_>>());
    let mut writes = log.writes();
    writes.sort_unstable();
    // Five are too few for a batch.
    assert_eq!(writes, [1, 1, 1, 1, 1, 1, 1, MAX_BATCH, MAX_BATCH]);
    tokio::task::yield_now().await;
    assert!(is_idle(&log));
}

#[tokio::test(start_paused = true)]
async fn one_unexpected_record_costs_no_other_its_append() {
    let (log, count) = (FakeLog::new(Batch::Stored), MAX_UNDER_WAY + MIN_BATCH);
    let mut appended = append_all(&log, count, UNEXPECTED).await;
    assert!(matches!(appended.pop(), Some(Err(AppendError::Conflict))));
    assert!(appended.iter().all(Result::is_ok), "{appended:?}");
    assert_eq!(log.writes(), vec![1; count - 1]);

    let refused = FakeLog::new(Batch::Refused);
    assert!(append_all(&refused, count, 0).await.iter().all(Result::is_ok));
    assert_eq!(refused.writes(), vec![1; count]);
}

#[tokio::test(start_paused = true)]
async fn lost_acknowledgement_of_a_batch_is_unknown_for_each_and_repeats_nothing() {
    let log = FakeLog::new(Batch::Lost);
    let appended = append_all(&log, MAX_UNDER_WAY + MIN_BATCH, 0).await;
    let alone = appended.iter().filter(|appended| appended.is_ok()).count();
    assert_eq!(alone, MAX_UNDER_WAY, "those that went alone");
    assert!(appended[2..].iter().all(|appended| matches!(appended, Err(AppendError::Unknown(_)))), "{appended:?}");
    assert_eq!(log.writes(), [1, 1, MIN_BATCH]);
}

#[tokio::test(start_paused = true)]
async fn lost_acknowledgements_hold_up_no_other_auction() {
    let log = FakeLog::new(Batch::Stored);
    log.0.losing.store(MAX_UNDER_WAY as u64, Ordering::Relaxed);
    let begun = Instant::now();
    let stuck = tokio::spawn({
        let log = log.clone();
        async move { append_all(&log, MAX_UNDER_WAY, 0).await }
    });
    tokio::task::yield_now().await;
    assert!(append_all(&log, 10, 0).await.iter().all(Result::is_ok));
    assert!(begun.elapsed() <= YIELD_AFTER + 4 * SYNC, "waited {:?}", begun.elapsed());
    assert!(stuck.await.expect("no panic").iter().all(Result::is_err));
    tokio::task::yield_now().await;
    assert!(is_idle(&log));
}

#[tokio::test(start_paused = true)]
async fn caller_that_gives_up_leaves_its_turn_to_others_and_is_not_sent() {
    let log = FakeLog::new(Batch::Stored);
    // Both that are under way give up, and one that waits.
    let impatient = tokio::spawn({
        let log = log.clone();
        async move { timeout(SYNC / 2, append_all(&log, MAX_UNDER_WAY + 1, 0)).await.is_err() }
    });
    tokio::task::yield_now().await;
    assert!(append_all(&log, 3, 0).await.iter().all(Result::is_ok));
    assert!(impatient.await.expect("no panic"), "they gave up");
    assert_eq!(log.writes().iter().sum::<usize>(), 3);
    tokio::task::yield_now().await;
    assert!(is_idle(&log));
}
