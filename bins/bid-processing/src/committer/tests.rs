//! The committer with a log and a Redis whose answers are given.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bus::{LogError, StoredCheckpoint};
use domain::{Amount, BidId, BidRequest, Head, HostAct, Millis, UserId};
use futures_util::stream;
use hotstate::{Closed, Created, HostActed, HotstateError, Opened, Position, Rebuilt, Restoration, Verdicts, View};
use protocol::{Answer, Checkpoint, Code, CreateRequest, Mark, Record, StoredAnswer};
use tokio::sync::oneshot;

use super::*;
use crate::auctioneer::{Auctioneer, MAX_FACTS};
use crate::backend::{Decided, Reading, RecallError};
use crate::call::{Call, Waiting};
use crate::sealing::LogKeys;
use crate::shared::{ANSWER_WITHIN, Counters};

/// The log holds the first two of `records`, the outbox the third.
struct Given {
    records: Vec<Record>,
    rejects: AtomicBool,
    /// When appends were tried.
    appends: Mutex<Vec<Instant>>,
    /// Whether the first look at the outbox finds facts that do not continue the log.
    outbox_is_old: AtomicBool,
    /// How often the outbox was read.
    reads_of_outbox: AtomicUsize,
    /// Whether Redis stands where the log ends.
    continues: bool,
    /// How often the records were read.
    reads_of_all: AtomicUsize,
    /// Records that others append one by one, if any, instead of [`Given::records`].
    gap: u64,
    /// How often one record was read.
    reads_of_one: AtomicUsize,
}

impl Given {
    fn logged(&self, nth: usize) -> Logged {
        let stream_seq = u64::try_from(nth + 1).expect("small");
        Logged { stream_seq, previous_stream_seq: None, record: self.records[nth].clone(), trace: Default::default() }
    }

    /// The record that another instance appended as the `nth` after the second one.
    fn after_gap(&self, nth: u64) -> Logged {
        let mut logged = self.logged(1);
        for _ in 0..nth {
            let before = logged.record.mark();
            logged = Logged { stream_seq: logged.stream_seq + 1, record: logged.record.placed_after(before), ..logged };
        }
        logged
    }

    fn entry(&self, nth: usize) -> OutboxEntry {
        let record = &self.records[nth];
        OutboxEntry {
            kind: record.kind.known().expect("a kind"),
            prev: record.prev,
            mark: record.mark(),
            time: record.time,
            by: record.by,
            user_id: record.user_id,
            bids: record.bids.clone(),
            state: record.state.clone(),
            secrets: None,
        }
    }
}

impl Backend for Given {
    async fn create(&self, _: &CreateRequest) -> Result<Created, HotstateError> {
        unreachable!("not a part of committing")
    }

    async fn open(&self, _: AuctionId, _: Option<Millis>) -> Decided<Opened> {
        unreachable!("not a part of committing")
    }

    async fn close(&self, _: AuctionId, _: Option<UserId>) -> Decided<Closed> {
        unreachable!("not a part of committing")
    }

    async fn cancel(&self, _: AuctionId, _: UserId, _: domain::CloseReason) -> Decided<Closed> {
        unreachable!("not a part of committing")
    }

    async fn act(&self, _: AuctionId, _: HostAct, _: UserId) -> Decided<HostActed> {
        unreachable!("not a part of committing")
    }

    async fn place(&self, _: AuctionId, _: &[BidRequest], _: u64) -> Decided<Verdicts> {
        unreachable!("not a part of committing")
    }

    async fn prebid(&self, _: AuctionId, _: UserId) -> Result<Option<Amount>, HotstateError> {
        unreachable!("not a part of committing")
    }

    async fn view(&self, _: AuctionId) -> Decided<View> {
        unreachable!("not a part of committing")
    }

    async fn view_with_answer(&self, _: AuctionId, _: BidId) -> Decided<(View, bool)> {
        unreachable!("no bid is above a limit")
    }

    async fn outbox(&self, _: AuctionId, committed: u64) -> Result<Vec<OutboxEntry>, HotstateError> {
        self.reads_of_outbox.fetch_add(1, Ordering::Relaxed);
        if self.outbox_is_old.swap(false, Ordering::Relaxed) {
            return Ok(vec![OutboxEntry { prev: Head::GENESIS, ..self.entry(2) }]);
        }
        let entry = self.entry(2);
        Ok(if entry.mark.seq > committed { vec![entry] } else { Vec::new() })
    }

