//! Chat: what is stored on `auction.<id>.chat`, and what everybody in the room is shown.

use domain::{AuctionId, UserId};
use serde::{Deserialize, Serialize};

use crate::wire::text;

/// SPEC 4: a message has 1 to 500 characters.
pub const MAX_CHAT_CHARACTERS: usize = 500;
/// SPEC 3: the newest messages in a live state.
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
}
