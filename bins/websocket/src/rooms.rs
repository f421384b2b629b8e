//! All rooms of this edge: one task for each auction, started by the first connection that joins it.

use std::sync::Arc;
use std::time::Instant;

use domain::AuctionId;
use protocol::Code;
use service::Actors;
use tokio::sync::mpsc::error::TrySendError;

use crate::context::{EdgeContext, RoomPlaces};
use crate::entry::SessionId;
use crate::room;
use crate::room::command::RoomCommand;
use crate::room::inbox::{Inbox, OpenRooms};

/// Commands queued for one room; enough for 10,000 connections that reconnect and join at once.
const MAX_QUEUED: usize = 16_384;

/// The rooms that are open, by auction.
pub struct Rooms {
    /// State shared by rooms and connections.
    pub context: Arc<EdgeContext>,
    open: OpenRooms,
}

impl Rooms {
    /// No rooms yet.
    pub fn new(context: Arc<EdgeContext>) -> Self {
        Self { context, open: Actors::new(RoomPlaces::MAX_ROOMS, MAX_QUEUED) }
    }

    /// The number of open rooms.
    pub fn count(&self) -> i64 {
        self.open.gauge().get()
    }

    /// Queues a command for the room of the auction. A join opens the room if it is not open.
    ///
    /// # Errors
    /// `overloaded` if there is no place for the command or the room; `auction_not_found` if the auction was found not
    /// to exist a short time ago; `not_joined` if it is no join and the room is not open.
    pub fn send(&self, auction_id: AuctionId, command: RoomCommand) -> Result<(), Code> {
        if !matches!(command, RoomCommand::Join { .. }) {
            let room = self.open.queue(auction_id).ok_or(Code::NotJoined)?;
            return room.try_send(Box::new(command)).map_err(|error| match error {
                TrySendError::Full(_) => Code::Overloaded,
                TrySendError::Closed(_) => Code::NotJoined,
            });
        }
        if self.context.rooms.unknown.contains(auction_id, Instant::now()) {
            return Err(Code::AuctionNotFound);
        }
        let start = |commands| {
            let context = Arc::clone(&self.context);
            let opening = Arc::clone(&context.rooms.opening).try_acquire_owned().ok();
            let inbox = Inbox::new(commands, self.open.clone());
            // Boxed: an async block that captures a future and awaits it has room for it twice.
            ((), Box::pin(room::run(auction_id, context, inbox, opening)))
        };
        self.open.send(auction_id, Box::new(command), start).map_err(|_| Code::Overloaded)
    }

    /// Informs the auction's room, if it is open, that a connection has left. Waits if the room's queue is full: a
    /// connection that is gone must not be counted for ever.
    pub fn leave(&self, auction_id: AuctionId, session: SessionId) {
        let Some(queue) = self.open.queue(auction_id) else { return };
        if let Err(TrySendError::Full(command)) = queue.try_send(Box::new(RoomCommand::Leave { session })) {
            // An error means that the room has ended, without members.
            tokio::spawn(async move { queue.send(command).await });
        }
    }
}
