//! The people in a room, and their number over all edges.

use protocol::frames::{PersonMoved, PresenceUpdate};
use protocol::{EdgeCount, Naming, Person, subject};
use tokio::time::Instant;

use crate::event::Event;
use crate::room::open::OpenRoom;
use crate::transport::send_queue::{Delivery, Update};

/// People up to which joins and departures are announced by name; above it only the count is. CONTRACT.md, Presence.
const MAX_NAMED_PEOPLE: u64 = 50;

impl OpenRoom {
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
    pub(super) fn count(&mut self) -> u64 {
        self.people.count() + self.others.sum(self.context.clock.now().0)
    }

    /// Announces a person by name, in small rooms only: N people that join would otherwise be N²/2 messages.
    pub(super) async fn announce(&mut self, event: &'static str, person: &Person) {
        let participant_count = self.count();
        if participant_count > MAX_NAMED_PEOPLE {
            return;
        }
        let (auction_id, user_id) = (self.auction_id, person.user_id);
        let moved = |naming: Naming| {
            let username = naming.name(user_id, &person.username);
            Event::new(event, PersonMoved { auction_id, user_id, username, participant_count })
        };
        let broadcast = self.broadcast(Delivery::Reliable, moved);
        self.members.send(broadcast).await;
        self.last_sent_people = participant_count;
    }

    /// Takes the count of another edge.
    pub fn on_count(&mut self, payload: &[u8]) {
        match serde_json::from_slice::<EdgeCount>(payload) {
            Ok(count) if count.edge == self.context.edge.to_string() => {}
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
            let count = EdgeCount { edge: self.context.edge.to_string(), participant_count: own };
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
