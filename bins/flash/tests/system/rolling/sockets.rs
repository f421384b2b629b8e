//! Bidders with a socket. A lost one is opened again after the time that the edge has named, resumes, and repeats the
//! bids that have no answer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use flash::stack::recorder::now;
use identity::development::DevelopmentUser;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, sleep, sleep_until, timeout};

use super::figures::Channel;
use super::link::Link;
use super::load::{Bid, Load, PAUSE, every, is_final};

/// Interval between the bids of a client with a WebSocket, and of one that polls.
const WEBSOCKET_EVERY: Duration = Duration::from_millis(400);
const POLLING_EVERY: Duration = Duration::from_millis(800);
/// Time to open a connection.
const OPENS_WITHIN: Duration = Duration::from_secs(5);
/// Time without a frame, or without the answer to a bid, after which a client opens another connection. Ticks come
/// every second, answers within three.
const SILENCE: Duration = Duration::from_secs(5);
/// Pause before a refused bid is repeated: what `Retry-After` says over HTTP.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Time that a client may live, longer than the run.
const LIVES_FOR: Duration = Duration::from_secs(600);

/// Events that show a record.
const RECORD_EVENTS: [&str; 4] = ["bid_update", "auction_started", "auction_ended", "auction_cancelled"];

/// A bid that was sent and has no answer.
struct Sent {
    bid: Bid,
    /// By the recorder's clock.
    at: u64,
    since: Instant,
}

/// A client that has joined one auction and bids in it.
pub struct Client {
    load: Arc<Load>,
    channel: Channel,
    nth: usize,
    user: DevelopmentUser,
    token: String,
    /// The seq of the last record that it got.
    last_seq: Option<u64>,
    /// Bids to send, or to send again.
    due: VecDeque<Bid>,
    sent: BTreeMap<u64, Sent>,
    next_id: u64,
}

/// The person of the `nth` auction that bids through this channel.
pub fn bidder(channel: Channel, nth: usize) -> DevelopmentUser {
    let channel = if channel == Channel::WebSocket { "websocket" } else { "polling" };
    DevelopmentUser::named(&format!("rolling-{channel}-{nth}"))
}

impl Client {
    /// The client of the `nth` auction.
    pub fn new(load: Arc<Load>, channel: Channel, nth: usize) -> Result<Self> {
        let user = bidder(channel, nth);
        let token = load.token(&user)?;
        let (due, sent) = (VecDeque::new(), BTreeMap::new());
        Ok(Self { load, channel, nth, user, token, last_seq: None, due, sent, next_id: 1 })
    }

    /// Bids until the schedule ends, and stays until its auction has ended.
    pub async fn run(mut self) -> Result<()> {
        let period = if self.channel == Channel::WebSocket { WEBSOCKET_EVERY } else { POLLING_EVERY };
        let (nth, count) = (u32::try_from(self.nth)?, u32::try_from(self.load.lots.len())?);
        let mut ticks = every(period, period * nth / count);
        let until = Instant::now() + LIVES_FOR;
        for number in 0.. {
            ensure!(Instant::now() < until, "{} did not get the end of its auction", self.user.name);
            let Ok(Ok(mut link)) = timeout(OPENS_WITHIN, self.open()).await else {
                sleep(PAUSE).await;
                continue;
            };
            let name = format!("{}-{number}", self.user.name);
            self.load.connected.fetch_add(1, Ordering::Relaxed);
            let mut wait = PAUSE;
            let served = self.serve(&mut link, &name, &mut ticks, &mut wait).await;
            self.load.connected.fetch_sub(1, Ordering::Relaxed);
            if served.is_ok() {
                break;
            }
            drop(link);
            self.lose(&name);
            sleep(wait).await;
        }
        Ok(())
    }

    async fn open(&self) -> Result<Link> {
        // Every path is also served under /api.
        let base = format!("{}{}", self.load.url, ["", "/api"][self.nth % 2]);
        match self.channel {
            Channel::WebSocket => Link::plain(&base, &self.token).await,
            _ => Link::polling(&base, &self.token, self.nth.is_multiple_of(2)).await,
        }
    }

