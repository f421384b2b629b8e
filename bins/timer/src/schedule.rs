//! The schedule of openings and closings, read from the log. Requests those that are due and sends ticks in between.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bus::{LogError, Logged};
use domain::{AuctionId, Millis, Status};
use futures_util::{Stream, StreamExt, stream};
use protocol::{Record, RecordKind, SyncType};
use tokio::task::JoinSet;

use crate::backend::{Backend, Records};
use crate::pace::{Due, Pace};
use crate::running::Running;
use crate::ticker::{Metrics, Ticker};
use crate::waiting::Waiting;

/// Milliseconds for the record of a requested opening or closing to appear. After them the request is repeated.
const ASK_AGAIN_MS: u64 = 250;
/// Milliseconds after which an auction that waits for another is asked for again, whatever has been heard of that one. Its
/// ending record is missed only if this version cannot read it.
const WAIT_AGAIN_MS: u64 = 60_000;
/// Pause before the log is followed again after an error.
const FOLLOW_AGAIN: Duration = Duration::from_millis(500);
/// Requests in flight. bid-processing appends some thousand records a second, so that this number, from each of three
/// instances, is answered within a request's time limit (`ASK_TIMEOUT`). More at once would time out in its queue and be
/// requested again, by every instance, while the first requests are still being served.
const MAX_ASKS_IN_FLIGHT: usize = 256;
/// Pause, in milliseconds, before a closing is requested again because the clock of Redis had not reached the end. It
/// doubles with each such request.
const EARLY_AGAIN_MS: u64 = 4;
/// Milliseconds added to the time of an opening, in case our estimate of Redis' clock is ahead of it.
const OPENING_MARGIN_MS: u64 = 5;
/// Milliseconds added to the time of a closing: both clocks count whole milliseconds. A request that still comes early is
/// repeated after [`EARLY_AGAIN_MS`].
const CLOSING_MARGIN_MS: u64 = 1;
/// Longest wait before the next due time is computed again, because the clock of Redis may be set in between.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Whether an auction's opening or closing is being requested.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Request {
    /// The auction is in `Schedule::due`.
    Waiting,
    /// The auction returns to `Schedule::due` when the request is finished.
    InFlight,
}

struct Entry {
    record: Arc<Record>,
    /// When the next request is due, by the clock of Redis. Also part of the key in `Schedule::due`.
    due: u64,
    request: Request,
    /// When an auction that follows another opens, once that one has ended.
    opens_at: Option<u64>,
    /// Before that: when it is asked for. At once at first.
    ask_at: u64,
    /// The last pause after a request that came early, in milliseconds; 0 if none did.
    early_ms: u64,
}

/// A finished request.
struct Asked {
    auction_id: AuctionId,
    /// The seq that its entry had.
    seq: u64,
    /// None if the request failed.
    answer: Option<Answer>,
}

/// The answer to a request.
#[derive(Clone, Copy)]
enum Answer {
    /// When the opening of an auction that follows another is due, if that one has ended.
    Opening(Option<Millis>),
    /// Whether the auction is over.
    Closing { is_over: bool },
}

/// The auctions that are scheduled or live, by due time.
pub struct Schedule<B> {
    ticker: Ticker<B>,
    interval: Duration,
    running: HashMap<AuctionId, Entry>,
    /// The same auctions, for readers.
    shown: Running,
    /// Auctions without a request in flight. A repeated request is due after the first ones of all others that are due
    /// by then, so that auctions which cannot be closed do not take the places of those that can.
    due: BTreeSet<(u64, AuctionId)>,
    waiting: Waiting,
}

impl<B: Backend> Schedule<B> {
    /// An empty schedule. `interval` is the time between two ticks of an auction.
    pub fn new(backend: B, interval: Duration, metrics: Metrics) -> Self {
        let (ticker, shown) = (Ticker { backend, metrics }, Running::default());
        let (running, due, waiting) = (HashMap::new(), BTreeSet::new(), Waiting::default());
        Self { ticker, interval, running, shown, due, waiting }
    }

    /// The running auctions as this schedule follows them.
    pub fn shown(&self) -> Running {
        self.shown.clone()
    }

    /// Follows the log, requests due openings and closings and sends ticks. Never returns.
    pub async fn run(mut self) {
        let mut pace = Pace::new(self.interval);
        let mut asks = JoinSet::new();
        // Follows the log again by itself: requests and ticks do not wait for it.
        let mut records = Box::pin(followed(self.ticker.backend.clone()));
        loop {
            // Due requests come first, however busy the log is.
            tokio::select! {
                biased;
                () = self.next_due(), if asks.len() < MAX_ASKS_IN_FLIGHT => self.ask(&mut asks),
                Some(asked) = asks.join_next() => match asked {
                    Ok(asked) => self.again(&asked),
                    // A request that panicked ends the process, as a panic here would.
                    Err(error) => if let Ok(panic) = error.try_into_panic() { std::panic::resume_unwind(panic) },
                },
                due = pace.next() => self.tick_due(&due).await,
                Some(followed) = records.next() => match followed {
                    Followed::Record(logged) => self.note(*logged).await,
                    Followed::AnotherLog => self.forget_all(),
                },
            }
        }
    }

