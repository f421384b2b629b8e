//! One auction's calls, one after the other: decide, commit, answer.
//!
//! Everything that waits when the auctioneer becomes free is taken at once: its bids go into one
//! script call, the facts of that call into one record. Under load that is the group commit; an idle
//! auction pays two round trips a bid. There is no second task and no lock a call must hold.

use std::sync::Arc;
use std::time::Duration;

use bus::{AppendError, Logged};
use domain::{AuctionId, BidRequest, Decision, UserId};
use hotstate::{Closed, Created, HotstateError, Opened, OutboxEntry, Verdicts};
use protocol::{
    AcceptedBid, Answer, Code, CreateRequest, Failure, RECORD_VERSION, Record, RecordKind, RefusedBid, Standing,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::house::Shared;
use crate::tail::{Contains, Heard, Tail};

/// The most calls taken at once, and so the most bids in one script call.
pub const MAX_CALLS: usize = 256;
/// The most bids in one record: with the longest names still far below the largest message.
const MAX_BIDS_IN_RECORD: usize = 1024;
/// From a call's arrival to its answer. SPEC and DESIGN allow 3 s; the rest is for the way back.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(2_800);
/// A conflict means that another instance was faster; its record arrives by itself within this.
const HEAR_WITHIN: Duration = Duration::from_millis(20);
/// Between attempts while Redis or the log does not do what it should.
const PAUSE: Duration = Duration::from_millis(50);
/// Without a call for this long the auctioneer leaves; the next call brings a new one. It also bounds
/// how long an id that nobody created is remembered as unknown.
const IDLE: Duration = Duration::from_secs(60);
/// What was decided and not committed is tried again this often while no call comes.
const SETTLE_EVERY: Duration = Duration::from_millis(250);
/// How often a bid is decided anew because the facts it rested on did not make it into the log.
const MAX_DECISIONS: usize = 4;

pub type StandingReply = oneshot::Sender<Result<Standing, Failure>>;

pub enum Call {
    Place(BidRequest, oneshot::Sender<Answer>),
    Create(CreateRequest, StandingReply),
    Open(StandingReply),
    Close(Option<UserId>, StandingReply),
    Cancel(UserId, StandingReply),
    State(StandingReply),
    /// Commit what another instance left behind.
    Settle,
}

pub struct Waiting {
    pub call: Call,
    pub answer_by: Instant,
}

type Bids = Vec<(BidRequest, oneshot::Sender<Answer>, Instant)>;

/// What became of facts that were decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commit {
    /// In the log, with all records up to this stream sequence.
    InTheLog {
        stream_seq: u64,
    },
    /// Certainly not in the log, now or later: decide anew.
    Lost,
    Unknown,
}

pub struct Auctioneer {
    auction_id: AuctionId,
    shared: Arc<Shared>,
    calls: mpsc::Receiver<Waiting>,
    heard: mpsc::Receiver<Logged>,
    tail: Option<Tail>,
    /// There may be facts in the outbox that the log does not have.
    unsettled: bool,
}

impl Auctioneer {
    pub fn new(
        auction_id: AuctionId,
        shared: Arc<Shared>,
        calls: mpsc::Receiver<Waiting>,
        heard: mpsc::Receiver<Logged>,
    ) -> Self {
        Self { auction_id, shared, calls, heard, tail: None, unsettled: true }
    }

    pub async fn run(mut self) {
        let mut waiting = Vec::with_capacity(MAX_CALLS);
        loop {
            let rest = if self.unsettled { SETTLE_EVERY } else { IDLE };
            tokio::select! {
                biased;
                taken = self.calls.recv_many(&mut waiting, MAX_CALLS) => {
                    if taken == 0 {
                        return;
                    }
                    self.serve(std::mem::take(&mut waiting)).await;
                }
                Some(logged) = self.heard.recv() => self.hear(logged),
                () = tokio::time::sleep(rest) => {
                    if self.unsettled {
                        self.settle(Instant::now() + ANSWER_WITHIN).await;
                    } else {
                        // Calls that came meanwhile are still served; later ones find the door closed.
                        self.calls.close();
                    }
                }
            }
        }
    }

