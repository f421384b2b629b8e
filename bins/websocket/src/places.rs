//! Places for connections: few and short for those that have not authenticated, the rest for those that have, and what
//! these leave for those that only watch.
//!
//! A connection enters as a stranger. There is a small pool for strangers, in which the oldest gives way to the newest,
//! so that handshakes without a token cannot take an authenticated client's place. With a verified token it takes one
//! of the edge's places, and counts among the connections of its person. Without a token it may watch: it takes a place
//! too, as long as no one with a token needs it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use admission::{Allowance, Rate};
use domain::UserId;
use http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use protocol::Code;
use protocol::Failure;
use service::http::{ClientAddress, try_again};
use service::{Held, Quota};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use warp::reply::Response;

use crate::pace;

/// Connections that have not authenticated. Each has a few kilobytes; with their time limits of three to five seconds
/// this is some thousand handshakes a second before any of them gives way.
const MAX_STRANGERS: usize = 4_096;

/// The limits of one edge.
#[derive(Clone)]
pub struct PlaceLimits {
    /// Authenticated connections.
    pub connections: usize,
    /// Authenticated connections of one person.
    pub per_person: usize,
    /// Connections of one address.
    pub per_address: usize,
    /// Connections that watch without a token, of `connections`.
    pub anonymous: usize,
    /// Connections authenticated in a second, and at once; apart from them as many that only watch.
    pub accepting: Rate,
    /// Frames of one person in a second, over all connections of this edge.
    pub frames_per_person: Rate,
}

/// Why there is no place for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// The edge is full, over its accept rate, or stopping.
    Edge,
    /// The person or the address has too many connections.
    TooMany,
}

/// All places of one edge.
pub struct Places {
    limits: PlaceLimits,
    free: Arc<Semaphore>,
    addresses: Quota<IpAddr>,
    accepting: Mutex<Allowance>,
    accepting_anonymous: Mutex<Allowance>,
    people: Mutex<HashMap<UserId, Person>>,
    strangers: Mutex<Strangers>,
    anonymous: Mutex<BTreeMap<u64, Anonymous>>,
    metrics: PlaceMetrics,
}

/// Counters and gauges of places.
#[derive(Clone, Default)]
pub struct PlaceMetrics {
    /// Strangers that gave way to newer ones.
    pub evicted: Counter,
    /// Connections that watch without a token.
    pub anonymous: Gauge,
    /// Those of them that gave way to people with a token.
    pub evicted_anonymous: Counter,
}

/// A person with at least one connection.
struct Person {
    connections: usize,
    frames: Arc<Mutex<Allowance>>,
}

/// Connections that have not authenticated, the oldest first.
#[derive(Default)]
struct Strangers {
    next: u64,
    connections: BTreeMap<u64, CancellationToken>,
}

/// A connection that watches without a token. By its number, the oldest first.
struct Anonymous {
    permit: OwnedSemaphorePermit,
    evicted: CancellationToken,
}

/// The place of one connection. Dropping it frees the place.
pub struct Place {
    places: Arc<Places>,
    _address: Option<Held<IpAddr>>,
    evicted: CancellationToken,
    state: State,
}

enum State {
    Stranger(u64),
    Anonymous(u64),
    Authenticated { user_id: UserId, _permit: OwnedSemaphorePermit },
}

impl NoPlace {
    /// The failure that is sent to a connected client.
    pub fn failure(self) -> Failure {
        match self {
            Self::Edge => {
                Failure::new(Code::Overloaded, "This server has no place for another connection now; try again")
            }
            Self::TooMany => Failure::new(Code::RateLimited, "Too many connections; close one before opening another"),
        }
    }
}

impl From<NoPlace> for Response {
    fn from(no_place: NoPlace) -> Self {
        let status = match no_place {
            NoPlace::Edge => StatusCode::SERVICE_UNAVAILABLE,
            NoPlace::TooMany => StatusCode::TOO_MANY_REQUESTS,
        };
        let failure = no_place.failure();
        try_again(status, failure.code.name(), &failure.error)
    }
}