    async fn position(&self, _: AuctionId, _: u64) -> Decided<Position> {
        let mark = self.records[if self.continues { 1 } else { 0 }].mark();
        Ok(Some(Position { mark, next_prev: None }))
    }

    async fn write_answers(&self, _: &mut Rebuilt, _: &[StoredAnswer]) -> Result<(), HotstateError> {
        Ok(())
    }

    async fn discard(&self, _: &Rebuilt) -> Result<(), HotstateError> {
        Ok(())
    }

    async fn restore(
        &self,
        _: AuctionId,
        _: Option<Mark>,
        _: &Restoration<'_>,
        _: &Rebuilt,
    ) -> Result<bool, HotstateError> {
        unreachable!("the whole log never ends where its last record does")
    }

    async fn append(&self, _: &Record, expected: u64) -> Result<u64, AppendError> {
        self.appends.lock().expect("no panic").push(Instant::now());
        if self.rejects.load(Ordering::Relaxed) {
            return Err(AppendError::Rejected("maximum bytes exceeded".into()));
        }
        Ok(expected + 1)
    }

    async fn last(&self, _: AuctionId) -> Result<Option<Logged>, LogError> {
        Ok(Some(if self.gap > 0 { self.after_gap(self.gap) } else { self.logged(1) }))
    }

    async fn next(&self, _: AuctionId, from: u64) -> Result<Option<Logged>, LogError> {
        self.reads_of_one.fetch_add(1, Ordering::Relaxed);
        let nth = from.saturating_sub(2);
        Ok((nth > 0 && nth <= self.gap).then(|| self.after_gap(nth)))
    }

    async fn records(&self, _: AuctionId, _: u64) -> Result<Reading<Logged>, LogError> {
        self.reads_of_all.fetch_add(1, Ordering::Relaxed);
        Ok(Box::pin(stream::iter([Ok(self.logged(0))])))
    }

    async fn checkpoints(&self, _: AuctionId) -> Result<Reading<StoredCheckpoint>, LogError> {
        Ok(Box::pin(stream::empty()))
    }

    async fn last_checkpoint(&self, _: AuctionId) -> Result<Option<StoredCheckpoint>, LogError> {
        Ok(None)
    }

    async fn append_checkpoint(&self, _: &Checkpoint, _: u64) -> Result<u64, AppendError> {
        unreachable!("not a part of committing")
    }

    async fn recall(&self, _: AuctionId) -> Result<bool, RecallError> {
        unreachable!("not a part of committing")
    }

    fn now(&self) -> Millis {
        Millis(self.records[0].time)
    }

    fn connection(&self) -> Option<u64> {
        Some(1)
    }
}

/// Servers with the log of an ended auction.
fn given(continues: bool) -> Given {
    let lines = include_str!("../../../../libs/protocol/tests/stored/closed.jsonl").lines();
    let records: Vec<Record> = lines.map(|line| serde_json::from_str(line).expect("a record")).collect();
    Given {
        records,
        rejects: AtomicBool::new(false),
        appends: Mutex::default(),
        outbox_is_old: AtomicBool::new(false),
        reads_of_outbox: AtomicUsize::new(0),
        continues,
        reads_of_all: AtomicUsize::new(0),
        gap: 0,
        reads_of_one: AtomicUsize::new(0),
    }
}

/// A committer over these servers, and what it shares.
fn committer(continues: bool) -> (Committer<Given>, Arc<Shared<Given>>) {
    let shared = Arc::new(Shared::new(given(continues), Counters::default(), LogKeys::default()));
    let auction_id = shared.backend.records[0].auction_id;
    let (_, observed) = mpsc::channel(1);
    (Committer::new(auction_id, Arc::clone(&shared), observed), shared)
}

fn soon() -> Instant {
    Instant::now() + ANSWER_WITHIN
}

