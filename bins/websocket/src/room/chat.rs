//! The chat of a room, and its moderation by the host.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bus::{LogError, Said};
use hotstate::MayTalk;
use protocol::{ChatMessage, ChatMuted, Code, Failure, MAX_CHAT_HISTORY, Naming, Person, Talk};
use serde_json::json;
use tokio::time::Instant;

use crate::context::EdgeContext;
use crate::event::{Event, Outgoing, ReplyTo};
use crate::room::command::{Client, Moderation};
use crate::room::open::OpenRoom;
use crate::transport::send_queue::Delivery;

/// Shortest time between two readings of the stream. A room takes 20 messages a second; however many are forged, the
/// stream is read no more often.
const READ_EVERY: Duration = Duration::from_millis(50);
/// Entries of one reading. Further ones are read in the next.
const MAX_READ_AT_ONCE: usize = 32;

impl OpenRoom {
    /// Stores a message. All members, its author included, get it when it comes back stored.
    pub fn say(&self, client: Client, message: String, reply_to: ReplyTo) {
        let Client { session, person, queue, .. } = client;
        let Some(Person { user_id, username }) = person else {
            return queue.send(&Outgoing::error(&Code::Unauthenticated.into(), reply_to));
        };
        // The connection's join has failed.
        if !self.has_joined(session) {
            return queue.send(&Outgoing::error(&Code::NotJoined.into(), reply_to));
        }
        let Ok(place) = Arc::clone(&self.chat_in_flight).try_acquire_owned() else {
            self.context.count_rejection(Code::ChatTooFast);
            return queue.send(&Outgoing::error(&Code::ChatTooFast.into(), reply_to));
        };
        let message = ChatMessage {
            message_id: uuid::Uuid::new_v4().to_string(),
            auction_id: self.auction_id,
            is_host: user_id == self.committed.state.host_user_id,
            user_id,
            username,
            message,
            timestamp: self.context.clock.now().0,
        };
        let context = Arc::clone(&self.context);
        tokio::spawn(async move {
            queue.send(&match store(&context, &message).await {
                Ok(()) => Outgoing::answer("chat_sent", json!({"message_id": message.message_id}), reply_to),
                Err(failure) => Outgoing::error(&failure, reply_to),
            });
            drop(place);
        });
    }

    /// Stores an act of moderation by the host. All members get it when it comes back stored.
    pub fn moderate(&self, client: Client, act: Moderation, reply_to: ReplyTo) {
        let Client { session, person, queue, .. } = client;
        let allowed = if !self.has_joined(session) {
            Err(Code::NotJoined)
        } else if person.is_none_or(|person| person.user_id != self.committed.state.host_user_id) {
            Err(Code::NotHost)
        } else {
            Arc::clone(&self.chat_in_flight).try_acquire_owned().map_err(|_| Code::ChatTooFast)
        };
        let place = match allowed {
            Ok(place) => place,
            Err(code) => return queue.send(&Outgoing::error(&code.into(), reply_to)),
        };
        let context = Arc::clone(&self.context);
        tokio::spawn(async move {
            queue.send(&match moderate(&context, act, reply_to.clone()).await {
                Ok(answer) => answer,
                Err(failure) => Outgoing::error(&failure, reply_to),
            });
            drop(place);
        });
    }

    /// When the chat is to be read.
    pub const fn chat_due(&self) -> Option<Instant> {
        self.chat_read_at
    }

    /// Has the stream read, because something was said. The entry that was received is not shown: it may be forged.
    pub async fn on_chat(&mut self, said: Said) {
        if said.stream_seq <= self.chat_seq {
            return;
        }
        self.chat_heard = self.chat_heard.max(said.stream_seq);
        if Instant::now() >= self.chat_read_after {
            Box::pin(self.read_new_chat()).await;
        } else {
            self.chat_read_at = Some(self.chat_read_after);
        }
    }

