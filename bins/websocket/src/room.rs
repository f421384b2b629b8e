//! One auction on this edge: its committed state, its talk, and everybody who watches.
//!
//! The room subscribes to records, ticks, talk and presence first, then asks for the committed state and
//! the newest talk, then applies what is newer. A gap in records or talk (the republish is at most once)
//! is read from the stream. (Four subscriptions an auction, however many watch: one with a wildcard would
//! bring the log's and the chat's subjects as well, so everything twice, and publishes that were refused.)
//!
//! What a room keeps is bounded: a thousand bids, the newest talk, and eight announcements on their way, each
//! of names and messages that are bounded themselves: some hundred kilobytes, with the longest names two megabytes.

mod audience;
mod presence;
mod talk;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bus::{LogError, Logged, Said};
use domain::AuctionId;
use futures_util::{Stream, StreamExt};
use protocol::frames::{AuctionCancelled, AuctionEnded, AuctionStarted, BidUpdate, MAX_BIDS_IN_UPDATE};
use protocol::{
    Bid, ChatMessage, Code, CommittedState, Failure, Leased, Person, Presence, Record, RecordKind, StateReply,
    StateRequest, TimerTick, subject,
};
use service::fault;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior};

use crate::mailbox::{Lane, Mailbox, Update};
use crate::outgoing::{Event, Outgoing, To};
use crate::people::People;
use crate::rooms::Shared;

/// Interval between two `bid_update`: at most 20 a second. CONTRACT.md, Server events.
const UPDATE_EVERY: Duration = Duration::from_millis(50);
/// Bids kept for those who come back with `last_seq`.
const MAX_KEPT_BIDS: usize = 1000;
const MAX_RECENT_BIDS: usize = 20;
/// An empty room stays open this long for those who come back.
const EMPTY_FOR: Duration = Duration::from_secs(30);
const STATE_TIMEOUT: Duration = Duration::from_secs(4);
/// When an end has passed and no closing record has come for this long, the room asks the log.
const END_GRACE_MS: u64 = 500;
/// Interval between two counts sent to other edges, and sums sent to the members. CONTRACT.md, Presence.
const BEAT: Duration = Duration::from_secs(1);
/// Messages on their way into the stream at once; a room that is faster is told to slow down.
const MAX_CHAT_IN_FLIGHT: usize = 64;
/// A session's number on this edge.
pub type SessionId = u64;

use audience::{Announcement, Audience};
pub use talk::Moderation;

pub struct Visitor {
    pub session: SessionId,
    pub person: Person,
    pub mailbox: Arc<Mailbox>,
}

pub enum Visit {
    Join { visitor: Visitor, last_seq: Option<u64>, to: To },
    Leave { session: SessionId },
    Chat { visitor: Visitor, message: String, to: To },
    Moderate { visitor: Visitor, act: Moderation, to: To },
}

pub struct Room {
    auction_id: AuctionId,
    shared: Arc<Shared>,
    visits: mpsc::Receiver<Visit>,
    members: Audience,
    people: People,
    /// What the other edges count.
    others: Presence,
    saying: Arc<Semaphore>,
}

/// What the room listens to.
struct Sources {
    records: Records,
    ticks: async_nats::Subscriber,
    talk: Pin<Box<dyn Stream<Item = Said> + Send>>,
    presence: async_nats::Subscriber,
}

type Records = Pin<Box<dyn Stream<Item = Logged> + Send>>;

/// What the room knows once it is open.
struct Open {
    standing: CommittedState,
    /// Every bid after `kept_from`, oldest first.
    kept: VecDeque<Bid>,
    kept_from: u64,
    /// Not before this is the log asked for earlier ones.
    remember_at: Instant,
    /// The newest messages, oldest first, and the stream sequence of the last one.
    chat: VecDeque<ChatMessage>,
    chat_seq: u64,
    /// The seq and the number of people that those in the room have been told.
    told_seq: u64,
    told_people: u64,
    /// What other edges have been told.
    announced: u64,
    /// When the next `bid_update` may go out.
    next_update: Instant,
    highest_token: u64,
    /// When the log is asked whether the end has been missed.
    ask_log_at: Option<Instant>,
}

