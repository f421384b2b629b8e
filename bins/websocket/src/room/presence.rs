//! Who is in a room: coming, coming back, leaving, and how many they are on all edges.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use protocol::frames::{Joined, PersonMoved, PresenceUpdate};
use protocol::{Bid, Code, EdgeCount, Person, PublicBid, subject};
use tokio::time::Instant;

use super::audience::Member;
use super::{MAX_KEPT_BIDS, Open, Room, SessionId, Visit, Visitor};
use crate::mailbox::Update;
use crate::outgoing::{Event, Outgoing, To};

/// For the log to give all of an auction's bids; after a failure it is left alone for a while.
const REMEMBER_WITHIN: Duration = Duration::from_secs(1);
const REMEMBER_AGAIN: Duration = Duration::from_secs(5);
/// People in a room whose members are announced by name; above it only the count is. CONTRACT.md, Presence.
const MAX_NAMED_PEOPLE: u64 = 50;

impl Room {
    pub(super) async fn receive(&mut self, open: &mut Open, visit: Visit) {
        match visit {
            Visit::Join { visitor, last_seq, to } => self.join(open, visitor, last_seq, to).await,
            Visit::Leave { session } => self.leave(session).await,
            Visit::Chat { visitor, message, to } => self.say(open, visitor, message, to),
            Visit::Moderate { visitor, act, to } => self.moderate(open, visitor, act, to),
        }
    }

    async fn join(&mut self, open: &mut Open, visitor: Visitor, last_seq: Option<u64>, to: To) {
        if last_seq.is_some_and(|last_seq| last_seq > open.standing.seq) {
            // They come from an edge that is ahead of this one.
            self.read_on(open).await;
        }
        if last_seq.is_some_and(|last_seq| last_seq < open.kept_from) {
            self.remember(open).await;
        }
        self.send_update(open).await;
        let Visitor { session, person, mailbox } = visitor;
        let again = self.members.contains(session);
        if !again && self.members.len() >= self.shared.max_members {
            return mailbox.push(&Outgoing::error(&Code::RoomFull.into(), to));
        }
        if !again && self.people.arrive(person.user_id, &person.username) {
            self.tell_moved(open, "user_joined", &person).await;
        }
        open.standing.participant_count = self.count();
        let member = Member { user_id: person.user_id, mailbox: Arc::clone(&mailbox) };
        self.members.insert(session, member).await;
        let missed = last_seq
            .filter(|last_seq| *last_seq >= open.kept_from)
            .map(|last_seq| open.kept.iter().filter(|bid| bid.seq > last_seq).map(PublicBid::from).collect::<Vec<_>>());
        let joined = Joined {
            live: open.standing.live(Some(person.user_id), self.shared.clock.now().0, open.chat.make_contiguous()),
            recovered: missed.is_some(),
            missed_bids: missed,
            your_max_amount: None,
        };
        mailbox.push(&Outgoing::answer("joined_auction", &joined, to));
    }

    /// Brings back the newest bids from the log, for those who were away longer than this room is open. The room
    /// stands still meanwhile: once in its life, for some milliseconds a thousand bids.
    async fn remember(&self, open: &mut Open) {
        if open.kept_from == 0 || open.kept.len() >= MAX_KEPT_BIDS || Instant::now() < open.remember_at {
            return;
        }
        let reading = tokio::time::timeout(REMEMBER_WITHIN, self.shared.log.all(self.auction_id));
        let Ok(Ok(records)) = reading.await else {
            tracing::warn!(auction_id = %self.auction_id, "earlier bids cannot be read");
            open.remember_at = Instant::now() + REMEMBER_AGAIN;
            return;
        };
        let bids = records.into_iter().flat_map(|logged| logged.record.bids);
        let mut known: VecDeque<Bid> = bids.filter(|bid| bid.seq <= open.standing.seq).collect();
        open.kept_from = 0;
        while known.len() > MAX_KEPT_BIDS {
            open.kept_from = known.pop_front().map_or(0, |bid| bid.seq);
        }
        open.kept = known;
    }

    async fn leave(&mut self, session: SessionId) {
        if let Some(member) = self.members.remove(session).await {
            self.people.depart(member.user_id, Instant::now());
        }
    }

    /// Those who left and did not come back.
    pub(super) async fn say_goodbye(&mut self, open: &mut Open) {
        for (user_id, username) in self.people.gone(Instant::now()) {
            self.tell_moved(open, "user_left", &Person { user_id, username }).await;
        }
        open.standing.participant_count = self.count();
    }

    /// People on all edges.
    fn count(&mut self) -> u64 {
        self.people.count() + self.others.sum(self.shared.clock.now().0)
    }

    /// Names are told in small rooms only: N people who come would otherwise be N²/2 messages.
    async fn tell_moved(&mut self, open: &mut Open, event: &'static str, person: &Person) {
        let participant_count = self.count();
        if participant_count > MAX_NAMED_PEOPLE {
            return;
        }
        let (auction_id, user_id, username) = (self.auction_id, person.user_id, person.username.as_str());
        self.tell_all(Event::new(event, PersonMoved { auction_id, user_id, username, participant_count })).await;
        open.told_people = participant_count;
    }

    pub(super) fn hear_count(&mut self, payload: &[u8]) {
        match serde_json::from_slice::<EdgeCount>(payload) {
            Ok(count) if count.edge == self.shared.edge => {}
            Ok(count) => self.others.hear(count, self.shared.clock.now().0),
            Err(error) => tracing::warn!(%error, "a count cannot be read"),
        }
    }

    /// Once a second: other edges are told who is here, and the people here how many they are.
    pub(super) async fn beat(&mut self, open: &mut Open) {
        let own = self.people.count();
        if own > 0 || open.announced > 0 {
            let count = EdgeCount { edge: self.shared.edge.clone(), participant_count: own };
            let payload = serde_json::to_vec(&count).unwrap_or_default();
            match self.shared.bus.client.publish(subject::presence(self.auction_id), payload.into()).await {
                Ok(()) => open.announced = own,
                Err(error) => tracing::debug!(%error, "a count could not be sent"),
            }
        }
        let participant_count = self.count();
        open.standing.participant_count = participant_count;
        if participant_count != open.told_people {
            open.told_people = participant_count;
            let event =
                Event::new("presence_update", PresenceUpdate { auction_id: self.auction_id, participant_count });
            self.update_all(Update::Presence(self.auction_id), event).await;
        }
    }
}
