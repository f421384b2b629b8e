//! The schedule of openings and closings, read from the log. Requests those that are due and sends ticks in between.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bus::{LogError, Logged};
use domain::{AuctionId, Status};
use futures_util::{Stream, StreamExt, stream};
use protocol::{Record, RecordKind, SyncType};
use tokio::task::JoinSet;

use crate::backend::{Backend, Records};
use crate::running::Running;
use crate::ticker::{Metrics, Ticker};

/// Milliseconds for the record of a requested opening or closing to appear. After them the request is repeated.
const ASK_AGAIN_MS: u64 = 250;
/// Pause before the log is followed again after an error.
const FOLLOW_AGAIN: Duration = Duration::from_millis(500);
/// Requests in flight. bid-processing appends some thousand records a second, so that this number, from each of three
/// instances, is answered within a request's time limit (`ASK_TIMEOUT`). More at once would time out in its queue and be
/// requested again, by every instance, while the first requests are still being served.
const MAX_ASKS_IN_FLIGHT: usize = 256;
/// Milliseconds added to every due time. Our estimate of Redis' clock may be ahead of it by this much; a request
/// slightly later saves a second one.
const MARGIN_MS: u64 = 5;
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
}

/// A finished request: the auction, and the seq that its entry had.
type Asked = (AuctionId, u64);

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
}

impl<B: Backend> Schedule<B> {
    /// An empty schedule. `interval` is the time between two ticks of an auction.
    pub fn new(backend: B, interval: Duration, metrics: Metrics) -> Self {
        let (ticker, shown) = (Ticker { backend, metrics }, Running::default());
        Self { ticker, interval, running: HashMap::new(), shown, due: BTreeSet::new() }
    }

    /// The running auctions as this schedule follows them.
    pub fn shown(&self) -> Running {
        self.shown.clone()
    }

    /// Follows the log, requests due openings and closings and sends ticks. Never returns.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut asks = JoinSet::new();
        // Follows the log again by itself: requests and ticks do not wait for it.
        let mut records = Box::pin(followed(self.ticker.backend.clone()));
        loop {
            // Due requests come first, however busy the log is.
            tokio::select! {
                biased;
                () = self.next_due(), if asks.len() < MAX_ASKS_IN_FLIGHT => self.ask(&mut asks),
                Some(asked) = asks.join_next() => match asked {
                    Ok(asked) => self.again(asked),
                    // A request that panicked ends the process, as a panic here would.
                    Err(error) => if let Ok(panic) = error.try_into_panic() { std::panic::resume_unwind(panic) },
                },
                _ = ticks.tick() => self.tick_all().await,
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
        let mut request = Request::Waiting;
        if let Some(entry) = self.running.remove(&auction_id) {
            self.due.remove(&(entry.due, auction_id));
            request = entry.request;
        }
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
        let due = due(&record);
        if request == Request::Waiting {
            self.due.insert((due, auction_id));
        }
        self.running.insert(auction_id, Entry { record, due, request });
    }

    /// Forgets every auction. The last records of the other log follow.
    fn forget_all(&mut self) {
        tracing::warn!(auctions = self.running.len(), "the log is another one: the schedule is made again");
        self.running.clear();
        self.due.clear();
        self.shown.clear();
    }

    async fn tick_all(&self) {
        for entry in self.running.values() {
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
                let done = if opening { backend.open(auction_id).await } else { backend.close(auction_id).await };
                if let Err(error) = done {
                    tracing::warn!(%auction_id, opening, error = %errors::chain(&error), "opening or closing request failed; will retry");
                }
                (auction_id, seq)
            });
        }
    }

    /// Puts an auction back after its request, unless the log has ended it. Its request is repeated if no record comes
    /// in time, or later if the clock was set back in between.
    fn again(&mut self, (auction_id, seq): Asked) {
        let Some(entry) = self.running.get_mut(&auction_id) else { return };
        entry.request = Request::Waiting;
        entry.due = due(&entry.record);
        if entry.record.seq == seq {
            entry.due = entry.due.max(self.ticker.backend.now().0 + ASK_AGAIN_MS);
        }
        self.due.insert((entry.due, auction_id));
    }
}

/// When the opening or closing of an auction is due, by the clock of Redis.
fn due(record: &Record) -> u64 {
    let state = &record.state;
    match state.status.known() {
        Some(Status::Scheduled) => state.starts_at + MARGIN_MS,
        // The closing is in the next record, unless Redis lost it before the log had it.
        Some(Status::Live) if state.is_bought() => record.time + ASK_AGAIN_MS,
        // Its time is stopped. The record of its resumption says when it ends.
        Some(Status::Paused) => u64::MAX,
        _ => state.end_time + MARGIN_MS,
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
