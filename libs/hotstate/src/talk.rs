//! Limits of the chat: a pause between messages, slow mode, mutes. These keys are separate from the auction's state, so
//! chat never delays a decision.

use domain::{AuctionId, UserId};

use crate::reply::unreadable;
use crate::{Hotstate, HotstateError};

/// Milliseconds between two messages of a person without slow mode. CONTRACT.md, Chat.
const PAUSE_MS: u64 = 1_000;
/// Messages of a room's guests in a second, and of its host. CONTRACT.md, Chat.
const ROOM_MESSAGES_PER_SECOND: u64 = 20;
/// Those of them that are kept for guests who have sent none lately. A quarter: a crowd that never pauses cannot silence
/// the others, and a lively room loses little.
const RESERVED_PER_SECOND: u64 = 5;
/// Milliseconds for which a guest counts as having sent a message lately. CONTRACT.md, Chat.
const LATELY_MS: u64 = 5_000;
/// Field of the settings with the seconds between two messages of a person. `talk.lua` reads it.
pub const SLOW_MODE: &str = "slow_mode_seconds";
/// Seconds for which slow mode is kept. Longer than any auction and the day after it.
const SETTINGS_SECONDS: i64 = 9 * 24 * 60 * 60;

/// Whether a person may send a message now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MayTalk {
    /// Yes, and the message is counted.
    Yes,
    /// The host has muted the person.
    Muted {
        /// Milliseconds until the mute ends.
        ms: u64,
    },
    /// The person, or the room, sends too much.
    TooFast {
        /// Milliseconds until the next message is allowed.
        ms: u64,
    },
}

impl Hotstate {
    /// Asks whether a person may send a message now, and counts the message if so. Neither a mute nor the pause applies
    /// to the host, whose messages are counted apart from those of the guests.
    ///
    /// # Errors
    /// When Redis does not answer; the message may have been counted.
    pub async fn may_talk(
        &self,
        auction_id: AuctionId,
        user_id: UserId,
        is_host: bool,
    ) -> Result<MayTalk, HotstateError> {
        let mut call = self.scripts.talk.prepare_invoke();
        call.key(settings(auction_id)).key(mute(auction_id, user_id));
        call.key(key(auction_id, &format!("spoke:{user_id}"))).key(key(auction_id, &format!("lately:{user_id}")));
        let (role, count) = if is_host { ("host", "host_said") } else { ("guest", "said") };
        call.key(key(auction_id, count));
        call.arg(PAUSE_MS).arg(ROOM_MESSAGES_PER_SECOND).arg(RESERVED_PER_SECOND).arg(LATELY_MS).arg(role);
        let (verdict, ms): (String, u64) = call.invoke_async(&mut self.connection.clone()).await?;
        match verdict.as_str() {
            "yes" => Ok(MayTalk::Yes),
            "muted" => Ok(MayTalk::Muted { ms }),
            "fast" => Ok(MayTalk::TooFast { ms }),
            _ => Err(unreadable("talk", verdict)),
        }
    }

    /// Mutes a person for this number of seconds; 0 ends a mute. Repeatable.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn mute(&self, auction_id: AuctionId, user_id: UserId, seconds: u64) -> Result<(), HotstateError> {
        let (key, mut connection) = (mute(auction_id, user_id), self.connection.clone());
        let command = match seconds {
            0 => redis::cmd("DEL").arg(key).clone(),
            _ => redis::cmd("SET").arg(key).arg(1).arg("EX").arg(seconds).clone(),
        };
        Ok(command.query_async(&mut connection).await?)
    }

    /// Sets the seconds between two messages of a person; 0 for the usual pause. Repeatable.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn set_slow_mode(&self, auction_id: AuctionId, seconds: u64) -> Result<(), HotstateError> {
        let (key, mut pipe) = (settings(auction_id), redis::pipe());
        pipe.atomic().hset(&key, SLOW_MODE, seconds).ignore().expire(&key, SETTINGS_SECONDS).ignore();
        Ok(pipe.query_async(&mut self.connection.clone()).await?)
    }
}

fn key(auction_id: AuctionId, name: &str) -> String {
    format!("auction:{{{auction_id}}}:{name}")
}

/// The key of a chat's settings.
pub fn settings(auction_id: AuctionId) -> String {
    key(auction_id, "chat")
}

fn mute(auction_id: AuctionId, user_id: UserId) -> String {
    key(auction_id, &format!("mute:{user_id}"))
}
