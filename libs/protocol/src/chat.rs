//! Chat: the entries stored on `auction.<id>.chat`, which the members of the room receive.

use domain::{AuctionId, UserId};
use serde::{Deserialize, Serialize};

#[cfg(feature = "schema")]
use crate::shapes;
use crate::wire::text;

/// Longest message, in characters. CONTRACT.md, Chat.
pub const MAX_CHAT_CHARACTERS: usize = 500;
/// Most messages in a live state: the newest ones. CONTRACT.md, Live state.
pub const MAX_CHAT_HISTORY: usize = 50;

/// One chat message, as stored and as shown. Its author comes from the token alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChatMessage {
    /// Also the message id of its append, so that a repeated message is stored once.
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub message_id: String,
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub auction_id: AuctionId,
    /// The author.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub user_id: UserId,
    /// Public name of the author, or an alias where it is shown.
    pub username: String,
    /// The text.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MAX_CHAT_CHARACTERS)))]
    pub message: String,
    /// Whether the host wrote it.
    pub is_host: bool,
    /// Milliseconds since 1970, by the clock of the auction's Redis
    pub timestamp: u64,
}

/// An entry on `auction.<id>.chat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Talk {
    /// A message.
    Message(ChatMessage),
    /// The host deleted a message.
    Deleted(ChatDeleted),
    /// The host muted a person.
    Muted(ChatMuted),
    /// The host set how often each person may write.
    Slowed(ChatSlowed),
}

/// The host deleted a message. It is erased from the stream; members receive this as `chat_deleted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChatDeleted {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub auction_id: AuctionId,
    /// The message that is gone.
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub message_id: String,
}

/// The host muted a person; members receive this as `chat_muted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChatMuted {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub auction_id: AuctionId,
    /// The muted person.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub user_id: UserId,
    /// Duration of the mute; 0 ends it.
    pub seconds: u64,
}

/// The host set how often each person may write. Members find it in the live state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatSlowed {
    /// The auction.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// Seconds between two messages of a person; 0 ends slow mode.
    pub slow_mode_seconds: u64,
}

/// Longest mute, in seconds: a week. CONTRACT.md, Chat.
pub const MAX_MUTE_SECONDS: u64 = 7 * 24 * 60 * 60;
/// Longest interval between two messages of a person, in seconds: an hour.
pub const MAX_SLOW_MODE_SECONDS: u64 = 60 * 60;

/// The newest messages that no entry deletes, oldest first, at most [`MAX_CHAT_HISTORY`].
#[must_use]
pub fn messages(talk: impl IntoIterator<Item = Talk>) -> Vec<ChatMessage> {
    let mut messages: Vec<ChatMessage> = Vec::new();
    for talk in talk {
        match talk {
            Talk::Message(message) => messages.push(message),
            Talk::Deleted(deleted) => messages.retain(|message| message.message_id != deleted.message_id),
            Talk::Muted(_) | Talk::Slowed(_) => {}
        }
    }
    messages.split_off(messages.len().saturating_sub(MAX_CHAT_HISTORY))
}
