//! Clients of a site that is being deployed: they know the ingress alone, and act by a schedule, whatever the answers
//! take. A refused bid, or one without an answer, is repeated with its id, as CONTRACT.md asks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use flash::Issuer;
use flash::stack::recorder::{Recorder, now};
use identity::development::DevelopmentUser;
use serde_json::Value;
use testkit::bidder::new_bid;
use testkit::http::{self, Caller, Reply};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};

use super::figures::{Channel, Sample};

/// Interval between the bids over HTTP in one auction.
const HTTP_EVERY: Duration = Duration::from_millis(200);
/// Interval between two reads, each of another auction and by turns of auction-management and the timer.
const READ_EVERY: Duration = Duration::from_millis(100);
/// Time from the start of a client to its first request: every socket is open by then.
const FIRST_AFTER: Duration = Duration::from_secs(2);
/// Time from the moment at which a request was due until it has finally failed. An election of NATS takes up to 9 s.
const GIVE_UP_AFTER: Duration = Duration::from_secs(20);
/// Time limit of the last attempt at a request, and some slack.
const LAST_ATTEMPT: Duration = Duration::from_secs(15);
/// Pause before a request without an answer is repeated.
pub const PAUSE: Duration = Duration::from_millis(100);
/// Cents from one bid of an auction to the next: the increment.
const STEP: u64 = 100;

/// An auction, and the amount of its next bid.
pub struct Lot {
    /// Its id.
    pub id: String,
    cents: AtomicU64,
}

/// A bid of the schedule.
pub struct Bid {
    /// Data of the request.
    pub data: Value,
    /// When it was to be sent.
    pub due: Instant,
    /// When it may be sent, or sent again.
    pub next: Instant,
    /// Number of answers that asked to repeat it.
    pub refused: u32,
    /// It was due before the connection that it was sent over last.
    pub is_moved: bool,
}

/// All clients of a run.
pub struct Load {
    /// Address of the ingress.
    pub url: String,
    /// The auctions.
    pub lots: Vec<Lot>,
    /// Everything that the clients sent and got.
    pub recorder: Recorder,
    /// Sockets that are open.
    pub connected: AtomicUsize,
    issuer: Issuer,
    is_stopped: AtomicBool,
    unanswered: AtomicUsize,
    samples: Mutex<Vec<Sample>>,
    refusals: Mutex<BTreeMap<String, usize>>,
}

/// A clock that makes up for ticks that it missed: the schedule does not wait for answers.
pub fn every(period: Duration, offset: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + FIRST_AFTER + offset, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}

