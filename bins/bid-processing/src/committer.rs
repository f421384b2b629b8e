//! Appends what Redis has decided about one auction to the log, and rebuilds the auction in Redis from the log when
//! Redis has lost decisions.
//!
//! Committers of two instances may race for an auction: the log's compare-and-set picks one, the other reads the
//! winner's record and continues after it. Rebuilds race the same way, with a compare-and-set in Redis on the
//! (seq, head) that the rebuild started from.

mod failures;
mod hints;
mod replaced;
mod restoring;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bus::{AppendError, Logged};
use domain::AuctionId;
use hotstate::OutboxEntry;
use protocol::{Mark, Record};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{Instrument, trace_span};

use crate::backend::Backend;
use crate::backoff::Backoff;
use crate::checkpoints;
use crate::merge;
use crate::rebuild::RebuildError;
use crate::shared::{RETRY_PAUSE, Shared};
use crate::tail::{Contains, Tail};

/// Records that are read one by one. After more of them a caught-up instance would still be behind: it jumps to the
/// last record.
const MAX_READ_ONE_BY_ONE: usize = 16;

/// The fate of facts that were decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// In the log, with all records up to this stream sequence.
    InTheLog {
        /// The stream sequence of the record that holds the mark, or of the one before it if the mark is inside a
        /// record.
        stream_seq: u64,
    },
    /// Not in the log, and Redis has gone back: decide again. An append whose outcome is unknown may still put it there,
    /// unless another record comes first.
    Lost,
    /// In the log, which has continued since. Redis may have continued or gone back: the next decision shows which.
    Overtaken,
    /// The log has continued since, and perhaps has it: the next decision shows it.
    Outdated,
    /// Perhaps in the log.
    Unknown,
}

/// Commits one auction's facts.
pub struct Committer<B> {
    auction_id: AuctionId,
    shared: Arc<Shared<B>>,
    /// The auction's records, as the server republishes them from all instances.
    records: mpsc::Receiver<Box<Logged>>,
    tail: Option<Tail>,
    /// The generation of the log that the tail belongs to.
    generation: u64,
    /// The latest moment at which the tail was certainly the end of the log.
    confirmed_at: Option<Instant>,
    /// Number of records that this committer has appended.
    appends: u64,
    /// The outbox may hold facts that the log does not have.
    has_uncommitted: bool,
    /// Paces appends while the log rejects them.
    backoff: Backoff,
    halted_until: Option<Instant>,
    /// Conflicts since the last append or reading, with appends after hints.
    conflicts_on_hints: u32,
    /// Until when hints are not used, because one was forged.
    distrusted_until: Option<Instant>,
    /// The rebuild that runs, if one does. It outlives the calls that wait for it, and ends with the committer.
    rebuilding: JoinSet<Result<bool, RebuildError>>,
}

/// One decision, from before its script call until it is committed. Only [`Committer::begin`] makes one, so nothing is
/// committed that was not begun.
///
/// From its beginning the auction counts as having uncommitted facts. An attempt that is dropped (an error, a timeout)
/// leaves it so, and the next flush looks at the outbox.
#[must_use = "a decision that is dropped leaves the auction with uncommitted facts"]
pub struct Attempt<'a, B> {
    committer: &'a mut Committer<B>,
    /// The seq of the log's last record as it was known before the script call.
    committed: u64,
    /// Whether `committed` was read from the log after the calls were taken. Then a script reply that is not behind it is
    /// not behind any answer that was given before the calls, wherever the log ends by now.
    has_looked: bool,
    taken: Instant,
    answer_by: Instant,
}

