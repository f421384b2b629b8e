//! What is said in a room, and what its host takes back.

use std::sync::Arc;

use bus::{LogError, Said};
use hotstate::MayTalk;
use protocol::{ChatDeleted, ChatMessage, ChatMuted, Code, Failure, MAX_CHAT_HISTORY, Person, Talk};
use serde_json::json;

use super::{Open, Room, Visitor};
use crate::outgoing::{Event, Outgoing, To};
use crate::rooms::Shared;

/// What only the host may ask for.
pub enum Moderation {
    Delete(ChatDeleted),
    Mute(ChatMuted),
}

impl Room {
    /// Stores a message; everybody, its author included, is shown it when it comes back stored.
    pub(super) fn say(&self, open: &Open, visitor: Visitor, message: String, to: To) {
        let Visitor { session, person: Person { user_id, username }, mailbox } = visitor;
        // Its join has failed.
        if !self.members.contains(session) {
            return mailbox.push(&Outgoing::error(&Code::NotJoined.into(), to));
        }
        let Ok(place) = Arc::clone(&self.saying).try_acquire_owned() else {
            return mailbox.push(&Outgoing::error(&Code::ChatTooFast.into(), to));
        };
        let message = ChatMessage {
            message_id: uuid::Uuid::new_v4().to_string(),
            auction_id: self.auction_id,
            is_host: user_id == open.standing.state.host_user_id,
            user_id,
            username,
            message,
            timestamp: self.shared.clock.now().0,
        };
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            mailbox.push(&match store(&shared, &message).await {
                Ok(()) => Outgoing::answer("chat_sent", json!({"message_id": message.message_id}), to),
                Err(failure) => Outgoing::error(&failure, to),
            });
            drop(place);
        });
    }

    /// Does what the host asks for; everybody is told when it comes back stored.
    pub(super) fn moderate(&self, open: &Open, visitor: Visitor, act: Moderation, to: To) {
        let Visitor { session, person, mailbox } = visitor;
        let allowed = if !self.members.contains(session) {
            Err(Code::NotJoined)
        } else if person.user_id != open.standing.state.host_user_id {
            Err(Code::NotHost)
        } else {
            Arc::clone(&self.saying).try_acquire_owned().map_err(|_| Code::ChatTooFast)
        };
        let place = match allowed {
            Ok(place) => place,
            Err(code) => return mailbox.push(&Outgoing::error(&code.into(), to)),
        };
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            mailbox.push(&match moderate(&shared, act, to.clone()).await {
                Ok(answer) => answer,
                Err(failure) => Outgoing::error(&failure, to),
            });
            drop(place);
        });
    }

    pub(super) async fn hear_talk(&mut self, open: &mut Open, said: Said) {
        if said.stream_seq <= open.chat_seq {
            return;
        }
        if said.previous_stream_seq.is_some_and(|previous| previous > open.chat_seq) {
            match self.read_chat(open).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(auction_id = %self.auction_id, %error, "the chat cannot be read"),
            }
        }
        self.show(open, said.stream_seq, said.talk).await;
    }

    /// Reads what is kept and shows what is not known.
    pub(super) async fn read_chat(&mut self, open: &mut Open) -> Result<(), LogError> {
        for (stream_seq, talk) in self.shared.chat.history(self.auction_id).await? {
            if stream_seq > open.chat_seq {
                self.show(open, stream_seq, talk).await;
            }
        }
        Ok(())
    }

    async fn show(&mut self, open: &mut Open, stream_seq: u64, talk: Talk) {
        open.chat_seq = stream_seq;
        match talk {
            Talk::Message(message) => {
                self.tell_all(Event::new("chat_message", &message)).await;
                open.chat.push_back(message);
                if open.chat.len() > MAX_CHAT_HISTORY {
                    open.chat.pop_front();
                }
            }
            Talk::Deleted(deleted) => {
                open.chat.retain(|message| message.message_id != deleted.message_id);
                self.tell_all(Event::new("chat_deleted", deleted)).await;
            }
            Talk::Muted(muted) => self.tell_all(Event::new("chat_muted", muted)).await,
        }
    }
}

async fn store(shared: &Shared, message: &ChatMessage) -> Result<(), Failure> {
    let auction_id = message.auction_id;
    let unavailable = |error: &dyn std::fmt::Display| {
        tracing::warn!(%auction_id, %error, "a message may or may not be stored");
        Failure::from(Code::Unavailable)
    };
    let asked = shared.hotstate.may_talk(auction_id, message.user_id, message.is_host).await;
    match asked.map_err(|error| unavailable(&error))? {
        MayTalk::Yes => shared.chat.say(message).await.map_err(|error| unavailable(&error)),
        MayTalk::Muted { .. } => Err(Code::Muted.into()),
        MayTalk::TooFast { .. } => Err(Code::ChatTooFast.into()),
    }
}

/// Each step may be repeated: a host who is told `unavailable` asks again.
async fn moderate(shared: &Shared, act: Moderation, to: To) -> Result<Outgoing, Failure> {
    let unavailable = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "a chat may or may not be moderated");
        Failure::from(Code::Unavailable)
    };
    match act {
        Moderation::Delete(deleted) => {
            shared.chat.delete(deleted.clone()).await.map_err(|error| unavailable(&error))?;
            Ok(Outgoing::answer("chat_deleted", deleted, to))
        }
        Moderation::Mute(muted) => {
            let ChatMuted { auction_id, user_id, seconds } = muted;
            shared.hotstate.mute(auction_id, user_id, seconds).await.map_err(|error| unavailable(&error))?;
            shared.chat.muted(muted.clone()).await.map_err(|error| unavailable(&error))?;
            Ok(Outgoing::answer("chat_muted", muted, to))
        }
    }
}
