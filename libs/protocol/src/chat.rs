//! Chat: what is stored on `auction.<id>.chat`, and what everybody in the room is shown.

use domain::{AuctionId, UserId};
use serde::{Deserialize, Serialize};

use crate::wire::text;

/// Characters of one message. CONTRACT.md, Chat.
pub const MAX_CHAT_CHARACTERS: usize = 500;
/// Messages in a live state, the newest ones. CONTRACT.md, Live state.
pub const MAX_CHAT_HISTORY: usize = 50;

/// One message, as stored and as shown. Who wrote it comes from the token alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Also the message id of its append, so that a repeated one is stored once.
    pub message_id: String,
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    #[serde(with = "text")]
    pub user_id: UserId,
    pub username: String,
    pub message: String,
    pub is_host: bool,
    /// Milliseconds since 1970.
    pub timestamp: u64,
}

/// What stands on `auction.<id>.chat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Talk {
    Message(ChatMessage),
    Deleted(ChatDeleted),
    Muted(ChatMuted),
}

/// The host has taken a message back: it is erased from the stream, and `chat_deleted` is what is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatDeleted {
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    pub message_id: String,
}

/// The host has muted somebody; also what is shown as `chat_muted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMuted {
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    #[serde(with = "text")]
    pub user_id: UserId,
    /// 0: may speak again.
    pub seconds: u64,
}

/// Seconds of the longest mute: a week. CONTRACT.md, Chat.
pub const MAX_MUTE_SECONDS: u64 = 7 * 24 * 60 * 60;
/// At most an hour between two messages of a person.
pub const MAX_SLOW_MODE_SECONDS: u64 = 60 * 60;

/// The newest messages that were not deleted, oldest first, at most [`MAX_CHAT_HISTORY`].
#[must_use]
pub fn messages(talk: impl IntoIterator<Item = Talk>) -> Vec<ChatMessage> {
    let mut messages: Vec<ChatMessage> = Vec::new();
    for talk in talk {
        match talk {
            Talk::Message(message) => messages.push(message),
            Talk::Deleted(deleted) => messages.retain(|message| message.message_id != deleted.message_id),
            Talk::Muted(_) => {}
        }
    }
    messages.split_off(messages.len().saturating_sub(MAX_CHAT_HISTORY))
}
