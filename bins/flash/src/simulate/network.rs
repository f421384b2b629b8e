//! The network of a run and everything behind it: Redis, the log and the history table, which fail on one seed.
//!
//! A call arrives or not, is answered or not, early or late, also after its sender has given up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::{LogError, Logged, StoredCheckpoint};
use domain::Millis;
use hotstate::HotstateError;
use protocol::{Bid, Leased, TimerTick};
use redis::RedisError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::redis::Hot;

/// Timeout of a Redis call. All three are those of the real clients.
const REDIS_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of an append to the log.
pub const LOG_TIMEOUT: Duration = Duration::from_millis(2_500);
/// Timeout of a read of the log.
pub const READ_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest delay of a call, longer than any caller waits.
pub const SLOWEST: Duration = Duration::from_millis(2_600);
/// Milliseconds since 1970 at which every run begins.
const BEGINNING_MS: u64 = 1_700_000_000_000;

/// The durable consumer of the history, as the server keeps it.
#[derive(Default)]
pub struct Deliveries {
    /// Position of the first record that was never delivered.
    pub next: usize,
    /// Records that were delivered and not acknowledged, with the time of their next delivery.
    pub pending: BTreeMap<usize, Instant>,
}

/// Everything outside of the simulated processes.
pub struct Outside {
    /// The only source of randomness of a run.
    pub random: fastrand::Rng,
    began: Instant,
    /// The auction in Redis; None if Redis does not have it.
    pub hot: Option<Hot>,
    /// Copies of the auction in Redis at earlier times, newest last.
    pub copies: VecDeque<Option<Hot>>,
    /// The records of the auction.
    pub log: Vec<Logged>,
    /// When the auction ends that this one follows, by the clock of the clients; None if it follows none.
    pub predecessor_ends_at: Option<u64>,
    /// The checkpoints of the auction.
    pub checkpoints: Vec<StoredCheckpoint>,
    /// Answers in Redis that no restoration has taken, by key: their number.
    pub rebuilt: BTreeMap<String, u64>,
    /// Notified when a record is appended.
    pub grown: Arc<Changes>,
    /// Redis cannot be reached.
    pub redis_is_down: bool,
    /// The next restore of the auction finds Redis emptied after the answers were written and before the script.
    pub empties_next_restore: bool,
    /// The log cannot be reached.
    pub log_is_down: bool,
    /// The history table cannot be reached.
    pub table_is_down: bool,
    /// Milliseconds by which the clock of Redis is ahead of that of the clients.
    clock_ahead_ms: i64,
    /// The same offset as the services measured it last.
    measured_ahead_ms: i64,
    /// The elected timer and its fencing token.
    pub elected: Option<(usize, u64)>,
    /// Every tick that was sent.
    pub ticks: Vec<Leased<TimerTick>>,
    /// The consumer of the history.
    pub deliveries: Deliveries,
    /// The history table: bids by seq.
    pub table: BTreeMap<u64, Bid>,
    /// Calls that no correct service makes.
    pub violations: Vec<String>,
    /// Calls out of 1,000 that are lost in each direction; some others take as long as [`SLOWEST`]. None: every call
    /// arrives quickly.
    pub lost_in_thousand: Option<u32>,
    /// The subscription of each instance to republished records.
    pub subscribers: Vec<Option<mpsc::Sender<Box<Logged>>>>,
}

/// The server that a call goes to.
#[derive(Clone, Copy)]
pub enum Place {
    /// Redis.
    Redis,
    /// The log.
    Nats,
    /// The history table.
    Table,
}

/// Delays and losses of one call.
struct Fate {
    request_delay: Duration,
    reply_delay: Duration,
    arrives: bool,
    returns: bool,
}

