//! What one connection is still to be sent: bounded, newest updates replace older ones.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use domain::AuctionId;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// Frames that must arrive and may wait. One that reads nothing while this many gather cannot keep up.
const MAX_FRAMES: usize = 512;

/// Updates of the same kind of the same auction replace each other while they wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    Bids(AuctionId),
    Timer(AuctionId),
}

struct Waiting {
    frame: Utf8Bytes,
    update: Option<Update>,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Waiting>,
    overflowed: bool,
}

#[derive(Default)]
pub struct Mailbox {
    state: Mutex<State>,
    news: Notify,
}

impl Mailbox {
    /// A frame that must arrive.
    pub fn push(&self, frame: Utf8Bytes) {
        self.add(Waiting { frame, update: None });
    }

    /// A frame of which only the newest need arrive.
    pub fn update(&self, update: Update, frame: Utf8Bytes) {
        self.add(Waiting { frame, update: Some(update) });
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

    /// Everything that waits, in order; None once more came than fits.
    pub fn take(&self) -> Option<Vec<Utf8Bytes>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.overflowed { None } else { Some(state.frames.drain(..).map(|waiting| waiting.frame).collect()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(mailbox: &Mailbox) -> Option<Vec<String>> {
        mailbox.take().map(|frames| frames.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn newest_updates_replace_older_ones_and_answers_stay() {
        let auction = AuctionId::from_uuid(uuid::Uuid::from_u128(1));
        let other = AuctionId::from_uuid(uuid::Uuid::from_u128(2));
        let mailbox = Mailbox::default();
        mailbox.update(Update::Bids(auction), "bids 5".into());
        mailbox.push("answer".into());
        mailbox.update(Update::Timer(auction), "tick 5".into());
        mailbox.update(Update::Bids(other), "other".into());
        mailbox.update(Update::Bids(auction), "bids 8".into());
        assert_eq!(take(&mailbox), Some(vec!["answer".into(), "tick 5".into(), "other".into(), "bids 8".into()]));
        assert_eq!(take(&mailbox), Some(vec![]));
    }

    #[test]
    fn what_does_not_fit_ends_the_connection_instead_of_being_lost() {
        let mailbox = Mailbox::default();
        for number in 0..=MAX_FRAMES {
            mailbox.push(number.to_string().into());
        }
        assert_eq!(take(&mailbox), None);
    }
}
