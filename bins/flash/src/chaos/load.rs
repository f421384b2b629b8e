//! Bidders and watchers. They run outside of the stack and are never hit by a fault themselves; they reconnect, resume
//! and retry bids with an unknown outcome, as real clients do, and record everything.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use identity::development::DevelopmentUser;
use serde_json::{Value, json};
use testkit::bidder::{minimum_bid, new_bid};
use testkit::http::{self, Caller};
use testkit::socket::{Socket, Transport};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::rules::LotRules;
use crate::stack::Issuer;
use crate::stack::recorder::{Recorder, now};

/// Auctions at the same time, and seconds that each runs before late bids extend it.
const LOTS_AT_ONCE: u64 = 6;
const LOT_SECONDS: std::ops::Range<u64> = 10..20;
/// Seconds before the end in which a bid extends the auction, seconds of an extension, and the number of extensions.
const ANTI_SNIPE: (u64, u64, u64) = (3, 2, 3);
/// Time after the latest possible end until an auction must be closed: the longest fault and the recovery from it.
const LOT_GRACE: Duration = Duration::from_secs(90);
/// Pause between two bids of a bidder.
const THINK_MS: std::ops::Range<u64> = 20..160;
/// Pause before a failed call is repeated.
const PAUSE: Duration = Duration::from_millis(100);
/// Time that a client waits for an answer, longer than the services take to answer `outcome_unknown`.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts at one bid with an unknown outcome.
const MAX_ATTEMPTS: usize = 40;
/// One bid in this many is too low.
const TOO_LOW_EVERY: u64 = 5;
/// One bid in this many repeats an accepted one.
const REPEATED_EVERY: u64 = 4;

/// Events that show a record.
const RECORD_EVENTS: [&str; 6] =
    ["bid_update", "auction_started", "auction_paused", "auction_resumed", "auction_ended", "auction_cancelled"];

/// The addresses that clients use.
pub struct Addresses {
    /// auction-management.
    pub management: String,
    /// `POST /bids` of each instance of bid-processing.
    pub bids: Vec<String>,
    /// Each edge.
    pub edges: Vec<String>,
}

/// All clients of a run.
pub struct Load {
    /// The addresses that they use.
    pub addresses: Addresses,
    /// Signs their tokens; its key may change during the run.
    pub issuer: Mutex<Issuer>,
    /// Records everything that they send and get.
    pub recorder: Recorder,
    /// Numbers titles and connections.
    pub number: AtomicU64,
    /// Every auction that was created.
    pub auctions: Mutex<Vec<String>>,
    /// Whether hosts pause auctions. A host who cannot resume one for long would keep it from its end.
    pub hosts_may_pause: bool,
}

/// An auction.
pub struct Lot {
    /// Its id.
    pub id: String,
    title: String,
    rules: LotRules,
}

impl Load {
    /// The host of every auction.
    pub fn host() -> DevelopmentUser {
        DevelopmentUser::named("chaos-host")
    }

    /// Every user that takes part.
    pub fn people() -> Vec<DevelopmentUser> {
        let bidders = (0..3 * LOTS_AT_ONCE).map(|nth| DevelopmentUser::named(&format!("chaos-bidder-{nth}")));
        let others = [Self::host(), DevelopmentUser::named("chaos-watcher")];
        bidders.chain(others).chain(Self::crowd_bidders()).collect()
    }

    /// The bidders of the auction with many watchers.
    pub fn crowd_bidders() -> [DevelopmentUser; 2] {
        ["chaos-crowd-anna", "chaos-crowd-ben"].map(DevelopmentUser::named)
    }