impl Outside {
    /// The state of a run before its first call.
    pub fn new(seed: u64, instances: usize) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            began: Instant::now(),
            hot: None,
            copies: VecDeque::new(),
            log: Vec::new(),
            predecessor_ends_at: None,
            checkpoints: Vec::new(),
            rebuilt: BTreeMap::new(),
            grown: Arc::default(),
            redis_is_down: false,
            empties_next_restore: false,
            log_is_down: false,
            table_is_down: false,
            clock_ahead_ms: 0,
            measured_ahead_ms: 0,
            elected: None,
            ticks: Vec::new(),
            deliveries: Deliveries::default(),
            table: BTreeMap::new(),
            violations: Vec::new(),
            lost_in_thousand: None,
            subscribers: vec![None; instances],
        }
    }

    /// The time by the clock of the clients, which is never set.
    pub fn clients_now(&self) -> Millis {
        Millis(BEGINNING_MS + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The time by the clock of Redis, which may be set.
    pub fn now(&self) -> Millis {
        Millis(self.clients_now().0.saturating_add_signed(self.clock_ahead_ms))
    }

    /// Sets the clock of Redis.
    pub const fn set_clock(&mut self, ahead_ms: i64) {
        self.clock_ahead_ms = ahead_ms;
    }

    /// Lets all services measure the offset of the clock of Redis.
    pub const fn measure(&mut self) {
        self.measured_ahead_ms = self.clock_ahead_ms;
    }

    /// Redis loses everything.
    pub fn empty_redis(&mut self) {
        self.hot = None;
        self.rebuilt.clear();
    }

    /// Redis restarts on an earlier copy of its data.
    pub fn roll_back_redis(&mut self) {
        if !self.copies.is_empty() {
            let nth = self.random.usize(..self.copies.len());
            self.hot = self.copies[nth].clone();
            self.copies.truncate(nth + 1);
            self.rebuilt.clear();
        }
    }

    /// Keeps a copy of what Redis holds, for [`Outside::roll_back_redis`].
    pub fn copy_redis(&mut self, max: usize) {
        self.copies.push_back(self.hot.clone());
        while self.copies.len() > max {
            self.copies.pop_front();
        }
    }

    fn fate(&mut self, place: Place) -> Fate {
        let is_down = match place {
            Place::Redis => self.redis_is_down,
            Place::Nats => self.log_is_down,
            Place::Table => self.table_is_down,
        };
        let slowest = u64::try_from(SLOWEST.as_millis()).unwrap_or(u64::MAX);
        let (rough, lost) = (self.lost_in_thousand.is_some(), self.lost_in_thousand.unwrap_or(0));
        let time = |random: &mut fastrand::Rng| match random.u8(..100) {
            0 if rough => Duration::from_millis(random.u64(100..slowest)),
            0..10 if rough => Duration::from_millis(random.u64(5..60)),
            _ => Duration::from_millis(random.u64(0..4)),
        };
        let (request_delay, reply_delay) = (time(&mut self.random), time(&mut self.random));
        let survives = |random: &mut fastrand::Rng| random.u32(..1_000) >= lost;
        let (arrives, returns) = (survives(&mut self.random) && !is_down, survives(&mut self.random));
        Fate { request_delay, reply_delay, arrives, returns }
    }
}

/// Wakes its waiters in the order in which they came. The `watch` of tokio wakes them in a random order, which
/// would make runs differ.
#[derive(Default)]
pub struct Changes(Notify);

impl Changes {
    /// Wakes every waiter.
    pub fn notify(&self) {
        self.0.notify_waiters();
    }

    /// Waits until the condition holds.
    pub async fn until(&self, is_so: impl Fn() -> bool) {
        loop {
            let changed = self.0.notified();
            if is_so() {
                return;
            }
            changed.await;
        }
    }
}

/// Freezes a process, as SIGSTOP does.
#[derive(Default)]
pub struct Gate {
    is_shut: AtomicBool,
    changes: Changes,
}

impl Gate {
    /// Freezes the process for this time.
    pub async fn freeze(&self, time: Duration) {
        self.is_shut.store(true, Ordering::Relaxed);
        sleep(time).await;
        self.is_shut.store(false, Ordering::Relaxed);
        self.changes.notify();
    }
}

/// The network as one process uses it.
#[derive(Clone)]
pub struct Endpoint {
    /// Everything at the other end.
    pub outside: Arc<Mutex<Outside>>,
    /// While shut, the process is frozen: it sends nothing and reads nothing.
    pub gate: Arc<Gate>,
}

/// Locks, also after a panic: the data is consistent after every statement.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Endpoint {
    /// The time by the clock of Redis, as the service last measured it.
    pub fn measured_now(&self) -> Millis {
        let outside = lock(&self.outside);
        Millis(outside.clients_now().0.saturating_add_signed(outside.measured_ahead_ms))
    }

    /// Waits while the process is frozen.
    pub async fn while_frozen(&self) {
        self.gate.changes.until(|| !self.gate.is_shut.load(Ordering::Relaxed)).await;
    }

    /// Sends a call. It takes effect whether or not the sender still waits for the reply.
    pub async fn cast<T: Send + 'static>(
        &self,
        place: Place,
        effect: impl FnOnce(&mut Outside) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        self.while_frozen().await;
        let fate = lock(&self.outside).fate(place);
        let (reply, answer) = oneshot::channel();
        let outside = Arc::clone(&self.outside);
        tokio::spawn(async move {
            sleep(fate.request_delay).await;
            if !fate.arrives {
                return;
            }
            let done = effect(&mut lock(&outside));
            sleep(fate.reply_delay).await;
            if fate.returns {
                // The sender may have given up.
                drop(reply.send(done));
            }
        });
        answer
    }

    /// Sends a call and waits for the reply. None if none comes in time.
    pub async fn send<T: Send + 'static>(
        &self,
        place: Place,
        timeout: Duration,
        effect: impl FnOnce(&mut Outside) -> T + Send + 'static,
    ) -> Option<T> {
        let answer = self.cast(place, effect).await;
        let answered = tokio::time::timeout(timeout, answer).await;
        self.while_frozen().await;
        answered.ok().and_then(Result::ok)
    }

    /// Calls Redis.
    pub async fn redis<T: Send + 'static>(
        &self,
        effect: impl FnOnce(&mut Outside) -> T + Send + 'static,
    ) -> Result<T, HotstateError> {
        let timed_out = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        self.send(Place::Redis, REDIS_TIMEOUT, effect).await.ok_or_else(|| timed_out().into())
    }

    /// Reads the log.
    pub async fn read<T: Send + 'static>(
        &self,
        effect: impl FnOnce(&mut Outside) -> T + Send + 'static,
    ) -> Result<T, LogError> {
        let timed_out = || LogError::Read("no answer".into());
        self.send(Place::Nats, READ_TIMEOUT, effect).await.ok_or_else(timed_out)
    }
}
