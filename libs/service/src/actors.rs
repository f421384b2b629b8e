//! One task for each key that is in use, each with a bounded queue: an auction's decisions, an auction's room.
//!
//! A task is started by the first message for its key and ends by itself, usually after being idle. A message that
//! meets the closed queue of a task that has just ended starts the next one.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::mpsc::{self, error::TrySendError};

/// The tasks that run now, by key. `H` is what callers need of a task besides its queue.
pub struct Actors<K, M, H = ()> {
    running: Arc<Mutex<Running<K, M, H>>>,
    max_running: usize,
    max_queued: usize,
    gauge: Gauge,
}

struct Running<K, M, H> {
    actors: HashMap<K, Actor<M, H>>,
    /// Tasks among them that take a place.
    placed: usize,
}

struct Actor<M, H> {
    queue: mpsc::Sender<M>,
    handle: H,
    place: Place,
}

/// Whether a new task takes one of the `max_running` places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It does, and is rejected when all are taken.
    Needed,
    /// It does not: its key belongs to a set that something else bounds. It never competes for a place.
    Given,
}

/// Why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// Every place is taken.
    TooManyActors,
    /// The task's queue is full.
    QueueFull,
    /// A new task gave up its queue at once.
    NotStarted,
}

impl<K, M, H> Clone for Actors<K, M, H> {
    fn clone(&self) -> Self {
        Self {
            running: Arc::clone(&self.running),
            max_running: self.max_running,
            max_queued: self.max_queued,
            gauge: self.gauge.clone(),
        }
    }
}

