//! Values that many readers ask for, one an auction: asked for once, then kept current by the messages that the server
//! republishes.
//!
//! A value is shown while it is certain to be current, as far as messages arrive: no message was missed before the
//! newest one, the connection is the same, and the value is at most some seconds old. This age bounds what no
//! message announces: a last message that was lost, and the number of people who watch. It also bounds how long a
//! forged message is believed; one that does not continue the value, or cannot be undone, only causes the value to
//! be asked for again. A cache with a lifetime alone would show a bidder the state from before their bid; the server
//! sends a record to its followers before it confirms the append, and so before the bidder has the answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::AuctionId;
use protocol::{Code, Failure};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Time for which a failure is the answer for readers that come after it. Without it each of the readers that have
/// waited for the failed request would send another one.
const FAILURE_FRESH_FOR: Duration = Duration::from_millis(250);
/// Requests for one value, while messages show that the last one was answered with an older value.
const ATTEMPTS: usize = 3;
/// Requests at once, for all auctions.
const MAX_ASKS: usize = 64;

/// A value, and the stream sequence up to which it contains the auction's messages.
#[derive(Debug)]
pub struct At<T> {
    pub stream_seq: u64,
    pub value: Arc<T>,
}

struct Answer<T> {
    result: Result<At<T>, Failure>,
    asked_at: Instant,
    answered_at: Instant,
    /// The connection over which messages have arrived since.
    connection: Option<u64>,
}

struct Known<T> {
    /// The stream sequence of the newest message that was received.
    heard: u64,
    answer: Option<Answer<T>>,
}

struct Slot<T> {
    known: Mutex<Known<T>>,
    /// Held by the reader that asks. The others wait for its answer.
    asking: tokio::sync::Mutex<()>,
}

impl<T> Slot<T> {
    /// The answer, if it is current and at most this old, or was asked for since `waiting_since`.
    fn current(
        &self,
        max_age: Duration,
        waiting_since: Option<Instant>,
        connection: Option<u64>,
    ) -> Option<Result<Arc<T>, Failure>> {
        let known = lock(&self.known);
        let answer = known.answer.as_ref()?;
        let is_own = waiting_since.is_some_and(|since| answer.asked_at >= since);
        match &answer.result {
            Ok(at) => {
                let is_followed = connection.is_some() && connection == answer.connection;
                let is_fresh = is_own || answer.asked_at.elapsed() < max_age;
                (is_followed && is_fresh).then(|| Ok(Arc::clone(&at.value)))
            }
            Err(failure) => (is_own || answer.answered_at.elapsed() < FAILURE_FRESH_FOR).then(|| Err(failure.clone())),
        }
    }
}

/// The values that were asked for lately.
pub struct Followed<T> {
    slots: Mutex<HashMap<AuctionId, Arc<Slot<T>>>>,
    asks: Semaphore,
    max_values: usize,
    max_age: Duration,
}

impl<T> Followed<T> {
    /// Keeps at most `max_values`, each for `max_age` after it was asked for.
    pub fn new(max_values: usize, max_age: Duration) -> Self {
        Self { slots: Mutex::default(), asks: Semaphore::new(MAX_ASKS), max_values, max_age }
    }

    /// The value, if it is current and at most this old.
    pub fn current(
        &self,
        auction_id: AuctionId,
        max_age: Duration,
        connection: Option<u64>,
    ) -> Option<Result<Arc<T>, Failure>> {
        let slot = self.lock().get(&auction_id).map(Arc::clone)?;
        slot.current(max_age, None, connection)
    }

    /// The value: the current one if it is at most this old, or the answer to `ask`, which one reader sends for all who
    /// wait. `connection` is the number of the connection over which messages arrive now.
    ///
    /// # Errors
    /// The failure that `ask` returned.
    pub async fn get<A>(
        &self,
        auction_id: AuctionId,
        max_age: Duration,
        connection: impl Fn() -> Option<u64>,
        ask: impl Fn() -> A,
    ) -> Result<Arc<T>, Failure>
    where
        A: Future<Output = Result<At<T>, Failure>>,
    {
        let slot = self.slot(auction_id, connection());
        // An answer that takes longer than it stays fresh still serves all who have waited for it.
        let waiting_since = Instant::now();
        let _asking = slot.asking.lock().await;
        if let Some(current) = slot.current(max_age, Some(waiting_since), connection()) {
            return current;
        }
        // The semaphore is never closed.
        let _ask = self.asks.acquire().await.map_err(|_| Failure::from(Code::Unavailable))?;
        let mut attempts = 1;
        loop {
            let (asked_at, connection) = (Instant::now(), connection());
            let result = ask().await;
            let shown = result.as_ref().map(|at| Arc::clone(&at.value)).map_err(Clone::clone);
            let mut known = lock(&slot.known);
            let answered_up_to = result.as_ref().map_or(0, |at| at.stream_seq);
            if attempts == ATTEMPTS && result.is_ok() {
                // Messages of which the source does not know by now are not stored: they were forged.
                known.heard = answered_up_to;
            }
            let is_older = result.is_ok() && answered_up_to < known.heard;
            if !is_older {
                known.answer = Some(Answer { result, asked_at, answered_at: Instant::now(), connection });
            }
            drop(known);
            if !is_older || attempts == ATTEMPTS {
                return shown;
            }
            attempts += 1;
        }
    }

