//! One auction's calls, one after the other: decide, commit, answer.
//!
//! The auctioneer takes all calls that have queued up since it was last free: their bids go into one script call, the
//! facts of that call into one record. Under load this is the group commit; an idle auction pays two round trips a bid.
//! There is no second task, and no call holds a lock.

mod ending;
mod host;
mod limit;
mod opening;
mod prebids;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bus::{LOG_FULL_RATIO, Logged};
use domain::{Amount, AuctionId, BidId, BidRequest, Decision, UserId};
use hotstate::{Created, HotstateError, Verdicts, View};
use protocol::{AcceptedBid, Answer, Code, CommittedState, CreateRequest, Failure, RefusedBid};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{Instrument, trace_span};

use crate::backend::{Backend, Decided, may_have_decided};
use crate::call::{Call, Command, Ending, Waiting};
use crate::committer::{Commit, Committer};
use crate::pending::{self, Pending, note_accepted, reject_all};
use crate::replay;
use crate::shared::{ANSWER_WITHIN, Shared};

/// Calls taken at once, and so bids in one script call at most. A script call then takes a few milliseconds.
const MAX_CALLS: usize = 256;
/// Time without a call after which an auctioneer exits; the next call starts a new one.
const IDLE: Duration = Duration::from_secs(60);
/// Interval between attempts to commit what was decided, while no call comes.
const FLUSH_EVERY: Duration = Duration::from_millis(250);
/// Decisions of one call: it is decided again if the facts it rested on did not get into the log.
const MAX_DECISIONS: usize = 4;
/// Facts of one auction, from which it takes no more bids: its host may end it. With one bid a record its log then has
/// 1.4 GB, a third of the whole log, all of which a rebuild reads.
pub const MAX_FACTS: u64 = 1_000_000;

/// The task that decides all calls for one auction in one instance.
pub struct Auctioneer<B> {
    auction_id: AuctionId,
    shared: Arc<Shared<B>>,
    calls: mpsc::Receiver<Waiting>,
    committer: Committer<B>,
    /// For an auction that is not in the log: whether PostgreSQL has it as ended.
    is_archived: Option<bool>,
}

impl<B: Backend> Auctioneer<B> {
    /// The auctioneer of one auction. `calls` is its queue, `records` what the server republishes.
    pub fn new(
        auction_id: AuctionId,
        shared: Arc<Shared<B>>,
        calls: mpsc::Receiver<Waiting>,
        records: mpsc::Receiver<Box<Logged>>,
    ) -> Self {
        let committer = Committer::new(auction_id, Arc::clone(&shared), records);
        Self { auction_id, shared, calls, committer, is_archived: None }
    }

    /// Serves calls until none has come for a minute, or their sender is gone.
    pub async fn run(mut self) {
        let mut waiting = Vec::new();
        loop {
            let must_flush = self.committer.has_uncommitted() && !self.committer.is_halted();
            let pause = if must_flush { FLUSH_EVERY } else { IDLE };
            tokio::select! {
                biased;
                taken = self.calls.recv_many(&mut waiting, MAX_CALLS) => {
                    if taken == 0 {
                        return;
                    }
                    // Boxed, so that an idle auctioneer does not hold the memory of a busy one.
                    Box::pin(self.serve(std::mem::take(&mut waiting))).await;
                }
                Some(logged) = self.committer.next_record() => self.committer.observe(logged),
                () = tokio::time::sleep(pause) => {
                    if must_flush {
                        Box::pin(self.committer.flush_outbox(Instant::now() + ANSWER_WITHIN)).await;
                    } else {
                        // Calls that are in the queue already are still served; later ones start another auctioneer.
                        self.calls.close();
                    }
                }
            }
        }
    }

    async fn serve(&mut self, waiting: Vec<Waiting>) {
        self.committer.catch_up();
        let mut bids = Vec::new();
        for Waiting { call, answer_by, trace } in waiting {
            let arrived = answer_by - ANSWER_WITHIN;
            self.shared.counters.queued.record(arrived.elapsed());
            // In order of arrival: bids before a command are decided before it.
            match call {
                Call::Bid(bid, reply) => bids.push(Pending { bid, reply, answer_by, trace, may_be_accepted: false }),
                Call::OverLimit(over, reply) => {
                    self.place(std::mem::take(&mut bids)).await;
                    let (bid, exceeded) = *over;
                    let pending = Pending { bid, reply, answer_by, trace, may_be_accepted: false };
                    self.over_limit(pending, exceeded).await;
                }
                Call::Command(command, reply) => {
                    self.place(std::mem::take(&mut bids)).await;
                    let result = self.execute(command, answer_by).await;
                    // The caller may have given up; every command may be repeated.
                    drop(reply.send(result));
                }
                Call::Maximum(user_id, reply) => {
                    self.place(std::mem::take(&mut bids)).await;
                    drop(reply.send(self.maximum(user_id, answer_by).await));
                }
                Call::FlushOutbox => {
                    self.place(std::mem::take(&mut bids)).await;
                    self.committer.flush_outbox_of_others(answer_by).await;
                }
            }
        }
        self.place(bids).await;
    }

