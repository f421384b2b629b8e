//! The instances of bid-processing in one run, as far as they know its auction.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bid_processing::{ANSWER_WITHIN, Auctioneer, Call, Counters, Shared, Waiting, write_checkpoints};
use domain::AuctionId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::network::{Endpoint, Gate, Outside, lock};

/// Instances of bid-processing in a run.
pub const INSTANCES: usize = 2;
/// Time that a client waits for an answer, as the edge does.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(3);
/// Capacities of the queues that bid-processing gives an auctioneer.
const MAX_WAITING: usize = 4096;
const MAX_RECORDS: usize = 64;

/// Facts in a checkpoint of a run, so that its few hundred facts fill several.
const FACTS_PER_CHECKPOINT: u64 = 16;
/// Interval at which an instance writes the checkpoints that are due.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// One instance: the auctioneer of the auction in it, and the writer of its checkpoints.
struct Instance {
    calls: mpsc::Sender<Waiting>,
    tasks: [JoinHandle<()>; 2],
    gate: Arc<Gate>,
    shared: Arc<Shared<Endpoint>>,
}

/// All instances. A killed one is replaced at once.
pub struct Instances {
    auction_id: AuctionId,
    outside: Arc<Mutex<Outside>>,
    instances: Mutex<Vec<Instance>>,
    rebuilt: Mutex<u64>,
}

impl Instances {
    /// Starts the instances.
    pub fn start(auction_id: AuctionId, outside: Arc<Mutex<Outside>>) -> Arc<Self> {
        let all = Self { auction_id, outside, instances: Mutex::default(), rebuilt: Mutex::default() };
        let started: Vec<_> = (0..INSTANCES).map(|nth| all.start_one(nth)).collect();
        *lock(&all.instances) = started;
        Arc::new(all)
    }

    fn start_one(&self, nth: usize) -> Instance {
        let (calls, waiting) = mpsc::channel(MAX_WAITING);
        let (subscriber, records) = mpsc::channel(MAX_RECORDS);
        let gate = Arc::<Gate>::default();
        lock(&self.outside).subscribers[nth] = Some(subscriber);
        let endpoint = Endpoint { outside: Arc::clone(&self.outside), gate: Arc::clone(&gate) };
        let mut shared = Shared::new(endpoint, Counters::default(), super::log_keys());
        shared.facts_per_checkpoint = FACTS_PER_CHECKPOINT;
        let (auction_id, shared) = (self.auction_id, Arc::new(shared));
        let auctioneer = Auctioneer::new(auction_id, Arc::clone(&shared), waiting, records);
        let writer = Arc::clone(&shared);
        let writing = async move {
            loop {
                sleep(CHECKPOINT_EVERY).await;
                // A failed write is repeated, and a rebuild does without it.
                drop(write_checkpoints(&writer, auction_id).await);
            }
        };
        Instance { calls, tasks: [tokio::spawn(auctioneer.run()), tokio::spawn(writing)], gate, shared }
    }

    /// Kills an instance and starts a new one.
    pub fn replace(&self, nth: usize) {
        let new = self.start_one(nth);
        let old = std::mem::replace(&mut lock(&self.instances)[nth], new);
        old.tasks.iter().for_each(JoinHandle::abort);
        *lock(&self.rebuilt) += old.shared.counters.rebuilt.get();
    }

    /// Freezes an instance for this time.
    pub async fn freeze(&self, nth: usize, time: Duration) {
        let gate = Arc::clone(&lock(&self.instances)[nth].gate);
        gate.freeze(time).await;
    }

    /// Kills all and returns how often the auction was rebuilt in the run.
    pub fn finish(&self) -> u64 {
        (0..INSTANCES).for_each(|nth| self.replace(nth));
        *lock(&self.rebuilt)
    }

    /// Sends a call to the auctioneer of an instance. None if no answer comes.
    pub async fn call<A>(&self, nth: usize, call: impl FnOnce(oneshot::Sender<A>) -> Call) -> Option<A> {
        let (reply, answer) = oneshot::channel();
        let waiting =
            Waiting { call: call(reply), answer_by: Instant::now() + ANSWER_WITHIN, trace: Default::default() };
        let calls = lock(&self.instances)[nth].calls.clone();
        if calls.try_send(waiting).is_err() {
            // The auctioneer was idle and has ended: bid-processing starts another one.
            self.replace(nth);
            return None;
        }
        tokio::time::timeout(CLIENT_TIMEOUT, answer).await.ok().and_then(Result::ok)
    }
}
