//! Looking up auctions with a backend whose answers are given, and the memory of an idle auctioneer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bus::{AppendError, Logged, StoredCheckpoint};
use domain::{Amount, BidId, BidRequest, HostAct, Millis, UserId};
use hotstate::{Closed, Created, HostActed, Opened, OutboxEntry, Position, Rebuilt, Restoration, Verdicts, View};
use protocol::{Checkpoint, CommittedState, CreateRequest, Mark, Record, StoredAnswer};
use tokio::sync::{Notify, mpsc};

use super::*;
use crate::auctioneer::Auctioneer;
use crate::backend::{Decided, Reading, RecallError};
use crate::call::Waiting;
use crate::sealing::LogKeys;
use crate::shared::{Counters, Shared};

/// Where the auctions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Redis,
    Log,
    PostgreSql,
    Nowhere,
}

/// Redis, the log and PostgreSQL with every auction in one of them.
struct Given {
    place: Place,
    /// Redis answers once this is notified, if it is given.
    gate: Option<Notify>,
    looked_up: AtomicUsize,
}

impl Given {
    fn new(place: Place) -> Self {
        Self { place, gate: None, looked_up: AtomicUsize::new(0) }
    }
}

/// The last record of a live auction.
fn record() -> Record {
    let lines = include_str!("../../../../libs/protocol/tests/stored/closed.jsonl").lines();
    let mut records = lines.map(|line| serde_json::from_str::<Record>(line).expect("a record"));
    records.find(|record| record.state.outcome.is_none()).expect("a record of a live auction")
}

impl Backend for Given {
    async fn create(&self, _: &CreateRequest) -> Result<Created, HotstateError> {
        unreachable!("a lookup changes nothing")
    }

    async fn open(&self, _: AuctionId, _: Option<Millis>) -> Decided<Opened> {
        unreachable!("a lookup changes nothing")
    }

    async fn close(&self, _: AuctionId, _: Option<UserId>) -> Decided<Closed> {
        unreachable!("a lookup changes nothing")
    }

    async fn cancel(&self, _: AuctionId, _: UserId, _: domain::CloseReason) -> Decided<Closed> {
        unreachable!("a lookup changes nothing")
    }

    async fn act(&self, _: AuctionId, _: HostAct, _: UserId) -> Decided<HostActed> {
        unreachable!("a lookup changes nothing")
    }

    async fn place(&self, _: AuctionId, _: &[BidRequest], _: u64) -> Decided<Verdicts> {
        unreachable!("a lookup changes nothing")
    }

    async fn prebid(&self, _: AuctionId, _: UserId) -> Result<Option<Amount>, HotstateError> {
        unreachable!("not asked for")
    }

    async fn view(&self, auction_id: AuctionId) -> Decided<View> {
        self.looked_up.fetch_add(1, Ordering::Relaxed);
        if let Some(gate) = &self.gate {
            gate.notified().await;
        }
        let Record { seq, head, state, .. } = record();
        let mark = Mark { seq, head };
        let (recent_bids, participant_count) = (Vec::new(), 0);
        let committed = CommittedState {
            auction_id,
            seq,
            head,
            stream_seq: 0,
            state,
            recent_bids,
            participant_count,
            slow_mode_seconds: 0,
            has_secrets: false,
            opens_at: None,
        };
        Ok((self.place == Place::Redis).then_some(View { mark, committed, secrets: None }))
    }

    async fn view_with_answer(&self, _: AuctionId, _: BidId) -> Decided<(View, bool)> {
        unreachable!("no bid is above a limit")
    }

    async fn outbox(&self, _: AuctionId, _: u64) -> Result<Vec<OutboxEntry>, HotstateError> {
        unreachable!("a lookup commits nothing")
    }

    async fn position(&self, _: AuctionId, _: u64) -> Decided<Position> {
        unreachable!("a lookup rebuilds nothing")
    }

    async fn write_answers(&self, _: &mut Rebuilt, _: &[StoredAnswer]) -> Result<(), HotstateError> {
        unreachable!("nothing is rebuilt")
    }

    async fn discard(&self, _: &Rebuilt) -> Result<(), HotstateError> {
        unreachable!("nothing is rebuilt")
    }

    async fn restore(
        &self,
        _: AuctionId,
        _: Option<Mark>,
        _: &Restoration<'_>,
        _: &Rebuilt,
    ) -> Result<bool, HotstateError> {
        unreachable!("nothing is rebuilt")
    }

    async fn append(&self, _: &Record, _: u64) -> Result<u64, AppendError> {
        unreachable!("a lookup commits nothing")
    }

    async fn last(&self, _: AuctionId) -> Result<Option<Logged>, LogError> {
        let logged = Logged { stream_seq: 1, previous_stream_seq: None, record: record(), trace: Default::default() };
        Ok((self.place == Place::Log).then_some(logged))
    }

