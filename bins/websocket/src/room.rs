//! One auction on this edge: its committed state, and everybody who watches.
//!
//! The room subscribes to records and ticks first, then asks for the committed state, then applies
//! what is newer. A gap in the records (the republish is at most once) is read from the log.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bus::{LogError, Logged};
use domain::{AuctionId, UserId};
use futures_util::{Stream, StreamExt};
use protocol::frames::{AuctionEnded, AuctionStarted, BidUpdate, Joined, MAX_BIDS_IN_UPDATE, encode, error};
use protocol::{
    Bid, Code, Failure, Leased, PublicBid, RecordKind, Standing, StateReply, StateRequest, TimerTick, subject,
};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::mailbox::{Mailbox, Update};
use crate::rooms::Shared;

/// SPEC 4: at most 20 `bid_update` a second.
const UPDATE_EVERY: Duration = Duration::from_millis(50);
/// Bids kept for those who come back with `last_seq`.
const MAX_KEPT_BIDS: usize = 1000;
const MAX_RECENT_BIDS: usize = 20;
/// An empty room stays open this long for those who come back.
const EMPTY_FOR: Duration = Duration::from_secs(30);
const STATE_TIMEOUT: Duration = Duration::from_secs(4);
/// When an end has passed and no closing record has come for this long, the room asks the log.
const END_GRACE_MS: u64 = 500;
/// A session's number on this edge.
pub type SessionId = u64;

pub struct Visitor {
    pub session: SessionId,
    pub user_id: UserId,
    pub mailbox: Arc<Mailbox>,
}

pub enum Visit {
    Join { visitor: Visitor, last_seq: Option<u64>, id: Option<Box<RawValue>> },
    Leave { session: SessionId },
}

struct Member {
    user_id: UserId,
    mailbox: Arc<Mailbox>,
}

pub struct Room {
    auction_id: AuctionId,
    shared: Arc<Shared>,
    visits: mpsc::Receiver<Visit>,
    members: HashMap<SessionId, Member>,
}

type Records = Pin<Box<dyn Stream<Item = Logged> + Send>>;

/// What the room knows once it is open.
struct Open {
    standing: Standing,
    /// Every bid after `kept_from`, oldest first.
    kept: VecDeque<Bid>,
    kept_from: u64,
    /// The seq that those in the room have been told.
    told_seq: u64,
    /// When the next `bid_update` may go out.
    next_update: Instant,
    highest_token: u64,
    /// When the log is asked whether the end has been missed.
    ask_log_at: Option<Instant>,
}

impl Room {
    pub fn new(auction_id: AuctionId, shared: Arc<Shared>, visits: mpsc::Receiver<Visit>) -> Self {
        Self { auction_id, shared, visits, members: HashMap::new() }
    }

    pub async fn run(mut self) {
        match self.prepare().await {
            Ok((open, records, ticks)) => self.watch(open, records, ticks).await,
            Err(failure) => {
                // Everybody who waits is told; the next to join tries anew.
                self.visits.close();
                while let Some(visit) = self.visits.recv().await {
                    if let Visit::Join { visitor, id, .. } = visit {
                        visitor.mailbox.push(error(&failure, id.as_deref()).into());
                    }
                }
            }
        }
    }

    async fn prepare(&self) -> Result<(Open, Records, async_nats::Subscriber), Failure> {
        let unavailable = |error: &dyn std::fmt::Display| {
            tracing::warn!(auction_id = %self.auction_id, %error, "a room could not be opened");
            Failure::from(Code::Unavailable)
        };
        let Shared { bus, log, clock } = &*self.shared;
        let records = log.events(subject::events(self.auction_id)).await.map_err(|error| unavailable(&error))?;
        let ticks = bus.client.subscribe(subject::timer(self.auction_id)).await.map_err(|error| unavailable(&error))?;
        let request = StateRequest { auction_id: self.auction_id };
        let reply: StateReply = bus::request(bus, subject::AUCTIONS_STATE, &request, STATE_TIMEOUT)
            .await
            .map_err(|error| unavailable(&error))?;
        let standing = reply.into_result()?;
        let mut kept: VecDeque<Bid> = standing.recent_bids.iter().rev().cloned().collect();
        // The newest bids came with the state; all after the oldest of them are here.
        let kept_from = match kept.front() {
            Some(_) if standing.state.bid_count == u64::try_from(kept.len()).unwrap_or(0) => 0,
            Some(oldest) => oldest.seq,
            None => standing.seq,
        };
        kept.retain(|bid| bid.seq > kept_from);
        let mut open = Open {
            told_seq: standing.seq,
            standing,
            kept,
            kept_from,
            next_update: Instant::now(),
            highest_token: 0,
            ask_log_at: None,
        };
        open.expect_end(clock.now().0);
        Ok((open, Box::pin(records), ticks))
    }