impl Places {
    /// No connections yet.
    pub fn new(limits: PlaceLimits, metrics: PlaceMetrics) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(limits.connections)),
            addresses: Quota::new(limits.per_address),
            accepting: Mutex::new(Allowance::new(limits.accepting, Instant::now())),
            accepting_anonymous: Mutex::new(Allowance::new(limits.accepting, Instant::now())),
            people: Mutex::default(),
            strangers: Mutex::default(),
            anonymous: Mutex::default(),
            limits,
            metrics,
        })
    }

    /// The place of a new connection, which has not authenticated. The oldest such connection gives way if there are
    /// too many of them.
    ///
    /// # Errors
    /// When the edge is full, or the address has too many connections.
    pub fn enter(self: &Arc<Self>, client: ClientAddress) -> Result<Place, NoPlace> {
        if self.free.available_permits() == 0 && lock(&self.anonymous).is_empty() {
            return Err(NoPlace::Edge);
        }
        let address = match client.0 {
            Some(address) => Some(self.addresses.take(address).ok_or(NoPlace::TooMany)?),
            None => None,
        };
        let evicted = CancellationToken::new();
        let mut strangers = lock(&self.strangers);
        if strangers.connections.len() >= MAX_STRANGERS.min(self.limits.connections)
            && let Some((_, oldest)) = strangers.connections.pop_first()
        {
            oldest.cancel();
            self.metrics.evicted.inc();
        }
        strangers.next += 1;
        let number = strangers.next;
        strangers.connections.insert(number, evicted.clone());
        drop(strangers);
        let (places, state) = (Arc::clone(self), State::Stranger(number));
        Ok(Place { places, _address: address, evicted, state })
    }

    /// A place for a person: a free one, or that of the oldest connection that only watches.
    fn permit(&self) -> Result<OwnedSemaphorePermit, NoPlace> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(permit);
        }
        let (_, oldest) = lock(&self.anonymous).pop_first().ok_or(NoPlace::Edge)?;
        oldest.evicted.cancel();
        self.metrics.anonymous.dec();
        self.metrics.evicted_anonymous.inc();
        Ok(oldest.permit)
    }

    fn leave(&self, user_id: UserId) {
        let mut people = lock(&self.people);
        if let Some(person) = people.get_mut(&user_id) {
            person.connections -= 1;
            if person.connections == 0 {
                people.remove(&user_id);
            }
        }
    }
}

impl Place {
    /// Cancelled when this connection, which has not authenticated, gives way.
    pub fn evicted(&self) -> CancellationToken {
        self.evicted.clone()
    }

    /// The place of a person, or without one that of a connection which watches. Returns its allowance of frames.
    ///
    /// # Errors
    /// As [`Place::authenticate`] and [`Place::watch`].
    pub fn take(&mut self, user_id: Option<UserId>) -> Result<Arc<Mutex<Allowance>>, NoPlace> {
        match user_id {
            Some(user_id) => self.authenticate(user_id),
            None => self.watch(),
        }
    }

    /// The connection has authenticated as this person. Returns the allowance that all frames of the person share.
    ///
    /// # Errors
    /// When the edge is full or over its accept rate, or the person has too many connections.
    pub fn authenticate(&mut self, user_id: UserId) -> Result<Arc<Mutex<Allowance>>, NoPlace> {
        let places = Arc::clone(&self.places);
        let mut people = lock(&places.people);
        if let State::Authenticated { user_id: known, .. } = &self.state
            && *known == user_id
            && let Some(person) = people.get(&user_id)
        {
            return Ok(Arc::clone(&person.frames));
        }
        if people.get(&user_id).is_some_and(|person| person.connections >= places.limits.per_person) {
            return Err(NoPlace::TooMany);
        }
        if !lock(&places.accepting).take(Instant::now()) {
            return Err(NoPlace::Edge);
        }
        let permit = match self.take_back() {
            Some(permit) => permit,
            None => places.permit()?,
        };
        let fresh = || Person {
            connections: 0,
            frames: Arc::new(Mutex::new(Allowance::new(places.limits.frames_per_person, Instant::now()))),
        };
        let person = people.entry(user_id).or_insert_with(fresh);
        person.connections += 1;
        let frames = Arc::clone(&person.frames);
        drop(people);
        self.vacate();
        // An eviction that came too late is void.
        self.evicted = CancellationToken::new();
        self.state = State::Authenticated { user_id, _permit: permit };
        Ok(frames)
    }

    /// The connection watches without a token. Returns an allowance of frames that it shares with no other.
    ///
    /// # Errors
    /// When the edge is full or over its rate, or too many connections watch.
    fn watch(&mut self) -> Result<Arc<Mutex<Allowance>>, NoPlace> {
        let places = Arc::clone(&self.places);
        let State::Stranger(stranger) = self.state else { return Err(NoPlace::Edge) };
        let mut anonymous = lock(&places.anonymous);
        let is_full = anonymous.len() >= places.limits.anonymous || self.evicted.is_cancelled();
        if is_full || !lock(&places.accepting_anonymous).take(Instant::now()) {
            return Err(NoPlace::Edge);
        }
        let permit = Arc::clone(&places.free).try_acquire_owned().map_err(|_| NoPlace::Edge)?;
        // The number of a stranger is not used again.
        anonymous.insert(stranger, Anonymous { permit, evicted: self.evicted.clone() });
        drop(anonymous);
        places.metrics.anonymous.inc();
        self.vacate();
        self.state = State::Anonymous(stranger);
        Ok(Arc::new(Mutex::new(Allowance::new(pace::OF_ANONYMOUS, Instant::now()))))
    }

    /// The place that this connection has as one that watches. None if it has given way, or never watched.
    fn take_back(&mut self) -> Option<OwnedSemaphorePermit> {
        let State::Anonymous(number) = self.state else { return None };
        let anonymous = lock(&self.places.anonymous).remove(&number)?;
        self.places.metrics.anonymous.dec();
        Some(anonymous.permit)
    }