impl Room {
    pub fn new(auction_id: AuctionId, shared: Arc<Shared>, visits: mpsc::Receiver<Visit>) -> Self {
        Self {
            auction_id,
            shared,
            visits,
            members: Audience::new(),
            people: People::default(),
            others: Presence::default(),
            saying: Arc::new(Semaphore::new(MAX_CHAT_IN_FLIGHT)),
        }
    }

    pub async fn run(mut self) {
        match self.prepare().await {
            Ok((open, sources)) => self.watch(open, sources).await,
            Err(failure) => {
                // Everybody who waits is told; the next to join tries anew.
                self.visits.close();
                while let Some(visit) = self.visits.recv().await {
                    match visit {
                        Visit::Join { visitor, to, .. }
                        | Visit::Chat { visitor, to, .. }
                        | Visit::Moderate { visitor, to, .. } => {
                            visitor.mailbox.push(&Outgoing::error(&failure, to));
                        }
                        Visit::Leave { .. } => {}
                    }
                }
            }
        }
    }

    async fn prepare(&mut self) -> Result<(Open, Sources), Failure> {
        let unavailable = |error: &dyn std::fmt::Display| {
            tracing::warn!(auction_id = %self.auction_id, %error, "a room could not be opened");
            Failure::from(Code::Unavailable)
        };
        let Shared { bus, log, chat, clock, .. } = &*self.shared;
        let id = self.auction_id;
        let sources = Sources {
            records: Box::pin(log.events(subject::events(id)).await.map_err(|error| unavailable(&error))?),
            ticks: bus.client.subscribe(subject::timer(id)).await.map_err(|error| unavailable(&error))?,
            talk: Box::pin(chat.listen(id).await.map_err(|error| unavailable(&error))?),
            presence: bus.client.subscribe(subject::presence(id)).await.map_err(|error| unavailable(&error))?,
        };
        let request = StateRequest { auction_id: self.auction_id };
        let reply: StateReply = bus::request(bus, subject::AUCTIONS_STATE, &request, STATE_TIMEOUT)
            .await
            .map_err(|error| unavailable(&error))?;
        let standing = reply.into_result()?;
        self.shared.prices.open(&standing, bus.connection());
        let mut kept: VecDeque<Bid> = standing.recent_bids.iter().rev().cloned().collect();
        // The newest bids came with the state; all after the oldest of them are here.
        let kept_from = match kept.front() {
            Some(_) if standing.state.bid_count == u64::try_from(kept.len()).unwrap_or(0) => 0,
            Some(oldest) => oldest.seq,
            None => standing.seq,
        };
        kept.retain(|bid| bid.seq > kept_from);
        let mut open = Open {
            chat: VecDeque::new(),
            chat_seq: 0,
            told_seq: standing.seq,
            told_people: 0,
            announced: 0,
            standing,
            kept,
            kept_from,
            remember_at: Instant::now(),
            next_update: Instant::now(),
            highest_token: 0,
            ask_log_at: None,
        };
        open.expect_end(clock.now().0);
        // Talk is no reason to keep anybody out of the room.
        if let Err(error) = self.read_chat(&mut open).await {
            tracing::warn!(auction_id = %self.auction_id, %error, "the chat cannot be read");
        }
        Ok((open, sources))
    }