    async fn serve(&mut self, waiting: Vec<Waiting>) {
        while let Ok(logged) = self.heard.try_recv() {
            self.hear(logged);
        }
        let mut bids = Bids::new();
        for Waiting { call, answer_by } in waiting {
            match call {
                Call::Place(bid, reply) => bids.push((bid, reply, answer_by)),
                other => {
                    // In order of arrival: the bids before this call are decided before it.
                    self.place(std::mem::take(&mut bids)).await;
                    self.do_one(other, answer_by).await;
                }
            }
        }
        self.place(bids).await;
    }

    async fn do_one(&mut self, call: Call, answer_by: Instant) {
        let (result, reply) = match call {
            Call::Place(..) => return,
            Call::Settle => {
                self.unsettled = true;
                self.settle(answer_by).await;
                return;
            }
            Call::Create(request, reply) => (self.create(&request, answer_by).await, reply),
            Call::Open(reply) => (self.open(answer_by).await, reply),
            Call::Close(by, reply) => (self.close(by, answer_by).await, reply),
            Call::Cancel(by, reply) => (self.cancel(by, answer_by).await, reply),
            Call::State(reply) => (self.standing(answer_by).await, reply),
        };
        // Whoever asked may have given up; everything here is repeatable.
        drop(reply.send(result));
    }

    // ---- deciding ----