    /// Runs several series of auctions at the same time, until `until`; the last auctions run to their end.
    ///
    /// # Errors
    /// The client that did not get the end of an auction.
    pub async fn run(self: Arc<Self>, until: Instant) -> Result<()> {
        let mut series = JoinSet::new();
        for nth in 0..LOTS_AT_ONCE {
            let load = Arc::clone(&self);
            series.spawn(async move {
                while Instant::now() < until {
                    let (seconds, rules) = (fastrand::u64(LOT_SECONDS), LotRules::random(load.hosts_may_pause));
                    let Some(lot) = load.create(Duration::from_secs(seconds), rules, until).await? else { break };
                    load.play(nth, Arc::new(lot)).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(played) = series.join_next().await {
            played??;
        }
        Ok(())
    }

    /// A token of this user, signed with the current key.
    pub fn token(&self, user: &DevelopmentUser) -> Result<String> {
        self.issuer.lock().unwrap_or_else(PoisonError::into_inner).token(&user.name)
    }

    /// Creates an auction; repeats the request until it succeeds. None if it did not succeed until `until`.
    pub async fn create(&self, duration: Duration, rules: LotRules, until: Instant) -> Result<Option<Lot>> {
        let title = format!("Chaos {}.", self.number.fetch_add(1, Ordering::Relaxed));
        let (window, extension, max_extensions) = ANTI_SNIPE;
        let anti_snipe = match rules.anti_snipe_mode.unwrap_or("extend") {
            "off" => json!({"mode": "off"}),
            mode => json!({"mode": mode, "window": window, "extension": extension, "max_extensions": max_extensions}),
        };
        let mut auction = json!({
            "title": title, "duration": duration.as_secs(), "starting_bid": 1, "video": false, "anti_snipe": anti_snipe,
        });
        for (field, value) in &rules.fields {
            auction[field] = value.clone();
        }
        let (url, token) = (format!("{}/auctions", self.addresses.management), self.token(&Self::host())?);
        let key = uuid::Uuid::new_v4().to_string();
        while Instant::now() < until {
            let request = http::request("POST", &url, Some(&token))
                .header("content-type", "application/json")
                .header("idempotency-key", &key)
                .body(auction.to_string().into())?;
            if let Ok(reply) = http::send(request).await
                && reply.status == 201
            {
                let id = reply.json["auction_id"].as_str().context("an id")?.to_owned();
                self.auctions.lock().unwrap_or_else(PoisonError::into_inner).push(id.clone());
                return Ok(Some(Lot { id, title, rules }));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(None)
    }

    /// Runs one auction of a series until every client has got its end.
    async fn play(self: &Arc<Self>, series: u64, lot: Arc<Lot>) -> Result<()> {
        let give_up = Instant::now() + Duration::from_secs(LOT_SECONDS.end + ANTI_SNIPE.1 * ANTI_SNIPE.2) + LOT_GRACE;
        let bidder = |nth: u64| DevelopmentUser::named(&format!("chaos-bidder-{}", 3 * series + nth));
        let (mut clients, mut host) = (JoinSet::new(), JoinSet::new());
        if lot.rules.is_moderated {
            let (bidders, time) = ((0..3).map(bidder).collect(), Duration::from_secs(LOT_SECONDS.end));
            host.spawn(Arc::clone(self).moderate(Arc::clone(&lot), bidders, time));
        }
        for (nth, transport) in [(0, Transport::Plain), (1, Transport::SocketIo)] {
            clients.spawn(Arc::clone(self).stay(bidder(nth), transport, Arc::clone(&lot), true, give_up));
        }
        let watcher = DevelopmentUser::named("chaos-watcher");
        clients.spawn(Arc::clone(self).stay(watcher, Transport::Plain, Arc::clone(&lot), false, give_up));
        let (load, by_http, watched) = (Arc::clone(self), bidder(2), Arc::clone(&lot));
        let bidding = tokio::spawn(async move { load.bid_by_http(&by_http, &watched, THINK_MS, give_up).await });
        while let Some(client) = clients.join_next().await {
            client?.with_context(|| lot.title.clone())?;
        }
        bidding.await?
    }

    /// Bids over HTTP until an answer says that the auction is closed.
    pub async fn bid_by_http(
        &self,
        user: &DevelopmentUser,
        lot: &Lot,
        think_ms: std::ops::Range<u64>,
        give_up: Instant,
    ) -> Result<()> {
        let (caller, token, mut bidder) = (Caller::new(), self.token(user)?, Bidder::default());
        while Instant::now() < give_up {
            let bid = bidder.next(lot);
            for attempt in 0..MAX_ATTEMPTS {
                // Each attempt goes to another instance.
                let at = usize::try_from(bidder.placed)?.wrapping_add(attempt) % self.addresses.bids.len();
                let sent = now();
                let answered =
                    tokio::time::timeout(ANSWER_TIMEOUT, caller.post(&self.addresses.bids[at], Some(&token), &bid))
                        .await;
                let answer = answered.ok().and_then(Result::ok).map(|reply| reply.json).filter(Value::is_object);
                self.recorder.call(user, &bid, sent, answer.as_ref());
                if bidder.take(&bid, answer.as_ref()) == Next::Continue {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            if bidder.is_over {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(think_ms.clone()))).await;
        }
        anyhow::bail!("{} was not closed in time", lot.title)
    }

    /// Stays joined until the end of the auction: reconnects and resumes when the connection is lost. Bids if `bids`.
    async fn stay(
        self: Arc<Self>,
        user: DevelopmentUser,
        transport: Transport,
        lot: Arc<Lot>,
        bids: bool,
        give_up: Instant,
    ) -> Result<()> {
        let mut bidder = Bidder::default();
        let mut last_seq = None;
        for turn in 0.. {
            anyhow::ensure!(Instant::now() < give_up, "{} did not get the end of the auction", user.name);
            let edge = &self.addresses.edges[turn % self.addresses.edges.len()];
            let token = self.token(&user)?;
            let connecting = tokio::time::timeout(ANSWER_TIMEOUT, Socket::enter(edge, transport, &token));
            let Ok(Ok(socket)) = connecting.await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let number = self.number.fetch_add(1, Ordering::Relaxed);
            let mut connection = Connection {
                load: &self,
                name: format!("{}-{number}", user.name),
                user: &user,
                lot: &lot,
                last_seq: &mut last_seq,
                pending: HashMap::new(),
            };
            let ended = connection.run(socket, bids.then_some(&mut bidder), give_up).await;
            connection.close(&mut bidder, ended);
            if ended {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}

/// One connection that joined one auction.
struct Connection<'a> {
    load: &'a Load,
    name: String,
    user: &'a DevelopmentUser,
    lot: &'a Lot,
    /// The seq of the last record that this client got over any of its connections.
    last_seq: &'a mut Option<u64>,
    /// Bids without an answer: the bid and the time at which it was sent.
    pending: HashMap<u64, (Value, u64)>,
}

impl Connection<'_> {
    /// Reads and bids until the connection ends. True if it got the end of the auction.
    async fn run(&mut self, mut socket: Socket, mut bidder: Option<&mut Bidder>, give_up: Instant) -> bool {
        let resumed_from = *self.last_seq;
        let mut joining = json!({"auction_id": self.lot.id});
        if let Some(last_seq) = resumed_from {
            joining["last_seq"] = json!(last_seq);
        }
        if socket.request("join_auction", joining, 0).await.is_err() {
            return false;
        }
        let mut next_bid = Instant::now() + PAUSE;
        let mut last_frame = Instant::now();
        let mut ended = false;
        for id in 1.. {
            // Waits for the answers to its bids: without them it could not record whether these had failed.
            if ended && self.pending.is_empty() {
                return true;
            }
            tokio::select! {
                frame = socket.next() => {
                    let Ok(frame) = frame else { return false };
                    last_frame = Instant::now();
                    // The edge rejected the join: try again at another edge.
                    if frame["id"] == 0 && frame["data"]["code"].is_string() {
                        return false;
                    }
                    ended |= self.take(&frame, resumed_from, bidder.as_deref_mut());
                }
                () = tokio::time::sleep_until(next_bid), if bidder.is_some() && self.pending.is_empty() && !ended => {
                    if let Some(bidder) = bidder.as_deref_mut() {
                        let bid = bidder.next(self.lot);
                        self.pending.insert(id, (bid.clone(), now()));
                        if socket.request("place_bid", bid, id).await.is_err() {
                            return false;
                        }
                    }
                    next_bid = Instant::now() + Duration::from_millis(fastrand::u64(THINK_MS));
                }
                // Ticks come every second. If an edge is silent, try another one.
                () = tokio::time::sleep_until(last_frame + ANSWER_TIMEOUT) => return false,
                () = tokio::time::sleep_until(give_up) => return false,
            }
        }
        false
    }

    /// Records a frame. True if it is the end of the auction.
    fn take(&mut self, frame: &Value, resumed_from: Option<u64>, bidder: Option<&mut Bidder>) -> bool {
        let (event, data) = (frame["event"].as_str().unwrap_or_default(), &frame["data"]);
        if let Some((bid, sent)) = frame["id"].as_u64().and_then(|id| self.pending.remove(&id)) {
            self.load.recorder.call(self.user, &bid, sent, Some(data));
            if let Some(bidder) = bidder
                && bidder.take(&bid, Some(data)) == Next::Retry
            {
                bidder.unknown = Some(bid);
            }
            return false;
        }
        // A person who bids in several auctions is notified of each on every socket.
        if data["auction_id"].as_str().is_some_and(|id| id != self.lot.id) {
            return false;
        }
        // Over Socket.IO the answer to a join is an acknowledgement without a name.
        let joined = frame["id"] == 0 && data["recovered"].is_boolean();
        let named = json!({"event": if joined { "joined_auction" } else { event }, "data": data});
        self.load.recorder.frame(&self.name, self.user, &named, resumed_from.filter(|_| joined));
        if joined || RECORD_EVENTS.contains(&event) {
            *self.last_seq = data["seq"].as_u64().max(*self.last_seq);
        }
        if let (Some(bidder), Some(minimum)) = (bidder, minimum_bid(data)) {
            bidder.minimum = minimum;
        }
        let is_over = joined && (data["status"] == "closed" || data["status"] == "cancelled");
        is_over || event == "auction_ended" || event == "auction_cancelled"
    }

    /// Records that the connection has ended. Bids without an answer are retried on the next connection.
    fn close(&mut self, bidder: &mut Bidder, ended: bool) {
        for (bid, sent) in std::mem::take(&mut self.pending).into_values() {
            self.load.recorder.call(self.user, &bid, sent, None);
            bidder.unknown = Some(bid);
        }
        if !ended {
            let disconnected = json!({"event": "disconnected", "data": {"auction_id": self.lot.id}});
            self.load.recorder.frame(&self.name, self.user, &disconnected, None);
        }
    }
}

/// The next step of a bidder after an answer.
#[derive(PartialEq, Eq)]
enum Next {
    Continue,
    Retry,
}

/// The knowledge of one bidder, and its next bid.
#[derive(Default)]
struct Bidder {
    minimum: u64,
    placed: u64,
    /// A bid with an unknown outcome. It is retried under its id before any other bid.
    unknown: Option<Value>,
    accepted: Option<Value>,
    is_over: bool,
}

impl Bidder {
    /// The next bid.
    fn next(&mut self, lot: &Lot) -> Value {
        self.placed += 1;
        if let Some(unknown) = self.unknown.take() {
            return unknown;
        }
        if self.placed.is_multiple_of(REPEATED_EVERY)
            && let Some(accepted) = &self.accepted
        {
            return accepted.clone();
        }
        let cents = if self.placed.is_multiple_of(TOO_LOW_EVERY) { 50 } else { self.minimum.max(100) };
        let mut bid = new_bid(&lot.id, cents);
        lot.rules.complete(&mut bid, cents);
        bid
    }

    /// Learns from an answer.
    fn take(&mut self, bid: &Value, answer: Option<&Value>) -> Next {
        let Some(answer) = answer else { return Next::Retry };
        self.minimum = self.minimum.max(minimum_bid(answer).unwrap_or_default());
        if answer["status"] == "accepted" {
            self.accepted = Some(bid.clone());
        }
        match answer["code"].as_str() {
            Some("auction_closed") => self.is_over = true,
            Some("outcome_unknown") => return Next::Retry,
            _ => {}
        }
        Next::Continue
    }
}
