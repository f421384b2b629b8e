//! Commands that connections send to a room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use identity::Token;
use protocol::{ChatDeleted, ChatMuted, Person};

use crate::entry::SessionId;
use crate::event::ReplyTo;
use crate::transport::send_queue::SendQueue;

/// The connection that a command comes from.
pub struct Client {
    /// Its session on this edge.
    pub session: SessionId,
    /// The person that its token names. None: it watches without one.
    pub person: Option<Person>,
    /// Where answers and events go.
    pub queue: Arc<SendQueue>,
    /// The connection's own view of its membership, for the room to accept.
    pub membership: Membership,
}

/// Whether a room has let a connection in. While a request to the room is under way, its copy of this keeps the
/// membership open; once all copies are gone and the room has not accepted, the join was refused.
#[derive(Clone, Default)]
pub struct Membership(Arc<AtomicBool>);

impl Membership {
    /// The room has let the connection in.
    pub fn accept(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the room has answered, and has not let the connection in.
    pub fn is_refused(&self) -> bool {
        // The copies first: the room accepts before it drops its own.
        Arc::strong_count(&self.0) == 1 && !self.0.load(Ordering::Acquire)
    }
}

/// One command to the room of an auction.
pub enum RoomCommand {
    /// Join, or join again with the last seq that the client knows. The token is that of the client's person.
    Join { client: Client, token: Option<Token>, last_seq: Option<u64>, reply_to: ReplyTo },
    /// A member that watched without a token has one now.
    Identify { client: Client },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn join_is_refused_once_its_request_is_dropped_unaccepted() {
        let own = Membership::default();
        let asked = own.clone();
        assert!(!own.is_refused(), "not answered yet");
        drop(asked);
        assert!(own.is_refused());
        let asked = own.clone();
        asked.accept();
        drop(asked);
        assert!(!own.is_refused());
        drop(own.clone());
        assert!(!own.is_refused(), "a join again that fails does not end the membership");
    }
}
