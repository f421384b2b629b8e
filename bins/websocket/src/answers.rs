//! Bids of this edge's connections that are not answered yet.
//!
//! **The record answers.** A record is republished as soon as it is stored, so it arrives before the answers to its bids,
//! which go through bid-processing: a room gives the bidder the answer that the record contains, and the reply of
//! bid-processing, a tenth of the whole way later, is dropped. Records with several bids, maximums, rejections, and bids on
//! auctions without a room here are answered by the reply.
//!
//! **The answer precedes the broadcast.** A broadcast that began at once would take both cores for milliseconds, and the
//! bidder would see the own bid on the screens of others first. A room therefore holds its update for these answers, and
//! never longer than [`ANSWERS_FIRST_WITHIN`]. Edges without the bidder hold nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use domain::{Amount, AuctionId, BidId, UserId};
use protocol::{AcceptedBid, PlaceBid, Record};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// Longest time for which an update waits for answers. They follow their record within a millisecond, or within two
/// under load; one that is lost delays the room by no more than this.
pub const ANSWERS_FIRST_WITHIN: Duration = Duration::from_millis(5);

/// The bids that wait for an answer, by their id; at most as many as the edge admits in flight.
#[derive(Default)]
pub struct PendingAnswers {
    bids: Mutex<HashMap<BidId, Awaited>>,
}

/// An answer that is under way.
struct Awaited {
    auction_id: AuctionId,
    user_id: UserId,
    /// None if the record does not contain the answer.
    plain: Option<(Amount, oneshot::Sender<AcceptedBid>)>,
    /// The update that waits for the answer.
    held: Option<Arc<Held>>,
}

/// The answer to one bid is under way, until this is dropped.
pub struct PendingAnswer {
    answers: Arc<PendingAnswers>,
    bid_id: BidId,
    in_record: oneshot::Receiver<AcceptedBid>,
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
    pub fn expect(self: &Arc<Self>, bid_id: BidId, bid: &PlaceBid) -> Option<PendingAnswer> {
        let (sender, in_record) = oneshot::channel();
        let plain = bid.amount.filter(|_| bid.max_amount.is_none()).map(|amount| (amount, sender));
        let awaited = Awaited { auction_id: bid.auction_id, user_id: bid.user.user_id, plain, held: None };
        match self.lock().entry(bid_id) {
            Entry::Occupied(_) => None,
            Entry::Vacant(place) => {
                place.insert(awaited);
                Some(PendingAnswer { answers: Arc::clone(self), bid_id, in_record })
            }
        }
    }

    /// Answers the bid of a record that the log has, if the answer is in the record and is awaited. `extensions`: those
    /// of the auction before the record.
    pub fn give(&self, record: &Record, extensions: u32) {
        let Some(accepted) = AcceptedBid::in_record(record, extensions) else { return };
        let mut pending = self.lock();
        let Some(awaited) = pending.get_mut(&accepted.bid_id) else { return };
        // bid-processing refuses a different bid with the same id.
        let bidder = record.bids.first().map(|bid| bid.user_id);
        let is_same = (awaited.auction_id, Some(awaited.user_id)) == (record.auction_id, bidder);
        if !is_same || awaited.plain.as_ref().is_none_or(|(amount, _)| *amount != accepted.amount) {
            return;
        }
        if let Some((_, sender)) = awaited.plain.take() {
            // Fails if the reply was faster.
            drop(sender.send(accepted));
        }
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
                answer.held = Some(Arc::clone(&held));
            }
        }
    }

    /// A poisoned lock is still used: each change of the map is one call.
    fn lock(&self) -> MutexGuard<'_, HashMap<BidId, Awaited>> {
        self.bids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingAnswer {
    /// Returns the answer once a record has it. Never ends if none will.
    pub async fn in_record(&mut self) -> AcceptedBid {
        match (&mut self.in_record).await {
            Ok(accepted) => accepted,
            Err(_) => std::future::pending().await,
        }
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
        let awaited = self.answers.lock().remove(&self.bid_id);
        drop(awaited);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use protocol::{Bid, Person};

    use super::*;

    fn ids(numbers: &[u128]) -> impl Iterator<Item = BidId> {
        numbers.iter().map(|number| BidId::from_uuid(uuid::Uuid::from_u128(*number)))
    }

    /// The record of one bid.
    fn record() -> Record {
        let lines = include_str!("../../../libs/protocol/tests/stored/closed.jsonl").lines();
        let mut records = lines.map(|line| serde_json::from_str(line).unwrap());
        records.find(|record: &Record| record.bids.len() == 1).unwrap()
    }

    /// The request for the bid of this record.
    fn request(record: &Record) -> PlaceBid {
        let Bid { bid_id, user_id, ref username, amount, .. } = record.bids[0];
        let user = Person { user_id, username: username.clone() };
        let auction_id = record.auction_id;
        PlaceBid { auction_id, bid_id: Some(bid_id), amount: Some(amount), max_amount: None, user }
    }

    fn expect(answers: &Arc<PendingAnswers>, number: u128) -> Option<PendingAnswer> {
        answers.expect(BidId::from_uuid(uuid::Uuid::from_u128(number)), &request(&record()))
    }

    #[test]
    fn record_answers_the_bid_that_it_has() {
        let (record, answers) = (record(), Arc::new(PendingAnswers::default()));
        let bid_id = record.bids[0].bid_id;
        let mut pending = answers.expect(bid_id, &request(&record)).unwrap();
        assert_eq!(pending.in_record().now_or_never(), None);
        answers.give(&record, record.state.extension_count);
        let accepted = pending.in_record().now_or_never().unwrap();
        assert_eq!((accepted.bid_id, accepted.seq), (bid_id, record.seq));
        answers.give(&record, record.state.extension_count);
        drop(pending);
        assert!(answers.lock().is_empty());
    }

    #[test]
    fn record_answers_no_other_bid_with_the_same_id() {
        let record = record();
        let changes: [fn(&mut PlaceBid); 5] = [
            |bid| bid.user.user_id = UserId::from_uuid(uuid::Uuid::nil()),
            |bid| bid.auction_id = AuctionId::from_uuid(uuid::Uuid::nil()),
            |bid| bid.amount = Amount::from_cents(1).ok(),
            |bid| bid.amount = None,
            |bid| bid.max_amount = bid.amount,
        ];
        for (nth, change) in changes.iter().enumerate() {
            let (answers, mut other) = (Arc::new(PendingAnswers::default()), request(&record));
            change(&mut other);
            let mut pending = answers.expect(record.bids[0].bid_id, &other).unwrap();
            answers.give(&record, record.state.extension_count);
            assert_eq!(pending.in_record().now_or_never(), None, "change {nth}");
        }
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
