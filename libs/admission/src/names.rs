//! The name under which a person is shown: the one that the table of users has.
//!
//! No bid waits for that table. Each door keeps a copy of its names, which is read in the background and follows it. A
//! person that the copy does not have yet is shown under the first name that the table would give and that the copy
//! does not have: the claimed one, or that with a part of the id. So no person is shown under the name of another
//! who has a row. While the copy is not complete, it is the claimed name with `-` and four characters of the id.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::UserId;
use protocol::input::usernames;
use protocol::{Person, characters};

/// Names in one generation of the copy, some 20 MB. A table with more is not copied whole, and the names of the people
/// seen lately are kept.
const MAX_NAMES: usize = 200_000;

/// The names of people. Every clone shares them.
#[derive(Clone, Default)]
pub struct ShownNames {
    names: Arc<Mutex<Copied>>,
    hasher: RandomState,
}

#[derive(Default)]
struct Copied {
    /// Names of the table.
    newer: HashMap<UserId, Box<str>>,
    /// The generation before, once there were too many.
    older: HashMap<UserId, Box<str>>,
    /// The person who has each name, by the hash of its skeleton. Two names with one hash count as one.
    holders: HashMap<u64, UserId>,
    /// The copy has every name of the table.
    is_complete: bool,
    /// The table has more names than the copy can.
    is_cut: bool,
}

impl ShownNames {
    /// Takes names of the table.
    pub fn learn(&self, people: Vec<Person>) {
        let mut names = self.lock();
        for Person { user_id, username } in people {
            if names.newer.len() >= MAX_NAMES {
                names.older = std::mem::take(&mut names.newer);
                names.holders = HashMap::new();
                names.is_cut = true;
            }
            names.holders.insert(self.hash(&username), user_id);
            names.newer.insert(user_id, username.into());
        }
    }

    /// From now on the copy has every name of the table, or may lack some.
    pub fn set_complete(&self, is_complete: bool) {
        self.lock().is_complete = is_complete;
    }

    /// The person of a token under the name to show.
    #[must_use]
    pub fn of(&self, claimed: &Person) -> Person {
        let names = &mut *self.lock();
        let user_id = claimed.user_id;
        if let Some(name) = names.newer.get(&user_id).or_else(|| names.older.get(&user_id)) {
            return Person { user_id, username: (**name).to_owned() };
        }
        if names.is_complete && !names.is_cut && names.holders.len() < 2 * MAX_NAMES {
            // The first to appear here has it, until the table says otherwise.
            let is_free = |name: &String| *names.holders.entry(self.hash(name)).or_insert(user_id) == user_id;
            if let Some(username) = usernames(&claimed.username, user_id).find(is_free) {
                return Person { user_id, username };
            }
        }
        let username = usernames(&claimed.username, user_id).nth(1);
        Person { user_id, username: username.unwrap_or_else(|| claimed.username.clone()) }
    }

    /// Names that look alike are one name, as in the table.
    fn hash(&self, name: &str) -> u64 {
        self.hasher.hash_one(characters::skeleton(name))
    }

    /// A poisoned lock is still used: a name that is missing is shown as one that is not known yet.
    fn lock(&self) -> MutexGuard<'_, Copied> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(number: u128, username: &str) -> Person {
        Person { user_id: UserId::from_uuid(uuid::Uuid::from_u128(number << 96)), username: username.to_owned() }
    }

    fn shown(names: &ShownNames, number: u128, claimed: &str) -> String {
        names.of(&person(number, claimed)).username
    }

    #[test]
    fn taken_name_is_shown_for_its_holder_alone() {
        let names = ShownNames::default();
        assert_eq!(shown(&names, 0x00a1_0000, "anna"), "anna-00a1", "before the table was read");
        names.learn(vec![person(0x00a1_0000, "anna"), person(0x00b2_0000, "old ben")]);
        assert_eq!(shown(&names, 0x00a1_0000, "anything"), "anna", "the table's name");
        assert_eq!(shown(&names, 0x00c3_0000, "carl"), "carl-00c3", "the rest may have a carl");
        names.set_complete(true);
        assert_eq!(shown(&names, 0x00b2_0000, "ben"), "old ben");
        assert_eq!(shown(&names, 0x00e5_0000, "anna"), "anna-00e5", "taken");
        assert_eq!(shown(&names, 0x00e5_0000, "\u{430}nna"), "\u{430}nna-00e5", "looks like a taken one");
        assert_eq!(shown(&names, 0x00c3_0000, "carl"), "carl", "free");
        assert_eq!(shown(&names, 0x00d4_0000, "carl"), "carl-00d4", "another one has come first");
        names.learn(vec![person(0x00c3_0000, "carl-00c3"), person(0x00d4_0000, "carl")]);
        assert_eq!(
            (shown(&names, 0x00c3_0000, "carl"), shown(&names, 0x00d4_0000, "carl")),
            ("carl-00c3".into(), "carl".into())
        );
        names.learn(vec![person(1, "anna-00a7")]);
        assert_eq!(shown(&names, 0x00a7_0000, "anna"), "anna-00a70000", "the shorter one is taken, too");
        names.set_complete(false);
        assert_eq!(shown(&names, 0x00f6_0000, "flo"), "flo-00f6");
    }

    #[test]
    fn copy_is_bounded_and_keeps_the_newest() {
        let names = ShownNames::default();
        for number in 0..=MAX_NAMES as u128 {
            names.learn(vec![person(number, &number.to_string())]);
        }
        names.set_complete(true);
        assert_eq!(shown(&names, 7, "x"), "7", "of the generation before");
        assert_eq!(shown(&names, MAX_NAMES as u128 + 1, "x"), "x-0003", "a name that is not in the copy may be taken");
        assert!(names.lock().newer.len() <= MAX_NAMES);
    }
}
