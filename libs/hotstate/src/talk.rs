//! Who may talk: a pause between messages, slow mode, mutes. Beside the auction's state, and never in its way.

use domain::{AuctionId, UserId};

use crate::{Hotstate, HotstateError};

/// Pause between two messages of a person without slow mode, and messages of a room. CONTRACT.md, Chat.
const PAUSE_MS: u64 = 1_000;
const ROOM_MESSAGES_PER_SECOND: u64 = 20;
/// Longer than any auction and the day after it.
const SETTINGS_SECONDS: i64 = 9 * 24 * 60 * 60;

/// Whether a person may say something now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MayTalk {
    Yes,
    /// By the host, for so many milliseconds more.
    Muted {
        ms: u64,
    },
    /// The next message may be said in so many milliseconds.
    TooFast {
        ms: u64,
    },
}

impl Hotstate {
    /// Asks whether a message may be said, and counts it if so.
    ///
    /// # Errors
    /// When Redis does not answer; it may have been counted.
    pub async fn may_talk(
        &self,
        auction_id: AuctionId,
        user_id: UserId,
        is_host: bool,
    ) -> Result<MayTalk, HotstateError> {
        let mut call = self.scripts.talk.prepare_invoke();
        call.key(key(auction_id, "chat")).key(mute(auction_id, user_id));
        call.key(key(auction_id, &format!("spoke:{user_id}"))).key(key(auction_id, "said"));
        call.arg(PAUSE_MS).arg(ROOM_MESSAGES_PER_SECOND).arg(u8::from(is_host));
        let (verdict, ms): (String, u64) = call.invoke_async(&mut self.connection.clone()).await?;
        match verdict.as_str() {
            "yes" => Ok(MayTalk::Yes),
            "muted" => Ok(MayTalk::Muted { ms }),
            "fast" => Ok(MayTalk::TooFast { ms }),
            _ => Err(HotstateError::Reply { script: "talk", detail: verdict }),
        }
    }

    /// Mutes a person for so many seconds; 0 lets them speak again.
    ///
    /// # Errors
    /// When Redis does not answer. It may be repeated.
    pub async fn mute(&self, auction_id: AuctionId, user_id: UserId, seconds: u64) -> Result<(), HotstateError> {
        let (key, mut connection) = (mute(auction_id, user_id), self.connection.clone());
        let command = match seconds {
            0 => redis::cmd("DEL").arg(key).clone(),
            _ => redis::cmd("SET").arg(key).arg(1).arg("EX").arg(seconds).clone(),
        };
        Ok(command.query_async(&mut connection).await?)
    }

    /// Sets the pause between two messages of a person; 0 for the usual one.
    ///
    /// # Errors
    /// When Redis does not answer. It may be repeated.
    pub async fn set_slow_mode(&self, auction_id: AuctionId, seconds: u64) -> Result<(), HotstateError> {
        let (key, mut pipe) = (key(auction_id, "chat"), redis::pipe());
        pipe.atomic().hset(&key, "slow_mode_seconds", seconds).ignore().expire(&key, SETTINGS_SECONDS).ignore();
        Ok(pipe.query_async(&mut self.connection.clone()).await?)
    }
}

fn key(auction_id: AuctionId, name: &str) -> String {
    format!("auction:{{{auction_id}}}:{name}")
}

fn mute(auction_id: AuctionId, user_id: UserId) -> String {
    key(auction_id, &format!("mute:{user_id}"))
}