    /// Takes a message of an auction: `apply` makes the value that contains it, or None if the value must be asked for
    /// again. `previous` is the stream sequence of the auction's message before it.
    pub fn observe(
        &self,
        auction_id: AuctionId,
        stream_seq: u64,
        previous: Option<u64>,
        apply: impl FnOnce(&T) -> Option<T>,
    ) {
        let Some(slot) = self.lock().get(&auction_id).map(Arc::clone) else { return };
        let mut known = lock(&slot.known);
        known.heard = known.heard.max(stream_seq);
        match known.answer.as_mut().map(|answer| &mut answer.result) {
            Some(Ok(at)) if at.stream_seq >= stream_seq => {}
            Some(Ok(at)) if previous == Some(at.stream_seq) => match apply(&at.value) {
                Some(value) => *at = At { stream_seq, value: Arc::new(value) },
                None => known.answer = None,
            },
            _ => known.answer = None,
        }
    }

    /// Forgets everything: the messages are those of another stream, and their sequences begin again.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Takes a value that another request has returned, if it is newer.
    pub fn learn(&self, auction_id: AuctionId, learned: At<T>) {
        let Some(slot) = self.lock().get(&auction_id).map(Arc::clone) else { return };
        let mut known = lock(&slot.known);
        known.heard = known.heard.max(learned.stream_seq);
        match known.answer.as_mut().map(|answer| &mut answer.result) {
            Some(Ok(at)) if at.stream_seq < learned.stream_seq => *at = learned,
            Some(Ok(_)) | None => {}
            Some(Err(_)) => known.answer = None,
        }
    }

    /// Whether a value of this auction is kept.
    pub fn is_kept(&self, auction_id: AuctionId) -> bool {
        let slot = self.lock().get(&auction_id).map(Arc::clone);
        slot.is_some_and(|slot| matches!(lock(&slot.known).answer, Some(Answer { result: Ok(_), .. })))
    }

    /// The slot of an auction. When all are taken and current, one that is not shared: then each reader asks.
    fn slot(&self, auction_id: AuctionId, connection: Option<u64>) -> Arc<Slot<T>> {
        let mut slots = self.lock();
        if let Some(slot) = slots.get(&auction_id) {
            return Arc::clone(slot);
        }
        if slots.len() >= self.max_values {
            slots.retain(|_, slot| {
                Arc::strong_count(slot) > 1 || slot.current(self.max_age, None, connection).is_some()
            });
        }
        let known = Mutex::new(Known { heard: 0, answer: None });
        let slot = Arc::new(Slot { known, asking: tokio::sync::Mutex::new(()) });
        if slots.len() < self.max_values {
            slots.insert(auction_id, Arc::clone(&slot));
        }
        slot
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AuctionId, Arc<Slot<T>>>> {
        lock(&self.slots)
    }
}

/// A poisoned lock is still used: each change is one assignment, so no panic leaves it half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const FRESH_FOR: Duration = Duration::from_secs(2);

    fn id(number: usize) -> AuctionId {
        AuctionId::from_uuid(uuid::Uuid::from_u128(number as u128))
    }

    /// The source of the values: answers after 10 ms with the sum that it had when it was asked.
    #[derive(Default)]
    struct Source {
        asked: AtomicUsize,
        sum: AtomicUsize,
        fails: bool,
    }

    impl Source {
        async fn ask(&self) -> Result<At<usize>, Failure> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let sum = self.sum.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
            if self.fails {
                Err(Code::Unavailable.into())
            } else {
                Ok(At { stream_seq: sum as u64, value: sum.into() })
            }
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }

