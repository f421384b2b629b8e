//! One run: two instances, bidders, two timers, the consumer of the history, and what goes wrong meanwhile.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use bid_persistence::Persist;
use bid_processing::{ANSWER_WITHIN, Auctioneer, Call, Command, Counters, Shared, Waiting};
use bus::Logged;
use domain::{Amount, AuctionId, BidId, BidRequest, UserId};
use protocol::{Answer, CreateRequest, Person, Record};
use serde_json::{Value, json};
use service::Stop;
use timer::Schedule;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::timer::Clocked;
use super::world::{Gate, Outside, SLOWEST, Seen, lock};
use crate::check::history::{History, Kind};
use crate::check::{Demands, Verdict, check};

pub const INSTANCES: usize = 2;
const TIMERS: usize = 2;
const BIDDERS: u128 = 4;
const HOST: UserId = UserId::from_uuid(Uuid::from_u128(1));
/// How long bidding goes on at most; the last seconds are without faults: everything must come to its end.
const BIDDING_MS: std::ops::Range<u64> = 2_000..20_000;
const FAULTS: Duration = Duration::from_secs(9);
const LATEST_END: Duration = Duration::from_secs(90);
/// From the end until the history is whole: what the consumer lost comes again after half a minute.
const DRAINED_WITHIN: Duration = Duration::from_secs(120);
/// The clock of Redis is set by so much at most, and measured so often.
const MAX_STEP_MS: i64 = 5_000;
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// A client's patience, as the edge has it.
const PATIENCE: Duration = Duration::from_secs(3);
const COPY_EVERY: Duration = Duration::from_millis(100);
const COPIES: usize = 15;
/// As the house hears and waits.
const MAX_WAITING: usize = 4096;
const MAX_HEARD: usize = 64;

/// What became of one run, or of many together.
#[derive(Default)]
pub struct Played {
    pub history: History,
    pub verdict: Verdict,
    pub accepted: usize,
    pub refused: usize,
    pub unknown: usize,
    pub rebuilt: u64,
    pub killed: u64,
}

impl Played {
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.rebuilt += other.rebuilt;
        self.killed += other.killed;
    }
}

/// Plays a seed to its end and judges it.
///
/// # Errors
/// When the run itself cannot be made.
pub fn play(seed: u64) -> Result<Played> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(Box::pin(async { Run::new(seed).play().await }))
}

/// One instance of bid-processing, as far as this auction knows it.
struct Instance {
    calls: mpsc::Sender<Waiting>,
    task: JoinHandle<()>,
    goes_on: Arc<Gate>,
    shared: Arc<Shared<Seen>>,
}

/// A timer, or the consumer.
struct Part {
    task: JoinHandle<()>,
    goes_on: Arc<Gate>,
}

pub struct Run {
    auction_id: AuctionId,
    outside: Arc<Mutex<Outside>>,
    instances: Mutex<Vec<Instance>>,
    /// The timers, then the consumer.
    parts: Mutex<Vec<Part>>,
    lines: Mutex<Vec<Value>>,
    began: Instant,
    /// Nobody bids after this.
    bidding: Duration,
    rebuilt: Mutex<u64>,
}

impl Run {
    fn new(seed: u64) -> Arc<Self> {
        let mut outside = Outside::new(seed, INSTANCES);
        let bidding = Duration::from_millis(outside.random.u64(BIDDING_MS));
        let run = Self {
            auction_id: AuctionId::from_uuid(Uuid::from_u128(0xA0C7)),
            outside: Arc::new(Mutex::new(outside)),
            instances: Mutex::default(),
            parts: Mutex::default(),
            lines: Mutex::default(),
            began: Instant::now(),
            bidding,
            rebuilt: Mutex::default(),
        };
        let started: Vec<_> = (0..INSTANCES).map(|nth| run.start(nth)).collect();
        *lock(&run.instances) = started;
        Arc::new(run)
    }

