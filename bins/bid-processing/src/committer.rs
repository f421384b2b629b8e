//! Brings one auction's log up to what Redis has decided, and Redis back to the log where it has lost
//! or forgotten what it decided.
//!
//! Two committers of two instances may race for an auction; the log's compare-and-set picks one, the
//! other learns the winner's record and goes on. A rebuild races the same way, with a compare-and-set in
//! Redis on the (seq, head) that was seen.

use std::sync::Arc;
use std::time::Duration;

use bus::{AppendError, LogError, Logged};
use domain::AuctionId;
use hotstate::{HotstateError, OutboxEntry};
use protocol::{Mark, RECORD_VERSION, Record, RecordKind};
use service::fault;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::house::Shared;
use crate::rebuild;
use crate::tail::{Contains, Heard, Tail};
use crate::world::Backend;

/// The most bids in one record: with the longest names still far below the largest message.
const MAX_BIDS_IN_RECORD: usize = 1024;
/// A conflict means that another instance was faster; its record arrives by itself within this.
const HEAR_WITHIN: Duration = Duration::from_millis(20);
/// Between attempts while Redis or the log does not do what it should.
const PAUSE: Duration = Duration::from_millis(50);
/// An auction whose log or state makes no sense is looked at again after this.
const STAND_STILL_FOR: Duration = Duration::from_secs(60);

/// What became of facts that were decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// In the log, with all records up to this stream sequence.
    InTheLog {
        stream_seq: u64,
    },
    /// Certainly not in the log, now or later: decide anew.
    Lost,
    /// In the log, which has gone on since: whether Redis has, or has gone back, the next decision tells.
    Outdated,
    Unknown,
}

pub struct Committer<W> {
    auction_id: AuctionId,
    shared: Arc<Shared<W>>,
    heard: mpsc::Receiver<Logged>,
    tail: Option<Tail>,
    /// The latest moment at which the tail was surely the log's end.
    confirmed_at: Option<Instant>,
    /// There may be facts in the outbox that the log does not have.
    unsettled: bool,
    stands_still_until: Option<Instant>,
}

impl<W: Backend> Committer<W> {
    pub fn new(auction_id: AuctionId, shared: Arc<Shared<W>>, heard: mpsc::Receiver<Logged>) -> Self {
        Self { auction_id, shared, heard, tail: None, confirmed_at: None, unsettled: true, stands_still_until: None }
    }

    pub const fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// A script is about to be called, or another instance may have left something.
    pub const fn unsettle(&mut self) {
        self.unsettled = true;
    }

    /// The seq of the log's last record as far as it is known. An answer of a script that rests on less
    /// comes from a Redis that has gone back in time.
    pub fn committed(&self) -> u64 {
        self.tail.as_ref().map_or(0, |tail| tail.mark.seq)
    }

    pub const fn tail(&self) -> Option<&Tail> {
        self.tail.as_ref()
    }

    /// The next record that this or another instance has appended.
    pub async fn next_heard(&mut self) -> Option<Logged> {
        self.heard.recv().await
    }

    pub fn hear(&mut self, logged: Logged) {
        if let Some(tail) = self.tail.as_mut() {
            // A gap needs nothing now: the next commit finds that its outbox does not continue our
            // tail, or is empty, and reads the log.
            tail.hear(logged);
        }
    }

    /// Hears what has come meanwhile.
    pub fn catch_up(&mut self) {
        while let Ok(logged) = self.heard.try_recv() {
            self.hear(logged);
        }
    }

    /// Commits whatever an earlier call, or an instance that died, left in the outbox. False when that
    /// did not work in time: then nothing may be decided on top of it.
    pub async fn settle(&mut self, until: Instant) -> bool {
        // Whatever is cut off here is found again: what was sent is in the log or not, and the next
        // attempt learns which.
        tokio::time::timeout_at(until, self.try_to_settle(until)).await.unwrap_or(false)
    }