#[tokio::test(start_paused = true)]
async fn full_log_is_tried_again_ever_more_slowly_and_takes_the_facts_once_it_has_room() {
    let (mut committer, shared) = committer(true);
    let given = &shared.backend;
    given.rejects.store(true, Ordering::Relaxed);
    assert!(!committer.flush_outbox(soon()).await);
    assert!(!committer.flush_outbox(soon()).await, "the pause goes on with the next call");
    let tried = given.appends.lock().expect("no panic").clone();
    let pauses: Vec<u128> = tried.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert_eq!(pauses[..5], [50, 100, 200, 400, 500]);
    assert!(pauses[5..].iter().all(|pause| *pause == 500), "{pauses:?}");
    assert!(committer.has_uncommitted(), "the facts are still in the outbox");

    given.rejects.store(false, Ordering::Relaxed);
    assert!(committer.flush_outbox(soon()).await);
    assert_eq!(committer.committed(), given.records[2].seq);
    assert!(!committer.has_uncommitted());
}

#[tokio::test(start_paused = true)]
async fn bid_in_flight_when_the_log_becomes_full_has_an_unknown_outcome() {
    let (mut committer, shared) = committer(true);
    let given = &shared.backend;
    // The script has decided the facts that the outbox holds.
    assert!(committer.known_tail().await.is_some());
    given.rejects.store(true, Ordering::Relaxed);
    let mark = given.records[2].mark();
    let (taken, committed) = (Instant::now(), committer.committed());
    let attempt = Attempt { committer: &mut committer, committed, has_looked: false, taken, answer_by: soon() };
    assert_eq!(attempt.commit(mark, None).await, Commit::Unknown);
    assert!(committer.has_uncommitted(), "a later call appends the facts");
    given.rejects.store(false, Ordering::Relaxed);
    assert!(committer.flush_outbox(soon()).await);
    assert_eq!(committer.committed(), mark.seq);
}

