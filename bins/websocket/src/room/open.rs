//! An open room: the state that its members see, and the records and ticks that change it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bus::{LogError, Logged};
use domain::{AuctionId, UserId};
use protocol::frames::{
    AuctionCancelled, AuctionEnded, AuctionPaused, AuctionResumed, AuctionStarted, BidUpdate, MAX_BIDS_IN_UPDATE,
};
use protocol::{ChatMessage, CommittedState, Naming, Presence, Record, RecordKind, TimerTick};
use service::fault::{self, FaultPoint};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use traces::TARGET;
use tracing::trace_span;

use crate::answers::HeldUpdate;
use crate::bidders::Notice;
use crate::context::EdgeContext;
use crate::event::Event;
use crate::room::audience::{Audience, Broadcast};
use crate::room::confirm::Confirmed;
use crate::room::fence::Fence;
use crate::room::join::Joining;
use crate::room::kept::KeptBids;
use crate::room::on_air::Stream;
use crate::room::people::People;
use crate::transport::send_queue::{Delivery, Update};

/// Interval between two `bid_update`: at most 20 a second. CONTRACT.md, Server events.
const UPDATE_EVERY: Duration = Duration::from_millis(50);
/// Members from which on answers leave before the broadcast: to fewer it takes a quarter of a millisecond.
const ANSWERS_FIRST_FROM: usize = 32;
/// Bids in the state that a client gets when it joins.
pub(super) const MAX_RECENT_BIDS: usize = 20;
/// Messages and acts of moderation being stored at once. A room that is faster gets `chat_too_fast`.
const MAX_CHAT_IN_FLIGHT: usize = 64;

/// A room whose state is known, with its members.
pub struct OpenRoom {
    pub(super) auction_id: AuctionId,
    pub(super) context: Arc<EdgeContext>,
    pub(super) members: Audience,
    pub(super) people: People,
    /// The counts of the other edges.
    pub(super) others: Presence,
    pub(super) chat_in_flight: Arc<Semaphore>,
    /// The state after the last applied record.
    pub(super) committed: CommittedState,
    /// The generation of the log that the state belongs to.
    generation: u64,
    /// The newest bids.
    pub(super) kept: KeptBids,
    /// Clients that join, and what they wait for.
    pub(super) joining: Joining,
    /// The host's stream.
    pub(super) stream: Stream,
    /// The newest messages, oldest first.
    pub(super) chat: VecDeque<ChatMessage>,
    /// The stream sequence of the last message.
    pub(super) chat_seq: u64,
    /// The last seq that was sent to the members.
    pub(super) last_sent_seq: u64,
    /// The last number of people that was sent to the members.
    pub(super) last_sent_people: u64,
    /// The last count that was published to the other edges.
    pub(super) last_sent_count: u64,
    /// When the next `bid_update` may be sent.
    next_update: Instant,
    /// The append of a record that it shows, if the trace of that is exported.
    trace: traces::Context,
    /// The answers that it waits for.
    pub(super) held: HeldUpdate,
    /// Rejects the ticks of instances that have lost the election.
    pub(super) fence: Fence,
    /// When the log is read: to confirm what is shown, or because the end may have been missed.
    pub(super) read_at: Option<Instant>,
    /// Before it the log is not read again.
    pub(super) read_after: Instant,
    /// The last record that the log has confirmed.
    pub(super) confirmed: Confirmed,
    /// Until when only records that were read are shown, because a received one was forged.
    pub(super) distrusted_until: Option<Instant>,
    /// Records after the last known one were left out or could not be read.
    pub(super) may_jump: bool,
    /// A tick of a record that is not known yet.
    pub(super) waiting_tick: Option<TimerTick>,
    /// The stream sequence up to which there are messages, as far as it was heard.
    pub(super) chat_heard: u64,
    /// When the chat is read.
    pub(super) chat_read_at: Option<Instant>,
    /// Before it the chat is not read again.
    pub(super) chat_read_after: Instant,
}

/// Where a record comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// It was read from the log.
    Log,
    /// It was received, and may be forged.
    Hint,
}

impl OpenRoom {
    /// A room without members, in the committed state that bid-processing replied with.
    /// `generation`: that of the log before the state was requested.
    pub fn new(auction_id: AuctionId, context: Arc<EdgeContext>, committed: CommittedState, generation: u64) -> Self {
        context.prices.open(&committed, context.bus.connection());
        let stream = Stream::new(context.on_air.contains(auction_id, std::time::Instant::now()));
        let mut room = Self {
            auction_id,
            context,
            members: Audience::new(),
            people: People::default(),
            others: Presence::default(),
            chat_in_flight: Arc::new(Semaphore::new(MAX_CHAT_IN_FLIGHT)),
            stream,
            chat: VecDeque::new(),
            chat_seq: 0,
            last_sent_seq: committed.seq,
            last_sent_people: 0,
            last_sent_count: 0,
            kept: KeptBids::of(&committed),
            confirmed: Confirmed::of(&committed),
            committed,
            generation,
            joining: Joining::new(),
            next_update: Instant::now(),
            trace: traces::Context::default(),
            held: HeldUpdate::default(),
            fence: Fence::default(),
            distrusted_until: None,
            may_jump: false,
            waiting_tick: None,
            read_at: None,
            read_after: Instant::now(),
            chat_heard: 0,
            chat_read_at: None,
            chat_read_after: Instant::now(),
        };
        room.expect_reading();
        room
    }

