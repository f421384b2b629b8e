//! Confirms the state that the members see by the log.
//!
//! A republished record is a hint: any client that may publish on NATS can send one that continues the chain. It is
//! shown at once, unless it ends the auction, and the log confirms it within [`CONFIRM_WITHIN`]: one reading for all
//! records since the last. If the log does not have it, the members are given the last confirmed state again.
//! Everything else, a record that does not continue or that ends the auction, only causes the log to be read, at
//! most every [`READ_EVERY`].

use std::time::Duration;

use bus::{LogError, Logged};
use protocol::frames::Joined;
use protocol::{CommittedState, Mark};
use tokio::time::Instant;

use crate::event::Event;
use crate::room::open::{OpenRoom, Source};
use crate::transport::send_queue::Delivery;

/// Longest time for which a record is shown that the log has not confirmed. One reading a second for each auction with
/// bids and members, of a third of a millisecond.
const CONFIRM_WITHIN: Duration = Duration::from_secs(1);
/// Shortest time between two readings of the log: as between two updates of the members. However many messages are
/// forged, the log is read no more often.
const READ_EVERY: Duration = Duration::from_millis(50);
/// Time after a forged record in which a room shows only records that it has read. A flood of forged records is then seen
/// once a minute; true ones are shown up to [`READ_EVERY`] later.
const DISTRUST_FOR: Duration = Duration::from_secs(60);
/// Records of a gap that are read one by one, each for a third of a millisecond or more. After these the last record
/// alone is read: its state is complete, and the next update says which bids are left out.
const MAX_READ_ONE_BY_ONE: usize = 8;
/// Time after an end, in milliseconds, for the closing record to come. After it the room reads the log.
const END_GRACE_MS: u64 = 500;

/// The last record that the log has confirmed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Confirmed {
    stream_seq: u64,
    mark: Mark,
}

impl Confirmed {
    /// The position of a state that the log has confirmed.
    pub(super) const fn of(committed: &CommittedState) -> Self {
        Self { stream_seq: committed.stream_seq, mark: committed.mark() }
    }
}

impl OpenRoom {
    /// When the log is to be read. None once the auction is over and confirmed.
    pub const fn reading_due(&self) -> Option<Instant> {
        self.read_at
    }

    /// Shows a record that was republished, if it continues what is known; otherwise the log is read.
    pub async fn on_record(&mut self, logged: Logged) {
        if logged.stream_seq <= self.committed.stream_seq {
            return;
        }
        let record = &logged.record;
        let is_running = record.state.outcome.is_none() && self.committed.state.outcome.is_none();
        let is_readable = record.auction_id == self.auction_id && record.computed_head().is_some();
        let is_trusted = self.distrusted_until.is_none_or(|until| Instant::now() >= until);
        if is_trusted && is_running && is_readable && record.continues(self.committed.mark()) {
            self.apply(logged, Source::Hint).await;
        } else {
            self.read_soon().await;
        }
    }

    /// Reads the log now, or when that is allowed again.
    pub(super) async fn read_soon(&mut self) {
        if Instant::now() >= self.read_after {
            Box::pin(self.read_log()).await;
        } else {
            self.expect_reading_at(self.read_after);
        }
    }

    /// Reads the log because it is due.
    pub async fn read_due(&mut self) {
        Box::pin(self.read_log()).await;
    }

    /// Has the log confirm what is shown, and reads what follows.
    pub(super) async fn read_log(&mut self) {
        let read = match self.confirm().await {
            Ok(()) => self.read_on().await,
            Err(error) => Err(error),
        };
        if let Err(error) = read {
            let auction_id = self.auction_id;
            tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to read the log");
        }
        self.read_after = Instant::now() + READ_EVERY;
        self.read_at = None;
        self.expect_reading();
        self.show_waiting_tick().await;
    }

    /// Compares the shown state with the record from which it is said to come. Each record since the last confirmed
    /// one continues the one before, so this one vouches for all.
    async fn confirm(&mut self) -> Result<(), LogError> {
        let shown = &self.committed;
        if self.confirmed.mark == shown.mark() {
            return Ok(());
        }
        let found = match self.context.log.at(shown.stream_seq).await {
            Ok(found) => found.filter(|found| found.record.auction_id == self.auction_id),
            Err(LogError::Record { .. }) => None,
            Err(error) => return Err(error),
        };
        match found.map(|found| found.record) {
            Some(record) if record.mark() == shown.mark() && record.state == shown.state => {
                self.confirmed = Confirmed::of(shown);
                self.context.prices.confirm(&record, self.context.bus.connection());
                Ok(())
            }
            _ => self.undo().await,
        }
    }

