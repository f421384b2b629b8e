//! A Redis and a log that fail as they like, on one seed.
//!
//! Redis decides by `domain::Auction`, which a test holds against the scripts, command by command. What is
//! sent arrives or not, is answered or not, early or late, also after whoever sent it has given up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bid_processing::{Backend, Decided, RecallError};
use bus::{AppendError, LogError, Logged};
use domain::{AntiSnipe, Auction, AuctionId, BidRequest, Head, Host, Millis, Rules, Status, UserId};
use hotstate::{Closed, Created, HotstateError, Opened, OutboxEntry, Position, Restoration, Verdicts, View};
use protocol::{Bid, CommittedState, CreateRequest, Leased, Mark, Record, RecordKind, TimerTick};
use redis::RedisError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::books::Deliveries;
use super::redis::{Hot, MAX_ENTRIES};

/// As the real clients give up.
const REDIS_TIMEOUT: Duration = Duration::from_secs(2);
const LOG_TIMEOUT: Duration = Duration::from_millis(2_500);
pub const READ_TIMEOUT: Duration = Duration::from_millis(500);
/// Longer than anybody waits.
pub const SLOWEST: Duration = Duration::from_millis(2_600);
/// Milliseconds since 1970 at which every run begins.
const BEGINNING_MS: u64 = 1_700_000_000_000;

/// Everything outside the instances.
pub struct Outside {
    pub random: fastrand::Rng,
    began: Instant,
    hot: Option<Hot>,
    /// What Redis held at earlier times, newest last.
    pub copies: VecDeque<Option<Hot>>,
    pub log: Vec<Logged>,
    /// The log has one record more.
    pub grown: Arc<Changes>,
    pub redis_is_away: bool,
    pub log_is_away: bool,
    pub table_is_away: bool,
    /// By how much the clock of Redis is ahead of the clients'.
    clock_ahead_ms: i64,
    /// As the services have measured it last.
    measured_ahead_ms: i64,
    /// Which timer is elected, and its token.
    pub elected: Option<(usize, u64)>,
    pub ticks: Vec<Leased<TimerTick>>,
    pub deliveries: Deliveries,
    /// The history: bids by seq.
    pub table: BTreeMap<u64, Bid>,
    /// What the outside was asked that nobody may ask.
    pub outrages: Vec<String>,
    /// Some calls take as long as [`SLOWEST`], and of a thousand so many are lost each way. None: all arrive,
    /// and soon.
    pub lost_in_thousand: Option<u32>,
    /// The ear of each instance, for records as they are republished.
    pub ears: Vec<Option<mpsc::Sender<Logged>>>,
}

/// Where a call goes.
#[derive(Clone, Copy)]
pub enum Place {
    Redis,
    Nats,
    Table,
}

/// What happens to one call.
struct Fate {
    there: Duration,
    back: Duration,
    arrives: bool,
    returns: bool,
}