    fn vacate(&mut self) {
        match self.state {
            State::Stranger(number) => {
                lock(&self.places.strangers).connections.remove(&number);
            }
            State::Anonymous(_) => drop(self.take_back()),
            State::Authenticated { user_id, .. } => self.places.leave(user_id),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.vacate();
    }
}

/// A poisoned lock is still used: no change under it is left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: ClientAddress = ClientAddress(None);

    fn places(connections: usize, per_second: u32) -> Arc<Places> {
        let rate = |per_second| Rate { at_once: per_second, per_second };
        let (accepting, frames_per_person) = (rate(per_second), rate(10));
        let limits =
            PlaceLimits { connections, per_person: 2, per_address: 3, anonymous: 2, accepting, frames_per_person };
        Places::new(limits, PlaceMetrics::default())
    }

    fn user(number: u128) -> UserId {
        UserId::from_uuid(uuid::Uuid::from_u128(number))
    }

    #[test]
    fn oldest_stranger_gives_way_and_the_authenticated_stay() {
        let places = places(2, 100);
        let mut anna = places.enter(PROXY).expect("a place");
        anna.authenticate(user(1)).expect("a place");
        let strangers: Vec<_> = (0..10).map(|_| places.enter(PROXY).expect("a place")).collect();
        let evicted = |place: &Place| place.evicted().is_cancelled();
        assert!(!evicted(&anna));
        assert_eq!(strangers.iter().filter(|stranger| evicted(stranger)).count(), 8);
        assert!(!evicted(&strangers[8]) && !evicted(&strangers[9]));
        assert_eq!(places.metrics.evicted.get(), 8);
        drop(strangers);
        assert!(lock(&places.strangers).connections.is_empty());
    }

    #[test]
    fn full_edge_rejects_connections() {
        let places = places(1, 100);
        let mut anna = places.enter(PROXY).expect("a place");
        let mut ben = places.enter(PROXY).expect("a place");
        anna.authenticate(user(1)).expect("a place");
        assert_eq!(ben.authenticate(user(2)).err(), Some(NoPlace::Edge));
        assert_eq!(places.enter(PROXY).err(), Some(NoPlace::Edge));
        drop(anna);
        ben.authenticate(user(2)).expect("the place is free again");
    }

    #[test]
    fn connection_without_a_token_gives_way_to_a_person() {
        let places = places(3, 100);
        let enter = || places.enter(PROXY).expect("a place");
        let (mut first, mut second, mut third) = (enter(), enter(), enter());
        first.watch().expect("a place");
        second.watch().expect("a place");
        assert_eq!(third.watch().err(), Some(NoPlace::Edge), "two may watch");
        third.authenticate(user(1)).expect("a place");
        let mut anna = enter();
        assert_eq!(enter().watch().err(), Some(NoPlace::Edge), "no place is free");
        anna.authenticate(user(2)).expect("the place of the first");
        assert!(first.evicted().is_cancelled() && !second.evicted().is_cancelled());
        assert_eq!((places.metrics.anonymous.get(), places.metrics.evicted_anonymous.get()), (1, 1));
        // With a token the second keeps its own place, and gives way no longer.
        let before = second.evicted();
        second.authenticate(user(3)).expect("its own place");
        assert_eq!(places.enter(PROXY).err(), Some(NoPlace::Edge));
        assert_eq!(first.authenticate(user(4)).err(), Some(NoPlace::Edge), "it has lost its place");
        assert!(!before.is_cancelled());
        drop((first, second, third, anna));
        assert_eq!((places.free.available_permits(), places.metrics.anonymous.get()), (3, 0));
    }

    #[test]
    fn connections_of_a_person_and_of_an_address_are_limited() {
        let places = places(10, 100);
        let office = ClientAddress(Some([192, 0, 2, 1].into()));
        let mut held: Vec<_> = (0..3).map(|_| places.enter(office).expect("a place")).collect();
        assert_eq!(places.enter(office).err(), Some(NoPlace::TooMany));
        places.enter(ClientAddress(Some([192, 0, 2, 2].into()))).expect("another address");
        held[0].authenticate(user(1)).expect("first");
        held[0].authenticate(user(1)).expect("again: counted once");
        held[1].authenticate(user(1)).expect("second");
        assert_eq!(held[2].authenticate(user(1)).err(), Some(NoPlace::TooMany));
        held[2].authenticate(user(2)).expect("another person");
        held.clear();
        assert!(lock(&places.people).is_empty());
    }

    #[test]
    fn only_authenticated_connections_count_against_the_accept_rate() {
        let places = places(100, 2);
        let mut strangers: Vec<_> = (0..50).map(|_| places.enter(PROXY).expect("a place")).collect();
        let accepted = (0..50u8).filter(|nth| strangers[usize::from(*nth)].authenticate(user((*nth).into())).is_ok());
        assert_eq!(accepted.count(), 2);
    }
}
