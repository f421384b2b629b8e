//! Joining, resuming and leaving.
//!
//! A client that resumes from before the kept bids waits until these are read from the log. It becomes a member when it
//! is answered: the answer has the state of that moment and every bid since `last_seq`, and the next update continues it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use domain::Amount;
use identity::Token;
use protocol::frames::Joined;
use protocol::{Code, MaximumRequest, Person, PublicBid};
use tokio::time::Instant;

use crate::entry::SessionId;
use crate::event::{Outgoing, ReplyTo};
use crate::room::audience::Member;
use crate::room::command::Client;
use crate::room::earlier::{EarlierBids, EarlierError, Reading, Wanted};
use crate::room::kept::MAX_KEPT_BIDS;
use crate::room::maximum::{Asking, OwnMaximum};
use crate::room::open::{MAX_RECENT_BIDS, OpenRoom};

/// Time after a failed reading before the log is read for earlier bids again.
const READ_EARLIER_AGAIN: Duration = Duration::from_secs(5);
/// Readings start after multiples of this seq, so that clients with a thousand different `last_seq` cause five.
const READ_FROM_MULTIPLES_OF: u64 = 256;
/// Longest wait of a client for earlier bids: for a reading in progress and for one that starts after it.
const WAIT_FOR_EARLIER: Duration = Duration::from_secs(2);
/// Clients of one room that may wait for earlier bids. Further ones are answered without.
const MAX_WAITING: usize = 16_384;
/// Interval between two readings of the log for clients that come from an edge which is ahead of this one.
const READ_AHEAD_EVERY: Duration = Duration::from_millis(50);

/// One place of this many in a room is kept for people with a token.
const KEPT_FOR_PEOPLE: usize = 4;

/// A request to join.
pub struct Join {
    client: Client,
    /// For the question how far the auction bids for the person; None once it was asked.
    token: Option<Token>,
    your_max_amount: Option<Amount>,
    last_seq: Option<u64>,
    reply_to: ReplyTo,
    /// When it is answered without earlier bids.
    until: Instant,
}

/// Clients that join, and the reading that they wait for.
pub struct Joining {
    /// They wait for the reading.
    waiting: Vec<Join>,
    /// They wait for their own maximum.
    asked: Vec<Join>,
    /// The questions for it.
    asking: Asking,
    /// Their reading has ended.
    ready: VecDeque<Join>,
    /// Only while clients wait for it.
    reading: Option<Reading>,
    /// The earliest time of the next reading.
    read_at: Instant,
    /// The earliest time at which the log may be read for records that another edge has.
    read_ahead_at: Instant,
}

impl Join {
    /// A request that came now.
    pub fn new(client: Client, token: Option<Token>, last_seq: Option<u64>, reply_to: ReplyTo) -> Self {
        Self { client, token, your_max_amount: None, last_seq, reply_to, until: Instant::now() + WAIT_FOR_EARLIER }
    }
}

impl Joining {
    /// No client joins.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            waiting: Vec::new(),
            asked: Vec::new(),
            asking: Asking::default(),
            ready: VecDeque::new(),
            reading: None,
            read_at: now,
            read_ahead_at: now,
        }
    }

    /// Whether no client is joining.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.asked.is_empty() && self.ready.is_empty()
    }

    /// Whether a client can be answered now.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next client that need not wait any longer.
    pub fn next_ready(&mut self) -> Option<Join> {
        self.ready.pop_front()
    }

    /// The end of the reading, or the answer to a question for a maximum; waits for ever without either. Nothing is lost
    /// if this future is dropped.
    pub async fn next_arrival(&mut self) -> Arrival {
        let Self { reading, asking, .. } = self;
        tokio::select! {
            read = end_of(reading) => Arrival::Earlier(read),
            Some(own) = asking.next() => Arrival::Maximum(own),
        }
    }

    fn forget(&mut self, session: SessionId) {
        self.waiting.retain(|join| join.client.session != session);
        self.asked.retain(|join| join.client.session != session);
        self.ready.retain(|join| join.client.session != session);
    }

    fn name(&mut self, session: SessionId, person: &Person) {
        let joins = self.waiting.iter_mut().chain(&mut self.asked).chain(&mut self.ready);
        for join in joins.filter(|join| join.client.session == session) {
            join.client.person = Some(person.clone());
        }
    }

    fn contains(&self, session: SessionId) -> bool {
        self.waiting.iter().chain(&self.asked).chain(&self.ready).any(|join| join.client.session == session)
    }

    /// Takes the answer to a question for a maximum. Its client is ready, with or without one.
    pub fn on_maximum(&mut self, own: OwnMaximum) {
        // A client that has left in the meantime is not there.
        if let Some(at) = self.asked.iter().position(|join| join.client.session == own.session) {
            let mut join = self.asked.swap_remove(at);
            join.your_max_amount = own.max_amount;
            self.ready.push_back(join);
        }
    }
}