impl Outside {
    pub fn new(seed: u64, instances: usize) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            began: Instant::now(),
            hot: None,
            copies: VecDeque::new(),
            log: Vec::new(),
            grown: Arc::default(),
            redis_is_away: false,
            log_is_away: false,
            table_is_away: false,
            clock_ahead_ms: 0,
            measured_ahead_ms: 0,
            elected: None,
            ticks: Vec::new(),
            deliveries: Deliveries::default(),
            table: BTreeMap::new(),
            outrages: Vec::new(),
            lost_in_thousand: None,
            ears: vec![None; instances],
        }
    }

    /// By the clock of the clients, which only goes on.
    pub fn clients_now(&self) -> Millis {
        Millis(BEGINNING_MS + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// By the clock of Redis, which may be set.
    fn now(&self) -> Millis {
        Millis(self.clients_now().0.saturating_add_signed(self.clock_ahead_ms))
    }

    pub const fn set_clock(&mut self, ahead_ms: i64) {
        self.clock_ahead_ms = ahead_ms;
    }

    /// Every service measures the offset once a second.
    pub const fn measure(&mut self) {
        self.measured_ahead_ms = self.clock_ahead_ms;
    }

    pub fn empty_redis(&mut self) {
        self.hot = None;
    }

    /// Redis comes back as it was a moment ago.
    pub fn roll_back_redis(&mut self) {
        if !self.copies.is_empty() {
            let nth = self.random.usize(..self.copies.len());
            self.hot = self.copies[nth].clone();
            self.copies.truncate(nth + 1);
        }
    }

    pub fn copy_redis(&mut self, most: usize) {
        self.copies.push_back(self.hot.clone());
        while self.copies.len() > most {
            self.copies.pop_front();
        }
    }

    fn fate(&mut self, place: Place) -> Fate {
        let away = match place {
            Place::Redis => self.redis_is_away,
            Place::Nats => self.log_is_away,
            Place::Table => self.table_is_away,
        };
        let slowest = u64::try_from(SLOWEST.as_millis()).unwrap_or(u64::MAX);
        let (rough, lost) = (self.lost_in_thousand.is_some(), self.lost_in_thousand.unwrap_or(0));
        let time = |random: &mut fastrand::Rng| match random.u8(..100) {
            0 if rough => Duration::from_millis(random.u64(100..slowest)),
            0..10 if rough => Duration::from_millis(random.u64(5..60)),
            _ => Duration::from_millis(random.u64(0..4)),
        };
        let (there, back) = (time(&mut self.random), time(&mut self.random));
        let survives = |random: &mut fastrand::Rng| random.u32(..1_000) >= lost;
        let (arrives, returns) = (survives(&mut self.random) && !away, survives(&mut self.random));
        Fate { there, back, arrives, returns }
    }
}

/// Lets those who wait look again, in the order in which they came: tokio's `watch` draws an order of its own.
#[derive(Default)]
pub struct Changes(Notify);

impl Changes {
    pub fn tell(&self) {
        self.0.notify_waiters();
    }

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

/// Whether an instance goes on.
#[derive(Default)]
pub struct Gate {
    is_shut: AtomicBool,
    changes: Changes,
}

impl Gate {
    pub async fn stand_still(&self, time: Duration) {
        self.is_shut.store(true, Ordering::Relaxed);
        sleep(time).await;
        self.is_shut.store(false, Ordering::Relaxed);
        self.changes.tell();
    }
}

/// The outside as one instance sees it.
#[derive(Clone)]
pub struct Seen {
    pub outside: Arc<Mutex<Outside>>,
    /// While false the instance stands still: nothing it sends leaves, nothing it gets is looked at.
    pub goes_on: Arc<Gate>,
}

/// Whole after every statement, whoever panicked meanwhile.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    /// The clock of Redis, as far as a service knows it.
    pub fn measured_now(&self) -> Millis {
        let outside = lock(&self.outside);
        Millis(outside.clients_now().0.saturating_add_signed(outside.measured_ahead_ms))
    }

    pub async fn stand_still(&self) {
        self.goes_on.changes.until(|| !self.goes_on.is_shut.load(Ordering::Relaxed)).await;
    }

    /// Sends something that has an effect out there, whether or not the sender still waits.
    pub async fn cast<T: Send + 'static>(
        &self,
        place: Place,
        effect: impl FnOnce(&mut Outside) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        self.stand_still().await;
        let fate = lock(&self.outside).fate(place);
        let (reply, answer) = oneshot::channel();
        let outside = Arc::clone(&self.outside);
        tokio::spawn(async move {
            sleep(fate.there).await;
            if !fate.arrives {
                return;
            }
            let done = effect(&mut lock(&outside));
            sleep(fate.back).await;
            if fate.returns {
                // Whoever sent it may have given up.
                drop(reply.send(done));
            }
        });
        answer
    }

    /// As [`Seen::cast`], and waits. None: no answer.
    pub async fn send<T: Send + 'static>(
        &self,
        place: Place,
        timeout: Duration,
        effect: impl FnOnce(&mut Outside) -> T + Send + 'static,
    ) -> Option<T> {
        let answer = self.cast(place, effect).await;
        let answered = tokio::time::timeout(timeout, answer).await;
        self.stand_still().await;
        answered.ok().and_then(Result::ok)
    }

    async fn redis<T: Send + 'static>(
        &self,
        effect: impl FnOnce(&mut Outside) -> T + Send + 'static,
    ) -> Result<T, HotstateError> {
        let timed_out = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        self.send(Place::Redis, REDIS_TIMEOUT, effect).await.ok_or_else(|| timed_out().into())
    }

    async fn read<T: Send + 'static>(
        &self,
        effect: impl FnOnce(&mut Outside) -> T + Send + 'static,
    ) -> Result<T, LogError> {
        let silent = || LogError::Read("no answer".into());
        self.send(Place::Nats, READ_TIMEOUT, effect).await.ok_or_else(silent)
    }
}