    async fn watch(mut self, mut open: Open, mut sources: Sources) {
        let mut empty_since = Some(Instant::now());
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let update_at = (open.standing.seq > open.told_seq).then_some(open.next_update);
            tokio::select! {
                // Not before those inside have been told of the last record: the next update then continues
                // what the newcomer was given.
                visit = self.visits.recv(), if update_at.is_none() => match visit {
                    Some(visit) => self.receive(&mut open, visit).await,
                    None => return,
                },
                record = sources.records.next() => match record {
                    Some(logged) => self.hear(&mut open, logged).await,
                    None => return self.fail(),
                },
                tick = sources.ticks.next() => match tick {
                    Some(message) => self.tick(&mut open, &message.payload).await,
                    None => return self.fail(),
                },
                said = sources.talk.next() => match said {
                    Some(said) => self.hear_talk(&mut open, said).await,
                    None => return self.fail(),
                },
                count = sources.presence.next() => match count {
                    Some(message) => self.hear_count(&message.payload),
                    None => return self.fail(),
                },
                _ = beat.tick() => self.beat(&mut open).await,
                () = at(self.people.next_leave()) => self.say_goodbye(&mut open).await,
                () = at(update_at) => {
                    self.send_update(&mut open).await;
                    // All who wait, or they would wait for ever where records never cease.
                    for _ in 0..self.visits.len() {
                        let Ok(visit) = self.visits.try_recv() else { break };
                        self.receive(&mut open, visit).await;
                    }
                }
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

    async fn hear(&mut self, open: &mut Open, logged: Logged) {
        let standing = &open.standing;
        if logged.stream_seq <= standing.stream_seq {
            return;
        }
        if logged.previous_stream_seq.is_some_and(|previous| previous > standing.stream_seq) {
            return self.read_on(open).await;
        }
        self.apply(open, logged).await;
    }

    /// Reads every record after the last one known.
    async fn read_on(&mut self, open: &mut Open) {
        loop {
            match self.shared.log.next(self.auction_id, open.standing.stream_seq + 1).await {
                Ok(Some(logged)) => self.apply(open, logged).await,
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

    async fn apply(&mut self, open: &mut Open, logged: Logged) {
        let Logged { stream_seq, record, .. } = logged;
        open.standing.stream_seq = stream_seq;
        self.shared.prices.hear(&record, self.shared.bus.connection());
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
        match record.kind.known() {
            Some(RecordKind::Bids) if Instant::now() >= open.next_update => self.send_update(open).await,
            Some(RecordKind::Bids | RecordKind::Created) => {}
            // A newer version's record: its state is sent like that of a bid.
            None => self.send_update(open).await,
            Some(RecordKind::Opened) => {
                let started =
                    AuctionStarted { auction_id: self.auction_id, seq: record.seq, end_time: record.state.end_time };
                self.tell_all(Event::new("auction_started", started)).await;
                open.told_seq = record.seq;
            }
            Some(RecordKind::Closed | RecordKind::Cancelled) => {
                // The last bids go out before the end does.
                let end = open.standing.seq;
                if open.kept.back().is_some_and(|bid| bid.seq > open.told_seq) {
                    self.send_update(open).await;
                }
                self.tell_end(&record).await;
                open.told_seq = end;
            }
        }
    }

    async fn tell_end(&mut self, record: &Record) {
        if record.kind == RecordKind::Cancelled {
            return self.tell_all(Event::new("auction_cancelled", AuctionCancelled::new(record))).await;
        }
        let ended = |you_won| Event::new("auction_ended", AuctionEnded::new(record, you_won));
        let to_others = ended(fault::is_on(service::fault::FaultPoint::EverybodyWins, &self.auction_id));
        let announcement = Announcement::new(Lane::MustArrive, to_others);
        self.members.tell(announcement.with_own(record.state.winner_id, ended(true))).await;
    }

    /// Tells everybody the newest state, if they have not been told.
    async fn send_update(&mut self, open: &mut Open) {
        if open.standing.seq <= open.told_seq {
            return;
        }
        let bids = || {
            let new = open.kept.iter().filter(|bid| bid.seq > open.told_seq);
            let count = new.clone().count();
            let hidden = usize::from(fault::is_on(service::fault::FaultPoint::HideBid, &self.auction_id));
            new.skip(count.saturating_sub(MAX_BIDS_IN_UPDATE) + hidden)
        };
        let timestamp = self.shared.clock.now().0;
        let update = |winning| {
            Event::new("bid_update", BidUpdate::new(&open.standing, open.told_seq, bids(), timestamp, winning))
        };
        let announcement = Announcement::new(Lane::Newest(Update::Bids(self.auction_id)), update(false))
            .with_own(open.standing.state.high_bidder_id, update(true));
        // Counted from here, and not from when the last has it.
        open.next_update = Instant::now() + UPDATE_EVERY;
        self.members.tell(announcement).await;
        if !fault::is_on(service::fault::FaultPoint::RepeatFrame, &self.auction_id) {
            open.told_seq = open.standing.seq;
        }
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
        self.send_update(open).await;
        self.update_all(Update::Timer(self.auction_id), Event::new("timer_update", &tick.message)).await;
    }

    async fn tell_all(&mut self, event: Event) {
        self.members.tell(Announcement::new(Lane::MustArrive, event)).await;
    }

    async fn update_all(&mut self, update: Update, event: Event) {
        self.members.tell(Announcement::new(Lane::Newest(update), event)).await;
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
