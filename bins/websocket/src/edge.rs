//! What all sessions of this edge share, and their end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bus::{Bus, Courier};
use hotstate::Clock;
use identity::Verifier;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use protocol::UserSeen;
use service::Stop;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_tungstenite::WebSocketStream;
use tokio_util::task::TaskTracker;

use crate::rooms::Rooms;
use crate::session::{self, Presented};

/// For sessions to tell their clients and close when stopping.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(4);

pub struct Parts {
    pub rooms: Rooms,
    pub bus: Bus,
    pub clock: Clock,
    pub verifier: Verifier,
    pub courier: Courier<UserSeen>,
    pub origins: Arc<[String]>,
    pub max_connections: usize,
    pub stop: Stop,
}

#[derive(Clone)]
pub struct Edge {
    pub parts: Arc<Parts>,
    sessions: TaskTracker,
    places: Arc<Semaphore>,
    next_session: Arc<AtomicU64>,
    connected: Gauge,
}

impl Edge {
    pub fn new(parts: Parts, registry: &mut Registry) -> Self {
        let connected = Gauge::default();
        registry.register("sessions", "Connected clients", connected.clone());
        let places = Arc::new(Semaphore::new(parts.max_connections));
        Self { parts: Arc::new(parts), sessions: TaskTracker::new(), places, next_session: Arc::default(), connected }
    }

    /// A place for one more session, if there is one.
    pub fn place(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Runs a session once its socket is there.
    pub fn start(
        &self,
        place: tokio::sync::OwnedSemaphorePermit,
        presented: Presented,
        socket: impl Future<Output = Option<WebSocketStream<TcpStream>>> + Send + 'static,
    ) {
        let edge = self.clone();
        let session = self.next_session.fetch_add(1, Ordering::Relaxed);
        self.sessions.spawn(async move {
            if let Some(socket) = socket.await {
                edge.connected.inc();
                session::run(session, socket, presented, Arc::clone(&edge.parts)).await;
                edge.connected.dec();
            }
            drop(place);
        });
    }

    /// Waits for the sessions, which have heard of the stop themselves.
    pub async fn drain(&self) {
        self.sessions.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.sessions.wait()).await.is_err() {
            tracing::warn!(left = self.sessions.len(), "sessions were still open");
        }
    }
}