    async fn place(&mut self, mut bids: Bids) {
        if bids.is_empty() {
            return;
        }
        let Some(answer_by) = bids.iter().map(|(_, _, answer_by)| *answer_by).min() else { return };
        for _ in 0..MAX_DECISIONS {
            if !self.settle(answer_by).await {
                return self.refuse_all(bids, Code::Unavailable);
            }
            let requests: Vec<BidRequest> = bids.iter().map(|(bid, ..)| bid.clone()).collect();
            let verdicts = match self.shared.hotstate.place(self.auction_id, &requests).await {
                Ok(Some(verdicts)) => verdicts,
                Ok(None) => match self.missing().await {
                    Ok(()) => continue,
                    Err(failure) => return self.refuse_all(bids, failure.code),
                },
                Err(error) => {
                    self.unsettled = true;
                    tracing::warn!(auction_id = %self.auction_id, %error, "bids may or may not have been decided");
                    if Instant::now() < answer_by && took_effect(&error) {
                        // The same ids again: what was accepted is found.
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                    let code = if took_effect(&error) { Code::OutcomeUnknown } else { Code::Unavailable };
                    return self.refuse_all(bids, code);
                }
            };
            match self.commit(verdicts.mark, answer_by).await {
                Commit::InTheLog { .. } => return self.answer(bids, verdicts),
                Commit::Lost => {}
                Commit::Unknown => return self.answer_unknown(bids, &verdicts),
            }
        }
        bids.retain(|(_, reply, _)| !reply.is_closed());
        self.refuse_all(bids, Code::OutcomeUnknown);
    }

    fn answer(&self, bids: Bids, verdicts: Verdicts) {
        let mut accepted = 0;
        let decided = bids.into_iter().zip(verdicts.decisions);
        for ((bid, reply, _), decision) in decided {
            accepted += u64::from(matches!(decision, Decision::Accepted { found: false, .. }));
            drop(reply.send(self.public(&bid, decision)));
        }
        self.shared.counters.accepted.inc_by(accepted);
    }

    fn public(&self, bid: &BidRequest, decision: Decision) -> Answer {
        match decision {
            Decision::Accepted { accepted, .. } => Answer::Accepted(AcceptedBid {
                bid_id: bid.bid_id,
                auction_id: self.auction_id,
                seq: accepted.seq,
                amount: accepted.amount,
                minimum_bid: accepted.minimum_bid,
                end_time: accepted.end_time.0,
                anti_snipe_triggered: accepted.extended,
                extension_count: accepted.extension_count,
                timestamp: accepted.timestamp.0,
            }),
            Decision::Refused { refusal, seq, high_bid, minimum_bid } => {
                self.shared.counters.refused.inc();
                let code = Code::from(refusal);
                let error = match code {
                    Code::BidTooLow => format!("The bid must be at least {minimum_bid}"),
                    code => code.sentence().to_owned(),
                };
                let minimum_bid = Some(minimum_bid);
                Answer::Rejected(RefusedBid {
                    error,
                    code,
                    bid_id: Some(bid.bid_id),
                    seq: Some(seq),
                    high_bid,
                    minimum_bid,
                })
            }
        }
    }

    /// The facts may or may not reach the log: acceptances are unknown, refusals rest on nothing.
    fn answer_unknown(&self, bids: Bids, verdicts: &Verdicts) {
        for ((bid, reply, _), decision) in bids.into_iter().zip(&verdicts.decisions) {
            let code = match decision {
                Decision::Accepted { .. } => Code::OutcomeUnknown,
                Decision::Refused { .. } => Code::Unavailable,
            };
            drop(reply.send(Answer::Rejected(RefusedBid::of(code.into(), Some(bid.bid_id)))));
        }
    }

    fn refuse_all(&self, bids: Bids, code: Code) {
        for (bid, reply, _) in bids {
            drop(reply.send(Answer::Rejected(RefusedBid::of(code.into(), Some(bid.bid_id)))));
        }
    }

    async fn create(&mut self, request: &CreateRequest, answer_by: Instant) -> Result<Standing, Failure> {
        if !self.settle(answer_by).await {
            return Err(Code::Unavailable.into());
        }
        // The log knows the auction already: whatever Redis holds, it must not begin anew.
        let exists = self.tail.as_ref().is_some_and(|tail| tail.mark.seq > 0);
        if !exists {
            self.unsettled = true;
            match self.shared.hotstate.create(request).await {
                Ok(Created::Created(_) | Created::Exists(_)) => {}
                Ok(Created::Late) => return Err(Failure::new(Code::Unavailable, "The request came too late")),
                Err(error) => return Err(self.trouble(&error)),
            }
        }
        self.open(answer_by).await
    }

    async fn open(&mut self, answer_by: Instant) -> Result<Standing, Failure> {
        self.unsettled = true;
        match self.shared.hotstate.open(self.auction_id).await {
            Ok(Some(Opened::Opened(_) | Opened::Already(_))) => self.standing(answer_by).await,
            Ok(Some(Opened::Early(_))) => Err(Failure::new(Code::WrongState, "The auction does not start yet")),
            Ok(None) => {
                self.missing().await?;
                self.standing(answer_by).await
            }
            Err(error) => Err(self.trouble(&error)),
        }
    }

    async fn close(&mut self, by: Option<UserId>, answer_by: Instant) -> Result<Standing, Failure> {
        // Bids that were decided before the end count: they reach the log before the closing does,
        // because both stand in the outbox in this order.
        self.unsettled = true;
        let closed = self.shared.hotstate.close(self.auction_id, by).await;
        self.ended(closed, by.is_some(), answer_by).await
    }

    async fn cancel(&mut self, by: UserId, answer_by: Instant) -> Result<Standing, Failure> {
        self.unsettled = true;
        let cancelled = self.shared.hotstate.cancel(self.auction_id, by).await;
        self.ended(cancelled, true, answer_by).await
    }

    /// To the timer an end that has come before is as good; the host is told that it has.
    async fn ended(
        &mut self,
        closed: Result<Option<Closed>, HotstateError>,
        for_host: bool,
        answer_by: Instant,
    ) -> Result<Standing, Failure> {
        match closed {
            Ok(Some(Closed::NotHost(_))) => Err(Code::NotHost.into()),
            Ok(Some(Closed::Already(_))) if for_host => Err(Code::WrongState.into()),
            Ok(Some(Closed::NotLive(_))) => Err(Code::WrongState.into()),
            Ok(Some(Closed::Closed(_) | Closed::Already(_) | Closed::Early(_))) => self.standing(answer_by).await,
            Ok(None) => match self.missing().await {
                // Its keys have expired: it was over long ago.
                Err(failure) if failure.code == Code::AuctionClosed && for_host => Err(Code::WrongState.into()),
                Err(failure) if failure.code == Code::AuctionClosed => self.standing(answer_by).await,
                Err(failure) => Err(failure),
                Ok(()) => self.standing(answer_by).await,
            },
            Err(error) => Err(self.trouble(&error)),
        }
    }

    /// The committed state.
    async fn standing(&mut self, answer_by: Instant) -> Result<Standing, Failure> {
        for _ in 0..MAX_DECISIONS {
            if !self.settle(answer_by).await {
                return Err(Code::Unavailable.into());
            }
            match self.shared.hotstate.view(self.auction_id).await {
                Ok(Some(view)) => match self.commit(view.mark, answer_by).await {
                    Commit::InTheLog { stream_seq } => return Ok(Standing { stream_seq, ..view.standing }),
                    Commit::Lost => {}
                    Commit::Unknown => return Err(Code::Unavailable.into()),
                },
                Ok(None) => return self.standing_from_log().await,
                Err(error) => return Err(self.trouble(&error)),
            }
        }
        Err(Code::Unavailable.into())
    }

    /// The state of an auction whose keys have expired after its end.
    async fn standing_from_log(&mut self) -> Result<Standing, Failure> {
        self.missing()
            .await
            .or_else(|failure| if failure.code == Code::AuctionClosed { Ok(()) } else { Err(failure) })?;
        let tail = self.tail.as_ref().ok_or_else(|| Failure::from(Code::Unavailable))?;
        let record = tail.last.as_ref().ok_or_else(|| Failure::from(Code::AuctionNotFound))?;
        Ok(Standing {
            auction_id: self.auction_id,
            seq: record.seq,
            stream_seq: tail.stream_seq,
            state: record.state.clone(),
            recent_bids: Vec::new(),
            participant_count: 0,
        })
    }

    fn trouble(&self, error: &HotstateError) -> Failure {
        tracing::warn!(auction_id = %self.auction_id, %error, "Redis did not do it");
        Code::Unavailable.into()
    }

    /// Redis has no state of this auction. Never begun anew: the log says what that means.
    async fn missing(&mut self) -> Result<(), Failure> {
        let Some(tail) = self.known_tail().await else { return Err(Code::Unavailable.into()) };
        match tail.last.as_ref() {
            None => Err(Code::AuctionNotFound.into()),
            Some(record) if record.state.outcome.is_some() => Err(Code::AuctionClosed.into()),
            Some(_) => {
                tracing::error!(auction_id = %self.auction_id, "Redis has lost a running auction");
                Err(Code::Unavailable.into())
            }
        }
    }

    // ---- committing ----

    /// Commits whatever an earlier call, or an instance that died, left in the outbox. False when that
    /// did not work in time: then nothing may be decided on top of it.
    async fn settle(&mut self, until: Instant) -> bool {
        while self.unsettled || self.tail.is_none() {
            if Instant::now() >= until {
                return false;
            }
            let Some(committed) = self.known_tail().await.map(|tail| tail.mark.seq) else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            match self.shared.hotstate.outbox(self.auction_id, committed).await {
                Ok(entries) if entries.is_empty() => self.unsettled = false,
                Ok(entries) => {
                    if !self.append(&entries).await {
                        return false;
                    }
                }
                Err(error) => {
                    tracing::warn!(auction_id = %self.auction_id, %error, "the outbox cannot be read");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        true
    }

    /// Brings the log up to `mark`, which a script has just replied.
    async fn commit(&mut self, mark: protocol::Mark, until: Instant) -> Commit {
        let mut found_nothing = false;
        loop {
            let Some(tail) = self.tail.as_ref() else { return Commit::Unknown };
            match tail.contains(mark) {
                Contains::Yes { stream_seq } => {
                    self.unsettled = false;
                    return Commit::InTheLog { stream_seq };
                }
                Contains::No => {
                    tracing::warn!(auction_id = %self.auction_id, seq = mark.seq, "another fact has this place in the log");
                    return Commit::Lost;
                }
                Contains::NotYet => self.unsettled = true,
            }
            if Instant::now() >= until {
                return Commit::Unknown;
            }
            match self.shared.hotstate.outbox(self.auction_id, tail.mark.seq).await {
                Ok(entries) if entries.is_empty() => {
                    // Somebody else has committed and cut it, or Redis has lost it.
                    if found_nothing {
                        return Commit::Lost;
                    }
                    found_nothing = self.read_on().await;
                }
                Ok(entries) => {
                    if !self.append(&entries).await {
                        return Commit::Unknown;
                    }
                }
                Err(error) => {
                    tracing::warn!(auction_id = %self.auction_id, %error, "the outbox cannot be read");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Appends the first of these as one record, or learns why not. False when the outbox does not
    /// continue the log: Redis has gone back in time, and nothing may be decided until it is restored.
    async fn append(&mut self, entries: &[OutboxEntry]) -> bool {
        let Some(tail) = self.tail.as_mut() else { return true };
        let record = record(self.auction_id, entries);
        if record.prev != tail.mark.head {
            let before = tail.mark;
            // Perhaps only our knowledge of the log is old.
            if self.read_on().await && self.tail.as_ref().is_some_and(|tail| tail.mark == before) {
                tracing::error!(auction_id = %self.auction_id, seq = record.seq, "the outbox does not continue the log");
                return false;
            }
            return true;
        }
        match self.shared.log.append(&record, tail.stream_seq).await {
            Ok(stream_seq) => {
                self.shared.counters.records.inc();
                tail.advance(stream_seq, record);
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

    fn hear(&mut self, logged: Logged) {
        if let Some(tail) = self.tail.as_mut() {
            // A gap needs nothing now: the next commit finds that its outbox does not continue our
            // tail, or is empty, and reads the log.
            tail.hear(logged);
        }
    }

    /// Reads every record after the tail. False when the log did not answer.
    async fn read_on(&mut self) -> bool {
        let Some(tail) = self.tail.as_mut() else { return false };
        loop {
            match self.shared.log.next(self.auction_id, tail.stream_seq + 1).await {
                Ok(Some(logged)) => tail.advance(logged.stream_seq, logged.record),
                Ok(None) => return true,
                Err(error) => {
                    tracing::warn!(auction_id = %self.auction_id, %error, "the log cannot be read");
                    tokio::time::sleep(PAUSE).await;
                    return false;
                }
            }
        }
    }

    async fn known_tail(&mut self) -> Option<&Tail> {
        if self.tail.is_none() {
            match self.shared.log.last(self.auction_id).await {
                Ok(last) => self.tail = Some(Tail::at(last)),
                Err(error) => tracing::warn!(auction_id = %self.auction_id, %error, "the log cannot be read"),
            }
        }
        self.tail.as_ref()
    }
}

/// Whether a failed call may have changed something in Redis.
fn took_effect(error: &HotstateError) -> bool {
    match error {
        // An answer that cannot be read comes from a call that was made.
        HotstateError::Reply { .. } => true,
        HotstateError::Redis(error) => {
            !error.is_connection_refusal()
                && (error.is_timeout() || error.is_io_error() || error.is_connection_dropped())
        }
    }
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
        kind: first.kind,
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