    /// Updates the schedule from a record and sends the tick that it causes, if any.
    async fn note(&mut self, logged: Logged) {
        let record = Arc::new(logged.record);
        let auction_id = record.auction_id;
        let before = self.running.get(&auction_id).map(|entry| (entry.record.mark(), entry.record.state.end_time));
        if before.is_some_and(|(mark, _)| mark.seq >= record.seq) {
            return;
        }
        // One that breaks the chain is not the auction's, whatever it says about the end: bid-processing halts the
        // auction, and this schedule goes on asking for its closing.
        if !before.map_or(record.is_whole(), |(mark, _)| record.may_follow(mark)) {
            let stream_seq = logged.stream_seq;
            return tracing::error!(%auction_id, stream_seq, "record breaks the chain of its auction; skipped");
        }
        self.shown.note(&record);
        let earlier = self.running.remove(&auction_id);
        if let Some(entry) = &earlier {
            self.due.remove(&(entry.due, auction_id));
        }
        self.note_sequence(&record);
        if record.state.outcome.is_some() {
            // Only for an auction that was seen running: auctions that ended earlier have sent their final tick.
            if before.is_some() {
                if record.kind == RecordKind::Closed && record.by.is_none() {
                    self.ticker.metrics.close_lag.record_between(record.state.end_time, record.time);
                }
                self.ticker.tick(&record, SyncType::Final).await;
            }
            return;
        }
        match record.kind.known() {
            Some(RecordKind::Paused) => self.ticker.tick(&record, SyncType::Paused).await,
            Some(RecordKind::Resumed) => self.ticker.tick(&record, SyncType::Resumed).await,
            Some(RecordKind::Opened) => self.ticker.tick(&record, SyncType::Tick).await,
            Some(RecordKind::Bids) if before.is_some_and(|(_, end)| end < record.state.end_time) => {
                self.ticker.tick(&record, SyncType::Extended).await;
            }
            _ => {}
        }
        let mut entry = match earlier {
            Some(entry) => Entry { record, early_ms: 0, ..entry },
            None => Entry { record, due: 0, request: Request::Waiting, opens_at: None, ask_at: 0, early_ms: 0 },
        };
        entry.due = entry.next_due();
        if entry.request == Request::Waiting {
            self.due.insert((entry.due, auction_id));
        }
        self.running.insert(auction_id, entry);
    }

    /// Notes which auction an auction waits for, and at an end schedules those that have waited for it.
    fn note_sequence(&mut self, record: &Record) {
        let state = &record.state;
        if let Some(follows) = state.options.follows {
            if state.status == Status::Scheduled {
                self.waiting.add(follows, record.auction_id);
            } else {
                self.waiting.remove(follows, record.auction_id);
            }
        }
        let Some(ended_at) = state.ended_at else { return };
        for follower in self.waiting.end(record.auction_id) {
            let Some(entry) = self.running.get_mut(&follower) else { continue };
            entry.opens_at = Some(ended_at + entry.record.state.options.gap_ms);
            if entry.request == Request::Waiting {
                self.due.remove(&(entry.due, follower));
                entry.due = entry.next_due();
                self.due.insert((entry.due, follower));
            }
        }
    }

    /// Forgets every auction. The last records of the other log follow.
    fn forget_all(&mut self) {
        tracing::warn!(auctions = self.running.len(), "the log is another one: the schedule is made again");
        self.running.clear();
        self.due.clear();
        self.waiting.clear();
        self.shown.clear();
    }

    async fn tick_due(&self, due: &Due) {
        for (_, entry) in self.running.iter().filter(|(auction_id, _)| due.has(**auction_id)) {
            self.ticker.tick(&entry.record, SyncType::Tick).await;
        }
    }

    async fn next_due(&self) {
        match self.due.first() {
            Some((due, _)) => {
                let left = Duration::from_millis(due.saturating_sub(self.ticker.backend.now().0));
                // Even the shortest sleep waits for the timer, which a busy log would begin again and again.
                if !left.is_zero() {
                    tokio::time::sleep(left.min(LOOK_AGAIN)).await;
                }
            }
            None => std::future::pending().await,
        }
    }