    async fn next(&self, _: AuctionId, _: u64) -> Result<Option<Logged>, LogError> {
        unreachable!("the last record is enough")
    }

    async fn records(&self, _: AuctionId, _: u64) -> Result<Reading<Logged>, LogError> {
        unreachable!("the last record is enough")
    }

    async fn checkpoints(&self, _: AuctionId) -> Result<Reading<StoredCheckpoint>, LogError> {
        unreachable!("nothing is rebuilt")
    }

    async fn last_checkpoint(&self, _: AuctionId) -> Result<Option<StoredCheckpoint>, LogError> {
        unreachable!("nothing is rebuilt")
    }

    async fn append_checkpoint(&self, _: &Checkpoint, _: u64) -> Result<u64, AppendError> {
        unreachable!("nothing is rebuilt")
    }

    async fn recall(&self, _: AuctionId) -> Result<bool, RecallError> {
        Ok(self.place == Place::PostgreSql)
    }

    fn now(&self) -> Millis {
        Millis(0)
    }

    fn connection(&self) -> Option<u64> {
        Some(1)
    }
}

fn id(number: u128) -> AuctionId {
    AuctionId::from_uuid(uuid::Uuid::from_u128(number))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(2)
}

#[tokio::test(start_paused = true)]
async fn every_place_is_asked_once_and_the_answer_is_remembered() {
    let ends_at = Some(record().state.end_time);
    for (place, expected, lookups) in [
        (Place::Redis, Ok(Found { ends_at }), 2),
        (Place::Log, Ok(Found { ends_at }), 2),
        (Place::PostgreSql, Err(Code::AuctionClosed), 1),
        (Place::Nowhere, Err(Code::AuctionNotFound), 1),
    ] {
        let (given, existence) = (Given::new(place), Existence::default());
        for _ in 0..2 {
            assert_eq!(existence.find(&given, id(1), soon(), || false).await, expected, "{place:?}");
        }
        assert_eq!(given.looked_up.load(Ordering::Relaxed), lookups, "{place:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn created_auction_is_unknown_no_longer() {
    let (given, existence) = (Given::new(Place::Nowhere), Existence::default());
    let not_found = Err(Code::AuctionNotFound);
    assert_eq!(existence.find(&given, id(1), soon(), || false).await, not_found);
    existence.note(id(1));
    let created = Given::new(Place::Log);
    assert!(existence.find(&created, id(1), soon(), || false).await.is_ok());
    // Created during the lookup: the record was noted before the lookup ended.
    assert_eq!(existence.find(&given, id(2), soon(), || true).await, Ok(Found { ends_at: None }));
    assert_eq!(existence.find(&given, id(2), soon(), || false).await, not_found, "it was not remembered");
}

#[tokio::test(start_paused = true)]
async fn lookups_and_calls_that_wait_for_one_are_bounded() {
    let given = Arc::new(Given { gate: Some(Notify::new()), ..Given::new(Place::Nowhere) });
    let existence = Arc::new(Existence::default());
    let find = |number: usize| {
        let (given, existence) = (Arc::clone(&given), Arc::clone(&existence));
        async move { existence.find(&*given, id(number as u128), soon(), || false).await }
    };
    let calls: Vec<_> = (0..MAX_WAITING).map(|number| tokio::spawn(find(number))).collect();
    while given.looked_up.load(Ordering::Relaxed) < MAX_LOOKUPS {
        tokio::task::yield_now().await;
    }
    assert_eq!(find(MAX_WAITING).await, Err(Code::Overloaded), "no place to wait");
    let mut overloaded = 0;
    for call in calls {
        overloaded += usize::from(call.await.expect("no panic") == Err(Code::Overloaded));
    }
    // Redis never answers: the lookups end as `unavailable`.
    assert_eq!(overloaded, MAX_WAITING - MAX_LOOKUPS);
    assert_eq!(given.looked_up.load(Ordering::Relaxed), MAX_LOOKUPS);
}

/// Slots that tokio allocates at once for a queue.
const FIRST_SLOTS: usize = 32;

#[test]
fn idle_auctioneer_is_small() {
    let shared = Arc::new(Shared::new(Given::new(Place::Redis), Counters::default(), LogKeys::default()));
    let (_calls, waiting) = mpsc::channel(1);
    let (_observer, records) = mpsc::channel(1);
    let task = size_of_val(&Auctioneer::new(id(1), shared, waiting, records).run());
    let queues = FIRST_SLOTS * (size_of::<Waiting>() + size_of::<Box<Logged>>());
    // The last record, which every auctioneer keeps, with names of usual length.
    let tail = 2 * serde_json::to_vec(&record()).expect("JSON").len();
    println!("task {task}, queues {queues}, tail {tail} bytes");
    assert!(queues <= 4 * 1024 + 512, "{queues} bytes");
    assert!(task + queues + tail <= 12 * 1024, "{task} + {queues} + {tail} bytes");
}