    async fn execute(&mut self, command: Command, answer_by: Instant) -> Result<CommittedState, Failure> {
        // The log may lack the last bids: no decision may rest on it before the restore has cancelled what ran.
        if self.shared.backend.is_held() && !matches!(command, Command::Cancel(..) | Command::State) {
            return Err(Code::Unavailable.into());
        }
        match command {
            Command::Create(request) => self.create(&request, answer_by).await,
            Command::Open => self.open(answer_by).await,
            Command::Close(by) => self.end(by.map_or(Ending::Due, Ending::Closed), answer_by).await,
            Command::Cancel(by, reason) => self.end(Ending::Cancelled(by, reason), answer_by).await,
            Command::Act(act, by) => self.act(act, by, answer_by).await,
            Command::State => self.state(answer_by).await,
        }
    }

    /// Decides bids in one script call, commits what it decided, and answers.
    async fn place(&mut self, bids: Vec<Pending>) {
        let span = pending::span(&bids);
        self.decide(bids).instrument(span).await;
    }

    async fn decide(&mut self, mut bids: Vec<Pending>) {
        let Some(answer_by) = bids.iter().map(|pending| pending.answer_by).min() else { return };
        let taken = Instant::now();
        for _ in 0..MAX_DECISIONS {
            let Some(attempt) = self.committer.begin(taken, answer_by).await else {
                return reject_all(bids, Code::Unavailable);
            };
            if attempt.committed() >= MAX_FACTS {
                attempt.decided_nothing();
                return reject_all(bids, Code::Overloaded);
            }
            prebids::seal(&self.shared.keys, self.auction_id, attempt.last(), &mut bids);
            let requests: Vec<BidRequest> = bids.iter().map(|pending| pending.bid.clone()).collect();
            let called = Instant::now();
            let placing = self.shared.backend.place(self.auction_id, &requests, attempt.committed());
            let placing = placing.instrument(traces::within(|| trace_span!(target: traces::TARGET, "script")));
            let Ok(placed) = tokio::time::timeout_at(answer_by, placing).await else {
                return reject_all(bids, Code::OutcomeUnknown);
            };
            self.shared.counters.decided.record(called.elapsed());
            let mut verdicts = match placed {
                Ok(Some(verdicts)) => verdicts,
                Ok(None) => {
                    attempt.decided_nothing();
                    match self.missing(answer_by).await {
                        Ok(()) => continue,
                        Err(failure) => return reject_all(bids, failure.code),
                    }
                }
                Err(error) => {
                    let may_have_decided = may_have_decided(&error);
                    bids.iter_mut().for_each(|pending| pending.may_be_accepted |= may_have_decided);
                    self.committer.redis_failed(&error).await;
                    let worth_repeating = may_have_decided || error.is_elsewhere();
                    if Instant::now() < answer_by && worth_repeating && !self.committer.is_halted() {
                        // Decide the same bid ids again: for bids that were accepted, the script finds the earlier
                        // answer.
                        continue;
                    }
                    return reject_all(bids, Code::Unavailable);
                }
            };
            let is_accepted = |decision: &&Decision| matches!(decision, Decision::Accepted { found: false, .. });
            if verdicts.decisions.iter().filter(is_accepted).count() == 1 {
                // An edge gives the answer to the only bid of a record as soon as it is stored. This process may learn
                // later that it is, and gives no older answer in between.
                self.shared.prices.answered(self.auction_id, verdicts.mark.seq);
            }
            match attempt.commit(verdicts.mark, verdicts.appended.take()).await {
                Commit::InTheLog { .. } => {
                    // From here on no older answer is given for this auction, though its record may still be on its
                    // way.
                    self.shared.prices.answered(self.auction_id, verdicts.mark.seq);
                    return self.answer(bids, verdicts);
                }
                // In the log, but a refusal may rest on a state that is over.
                Commit::Overtaken => {
                    bids = self.answer_accepted(bids, verdicts);
                    if bids.is_empty() {
                        return;
                    }
                }
                Commit::Lost | Commit::Outdated => note_accepted(&mut bids, &verdicts),
                // Acceptances may or may not get into the log; rejections rest on facts that may not exist.
                Commit::Unknown => {
                    note_accepted(&mut bids, &verdicts);
                    return reject_all(bids, Code::Unavailable);
                }
            }
        }
        reject_all(bids, Code::OutcomeUnknown);
    }