impl<B: Backend> Attempt<'_, B> {
    /// The log's last record, as it was known before the script call.
    pub fn last(&self) -> Option<&Record> {
        self.committer.tail.as_ref().and_then(|tail| tail.last.as_ref())
    }

    /// Brings the log up to `mark`, which the script has replied, with the facts that it appended to the outbox, if any.
    ///
    /// Facts of the script are appended, and the compare-and-set proves that none was missed. The log may have them
    /// already: another instance has appended them, or a Redis that has gone back has accepted a repeated bid again, with
    /// the same time because its clock was set back. The record may then be older than the calls, and a refusal of this
    /// script may rest on the state before it.
    ///
    /// Where there is nothing to append (refusals, a read of the state) the end of the log must have been read since the
    /// calls were taken: a record of another instance may not have arrived here, and a Redis that has gone back does not
    /// know of it either. If the log then ends beyond the mark, the records there may be older than the calls.
    ///
    /// Calls that an older record may have overtaken are decided again, now with a look at the log before the script.
    pub async fn commit(self, mark: Mark, appended: Option<OutboxEntry>) -> Commit {
        let Self { committer, committed, has_looked, taken, answer_by } = self;
        let (has_facts, appends) = (appended.is_some(), committer.appends);
        let committing = committer.try_to_commit(mark, appended, committed, taken, answer_by);
        let commit = tokio::time::timeout_at(answer_by, committing).await.unwrap_or(Commit::Unknown);
        let is_in_the_log = matches!(commit, Commit::InTheLog { .. });
        // A record that is appended here is younger than the calls, and so is every record after it.
        let may_be_overtaken =
            if has_facts { committer.appends == appends } else { !has_looked && committer.committed() > mark.seq };
        if is_in_the_log && may_be_overtaken { Commit::Overtaken } else { commit }
    }

    /// The seq of the log's last record as it was known at the beginning.
    pub const fn committed(&self) -> u64 {
        self.committed
    }

    /// Ends an attempt whose script has certainly decided nothing.
    pub fn decided_nothing(self) {
        self.committer.has_uncommitted = false;
    }
}

impl<B: Backend> Committer<B> {
    /// The committer of an auction that nothing is known of yet. `records` are those that the server republishes.
    pub fn new(auction_id: AuctionId, shared: Arc<Shared<B>>, records: mpsc::Receiver<Box<Logged>>) -> Self {
        Self {
            auction_id,
            generation: shared.backend.generation(),
            shared,
            records,
            tail: None,
            confirmed_at: None,
            appends: 0,
            has_uncommitted: true,
            backoff: Backoff::default(),
            halted_until: None,
            conflicts_on_hints: 0,
            distrusted_until: None,
            rebuilding: JoinSet::new(),
        }
    }