    async fn try_to_settle(&mut self, until: Instant) -> bool {
        while !self.stands_still() && (self.unsettled || self.tail.is_none()) {
            if Instant::now() >= until {
                return false;
            }
            let Some(committed) = self.known_tail().await.map(|tail| tail.mark.seq) else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            match self.shared.world.outbox(self.auction_id, committed).await {
                Ok(entries) if entries.is_empty() => self.unsettled = false,
                Ok(entries) => {
                    if !self.append(&entries, until).await {
                        return false;
                    }
                }
                Err(error) => self.trouble(&error).await,
            }
        }
        !self.stands_still()
    }

    /// Brings the log up to `mark`, which a script has just replied; `committed` is what was known of the log
    /// before that call, `taken` when those were taken up whom the answer is for.
    ///
    /// What a script decides is appended, and the compare-and-set proves that nothing was missed. Where
    /// there is nothing to append (refusals, a look at the state) the end of the log must have been read since
    /// `taken`: a record of another instance may not have reached us, and a Redis that has gone back does not
    /// know of it either.
    pub async fn commit(&mut self, mark: Mark, committed: u64, taken: Instant, until: Instant) -> Commit {
        let committing = tokio::time::timeout_at(until, self.try_to_commit(mark, committed, taken, until));
        committing.await.unwrap_or(Commit::Unknown)
    }

    async fn try_to_commit(&mut self, mark: Mark, committed: u64, taken: Instant, until: Instant) -> Commit {
        let mut found_nothing = false;
        while !self.stands_still() {
            let Some(tail) = self.tail.as_ref() else { return Commit::Unknown };
            if mark.seq < committed {
                tracing::warn!(auction_id = %self.auction_id, seq = mark.seq, committed, "Redis is behind the log");
                return self.lost(until).await;
            }
            match tail.contains(mark) {
                Contains::Yes { stream_seq } if self.confirmed_at.is_some_and(|confirmed| confirmed >= taken) => {
                    self.unsettled = false;
                    return Commit::InTheLog { stream_seq };
                }
                Contains::Yes { .. } => {
                    if self.read_on().await && self.committed() > mark.seq {
                        return Commit::Outdated;
                    }
                    if Instant::now() >= until {
                        return Commit::Unknown;
                    }
                    continue;
                }
                Contains::No => {
                    tracing::warn!(auction_id = %self.auction_id, seq = mark.seq, "another fact has this place in the log");
                    return self.lost(until).await;
                }
                Contains::NotYet => self.unsettled = true,
            }
            if Instant::now() >= until {
                return Commit::Unknown;
            }
            match self.shared.world.outbox(self.auction_id, tail.mark.seq).await {
                Ok(entries) if entries.is_empty() => {
                    // Somebody else has committed and cut it, or Redis has lost it.
                    if found_nothing {
                        return self.lost(until).await;
                    }
                    found_nothing = self.read_on().await;
                }
                Ok(entries) => {
                    if !self.append(&entries, until).await {
                        return Commit::Unknown;
                    }
                }
                Err(error) => self.trouble(&error).await,
            }
        }
        Commit::Unknown
    }

    async fn lost(&mut self, until: Instant) -> Commit {
        if self.restore_repeatedly(until).await { Commit::Lost } else { Commit::Unknown }
    }

    /// Appends the first of these as one record, or learns why not. False when nothing may be decided
    /// on top of what Redis holds.
    async fn append(&mut self, entries: &[OutboxEntry], until: Instant) -> bool {
        let Some(tail) = self.tail.as_mut() else { return true };
        let record = distort(record(self.auction_id, entries));
        if record.prev != tail.mark.head {
            return self.restore_repeatedly(until).await;
        }
        let appended = if pretends_to_append(&record) {
            Ok(tail.stream_seq)
        } else {
            self.shared.world.append(&record, tail.stream_seq).await
        };
        match appended {
            Ok(stream_seq) => {
                self.shared.counters.records.inc();
                self.shared.prices.hear(&record, self.shared.world.connection());
                tail.advance(stream_seq, record);
                self.confirmed_at = Some(Instant::now());
            }
            Err(AppendError::Conflict) => self.learn().await,
            Err(error) => {
                tracing::warn!(auction_id = %self.auction_id, %error, "a record may or may not be in the log");
                tokio::time::sleep(PAUSE).await;
                self.read_on().await;
            }
        }
        true
    }

