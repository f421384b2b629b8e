//! Committed states and chats as readers see them, and the tasks that keep them current. See [`Followed`].

use std::sync::Arc;
use std::time::Duration;

use admission::{OnAirAuctions, UnknownAuctions};
use bus::{Bus, Chat, Log, LogError, Said};
use domain::AuctionId;
use futures_util::StreamExt;
use hotstate::MAX_RECENT_BIDS;
use protocol::{ChatMessage, ChatSlowed, Code, CommittedState, Failure, MAX_CHAT_HISTORY, Record, Talk, subject};
use tokio::time::Instant;

use crate::catalogue::CountedCategories;
use crate::context;
use crate::followed::{At, Followed};

/// States kept, about 8 KB each. The auctions of 40 pages of a list.
const MAX_STATES: usize = 4096;
/// Longest time for which a state is shown without being asked for again. Records keep it current; the number of people
/// who watch is not in them.
pub const STATE_MAX_AGE: Duration = Duration::from_millis(250);
/// The same in a list, which shows a hundred of them.
pub const LISTED_MAX_AGE: Duration = Duration::from_secs(2);
/// Chats kept, 25 KB each of long messages.
const MAX_CHATS: usize = 512;
/// Longest time for which a chat is shown without being read again. Reading takes a consumer and up to 500 messages;
/// without a loss, what the stream republishes is complete.
const CHAT_MAX_AGE: Duration = Duration::from_secs(10);
/// Shortest time between two readings of an announced entry, of all chats that are kept. Records wait for a reading.
const READ_CHAT_EVERY: Duration = Duration::from_millis(5);

/// Interval between two looks whether the log is another one. A look reads a number.
const LOOK_AT_LOG_EVERY: Duration = Duration::from_millis(250);

/// The states and chats of the auctions that were asked for lately.
pub struct Views {
    bus: Bus,
    chat: Chat,
    states: Followed<CommittedState>,
    chats: Followed<Vec<ChatMessage>>,
    /// Ids that PostgreSQL does not have.
    pub unknown: UnknownAuctions,
    /// The categories in use.
    pub categories: CountedCategories,
    /// Auctions whose hosts stream.
    pub on_air: OnAirAuctions,
    /// Whether everyone but an auction's host sees aliases in place of the names, which are kept.
    pub show_aliases: bool,
}

impl Views {
    /// Nothing is known yet.
    pub fn new(bus: Bus, chat: Chat, show_aliases: bool) -> Self {
        let states = Followed::new(MAX_STATES, LISTED_MAX_AGE);
        let chats = Followed::new(MAX_CHATS, CHAT_MAX_AGE);
        Self {
            bus,
            chat,
            states,
            chats,
            unknown: UnknownAuctions::default(),
            categories: CountedCategories::default(),
            on_air: OnAirAuctions::default(),
            show_aliases,
        }
    }

    /// The committed state of an auction, if it need not be asked for.
    pub fn current_state(&self, auction_id: AuctionId) -> Option<Result<Arc<CommittedState>, Failure>> {
        self.states.current(auction_id, STATE_MAX_AGE, self.bus.connection())
    }

    /// The committed state of an auction, from bid-processing if it is not current or older than `max_age`.
    pub async fn state(
        &self,
        auction_id: AuctionId,
        max_age: Duration,
        timeout: Duration,
    ) -> Result<Arc<CommittedState>, Failure> {
        let ask = || async move {
            let state = context::state(&self.bus, auction_id, timeout).await?;
            Ok(At { stream_seq: state.stream_seq, value: Arc::new(state) })
        };
        self.states.get(auction_id, max_age, || self.bus.connection(), ask).await
    }

    /// Takes the state that bid-processing has returned after a change.
    pub fn learn(&self, state: CommittedState) {
        self.states.learn(state.auction_id, At { stream_seq: state.stream_seq, value: Arc::new(state) });
    }

    /// The newest messages of an auction's chat, oldest first.
    pub async fn chat(&self, auction_id: AuctionId) -> Result<Arc<Vec<ChatMessage>>, Failure> {
        let ask = || async move {
            let history = self.chat.history(auction_id).await.map_err(|error| {
                tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to read the chat");
                Failure::from(Code::Unavailable)
            })?;
            let stream_seq = history.last().map_or(0, |(stream_seq, _)| *stream_seq);
            let messages = protocol::messages(history.into_iter().map(|(_, talk)| talk));
            Ok(At { stream_seq, value: Arc::new(messages) })
        };
        self.chats.get(auction_id, CHAT_MAX_AGE, || self.bus.connection(), ask).await
    }

    /// Notifies the rooms of a chat's slow mode, after Redis has it. Repeatable.
    ///
    /// # Errors
    /// When the stream does not confirm it.
    pub async fn announce_slow_mode(&self, auction_id: AuctionId, slow_mode_seconds: u64) -> Result<(), LogError> {
        self.chat.slowed(ChatSlowed { auction_id, slow_mode_seconds }).await
    }

    /// Takes an entry that was announced, as it is stored: the one that was received may be forged. If too many were
    /// announced at once, the chat is read when it is asked for.
    async fn hear(&self, auction_id: AuctionId, said: Said, read_after: &mut Instant) {
        let Said { stream_seq, previous_stream_seq, .. } = said;
        let mut talk = None;
        if Instant::now() >= *read_after {
            *read_after = Instant::now() + READ_CHAT_EVERY;
            match self.chat.next(auction_id, stream_seq).await {
                Ok(Some((found, stored))) if found == stream_seq => talk = stored,
                // It is not stored. If it was erased, the entry that says so follows.
                Ok(_) => return,
                Err(error) => tracing::debug!(error = %errors::chain(&error), "failed to read a chat entry"),
            }
        }
        self.chats.observe(auction_id, stream_seq, previous_stream_seq, |chat| grown(chat, talk?));
    }

