//! All rooms of this edge: one task an auction, started by the first who joins.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use admission::CommittedPrices;
use bus::{Bus, Chat, Log};
use domain::AuctionId;
use hotstate::{Clock, Hotstate};
use protocol::Code;
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::room::{Room, SessionId, Visit};

/// Joins and leaves that may wait for one room; enough for 10,000 who reconnect at once.
const MAX_WAITING: usize = 16_384;
/// Rooms of one edge.
const MAX_ROOMS: usize = 20_000;

#[derive(Clone)]
pub struct Rooms {
    pub shared: Arc<Shared>,
    doors: Arc<Mutex<HashMap<AuctionId, mpsc::Sender<Visit>>>>,
}

/// What every room uses.
pub struct Shared {
    pub bus: Bus,
    pub log: Log,
    pub chat: Chat,
    pub hotstate: Hotstate,
    pub clock: Clock,
    pub prices: CommittedPrices,
    /// Connections in one room.
    pub max_members: usize,
    /// This edge, for as long as its process lives.
    pub edge: String,
}

impl Rooms {
    pub fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared), doors: Arc::default() }
    }

    /// Hands a visit to the auction's room, opening it if need be. An error where there is no place.
    pub fn send(&self, auction_id: AuctionId, mut visit: Visit) -> Result<(), Code> {
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let door = match doors.get(&auction_id) {
                Some(door) => door,
                None if doors.len() >= MAX_ROOMS => return Err(Code::Overloaded),
                None => {
                    let door = self.open(auction_id);
                    doors.insert(auction_id, door);
                    continue;
                }
            };
            match door.try_send(visit) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(_)) => return Err(Code::Overloaded),
                // Empty for a while, or its auction does not exist: a new one.
                Err(TrySendError::Closed(unsent)) => {
                    visit = unsent;
                    doors.remove(&auction_id);
                }
            }
        }
    }

    /// Tells the auction's room, if it is open, that a connection has left. Waits where the room is busy:
    /// who is gone must not be counted for ever.
    pub fn leave(&self, auction_id: AuctionId, session: SessionId) {
        let door = self.doors.lock().unwrap_or_else(PoisonError::into_inner).get(&auction_id).cloned();
        let Some(door) = door else { return };
        if let Err(TrySendError::Full(visit)) = door.try_send(Visit::Leave { session }) {
            // Closed meanwhile: the room has ended with all who were in it.
            tokio::spawn(async move { door.send(visit).await });
        }
    }

    fn open(&self, auction_id: AuctionId) -> mpsc::Sender<Visit> {
        let (door, visits) = mpsc::channel(MAX_WAITING);
        let room = Room::new(auction_id, Arc::clone(&self.shared), visits);
        let (doors, own, shared) = (Arc::clone(&self.doors), door.downgrade(), Arc::clone(&self.shared));
        tokio::spawn(async move {
            room.run().await;
            shared.prices.forget(auction_id);
            let mut doors = doors.lock().unwrap_or_else(PoisonError::into_inner);
            let ours =
                doors.get(&auction_id).is_some_and(|door| own.upgrade().is_none_or(|own| own.same_channel(door)));
            if ours {
                doors.remove(&auction_id);
            }
        });
        door
    }
}
