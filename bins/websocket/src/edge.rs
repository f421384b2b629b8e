//! The connections of this edge: how many there may be, how fast they are accepted, and their end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use admission::{Allowance, Rate};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::context::EdgeContext;
use crate::rooms::Rooms;

/// Time for connections to finish their bids, notify their clients and close when the service stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);

/// A handle to all connections and rooms.
#[derive(Clone)]
pub struct Edge {
    /// State shared by connections and rooms.
    pub context: Arc<EdgeContext>,
    /// The rooms that connections join.
    pub rooms: Arc<Rooms>,
    connections: TaskTracker,
    places: Arc<Semaphore>,
    accepting: Arc<Mutex<Allowance>>,
}

impl Edge {
    /// An edge without connections, for at most `max_connections` of them, accepted at this rate.
    pub fn new(context: EdgeContext, max_connections: usize, accepting: Rate) -> Self {
        let context = Arc::new(context);
        Self {
            rooms: Arc::new(Rooms::new(Arc::clone(&context))),
            context,
            connections: TaskTracker::new(),
            places: Arc::new(Semaphore::new(max_connections)),
            accepting: Arc::new(Mutex::new(Allowance::new(accepting, Instant::now()))),
        }
    }

    /// Reserves a place for one connection. None if the edge is full, over its accept rate, or stopping.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        let within_rate = || self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        let place = place.filter(|_| !self.context.stop.is_cancelled() && within_rate());
        if place.is_none() {
            self.context.metrics.rejected_connections.inc();
        }
        place
    }

    /// Runs a connection to its end. [`Edge::drain`] waits for it.
    pub fn run(&self, place: OwnedSemaphorePermit, connection: impl Future<Output = ()> + Send + 'static) {
        let connected = self.context.metrics.connections.clone();
        connected.inc();
        // Boxed: an async block that captures a future and awaits it has room for it twice.
        let connection = Box::pin(connection);
        self.connections.spawn(async move {
            connection.await;
            connected.dec();
            drop(place);
        });
    }

    /// Waits for all connections to close; each observes the stop signal itself.
    pub async fn drain(&self) {
        self.connections.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.connections.wait()).await.is_err() {
            tracing::warn!(left = self.connections.len(), "connections were still open after the drain timeout");
        }
    }
}
