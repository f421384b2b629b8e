//! What one connection is still to be sent: bounded, newest updates replace older ones.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use domain::AuctionId;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::outgoing::{Door, Outgoing, framed};

/// Frames that must arrive and may wait. One that reads nothing while this many gather cannot keep up.
const MAX_FRAMES: usize = 512;

/// Updates of the same kind of the same auction replace each other while they wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    Bids(AuctionId),
    Timer(AuctionId),
    Presence(AuctionId),
}

enum Content {
    Event(Outgoing),
    /// What belongs to the door's own protocol.
    Raw(Utf8Bytes),
}

struct Waiting {
    content: Content,
    update: Option<Update>,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Waiting>,
    overflowed: bool,
}

pub struct Mailbox {
    door: Door,
    state: Mutex<State>,
    news: Notify,
}

impl Mailbox {
    pub fn new(door: Door) -> Self {
        Self { door, state: Mutex::default(), news: Notify::new() }
    }

    /// What must arrive.
    pub fn push(&self, outgoing: impl Into<Outgoing>) {
        self.add(Waiting { content: Content::Event(outgoing.into()), update: None });
    }

    /// What only the newest of need arrive.
    pub fn update(&self, update: Update, outgoing: impl Into<Outgoing>) {
        self.add(Waiting { content: Content::Event(outgoing.into()), update: Some(update) });
    }

    /// A frame of the door's own protocol.
    pub fn raw(&self, text: impl Into<Utf8Bytes>) {
        self.add(Waiting { content: Content::Raw(text.into()), update: None });
    }

    fn add(&self, waiting: Waiting) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.update.is_some() {
            // The newest goes to the end, so that seq rises in the order of sending.
            state.frames.retain(|other| other.update != waiting.update);
        }
        if state.frames.len() >= MAX_FRAMES {
            state.overflowed = true;
            state.frames.clear();
        } else if !state.overflowed {
            state.frames.push_back(waiting);
        }
        drop(state);
        self.news.notify_one();
    }

    /// Waits until there is something to take.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Everything that waits, in order and in the door's spelling; None once more came than fits.
    pub fn take(&self) -> Option<Vec<Utf8Bytes>> {
        let text = |content| match content {
            Content::Event(outgoing) => outgoing.text(self.door),
            Content::Raw(text) => text,
        };
        Some(self.take_all()?.into_iter().map(|waiting| text(waiting.content)).collect())
    }

    /// As [`Mailbox::take`], each text in its WebSocket frame.
    pub fn take_frames(&self) -> Option<Vec<Bytes>> {
        let frame = |content| match content {
            Content::Event(outgoing) => outgoing.frame(self.door),
            Content::Raw(text) => framed(&text),
        };
        Some(self.take_all()?.into_iter().map(|waiting| frame(waiting.content)).collect())
    }

    fn take_all(&self) -> Option<VecDeque<Waiting>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.overflowed {
            return None;
        }
        Some(std::mem::take(&mut state.frames))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outgoing::Event;

    fn take(mailbox: &Mailbox) -> Option<Vec<String>> {
        mailbox.take().map(|frames| frames.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn newest_updates_replace_older_ones_and_answers_stay() {
        let auction = AuctionId::from_uuid(uuid::Uuid::from_u128(1));
        let other = AuctionId::from_uuid(uuid::Uuid::from_u128(2));
        let mailbox = Mailbox::new(Door::SocketIo);
        mailbox.update(Update::Bids(auction), Event::new("bids", 5));
        mailbox.push(Event::new("answer", 1));
        mailbox.update(Update::Timer(auction), Event::new("tick", 5));
        mailbox.update(Update::Bids(other), Event::new("other", 1));
        mailbox.update(Update::Bids(auction), Event::new("bids", 8));
        mailbox.raw("2");
        let expected = ["42[\"answer\",1]", "42[\"tick\",5]", "42[\"other\",1]", "42[\"bids\",8]", "2"];
        assert_eq!(take(&mailbox), Some(expected.map(str::to_owned).to_vec()));
        assert_eq!(take(&mailbox), Some(vec![]));
    }

    #[test]
    fn what_does_not_fit_ends_the_connection_instead_of_being_lost() {
        let mailbox = Mailbox::new(Door::Plain);
        for number in 0..=MAX_FRAMES {
            mailbox.push(Event::new("answer", number));
        }
        assert_eq!(take(&mailbox), None);
    }
}
