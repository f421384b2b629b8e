//! A Redis and a log that fail as they like, on one seed.
//!
//! Redis decides by `domain::Auction`, which a test holds against the scripts, command by command. What is
//! sent arrives or not, is answered or not, early or late, also after whoever sent it has given up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bid_processing::{Decided, World, replay};
use bus::{AppendError, LogError, Logged};
use domain::{
    AntiSnipe, AntiSnipeMode, Auction, AuctionId, BidRequest, Decision, Head, Host, Millis, Rules, Status, UserId,
};
use hotstate::{Closed, Created, HotstateError, Opened, OutboxEntry, Position, Restoration, Verdicts, View};
use protocol::{Bid, CreateRequest, Mark, Record, RecordKind, Snapshot, Standing, StandingBid};
use redis::RedisError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

/// What the scripts keep of the newest bids, and of the best.
const MAX_RECENT_BIDS: usize = 20;
const MAX_TOP: usize = 3;
/// Outbox entries read at once, as by the real one.
const MAX_ENTRIES: usize = 64;
/// As the real clients give up.
const REDIS_TIMEOUT: Duration = Duration::from_secs(2);
const LOG_TIMEOUT: Duration = Duration::from_millis(2_500);
const READ_TIMEOUT: Duration = Duration::from_millis(500);
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
    pub redis_is_away: bool,
    pub log_is_away: bool,
    /// Some calls take as long as [`SLOWEST`], and of a thousand so many are lost each way. None: all arrive,
    /// and soon.
    pub lost_in_thousand: Option<u32>,
    /// The ear of each instance, for records as they are republished.
    pub ears: Vec<Option<mpsc::Sender<Logged>>>,
}

/// What Redis holds of the auction.
#[derive(Clone)]
pub struct Hot {
    auction: Auction,
    outbox: Vec<OutboxEntry>,
    /// Newest first.
    recent: Vec<Bid>,
    top: Vec<StandingBid>,
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
            redis_is_away: false,
            log_is_away: false,
            lost_in_thousand: None,
            ears: vec![None; instances],
        }
    }

    pub fn now(&self) -> Millis {
        Millis(BEGINNING_MS + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
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

    fn fate(&mut self, away: bool) -> Fate {
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

/// The outside as one instance sees it.
#[derive(Clone)]
pub struct Seen {
    pub outside: Arc<Mutex<Outside>>,
    /// While false the instance stands still: nothing it sends leaves, nothing it gets is looked at.
    pub goes_on: watch::Receiver<bool>,
}

/// Whole after every statement, whoever panicked meanwhile.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    async fn stand_still(&self) {
        // Whoever could change it is gone at the end of the run.
        drop(self.goes_on.clone().wait_for(|goes_on| *goes_on).await);
    }

    /// Sends something that has an effect out there, whether or not the sender still waits. None: no answer.
    async fn send<T: Send + 'static>(
        &self,
        to_redis: bool,
        timeout: Duration,
        effect: impl FnOnce(&mut Outside) -> T + Send + 'static,
    ) -> Option<T> {
        self.stand_still().await;
        let fate = {
            let mut outside = lock(&self.outside);
            let away = if to_redis { outside.redis_is_away } else { outside.log_is_away };
            outside.fate(away)
        };
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
        let answered = tokio::time::timeout(timeout, answer).await;
        self.stand_still().await;
        answered.ok().and_then(Result::ok)
    }

    async fn redis<T: Send + 'static>(
        &self,
        effect: impl FnOnce(&mut Outside) -> T + Send + 'static,
    ) -> Result<T, HotstateError> {
        let timed_out = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        self.send(true, REDIS_TIMEOUT, effect).await.ok_or_else(|| timed_out().into())
    }

    async fn read<T: Send + 'static>(
        &self,
        effect: impl FnOnce(&mut Outside) -> T + Send + 'static,
    ) -> Result<T, LogError> {
        let silent = || LogError::Read("no answer".to_owned());
        self.send(false, READ_TIMEOUT, effect).await.ok_or_else(silent)
    }
}

impl Hot {
    const fn mark(&self) -> Mark {
        Mark { seq: self.auction.seq, head: self.auction.head }
    }

    /// What the scripts do at their end: the facts of this call, and the state after them, go to the outbox.
    fn append(&mut self, kind: RecordKind, prev: Head, time: Millis, by: Option<UserId>, bids: Vec<Bid>) {
        let (mark, state) = (self.mark(), self.snapshot());
        self.outbox.push(OutboxEntry { kind, prev, mark, time: time.0, by, bids, state });
    }