    /// Gives the members the last confirmed state again, because the log does not have what was shown since.
    async fn undo(&mut self) -> Result<(), LogError> {
        let Confirmed { stream_seq, mark } = self.confirmed;
        let shown = self.committed.seq;
        tracing::error!(auction_id = %self.auction_id, shown, confirmed = mark.seq, "withdrew a record that the log does not have");
        self.context.metrics.forged_records.inc();
        self.distrusted_until = Some(Instant::now() + DISTRUST_FOR);
        let base = match self.context.log.at(stream_seq).await? {
            Some(base) if base.record.auction_id == self.auction_id => Some(base),
            _ => self.context.log.last(self.auction_id).await?,
        };
        let Some(Logged { stream_seq, record, .. }) = base else {
            return Err(LogError::Record { stream_seq, detail: "the log has lost this record".to_owned() });
        };
        let committed = &mut self.committed;
        (committed.seq, committed.head, committed.stream_seq) = (record.seq, record.head, stream_seq);
        committed.recent_bids.retain(|bid| bid.seq <= record.seq);
        committed.state = record.state.clone();
        committed.has_secrets = record.sealed.is_some();
        self.kept.forget_after(record.seq);
        self.confirmed = Confirmed::of(committed);
        self.last_sent_seq = record.seq;
        self.context.prices.apply(&record, self.context.bus.connection());
        self.send_state().await;
        Ok(())
    }

    /// Sends the whole state to all members, as if they had joined now.
    async fn send_state(&mut self) {
        self.committed.participant_count = self.count();
        let (now, leader) = (self.context.clock.now().0, self.committed.state.high_bidder_id);
        self.chat.make_contiguous();
        let state = |viewer, naming| {
            let joined = Joined {
                live: self.committed.live(viewer, now, self.chat.as_slices().0, naming),
                recovered: false,
                missed_bids: None,
                your_max_amount: None,
                stream_live: self.stream.is_live,
            };
            Event::new("joined_auction", joined)
        };
        // An id that is no person's: `you_are_winning` is false for the members that do not lead.
        let nobody = domain::UserId::from_uuid(uuid::Uuid::nil());
        let to_leader = state(leader, self.naming(leader));
        let to_others = self.broadcast(Delivery::Reliable, |naming| state(Some(nobody), naming));
        let broadcast = to_others.with_own(leader, to_leader);
        self.members.send(broadcast).await;
    }

    /// Reads every record after the last one known, or jumps to the last one if there are many.
    async fn read_on(&mut self) -> Result<(), LogError> {
        for _ in 0..MAX_READ_ONE_BY_ONE {
            match self.context.log.next(self.auction_id, self.committed.stream_seq + 1).await {
                Ok(Some(logged)) => self.take(logged).await,
                Ok(None) => return Ok(()),
                Err(LogError::Record { stream_seq, .. }) => {
                    tracing::error!(auction_id = %self.auction_id, stream_seq, "failed to parse a record; skipped");
                    self.committed.stream_seq = stream_seq;
                    self.may_jump = true;
                }
                Err(error) => return Err(error),
            }
        }
        match self.context.log.last(self.auction_id).await? {
            Some(logged) if logged.stream_seq > self.committed.stream_seq => {
                self.may_jump = true;
                self.take(logged).await;
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes a record of the log. One that breaks the chain is not shown: bid-processing halts the auction.
    async fn take(&mut self, logged: Logged) {
        let record = &logged.record;
        let is_old = record.seq <= self.committed.seq;
        // Facts are missing before it only where records were left out.
        let is_near = self.may_jump || record.seq.saturating_sub(record.facts()) <= self.committed.seq;
        if is_old || is_near && record.may_follow(self.committed.mark()) {
            self.may_jump = false;
            return self.apply(logged, Source::Log).await;
        }
        let stream_seq = logged.stream_seq;
        tracing::error!(auction_id = %self.auction_id, stream_seq, "record breaks the chain of its auction; skipped");
        self.context.metrics.forged_records.inc();
        self.committed.stream_seq = stream_seq;
    }

    /// Determines when the log is read next.
    pub(super) fn expect_reading(&mut self) {
        let state = &self.committed.state;
        let now = Instant::now();
        // Only its host ends a paused auction.
        let end = (state.outcome.is_none() && state.shown_end().is_some()).then(|| {
            // Once the end has passed, the log is read at this same interval until it has the closing record.
            let wait = (state.end_time + END_GRACE_MS).saturating_sub(self.context.clock.now().0).max(END_GRACE_MS);
            now + Duration::from_millis(wait)
        });
        let is_confirmed = self.confirmed.mark == self.committed.mark();
        // From the first record that waits, not from the last.
        let confirmation = (!is_confirmed).then(|| {
            let latest = now + CONFIRM_WITHIN;
            self.read_at.map_or(latest, |at| at.clamp(now, latest))
        });
        self.read_at = end.into_iter().chain(confirmation).min();
    }

    fn expect_reading_at(&mut self, at: Instant) {
        self.read_at = Some(self.read_at.map_or(at, |due| due.min(at)));
    }
}
