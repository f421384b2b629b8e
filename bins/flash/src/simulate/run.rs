//! One run: instances of bid-processing, bidders, timers, the consumer of the history, and the injected faults.

mod host;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use bid_persistence::Persist;
use bid_processing::{Call, Command};
use bus::Logged;
use checker::history::{History, Kind};
use checker::{Demands, Invariant, Verdict, check};
use domain::{Amount, AuctionId, BidId, BidRequest, UserId};
use protocol::{Answer, CreateRequest, Person, Record};
use serde_json::{Value, json};
use service::Stop;
use timer::Schedule;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::instances::{CLIENT_TIMEOUT, INSTANCES, Instances};
use super::log_keys;
use super::network::{Endpoint, Gate, Outside, SLOWEST, lock};
use super::predecessor::PREDECESSOR;
use super::timer::TimerBackend;

/// Timers in a run.
const TIMERS: usize = 2;
/// Bidders in a run.
const BIDDERS: u128 = 4;
const HOST: UserId = UserId::from_uuid(Uuid::from_u128(1));
/// Time in which bids are placed. It may outlast the faults, so that bids are placed in a healthy system too.
const BIDDING_MS: std::ops::Range<u64> = 2_000..20_000;
/// Time in which faults are injected.
const FAULTS: Duration = Duration::from_secs(9);
/// Time after the last bid until the auction must be over.
const LATEST_END: Duration = Duration::from_secs(90);
/// Time from the end of the auction until the history is complete. Records that the consumer lost are delivered
/// again after half a minute.
const DRAINED_WITHIN: Duration = Duration::from_secs(120);
/// Largest step of the clock of Redis, and the interval at which the services measure it.
const MAX_STEP_MS: i64 = 5_000;
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// Interval of the copies of Redis that a rollback can return to, and their number.
const COPY_EVERY: Duration = Duration::from_millis(100);
const COPIES: usize = 15;

/// The result of one run, or the sums of many.
#[derive(Default)]
pub struct Played {
    /// The recorded run.
    pub history: History,
    /// The violations in it.
    pub verdict: Verdict,
    /// Calls that were accepted.
    pub accepted: usize,
    /// Calls that the rules rejected.
    pub rejected: usize,
    /// Calls without a known outcome.
    pub unknown: usize,
    /// Rebuilds of the auction from the log.
    pub rebuilt: u64,
    /// Processes that were killed.
    pub killed: u64,
}

impl Played {
    /// Adds the numbers of another run.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        self.unknown += other.unknown;
        self.rebuilt += other.rebuilt;
        self.killed += other.killed;
    }
}

/// Runs a seed to its end and judges it.
///
/// # Errors
/// When the run does not come to its end.
pub fn play(seed: u64) -> Result<Played> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(Box::pin(async { Run::new(seed).play().await }))
}

/// A timer, or the consumer of the history.
struct Part {
    task: JoinHandle<()>,
    gate: Arc<Gate>,
}

struct Run {
    auction_id: AuctionId,
    outside: Arc<Mutex<Outside>>,
    instances: Arc<Instances>,
    /// The timers, then the consumer.
    parts: Mutex<Vec<Part>>,
    lines: Mutex<Vec<Value>>,
    began: Instant,
    /// Time after which no bid is placed.
    bidding: Duration,
}

impl Run {
    fn new(seed: u64) -> Arc<Self> {
        let mut outside = Outside::new(seed, INSTANCES);
        let bidding = Duration::from_millis(outside.random.u64(BIDDING_MS));
        let auction_id = AuctionId::from_uuid(Uuid::from_u128(0xA0C7));
        let outside = Arc::new(Mutex::new(outside));
        let instances = Instances::start(auction_id, Arc::clone(&outside));
        let (parts, lines, began) = (Mutex::default(), Mutex::default(), Instant::now());
        Arc::new(Self { auction_id, outside, instances, parts, lines, began, bidding })
    }

