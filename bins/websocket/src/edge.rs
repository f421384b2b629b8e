//! The connections of this edge, from their entry to their end.

use std::sync::Arc;
use std::time::Duration;

use service::http::ClientAddress;
use tokio_util::task::TaskTracker;

use crate::context::EdgeContext;
use crate::places::{NoPlace, Place, PlaceLimits, Places};
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
    places: Arc<Places>,
}

impl Edge {
    /// An edge without connections, with these limits.
    pub fn new(context: EdgeContext, limits: PlaceLimits) -> Self {
        let context = Arc::new(context);
        Self {
            rooms: Arc::new(Rooms::new(Arc::clone(&context))),
            places: Places::new(limits, context.metrics.places.clone()),
            connections: TaskTracker::new(),
            context,
        }
    }

    /// The place of a new connection, which has not authenticated yet.
    ///
    /// # Errors
    /// When the edge is full or stopping, or the address has too many connections.
    pub fn enter(&self, client: ClientAddress) -> Result<Place, NoPlace> {
        if self.context.stop.is_cancelled() {
            return Err(NoPlace::Edge);
        }
        self.places.enter(client)
    }

    /// Counts a connection for which there was no place.
    pub fn reject(&self, no_place: NoPlace) -> NoPlace {
        self.context.metrics.rejected_connections.inc();
        no_place
    }

    /// Runs a connection to its end. [`Edge::drain`] waits for it.
    pub fn run(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let connected = self.context.metrics.connections.clone();
        connected.inc();
        // Boxed: an async block that captures a future and awaits it has room for it twice.
        let connection = Box::pin(connection);
        self.connections.spawn(async move {
            connection.await;
            connected.dec();
        });
    }

    /// Runs what [`Edge::drain`] waits for and what is no connection of this edge's own.
    pub fn track(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.connections.spawn(task);
    }

    /// The numbers that `nats micro stats` shows about this edge.
    pub fn status(&self) -> serde_json::Value {
        let metrics = &self.context.metrics;
        serde_json::json!({
            "connections": metrics.connections.get(),
            "rooms": self.rooms.count(),
            "send_queue_bytes": metrics.queued_bytes.get(),
            "slow_connections_closed": metrics.slow_connections.get(),
        })
    }

    /// Waits for all connections to close; each observes the stop signal itself.
    pub async fn drain(&self) {
        self.connections.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.connections.wait()).await.is_err() {
            tracing::warn!(left = self.connections.len(), "connections were still open after the drain timeout");
        }
    }
}