    /// Sends due requests, the longest due first, until the most are in flight. Each auction returns through
    /// [`Schedule::again`].
    fn ask(&mut self, asks: &mut JoinSet<Asked>) {
        let now = self.ticker.backend.now().0;
        while asks.len() < MAX_ASKS_IN_FLIGHT
            && let Some((due, auction_id)) = self.due.first().copied()
            && due <= now
        {
            self.due.pop_first();
            let Some(entry) = self.running.get_mut(&auction_id) else { continue };
            entry.request = Request::InFlight;
            let (seq, opening) = (entry.record.seq, entry.record.state.status == Status::Scheduled);
            let backend = self.ticker.backend.clone();
            asks.spawn(async move {
                let answered = if opening {
                    backend.open(auction_id).await.map(Answer::Opening)
                } else {
                    backend.close(auction_id).await.map(|is_over| Answer::Closing { is_over })
                };
                if let Err(error) = &answered {
                    tracing::warn!(%auction_id, opening, error = %errors::chain(error), "opening or closing request failed; will retry");
                }
                Asked { auction_id, seq, answer: answered.ok() }
            });
        }
    }

    /// Puts an auction back after its request, unless the log has ended it. Its request is repeated if no record comes
    /// in time, or later if the clock was set back in between. One that waits for another is asked for when that one has
    /// ended, which may have become known during the request.
    fn again(&mut self, asked: &Asked) {
        let Some(entry) = self.running.get_mut(&asked.auction_id) else { return };
        let now = self.ticker.backend.now().0;
        entry.request = Request::Waiting;
        let mut pause_ms = ASK_AGAIN_MS;
        match asked.answer {
            Some(Answer::Opening(Some(opens_at))) => entry.opens_at = Some(opens_at.0),
            Some(Answer::Opening(None)) => entry.ask_at = now + WAIT_AGAIN_MS,
            Some(Answer::Closing { is_over: false }) => {
                pause_ms = (2 * entry.early_ms).clamp(EARLY_AGAIN_MS, ASK_AGAIN_MS);
                entry.early_ms = pause_ms;
            }
            Some(Answer::Closing { is_over: true }) | None => {}
        }
        entry.due = entry.next_due();
        if entry.record.seq == asked.seq && entry.due <= now {
            entry.due = now + pause_ms;
        }
        self.due.insert((entry.due, asked.auction_id));
    }
}

impl Entry {
    /// When the opening or closing of the auction is due, by the clock of Redis.
    fn next_due(&self) -> u64 {
        let state = &self.record.state;
        match state.status.known() {
            Some(Status::Scheduled) if state.options.follows.is_some() => {
                self.opens_at.map_or(self.ask_at, |opens_at| opens_at + OPENING_MARGIN_MS)
            }
            Some(Status::Scheduled) => state.starts_at + OPENING_MARGIN_MS,
            // The closing is in the next record, unless Redis lost it before the log had it.
            Some(Status::Live) if state.is_bought() => self.record.time + ASK_AGAIN_MS,
            // Its time is stopped. The record of its resumption says when it ends.
            Some(Status::Paused) => u64::MAX,
            _ => state.end_time + CLOSING_MARGIN_MS,
        }
    }
}

/// An item of the log.
enum Followed {
    /// A record.
    Record(Box<Logged>),
    /// The records from here on are of another log: it was lost, or restored from a backup.
    AnotherLog,
}

/// The records of the log. Never ends: after an error the log is followed again.
fn followed<B: Backend>(backend: B) -> impl Stream<Item = Followed> + Send {
    let generation = backend.generation();
    stream::unfold((backend, generation, None::<Records>), |(backend, generation, mut records)| async move {
        loop {
            let Some(following) = &mut records else {
                // Read before: a log that is replaced in between is followed once more.
                let now = backend.generation();
                match backend.follow().await {
                    Ok(followed) if now == generation => records = Some(followed),
                    Ok(followed) => return Some((Followed::AnotherLog, (backend, now, Some(followed)))),
                    Err(error) => {
                        tracing::warn!(error = %errors::chain(&error), "failed to follow the log; will retry");
                        tokio::time::sleep(FOLLOW_AGAIN).await;
                    }
                }
                continue;
            };
            match following.next().await {
                Some(Ok(logged)) => return Some((Followed::Record(Box::new(logged)), (backend, generation, records))),
                // bid-processing halts this auction until an operator has repaired it; the others continue.
                Some(Err(error @ LogError::Record { .. })) => {
                    tracing::error!(error = %errors::chain(&error), "skipped an invalid record");
                    continue;
                }
                Some(Err(error)) => {
                    tracing::warn!(error = %errors::chain(&error), "failed to read the log; will follow it again");
                }
                None => {}
            }
            records = None;
            tokio::time::sleep(FOLLOW_AGAIN).await;
        }
    })
}

#[cfg(test)]
mod tests;