/// Something that clients waited for.
pub enum Arrival {
    /// Earlier bids.
    Earlier(Result<EarlierBids, EarlierError>),
    /// A client's own maximum.
    Maximum(OwnMaximum),
}

async fn end_of(reading: &mut Option<Reading>) -> Result<EarlierBids, EarlierError> {
    match reading {
        Some(running) => {
            let read = running.end().await;
            *reading = None;
            read
        }
        None => std::future::pending().await,
    }
}

impl OpenRoom {
    /// Adds a member, or updates it, and answers with the state and the bids that it missed; later, if these must be
    /// read.
    pub async fn join(&mut self, join: Join) {
        if join.last_seq.is_some_and(|last_seq| last_seq > self.committed.seq)
            && Instant::now() >= self.joining.read_ahead_at
        {
            // The client comes from an edge that is ahead of this one.
            Box::pin(self.read_log()).await;
            self.joining.read_ahead_at = Instant::now() + READ_AHEAD_EVERY;
        }
        if self.must_wait(&join) {
            self.joining.waiting.push(join);
        } else if let Some(join) = self.ask_for_maximum(join) {
            self.admit(join).await;
        }
    }

    /// Asks bid-processing how far the auction bids for this client, if it may: for the leader of an auction with secrets.
    /// Returns the others, who need not wait.
    fn ask_for_maximum(&mut self, mut join: Join) -> Option<Join> {
        let Some((person, token)) = join.client.person.as_ref().zip(join.token.take()) else { return Some(join) };
        let state = &self.committed.state;
        // Before the opening anybody may have a pre-bid, whose record may yet be on its way to this room.
        let leads_with_secrets = self.committed.has_secrets && state.high_bidder_id == Some(person.user_id);
        if state.outcome.is_some() || !(state.keeps_bids() || leads_with_secrets) {
            return Some(join);
        }
        let request = MaximumRequest { auction_id: self.auction_id, user_id: person.user_id };
        if !self.joining.asking.ask(&self.context.bus, join.client.session, request, token) {
            return Some(join);
        }
        self.joining.asked.push(join);
        None
    }

    /// Whether earlier bids will be read for this client. Starts a reading if none is in progress.
    fn must_wait(&mut self, join: &Join) -> bool {
        let now = Instant::now();
        let oldest = oldest_answered(self.committed.state.bid_count);
        let Some(last_seq) = join.last_seq.filter(|last_seq| (oldest..self.kept.from()).contains(last_seq)) else {
            return false;
        };
        if self.kept.is_full() || now >= join.until || self.joining.waiting.len() >= MAX_WAITING {
            return false;
        }
        if self.joining.reading.is_none() {
            if now < self.joining.read_at {
                return false;
            }
            let wanted = Wanted {
                auction_id: self.auction_id,
                from: (last_seq - last_seq % READ_FROM_MULTIPLES_OF).max(oldest),
                to: self.kept.from(),
                before: self.committed.stream_seq,
            };
            let places = Arc::clone(&self.context.rooms.reading);
            self.joining.reading = Some(Reading::start(self.context.log.clone(), places, wanted));
        }
        true
    }