/// Whether this answer to a bid is final: accepted, or rejected by the rules of the auction.
pub fn is_final(answer: &Value) -> bool {
    answer["status"] == "accepted" || matches!(answer["code"].as_str(), Some("bid_too_low" | "already_leading"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Load {
    /// The clients of these auctions.
    pub fn new(url: String, issuer: Issuer, auctions: Vec<String>) -> Self {
        Self {
            url,
            lots: auctions.into_iter().map(|id| Lot { id, cents: AtomicU64::new(STEP) }).collect(),
            recorder: Recorder::default(),
            connected: AtomicUsize::new(0),
            issuer,
            is_stopped: AtomicBool::new(false),
            unanswered: AtomicUsize::new(0),
            samples: Mutex::default(),
            refusals: Mutex::default(),
        }
    }

    /// A token of this user.
    pub fn token(&self, user: &DevelopmentUser) -> Result<String> {
        self.issuer.token(&user.name)
    }

    /// The two people that bid over HTTP in this auction.
    pub fn http_bidders(lot: usize) -> [DevelopmentUser; 2] {
        [0, 1].map(|nth| DevelopmentUser::named(&format!("rolling-http-{lot}-{nth}")))
    }

    /// Ends the schedule. Bids that are due are still answered.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Whether the schedule has ended.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// Waits until every bid has got its final answer or has finally failed.
    pub async fn answered(&self) -> Result<()> {
        let until = Instant::now() + GIVE_UP_AFTER + LAST_ATTEMPT;
        while self.unanswered.load(Ordering::Relaxed) > 0 {
            anyhow::ensure!(Instant::now() < until, "{:?} bids are still open", self.unanswered);
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Everything that was due in this time, and how it ended.
    pub fn samples(&self, from: Instant, to: Instant) -> Vec<Sample> {
        lock(&self.samples).iter().filter(|sample| sample.due >= from && sample.due < to).cloned().collect()
    }

    /// The refusals so far, by channel and code.
    pub fn refusals(&self) -> BTreeMap<String, usize> {
        lock(&self.refusals).clone()
    }

    /// The next bid of an auction.
    pub fn next_bid(&self, lot: &Lot, due: Instant) -> Bid {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        let data = new_bid(&lot.id, lot.cents.fetch_add(STEP, Ordering::Relaxed));
        Bid { data, due, next: due, refused: 0, is_moved: false }
    }

    /// Notes that a bid has its final answer, or has finally failed.
    pub fn end(&self, channel: Channel, bid: &Bid, failed: bool) {
        let Bid { due, refused, is_moved, .. } = *bid;
        lock(&self.samples).push(Sample { channel, due, took: due.elapsed(), refused, is_moved, failed });
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts an answer that was not final.
    pub fn refuse(&self, channel: Channel, code: &str) {
        *lock(&self.refusals).entry(format!("{channel:?} {code}")).or_default() += 1;
    }

    /// Bids over HTTP in one auction, by turns as two people.
    pub async fn bid_over_http(self: Arc<Self>, nth: usize) -> Result<()> {
        let (caller, people) = (Caller::new(), Self::http_bidders(nth));
        let tokens = [self.token(&people[0])?, self.token(&people[1])?];
        // Every path is also served under /api.
        let url = format!("{}{}/bids", self.url, ["/api", ""][nth % 2]);
        let mut ticks = every(HTTP_EVERY, Duration::from_millis(17 * nth as u64));
        let mut bids = JoinSet::new();
        for turn in (0..2).cycle() {
            let due = ticks.tick().await;
            if self.is_stopped() {
                break;
            }
            let bid = self.next_bid(&self.lots[nth], due);
            let place =
                Arc::clone(&self).place(caller.clone(), url.clone(), people[turn].clone(), tokens[turn].clone(), bid);
            bids.spawn(place);
            while let Some(placed) = bids.try_join_next() {
                placed?;
            }
        }
        while let Some(placed) = bids.join_next().await {
            placed?;
        }
        Ok(())
    }

    /// Sends one bid until it has its final answer or has finally failed.
    async fn place(self: Arc<Self>, caller: Caller, url: String, user: DevelopmentUser, token: String, mut bid: Bid) {
        loop {
            let sent = now();
            let reply = caller.post(&url, Some(&token), &bid.data).await.ok();
            let answer = reply.as_ref().map(|reply| &reply.json).filter(|answer| answer.is_object());
            self.recorder.call(&user, &bid.data, sent, answer);
            if answer.is_some_and(is_final) {
                return self.end(Channel::Http, &bid, false);
            }
            bid.refused += 1;
            self.refuse(Channel::Http, &described(reply.as_ref()));
            if bid.due.elapsed() > GIVE_UP_AFTER {
                return self.end(Channel::Http, &bid, true);
            }
            sleep(reply.as_ref().map_or(PAUSE, retry_after)).await;
        }
    }

    /// Reads the states and the clocks of the auctions until the schedule ends.
    pub async fn read(self: Arc<Self>) -> Result<()> {
        let caller = Caller::new();
        let paths: Vec<String> = self
            .lots
            .iter()
            .flat_map(|lot| [format!("/api/auctions/{}/state", lot.id), format!("/auctions/{}/timer", lot.id)])
            .map(|path| format!("{}{path}", self.url))
            .collect();
        let mut ticks = every(READ_EVERY, Duration::ZERO);
        let mut reads = JoinSet::new();
        for path in paths.iter().cycle() {
            let due = ticks.tick().await;
            if self.is_stopped() {
                break;
            }
            reads.spawn(Arc::clone(&self).get(caller.clone(), path.clone(), due));
            while let Some(read) = reads.try_join_next() {
                read??;
            }
        }
        while let Some(read) = reads.join_next().await {
            read??;
        }
        Ok(())
    }

    /// Sends one GET request until its answer is a success or it has finally failed.
    async fn get(self: Arc<Self>, caller: Caller, url: String, due: Instant) -> Result<()> {
        let mut refused = 0;
        let failed = loop {
            let reply = caller.send(http::request("GET", &url, None).body(Default::default())?).await.ok();
            if reply.as_ref().is_some_and(|reply| reply.status == 200) {
                break false;
            }
            refused += 1;
            self.refuse(Channel::Read, &described(reply.as_ref()));
            if due.elapsed() > GIVE_UP_AFTER {
                break true;
            }
            sleep(reply.as_ref().map_or(PAUSE, retry_after)).await;
        };
        let sample = Sample { channel: Channel::Read, due, took: due.elapsed(), refused, is_moved: false, failed };
        lock(&self.samples).push(sample);
        Ok(())
    }

    /// Whether this bid has finally failed: it is not sent again.
    pub fn gives_up(bid: &Bid) -> bool {
        bid.due.elapsed() > GIVE_UP_AFTER
    }

    /// Closes every auction, through the ingress.
    pub async fn close_all(&self, host: &DevelopmentUser) -> Result<()> {
        let token = self.token(host)?;
        for lot in &self.lots {
            let url = format!("{}/api/auctions/{}/close", self.url, lot.id);
            let closed = http::post(&url, Some(&token), &serde_json::json!({})).await.context("an answer")?;
            anyhow::ensure!(closed.status == 200, "{} {}", closed.status, closed.text);
        }
        Ok(())
    }
}

/// The status and the code of an answer that was not final.
fn described(reply: Option<&Reply>) -> String {
    let code = |reply: &Reply| format!("{} {}", reply.status, reply.json["code"].as_str().unwrap_or("without a code"));
    reply.map_or_else(|| "no answer".to_owned(), code)
}

/// The time after which an answer asks to repeat the request.
fn retry_after(reply: &Reply) -> Duration {
    let seconds = reply.headers.get("retry-after").and_then(|text| text.to_str().ok()?.parse().ok());
    seconds.map_or(PAUSE, Duration::from_secs)
}