#[tokio::test(start_paused = true)]
async fn faster_instance_costs_no_rebuild_permit() {
    let (mut committer, shared) = committer(true);
    let rebuilds = shared.rebuilds.available_permits();
    let _all = shared.rebuilds.acquire_many(u32::try_from(rebuilds).expect("few")).await.expect("open");
    shared.backend.outbox_is_old.store(true, Ordering::Relaxed);
    assert!(committer.flush_outbox(soon()).await, "Redis continues the log: nothing is to be rebuilt");
    assert_eq!(shared.backend.reads_of_all.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn facts_of_a_reply_are_appended_without_reading_the_outbox() {
    let (mut committer, shared) = committer(true);
    let given = &shared.backend;
    assert!(committer.flush_outbox(soon()).await);
    committer.tail = Some(Tail::at(Some(given.logged(1))));
    let reads = given.reads_of_outbox.load(Ordering::Relaxed);
    let (entry, mark) = (given.entry(2), given.records[2].mark());
    let (taken, committed) = (Instant::now(), committer.committed());
    let attempt = Attempt { committer: &mut committer, committed, has_looked: false, taken, answer_by: soon() };
    assert!(matches!(attempt.commit(mark, Some(entry)).await, Commit::InTheLog { .. }));
    assert_eq!(given.reads_of_outbox.load(Ordering::Relaxed), reads);
    assert!(!committer.has_uncommitted());
}

#[tokio::test(start_paused = true)]
async fn facts_that_the_log_has_already_prove_no_refusal() {
    let (mut committer, shared) = committer(true);
    let given = &shared.backend;
    assert!(committer.flush_outbox(soon()).await);
    let appends = given.appends.lock().expect("no panic").len();
    for has_looked in [false, true] {
        let (entry, mark) = (given.entry(2), given.records[2].mark());
        let (taken, committed) = (Instant::now(), committer.committed());
        let attempt = Attempt { committer: &mut committer, committed, has_looked, taken, answer_by: soon() };
        assert_eq!(attempt.commit(mark, Some(entry)).await, Commit::Overtaken);
    }
    assert_eq!(given.appends.lock().expect("no panic").len(), appends, "nothing was appended again");
}

#[tokio::test(start_paused = true)]
async fn facts_of_a_reply_that_do_not_continue_the_log_are_read_from_the_outbox() {
    // Redis stands elsewhere: a look at its position would begin a rebuild.
    let (mut committer, shared) = committer(false);
    let given = &shared.backend;
    assert!(committer.known_tail().await.is_some());
    let mark = given.records[2].mark();
    let entry = OutboxEntry { prev: Head::GENESIS, ..given.entry(2) };
    let (taken, committed) = (Instant::now(), committer.committed());
    let attempt = Attempt { committer: &mut committer, committed, has_looked: false, taken, answer_by: soon() };
    assert!(matches!(attempt.commit(mark, Some(entry)).await, Commit::InTheLog { .. }));
    assert_eq!(given.reads_of_outbox.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn long_gap_is_jumped_and_a_mark_inside_it_is_decided_again() {
    let mut given = given(true);
    given.gap = 10_000;
    let (before, end) = (given.logged(1).record, given.after_gap(10_000));
    let shared = Arc::new(Shared::new(given, Counters::default(), LogKeys::default()));
    let (_, observed) = mpsc::channel(1);
    let mut committer = Committer::new(before.auction_id, Arc::clone(&shared), observed);
    committer.tail = Some(Tail::at(Some(shared.backend.logged(1))));
    assert!(committer.read_on().await);
    assert_eq!(committer.tail().map(|tail| (tail.stream_seq, tail.mark)), Some((end.stream_seq, end.record.mark())));
    let reads = shared.backend.reads_of_one.load(Ordering::Relaxed);
    assert_eq!(reads, MAX_READ_ONE_BY_ONE, "then the last record");

    let lost_in_the_gap = Mark { seq: before.seq + 5_000, head: before.head };
    let contains = |mark| committer.tail().map(|tail| tail.contains(mark));
    assert_eq!(contains(lost_in_the_gap), Some(Contains::Unknown));
    assert_eq!(contains(end.record.mark()), Some(Contains::Yes { stream_seq: end.stream_seq }));
    let taken = Instant::now();
    let attempt =
        Attempt { committer: &mut committer, committed: before.seq, has_looked: false, taken, answer_by: soon() };
    assert_eq!(attempt.commit(lost_in_the_gap, None).await, Commit::Outdated);
}

#[tokio::test(start_paused = true)]
async fn rebuild_waits_for_a_permit_and_pauses_while_the_log_disagrees() {
    let (mut committer, shared) = committer(false);
    let rebuilds = shared.rebuilds.available_permits();
    let all = shared.rebuilds.acquire_many(u32::try_from(rebuilds).expect("few")).await.expect("open");
    let reads = || shared.backend.reads_of_all.load(Ordering::Relaxed);
    assert!(!committer.restore(soon()).await);
    assert_eq!(reads(), 0, "no permit was free");
    drop(all);
    assert!(!committer.restore(soon()).await);
    assert!((1..=57).contains(&reads()), "{} reads of the whole log in 2.8 s", reads());
}

#[tokio::test(start_paused = true)]
async fn auction_with_very_many_facts_takes_no_more_bids() {
    let mut given = given(true);
    given.records[1].seq = MAX_FACTS;
    let auction_id = given.records[0].auction_id;
    let (calls, waiting) = mpsc::channel(1);
    let (_, observed) = mpsc::channel(1);
    let shared = Arc::new(Shared::new(given, Counters::default(), LogKeys::default()));
    let auctioneer = tokio::spawn(Auctioneer::new(auction_id, shared, waiting, observed).run());
    let bid = BidRequest {
        bid_id: BidId::from_uuid(uuid::Uuid::from_u128(1)),
        user_id: UserId::from_uuid(uuid::Uuid::from_u128(2)),
        username: "anna".to_owned(),
        offer: Amount::from_cents(100).expect("an amount").into(),
    };
    let (reply, answer) = oneshot::channel();
    assert!(
        calls.send(Waiting { call: Call::Bid(bid, reply), answer_by: soon(), trace: Default::default() }).await.is_ok()
    );
    match answer.await.expect("an answer; the script is not asked") {
        Answer::Rejected(refused) => assert_eq!(Answer::Rejected(refused).code(), Some(Code::Overloaded)),
        Answer::Accepted(accepted) => panic!("{accepted:?}"),
    }
    drop(calls);
    auctioneer.await.expect("no panic");
}

/// A record that continues the second one, which anyone can compute, and that is not in the log.
fn forged(given: &Given) -> Logged {
    let mut logged = given.logged(2);
    logged.record.bids.iter_mut().for_each(|bid| bid.username.push_str(" the forger"));
    logged.record = logged.record.placed_after(given.records[1].mark());
    logged
}

#[tokio::test(start_paused = true)]
async fn forged_record_delays_a_commit_by_one_reading() {
    let (mut committer, shared) = committer(true);
    let given = &shared.backend;
    committer.tail = Some(Tail::at(Some(given.logged(1))));
    committer.has_uncommitted = false;
    for _ in 0..3 {
        committer.observe(forged(given));
        assert_eq!(committer.committed(), given.records[1].seq, "nothing is cut from the outbox for a hint");
    }
    let (entry, mark) = (given.entry(2), given.records[2].mark());
    let (taken, committed) = (Instant::now(), committer.committed());
    let attempt = Attempt { committer: &mut committer, committed, has_looked: false, taken, answer_by: soon() };
    assert!(matches!(attempt.commit(mark, Some(entry)).await, Commit::InTheLog { .. }));
    assert_eq!(given.appends.lock().expect("no panic").len(), 1, "nothing was appended after the forged record");
    assert_eq!(shared.counters.refuted.get(), 1);

    // For a second hints of the auction are not used.
    committer.observe(forged(given));
    assert!(committer.tail().is_some_and(|tail| !tail.has_hints()));
}

#[tokio::test(start_paused = true)]
async fn forged_record_does_not_answer_a_read_of_the_state() {
    let (mut committer, shared) = committer(true);
    let given = &shared.backend;
    committer.tail = Some(Tail::at(Some(given.logged(1))));
    committer.has_uncommitted = false;
    committer.observe(forged(given));
    let (mark, committed) = (given.records[1].mark(), committer.committed());
    let attempt =
        Attempt { committer: &mut committer, committed, has_looked: false, taken: Instant::now(), answer_by: soon() };
    assert_eq!(attempt.commit(mark, None).await, Commit::InTheLog { stream_seq: 2 });
}

#[tokio::test(start_paused = true)]
async fn true_hints_are_confirmed_by_one_reading() {
    let mut given = given(true);
    given.gap = 3;
    let shared = Arc::new(Shared::new(given, Counters::default(), LogKeys::default()));
    let given = &shared.backend;
    let (_, observed) = mpsc::channel(1);
    let mut committer = Committer::new(given.records[0].auction_id, Arc::clone(&shared), observed);
    committer.tail = Some(Tail::at(Some(given.logged(1))));
    (1..=3).for_each(|nth| committer.observe(given.after_gap(nth)));
    assert!(committer.read_on().await);
    assert_eq!(committer.committed(), given.after_gap(3).record.seq);
    assert_eq!(given.reads_of_one.load(Ordering::Relaxed), 0, "the last record vouches for the others");
}

/// Redis has gone back to a record after which the log goes on. A refusal that rests on it may be older than an answer
/// that was given before the call: it is decided again, once.
#[tokio::test(start_paused = true)]
async fn refusal_behind_the_end_of_the_log_is_decided_again_once() {
    for (has_looked, hears) in [(false, true), (false, false), (true, true), (true, false)] {
        let mut given = given(true);
        given.gap = 2;
        let shared = Arc::new(Shared::new(given, Counters::default(), LogKeys::default()));
        let given = &shared.backend;
        let (_, observed) = mpsc::channel(1);
        let mut committer = Committer::new(given.records[0].auction_id, Arc::clone(&shared), observed);
        let (before, refused_at) = (given.logged(1), given.after_gap(1));
        let (committed, mark) = (before.record.seq, refused_at.record.mark());
        committer.tail = Some(Tail::at(Some(if hears { before } else { refused_at.clone() })));
        if hears {
            committer.observe(refused_at.clone());
        }
        let (taken, answer_by) = (Instant::now(), soon());
        let attempt = Attempt { committer: &mut committer, committed, has_looked, taken, answer_by };
        let commit = attempt.commit(mark, None).await;
        let expected = match has_looked {
            true => Commit::InTheLog { stream_seq: refused_at.stream_seq },
            false => Commit::Overtaken,
        };
        assert_eq!(commit, expected, "has looked: {has_looked}, heard of the record: {hears}");
        assert_eq!(committer.committed(), given.after_gap(2).record.seq);
    }
}
