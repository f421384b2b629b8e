//! All rooms of this edge: one task for each auction, started by the first connection that joins it.

use std::sync::Arc;

use domain::AuctionId;
use protocol::Code;
use service::Actors;
use tokio::sync::mpsc::error::TrySendError;

use crate::context::{EdgeContext, SessionId};
use crate::room;
use crate::room::command::RoomCommand;

/// Commands queued for one room; enough for 10,000 connections that reconnect and join at once.
const MAX_QUEUED: usize = 16_384;
/// Rooms of one edge.
const MAX_ROOMS: usize = 20_000;

/// The rooms that are open, by auction.
pub struct Rooms {
    /// State shared by rooms and connections.
    pub context: Arc<EdgeContext>,
    open: Actors<AuctionId, RoomCommand>,
}

impl Rooms {
    /// No rooms yet.
    pub fn new(context: Arc<EdgeContext>) -> Self {
        Self { context, open: Actors::new(MAX_ROOMS, MAX_QUEUED) }
    }

    /// Queues a command for the room of the auction, and opens the room if it is not open.
    ///
    /// # Errors
    /// `overloaded` if there is no place for the command or the room.
    pub fn send(&self, auction_id: AuctionId, command: RoomCommand) -> Result<(), Code> {
        let start = |commands| {
            let context = Arc::clone(&self.context);
            let room = async move {
                room::run(auction_id, Arc::clone(&context), commands).await;
                context.prices.forget(auction_id);
            };
            ((), room)
        };
        self.open.send(auction_id, command, start).map_err(|_| Code::Overloaded)
    }

    /// Informs the auction's room, if it is open, that a connection has left. Waits if the room's queue is full: a
    /// connection that is gone must not be counted for ever.
    pub fn leave(&self, auction_id: AuctionId, session: SessionId) {
        let Some(queue) = self.open.queue(auction_id) else { return };
        if let Err(TrySendError::Full(command)) = queue.try_send(RoomCommand::Leave { session }) {
            // An error means that the room has ended with all its members.
            tokio::spawn(async move { queue.send(command).await });
        }
    }
}