    /// Begins a decision that is committed as soon as its script has replied. `taken` is when the calls that it answers
    /// were taken from the queue. None if earlier facts could not be committed by `answer_by`: then nothing may be
    /// decided on top of them.
    pub async fn begin(&mut self, taken: Instant, answer_by: Instant) -> Option<Attempt<'_, B>> {
        if !self.flush_outbox(answer_by).await {
            return None;
        }
        self.has_uncommitted = true;
        // A script reply with a lower seq than this comes from a Redis that has gone back in time.
        let (committed, has_looked) = (self.committed(), self.has_looked_since(taken));
        Some(Attempt { committer: self, committed, has_looked, taken, answer_by })
    }

    /// Whether the tail was certainly the end of the log at some moment since `taken`.
    fn has_looked_since(&self, taken: Instant) -> bool {
        self.confirmed_at.is_some_and(|confirmed| confirmed >= taken)
    }

    /// The backend, for a script that decides something which a later flush commits.
    pub fn deciding(&mut self) -> &B {
        self.has_uncommitted = true;
        &self.shared.backend
    }

    /// Whether the outbox may hold facts that the log does not have.
    pub const fn has_uncommitted(&self) -> bool {
        self.has_uncommitted
    }

    /// The seq of the log's last record as far as it is known; 0 if there is none.
    pub fn committed(&self) -> u64 {
        self.tail.as_ref().map_or(0, |tail| tail.mark.seq)
    }

    /// The end of the log, if it has been read.
    pub const fn tail(&self) -> Option<&Tail> {
        self.tail.as_ref()
    }

    /// The next record that this or another instance has appended.
    pub async fn next_record(&mut self) -> Option<Logged> {
        self.records.recv().await.map(|logged| *logged)
    }

    /// Takes all records that have arrived.
    pub fn catch_up(&mut self) {
        while let Ok(logged) = self.records.try_recv() {
            self.observe(*logged);
        }
    }

    /// Commits the facts that an instance that died may have left in the outbox.
    pub async fn flush_outbox_of_others(&mut self, until: Instant) {
        self.has_uncommitted = true;
        self.flush_outbox(until).await;
    }

    /// Commits what an earlier call, or another instance, left in the outbox. False if that did not work in time: then
    /// nothing may be decided on top of it.
    pub async fn flush_outbox(&mut self, until: Instant) -> bool {
        self.leave_replaced_log();
        // An append that is cut off here is in the log or not; the next attempt finds out which.
        tokio::time::timeout_at(until, self.try_to_flush(until)).await.unwrap_or(false)
    }

    async fn try_to_flush(&mut self, until: Instant) -> bool {
        while !self.is_halted() && (self.has_uncommitted || self.tail.is_none()) {
            if Instant::now() >= until {
                return false;
            }
            let Some(tail) = self.known_tail().await else {
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            };
            // Facts that only hints have are not cut from the outbox, nor appended again.
            if tail.has_hints() {
                self.read_on().await;
                continue;
            }
            let committed = tail.mark.seq;
            match self.shared.backend.outbox(self.auction_id, committed).await {
                Ok(entries) if entries.is_empty() => self.has_uncommitted = false,
                Ok(entries) => {
                    if !self.append(&entries, until).await {
                        return false;
                    }
                }
                Err(error) => self.redis_failed(&error).await,
            }
        }
        !self.is_halted()
    }

    async fn try_to_commit(
        &mut self,
        mark: Mark,
        mut appended: Option<OutboxEntry>,
        committed: u64,
        taken: Instant,
        until: Instant,
    ) -> Commit {
        let mut found_nothing = false;
        while !self.is_halted() {
            let Some(tail) = self.tail.as_ref() else { return Commit::Unknown };
            if mark.seq < committed {
                tracing::warn!(auction_id = %self.auction_id, seq = mark.seq, committed, "Redis is behind the log");
                return self.restore_lost(until).await;
            }
            match tail.contains(mark) {
                Contains::Yes { stream_seq } => {
                    self.has_uncommitted = false;
                    if self.has_looked_since(taken) || self.read_on().await {
                        return Commit::InTheLog { stream_seq };
                    }
                    if Instant::now() >= until {
                        return Commit::Unknown;
                    }
                    continue;
                }
                Contains::No => {
                    tracing::warn!(auction_id = %self.auction_id, seq = mark.seq, "log has another fact at this seq");
                    return self.restore_lost(until).await;
                }
                Contains::Unknown => return Commit::Outdated,
                Contains::NotYet | Contains::Heard => self.has_uncommitted = true,
            }
            if Instant::now() >= until {
                return Commit::Unknown;
            }
            let end = tail.end();
            let continues = |entry: &OutboxEntry| entry.prev == end.mark.head;
            if tail.has_hints() && !appended.as_ref().is_some_and(continues) {
                self.read_on().await;
                continue;
            }
            // Facts that continue the tail are appended as the script replied them. Everything else is in the outbox,
            // where they stay until the next facts or a sweep.
            let entries = match appended.take().filter(continues) {
                Some(entry) => Ok(vec![entry]),
                None => self.shared.backend.outbox(self.auction_id, tail.mark.seq).await,
            };
            match entries {
                Ok(entries) if entries.is_empty() => {
                    // Another instance has committed the facts and cut the outbox, or Redis has lost them.
                    if found_nothing {
                        return self.restore_lost(until).await;
                    }
                    found_nothing = self.read_on().await;
                }
                Ok(entries) => {
                    if !self.append(&entries, until).await {
                        return Commit::Unknown;
                    }
                }
                Err(error) => self.redis_failed(&error).await,
            }
        }
        Commit::Unknown
    }

    async fn restore_lost(&mut self, until: Instant) -> Commit {
        if self.restore_repeatedly(until).await { Commit::Lost } else { Commit::Unknown }
    }

    /// Appends the first of these entries as one record, or learns why that failed. False if nothing may be decided on
    /// top of what Redis holds.
    async fn append(&mut self, entries: &[OutboxEntry], until: Instant) -> bool {
        let Some(tail) = self.tail.as_mut() else { return true };
        let record = merge::record(self.auction_id, entries);
        let end = tail.end();
        if record.prev != end.mark.head {
            return self.restore_repeatedly(until).await;
        }
        self.backoff.wait().await;
        let sent = Instant::now();
        let span = traces::within(|| trace_span!(target: traces::TARGET, "append", seq = record.seq));
        match self.shared.backend.append(&record, end.stream_seq).instrument(span).await {
            Ok(stream_seq) => {
                self.conflicts_on_hints = 0;
                self.appends += 1;
                if self.backoff.worked() {
                    tracing::info!(auction_id = %self.auction_id, "log accepts records of the auction again");
                }
                self.shared.counters.committed(&record);
                self.shared.counters.appended.record(sent.elapsed());
                if checkpoints::is_due_after(&record, self.shared.facts_per_checkpoint) {
                    self.shared.due_checkpoints.add(self.auction_id);
                }
                self.shared.apply(&record);
                tail.advance(stream_seq, record);
                // The acknowledgement may be late: another instance may have appended since.
                self.confirmed_at = Some(sent);
            }
            Err(AppendError::Conflict) => self.await_winner().await,
            // Certainly not appended: the log is full, or its disk is. The facts stay in the outbox.
            Err(error @ AppendError::Rejected(_)) => {
                if self.backoff.rejected() {
                    tracing::error!(
                        auction_id = %self.auction_id,
                        error = %errors::chain(&error),
                        "failed to append a record; will retry until the log accepts it"
                    );
                }
                // Another instance may have appended the same facts before the log was full.
                self.read_on().await;
            }
            Err(error @ AppendError::Unknown(_)) => {
                self.shared.counters.trouble.append_unknown(self.auction_id, &error);
                tokio::time::sleep(RETRY_PAUSE).await;
                self.read_on().await;
            }
        }
        true
    }

    /// Confirms the hints, or reads the records after the tail; of many only the last. There are no hints afterwards.
    /// False if the log could not be read.
    pub(crate) async fn read_on(&mut self) -> bool {
        let asked = Instant::now();
        match self.confirm_hints().await {
            Ok(true) => {
                self.confirmed_at = Some(asked);
                return true;
            }
            Ok(false) => {}
            Err(error) => {
                self.log_failed(&error).await;
                return false;
            }
        }
        let Some(tail) = self.tail.as_mut() else { return false };
        let backend = &self.shared.backend;
        let mut read = 0;
        let result = loop {
            let asked = Instant::now();
            let caught_up = if read < MAX_READ_ONE_BY_ONE {
                let next = backend.next(self.auction_id, tail.stream_seq + 1).await;
                next.and_then(|next| next.map_or(Ok(true), |logged| tail.extend(logged).map(|()| false)))
            } else {
                backend.last(self.auction_id).await.and_then(|last| tail.jump(last)).map(|()| true)
            };
            match caught_up {
                Ok(true) => break Ok(asked),
                Ok(false) => read += 1,
                Err(error) => break Err(error),
            }
        };
        match result {
            Ok(asked) => {
                self.confirmed_at = Some(asked);
                true
            }
            Err(error) => {
                self.log_failed(&error).await;
                false
            }
        }
    }

    /// Whether the log can be read now.
    pub async fn reads_log(&mut self) -> bool {
        self.known_tail().await.is_some() && self.read_on().await
    }

    /// The end of the log, read now if it is not known. None if it could not be read.
    pub async fn known_tail(&mut self) -> Option<&Tail> {
        if self.tail.is_none() {
            match self.shared.backend.last(self.auction_id).await {
                Ok(last) => self.tail = Some(Tail::at(last)),
                Err(error) => self.log_failed(&error).await,
            }
        }
        self.tail.as_ref()
    }
}
