//! Commands that connections send to a room.

use std::sync::Arc;

use protocol::{ChatDeleted, ChatMuted, Person};

use crate::context::SessionId;
use crate::event::ReplyTo;
use crate::transport::send_queue::SendQueue;

/// The connection that a command comes from.
pub struct Client {
    /// Its session on this edge.
    pub session: SessionId,
    /// The person that its token names.
    pub person: Person,
    /// Where answers and events go.
    pub queue: Arc<SendQueue>,
}

/// One command to the room of an auction.
pub enum RoomCommand {
    /// Join, or join again with the last seq that the client knows.
    Join { client: Client, last_seq: Option<u64>, reply_to: ReplyTo },
    /// The connection has left or is gone.
    Leave { session: SessionId },
    /// Say something.
    Chat { client: Client, message: String, reply_to: ReplyTo },
    /// Moderate the chat.
    Moderate { client: Client, act: Moderation, reply_to: ReplyTo },
}

/// Acts that only the host may ask for.
pub enum Moderation {
    /// Erase a message.
    Delete(ChatDeleted),
    /// Mute a person, or unmute with 0 seconds.
    Mute(ChatMuted),
}
