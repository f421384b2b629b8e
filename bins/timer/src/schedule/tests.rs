//! The schedule with a backend whose log and whose bid-processing fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::{Amount, AntiSnipeMode, Head, Millis, UserId};
use protocol::{Code, Failure, Leased, Mark, Snapshot, TimerTick};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::*;
use crate::backend::{ASK_TIMEOUT, BackendError};

/// The time at which every test starts, in milliseconds since 1970.
const START_MS: u64 = 1_000_000;
/// The end of every auction, in milliseconds after the start.
const END_MS: u64 = 3_000;

/// How often the log can be followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Following {
    Always,
    /// The first time, until its records are read. Afterwards each attempt fails.
    Once,
    /// The first time, until its records are read. Afterwards no attempt returns.
    OnceThenHangs,
}

#[derive(Default)]
struct Seen {
    followed: u64,
    ticks: Vec<u64>,
    in_flight: BTreeSet<AuctionId>,
    most_in_flight: usize,
    /// Milliseconds after the start at which each auction was asked to close.
    asked: BTreeMap<AuctionId, Vec<u64>>,
}

#[derive(Clone)]
struct Fake {
    following: Following,
    auctions: Arc<Vec<AuctionId>>,
    started: Instant,
    seen: Arc<Mutex<Seen>>,
}

