//! One run: two instances, bidders, a timer, and what goes wrong meanwhile.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use bid_processing::{ANSWER_WITHIN, Auctioneer, Call, Counters, Shared, Waiting};
use domain::{Amount, AuctionId, BidId, BidRequest, UserId};
use protocol::{Answer, CreateRequest, Person};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::world::{Outside, SLOWEST, Seen, lock};
use crate::check::history::{History, Kind};
use crate::check::{Demands, Verdict, check};

const INSTANCES: usize = 2;
const BIDDERS: u128 = 4;
const HOST: UserId = UserId::from_uuid(Uuid::from_u128(1));
/// How long bidding goes on, of which the last seconds without faults: everything must come to its end.
const BIDDING: Duration = Duration::from_secs(20);
const FAULTS: Duration = Duration::from_secs(9);
const LATEST_END: Duration = Duration::from_secs(90);
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
    goes_on: watch::Sender<bool>,
    shared: Arc<Shared<Seen>>,
}

struct Run {
    auction_id: AuctionId,
    outside: Arc<Mutex<Outside>>,
    instances: Mutex<Vec<Instance>>,
    lines: Mutex<Vec<Value>>,
    began: Instant,
    rebuilt: Mutex<u64>,
}

impl Run {
    fn new(seed: u64) -> Arc<Self> {
        let run = Self {
            auction_id: AuctionId::from_uuid(Uuid::from_u128(0xA0C7)),
            outside: Arc::new(Mutex::new(Outside::new(seed, INSTANCES))),
            instances: Mutex::default(),
            lines: Mutex::default(),
            began: Instant::now(),
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
        // Redis's clock and the clients' are one here.
        let beginning = lock(&self.outside).now().0 * 1000;
        beginning + u64::from(self.began.elapsed().subsec_micros() % 1000)
    }

    fn start(&self, nth: usize) -> Instance {
        let (calls, waiting) = mpsc::channel(MAX_WAITING);
        let (ear, heard) = mpsc::channel(MAX_HEARD);
        let (goes_on, gate) = watch::channel(true);
        lock(&self.outside).ears[nth] = Some(ear);
        let seen = Seen { outside: Arc::clone(&self.outside), goes_on: gate };
        let shared = Arc::new(Shared::new(seen, Counters::default()));
        let auctioneer = Auctioneer::new(self.auction_id, Arc::clone(&shared), waiting, heard);
        Instance { calls, task: tokio::spawn(auctioneer.run()), goes_on, shared }
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
    async fn ask<A>(&self, nth: usize, call: impl FnOnce(oneshot::Sender<A>) -> Call) -> Option<A> {
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
        self.create().await?;
        let bidders: Vec<_> = (0..BIDDERS).map(|nth| tokio::spawn(Arc::clone(&self).bid(2 + nth))).collect();
        let timer = tokio::spawn(Arc::clone(&self).close());
        let copies = tokio::spawn(Arc::clone(&self).copy());
        let killed = self.go_wrong().await;
        for bidder in bidders {
            bidder.await??;
        }
        tokio::time::timeout(LATEST_END, timer).await.context("the auction was never closed")??;
        copies.abort();

        let mut lines = std::mem::take(&mut *lock(&self.lines));
        for logged in &lock(&self.outside).log {
            lines.push(json!({"kind": "record", "stream_seq": logged.stream_seq,
                              "record": serde_json::to_value(&logged.record)?}));
        }
        let text: Vec<String> = lines.iter().map(Value::to_string).collect();
        let history = History::parse(&text.join("\n"))?;
        let without = BTreeSet::from([Kind::Item, Kind::Row, Kind::Frame, Kind::Mail]);
        let verdict = check(&history, &Demands { without, ..Demands::default() });
        let calls =
            |fits: fn(&crate::check::history::Call) -> bool| history.calls.iter().filter(|call| fits(call)).count();
        let (accepted, refused) = (calls(|call| call.is_accepted()), calls(|call| call.is_ruled_out()));
        let unknown = calls(|call| call.is_unknown());
        (0..INSTANCES).for_each(|nth| self.replace(nth));
        let rebuilt = *lock(&self.rebuilt);
        Ok(Played { history, verdict, accepted, refused, unknown, rebuilt, killed })
    }

    /// Asks until the log has it and it is open.
    async fn create(&self) -> Result<()> {
        let request = CreateRequest {
            auction_id: self.auction_id,
            host: Person { user_id: HOST, username: "host".to_owned() },
            starting_bid: Amount::from_cents(100)?,
            increment: Amount::from_cents(50)?,
            duration_ms: self.random(|random| random.u64(6_000..18_000)),
            anti_snipe_mode: self.random(|random| if random.bool() { "extend" } else { "off" }).to_owned(),
            anti_snipe_window_ms: self.random(|random| random.u64(0..3_000)),
            anti_snipe_extension_ms: self.random(|random| random.u64(0..2_000)),
            anti_snipe_max_extensions: self.random(|random| random.u32(..4)),
            valid_until: u64::MAX / 2,
        };
        loop {
            let (nth, asked) = (self.random(|random| random.usize(..INSTANCES)), request.clone());
            if let Some(Ok(_)) = self.ask(nth, |reply| Call::Create(asked, reply)).await {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// One bidder: raises, sometimes too little, repeats what was accepted, asks again for what is unknown.
    async fn bid(self: Arc<Self>, user: u128) -> Result<()> {
        let (mut minimum, mut earlier): (u64, Option<BidRequest>) = (100, None);
        while self.began.elapsed() < BIDDING {
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
            while self.began.elapsed() < BIDDING + PATIENCE {
                let (nth, asked) = (self.random(|random| random.usize(..INSTANCES)), bid.clone());
                let sent = self.now_us();
                let answer = self.ask(nth, |reply| Call::Place(asked, reply)).await;
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

    /// The timer: asks for the closing when due, again until the log has it.
    async fn close(self: Arc<Self>) {
        loop {
            sleep(Duration::from_millis(100)).await;
            let (now, last) = {
                let outside = lock(&self.outside);
                (outside.now().0, outside.log.last().map(|logged| logged.record.state.clone()))
            };
            let Some(state) = last else { continue };
            if state.outcome.is_some() {
                return;
            }
            if state.status == "live" && now >= state.end_time {
                let nth = self.random(|random| random.usize(..INSTANCES));
                drop(self.ask(nth, |reply| Call::Close(None, reply)).await);
            }
        }
    }

    async fn copy(self: Arc<Self>) {
        loop {
            sleep(COPY_EVERY).await;
            lock(&self.outside).copy_redis(COPIES);
        }
    }

    fn fault(&self, parts: &[&str], from: u64) {
        let fault = json!({"kind": "fault", "parts": parts, "from": from, "to": self.now_us()});
        lock(&self.lines).push(fault);
    }

    /// Everything that can go wrong, one after the other; then all is well. Returns how many were killed.
    async fn go_wrong(&self) -> u64 {
        let (mut killed, began) = (0, self.now_us());
        let lost = self.random(|random| random.u32(..30));
        lock(&self.outside).lost_in_thousand = Some(lost);
        while self.began.elapsed() < FAULTS {
            sleep(Duration::from_millis(self.random(|random| random.u64(100..1_500)))).await;
            let nth = self.random(|random| random.usize(..INSTANCES));
            let time = Duration::from_millis(self.random(|random| random.u64(50..2_500)));
            let from = self.now_us();
            let part = match self.random(|random| random.u8(..7)) {
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
                _ => {
                    self.with_instances(|instances| instances[nth].goes_on.send_replace(false));
                    sleep(time).await;
                    self.with_instances(|instances| instances[nth].goes_on.send_replace(true));
                    "bid-processing"
                }
            };
            self.fault(&[part], from);
        }
        lock(&self.outside).lost_in_thousand = None;
        // Calls were lost and late at any time: until the last of them has arrived the whole run is a fault.
        sleep(SLOWEST).await;
        self.fault(&["redis", "nats"], began);
        killed
    }
}