    /// Bids and reads over one connection until the auction has ended.
    ///
    /// # Errors
    /// When the connection is lost; `wait` is the time after which the edge wants it back.
    async fn serve(&mut self, link: &mut Link, name: &str, ticks: &mut Interval, wait: &mut Duration) -> Result<()> {
        let (since, resumed_from) = (Instant::now(), self.last_seq);
        let mut joining = json!({"auction_id": self.load.lots[self.nth].id});
        if let Some(last_seq) = resumed_from {
            joining["last_seq"] = json!(last_seq);
        }
        link.request("join_auction", joining, 0).await?;
        let (mut last_frame, mut is_over) = (Instant::now(), false);
        loop {
            self.send_due(link, since).await?;
            if is_over && self.sent.is_empty() && self.due.is_empty() {
                return Ok(());
            }
            let next = self.due.iter().map(|bid| bid.next).min();
            let oldest = self.sent.values().map(|sent| sent.since).min();
            let silent = last_frame.min(oldest.unwrap_or(last_frame)) + SILENCE;
            tokio::select! {
                frame = link.next() => {
                    last_frame = Instant::now();
                    is_over |= self.take(&frame?, name, resumed_from, wait)?;
                }
                due = ticks.tick(), if !self.load.is_stopped() => {
                    self.due.push_back(self.load.next_bid(&self.load.lots[self.nth], due));
                }
                () = sleep_until(next.unwrap_or(silent)), if next.is_some() => {}
                () = sleep_until(silent) => bail!("no frame or no answer for {SILENCE:?}"),
            }
        }
    }

    /// Sends every bid whose time has come.
    async fn send_due(&mut self, link: &mut Link, connected: Instant) -> Result<()> {
        for _ in 0..self.due.len() {
            let Some(mut bid) = self.due.pop_front() else { break };
            if Load::gives_up(&bid) {
                self.load.end(self.channel, &bid, true);
            } else if bid.next > Instant::now() {
                self.due.push_back(bid);
            } else {
                bid.is_moved |= bid.due < connected;
                let (id, data) = (self.next_id, bid.data.clone());
                self.next_id += 1;
                self.sent.insert(id, Sent { bid, at: now(), since: Instant::now() });
                link.request("place_bid", data, id).await?;
            }
        }
        Ok(())
    }

    /// Takes a frame. True if it is the end of the auction.
    ///
    /// # Errors
    /// When the edge has refused to let it join.
    fn take(&mut self, frame: &Value, name: &str, resumed_from: Option<u64>, wait: &mut Duration) -> Result<bool> {
        let (event, data) = (frame["event"].as_str().unwrap_or_default(), &frame["data"]);
        if let Some(Sent { mut bid, at, .. }) = frame["id"].as_u64().and_then(|id| self.sent.remove(&id)) {
            self.load.recorder.call(&self.user, &bid.data, at, Some(data));
            if is_final(data) {
                self.load.end(self.channel, &bid, false);
            } else {
                self.load.refuse(self.channel, data["code"].as_str().unwrap_or("without a code"));
                bid.refused += 1;
                bid.next = Instant::now() + REFUSED_PAUSE;
                self.due.push_back(bid);
            }
            return Ok(false);
        }
        let is_join = frame["id"] == 0;
        ensure!(!(is_join && data["code"].is_string()), "the join was refused: {data}");
        if let Some(milliseconds) = data["retry_after_ms"].as_u64() {
            *wait = Duration::from_millis(milliseconds);
        }
        // Over Socket.IO the answer to a join is an acknowledgement without a name.
        let joined = is_join && data["recovered"].is_boolean();
        let named = json!({"event": if joined { "joined_auction" } else { event }, "data": data});
        self.load.recorder.frame(name, &self.user, &named, resumed_from.filter(|_| joined));
        if joined || RECORD_EVENTS.contains(&event) {
            self.last_seq = data["seq"].as_u64().max(self.last_seq);
        }
        Ok(event == "auction_ended" || joined && data["status"] == "closed")
    }

    /// Records that a connection is lost. Its bids without an answer are sent again over the next one.
    fn lose(&mut self, name: &str) {
        for Sent { bid, at, .. } in std::mem::take(&mut self.sent).into_values() {
            self.load.recorder.call(&self.user, &bid.data, at, None);
            self.due.push_back(bid);
        }
        let id = &self.load.lots[self.nth].id;
        let lost = json!({"event": "disconnected", "data": {"auction_id": id}});
        self.load.recorder.frame(name, &self.user, &lost, None);
    }
}