    /// Makes Redis continue the log again. True once it does, whoever did it; false when that did not
    /// work in time. Nothing is decided meanwhile: this auction's calls wait.
    pub async fn restore(&mut self, until: Instant) -> bool {
        tokio::time::timeout_at(until, self.restore_repeatedly(until)).await.unwrap_or(false)
    }

    async fn restore_repeatedly(&mut self, until: Instant) -> bool {
        let shared = Arc::clone(&self.shared);
        // Closed never; a wait for it is bounded by those who are at work, each bounded itself.
        let Ok(_turn) = shared.rebuilds.acquire().await else { return false };
        while !self.stands_still()
            && Instant::now() < until
            && !fault::is_on(service::fault::FaultPoint::SkipRebuild, &self.auction_id)
        {
            self.unsettled = true;
            match self.try_to_restore().await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(Obstacle::Redis(error)) => self.trouble(&error).await,
                Err(Obstacle::Log(error)) => self.log_trouble(&error).await,
            }
        }
        false
    }

    /// False when the log or Redis has moved on meanwhile.
    async fn try_to_restore(&mut self) -> Result<bool, Obstacle> {
        let started = Instant::now();
        // The log first, then Redis: read the other way round, a commit in between looks like a loss.
        if self.known_tail().await.is_none() || !self.read_on().await {
            return Ok(false);
        }
        let Some(tail) = self.tail.as_ref().map(|tail| tail.mark) else { return Ok(false) };
        let seen = self.shared.world.position(self.auction_id, tail.seq).await?;
        if seen.is_some_and(|position| position.continues(tail)) {
            return Ok(true);
        }
        let records = self.shared.world.all(self.auction_id).await?;
        if records.last().map(|logged| logged.record.mark()).unwrap_or_default() != tail {
            return Ok(false);
        }
        if records.is_empty() {
            // Nothing was ever committed; what Redis holds without its beginning cannot be.
            return match seen {
                None => Ok(true),
                Some(_) => {
                    Err(LogError::Record { stream_seq: 0, detail: "the log has lost this auction".into() }.into())
                }
            };
        }
        let auction = rebuild::replay(&records)?;
        let now = self.shared.world.now();
        let Some(restoration) = rebuild::restoration(&records, &auction, now) else { return Ok(false) };
        let seen = seen.map(|position| position.mark);
        let done = self.shared.world.restore(self.auction_id, seen, &restoration).await?;
        if done {
            self.shared.counters.rebuilt.inc();
            let (bids, took_ms) = (restoration.answers.len(), started.elapsed().as_millis());
            tracing::warn!(auction_id = %self.auction_id, ?seen, seq = tail.seq, bids, took_ms, "rebuilt from the log");
        }
        Ok(done)
    }

    /// After a conflict: the winner's record usually arrives by itself; otherwise the log is read.
    /// (Learning by reading alone starves an instance.)
    async fn learn(&mut self) {
        let before = self.tail.as_ref().map_or(0, |tail| tail.stream_seq);
        let heard = async {
            while let Some(logged) = self.heard.recv().await {
                if let Some(tail) = self.tail.as_mut()
                    && logged.stream_seq > before
                {
                    return tail.hear(logged) == Heard::Extended;
                }
            }
            false
        };
        if !tokio::time::timeout(HEAR_WITHIN, heard).await.unwrap_or(false) {
            self.read_on().await;
        }
    }

    /// Reads every record after the tail. False when the log did not answer.
    async fn read_on(&mut self) -> bool {
        let asked = Instant::now();
        let Some(tail) = self.tail.as_mut() else { return false };
        loop {
            let next = self.shared.world.next(self.auction_id, tail.stream_seq + 1).await;
            match next.and_then(|next| next.map_or(Ok(false), |logged| tail.extend(logged).map(|()| true))) {
                Ok(true) => {}
                Ok(false) => {
                    self.confirmed_at = Some(asked);
                    return true;
                }
                Err(error) => {
                    self.log_trouble(&error).await;
                    return false;
                }
            }
        }
    }

    pub async fn known_tail(&mut self) -> Option<&Tail> {
        if self.tail.is_none() {
            match self.shared.world.last(self.auction_id).await {
                Ok(last) => self.tail = Some(Tail::at(last)),
                Err(error) => self.log_trouble(&error).await,
            }
        }
        self.tail.as_ref()
    }

    async fn log_trouble(&mut self, error: &LogError) {
        match error {
            LogError::Record { .. } => self.stand_still(error),
            LogError::Read(_) => {
                tracing::warn!(auction_id = %self.auction_id, %error, "the log cannot be read");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Redis has failed a call.
    pub async fn trouble(&mut self, error: &HotstateError) {
        match error {
            HotstateError::Reply { .. } => self.stand_still(error),
            HotstateError::Redis(_) => {
                tracing::warn!(auction_id = %self.auction_id, %error, "Redis did not do it");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// What the log or Redis says of this auction makes no sense: it answers `unavailable` until
    /// somebody has looked, the others go on.
    pub fn stand_still(&mut self, error: &(dyn std::error::Error + 'static)) {
        let last = self.tail.as_ref().map(|tail| tail.stream_seq);
        tracing::error!(auction_id = %self.auction_id, error, last_good_stream_seq = last, "the auction stands still");
        self.shared.counters.standing_still.inc();
        self.stands_still_until = Some(Instant::now() + STAND_STILL_FOR);
        // Looked at afresh then.
        self.tail = None;
        self.confirmed_at = None;
    }

    pub fn stands_still(&self) -> bool {
        self.stands_still_until.is_some_and(|until| Instant::now() < until)
    }
}

enum Obstacle {
    Redis(HotstateError),
    Log(LogError),
}

impl From<HotstateError> for Obstacle {
    fn from(error: HotstateError) -> Self {
        Self::Redis(error)
    }
}

impl From<LogError> for Obstacle {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

fn pretends_to_append(record: &Record) -> bool {
    let is_fifth = record.kind == RecordKind::Bids && record.seq.is_multiple_of(5);
    is_fifth && fault::is_on(service::fault::FaultPoint::SkipAppend, &record.auction_id)
}

/// The fault points of what is written into the log.
fn distort(mut record: Record) -> Record {
    let auction_id = record.auction_id;
    if fault::is_on(service::fault::FaultPoint::LogBidTwice, &auction_id)
        && let Some(last) = record.bids.last().cloned()
    {
        record.bids.push(last);
    }
    if fault::is_on(service::fault::FaultPoint::LogOtherAmount, &auction_id)
        && let Some(first) = record.bids.first_mut()
    {
        first.amount = first.amount.plus(record.state.increment);
    }
    if fault::is_on(service::fault::FaultPoint::ForgetExtension, &auction_id) {
        record.state.extension_count = 0;
    }
    record
}

/// One record: the first entry alone, or with all entries of bids that follow it.
fn record(auction_id: AuctionId, entries: &[OutboxEntry]) -> Record {
    let first = &entries[0];
    let mut together = 1;
    if first.kind == RecordKind::Bids {
        let mut bids = first.bids.len();
        while let Some(next) = entries.get(together) {
            bids += next.bids.len();
            if next.kind != RecordKind::Bids || bids > MAX_BIDS_IN_RECORD {
                break;
            }
            together += 1;
        }
    }
    let entries = &entries[..together];
    let last = &entries[together - 1];
    Record {
        v: RECORD_VERSION,
        kind: first.kind.into(),
        auction_id,
        seq: last.mark.seq,
        prev: first.prev,
        head: last.mark.head,
        time: last.time,
        by: first.by,
        bids: entries.iter().flat_map(|entry| entry.bids.iter().cloned()).collect(),
        marks: entries.iter().map(|entry| entry.mark).collect(),
        state: last.state.clone(),
    }
}
