//! The people in a room, however many connections each has. A person without a connection leaves only after a while,
//! because most come straight back over a new one.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use domain::UserId;
use tokio::time::Instant;

/// Time that `user_left` waits for a reconnect. CONTRACT.md, Presence.
const LEAVE_AFTER: Duration = Duration::from_secs(2);

struct Person {
    username: String,
    connections: usize,
    /// When the person counts as gone, if there is no connection.
    gone_at: Option<Instant>,
}

/// The people of a room on this edge.
#[derive(Default)]
pub struct People {
    here: HashMap<UserId, Person>,
    /// Departures in the order of their time. An entry is stale if the person came back.
    leaving: VecDeque<(Instant, UserId)>,
}

impl People {
    /// The number of people, including people who left less than two seconds ago.
    pub fn count(&self) -> u64 {
        u64::try_from(self.here.len()).unwrap_or(u64::MAX)
    }

    /// Whether this person is in the room, or left less than two seconds ago.
    pub fn contains(&self, user_id: UserId) -> bool {
        self.here.contains_key(&user_id)
    }

    /// Adds a connection of this person. True if the person was not in the room.
    pub fn arrive(&mut self, user_id: UserId, username: &str) -> bool {
        let mut is_new = false;
        let person = self.here.entry(user_id).or_insert_with(|| {
            is_new = true;
            Person { username: username.to_owned(), connections: 0, gone_at: None }
        });
        person.connections += 1;
        person.gone_at = None;
        is_new
    }

    /// Removes a connection of this person.
    pub fn depart(&mut self, user_id: UserId, now: Instant) {
        let Some(person) = self.here.get_mut(&user_id) else { return };
        person.connections = person.connections.saturating_sub(1);
        if person.connections == 0 {
            let gone_at = now + LEAVE_AFTER;
            person.gone_at = Some(gone_at);
            self.leaving.push_back((gone_at, user_id));
        }
    }

    /// When the next person may count as gone.
    pub fn next_leave(&self) -> Option<Instant> {
        self.leaving.front().map(|(gone_at, _)| *gone_at)
    }

    /// Removes and returns the people that are gone by now, with their names.
    pub fn gone(&mut self, now: Instant) -> Vec<(UserId, String)> {
        let mut gone = Vec::new();
        while let Some((gone_at, user_id)) = self.leaving.front().copied()
            && gone_at <= now
        {
            self.leaving.pop_front();
            if self.here.get(&user_id).is_some_and(|person| person.gone_at == Some(gone_at))
                && let Some(person) = self.here.remove(&user_id)
            {
                gone.push((user_id, person.username));
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn person_with_two_connections_counts_once_and_leaves_once() {
        let (anna, start) = (UserId::from_uuid(uuid::Uuid::from_u128(1)), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut people = People::default();
        assert!(people.arrive(anna, "anna"));
        assert!(!people.arrive(anna, "anna"));
        assert_eq!(people.count(), 1);
        people.depart(anna, at(0));
        assert_eq!(people.next_leave(), None, "one connection is left");
        people.depart(anna, at(1));
        assert!(people.gone(at(2)).is_empty());
        assert!(!people.arrive(anna, "anna"), "back within two seconds");
        assert!(people.gone(at(4)).is_empty());
        people.depart(anna, at(5));
        assert_eq!(people.gone(at(7)), [(anna, "anna".to_owned())]);
        assert_eq!((people.count(), people.next_leave()), (0, None));
    }
}