    /// Whether the state is that of a log which is no longer there.
    pub fn is_of_another_log(&self) -> bool {
        self.context.log.generation() != self.generation
    }

    /// Whether the log has the state. It does, unless it was restored a moment ago and bid-processing has not noticed
    /// that yet.
    pub async fn is_in_the_log(&self) -> Result<bool, LogError> {
        // No restore since this edge started: nothing to ask for.
        if self.generation == 0 {
            return Ok(true);
        }
        let last = self.context.log.last(self.auction_id).await?;
        Ok(last
            .is_some_and(|last| (last.stream_seq, last.record.seq) >= (self.committed.stream_seq, self.committed.seq)))
    }

    /// Whether no connection is in the room or about to be.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.joining.is_empty()
    }

    /// When the members must be sent the newest state. None if they have it.
    pub fn update_due(&self) -> Option<Instant> {
        let due = self.held.until().map_or(self.next_update, |until| until.max(self.next_update));
        (self.committed.seq > self.last_sent_seq).then_some(due)
    }

    /// Lets the answers to these bids of this edge's own connections leave before the broadcast, if that takes long.
    fn hold_for_answers(&mut self, record: &Record) {
        if self.members.len() >= ANSWERS_FIRST_FROM {
            let bids = record.bids.iter().map(|bid| bid.bid_id);
            self.context.answers.hold(&mut self.held, bids, self.next_update, Instant::now());
        }
    }

    /// Applies the next record.
    pub(super) async fn apply(&mut self, logged: Logged, source: Source) {
        let Logged { stream_seq, record, trace, .. } = logged;
        self.committed.stream_seq = stream_seq;
        let (prices, connection) = (&self.context.prices, self.context.bus.connection());
        match source {
            Source::Log => prices.apply(&record, connection),
            Source::Hint => prices.hear(&record, connection),
        }
        self.context.metrics.delivered.record_between(record.time, self.context.clock.now().0);
        if record.seq <= self.committed.seq {
            return;
        }
        let before = record.seq.saturating_sub(record.facts());
        let known = self.committed.seq;
        if before == known {
            self.context.answers.give(&record, self.committed.state.extension_count);
        }
        self.keep_bids(&record, before);
        (self.committed.seq, self.committed.head) = (record.seq, record.head);
        (self.committed.state, self.committed.has_secrets) = (record.state.clone(), record.sealed.is_some());
        if source == Source::Log {
            self.confirmed = Confirmed::of(&self.committed);
        }
        self.trace = trace.or(std::mem::take(&mut self.trace));
        self.expect_reading();
        if record.state.outcome.is_none() {
            self.notify(self.context.bidders.observe(&record, Instant::now())).await;
        }
        self.hold_for_answers(&record);
        let has_unsent_bids = before > known || self.kept.newer_than(self.last_sent_seq).next().is_some();
        match record.kind.known() {
            // After a quiet time an update leaves at once; the rate alone is bounded.
            Some(RecordKind::Bids) if self.update_due().is_some_and(|due| due <= Instant::now()) => {
                self.send_update().await;
            }
            // A person who is blocked learns of it from the answer to a bid.
            // A changed maximum is not shown; the next update has its seq.
            Some(
                RecordKind::Bids
                | RecordKind::Maximum
                | RecordKind::Created
                | RecordKind::Blocked
                | RecordKind::Unblocked,
            ) => {}
            // A record of a newer version: its state is sent like that of a bid.
            None => self.send_update().await,
            Some(RecordKind::Opened) => {
                // The pre-bids were bid directly before it.
                if has_unsent_bids {
                    self.send_update().await;
                }
                let started =
                    AuctionStarted { auction_id: self.auction_id, seq: record.seq, end_time: record.state.end_time };
                self.send_all(Event::new("auction_started", started)).await;
                self.last_sent_seq = record.seq;
            }
            Some(RecordKind::Paused | RecordKind::Resumed) => {
                // The bids before it are sent first.
                if has_unsent_bids {
                    self.send_update().await;
                }
                let event = if record.kind == RecordKind::Paused {
                    Event::new("auction_paused", AuctionPaused::new(&record))
                } else {
                    Event::new("auction_resumed", AuctionResumed::new(&record))
                };
                self.send_all(event).await;
                self.last_sent_seq = record.seq;
            }
            Some(RecordKind::Closed | RecordKind::Cancelled) => {
                Box::pin(self.end(&record, has_unsent_bids)).await;
            }
        }
    }

    /// Keeps the bids of the next record, which follows the fact `before`.
    fn keep_bids(&mut self, record: &Record, before: u64) {
        let known = self.committed.seq;
        if before > known {
            // Facts in between were not read. The next update says so by its `previous_seq`.
            self.kept.restart_from(before);
            self.committed.recent_bids.clear();
            self.last_sent_seq = before;
        }
        // If the first part of the record came with the state, only the rest is new.
        let new_bids = record.bids.iter().filter(|bid| bid.seq > known);
        self.kept.extend(new_bids.clone().cloned());
        let recent = &mut self.committed.recent_bids;
        for bid in new_bids {
            recent.insert(0, bid.clone());
        }
        recent.truncate(MAX_RECENT_BIDS);
    }

    async fn end(&mut self, record: &Record, has_unsent_bids: bool) {
        // The last bids are sent before the end; if they were not read, the state after them.
        if has_unsent_bids {
            self.send_update().await;
        }
        self.send_end(record).await;
        let in_room = |session| self.members.contains(session);
        let notices = self.context.bidders.end(record, Instant::now(), self.naming(None), in_room);
        self.notify(notices).await;
        self.last_sent_seq = record.seq;
    }

    /// Notifies people wherever they are. Boxed: a room takes no memory for it.
    async fn notify(&self, notices: Vec<Notice>) {
        if !notices.is_empty() {
            Box::pin(Notice::send_all(notices)).await;
        }
    }

    async fn send_end(&mut self, record: &Record) {
        if record.kind == RecordKind::Cancelled {
            return self.send_all(Event::new("auction_cancelled", AuctionCancelled::new(record))).await;
        }
        let ended = |you_won, naming| Event::new("auction_ended", AuctionEnded::new(record, you_won, naming));
        let everybody_wins = fault::is_on(FaultPoint::EverybodyWins, &self.auction_id);
        let to_others = self.broadcast(Delivery::Reliable, |naming| ended(everybody_wins, naming));
        let winner = record.state.winner_id;
        let broadcast = to_others.with_own(winner, ended(true, self.naming(winner)));
        self.members.send(broadcast).await;
    }

    /// Broadcasts the newest state, unless the members have it.
    pub async fn send_update(&mut self) {
        if self.committed.seq <= self.last_sent_seq {
            return;
        }
        let bids = || {
            let new = self.kept.newer_than(self.last_sent_seq);
            let count = new.clone().count();
            let hidden = usize::from(fault::is_on(FaultPoint::HideBid, &self.auction_id));
            new.skip(count.saturating_sub(MAX_BIDS_IN_UPDATE) + hidden)
        };
        let timestamp = self.context.clock.now().0;
        let update = |winning, naming| {
            let (committed, previous) = (&self.committed, self.last_sent_seq);
            Event::new("bid_update", BidUpdate::new(committed, previous, bids(), timestamp, winning, naming))
        };
        let (auction_id, members) = (self.auction_id, self.members.len());
        let span = || trace_span!(target: TARGET, parent: None, "broadcast", %auction_id, members);
        let leader = self.committed.state.high_bidder_id;
        let broadcast = self
            .broadcast(Delivery::Latest(Update::Bids(self.auction_id)), |naming| update(false, naming))
            .with_own(leader, update(true, self.naming(leader)))
            .traced(std::mem::take(&mut self.trace).continued(span));
        // Counted from the start of this broadcast, not from its end.
        self.next_update = Instant::now() + UPDATE_EVERY;
        self.members.send(broadcast).await;
        if !fault::is_on(FaultPoint::RepeatFrame, &self.auction_id) {
            self.last_sent_seq = self.committed.seq;
        }
    }

    /// How people are named to a viewer. None: one without a token.
    pub(super) fn naming(&self, viewer: Option<UserId>) -> Naming {
        self.context.naming(self.auction_id, &self.committed.state, viewer)
    }

    /// The broadcast of an event that names people: where these are aliases, the host gets it with the names.
    pub(super) fn broadcast(&self, delivery: Delivery, event: impl Fn(Naming) -> Event) -> Broadcast {
        let (naming, host) = (self.naming(None), self.committed.state.host_user_id);
        let broadcast = Broadcast::new(delivery, event(naming));
        if naming == Naming::Names || !self.people.contains(host) {
            return broadcast;
        }
        broadcast.with_own(Some(host), event(Naming::Names))
    }

    /// Broadcasts an event that every member must get.
    pub(super) async fn send_all(&mut self, event: Event) {
        self.members.send(Broadcast::new(Delivery::Reliable, event)).await;
    }

    /// Broadcasts an update of which only the latest must arrive.
    pub(super) async fn send_latest(&mut self, update: Update, event: Event) {
        self.members.send(Broadcast::new(Delivery::Latest(update), event)).await;
    }
}