    async fn watch(mut self, mut open: Open, mut records: Records, mut ticks: async_nats::Subscriber) {
        let mut empty_since = Some(Instant::now());
        loop {
            let update_at = (open.standing.seq > open.told_seq).then_some(open.next_update);
            tokio::select! {
                visit = self.visits.recv() => match visit {
                    Some(Visit::Join { visitor, last_seq, id }) => self.join(&mut open, visitor, last_seq, id.as_deref()).await,
                    Some(Visit::Leave { session }) => self.leave(&mut open, session),
                    None => return,
                },
                record = records.next() => match record {
                    Some(logged) => self.hear(&mut open, logged).await,
                    None => return self.fail(),
                },
                tick = ticks.next() => match tick {
                    Some(message) => self.tick(&mut open, &message.payload).await,
                    None => return self.fail(),
                },
                () = at(update_at) => self.send_update(&mut open),
                () = at(open.ask_log_at) => {
                    self.read_on(&mut open).await;
                    open.expect_end(self.shared.clock.now().0);
                }
                () = at(empty_since.map(|since| since + EMPTY_FOR)) => {
                    // Those who come in this moment are still let in; later ones open a new room.
                    self.visits.close();
                    empty_since = None;
                    continue;
                }
            }
            empty_since = if self.members.is_empty() { empty_since.or_else(|| Some(Instant::now())) } else { None };
        }
    }

    /// The connection to NATS is gone for good: the service is ending.
    fn fail(mut self) {
        self.visits.close();
    }

    // ---- who is here ----

    async fn join(&mut self, open: &mut Open, visitor: Visitor, last_seq: Option<u64>, id: Option<&RawValue>) {
        if last_seq.is_some_and(|last_seq| last_seq > open.standing.seq) {
            // They come from an edge that is ahead of this one.
            self.read_on(open).await;
        }
        // Those inside are told first, so that the next update continues what the newcomer is given.
        self.send_update(open);
        self.members
            .insert(visitor.session, Member { user_id: visitor.user_id, mailbox: Arc::clone(&visitor.mailbox) });
        open.standing.participant_count = self.people();
        let missed = last_seq
            .filter(|last_seq| *last_seq >= open.kept_from)
            .map(|last_seq| open.kept.iter().filter(|bid| bid.seq > last_seq).map(PublicBid::from).collect::<Vec<_>>());
        let joined = Joined {
            live: open.standing.live(Some(visitor.user_id), self.shared.clock.now().0),
            recovered: missed.is_some(),
            missed_bids: missed,
            your_max_amount: None,
        };
        visitor.mailbox.push(encode("joined_auction", &joined, id).into());
    }

    fn leave(&mut self, open: &mut Open, session: SessionId) {
        self.members.remove(&session);
        open.standing.participant_count = self.people();
    }

    /// People, not connections.
    fn people(&self) -> u64 {
        let people: HashSet<UserId> = self.members.values().map(|member| member.user_id).collect();
        u64::try_from(people.len()).unwrap_or(u64::MAX)
    }

    // ---- what happens ----

    async fn hear(&mut self, open: &mut Open, logged: Logged) {
        let standing = &open.standing;
        if logged.stream_seq <= standing.stream_seq {
            return;
        }
        if logged.previous_stream_seq.is_some_and(|previous| previous > standing.stream_seq) {
            return self.read_on(open).await;
        }
        self.apply(open, logged);
    }

    /// Reads every record after the last one known.
    async fn read_on(&mut self, open: &mut Open) {
        loop {
            match self.shared.log.next(self.auction_id, open.standing.stream_seq + 1).await {
                Ok(Some(logged)) => self.apply(open, logged),
                Ok(None) => return,
                Err(LogError::Record { stream_seq, detail }) => {
                    tracing::error!(auction_id = %self.auction_id, stream_seq, detail, "a record cannot be read");
                    open.standing.stream_seq = stream_seq;
                }
                Err(error) => {
                    tracing::warn!(auction_id = %self.auction_id, %error, "the log cannot be read");
                    return;
                }
            }
        }
    }