impl<K, M, H> Actors<K, M, H>
where
    K: Copy + Eq + Hash + Send + 'static,
    M: Send + 'static,
    H: Send + 'static,
{
    /// Places for `max_running` tasks, each with at most `max_queued` messages waiting.
    #[must_use]
    pub fn new(max_running: usize, max_queued: usize) -> Self {
        let running = Running { actors: HashMap::new(), placed: 0 };
        Self { running: Arc::new(Mutex::new(running)), max_running, max_queued, gauge: Gauge::default() }
    }

    /// The number of running tasks, for a registry.
    #[must_use]
    pub fn gauge(&self) -> Gauge {
        self.gauge.clone()
    }

    /// Queues a message for the task of `key`. `start` makes the task, and its handle, where none runs; the task takes
    /// a place.
    ///
    /// # Errors
    /// When there is no place for the task or the message.
    pub fn send<F>(&self, key: K, message: M, start: impl FnOnce(mpsc::Receiver<M>) -> (H, F)) -> Result<(), Rejected>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.send_to(key, Place::Needed, message, start)
    }

    /// As [`Self::send`], and says whether a new task takes a place.
    ///
    /// # Errors
    /// When there is no place for the task or the message.
    pub fn send_to<F>(
        &self,
        key: K,
        place: Place,
        mut message: M,
        start: impl FnOnce(mpsc::Receiver<M>) -> (H, F),
    ) -> Result<(), Rejected>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut running = self.lock();
        if let Some(actor) = running.actors.get(&key) {
            match actor.queue.try_send(message) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(_)) => return Err(Rejected::QueueFull),
                // The task has ended; another one takes its place.
                Err(TrySendError::Closed(unsent)) => message = unsent,
            }
            running.remove(&key);
        }
        if place == Place::Needed {
            if running.placed >= self.max_running {
                return Err(Rejected::TooManyActors);
            }
            running.placed += 1;
        }
        let actor = self.start(key, place, start);
        let sent = actor.queue.try_send(message).map_err(|_| Rejected::NotStarted);
        running.actors.insert(key, actor);
        sent
    }

    /// The queue of the task of `key`, if it runs.
    #[must_use]
    pub fn queue(&self, key: K) -> Option<mpsc::Sender<M>> {
        self.lock().actors.get(&key).map(|actor| actor.queue.clone())
    }

    /// For a task that wants to end: closes its queue if no message is in it, so that later ones start the next task.
    /// False: a message was queued, and the task must go on.
    #[must_use]
    pub fn close_if_empty(&self, messages: &mut mpsc::Receiver<M>) -> bool {
        // Messages are queued under this lock, so that none comes between the check and the close.
        let _running = self.lock();
        let is_empty = messages.is_empty();
        if is_empty {
            messages.close();
        }
        is_empty
    }

    /// Looks at the handle of the task of `key`, if it runs.
    pub fn with_handle<R>(&self, key: K, look: impl FnOnce(&H) -> R) -> Option<R> {
        self.lock().actors.get(&key).map(|actor| look(&actor.handle))
    }

    fn start<F>(&self, key: K, place: Place, start: impl FnOnce(mpsc::Receiver<M>) -> (H, F)) -> Actor<M, H>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (queue, messages) = mpsc::channel(self.max_queued);
        let (handle, task) = start(messages);
        let (actors, own) = (self.clone(), queue.downgrade());
        self.gauge.inc();
        tokio::spawn(async move {
            task.await;
            actors.gauge.dec();
            let mut running = actors.lock();
            // A successor may have taken the place already. An own queue in the map is one that can be upgraded.
            let is_own = |actor: &Actor<M, H>| own.upgrade().is_some_and(|own| own.same_channel(&actor.queue));
            if running.actors.get(&key).is_some_and(is_own) {
                running.remove(&key);
            }
        });
        Actor { queue, handle, place }
    }

    /// A poisoned lock is still used: a panic leaves at most one place taken that is free.
    fn lock(&self) -> MutexGuard<'_, Running<K, M, H>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, M, H> Running<K, M, H> {
    fn remove(&mut self, key: &K) {
        if self.actors.remove(key).is_some_and(|actor| actor.place == Place::Needed) {
            self.placed -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Notify;

    type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Adds up the numbers it receives. Ends at 0, or when every sender is gone.
    fn adder(sum: &Arc<Mutex<u32>>) -> impl Fn(mpsc::Receiver<u32>) -> ((), Task) {
        let sum = Arc::clone(sum);
        move |mut messages| {
            let sum = Arc::clone(&sum);
            let task = async move {
                while let Some(number) = messages.recv().await {
                    *sum.lock().expect("sum") += number;
                    if number == 0 {
                        return;
                    }
                }
            };
            ((), Box::pin(task))
        }
    }

    #[tokio::test]
    async fn ended_actor_is_replaced_and_leaves_no_entry() {
        let (actors, sum) = (Actors::<u8, u32>::new(8, 8), Arc::new(Mutex::new(0)));
        assert_eq!(actors.send(1, 5, adder(&sum)), Ok(()));
        assert_eq!(actors.send(1, 0, adder(&sum)), Ok(()));
        while actors.queue(1).is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(actors.gauge().get(), 0);
        assert_eq!(actors.send(1, 6, adder(&sum)), Ok(()));
        assert_eq!(actors.send(1, 0, adder(&sum)), Ok(()));
        while actors.queue(1).is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(*sum.lock().expect("sum"), 11);
    }

    /// Keeps its queue and takes nothing from it.
    fn idle(messages: mpsc::Receiver<u32>) -> (u8, Task) {
        let task = async move {
            std::future::pending::<()>().await;
            drop(messages);
        };
        (7, Box::pin(task))
    }

    #[tokio::test]
    async fn actors_and_their_queues_are_bounded() {
        let actors = Actors::<u8, u32, u8>::new(1, 1);
        assert_eq!(actors.send(1, 1, idle), Ok(()));
        assert_eq!(actors.with_handle(1, |handle| *handle), Some(7));
        assert_eq!(actors.send(1, 2, idle), Err(Rejected::QueueFull));
        assert_eq!(actors.send(2, 1, idle), Err(Rejected::TooManyActors));
    }

    #[tokio::test]
    async fn task_with_a_place_of_its_own_starts_whatever_else_runs() {
        let (actors, sum) = (Actors::<u8, u32>::new(1, 8), Arc::new(Mutex::new(0)));
        assert_eq!(actors.send(1, 1, adder(&sum)), Ok(()));
        assert_eq!(actors.send_to(2, Place::Given, 1, adder(&sum)), Ok(()));
        assert_eq!(actors.send_to(3, Place::Given, 1, adder(&sum)), Ok(()));
        assert_eq!(actors.send(4, 1, adder(&sum)), Err(Rejected::TooManyActors), "the one place is taken");
        assert_eq!(actors.send_to(2, Place::Needed, 0, adder(&sum)), Ok(()), "it runs already");
        while actors.queue(2).is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(actors.send(4, 1, adder(&sum)), Err(Rejected::TooManyActors), "the end of another frees no place");
        assert_eq!(actors.send(1, 0, adder(&sum)), Ok(()));
        while actors.queue(1).is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(actors.send(4, 1, adder(&sum)), Ok(()));
    }

    #[tokio::test]
    async fn queue_with_a_message_is_not_closed() {
        let (actors, own) = (Actors::<u8, u32>::new(1, 2), Arc::new(Mutex::new(None)));
        let keep = Arc::clone(&own);
        let start = move |messages| {
            *keep.lock().expect("own") = Some(messages);
            ((), std::future::pending())
        };
        assert_eq!(actors.send(1, 7, start), Ok(()));
        let mut messages = own.lock().expect("own").take().expect("a queue");
        assert!(!actors.close_if_empty(&mut messages));
        assert_eq!(messages.try_recv(), Ok(7));
        assert!(actors.close_if_empty(&mut messages));
        assert_eq!(actors.send(1, 8, |_| ((), std::future::pending())), Err(Rejected::NotStarted), "the next task");
    }

    #[tokio::test]
    async fn end_of_a_task_leaves_its_successor_running() {
        let (actors, closed, end) =
            (Actors::<u8, u32, u8>::new(1, 1), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (is_closed, may_end) = (Arc::clone(&closed), Arc::clone(&end));
        let closing = move |mut messages: mpsc::Receiver<u32>| -> (u8, Task) {
            let task = async move {
                messages.close();
                is_closed.notify_one();
                may_end.notified().await;
            };
            (1, Box::pin(task))
        };
        assert_eq!(actors.send(1, 1, closing), Ok(()));
        closed.notified().await;
        assert_eq!(actors.send(1, 2, idle), Ok(()), "a successor");
        assert_eq!(actors.gauge().get(), 2);
        end.notify_one();
        while actors.gauge().get() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(actors.with_handle(1, |handle| *handle), Some(7), "the successor is still known");
    }

    #[tokio::test]
    async fn task_that_drops_its_queue_is_started_once() {
        let actors = Actors::<u8, u32>::new(1, 1);
        assert_eq!(actors.send(1, 1, |_| ((), async {})), Err(Rejected::NotStarted));
        while actors.queue(1).is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(actors.gauge().get(), 0);
    }
}
