//! Background requests with at-least-once delivery; callers do not wait.
//!
//! Each message is tried by itself: one that fails waits and is sent again without holding up the others, and one that
//! the receiver refuses for good is given up.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use protocol::{Code, Reply};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::{Bus, request_for};

/// Messages that are under way. Further ones are dropped: the user's next appearance sends them again.
const MAX_UNDER_WAY: usize = 10_000;
/// Messages that are remembered when they are done. Deduplicates: a user's claims are sent once, not with every bid.
const MAX_REMEMBERED: usize = 50_000;
/// Requests in flight. The receiver has ten connections to PostgreSQL.
const CONCURRENT_REQUESTS: usize = 16;
/// Time limit of one request.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Pause of a message after its first failed request. It doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause of a message between two requests, so that delivery resumes soon after the receiver does, and 10,000
/// waiting messages make a few hundred requests a second.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Age at which a message is given up. An outage is shorter; the user's next appearance sends it again.
const MAX_AGE: Duration = Duration::from_secs(2 * 60 * 60);

/// Queues messages for delivery in the background. Clones share the queue.
pub struct BackgroundSender<M> {
    queue: mpsc::Sender<(Arc<M>, Arc<str>)>,
    known: Arc<Mutex<Known>>,
    counters: Counters,
}

#[derive(Clone, Default)]
struct Counters {
    dropped: Counter,
    refused: Counter,
}

/// Messages that are not sent again. Each is known by a hash with a secret key, because messages are large. If two had the
/// same hash, the second would not be sent: among all that are remembered, that is less likely than one in a billion.
#[derive(Default)]
struct Known {
    key: RandomState,
    under_way: HashSet<u64>,
    done: HashSet<u64>,
}

/// How one request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Confirmed,
    /// The receiver can never take it.
    Refused,
    Failed,
}

impl<M> Clone for BackgroundSender<M> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), known: Arc::clone(&self.known), counters: self.counters.clone() }
    }
}

impl<M: Serialize + Hash + Send + Sync + 'static> BackgroundSender<M> {
    /// The sender, and the task that delivers: each distinct message once, retried until the receiver confirms it.
    /// `confirmed` gets the answers.
    pub fn new<A: DeserializeOwned + Send + 'static>(
        bus: Bus,
        subject: &'static str,
        registry: &mut Registry,
        confirmed: impl Fn(A) + Clone + Send + Sync + 'static,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let counters = Counters::default();
        registry.register(
            "background_requests_dropped",
            "Background requests given up for their age or number",
            counters.dropped.clone(),
        );
        registry.register(
            "background_requests_refused",
            "Background requests that the receiver can never take",
            counters.refused.clone(),
        );
        Self::over(counters, move |message: Arc<M>, token: Arc<str>| {
            let (bus, confirmed) = (bus.clone(), confirmed.clone());
            async move { ask(&bus, subject, &message, &token, confirmed).await }
        })
    }

    fn over<F>(
        counters: Counters,
        ask: impl Fn(Arc<M>, Arc<str>) -> F + Send + Sync + 'static,
    ) -> (Self, impl Future<Output = ()> + Send + 'static)
    where
        F: Future<Output = Sent> + Send + 'static,
    {
        let (queue, mut messages) = mpsc::channel::<(Arc<M>, Arc<str>)>(MAX_UNDER_WAY);
        let sender = Self { queue, known: Arc::default(), counters };
        // Not a sender: its queue would never close.
        let (known, counters) = (Arc::clone(&sender.known), sender.counters.clone());
        let deliver = async move {
            let (places, ask) = (&Semaphore::new(CONCURRENT_REQUESTS), &ask);
            let mut under_way = FuturesUnordered::new();
            loop {
                tokio::select! {
                    message = messages.recv() => match message {
                        Some((message, token)) => under_way.push(async move {
                            let sent = deliver(&message, &token, places, ask).await;
                            (message, sent)
                        }),
                        // Every sender was dropped: the service is stopping.
                        None => std::future::pending::<()>().await,
                    },
                    Some((message, sent)) = under_way.next() => finish(&known, &counters, &*message, sent),
                }
            }
        };
        (sender, deliver)
    }

    /// Queues a message for the person whose token this is, unless it was delivered before or is under way, or drops it
    /// if too many are. Never waits. The receiver verifies the token, so that of a message which waits for longer than
    /// the token lives nothing becomes: the person's next appearance sends another.
    pub fn send(&self, message: M, token: impl Into<Arc<str>>) {
        let mut known = lock(&self.known);
        let hash = known.key.hash_one(&message);
        if known.under_way.contains(&hash) || known.done.contains(&hash) {
            return;
        }
        if known.under_way.len() >= MAX_UNDER_WAY || self.queue.try_send((Arc::new(message), token.into())).is_err() {
            self.counters.dropped.inc();
            tracing::debug!("dropped a background request: too many are under way");
            return;
        }
        known.under_way.insert(hash);
    }
}