    fn answer(&self, bids: Vec<Pending>, verdicts: Verdicts) {
        let mut accepted = 0;
        for (pending, decision) in bids.into_iter().zip(verdicts.decisions) {
            accepted += u64::from(matches!(decision, Decision::Accepted { found: false, .. }));
            match decision {
                Decision::Refused { .. } if pending.may_be_accepted => pending.reject(Code::OutcomeUnknown),
                decision => {
                    let answer = self.public(&pending.bid, decision);
                    pending.answer(answer);
                }
            }
        }
        self.shared.counters.accepted.inc_by(accepted);
    }

    /// Answers the accepted bids and returns the others.
    fn answer_accepted(&self, bids: Vec<Pending>, verdicts: Verdicts) -> Vec<Pending> {
        let Verdicts { mark, decisions, .. } = verdicts;
        let (accepted, others): (Vec<_>, Vec<_>) =
            bids.into_iter().zip(decisions).partition(|(_, decision)| matches!(decision, Decision::Accepted { .. }));
        let (accepted, decisions) = accepted.into_iter().unzip();
        self.shared.prices.answered(self.auction_id, mark.seq);
        self.answer(accepted, Verdicts { mark, decisions, appended: None });
        others.into_iter().map(|(pending, _)| pending).collect()
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
                outbid_at: accepted.price.filter(|_| !accepted.leads),
                is_kept: accepted.price.is_none(),
                max_amount: accepted
                    .offer
                    .maximum()
                    .or_else(|| accepted.price.is_none().then(|| accepted.offer.limit())),
            }),
            Decision::Refused { refusal, seq, high_bid, minimum_bid } => {
                self.shared.counters.rejected.inc();
                Answer::Rejected(RefusedBid::by_rule(refusal.into(), bid.bid_id, seq, high_bid, minimum_bid))
            }
        }
    }

    async fn create(&mut self, request: &CreateRequest, answer_by: Instant) -> Result<CommittedState, Failure> {
        if !self.committer.flush_outbox(answer_by).await {
            return Err(Code::Unavailable.into());
        }
        // An auction that the log has must not be created again, whatever Redis holds; nor one that it had.
        if self.committer.committed() == 0 {
            match self.not_in_the_log().await {
                failure if failure.code == Code::AuctionNotFound => {}
                failure => return Err(failure),
            }
            let is_reserved = self.shared.log_is_reserved.load(Ordering::Relaxed);
            if is_reserved || self.shared.counters.log_used.get() >= LOG_FULL_RATIO {
                return Err(Failure::log_full());
            }
            match self.committer.deciding().create(request).await {
                Ok(Created::Created(_) | Created::Exists(_)) => {}
                Ok(Created::Late) => return Err(Failure::new(Code::Unavailable, "The request came too late")),
                Err(error) => {
                    let failure = self.redis_failed(&error).await;
                    return Err(if may_have_decided(&error) { failure.after_effect() } else { failure });
                }
            }
        }
        // Redis or the log has it now.
        let opened = self.open(answer_by).await;
        if request.starts_at.is_some() && opened.as_ref().is_err_and(|failure| failure.code == Code::WrongState) {
            return self.state(answer_by).await.map_err(Failure::after_effect);
        }
        opened.map_err(Failure::after_effect)
    }

    /// The committed state.
    async fn state(&mut self, answer_by: Instant) -> Result<CommittedState, Failure> {
        self.view(answer_by).await.map(|view| view.committed)
    }

    /// How far the auction bids for this person. None for anybody but a leader who has set a maximum, or before the
    /// opening a person whose bid is kept.
    async fn maximum(&mut self, user_id: UserId, answer_by: Instant) -> Result<Option<Amount>, Failure> {
        let View { committed, secrets, .. } = self.view(answer_by).await?;
        let state = &committed.state;
        if state.keeps_bids() {
            let kept = self.shared.backend.prebid(self.auction_id, user_id).await;
            return kept.map_err(|_| Code::Unavailable.into());
        }
        let maximum = secrets.and_then(|secrets| secrets.maximum).map(|maximum| maximum.amount);
        let leads = state.outcome.is_none() && state.high_bidder_id == Some(user_id);
        // A raise of the leader's own bid may have gone beyond it.
        Ok(maximum.filter(|maximum| leads && state.high_bid.is_some_and(|price| *maximum >= price)))
    }

    /// The committed state, with the secrets if Redis has the auction.
    async fn view(&mut self, answer_by: Instant) -> Result<View, Failure> {
        self.view_with_answer(None, answer_by).await.map(|(view, _)| view)
    }

    /// The same, and whether a bid of this id was accepted: both of one moment.
    async fn view_with_answer(&mut self, bid_id: Option<BidId>, answer_by: Instant) -> Result<(View, bool), Failure> {
        let taken = Instant::now();
        for _ in 0..MAX_DECISIONS {
            let Some(attempt) = self.committer.begin(taken, answer_by).await else {
                return Err(Code::Unavailable.into());
            };
            let backend = &self.shared.backend;
            let viewed = match bid_id {
                None => backend.view(self.auction_id).await.map(|viewed| viewed.map(|view| (view, false))),
                Some(bid_id) => backend.view_with_answer(self.auction_id, bid_id).await,
            };
            if let Ok(Some((view, is_answered))) = viewed {
                match attempt.commit(view.mark, None).await {
                    Commit::InTheLog { stream_seq } => {
                        let committed = CommittedState { stream_seq, ..view.committed };
                        return Ok((View { committed, ..view }, is_answered));
                    }
                    Commit::Lost | Commit::Outdated | Commit::Overtaken => continue,
                    Commit::Unknown => return Err(Code::Unavailable.into()),
                }
            }
            attempt.decided_nothing();
            match self.reply_of(viewed, answer_by).await {
                Ok(_) => {}
                Err(failure) if failure.code == Code::AuctionClosed => return Ok((self.view_from_log()?, false)),
                Err(failure) => return Err(failure),
            }
        }
        Err(Code::Unavailable.into())
    }

    /// The state of an auction whose keys have expired after its end.
    fn view_from_log(&self) -> Result<View, Failure> {
        let tail = self.committer.tail().ok_or_else(|| Failure::from(Code::Unavailable))?;
        let record = tail.last.as_ref().ok_or_else(|| Failure::from(Code::AuctionClosed))?;
        let committed = CommittedState {
            auction_id: self.auction_id,
            seq: record.seq,
            head: record.head,
            stream_seq: tail.stream_seq,
            state: record.state.clone(),
            recent_bids: Vec::new(),
            participant_count: 0,
            slow_mode_seconds: 0,
            has_secrets: record.sealed.is_some(),
            opens_at: None,
        };
        Ok(View { mark: record.mark(), committed, secrets: None })
    }

    /// The reply of a script. None if Redis had lost the auction's state and it has been restored: decide once more.
    ///
    /// # Errors
    /// `unavailable` if Redis failed; otherwise as [`Self::missing`].
    async fn reply_of<T>(&mut self, called: Decided<T>, answer_by: Instant) -> Result<Option<T>, Failure> {
        match called {
            Ok(Some(reply)) => Ok(Some(reply)),
            Ok(None) => self.missing(answer_by).await.map(|()| None),
            Err(error) => Err(self.redis_failed(&error).await),
        }
    }

    async fn redis_failed(&mut self, error: &HotstateError) -> Failure {
        self.committer.redis_failed(error).await;
        Code::Unavailable.into()
    }

    /// Handles an auction that has no state in Redis. It is never created again from nothing: the log says why the
    /// state is absent, and an auction that Redis has lost is restored from the log.
    ///
    /// # Errors
    /// `auction_closed` if it ended long ago, `auction_not_found` if it never existed, `unavailable` if the log could
    /// not be read or Redis could not be restored by `until`.
    async fn missing(&mut self, until: Instant) -> Result<(), Failure> {
        let now = self.shared.backend.now();
        if self.committer.known_tail().await.is_none() {
            return Err(Code::Unavailable.into());
        }
        // An auction that had no record may have its first one by now.
        if self.committer.committed() == 0 && !self.committer.read_on().await {
            return Err(Code::Unavailable.into());
        }
        match self.committer.tail().and_then(|tail| tail.last.as_ref()) {
            None => return Err(self.not_in_the_log().await),
            Some(record) if replay::over_for_ms(record, now).is_some_and(replay::is_expired) => {
                return Err(Code::AuctionClosed.into());
            }
            Some(_) => tracing::error!(auction_id = %self.auction_id, "Redis has lost an auction"),
        }
        if self.committer.restore(until).await { Ok(()) } else { Err(Code::Unavailable.into()) }
    }

    /// The failure for an auction that neither Redis nor the log has: it never existed, or it ended long ago and has
    /// been archived. PostgreSQL has the answer; it is asked for once in the life of this auctioneer.
    async fn not_in_the_log(&mut self) -> Failure {
        let recalled = match self.is_archived {
            Some(is_archived) => Ok(is_archived),
            None => self.shared.backend.recall(self.auction_id).await,
        };
        match recalled {
            Ok(is_archived) => {
                self.is_archived = Some(is_archived);
                if is_archived { Code::AuctionClosed.into() } else { Code::AuctionNotFound.into() }
            }
            Err(error) => {
                tracing::warn!(
                    auction_id = %self.auction_id,
                    error = %errors::chain(&error),
                    "failed to determine whether the auction exists"
                );
                Code::Unavailable.into()
            }
        }
    }
}