        async fn read(&self, followed: &Followed<usize>, number: usize, connection: u64) -> Result<usize, Code> {
            let read = followed.get(id(number), FRESH_FOR, || Some(connection), || self.ask()).await;
            read.map(|sum| *sum).map_err(|failure| failure.code)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn readers_share_one_request_and_messages_keep_its_answer_current() {
        let (followed, source) = (Followed::new(8, FRESH_FOR), Source::default());
        source.sum.store(5, Ordering::Relaxed);
        let reads = (0..100).map(|_| source.read(&followed, 1, 1));
        assert!(futures_util::future::join_all(reads).await.iter().all(|read| *read == Ok(5)));
        assert_eq!(source.asked(), 1);

        followed.observe(id(1), 6, Some(5), |sum| Some(sum + 1));
        assert_eq!(source.read(&followed, 1, 1).await, Ok(6));
        followed.observe(id(1), 6, Some(5), |_| None);
        assert_eq!((source.read(&followed, 1, 1).await, source.asked()), (Ok(6), 1), "an old message changes nothing");

        source.sum.store(9, Ordering::Relaxed);
        followed.observe(id(1), 9, Some(8), |sum| Some(sum + 1));
        assert_eq!((source.read(&followed, 1, 1).await, source.asked()), (Ok(9), 2), "a message was missed");
        assert_eq!((source.read(&followed, 1, 2).await, source.asked()), (Ok(9), 3), "another connection");
        tokio::time::advance(FRESH_FOR).await;
        assert_eq!((source.read(&followed, 1, 2).await, source.asked()), (Ok(9), 4), "it was too old");
        followed.learn(id(1), At { stream_seq: 12, value: 12.into() });
        assert_eq!((source.read(&followed, 1, 2).await, source.asked()), (Ok(12), 4));
    }

    #[tokio::test(start_paused = true)]
    async fn answer_from_before_a_message_is_not_kept() {
        let (followed, source) = (Followed::new(8, FRESH_FOR), Source::default());
        let reading = source.read(&followed, 1, 1);
        let bidding = async {
            // While the request is under way.
            tokio::time::sleep(Duration::from_millis(5)).await;
            source.sum.store(7, Ordering::Relaxed);
            followed.observe(id(1), 7, Some(0), |_| unreachable!("there is no value yet"));
        };
        assert_eq!(tokio::join!(reading, bidding).0, Ok(7));
        assert_eq!(source.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn message_that_was_never_stored_costs_three_requests_once() {
        let (followed, source) = (Followed::new(8, FRESH_FOR), Source::default());
        source.sum.store(5, Ordering::Relaxed);
        assert_eq!(source.read(&followed, 1, 1).await, Ok(5));
        followed.observe(id(1), u64::MAX, Some(u64::MAX - 1), |_| unreachable!("it does not continue the value"));
        assert_eq!((source.read(&followed, 1, 1).await, source.asked()), (Ok(5), 4));
        assert_eq!((source.read(&followed, 1, 1).await, source.asked()), (Ok(5), 4), "the answer is kept again");
        followed.observe(id(1), 6, Some(5), |sum| Some(sum + 1));
        assert_eq!((source.read(&followed, 1, 1).await, source.asked()), (Ok(6), 4));
    }

    #[tokio::test(start_paused = true)]
    async fn failure_is_shared_for_a_moment() {
        let (followed, source) = (Followed::new(8, FRESH_FOR), Source { fails: true, ..Source::default() });
        let reads = (0..100).map(|_| source.read(&followed, 1, 1));
        assert!(futures_util::future::join_all(reads).await.iter().all(|read| *read == Err(Code::Unavailable)));
        assert_eq!(source.asked(), 1);
        tokio::time::advance(FAILURE_FRESH_FOR).await;
        assert_eq!((source.read(&followed, 1, 1).await, source.asked()), (Err(Code::Unavailable), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn values_are_bounded() {
        let (followed, source) = (Followed::new(8, FRESH_FOR), Source::default());
        for number in 0..100 {
            assert_eq!(source.read(&followed, number, 1).await, Ok(0));
            assert!(followed.lock().len() <= 8);
        }
        assert_eq!((source.read(&followed, 0, 1).await, source.asked()), (Ok(0), 100), "the first ones are kept");
        tokio::time::advance(FRESH_FOR).await;
        assert_eq!(source.read(&followed, 99, 1).await, Ok(0));
        assert_eq!(followed.lock().len(), 1, "old ones made room");
    }
}
