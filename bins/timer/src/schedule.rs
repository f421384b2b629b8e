//! The schedule of openings and closings, read from the log. Requests those that are due and sends ticks in between.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bus::{LogError, Logged};
use domain::{AuctionId, Status};
use futures_util::StreamExt;
use prometheus_client::metrics::counter::Counter;
use protocol::{Record, RecordKind, SyncType};
use tokio::sync::mpsc;

use crate::backend::Backend;
use crate::ticker::Ticker;

/// Time for the record of a requested opening or closing to appear. After it the request is repeated.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// Pause before the log is followed again after an error.
const FOLLOW_AGAIN: Duration = Duration::from_millis(500);
/// Finished requests that may wait until the schedule handles them. Each auction has at most one.
const MAX_ASKING: usize = 4096;
/// Milliseconds added to every due time. Our estimate of Redis' clock may be ahead of it by this much; a request
/// slightly later saves a second one.
const MARGIN_MS: u64 = 5;
/// Longest wait before the next due time is computed again, because the clock of Redis may be set in between.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

struct Entry {
    record: Record,
    /// When the opening or closing is due, by the clock of Redis. Also part of the key in `Schedule::due`.
    due: u64,
}

/// The auctions that are scheduled or live, by due time.
pub struct Schedule<B> {
    ticker: Ticker<B>,
    interval: Duration,
    running: HashMap<AuctionId, Entry>,
    due: BTreeSet<(u64, AuctionId)>,
}

impl<B: Backend> Schedule<B> {
    /// An empty schedule. `interval` is the time between two ticks of an auction; `sent` counts ticks.
    pub fn new(backend: B, interval: Duration, sent: Counter) -> Self {
        Self { ticker: Ticker { backend, sent }, interval, running: HashMap::new(), due: BTreeSet::new() }
    }

    /// Follows the log, requests due openings and closings and sends ticks. Never returns.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let (asked, mut answered) = mpsc::channel(MAX_ASKING);
        let backend = self.ticker.backend.clone();
        loop {
            let mut records = match backend.follow().await {
                Ok(records) => records,
                Err(error) => {
                    tracing::warn!(error = %errors::chain(&error), "failed to follow the log; will retry");
                    tokio::time::sleep(FOLLOW_AGAIN).await;
                    continue;
                }
            };
            loop {
                // Due requests come first, however busy the log is.
                tokio::select! {
                    biased;
                    () = self.next_due() => self.ask(&asked),
                    Some(auction_id) = answered.recv() => self.again(auction_id),
                    _ = ticks.tick() => self.tick_all().await,
                    next = records.next() => match next {
                        Some(Ok(logged)) => self.note(logged).await,
                        // bid-processing halts this auction until an operator has repaired it; the others continue.
                        Some(Err(error @ LogError::Record { .. })) => {
                            tracing::error!(error = %errors::chain(&error), "skipped an invalid record");
                        }
                        Some(Err(error)) => {
                            tracing::warn!(error = %errors::chain(&error), "failed to read the log; will follow it again");
                            break;
                        }
                        None => break,
                    },
                }
            }
            tokio::time::sleep(FOLLOW_AGAIN).await;
        }
    }

    /// Updates the schedule from a record and sends the tick that it causes, if any.
    async fn note(&mut self, logged: Logged) {
        let record = logged.record;
        let auction_id = record.auction_id;
        let before = self.running.get(&auction_id).map(|entry| (entry.record.seq, entry.record.state.end_time));
        if before.is_some_and(|(seq, _)| seq >= record.seq) {
            return;
        }
        if let Some(entry) = self.running.remove(&auction_id) {
            self.due.remove(&(entry.due, auction_id));
        }
        if record.state.outcome.is_some() {
            // Only for an auction that was seen running: auctions that ended earlier have sent their final tick.
            if before.is_some() {
                self.ticker.tick(&record, SyncType::Final).await;
            }
            return;
        }
        match record.kind.known() {
            Some(RecordKind::Opened) => self.ticker.tick(&record, SyncType::Tick).await,
            Some(RecordKind::Bids) if before.is_some_and(|(_, end)| end < record.state.end_time) => {
                self.ticker.tick(&record, SyncType::Extended).await;
            }
            _ => {}
        }
        let when =
            if record.state.status == Status::Scheduled { record.state.starts_at } else { record.state.end_time };
        let due = when + MARGIN_MS;
        self.due.insert((due, auction_id));
        self.running.insert(auction_id, Entry { record, due });
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
                tokio::time::sleep(left.min(LOOK_AGAIN)).await;
            }
            None => std::future::pending().await,
        }
    }

    /// Sends every due request. Each auction returns through `asked` and is then due again, unless its next record came
    /// first.
    fn ask(&mut self, asked: &mpsc::Sender<AuctionId>) {
        let now = self.ticker.backend.now().0;
        while let Some((due, auction_id)) = self.due.first().copied()
            && due <= now
        {
            self.due.pop_first();
            let opening =
                self.running.get(&auction_id).is_some_and(|entry| entry.record.state.status == Status::Scheduled);
            let (backend, asked) = (self.ticker.backend.clone(), asked.clone());
            tokio::spawn(async move {
                let done = if opening { backend.open(auction_id).await } else { backend.close(auction_id).await };
                if let Err(error) = done {
                    tracing::warn!(%auction_id, opening, error = %errors::chain(&error), "opening or closing request failed; will retry");
                }
                tokio::time::sleep(ASK_AGAIN).await;
                // Closed only when the schedule itself is gone.
                _ = asked.send(auction_id).await;
            });
        }
    }

    /// Puts an auction back after its request, unless the log has ended it. It is due again at once, or later if the
    /// clock was set back in between.
    fn again(&mut self, auction_id: AuctionId) {
        if let Some(entry) = self.running.get(&auction_id) {
            self.due.insert((entry.due, auction_id));
        }
    }
}
