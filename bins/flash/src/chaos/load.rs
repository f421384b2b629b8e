//! Bidders and watchers from outside the blast radius: they reconnect, resume, and ask again for what they
//! were not told, as real clients do. Everything goes into the history.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use domain::Amount;
use identity::development::DevelopmentUser;
use serde_json::{Value, json};
use testkit::http::{self, Caller};
use testkit::socket::{Door, Socket};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::check::recorder::{Recorder, now};
use crate::issuer::Issuer;

/// Auctions at any time, and how long each runs before late bids move its end.
const LOTS_AT_ONCE: u64 = 6;
const LOT_SECONDS: std::ops::Range<u64> = 10..20;
/// With less than this left the end moves on by so much, so often at most.
const ANTI_SNIPE: (u64, u64, u64) = (3, 2, 3);
/// Until a lot that could not be closed in time must be: the longest fault, and what follows it.
const LOT_GRACE: Duration = Duration::from_secs(90);
const THINK_MS: std::ops::Range<u64> = 20..160;
/// Between attempts at what failed.
const PAUSE: Duration = Duration::from_millis(100);
/// A client's own patience: longer than the services take to say that they do not know.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts at one bid whose outcome is not known.
const MAX_ATTEMPTS: usize = 40;
/// Every so many bids one is hopeless, and one that was accepted is sent again.
const HOPELESS_EVERY: u64 = 5;
const REPEATED_EVERY: u64 = 4;

/// Where the system is, for somebody outside.
pub struct Addresses {
    pub management: String,
    pub bids: Vec<String>,
    pub edges: Vec<String>,
}

pub struct Load {
    pub addresses: Addresses,
    /// Its key may change.
    pub issuer: Mutex<Issuer>,
    pub recorder: Recorder,
    /// Names differ from run to run by this.
    pub number: AtomicU64,
    /// Every auction that was created.
    pub auctions: Mutex<Vec<String>>,
}

/// A lot as its bidders know it.
pub struct Lot {
    pub id: String,
    title: String,
}

impl Load {
    pub fn host() -> DevelopmentUser {
        DevelopmentUser::named("chaos-host")
    }

    /// Everybody who takes part.
    pub fn people() -> Vec<DevelopmentUser> {
        let bidders = (0..3 * LOTS_AT_ONCE).map(|nth| DevelopmentUser::named(&format!("chaos-bidder-{nth}")));
        let others = [Self::host(), DevelopmentUser::named("chaos-watcher")];
        bidders.chain(others).chain(Self::crowd_bidders()).collect()
    }

    /// Who bids before a crowd.
    pub fn crowd_bidders() -> [DevelopmentUser; 2] {
        ["chaos-crowd-anna", "chaos-crowd-ben"].map(DevelopmentUser::named)
    }

