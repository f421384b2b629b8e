//! Bids of this edge's connections that are not answered yet. The answer to a bid is written before the broadcast of
//! the bid.
//!
//! A record is republished as soon as it is stored, so it arrives before the answers to its bids, which go through
//! bid-processing. A broadcast that began at once would take both cores for milliseconds, and the bidder would see the
//! own bid on the screens of others first. A room therefore holds its update for these answers, and never longer than
//! [`ANSWERS_FIRST_WITHIN`]. Edges without the bidder hold nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use domain::BidId;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Longest time for which an update waits for answers. They follow their record within a millisecond, or within two
/// under load; one that is lost delays the room by no more than this.
pub const ANSWERS_FIRST_WITHIN: Duration = Duration::from_millis(5);

/// The bids that wait for an answer, at most as many as the edge admits in flight. By their id, with the update that
/// waits for the answer.
#[derive(Default)]
pub struct PendingAnswers {
    bids: Mutex<HashMap<BidId, Option<Arc<Held>>>>,
}

/// The answer to one bid is under way, until this is dropped.
pub struct PendingAnswer {
    answers: Arc<PendingAnswers>,
    bid_id: BidId,
}

/// Shared by the answers that one update waits for. The last one wakes the room.
struct Held(Arc<Notify>);

/// The update that a room holds, if it holds one.
#[derive(Default)]
pub struct HeldUpdate {
    answers: Weak<Held>,
    until: Option<Instant>,
    /// Notified when all answers have been sent.
    pub answered: Arc<Notify>,
}

impl PendingAnswers {
    /// Notes that the answer to a bid is under way. None if a bid with this id is noted already.
    pub fn expect(self: &Arc<Self>, bid_id: BidId) -> Option<PendingAnswer> {
        let mut bids = self.lock();
        if bids.contains_key(&bid_id) {
            return None;
        }
        bids.insert(bid_id, None);
        Some(PendingAnswer { answers: Arc::clone(self), bid_id })
    }

    /// Holds the update of a room for the answers to these bids, as far as they are under way. `due`: when the update
    /// would otherwise be sent. Later bids do not prolong the wait of an update that is due.
    pub fn hold(&self, update: &mut HeldUpdate, bids: impl Iterator<Item = BidId>, due: Instant, now: Instant) {
        // An answer that is late holds no further update.
        let held = update.answers.upgrade().filter(|_| update.until.is_some_and(|until| until > now));
        if held.is_some() && due <= now {
            return;
        }
        let held = held.unwrap_or_else(|| {
            update.until = Some(due.max(now) + ANSWERS_FIRST_WITHIN);
            Arc::new(Held(Arc::clone(&update.answered)))
        });
        update.answers = Arc::downgrade(&held);
        let mut pending = self.lock();
        for bid_id in bids {
            if let Some(answer) = pending.get_mut(&bid_id) {
                *answer = Some(Arc::clone(&held));
            }
        }
    }

    /// A poisoned lock is still used: each change of the map is one call.
    fn lock(&self) -> MutexGuard<'_, HashMap<BidId, Option<Arc<Held>>>> {
        self.bids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldUpdate {
    /// The latest time at which the update is sent. None: no answer is awaited.
    pub fn until(&self) -> Option<Instant> {
        self.until.filter(|_| self.answers.strong_count() > 0)
    }
}

impl Drop for PendingAnswer {
    fn drop(&mut self) {
        let held = self.answers.lock().remove(&self.bid_id);
        drop(held);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[u128]) -> impl Iterator<Item = BidId> {
        numbers.iter().map(|number| BidId::from_uuid(uuid::Uuid::from_u128(*number)))
    }

    fn expect(answers: &Arc<PendingAnswers>, number: u128) -> Option<PendingAnswer> {
        answers.expect(BidId::from_uuid(uuid::Uuid::from_u128(number)))
    }

    #[tokio::test(start_paused = true)]
    async fn update_waits_for_the_last_answer_to_its_bids() {
        let (answers, mut update, now) = (Arc::new(PendingAnswers::default()), HeldUpdate::default(), Instant::now());
        answers.hold(&mut update, ids(&[1, 2]), now, now);
        assert_eq!(update.until(), None, "the bids came through other doors");
        let (first, second, other) = (expect(&answers, 1), expect(&answers, 2), expect(&answers, 3));
        answers.hold(&mut update, ids(&[1, 2]), now, now);
        assert_eq!(update.until(), Some(now + ANSWERS_FIRST_WITHIN));
        drop(first);
        assert!(update.until().is_some(), "one answer is awaited");
        drop(second);
        assert_eq!(update.until(), None);
        update.answered.notified().await;
        drop(other);
        assert!(answers.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn later_bids_do_not_prolong_the_wait_of_an_update_that_is_due() {
        let (answers, mut update, now) = (Arc::new(PendingAnswers::default()), HeldUpdate::default(), Instant::now());
        let due = now + Duration::from_millis(40);
        let (first, second, third) = (expect(&answers, 1), expect(&answers, 2), expect(&answers, 3));
        answers.hold(&mut update, ids(&[1]), due, now);
        answers.hold(&mut update, ids(&[2]), due, due - Duration::from_millis(1));
        answers.hold(&mut update, ids(&[3]), due, due + Duration::from_millis(1));
        assert_eq!(update.until(), Some(due + ANSWERS_FIRST_WITHIN));
        drop(first);
        assert!(update.until().is_some(), "the second bid came before the update was due");
        drop(second);
        assert_eq!(update.until(), None, "the third came after it");
        drop(third);
    }

    #[test]
    fn repeated_bid_is_awaited_once() {
        let answers = Arc::new(PendingAnswers::default());
        let first = expect(&answers, 1);
        assert!(first.is_some() && expect(&answers, 1).is_none());
        drop(first);
        assert!(expect(&answers, 1).is_some());
    }
}