fn lock(known: &Mutex<Known>) -> std::sync::MutexGuard<'_, Known> {
    // A poisoned lock is still used: a message that is known too much or too little does no harm.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes how the delivery of a message ended. One that was given up may be sent again.
fn finish<M: Hash>(known: &Mutex<Known>, counters: &Counters, message: &M, sent: Sent) {
    match sent {
        Sent::Confirmed => {}
        Sent::Refused => {
            counters.refused.inc();
        }
        Sent::Failed => {
            counters.dropped.inc();
            tracing::warn!("gave up a background request; the next one of its user repeats it");
        }
    }
    let mut known = lock(known);
    let hash = known.key.hash_one(message);
    known.under_way.remove(&hash);
    if sent != Sent::Failed {
        if known.done.len() >= MAX_REMEMBERED {
            known.done.clear();
        }
        known.done.insert(hash);
    }
}

/// Repeats a request until it is confirmed or refused, or the message is too old.
async fn deliver<M, F>(
    message: &Arc<M>,
    token: &Arc<str>,
    places: &Semaphore,
    ask: impl Fn(Arc<M>, Arc<str>) -> F,
) -> Sent
where
    F: Future<Output = Sent>,
{
    let (started, mut pause) = (Instant::now(), FIRST_PAUSE);
    loop {
        // The semaphore is never closed. A message that pauses holds no place.
        let place = places.acquire().await;
        // Boxed: after many sign-ins at once most messages wait for a place.
        let sent = Box::pin(ask(Arc::clone(message), Arc::clone(token))).await;
        drop(place);
        if sent != Sent::Failed || started.elapsed() >= MAX_AGE {
            return sent;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

async fn ask<M: Serialize, A: DeserializeOwned>(
    bus: &Bus,
    subject: &'static str,
    message: &M,
    token: &str,
    confirmed: impl Fn(A),
) -> Sent {
    match request_for::<M, Reply<A>>(bus, subject, message, token, TIMEOUT).await {
        Ok(Reply::Ok(answer)) => {
            confirmed(answer);
            Sent::Confirmed
        }
        Ok(Reply::Failed(failure)) if failure.code == Code::InvalidRequest => {
            tracing::error!(error = %errors::chain(&failure), subject, "background request refused");
            Sent::Refused
        }
        Ok(Reply::Failed(failure)) => {
            tracing::debug!(error = %errors::chain(&failure), subject, "background request rejected; will retry");
            Sent::Failed
        }
        Err(error) => {
            tracing::debug!(error = %errors::chain(&error), subject, "background request failed; will retry");
            Sent::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Asked = Arc<Mutex<BTreeMap<u32, u32>>>;

    /// A receiver that fails even numbers, refuses 99 and confirms the others; and how often it was asked for each.
    fn receiver() -> (BackgroundSender<u32>, Asked, Counters) {
        let (asked, counters) = (Asked::default(), Counters::default());
        let counted = Arc::clone(&asked);
        let (sender, deliver) = BackgroundSender::over(counters.clone(), move |message: Arc<u32>, _| {
            *counted.lock().unwrap().entry(*message).or_default() += 1;
            async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                match *message {
                    99 => Sent::Refused,
                    even if even % 2 == 0 => Sent::Failed,
                    _ => Sent::Confirmed,
                }
            }
        });
        tokio::spawn(deliver);
        (sender, asked, counters)
    }

    fn times(asked: &Asked, message: u32) -> u32 {
        asked.lock().unwrap().get(&message).copied().unwrap_or_default()
    }

    #[tokio::test(start_paused = true)]
    async fn failing_messages_hold_up_no_others_and_are_given_up() {
        let (sender, asked, counters) = receiver();
        (0..200).map(|number| number * 2).for_each(|even| sender.send(even, ""));
        tokio::time::sleep(Duration::from_secs(60)).await;
        sender.send(1, "");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(times(&asked, 1), 1, "delivered behind 200 messages that fail");
        assert!((6..20).contains(&times(&asked, 2)), "asked {} times in a minute", times(&asked, 2));
        tokio::time::sleep(MAX_AGE + MAX_PAUSE).await;
        assert_eq!(counters.dropped.get(), 200);
        let before = times(&asked, 2);
        tokio::time::sleep(MAX_AGE).await;
        assert_eq!(times(&asked, 2), before, "given up");
        sender.send(2, "");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(times(&asked, 2) > before, "the next appearance sends it again");
    }

    #[tokio::test(start_paused = true)]
    async fn delivered_and_refused_messages_are_sent_once() {
        let (sender, asked, counters) = receiver();
        for _ in 0..3 {
            for message in [1, 1, 99, 99] {
                sender.send(message, "");
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        assert_eq!((times(&asked, 1), times(&asked, 99), counters.refused.get(), counters.dropped.get()), (1, 1, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn messages_under_way_are_bounded() {
        let (sender, _, counters) = receiver();
        for number in 0..20_010 {
            sender.send(number * 2, "");
        }
        assert_eq!(counters.dropped.get(), 10_010);
    }
}