    /// Runs lots one after the other on each of the places, until it is time; the last ones run to their end.
    ///
    /// # Errors
    /// Who never saw the end of a lot.
    pub async fn run(self: Arc<Self>, until: Instant) -> Result<()> {
        let mut places = JoinSet::new();
        for place in 0..LOTS_AT_ONCE {
            let load = Arc::clone(&self);
            places.spawn(async move {
                while Instant::now() < until {
                    let lot = load.create(Duration::from_secs(fastrand::u64(LOT_SECONDS)), until).await?;
                    let Some(lot) = lot else { break };
                    load.play(place, Arc::new(lot)).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(played) = places.join_next().await {
            played??;
        }
        Ok(())
    }

    fn token(&self, user: &DevelopmentUser) -> Result<String> {
        self.issuer.lock().unwrap_or_else(PoisonError::into_inner).token(&user.name)
    }

    /// A new auction; the same request again until it is there. None when it is time to stop.
    pub async fn create(&self, duration: Duration, until: Instant) -> Result<Option<Lot>> {
        let title = format!("Chaos {}.", self.number.fetch_add(1, Ordering::Relaxed));
        let (window, extension, max_extensions) = ANTI_SNIPE;
        let auction = json!({
            "title": title, "duration": duration.as_secs(), "starting_bid": 1, "video": false,
            "anti_snipe": {"mode": "extend", "window": window, "extension": extension, "max_extensions": max_extensions},
        });
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
                return Ok(Some(Lot { id, title }));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(None)
    }

    /// One lot from its opening until everybody has seen its end.
    async fn play(self: &Arc<Self>, place: u64, lot: Arc<Lot>) -> Result<()> {
        let give_up = Instant::now() + Duration::from_secs(LOT_SECONDS.end + ANTI_SNIPE.1 * ANTI_SNIPE.2) + LOT_GRACE;
        let bidder = |nth: u64| DevelopmentUser::named(&format!("chaos-bidder-{}", 3 * place + nth));
        let mut clients = JoinSet::new();
        for (nth, door) in [(0, Door::Plain), (1, Door::SocketIo)] {
            clients.spawn(Arc::clone(self).stay(bidder(nth), door, Arc::clone(&lot), true, give_up));
        }
        let watcher = DevelopmentUser::named("chaos-watcher");
        clients.spawn(Arc::clone(self).stay(watcher, Door::Plain, Arc::clone(&lot), false, give_up));
        let (load, by_http, watched) = (Arc::clone(self), bidder(2), Arc::clone(&lot));
        let bidding = tokio::spawn(async move { load.bid_by_http(&by_http, &watched, THINK_MS, give_up).await });
        while let Some(client) = clients.join_next().await {
            client?.with_context(|| lot.title.clone())?;
        }
        bidding.await?
    }

    /// Bids over HTTP until the auction says that it is over.
    pub async fn bid_by_http(
        &self,
        user: &DevelopmentUser,
        lot: &Lot,
        think_ms: std::ops::Range<u64>,
        give_up: Instant,
    ) -> Result<()> {
        let (caller, token, mut bidder) = (Caller::new(), self.token(user)?, Bidder::default());
        while Instant::now() < give_up {
            let bid = bidder.next(&lot.id);
            for attempt in 0..MAX_ATTEMPTS {
                // Another instance when one does not know.
                let at = usize::try_from(bidder.placed)?.wrapping_add(attempt) % self.addresses.bids.len();
                let sent = now();
                let answered =
                    tokio::time::timeout(ANSWER_TIMEOUT, caller.post(&self.addresses.bids[at], Some(&token), &bid))
                        .await;
                let answer = answered.ok().and_then(Result::ok).map(|reply| reply.json).filter(Value::is_object);
                self.recorder.call(user, &bid, sent, answer.as_ref());
                if bidder.take(&bid, answer.as_ref()) == Then::GoOn {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            if bidder.is_over {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(think_ms.clone()))).await;
        }
        anyhow::bail!("{} was still not over", lot.title)
    }

    /// Stays in the room until the end, connecting again and resuming where it was; bids if it is to.
    async fn stay(
        self: Arc<Self>,
        user: DevelopmentUser,
        door: Door,
        lot: Arc<Lot>,
        bids: bool,
        give_up: Instant,
    ) -> Result<()> {
        let mut bidder = Bidder::default();
        let mut last_seq = None;
        for turn in 0.. {
            anyhow::ensure!(Instant::now() < give_up, "{} never saw the end", user.name);
            let edge = &self.addresses.edges[turn % self.addresses.edges.len()];
            let token = self.token(&user)?;
            let connecting = tokio::time::timeout(ANSWER_TIMEOUT, Socket::enter(edge, door, &token));
            let Ok(Ok(socket)) = connecting.await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let number = self.number.fetch_add(1, Ordering::Relaxed);
            let mut visit = Visit {
                load: &self,
                connection: format!("{}-{number}", user.name),
                user: &user,
                lot: &lot,
                last_seq: &mut last_seq,
                asked: HashMap::new(),
            };
            let ended = visit.run(socket, bids.then_some(&mut bidder), give_up).await;
            visit.leave(&mut bidder, ended);
            if ended {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}

/// One connection to one room.
struct Visit<'a> {
    load: &'a Load,
    connection: String,
    user: &'a DevelopmentUser,
    lot: &'a Lot,
    /// Of the last record that this client knows, over all its connections.
    last_seq: &'a mut Option<u64>,
    /// Bids on their way.
    asked: HashMap<u64, (Value, u64)>,
}

impl Visit<'_> {
    /// True when the end was seen.
    async fn run(&mut self, mut socket: Socket, mut bidder: Option<&mut Bidder>, give_up: Instant) -> bool {
        let asked_from = *self.last_seq;
        let mut joining = json!({"auction_id": self.lot.id});
        if let Some(last_seq) = asked_from {
            joining["last_seq"] = json!(last_seq);
        }
        if socket.request("join_auction", joining, 0).await.is_err() {
            return false;
        }
        let mut next_bid = Instant::now() + PAUSE;
        let mut heard = Instant::now();
        let mut ended = false;
        for id in 1.. {
            // Whoever leaves before his answer could not say whether the bid had failed.
            if ended && self.asked.is_empty() {
                return true;
            }
            tokio::select! {
                frame = socket.next() => {
                    let Ok(frame) = frame else { return false };
                    heard = Instant::now();
                    // Not let into the room for now: once more, over another edge.
                    if frame["id"] == 0 && frame["data"]["code"].is_string() {
                        return false;
                    }
                    ended |= self.take(&frame, asked_from, bidder.as_deref_mut());
                }
                () = tokio::time::sleep_until(next_bid), if bidder.is_some() && self.asked.is_empty() && !ended => {
                    if let Some(bidder) = bidder.as_deref_mut() {
                        let bid = bidder.next(&self.lot.id);
                        self.asked.insert(id, (bid.clone(), now()));
                        if socket.request("place_bid", bid, id).await.is_err() {
                            return false;
                        }
                    }
                    next_bid = Instant::now() + Duration::from_millis(fastrand::u64(THINK_MS));
                }
                // Ticks come every second: an edge that is silent is left for another.
                () = tokio::time::sleep_until(heard + ANSWER_TIMEOUT) => return false,
                () = tokio::time::sleep_until(give_up) => return false,
            }
        }
        false
    }

    fn take(&mut self, frame: &Value, asked_from: Option<u64>, bidder: Option<&mut Bidder>) -> bool {
        let (event, data) = (frame["event"].as_str().unwrap_or_default(), &frame["data"]);
        if let Some((bid, sent)) = frame["id"].as_u64().and_then(|id| self.asked.remove(&id)) {
            self.load.recorder.call(self.user, &bid, sent, Some(data));
            if let Some(bidder) = bidder
                && bidder.take(&bid, Some(data)) == Then::AskAgain
            {
                bidder.owed = Some(bid);
            }
            return false;
        }
        // By Socket.IO the answer to a join is an acknowledgement.
        let joined = frame["id"] == 0 && data["recovered"].is_boolean();
        let named = json!({"event": if joined { "joined_auction" } else { event }, "data": data});
        self.load.recorder.frame(&self.connection, self.user, &named, asked_from.filter(|_| joined));
        if joined || ["bid_update", "auction_started", "auction_ended"].contains(&event) {
            *self.last_seq = data["seq"].as_u64().max(*self.last_seq);
        }
        if let (Some(bidder), Ok(minimum)) = (bidder, Amount::parse(&data["minimum_bid"].to_string())) {
            bidder.minimum = minimum.cents();
        }
        event == "auction_ended" || (joined && data["status"] == "closed")
    }

    /// The connection has ended: what was on its way has no answer, and is asked for again on the next.
    fn leave(&mut self, bidder: &mut Bidder, ended: bool) {
        for (bid, sent) in std::mem::take(&mut self.asked).into_values() {
            self.load.recorder.call(self.user, &bid, sent, None);
            bidder.owed = Some(bid);
        }
        if !ended {
            let gone = json!({"event": "disconnected", "data": {"auction_id": self.lot.id}});
            self.load.recorder.frame(&self.connection, self.user, &gone, None);
        }
    }
}

#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    AskAgain,
}

/// What one bidder knows, and what he asks for next.
#[derive(Default)]
struct Bidder {
    minimum: u64,
    placed: u64,
    /// A bid whose outcome is not known: asked for again under its id before anything else.
    owed: Option<Value>,
    accepted: Option<Value>,
    is_over: bool,
}

impl Bidder {
    fn next(&mut self, auction_id: &str) -> Value {
        self.placed += 1;
        if let Some(owed) = self.owed.take() {
            return owed;
        }
        if self.placed.is_multiple_of(REPEATED_EVERY)
            && let Some(accepted) = &self.accepted
        {
            return accepted.clone();
        }
        let cents = if self.placed.is_multiple_of(HOPELESS_EVERY) { 50 } else { self.minimum.max(100) };
        let amount = Amount::from_cents(cents).map(|amount| amount.to_string()).unwrap_or_default();
        json!({"auction_id": auction_id, "amount": amount, "bid_id": uuid::Uuid::new_v4().to_string()})
    }

    fn take(&mut self, bid: &Value, answer: Option<&Value>) -> Then {
        let Some(answer) = answer else { return Then::AskAgain };
        if let Ok(minimum) = Amount::parse(&answer["minimum_bid"].to_string()) {
            self.minimum = self.minimum.max(minimum.cents());
        }
        if answer["status"] == "accepted" {
            self.accepted = Some(bid.clone());
        }
        match answer["code"].as_str() {
            Some("auction_closed") => self.is_over = true,
            Some("outcome_unknown") => return Then::AskAgain,
            _ => {}
        }
        Then::GoOn
    }
}