    /// Follows the records and chats of all auctions, as hints.
    ///
    /// # Errors
    /// When NATS rejects a subscription.
    pub async fn follow(self: &Arc<Self>, log: &Log) -> Result<impl Future<Output = ()> + Send + use<>, LogError> {
        let mut records = log.events(subject::ALL_EVENTS.to_owned()).await?;
        let mut said = self.chat.listen_to_all().await?;
        let (views, log) = (Arc::clone(self), log.clone());
        let mut read_chat_after = Instant::now();
        Ok(async move {
            let mut generation = log.generation();
            let mut looking = tokio::time::interval(LOOK_AT_LOG_EVERY);
            looking.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = looking.tick() => {
                        let now = log.generation();
                        if std::mem::replace(&mut generation, now) != now {
                            views.states.clear();
                            views.chats.clear();
                        }
                    }
                    logged = records.next() => {
                        let Some(logged) = logged else { return };
                        let auction_id = logged.record.auction_id;
                        views.unknown.forget(auction_id);
                        let after = |state: &CommittedState| after(state, logged.stream_seq, &logged.record);
                        views.states.observe(auction_id, logged.stream_seq, logged.previous_stream_seq, after);
                    }
                    said = said.next() => {
                        let Some((auction_id, said)) = said else { return };
                        if views.chats.is_kept(auction_id) {
                            views.hear(auction_id, said, &mut read_chat_after).await;
                        }
                    }
                }
            }
        })
    }
}

/// The state after the record that continues it. None if the state must be asked for again: the record does not continue
/// it, or ends the auction, which only bid-processing says.
fn after(before: &CommittedState, stream_seq: u64, record: &Record) -> Option<CommittedState> {
    if record.state.outcome.is_some() || record.computed_head().is_none() || !record.continues(before.mark()) {
        return None;
    }
    let recent = record.bids.iter().rev().chain(&before.recent_bids);
    Some(CommittedState {
        auction_id: before.auction_id,
        seq: record.seq,
        head: record.head,
        stream_seq,
        state: record.state.clone(),
        recent_bids: recent.take(MAX_RECENT_BIDS).cloned().collect(),
        participant_count: before.participant_count,
        slow_mode_seconds: before.slow_mode_seconds,
        has_secrets: record.sealed.is_some(),
        opens_at: None,
    })
}

/// The chat after the entry that follows it. None if an older message takes the place of a deleted one.
fn grown(chat: &[ChatMessage], talk: Talk) -> Option<Vec<ChatMessage>> {
    match talk {
        Talk::Message(message) => {
            let older = &chat[(chat.len() + 1).saturating_sub(MAX_CHAT_HISTORY)..];
            Some(older.iter().cloned().chain([message]).collect())
        }
        Talk::Deleted(_) => None,
        Talk::Muted(_) | Talk::Slowed(_) => Some(chat.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: usize) -> ChatMessage {
        let message = serde_json::json!({
            "message_id": number.to_string(), "auction_id": uuid::Uuid::nil().to_string(),
            "user_id": uuid::Uuid::nil().to_string(),
            "username": "anna", "message": "Hello", "is_host": false, "timestamp": number
        });
        serde_json::from_value(message).unwrap()
    }

    #[test]
    fn chat_keeps_the_newest_messages() {
        let mut chat = Vec::new();
        for number in 0..MAX_CHAT_HISTORY + 7 {
            chat = grown(&chat, Talk::Message(message(number))).unwrap();
            assert!(chat.len() <= MAX_CHAT_HISTORY);
        }
        let times: Vec<u64> = chat.iter().map(|message| message.timestamp).collect();
        assert_eq!(times, (7..57).collect::<Vec<u64>>());
    }

    #[test]
    fn records_lead_to_the_state_that_bid_processing_has() {
        let lines = include_str!("../../../libs/protocol/tests/stored/closed.jsonl").lines();
        let records: Vec<Record> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        let first = &records[0];
        let mut state = CommittedState {
            auction_id: first.auction_id,
            seq: first.seq,
            head: first.head,
            stream_seq: 1,
            state: first.state.clone(),
            recent_bids: Vec::new(),
            participant_count: 3,
            slow_mode_seconds: 7,
            has_secrets: false,
            opens_at: None,
        };
        let (last, records) = records.split_last().unwrap();
        for (record, stream_seq) in records[1..].iter().zip(2..) {
            assert_eq!(after(&state, stream_seq, last), None, "records are missing");
            state = after(&state, stream_seq, record).unwrap();
        }
        assert_eq!(after(&state, 9, last), None, "the end is asked for");
        let last = records.last().unwrap();
        assert_eq!((state.seq, &state.state, state.participant_count), (last.seq, &last.state, 3));
        assert_eq!((state.stream_seq, state.slow_mode_seconds), (records.len() as u64, 7));
        let mut newest_first: Vec<_> = records.iter().flat_map(|record| record.bids.clone()).collect();
        newest_first.reverse();
        newest_first.truncate(MAX_RECENT_BIDS);
        assert_eq!(state.recent_bids, newest_first);
    }
}
