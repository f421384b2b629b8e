//! What all connections of this edge share, and their end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use admission::{Allowance, Limits, Rate};
use bus::{BackgroundSender, Bus};
use domain::{BidId, BidRequest};
use hotstate::Clock;
use identity::Verifier;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use protocol::frames::close;
use protocol::{Person, PlaceBid, RefusedBid, UserSeen};
use service::Stop;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::mailbox::Mailbox;
use crate::outgoing::Door;
use crate::rooms::Rooms;

/// For connections to finish their bids, tell their clients and close when stopping.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);

pub struct Parts {
    pub rooms: Rooms,
    pub bus: Bus,
    pub clock: Clock,
    pub verifier: Verifier,
    pub courier: BackgroundSender<UserSeen>,
    pub origins: Arc<[String]>,
    pub max_connections: usize,
    /// Sockets let in.
    pub accepting: Rate,
    /// Bytes that wait for all connections.
    pub waiting: Gauge,
    /// Sockets closed because they were not read fast enough.
    pub too_slow: Counter,
    pub stop: Stop,
    pub sessions: AtomicU64,
    pub limits: Limits,
    /// Bids that went no further than this edge.
    pub refused: Counter,
}

impl Parts {
    pub fn mailbox(&self, door: Door) -> Mailbox {
        Mailbox::new(door, self.waiting.clone())
    }

    /// Counts those that are closed for being slow.
    pub fn closing(&self, code: u16) {
        if code == close::TOO_SLOW {
            self.too_slow.inc();
        }
    }

    pub fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    /// The refusal of a bid that cannot win, by what the room of its auction has heard; none where no room
    /// is open.
    pub fn hopeless(&self, bid_id: BidId, bid: &PlaceBid, id_is_new: bool) -> Option<RefusedBid> {
        let PlaceBid { auction_id, amount, user: Person { user_id, username }, .. } = bid;
        let request = BidRequest { bid_id, user_id: *user_id, username: username.clone(), amount: *amount };
        let (prices, now) = (&self.rooms.shared.prices, self.clock.now().0);
        let refused = prices.refusal(*auction_id, &request, id_is_new, now, self.bus.connection())?;
        self.refused.inc();
        Some(refused)
    }
}

#[derive(Clone)]
pub struct Edge {
    pub parts: Arc<Parts>,
    connections: TaskTracker,
    places: Arc<Semaphore>,
    accepting: Arc<Mutex<Allowance>>,
    turned_away: Counter,
    connected: Gauge,
}

impl Edge {
    pub fn new(parts: Parts, registry: &mut Registry) -> Self {
        let connected = Gauge::default();
        registry.register(
            "bids_rejected_from_cache",
            "Bids below the committed price, rejected by this edge",
            parts.refused.clone(),
        );
        registry.register("connections", "Open WebSocket and Socket.IO connections", connected.clone());
        registry.register(
            "send_queue_bytes",
            "Bytes queued for clients that have not read them yet",
            parts.waiting.clone(),
        );
        registry.register(
            "slow_connections_closed",
            "Connections closed because the client read too slowly",
            parts.too_slow.clone(),
        );
        let turned_away = Counter::default();
        registry.register(
            "connections_rejected",
            "Connections rejected because the edge was full, over its accept rate, or stopping",
            turned_away.clone(),
        );
        let places = Arc::new(Semaphore::new(parts.max_connections));
        let accepting = Arc::new(Mutex::new(Allowance::new(parts.accepting, Instant::now())));
        Self { parts: Arc::new(parts), connections: TaskTracker::new(), places, accepting, turned_away, connected }
    }

    /// A place for one more connection, if there is one; none once the server is stopping, nor while more come
    /// than can be let in at once.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        let in_time = || self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        let place = place.filter(|_| !self.parts.stop.is_cancelled() && in_time());
        if place.is_none() {
            self.turned_away.inc();
        }
        place
    }

    /// Runs a connection to its end; stopping waits for it.
    pub fn run(&self, place: OwnedSemaphorePermit, connection: impl Future<Output = ()> + Send + 'static) {
        let connected = self.connected.clone();
        connected.inc();
        // Boxed: an async block that captures a future and awaits it has room for it twice.
        let connection = Box::pin(connection);
        self.connections.spawn(async move {
            connection.await;
            connected.dec();
            drop(place);
        });
    }

    /// Waits for the connections, which have heard of the stop themselves.
    pub async fn drain(&self) {
        self.connections.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.connections.wait()).await.is_err() {
            tracing::warn!(left = self.connections.len(), "connections were still open");
        }
    }
}