impl Backend for Seen {
    async fn create(&self, request: &CreateRequest) -> Result<Created, HotstateError> {
        let request = request.clone();
        self.redis(move |outside| {
            let now = outside.now();
            if let Some(hot) = &outside.hot {
                return Created::Exists(hot.mark());
            }
            if now.0 > request.valid_until {
                return Created::Late;
            }
            let rules = Rules {
                host: Host { user_id: request.host.user_id, username: request.host.username.clone() },
                starting_bid: request.starting_bid,
                increment: request.increment,
                duration_ms: request.duration_ms,
                anti_snipe: AntiSnipe {
                    mode: request.anti_snipe_mode,
                    window_ms: request.anti_snipe_window_ms,
                    extension_ms: request.anti_snipe_extension_ms,
                    max_extensions: request.anti_snipe_max_extensions,
                },
            };
            let auction = Auction::create(request.auction_id, rules, now, now);
            let mut hot = Hot { auction, outbox: Vec::new(), recent: Vec::new(), top: Vec::new() };
            hot.append(RecordKind::Created, Head::GENESIS, now, Some(request.host.user_id), Vec::new());
            let mark = hot.mark();
            outside.hot = Some(hot);
            Created::Created(mark)
        })
        .await
    }

    async fn open(&self, _: AuctionId) -> Decided<Opened> {
        self.redis(|outside| {
            let now = outside.now();
            let hot = outside.hot.as_mut()?;
            let prev = hot.auction.head;
            Some(if hot.auction.status != Status::Scheduled {
                Opened::Already(hot.mark())
            } else if hot.auction.open(now) {
                hot.append(RecordKind::Opened, prev, now, None, Vec::new());
                Opened::Opened(hot.mark())
            } else {
                Opened::Early(hot.mark())
            })
        })
        .await
    }

    async fn close(&self, _: AuctionId, by: Option<UserId>) -> Decided<Closed> {
        self.redis(move |outside| {
            let now = outside.now();
            Some(outside.hot.as_mut()?.close(by, now))
        })
        .await
    }

    async fn cancel(&self, _: AuctionId, by: UserId) -> Decided<Closed> {
        self.redis(move |outside| {
            let now = outside.now();
            let hot = outside.hot.as_mut()?;
            let prev = hot.auction.head;
            if !hot.auction.cancel(by, now) {
                return Some(Closed::Already(hot.mark()));
            }
            hot.append(RecordKind::Cancelled, prev, now, Some(by), Vec::new());
            Some(Closed::Closed(hot.mark()))
        })
        .await
    }

    async fn place(&self, _: AuctionId, bids: &[BidRequest]) -> Decided<Verdicts> {
        let bids = bids.to_vec();
        self.redis(move |outside| {
            let now = outside.now();
            Some(outside.hot.as_mut()?.place(&bids, now))
        })
        .await
    }

