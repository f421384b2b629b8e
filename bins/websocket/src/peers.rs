//! The other edges: where each of them is. An edge answers the question about itself over NATS, so an address comes
//! from an edge that is connected to the same servers, never from a client.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bus::{Bus, Micro, RequestError};
use http::uri::{Authority, Scheme};
use protocol::{EdgeAddress, subject};
use serde::de::IgnoredAny;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::context::EdgeContext;
use crate::near_client::Origin;

/// Time for an edge to answer. An edge that has ended is known as gone at once: its subject has no subscriber.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Questions in flight. A client may invent names of edges, each of which is one question.
const MAX_QUESTIONS: usize = 256;
/// Time for which an answer is used. An edge that has left the address is noticed by its successor, which does not have
/// the session.
const KNOWN_FOR: Duration = Duration::from_secs(30);
/// Edges whose address is remembered. Far more than a fleet has.
const MAX_KNOWN: usize = 1_024;

/// Where the other edges are.
pub struct Peers {
    bus: Bus,
    known: Mutex<HashMap<Uuid, (Origin, Instant)>>,
    questions: Semaphore,
}

/// Why an edge is not found.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// There is no such edge, or it has ended.
    #[error("the edge does not exist")]
    Gone,
    /// Too many questions are in flight.
    #[error("too many edges are asked for at once")]
    Busy,
    /// The edge did not answer.
    #[error("the edge does not answer")]
    Silent(#[source] RequestError),
    /// The answer is no address.
    #[error("the edge has no usable address")]
    Unusable(#[source] http::uri::InvalidUri),
}

impl Peers {
    /// No edges known yet.
    pub fn new(bus: Bus) -> Self {
        Self { bus, known: Mutex::default(), questions: Semaphore::new(MAX_QUESTIONS) }
    }

    /// Where this edge is found.
    ///
    /// # Errors
    /// When it is not, or has not answered in time.
    pub async fn find(&self, edge: Uuid) -> Result<Origin, Lost> {
        let found = self.lock().get(&edge).filter(|(_, since)| since.elapsed() < KNOWN_FOR).cloned();
        if let Some((origin, _)) = found {
            return Ok(origin);
        }
        let _question = self.questions.try_acquire().map_err(|_| Lost::Busy)?;
        let answer = bus::request(&self.bus, subject::edges_locate(&edge.to_string()), &(), ANSWER_WITHIN).await;
        let answer: Option<EdgeAddress> = answer.map_err(|error| match error {
            RequestError::NoResponder => Lost::Gone,
            error @ RequestError::NoAnswer(_) => Lost::Silent(error),
        })?;
        let EdgeAddress { address, tls } = answer.ok_or(Lost::Gone)?;
        let scheme = if tls { Scheme::HTTPS } else { Scheme::HTTP };
        let origin = Origin { scheme, authority: address.parse().map_err(Lost::Unusable)? };
        let mut known = self.lock();
        if known.len() >= MAX_KNOWN {
            known.retain(|_, (_, since)| since.elapsed() < KNOWN_FOR);
        }
        if known.len() < MAX_KNOWN {
            known.insert(edge, (origin.clone(), Instant::now()));
        }
        Ok(origin)
    }

    /// Forgets where this edge is: it could not be reached there.
    pub fn forget(&self, edge: Uuid) {
        self.lock().remove(&edge);
    }

    /// A poisoned lock is still used: each change of the map is one call, so no panic leaves it half changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, (Origin, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers where this edge is, until the service stops.
///
/// # Errors
/// When the subscription cannot be created.
async fn answer(micro: &Micro, edge: Uuid, address: EdgeAddress) -> anyhow::Result<()> {
    let unreadable = |_: &str| None;
    let answer = move |_: IgnoredAny| std::future::ready(Some(address.clone()));
    let serving = micro.serve(subject::edges_locate(&edge.to_string()), unreadable, answer).await;
    serving.map_err(anyhow::Error::from_boxed)
}

/// Answers other edges with the address of this one: `address`, or the one that can be found out; `tls`: its listener has
/// a certificate.
///
/// # Errors
/// When NATS rejects the subscription.
pub async fn serve(
    micro: &Micro,
    context: &EdgeContext,
    address: Option<Authority>,
    listening: SocketAddr,
    tls: bool,
) -> anyhow::Result<()> {
    let address = address.map_or_else(|| own_address(listening, &context.bus), |address| address.to_string());
    tracing::info!(edge = %context.edge, address, tls, "published the address for other edges");
    answer(micro, context.edge, EdgeAddress { address, tls }).await
}

/// The address at which other edges reach this one, if no setting names it: the one it listens on. If it listens on
/// every interface: the one that NATS sees it come from, which in a private network leads back to it.
fn own_address(listener: SocketAddr, bus: &Bus) -> String {
    let seen = if listener.ip().is_unspecified() { bus.own_address() } else { None };
    SocketAddr::new(seen.unwrap_or(listener.ip()), listener.port()).to_string()
}