    fn snapshot(&self) -> Snapshot {
        let Auction { rules, leader, closing, status, .. } = &self.auction;
        let cancelled = *status == Status::Cancelled;
        let winner = closing.as_ref().and_then(|closing| closing.winner.as_ref());
        Snapshot {
            status: status.name().to_owned(),
            host_user_id: rules.host.user_id,
            host_username: rules.host.username.clone(),
            starting_bid: rules.starting_bid,
            increment: rules.increment,
            duration_ms: rules.duration_ms,
            anti_snipe_mode: rules.anti_snipe.mode.name().to_owned(),
            anti_snipe_window_ms: rules.anti_snipe.window_ms,
            anti_snipe_extension_ms: rules.anti_snipe.extension_ms,
            anti_snipe_max_extensions: rules.anti_snipe.max_extensions,
            created_at: self.auction.starts_at.0,
            starts_at: self.auction.starts_at.0,
            end_time: self.auction.end_time.0,
            extension_count: self.auction.extension_count,
            bid_count: self.auction.bid_count,
            high_bid: leader.as_ref().map(|leader| leader.amount),
            high_bidder_id: leader.as_ref().map(|leader| leader.user_id),
            high_bidder_username: leader.as_ref().map(|leader| leader.username.clone()),
            minimum_bid: self.auction.minimum_bid(),
            top_bids: self.top.clone(),
            ended_at: closing.as_ref().map(|closing| closing.time.0),
            reason: closing.as_ref().map(|closing| closing.reason.clone()),
            outcome: closing
                .as_ref()
                .map(|closing| closing.outcome().name().to_owned())
                .or_else(|| cancelled.then(|| "cancelled".to_owned())),
            winner_id: winner.map(|winner| winner.user_id),
            winner_username: winner.map(|winner| winner.username.clone()),
            winning_bid: winner.map(|winner| winner.amount),
        }
    }

    fn place(&mut self, bids: &[BidRequest], now: Millis) -> Verdicts {
        let prev = self.auction.head;
        let (mut facts, mut decisions) = (Vec::new(), Vec::new());
        for bid in bids {
            let decision = self.auction.place(bid, now);
            if let Decision::Accepted { accepted, found: false } = &decision {
                self.top.retain(|standing| standing.user_id != bid.user_id);
                let BidRequest { bid_id, user_id, username, amount } = bid.clone();
                self.top.insert(0, StandingBid { user_id, username: username.clone(), amount });
                self.top.truncate(MAX_TOP);
                let (seq, timestamp, kind) = (accepted.seq, accepted.timestamp.0, "bid".to_owned());
                facts.push(Bid { seq, bid_id, user_id, username, amount, timestamp, kind });
            }
            decisions.push(decision);
        }
        if let Some(last) = facts.last() {
            let time = Millis(last.timestamp);
            facts.iter().for_each(|fact| self.recent.insert(0, fact.clone()));
            self.recent.truncate(MAX_RECENT_BIDS);
            self.append(RecordKind::Bids, prev, time, None, facts);
        }
        Verdicts { mark: self.mark(), decisions }
    }

    fn close(&mut self, by: Option<UserId>, now: Millis) -> Closed {
        let (prev, mark) = (self.auction.head, self.mark());
        if by.is_some_and(|by| by != self.auction.rules.host.user_id) {
            return Closed::NotHost(mark);
        }
        let reason = if by.is_some() { domain::CLOSED_BY_HOST } else { domain::ENDED };
        if self.auction.status.is_over() {
            Closed::Already(mark)
        } else if self.auction.status != Status::Live {
            Closed::NotLive(mark)
        } else if self.auction.close(reason, by, now) {
            let time = self.auction.closing.as_ref().map_or(now, |closing| closing.time);
            self.append(RecordKind::Closed, prev, time, by, Vec::new());
            Closed::Closed(self.mark())
        } else {
            Closed::Early(mark)
        }
    }

    /// As the log has it, up to and with a mark.
    fn restored(log: &[Logged], mark: Mark) -> Option<Self> {
        let until = log.iter().position(|logged| logged.record.mark() == mark)?;
        let records = &log[..=until];
        let last = &records.last()?.record;
        let recent = records.iter().rev().flat_map(|logged| logged.record.bids.iter().rev().cloned());
        Some(Self {
            auction: replay(records).ok()?,
            outbox: Vec::new(),
            recent: recent.take(MAX_RECENT_BIDS).collect(),
            top: last.state.top_bids.clone(),
        })
    }
}

impl World for Seen {
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
                    mode: AntiSnipeMode::from_name(&request.anti_snipe_mode).unwrap_or(AntiSnipeMode::Off),
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
            let standing = Standing {
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
            // What is put back is what the log says.
            assert_eq!(hot.as_ref().map(|hot| hot.auction.accepted().count()), Some(answers), "{mark:?}");
            outside.hot = hot;
            true
        })
        .await
    }

    async fn append(&self, record: &Record, expected: u64) -> Result<u64, AppendError> {
        let record = record.clone();
        let sent = self.send(false, LOG_TIMEOUT, move |outside| {
            let last = outside.log.last().map_or(0, |logged| logged.stream_seq);
            if last != expected {
                return Err(AppendError::Conflict);
            }
            // Other auctions' records stand between.
            let stream_seq = last + outside.random.u64(1..4);
            let logged = Logged { stream_seq, previous_stream_seq: Some(last), record };
            outside.log.push(logged.clone());
            outside.republish(&logged);
            Ok(stream_seq)
        });
        sent.await.unwrap_or_else(|| Err(AppendError::Unknown("no answer".to_owned())))
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

    async fn recall(&self, _: AuctionId) -> Result<bool, String> {
        Ok(false)
    }

    fn now(&self) -> Millis {
        lock(&self.outside).now()
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