    async fn view(&self, auction_id: AuctionId) -> Decided<View> {
        self.redis(move |outside| {
            let hot = outside.hot.as_ref()?;
            let standing = CommittedState {
                auction_id,
                seq: hot.auction.seq,
                stream_seq: 0,
                state: hot.snapshot(),
                recent_bids: hot.recent.clone(),
                participant_count: 0,
            };
            Some(View { mark: hot.mark(), standing })
        })
        .await
    }

    async fn outbox(&self, _: AuctionId, committed: u64) -> Result<Vec<OutboxEntry>, HotstateError> {
        self.redis(move |outside| {
            let Some(hot) = outside.hot.as_mut() else { return Vec::new() };
            hot.outbox.retain(|entry| entry.mark.seq > committed);
            hot.outbox.iter().take(MAX_ENTRIES).cloned().collect()
        })
        .await
    }

    async fn position(&self, _: AuctionId, committed: u64) -> Decided<Position> {
        self.redis(move |outside| {
            let hot = outside.hot.as_ref()?;
            let next = hot.outbox.iter().find(|entry| entry.mark.seq > committed);
            Some(Position { mark: hot.mark(), next_prev: next.map(|entry| entry.prev) })
        })
        .await
    }

    async fn restore(
        &self,
        _: AuctionId,
        seen: Option<Mark>,
        restoration: &Restoration<'_>,
    ) -> Result<bool, HotstateError> {
        let (mark, answers) = (restoration.mark, restoration.answers.len());
        self.redis(move |outside| {
            if outside.hot.as_ref().map(Hot::mark) != seen {
                return false;
            }
            let hot = Hot::restored(&outside.log, mark);
            let ids = hot.as_ref().map(|hot| hot.auction.accepted().count());
            if ids != Some(answers) {
                outside.outrages.push(format!("{answers} bid ids were put back at {mark:?}, the log has {ids:?}"));
            }
            outside.hot = hot;
            true
        })
        .await
    }

    async fn append(&self, record: &Record, expected: u64) -> Result<u64, AppendError> {
        let record = record.clone();
        let sent = self.send(Place::Nats, LOG_TIMEOUT, move |outside| {
            let last = outside.log.last().map_or(0, |logged| logged.stream_seq);
            if last != expected {
                return Err(AppendError::Conflict);
            }
            // Other auctions' records stand between.
            let stream_seq = last + outside.random.u64(1..4);
            let logged = Logged { stream_seq, previous_stream_seq: Some(last), record };
            outside.log.push(logged.clone());
            outside.grown.tell();
            outside.republish(&logged);
            Ok(stream_seq)
        });
        sent.await.unwrap_or_else(|| Err(AppendError::Unknown("no answer".into())))
    }

    async fn last(&self, _: AuctionId) -> Result<Option<Logged>, LogError> {
        self.read(|outside| outside.log.last().cloned()).await
    }

    async fn next(&self, _: AuctionId, from: u64) -> Result<Option<Logged>, LogError> {
        self.read(move |outside| outside.log.iter().find(|logged| logged.stream_seq >= from).cloned()).await
    }

    async fn all(&self, _: AuctionId) -> Result<Vec<Logged>, LogError> {
        self.read(|outside| outside.log.clone()).await
    }

    async fn recall(&self, _: AuctionId) -> Result<bool, RecallError> {
        Ok(false)
    }

    fn now(&self) -> Millis {
        self.measured_now()
    }

    fn connection(&self) -> Option<u64> {
        Some(1)
    }
}

impl Outside {
    /// At most once to each instance, in any order, now and then twice.
    fn republish(&mut self, logged: &Logged) {
        for nth in 0..self.ears.len() {
            let Some(ear) = self.ears[nth].clone() else { continue };
            let times = match self.random.u8(..20) {
                0 => 0,
                1 => 2,
                _ => 1,
            };
            for _ in 0..times {
                let (ear, logged, late) = (ear.clone(), logged.clone(), Duration::from_millis(self.random.u64(0..30)));
                tokio::spawn(async move {
                    sleep(late).await;
                    // Full or gone: the log has it.
                    drop(ear.try_send(logged));
                });
            }
        }
    }
}