impl Fake {
    fn new(auctions: u128, following: Following) -> Self {
        let auctions = (0..auctions).map(|nth| AuctionId::from_uuid(Uuid::from_u128(nth))).collect();
        Self { following, auctions: Arc::new(auctions), started: Instant::now(), seen: Arc::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn elapsed_ms(&self) -> u64 {
        self.now().0 - START_MS
    }

    /// Runs a schedule for this number of milliseconds.
    async fn run(&self, milliseconds: u64) {
        let schedule = Schedule::new(self.clone(), Duration::from_secs(1), Metrics::default());
        assert!(timeout(Duration::from_millis(milliseconds), schedule.run()).await.is_err(), "the schedule returned");
    }
}

fn live(auction_id: AuctionId) -> Logged {
    let amount = Amount::from_cents(100).expect("an amount");
    let state = Snapshot {
        status: Status::Live.into(),
        host_user_id: UserId::from_uuid(Uuid::nil()),
        host_username: "host".to_owned(),
        starting_bid: amount,
        increment: amount,
        options: protocol::Options::default(),
        by_host: protocol::ByHost::default(),
        duration_ms: END_MS,
        anti_snipe_mode: AntiSnipeMode::Off.into(),
        anti_snipe_window_ms: 0,
        anti_snipe_extension_ms: 0,
        anti_snipe_max_extensions: 0,
        created_at: START_MS,
        starts_at: START_MS,
        end_time: START_MS + END_MS,
        extension_count: 0,
        recoveries: 0,
        bid_count: 0,
        high_bid: None,
        high_bidder_id: None,
        high_bidder_username: None,
        minimum_bid: amount,
        top_bids: Vec::new(),
        reserve_met: None,
        ended_at: None,
        reason: None,
        outcome: None,
        winner_id: None,
        winner_username: None,
        winning_bid: None,
    };
    let record = Record {
        v: protocol::RECORD_VERSION,
        kind: RecordKind::Created.into(),
        auction_id,
        seq: 1,
        prev: Head::GENESIS,
        head: Head::GENESIS,
        time: START_MS,
        by: None,
        user_id: None,
        bids: Vec::new(),
        marks: Vec::new(),
        state,
        sealed: None,
    };
    Logged {
        stream_seq: 1,
        previous_stream_seq: None,
        record: record.placed_after(Mark::default()),
        trace: Default::default(),
    }
}

impl Backend for Fake {
    async fn follow(&self) -> Result<Records, LogError> {
        let lost = || LogError::Read("the connection was lost".into());
        let attempt = {
            let mut seen = self.seen();
            seen.followed += 1;
            seen.followed
        };
        match self.following {
            Following::OnceThenHangs if attempt > 1 => std::future::pending().await,
            Following::Once if attempt > 1 => Err(lost()),
            _ => {
                let records: Vec<_> = self.auctions.iter().map(|auction_id| Ok(live(*auction_id))).collect();
                let records = stream::iter(records);
                Ok(if self.following == Following::Always {
                    records.chain(stream::pending()).boxed()
                } else {
                    records.chain(stream::iter([Err(lost())])).boxed()
                })
            }
        }
    }

    async fn open(&self, _: AuctionId) -> Result<Option<Millis>, BackendError> {
        unreachable!("every auction is live")
    }

    /// Rejects each request after its whole time limit.
    async fn close(&self, auction_id: AuctionId) -> Result<bool, BackendError> {
        let now = self.elapsed_ms();
        {
            let mut seen = self.seen();
            assert!(seen.in_flight.insert(auction_id), "asked twice at once");
            seen.most_in_flight = seen.most_in_flight.max(seen.in_flight.len());
            seen.asked.entry(auction_id).or_default().push(now);
        }
        sleep(ASK_TIMEOUT).await;
        self.seen().in_flight.remove(&auction_id);
        Err(Failure::from(Code::Unavailable).into())
    }

    async fn tick(&self, _: &Leased<TimerTick>) -> Result<(), BackendError> {
        let now = self.elapsed_ms();
        self.seen().ticks.push(now);
        Ok(())
    }

    fn token(&self) -> Option<u64> {
        Some(1)
    }

    fn now(&self) -> Millis {
        Millis(START_MS + u64::try_from(self.started.elapsed().as_millis()).expect("a short test"))
    }
}

#[tokio::test(start_paused = true)]
async fn readers_see_the_auctions_that_run() {
    let fake = Fake::new(1, Following::Once);
    let mut schedule = Schedule::new(fake.clone(), Duration::from_secs(1), Metrics::default());
    let (shown, auction_id) = (schedule.shown(), fake.auctions[0]);
    assert!(shown.last(auction_id).is_none());
    schedule.note(live(auction_id)).await;
    assert_eq!(shown.last(auction_id).map(|record| record.state.end_time), Some(START_MS + END_MS));
    let first = live(auction_id);
    let mut ended = live(auction_id);
    ended.stream_seq = 2;
    ended.record.state.outcome = Some(domain::Outcome::Unsold.into());
    ended.record = ended.record.placed_after(first.record.mark());
    let mut forged = ended.clone();
    forged.record.head = first.record.head;
    schedule.note(forged).await;
    assert!(shown.last(auction_id).is_some(), "the record breaks the chain");
    schedule.note(ended).await;
    assert!(shown.last(auction_id).is_none(), "it is over");
}

#[tokio::test(start_paused = true)]
async fn ticks_and_requests_go_on_while_the_log_cannot_be_followed() {
    for following in [Following::Once, Following::OnceThenHangs] {
        let fake = Fake::new(1, following);
        fake.run(5_500).await;
        let seen = fake.seen();
        assert!(seen.followed > 1, "the log was never followed again");
        let seconds: BTreeSet<u64> = seen.ticks.iter().map(|tick| tick / 1_000).collect();
        assert!((1..=5).all(|second| seconds.contains(&second)), "ticks at {:?}", seen.ticks);
        assert!(seen.ticks.len() <= 6, "more than one tick in an interval: {:?}", seen.ticks);
        let asked = &seen.asked[&fake.auctions[0]];
        assert!(asked[0] >= END_MS && asked[0] < END_MS + 100, "asked at {asked:?}");
        assert!(asked.len() > 1, "a failed request was not repeated: {asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn closings_due_at_once_are_paced_and_none_starves() {
    // No request is answered in time, so that only the order of repetitions decides which auctions are asked for.
    let rounds = 4;
    let fake = Fake::new(rounds * u128::try_from(MAX_ASKS_IN_FLIGHT).expect("a number"), Following::Always);
    let round_ms = u64::try_from(ASK_TIMEOUT.as_millis()).expect("a short time");
    let last_ms = END_MS + u64::try_from(rounds).expect("a number") * round_ms;
    fake.run(last_ms + round_ms).await;
    let seen = fake.seen();
    assert_eq!(seen.most_in_flight, MAX_ASKS_IN_FLIGHT);
    let late = fake.auctions.iter().find(|auction| seen.asked.get(auction).is_none_or(|asked| asked[0] > last_ms));
    assert_eq!(late, None, "asked too late, of {} that were asked for", seen.asked.len());
}

/// A lot that waits for the end of another one, `gap_ms` before it opens.
fn follower(auction_id: AuctionId, follows: AuctionId, gap_ms: u64) -> Logged {
    let mut logged = live(auction_id);
    let state = &mut logged.record.state;
    state.status = Status::Scheduled.into();
    (state.options.follows, state.options.gap_ms) = (Some(follows), gap_ms);
    state.starts_at = Millis::NOT_YET.0;
    state.end_time = Millis::NOT_YET.plus(state.duration_ms).0;
    logged.record = logged.record.placed_after(Mark::default());
    logged
}

/// The record that cancels an auction after this one.
fn ended(before: Logged, ended_at: u64) -> Logged {
    let (mark, mut logged) = (before.record.mark(), before);
    logged.record.kind = RecordKind::Cancelled.into();
    logged.record.by = Some(logged.record.state.host_user_id);
    let state = &mut logged.record.state;
    state.status = Status::Cancelled.into();
    (state.ended_at, state.outcome) = (Some(ended_at), Some(domain::Outcome::Cancelled.into()));
    logged.record = logged.record.placed_after(mark);
    logged
}

#[tokio::test(start_paused = true)]
async fn ending_record_schedules_the_auctions_that_follow() {
    let fake = Fake::new(4, Following::Once);
    let [first, second, third, fourth] = [0, 1, 2, 3].map(|nth| fake.auctions[nth]);
    let mut schedule = Schedule::new(fake.clone(), Duration::from_secs(1), Metrics::default());
    let due = |schedule: &Schedule<Fake>| schedule.due.iter().copied().collect::<BTreeSet<_>>();
    let answered = |auction_id, opening| Asked { auction_id, seq: 1, answer: Some(Answer::Opening(opening)) };

    // Whether that one has ended is asked at once, and then not before a minute, whatever else happens to the auction.
    schedule.note(follower(second, first, 2_000)).await;
    schedule.note(follower(third, first, 0)).await;
    schedule.note(follower(fourth, third, 0)).await;
    assert_eq!(due(&schedule), [(0, second), (0, third), (0, fourth)].into());
    let later = START_MS + WAIT_AGAIN_MS;
    for auction_id in [second, third, fourth] {
        schedule.due.remove(&(0, auction_id));
        schedule.again(&answered(auction_id, None));
    }
    assert_eq!(due(&schedule), [(later, second), (later, third), (later, fourth)].into());

    // Two wait for the first, and one for one of them.
    let end = START_MS + END_MS;
    schedule.note(ended(live(first), end)).await;
    let opens = end + OPENING_MARGIN_MS;
    assert_eq!(due(&schedule), [(opens + 2_000, second), (opens, third), (later, fourth)].into());
    assert!(schedule.waiting.end(first).is_empty(), "it ends once");
    schedule.note(ended(follower(third, first, 0), end + 1)).await;
    assert_eq!(due(&schedule), [(opens + 2_000, second), (opens + 1, fourth)].into());
}

#[tokio::test(start_paused = true)]
async fn end_before_the_answer_about_an_opening_is_not_forgotten() {
    let fake = Fake::new(2, Following::Once);
    let (first, second) = (fake.auctions[0], fake.auctions[1]);
    let end = START_MS + END_MS;
    // The ending record comes while bid-processing, which had not seen it, is answering.
    let mut schedule = Schedule::new(fake.clone(), Duration::from_secs(1), Metrics::default());
    schedule.note(follower(second, first, 500)).await;
    schedule.due.clear();
    schedule.running.get_mut(&second).expect("it waits").request = Request::InFlight;
    schedule.note(ended(live(first), end)).await;
    assert!(schedule.due.is_empty(), "it is asked for");
    schedule.again(&Asked { auction_id: second, seq: 1, answer: Some(Answer::Opening(None)) });
    assert_eq!(schedule.due.first(), Some(&(end + 500 + OPENING_MARGIN_MS, second)));

    // The ending record was read before the auction that follows, as after a start: the answer has the time.
    let mut schedule = Schedule::new(fake.clone(), Duration::from_secs(1), Metrics::default());
    schedule.note(ended(live(first), end)).await;
    schedule.note(follower(second, first, 500)).await;
    assert_eq!(schedule.due.first(), Some(&(0, second)));
    schedule.due.clear();
    schedule.again(&Asked { auction_id: second, seq: 1, answer: Some(Answer::Opening(Some(Millis(end + 500)))) });
    assert_eq!(schedule.due.first(), Some(&(end + 500 + OPENING_MARGIN_MS, second)));
    // A failed request is repeated soon.
    schedule.note(follower(first, second, 0)).await;
    schedule.due.clear();
    schedule.again(&Asked { auction_id: first, seq: 1, answer: None });
    assert_eq!(schedule.due.first(), Some(&(START_MS + ASK_AGAIN_MS, first)));
}

#[tokio::test(start_paused = true)]
async fn closing_that_came_early_is_asked_for_again_soon() {
    let fake = Fake::new(1, Following::Once);
    let auction_id = fake.auctions[0];
    let mut schedule = Schedule::new(fake.clone(), Duration::from_secs(1), Metrics::default());
    schedule.note(live(auction_id)).await;
    assert_eq!(schedule.due.first(), Some(&(START_MS + END_MS + CLOSING_MARGIN_MS, auction_id)));
    sleep(Duration::from_millis(END_MS + CLOSING_MARGIN_MS)).await;
    let now = fake.now().0;
    let mut pause = |answer| {
        schedule.due.clear();
        schedule.again(&Asked { auction_id, seq: 1, answer });
        schedule.due.first().expect("it is asked for again").0 - now
    };
    let early = Some(Answer::Closing { is_over: false });
    assert_eq!([early; 4].map(&mut pause), [4, 8, 16, 32]);
    assert_eq!([early; 4].map(&mut pause), [64, 128, 250, 250]);
    assert_eq!([Some(Answer::Closing { is_over: true }), None].map(pause), [ASK_AGAIN_MS; 2]);
}