    /// Takes the bids that were read. The clients that waited for them are ready, with or without them.
    pub fn on_earlier(&mut self, read: Result<EarlierBids, EarlierError>) {
        match read {
            Ok(earlier) => {
                self.kept.prepend(earlier);
                // After a jump the state has only the bids since.
                let recent = self.kept.newer_than(0).rev().take(MAX_RECENT_BIDS);
                if recent.clone().count() > self.committed.recent_bids.len() {
                    self.committed.recent_bids = recent.cloned().collect();
                }
            }
            Err(error) => {
                let auction_id = self.auction_id;
                tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to read earlier bids");
                self.joining.read_at = Instant::now() + READ_EARLIER_AGAIN;
            }
        }
        self.joining.ready.extend(self.joining.waiting.drain(..));
    }

    async fn admit(&mut self, join: Join) {
        let Join { client: Client { session, person, queue, membership }, your_max_amount, last_seq, reply_to, .. } =
            join;
        self.send_update().await;
        let known = self.members.get(session).map(|member| member.user_id);
        let places = most_members(self.context.max_members, person.is_some());
        if known.is_none() && self.members.len() >= places {
            drop(membership);
            self.context.count_rejection(Code::RoomFull);
            return queue.send(&Outgoing::error(&Code::RoomFull.into(), reply_to));
        }
        let user_id = person.as_ref().map(|person| person.user_id);
        let member = Member { user_id, queue: Arc::clone(&queue) };
        if let Some(person) = person.filter(|_| known.flatten().is_none()) {
            self.arrive(&person).await;
        }
        self.committed.participant_count = self.count();
        membership.accept();
        self.members.insert(session, member).await;
        // A client that has more than the log begins again from the state: the log was restored.
        let in_the_log = last_seq.filter(|last_seq| *last_seq <= self.committed.seq);
        let missed = in_the_log.and_then(|last_seq| self.kept.all_after(last_seq));
        let naming = self.naming(user_id);
        let missed_bids = missed.map(|bids| bids.map(|bid| PublicBid::new(bid, naming)).collect::<Vec<_>>());
        // The lead, or the time of pre-bids, may have ended while it was asked for.
        let state = &self.committed.state;
        let has_maximum = user_id.is_some() && (state.keeps_bids() || state.high_bidder_id == user_id);
        let joined = Joined {
            live: self.committed.live(user_id, self.context.clock.now().0, self.chat.make_contiguous(), naming),
            recovered: missed_bids.is_some(),
            missed_bids,
            your_max_amount: your_max_amount.filter(|_| has_maximum),
            stream_live: self.stream.is_live,
        };
        queue.send(&Outgoing::answer("joined_auction", &joined, reply_to));
    }

    async fn arrive(&mut self, person: &Person) {
        if self.people.arrive(person.user_id, &person.username) {
            self.announce("user_joined", person).await;
        }
    }

    /// A member that watched has a token now: it is a person from here on.
    pub async fn identify(&mut self, client: Client) {
        let Client { session, person: Some(person), queue, .. } = client else { return };
        // If it waits for bids that it missed, it joins as a person when it is answered.
        self.joining.name(session, &person);
        if self.members.get(session).is_some_and(|member| member.user_id.is_none()) {
            self.arrive(&person).await;
            self.members.insert(session, Member { user_id: Some(person.user_id), queue }).await;
        }
    }

    /// Whether this connection is in the room or about to be.
    pub fn has_joined(&self, session: SessionId) -> bool {
        self.members.contains(session) || self.joining.contains(session)
    }

    /// Removes a connection.
    pub async fn leave(&mut self, session: SessionId) {
        self.joining.forget(session);
        if let Some(member) = self.members.remove(session).await {
            member.queue.forget(self.auction_id);
            if let Some(user_id) = member.user_id {
                self.people.depart(user_id, Instant::now());
            }
        }
    }
}

/// Members up to which a connection is accepted. Those that only watch leave a part of the room to people with a token.
const fn most_members(places: usize, is_person: bool) -> usize {
    if is_person { places } else { places - places.div_ceil(KEPT_FOR_PEOPLE) }
}

/// The lowest `last_seq` that is answered with the missed bids, of an auction with so many bids. The facts up to a
/// seq are at most that many bids, so that with a lower one more than [`MAX_KEPT_BIDS`] were missed.
fn oldest_answered(bid_count: u64) -> u64 {
    bid_count.saturating_sub(MAX_KEPT_BIDS as u64)
}
