//! The people in a room: joining, resuming, leaving, and their number over all edges.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use protocol::frames::{Joined, PersonMoved, PresenceUpdate};
use protocol::{Bid, Code, EdgeCount, Person, PublicBid, subject};
use tokio::time::Instant;

use crate::context::SessionId;
use crate::event::{Event, Outgoing, ReplyTo};
use crate::room::audience::Member;
use crate::room::command::Client;
use crate::room::open::{MAX_KEPT_BIDS, OpenRoom};
use crate::transport::send_queue::Update;

/// Time for reading all bids of an auction from the log.
const LOAD_EARLIER_WITHIN: Duration = Duration::from_secs(1);
/// Time after a failure before the log is read for earlier bids again.
const LOAD_EARLIER_AGAIN: Duration = Duration::from_secs(5);
/// People up to which joins and departures are announced by name; above it only the count is. CONTRACT.md, Presence.
const MAX_NAMED_PEOPLE: u64 = 50;

impl OpenRoom {
    /// Adds a member, or updates it, and answers with the state and the bids that it missed.
    pub async fn join(&mut self, client: Client, last_seq: Option<u64>, reply_to: ReplyTo) {
        if last_seq.is_some_and(|last_seq| last_seq > self.committed.seq) {
            // The client comes from an edge that is ahead of this one.
            self.read_on().await;
        }
        if last_seq.is_some_and(|last_seq| last_seq < self.kept_from) {
            self.load_earlier_bids().await;
        }
        self.send_update().await;
        let Client { session, person, queue, membership } = client;
        let again = self.members.contains(session);
        if !again && self.members.len() >= self.context.max_members {
            drop(membership);
            return queue.send(&Outgoing::error(&Code::RoomFull.into(), reply_to));
        }
        if !again && self.people.arrive(person.user_id, &person.username) {
            self.announce("user_joined", &person).await;
        }
        self.committed.participant_count = self.count();
        let member = Member { user_id: person.user_id, queue: Arc::clone(&queue) };
        membership.accept();
        self.members.insert(session, member).await;
        let missed = last_seq
            .filter(|last_seq| *last_seq >= self.kept_from)
            .map(|last_seq| self.kept.iter().filter(|bid| bid.seq > last_seq).map(PublicBid::from).collect::<Vec<_>>());
        let joined = Joined {
            live: self.committed.live(Some(person.user_id), self.context.clock.now().0, self.chat.make_contiguous()),
            recovered: missed.is_some(),
            missed_bids: missed,
            your_max_amount: None,
        };
        queue.send(&Outgoing::answer("joined_auction", &joined, reply_to));
    }

    /// Reads earlier bids from the log, for clients that were away for longer than this room is open. Blocks the room
    /// while reading, a few milliseconds per thousand bids; happens at most once per room.
    async fn load_earlier_bids(&mut self) {
        if self.kept_from == 0 || self.kept.len() >= MAX_KEPT_BIDS || Instant::now() < self.load_earlier_at {
            return;
        }
        let records = async { self.context.log.records(self.auction_id, 0).await?.collect().await };
        let reading = tokio::time::timeout(LOAD_EARLIER_WITHIN, records);
        let failure = match reading.await {
            Ok(Ok(records)) => return self.keep_bids(records.into_iter().flat_map(|logged| logged.record.bids)),
            Ok(Err(error)) => errors::chain(&error).to_string(),
            Err(error) => errors::chain(&error).to_string(),
        };
        tracing::warn!(auction_id = %self.auction_id, error = failure, "failed to read earlier bids");
        self.load_earlier_at = Instant::now() + LOAD_EARLIER_AGAIN;
    }

    fn keep_bids(&mut self, bids: impl Iterator<Item = Bid>) {
        let mut known: VecDeque<Bid> = bids.filter(|bid| bid.seq <= self.committed.seq).collect();
        self.kept_from = 0;
        while known.len() > MAX_KEPT_BIDS {
            self.kept_from = known.pop_front().map_or(0, |bid| bid.seq);
        }
        self.kept = known;
    }

    /// Removes a member.
    pub async fn leave(&mut self, session: SessionId) {
        if let Some(member) = self.members.remove(session).await {
            self.people.depart(member.user_id, Instant::now());
        }
    }

    /// When [`OpenRoom::announce_departures`] is due.
    pub fn next_departure(&self) -> Option<Instant> {
        self.people.next_leave()
    }

    /// Announces the people that left and did not come back.
    pub async fn announce_departures(&mut self) {
        for (user_id, username) in self.people.gone(Instant::now()) {
            self.announce("user_left", &Person { user_id, username }).await;
        }
        self.committed.participant_count = self.count();
    }

    /// The number of people on all edges.
    fn count(&mut self) -> u64 {
        self.people.count() + self.others.sum(self.context.clock.now().0)
    }

    /// Announces a person by name, in small rooms only: N people that join would otherwise be N²/2 messages.
    async fn announce(&mut self, event: &'static str, person: &Person) {
        let participant_count = self.count();
        if participant_count > MAX_NAMED_PEOPLE {
            return;
        }
        let (auction_id, user_id, username) = (self.auction_id, person.user_id, person.username.as_str());
        self.send_all(Event::new(event, PersonMoved { auction_id, user_id, username, participant_count })).await;
        self.last_sent_people = participant_count;
    }

    /// Takes the count of another edge.
    pub fn on_count(&mut self, payload: &[u8]) {
        match serde_json::from_slice::<EdgeCount>(payload) {
            Ok(count) if count.edge == self.context.edge => {}
            Ok(count) => self.others.observe(count, self.context.clock.now().0),
            Err(error) => {
                let auction_id = self.auction_id;
                tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to parse a presence count");
            }
        }
    }

    /// Once a second: publishes the count of this edge to the others, and broadcasts the sum if it has changed.
    pub async fn heartbeat(&mut self) {
        let own = self.people.count();
        if own > 0 || self.last_sent_count > 0 {
            let count = EdgeCount { edge: self.context.edge.clone(), participant_count: own };
            let payload = serde_json::to_vec(&count).unwrap_or_default();
            match self.context.bus.client.publish(subject::presence(self.auction_id), payload.into()).await {
                Ok(()) => self.last_sent_count = own,
                Err(error) => tracing::debug!(error = %errors::chain(&error), "failed to publish a presence count"),
            }
        }
        let participant_count = self.count();
        self.committed.participant_count = participant_count;
        if participant_count != self.last_sent_people {
            self.last_sent_people = participant_count;
            let event =
                Event::new("presence_update", PresenceUpdate { auction_id: self.auction_id, participant_count });
            self.send_latest(Update::Presence(self.auction_id), event).await;
        }
    }
}