    fn random<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut lock(&self.outside).random)
    }

    fn now_us(&self) -> u64 {
        let beginning = lock(&self.outside).clients_now().0 * 1000;
        beginning + u64::from(self.began.elapsed().subsec_micros() % 1000)
    }

    /// Starts the timer with this number; the number after the last timer is the consumer.
    fn start_part(self: &Arc<Self>, nth: usize) -> Part {
        let gate = Arc::<Gate>::default();
        let endpoint = Endpoint { outside: Arc::clone(&self.outside), gate: Arc::clone(&gate) };
        let task = if nth < TIMERS {
            let interval = Duration::from_secs(self.random(|random| random.u64(1..=5)));
            let backend = TimerBackend { instances: Arc::clone(&self.instances), nth, endpoint };
            tokio::spawn(Schedule::new(backend, interval, Default::default()).run())
        } else {
            tokio::spawn(Persist::new(endpoint, Default::default()).run(Stop::new()))
        };
        Part { task, gate }
    }

    fn replace_part(self: &Arc<Self>, nth: usize) {
        let new = self.start_part(nth);
        std::mem::replace(&mut lock(&self.parts)[nth], new).task.abort();
    }

    async fn play(self: Arc<Self>) -> Result<Played> {
        let parts = (0..=TIMERS).map(|nth| self.start_part(nth)).collect();
        *lock(&self.parts) = parts;
        self.create().await?;
        let bidders: Vec<_> = (0..BIDDERS).map(|nth| tokio::spawn(Arc::clone(&self).bid(2 + nth))).collect();
        let background = [
            tokio::spawn(Arc::clone(&self).copy()),
            tokio::spawn(Arc::clone(&self).measure()),
            tokio::spawn(Arc::clone(&self).moderate()),
            tokio::spawn(Arc::clone(&self).elect()),
        ];
        let killed = self.inject_faults().await;
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
        tokio::time::timeout(DRAINED_WITHIN, drained).await.context("the history was never complete")?;
        background.iter().for_each(JoinHandle::abort);
        lock(&self.parts).iter().for_each(|part| part.task.abort());

        let history = History::parse(&self.text()?)?;
        let without = BTreeSet::from([Kind::Row, Kind::Frame, Kind::Mail]);
        let clocks_apart_us = MAX_STEP_MS.unsigned_abs() * 1_000;
        let mut verdict = check(&history, &Demands { without, clocks_apart_us, ..Demands::default() });
        self.judge_outside(&mut verdict);
        let calls = |fits: fn(&checker::history::Call) -> bool| history.calls.iter().filter(|call| fits(call)).count();
        let (accepted, rejected) = (calls(|call| call.is_accepted()), calls(|call| call.is_rejected_by_rules()));
        let unknown = calls(|call| call.is_unknown());
        let rebuilt = self.instances.finish();
        Ok(Played { history, verdict, accepted, rejected, unknown, rebuilt, killed })
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

    /// Adds calls that no correct service makes, and ticks that differ from the record that they name.
    fn judge_outside(&self, verdict: &mut Verdict) {
        let outside = lock(&self.outside);
        for violation in &outside.violations {
            verdict.add(Invariant::Input, violation.clone(), []);
        }
        for tick in &outside.ticks {
            let record = outside.log.iter().find(|logged| logged.record.seq == tick.message.seq);
            let same = record.is_some_and(|Logged { record: Record { state, .. }, .. }| {
                (&state.status, state.shown_end(), state.extension_count)
                    == (&tick.message.status, tick.message.end_time, tick.message.extension_count)
            });
            if !same {
                verdict.add(Invariant::Sockets, format!("the tick {tick:?} differs from the record that it names"), []);
            }
        }
    }

    /// Creates the auction; repeats the request until it succeeds.
    async fn create(&self) -> Result<()> {
        let (keys, mut options) = (log_keys(), self.random(options));
        // Reached by most auctions, before the buy-now price.
        let most = options.buy_now.map_or(3_000, Amount::cents).min(3_000);
        let reserve = self.random(|random| random.bool().then(|| random.u64(100..=most)));
        let reserve = reserve.map(Amount::from_cents).transpose()?;
        // Scheduled auctions: with pre-bids, or with time enough for bids after a start that a fault delays.
        let may_wait = options.allow_prebids || self.bidding > FAULTS;
        let waits = self.random(|random| random.bool().then(|| random.u64(200..BIDDING_MS.start * 3 / 4)));
        let waits = waits.filter(|_| may_wait);
        let mut starts_at = waits.map(|milliseconds| lock(&self.outside).clients_now().0 + milliseconds);
        // Half of them follow an auction that ends then.
        if self.random(|random| random.bool()) && starts_at.is_some() {
            lock(&self.outside).predecessor_ends_at = starts_at.take();
            options.follows = Some(PREDECESSOR);
            options.gap_ms = self.random(|random| random.u64(..300));
        }
        let request = CreateRequest {
            auction_id: self.auction_id,
            host: Person { user_id: HOST, username: "host".to_owned() },
            starting_bid: Amount::from_cents(100)?,
            increment: Amount::from_cents(50)?,
            options,
            reserve,
            sealed_reserve: reserve.map(|reserve| keys.seal_reserve(self.auction_id, reserve)).transpose()?,
            duration_ms: self.random(|random| random.u64(6_000..18_000)),
            anti_snipe_mode: self.random(|random| {
                let modes = [domain::AntiSnipeMode::Extend, domain::AntiSnipeMode::Reset, domain::AntiSnipeMode::Off];
                modes[random.usize(..modes.len())]
            }),
            anti_snipe_window_ms: self.random(|random| random.u64(0..3_000)),
            anti_snipe_extension_ms: self.random(|random| random.u64(0..2_000)),
            anti_snipe_max_extensions: self.random(|random| random.u32(..4)),
            starts_at,
            valid_until: u64::MAX / 2,
        };
        loop {
            let (nth, asked) = (self.random(|random| random.usize(..INSTANCES)), request.clone());
            if let Some(Ok(_)) =
                self.instances.call(nth, |reply| Call::Command(Command::Create(Box::new(asked)), reply)).await
            {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// One bidder: bids, sometimes too low, repeats accepted bids, and retries bids with an unknown outcome.
    async fn bid(self: Arc<Self>, user: u128) -> Result<()> {
        let (mut minimum, mut earlier): (u64, Option<BidRequest>) = (100, None);
        let keys = log_keys();
        while self.began.elapsed() < self.bidding {
            let bid_id = BidId::from_uuid(Uuid::from_u128(self.random(|random| random.u128(..))));
            if bid_id.is_of_counter_bid() {
                continue;
            }
            let amount = Amount::from_cents(match self.random(|random| random.u8(..6)) {
                0 => minimum.saturating_sub(30).max(1),
                _ => minimum + self.random(|random| random.u64(..100)),
            })?;
            let maximum = self.random(|random| (random.u8(..3) == 0).then(|| random.u64(..600)));
            let maximum = maximum.map(|more| Amount::from_cents(amount.cents() + more)).transpose()?;
            let given = Some(amount).filter(|_| maximum.is_none() || self.random(|random| random.bool()));
            let offer = keys.offer(self.auction_id, bid_id, given, maximum)?.context("an offer")?;
            let new = BidRequest {
                bid_id,
                user_id: UserId::from_uuid(Uuid::from_u128(user)),
                username: format!("user-{user}"),
                offer,
            };
            let again = self.random(|random| random.u8(..5)) == 0;
            let bid = earlier.clone().filter(|_| again).unwrap_or(new);
            while self.began.elapsed() < self.bidding + CLIENT_TIMEOUT {
                let (nth, asked) = (self.random(|random| random.usize(..INSTANCES)), bid.clone());
                let sent = self.now_us();
                let answer = self.instances.call(nth, |reply| Call::Bid(asked, reply)).await;
                let shown: Option<Value> =
                    answer.as_ref().map(|answer| serde_json::from_str(answer.public().get()).unwrap_or_default());
                self.note(&bid, sent, shown.as_ref());
                match answer {
                    Some(Answer::Accepted(accepted)) => {
                        minimum = minimum.max(accepted.minimum_bid.cents());
                        earlier = Some(bid.clone());
                        break;
                    }
                    Some(Answer::Rejected(rejected)) if rejected.code != protocol::Code::OutcomeUnknown => {
                        minimum = minimum.max(rejected.minimum_bid.map_or(0, Amount::cents));
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
                          "auction_id": self.auction_id.to_string(), "cents": bid.offer.amount().map_or(0, Amount::cents),
                          "max_cents": bid.offer.maximum().map(Amount::cents), "sent": sent,
                          "answered": answered, "answer": answer});
        lock(&self.lines).push(line);
    }

    /// All services measure the clock of Redis, at the same moment.
    async fn measure(self: Arc<Self>) {
        loop {
            sleep(MEASURE_EVERY).await;
            lock(&self.outside).measure();
        }
    }

    /// Elects one timer, the other or neither, by turns.
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

    /// Injects one fault after the other, then heals everything. Returns the number of killed processes.
    async fn inject_faults(self: &Arc<Self>) -> u64 {
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
                    self.instances.replace(nth);
                    killed += 1;
                    "bid-processing"
                }
                2 => {
                    let mut outside = lock(&self.outside);
                    outside.empty_redis();
                    // Every second time Redis loses its data once more, while the auction is restored.
                    outside.empties_next_restore = nth == 0;
                    "redis"
                }
                3 => {
                    lock(&self.outside).roll_back_redis();
                    "redis"
                }
                4 => {
                    lock(&self.outside).redis_is_down = true;
                    sleep(time).await;
                    lock(&self.outside).redis_is_down = false;
                    "redis"
                }
                5 => {
                    lock(&self.outside).log_is_down = true;
                    sleep(time).await;
                    lock(&self.outside).log_is_down = false;
                    "nats"
                }
                6 => {
                    self.instances.freeze(nth, time).await;
                    "bid-processing"
                }
                7 => {
                    let ahead = self.random(|random| random.i64(-MAX_STEP_MS..=MAX_STEP_MS));
                    lock(&self.outside).set_clock(ahead);
                    "redis"
                }
                8 => {
                    lock(&self.outside).table_is_down = true;
                    sleep(time).await;
                    lock(&self.outside).table_is_down = false;
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
                    let gate = Arc::clone(&lock(&self.parts)[nth].gate);
                    gate.freeze(time).await;
                    if nth < TIMERS { "timer" } else { "bid-persistence" }
                }
            };
            self.fault(&[part], from, self.now_us());
        }
        self.heal(began).await;
        killed
    }

    /// Ends every fault and waits for late calls.
    async fn heal(&self, began: u64) {
        lock(&self.outside).lost_in_thousand = None;
        lock(&self.outside).empties_next_restore = false;
        lock(&self.outside).set_clock(0);
        // Calls were lost or late at any time, so the whole run until the last late call arrives counts as a fault.
        // Its end allows for the clock of Redis, which decides when an auction ends and may have been ahead.
        sleep(SLOWEST).await;
        self.fault(&["redis", "nats"], began, self.now_us() + MAX_STEP_MS.unsigned_abs() * 1_000);
    }
}

/// The options of an auction, each in use in half of the runs.
fn options(random: &mut fastrand::Rng) -> protocol::Options {
    let increments = if random.bool() { "0:50 300:70 1000:100".parse().ok() } else { None };
    // Some auctions are bought soon, some late, some never.
    let buy_now = if random.bool() { Amount::from_cents(random.u64(100..20_000)).ok() } else { None };
    let (allow_self_raise, allow_prebids) = (random.bool(), random.bool());
    protocol::Options { increments, allow_self_raise, buy_now, allow_prebids, ..protocol::Options::default() }
}