    fn random<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut lock(&self.outside).random)
    }

    fn now_us(&self) -> u64 {
        let beginning = lock(&self.outside).clients_now().0 * 1000;
        beginning + u64::from(self.began.elapsed().subsec_micros() % 1000)
    }

    fn start(&self, nth: usize) -> Instance {
        let (calls, waiting) = mpsc::channel(MAX_WAITING);
        let (ear, heard) = mpsc::channel(MAX_HEARD);
        let goes_on = Arc::<Gate>::default();
        lock(&self.outside).ears[nth] = Some(ear);
        let seen = Seen { outside: Arc::clone(&self.outside), goes_on: Arc::clone(&goes_on) };
        let shared = Arc::new(Shared::new(seen, Counters::default()));
        let auctioneer = Auctioneer::new(self.auction_id, Arc::clone(&shared), waiting, heard);
        Instance { calls, task: tokio::spawn(auctioneer.run()), goes_on, shared }
    }

    /// A timer, or with the number after theirs the consumer.
    fn start_part(self: &Arc<Self>, nth: usize) -> Part {
        let goes_on = Arc::<Gate>::default();
        let seen = Seen { outside: Arc::clone(&self.outside), goes_on: Arc::clone(&goes_on) };
        let task = if nth < TIMERS {
            let interval = Duration::from_secs(self.random(|random| random.u64(1..=5)));
            let world = Clocked { run: Arc::clone(self), nth, seen };
            tokio::spawn(Schedule::new(world, interval, Default::default()).run())
        } else {
            tokio::spawn(Persist::new(seen, Default::default()).run(Stop::new()))
        };
        Part { task, goes_on }
    }

    fn replace_part(self: &Arc<Self>, nth: usize) {
        let fresh = self.start_part(nth);
        std::mem::replace(&mut lock(&self.parts)[nth], fresh).task.abort();
    }

    fn with_instances<T>(&self, use_them: impl FnOnce(&mut Vec<Instance>) -> T) -> T {
        use_them(&mut lock(&self.instances))
    }

    /// kill -9, and a new process at once.
    fn replace(&self, nth: usize) {
        let fresh = self.start(nth);
        let old = self.with_instances(|instances| std::mem::replace(&mut instances[nth], fresh));
        old.task.abort();
        *lock(&self.rebuilt) += old.shared.counters.rebuilt.get();
    }

    /// Hands a call to an instance, as the house does. None when the answer never came.
    pub async fn ask<A>(&self, nth: usize, call: impl FnOnce(oneshot::Sender<A>) -> Call) -> Option<A> {
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { call: call(reply), answer_by: Instant::now() + ANSWER_WITHIN };
        let calls = self.with_instances(|instances| instances[nth].calls.clone());
        if calls.try_send(waiting).is_err() {
            // Its auctioneer has left for want of work: the house engages another.
            self.replace(nth);
            return None;
        }
        tokio::time::timeout(PATIENCE, answer).await.ok().and_then(Result::ok)
    }

    async fn play(self: Arc<Self>) -> Result<Played> {
        let parts = (0..=TIMERS).map(|nth| self.start_part(nth)).collect();
        *lock(&self.parts) = parts;
        self.create().await?;
        let bidders: Vec<_> = (0..BIDDERS).map(|nth| tokio::spawn(Arc::clone(&self).bid(2 + nth))).collect();
        let background = [
            tokio::spawn(Arc::clone(&self).copy()),
            tokio::spawn(Arc::clone(&self).measure()),
            tokio::spawn(Arc::clone(&self).elect()),
        ];
        let killed = self.go_wrong().await;
        for bidder in bidders {
            bidder.await??;
        }
        let grown = Arc::clone(&lock(&self.outside).grown);
        let is_over = || lock(&self.outside).log.last().is_some_and(|logged| logged.record.state.outcome.is_some());
        tokio::time::timeout(LATEST_END, grown.until(is_over)).await.context("the auction was never closed")?;
        let drained = async {
            while !lock(&self.outside).is_drained() {
                sleep(MEASURE_EVERY).await;
            }
        };
        tokio::time::timeout(DRAINED_WITHIN, drained).await.context("the history was never whole")?;
        background.iter().for_each(JoinHandle::abort);
        lock(&self.parts).iter().for_each(|part| part.task.abort());

        let history = History::parse(&self.text()?)?;
        let without = BTreeSet::from([Kind::Row, Kind::Frame, Kind::Mail]);
        let clocks_apart_us = MAX_STEP_MS.unsigned_abs() * 1_000;
        let mut verdict = check(&history, &Demands { without, clocks_apart_us, ..Demands::default() });
        self.judge_outside(&mut verdict);
        let calls =
            |fits: fn(&crate::check::history::Call) -> bool| history.calls.iter().filter(|call| fits(call)).count();
        let (accepted, refused) = (calls(|call| call.is_accepted()), calls(|call| call.is_ruled_out()));
        let unknown = calls(|call| call.is_unknown());
        (0..INSTANCES).for_each(|nth| self.replace(nth));
        let rebuilt = *lock(&self.rebuilt);
        Ok(Played { history, verdict, accepted, refused, unknown, rebuilt, killed })
    }

    /// The run as `flash check` reads it.
    fn text(&self) -> Result<String> {
        let mut lines = std::mem::take(&mut *lock(&self.lines));
        let outside = lock(&self.outside);
        for logged in &outside.log {
            lines.push(json!({"kind": "record", "stream_seq": logged.stream_seq,
                              "record": serde_json::to_value(&logged.record)?}));
        }
        for bid in outside.table.values() {
            let amount: Value = serde_json::from_str(&bid.amount.to_string())?;
            let item = json!({"seq": bid.seq, "bid_id": bid.bid_id.to_string(), "user_id": bid.user_id.to_string(),
                              "username": bid.username, "amount": amount, "timestamp": bid.timestamp});
            lines.push(json!({"kind": "item", "auction_id": self.auction_id.to_string(), "item": item}));
        }
        Ok(lines.iter().map(|line| line.to_string() + "\n").collect())
    }

    /// What nobody may have asked, and ticks: each says what the record says that it names.
    fn judge_outside(&self, verdict: &mut Verdict) {
        let outside = lock(&self.outside);
        for outrage in &outside.outrages {
            verdict.add("input", outrage.clone(), []);
        }
        for tick in &outside.ticks {
            let record = outside.log.iter().find(|logged| logged.record.seq == tick.message.seq);
            let same = record.is_some_and(|Logged { record: Record { state, .. }, .. }| {
                (&state.status, state.end_time, state.extension_count)
                    == (&tick.message.status, tick.message.end_time, tick.message.extension_count)
            });
            if !same {
                verdict.add("I12", format!("no record says what the tick {tick:?} says"), []);
            }
        }
    }

    /// Asks until the log has it and it is open.
    async fn create(&self) -> Result<()> {
        let request = CreateRequest {
            auction_id: self.auction_id,
            host: Person { user_id: HOST, username: "host".to_owned() },
            starting_bid: Amount::from_cents(100)?,
            increment: Amount::from_cents(50)?,
            duration_ms: self.random(|random| random.u64(6_000..18_000)),
            anti_snipe_mode: self.random(|random| {
                if random.bool() { domain::AntiSnipeMode::Extend } else { domain::AntiSnipeMode::Off }
            }),
            anti_snipe_window_ms: self.random(|random| random.u64(0..3_000)),
            anti_snipe_extension_ms: self.random(|random| random.u64(0..2_000)),
            anti_snipe_max_extensions: self.random(|random| random.u32(..4)),
            valid_until: u64::MAX / 2,
        };
        loop {
            let (nth, asked) = (self.random(|random| random.usize(..INSTANCES)), request.clone());
            if let Some(Ok(_)) = self.ask(nth, |reply| Call::Command(Command::Create(asked), reply)).await {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// One bidder: raises, sometimes too little, repeats what was accepted, asks again for what is unknown.
    async fn bid(self: Arc<Self>, user: u128) -> Result<()> {
        let (mut minimum, mut earlier): (u64, Option<BidRequest>) = (100, None);
        while self.began.elapsed() < self.bidding {
            let fresh = BidRequest {
                bid_id: BidId::from_uuid(Uuid::from_u128(self.random(|random| random.u128(..)))),
                user_id: UserId::from_uuid(Uuid::from_u128(user)),
                username: format!("user-{user}"),
                amount: Amount::from_cents(match self.random(|random| random.u8(..6)) {
                    0 => minimum.saturating_sub(30).max(1),
                    _ => minimum + self.random(|random| random.u64(..100)),
                })?,
            };
            let again = self.random(|random| random.u8(..5)) == 0;
            let bid = earlier.clone().filter(|_| again).unwrap_or(fresh);
            while self.began.elapsed() < self.bidding + PATIENCE {
                let (nth, asked) = (self.random(|random| random.usize(..INSTANCES)), bid.clone());
                let sent = self.now_us();
                let answer = self.ask(nth, |reply| Call::Bid(asked, reply)).await;
                let shown: Option<Value> =
                    answer.as_ref().map(|answer| serde_json::from_str(answer.public().get()).unwrap_or_default());
                self.note(&bid, sent, shown.as_ref());
                match answer {
                    Some(Answer::Accepted(accepted)) => {
                        minimum = minimum.max(accepted.minimum_bid.cents());
                        earlier = Some(bid.clone());
                        break;
                    }
                    Some(Answer::Rejected(refused)) if refused.code != protocol::Code::OutcomeUnknown => {
                        minimum = minimum.max(refused.minimum_bid.map_or(0, Amount::cents));
                        break;
                    }
                    _ => sleep(Duration::from_millis(50)).await,
                }
            }
            sleep(Duration::from_millis(self.random(|random| random.u64(5..400)))).await;
        }
        Ok(())
    }

    fn note(&self, bid: &BidRequest, sent: u64, answer: Option<&Value>) {
        let answered = answer.map(|_| self.now_us());
        let line = json!({"kind": "call", "user_id": bid.user_id.to_string(), "bid_id": bid.bid_id.to_string(),
                          "auction_id": self.auction_id.to_string(), "cents": bid.amount.cents(), "sent": sent,
                          "answered": answered, "answer": answer});
        lock(&self.lines).push(line);
    }

    /// Each service measures the clock of Redis; here all do at once.
    async fn measure(self: Arc<Self>) {
        loop {
            sleep(MEASURE_EVERY).await;
            lock(&self.outside).measure();
        }
    }

    /// Now this timer is elected, now the other, now neither.
    async fn elect(self: Arc<Self>) {
        for token in 1.. {
            let nth = self.random(|random| random.usize(..=TIMERS));
            lock(&self.outside).elected = (nth < TIMERS).then_some((nth, token));
            sleep(Duration::from_millis(self.random(|random| random.u64(500..6_000)))).await;
        }
    }

    async fn copy(self: Arc<Self>) {
        loop {
            sleep(COPY_EVERY).await;
            lock(&self.outside).copy_redis(COPIES);
        }
    }

    fn fault(&self, parts: &[&str], from: u64, to: u64) {
        lock(&self.lines).push(json!({"kind": "fault", "parts": parts, "from": from, "to": to}));
    }

    /// Everything that can go wrong, one after the other; then all is well. Returns how many were killed.
    async fn go_wrong(self: &Arc<Self>) -> u64 {
        let (mut killed, began) = (0, self.now_us());
        let lost = self.random(|random| random.u32(..30));
        lock(&self.outside).lost_in_thousand = Some(lost);
        while self.began.elapsed() < FAULTS {
            sleep(Duration::from_millis(self.random(|random| random.u64(100..1_500)))).await;
            let nth = self.random(|random| random.usize(..INSTANCES));
            let time = Duration::from_millis(self.random(|random| random.u64(50..2_500)));
            let from = self.now_us();
            let part = match self.random(|random| random.u8(..11)) {
                0 | 1 => {
                    self.replace(nth);
                    killed += 1;
                    "bid-processing"
                }
                2 => {
                    lock(&self.outside).empty_redis();
                    "redis"
                }
                3 => {
                    lock(&self.outside).roll_back_redis();
                    "redis"
                }
                4 => {
                    lock(&self.outside).redis_is_away = true;
                    sleep(time).await;
                    lock(&self.outside).redis_is_away = false;
                    "redis"
                }
                5 => {
                    lock(&self.outside).log_is_away = true;
                    sleep(time).await;
                    lock(&self.outside).log_is_away = false;
                    "nats"
                }
                6 => {
                    let goes_on = self.with_instances(|instances| Arc::clone(&instances[nth].goes_on));
                    goes_on.stand_still(time).await;
                    "bid-processing"
                }
                7 => {
                    let ahead = self.random(|random| random.i64(-MAX_STEP_MS..=MAX_STEP_MS));
                    lock(&self.outside).set_clock(ahead);
                    "redis"
                }
                8 => {
                    lock(&self.outside).table_is_away = true;
                    sleep(time).await;
                    lock(&self.outside).table_is_away = false;
                    "aws"
                }
                9 => {
                    let nth = self.random(|random| random.usize(..=TIMERS));
                    self.replace_part(nth);
                    killed += 1;
                    if nth < TIMERS { "timer" } else { "bid-persistence" }
                }
                _ => {
                    let nth = self.random(|random| random.usize(..=TIMERS));
                    let goes_on = Arc::clone(&lock(&self.parts)[nth].goes_on);
                    goes_on.stand_still(time).await;
                    if nth < TIMERS { "timer" } else { "bid-persistence" }
                }
            };
            self.fault(&[part], from, self.now_us());
        }
        lock(&self.outside).lost_in_thousand = None;
        lock(&self.outside).set_clock(0);
        // Calls were lost and late at any time: until the last of them has arrived the whole run is a fault. The
        // clock of Redis, which dates an end, was ahead of the clients'.
        sleep(SLOWEST).await;
        self.fault(&["redis", "nats"], began, self.now_us() + MAX_STEP_MS.unsigned_abs() * 1_000);
        killed
    }
}