    fn apply(&mut self, open: &mut Open, logged: Logged) {
        let Logged { stream_seq, record, .. } = logged;
        open.standing.stream_seq = stream_seq;
        if record.seq <= open.standing.seq {
            return;
        }
        // Of a record whose first part came with the state, only the rest is new.
        let known = open.standing.seq;
        let new_bids = record.bids.iter().filter(|bid| bid.seq > known);
        open.kept.extend(new_bids.clone().cloned());
        while open.kept.len() > MAX_KEPT_BIDS {
            open.kept_from = open.kept.pop_front().map_or(open.kept_from, |bid| bid.seq);
        }
        let recent = &mut open.standing.recent_bids;
        for bid in new_bids {
            recent.insert(0, bid.clone());
        }
        recent.truncate(MAX_RECENT_BIDS);
        open.standing.seq = record.seq;
        open.standing.state = record.state.clone();
        open.expect_end(self.shared.clock.now().0);
        match record.kind {
            RecordKind::Bids if Instant::now() >= open.next_update => self.send_update(open),
            RecordKind::Bids | RecordKind::Created => {}
            RecordKind::Opened => {
                let started =
                    AuctionStarted { auction_id: self.auction_id, seq: record.seq, end_time: record.state.end_time };
                self.to_all(&encode("auction_started", started, None).into());
                open.told_seq = record.seq;
            }
            RecordKind::Closed | RecordKind::Cancelled => {
                // The last bids go out before the end does.
                let end = open.standing.seq;
                if open.kept.back().is_some_and(|bid| bid.seq > open.told_seq) {
                    self.send_update(open);
                }
                let lost: Utf8Bytes = encode("auction_ended", AuctionEnded::new(&record, false), None).into();
                let won: Utf8Bytes = encode("auction_ended", AuctionEnded::new(&record, true), None).into();
                for member in self.members.values() {
                    let you_won = record.state.winner_id == Some(member.user_id);
                    member.mailbox.push(if you_won { won.clone() } else { lost.clone() });
                }
                open.told_seq = end;
            }
        }
    }

    /// Tells everybody the newest state, if they have not been told.
    fn send_update(&self, open: &mut Open) {
        if open.standing.seq <= open.told_seq {
            return;
        }
        let bids = || {
            let new = open.kept.iter().filter(|bid| bid.seq > open.told_seq);
            let count = new.clone().count();
            new.skip(count.saturating_sub(MAX_BIDS_IN_UPDATE))
        };
        let timestamp = self.shared.clock.now().0;
        let frame = |winning| -> Utf8Bytes {
            encode("bid_update", BidUpdate::new(&open.standing, open.told_seq, bids(), timestamp, winning), None).into()
        };
        let (others, leader) = (frame(false), frame(true));
        let leader_id = open.standing.state.high_bidder_id;
        for member in self.members.values() {
            let frame = if leader_id == Some(member.user_id) { leader.clone() } else { others.clone() };
            member.mailbox.update(Update::Bids(self.auction_id), frame);
        }
        open.told_seq = open.standing.seq;
        open.next_update = Instant::now() + UPDATE_EVERY;
    }

    async fn tick(&mut self, open: &mut Open, payload: &[u8]) {
        let tick: Leased<TimerTick> = match serde_json::from_slice(payload) {
            Ok(tick) => tick,
            Err(error) => return tracing::warn!(%error, "a tick cannot be read"),
        };
        // From one who has lost the election and does not know it yet.
        if tick.token < open.highest_token {
            return;
        }
        open.highest_token = tick.token;
        if tick.message.seq > open.standing.seq {
            // A record was missed, or is on its way: in either case the log has it.
            self.read_on(open).await;
        }
        // An older tick than what we know would count towards a wrong end.
        if tick.message.seq < open.standing.seq {
            return;
        }
        self.send_update(open);
        let frame: Utf8Bytes = encode("timer_update", &tick.message, None).into();
        for member in self.members.values() {
            member.mailbox.update(Update::Timer(self.auction_id), frame.clone());
        }
    }

    fn to_all(&self, frame: &Utf8Bytes) {
        for member in self.members.values() {
            member.mailbox.push(frame.clone());
        }
    }
}

impl Open {
    fn expect_end(&mut self, now: u64) {
        let state = &self.standing.state;
        self.ask_log_at = if state.outcome.is_some() {
            None
        } else {
            // Past the end already: ask again and again, at the same distance.
            let wait = (state.end_time + END_GRACE_MS).saturating_sub(now).max(END_GRACE_MS);
            Some(Instant::now() + Duration::from_millis(wait))
        };
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