    /// Reads and broadcasts what was stored since the last entry shown, entry by entry: one reading each, as long as no
    /// other is announced.
    pub async fn read_new_chat(&mut self) {
        let mut read = 0;
        while self.chat_seq < self.chat_heard && read < MAX_READ_AT_ONCE {
            read += 1;
            match self.context.chat.next(self.auction_id, self.chat_seq + 1).await {
                Ok(Some((stream_seq, Some(talk)))) => self.show(stream_seq, talk).await,
                Ok(Some((stream_seq, None))) => self.chat_seq = stream_seq,
                // The announced entry is erased, or was never stored.
                Ok(None) => self.chat_heard = self.chat_seq,
                Err(error) => {
                    let auction_id = self.auction_id;
                    tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to read the chat; will retry");
                    break;
                }
            }
        }
        self.chat_read_after = Instant::now() + READ_EVERY;
        self.chat_read_at = (self.chat_seq < self.chat_heard).then_some(self.chat_read_after);
    }

    /// Reads the stream and broadcasts what is new.
    pub async fn read_chat(&mut self) -> Result<(), LogError> {
        for (stream_seq, talk) in self.context.chat.history(self.auction_id).await? {
            if stream_seq > self.chat_seq {
                self.show(stream_seq, talk).await;
            }
        }
        Ok(())
    }

    async fn show(&mut self, stream_seq: u64, talk: Talk) {
        self.chat_seq = stream_seq;
        match talk {
            Talk::Message(mut message) => {
                // The records say who the host is, whatever the message does.
                message.is_host = message.user_id == self.committed.state.host_user_id;
                let said = |naming: Naming| Event::new("chat_message", naming.message(&message));
                let broadcast = self.broadcast(Delivery::Reliable, said);
                self.members.send(broadcast).await;
                self.chat.push_back(message);
                if self.chat.len() > MAX_CHAT_HISTORY {
                    self.chat.pop_front();
                }
            }
            Talk::Deleted(deleted) => {
                self.chat.retain(|message| message.message_id != deleted.message_id);
                self.send_all(Event::new("chat_deleted", deleted)).await;
            }
            // Only shown in the state: Redis enforces it.
            Talk::Slowed(slowed) => self.committed.slow_mode_seconds = slowed.slow_mode_seconds,
            Talk::Muted(muted) => self.send_all(Event::new("chat_muted", muted)).await,
        }
    }
}

async fn store(context: &EdgeContext, message: &ChatMessage) -> Result<(), Failure> {
    let auction_id = message.auction_id;
    let unavailable = |error: &dyn Error| {
        tracing::warn!(%auction_id, error = %errors::chain(error), "failed to store a chat message; it may be stored");
        Failure::from(Code::Unavailable)
    };
    let asked = context.hotstate.may_talk(auction_id, message.user_id, message.is_host).await;
    match asked.map_err(|error| unavailable(&error))? {
        MayTalk::Yes => context.chat.say(message).await.map_err(|error| unavailable(&error)),
        MayTalk::Muted { .. } => Err(Code::Muted.into()),
        MayTalk::TooFast { .. } => {
            context.count_rejection(Code::ChatTooFast);
            Err(Code::ChatTooFast.into())
        }
    }
}

/// Each step may be repeated: a host that gets `unavailable` asks again.
async fn moderate(context: &EdgeContext, act: Moderation, reply_to: ReplyTo) -> Result<Outgoing, Failure> {
    let unavailable = |error: &dyn Error| {
        tracing::warn!(error = %errors::chain(error), "failed to moderate a chat; the act may be stored");
        Failure::from(Code::Unavailable)
    };
    match act {
        Moderation::Delete(deleted) => {
            context.chat.delete(deleted.clone()).await.map_err(|error| unavailable(&error))?;
            Ok(Outgoing::answer("chat_deleted", deleted, reply_to))
        }
        Moderation::Mute(muted) => {
            let ChatMuted { auction_id, user_id, seconds } = muted;
            context.hotstate.mute(auction_id, user_id, seconds).await.map_err(|error| unavailable(&error))?;
            context.chat.muted(muted.clone()).await.map_err(|error| unavailable(&error))?;
            Ok(Outgoing::answer("chat_muted", muted, reply_to))
        }
    }
}
