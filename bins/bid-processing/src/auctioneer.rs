//! One auction's calls, one after the other: decide, commit, answer.
//!
//! Everything that waits when the auctioneer becomes free is taken at once: its bids go into one
//! script call, the facts of that call into one record. Under load that is the group commit; an idle
//! auction pays two round trips a bid. There is no second task and no lock a call must hold.

use std::sync::Arc;
use std::time::Duration;

use bus::{LOG_FULL_RATIO, Logged};
use domain::{AuctionId, BidRequest, Decision, UserId};
use hotstate::{Closed, Created, HotstateError, Opened, Verdicts};
use protocol::{AcceptedBid, Answer, Code, CommittedState, CreateRequest, Failure, Mark, RefusedBid};
use service::fault;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::committer::{Commit, Committer};
use crate::house::Shared;
use crate::rebuild;
use crate::world::Backend;

/// The most calls taken at once, and so the most bids in one script call.
pub const MAX_CALLS: usize = 256;
/// Time from a call's arrival to its answer. CONTRACT.md, Placing a bid: 3 s; the rest is for the way back.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(2_800);
/// Without a call for this long the auctioneer leaves; the next call brings a new one. It also bounds
/// how long an id that nobody created is remembered as unknown.
const IDLE: Duration = Duration::from_secs(60);
/// What was decided and not committed is tried again this often while no call comes.
const SETTLE_EVERY: Duration = Duration::from_millis(250);
/// How often a bid is decided anew because the facts it rested on did not make it into the log.
const MAX_DECISIONS: usize = 4;

pub type StandingReply = oneshot::Sender<Result<CommittedState, Failure>>;

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

/// A bid without its answer.
struct Pending {
    bid: BidRequest,
    reply: oneshot::Sender<Answer>,
    answer_by: Instant,
    /// An earlier attempt may yet put it into the log: its script call may have worked, or another
    /// instance may hold the fact in hand. From then on a refusal is not certain.
    may_be_accepted: bool,
}

impl Pending {
    fn answer(self, answer: Answer) {
        // Whoever asked may have given up; the same id will be found.
        drop(self.reply.send(answer));
    }

    fn refuse(self, code: Code) {
        let code = if self.may_be_accepted { Code::OutcomeUnknown } else { code };
        let refused = RefusedBid::of(code.into(), Some(self.bid.bid_id));
        self.answer(Answer::Rejected(refused));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Due,
    Closed(UserId),
    Cancelled(UserId),
}

pub struct Auctioneer<W> {
    auction_id: AuctionId,
    shared: Arc<Shared<W>>,
    calls: mpsc::Receiver<Waiting>,
    committer: Committer<W>,
    /// Of an auction that is not in the log: whether PostgreSQL knows it as over.
    archived: Option<bool>,
}

impl<W: Backend> Auctioneer<W> {
    pub fn new(
        auction_id: AuctionId,
        shared: Arc<Shared<W>>,
        calls: mpsc::Receiver<Waiting>,
        heard: mpsc::Receiver<Logged>,
    ) -> Self {
        let committer = Committer::new(auction_id, Arc::clone(&shared), heard);
        Self { auction_id, shared, calls, committer, archived: None }
    }

    pub async fn run(mut self) {
        let mut waiting = Vec::with_capacity(MAX_CALLS);
        loop {
            let unsettled = self.committer.is_unsettled() && !self.committer.stands_still();
            let rest = if unsettled { SETTLE_EVERY } else { IDLE };
            tokio::select! {
                biased;
                taken = self.calls.recv_many(&mut waiting, MAX_CALLS) => {
                    if taken == 0 {
                        return;
                    }
                    self.serve(std::mem::take(&mut waiting)).await;
                }
                Some(logged) = self.committer.next_heard() => self.committer.hear(logged),
                () = tokio::time::sleep(rest) => {
                    if unsettled {
                        self.committer.settle(Instant::now() + ANSWER_WITHIN).await;
                    } else {
                        // Calls that came meanwhile are still served; later ones find the door closed.
                        self.calls.close();
                    }
                }
            }
        }
    }

    async fn serve(&mut self, waiting: Vec<Waiting>) {
        self.committer.catch_up();
        let mut bids = Vec::new();
        for Waiting { call, answer_by } in waiting {
            match call {
                Call::Place(bid, reply) => bids.push(Pending { bid, reply, answer_by, may_be_accepted: false }),
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
                self.committer.unsettle();
                self.committer.settle(answer_by).await;
                return;
            }
            Call::Create(request, reply) => (self.create(&request, answer_by).await, reply),
            Call::Open(reply) => (self.open(answer_by).await, reply),
            Call::Close(by, reply) => {
                let ending = by.map_or(Ending::Due, Ending::Closed);
                (self.end(ending, answer_by).await, reply)
            }
            Call::Cancel(by, reply) => (self.end(Ending::Cancelled(by), answer_by).await, reply),
            Call::State(reply) => (self.standing(answer_by).await, reply),
        };
        // Whoever asked may have given up; everything here is repeatable.
        drop(reply.send(result));
    }

    // ---- deciding ----

    async fn place(&mut self, mut bids: Vec<Pending>) {
        let Some(answer_by) = bids.iter().map(|pending| pending.answer_by).min() else { return };
        let taken = Instant::now();
        for _ in 0..MAX_DECISIONS {
            if !self.committer.settle(answer_by).await {
                return refuse_all(bids, Code::Unavailable);
            }
            let committed = self.committer.committed();
            let requests: Vec<BidRequest> = bids.iter().map(|pending| pending.bid.clone()).collect();
            let placing = self.shared.world.place(self.auction_id, &requests);
            let Ok(placed) = tokio::time::timeout_at(answer_by, placing).await else {
                self.committer.unsettle();
                return refuse_all(bids, Code::OutcomeUnknown);
            };
            let verdicts = match placed {
                Ok(Some(verdicts)) => verdicts,
                Ok(None) => match self.missing(answer_by).await {
                    Ok(()) => continue,
                    Err(failure) => return refuse_all(bids, failure.code),
                },
                Err(error) => {
                    let took_effect = took_effect(&error);
                    bids.iter_mut().for_each(|pending| pending.may_be_accepted |= took_effect);
                    self.committer.unsettle();
                    self.committer.trouble(&error).await;
                    let again = took_effect || error.is_elsewhere();
                    if Instant::now() < answer_by && again && !self.committer.stands_still() {
                        // The same ids again: what was accepted is found.
                        continue;
                    }
                    return refuse_all(bids, Code::Unavailable);
                }
            };
            match self.committer.commit(verdicts.mark, committed, taken, answer_by).await {
                Commit::InTheLog { .. } => {
                    self.about_to_answer(verdicts.mark);
                    return self.answer(bids, verdicts);
                }
                Commit::Lost | Commit::Outdated => note_accepted(&mut bids, &verdicts),
                // Acceptances may or may not reach the log, refusals rest on nothing.
                Commit::Unknown => {
                    note_accepted(&mut bids, &verdicts);
                    return refuse_all(bids, Code::Unavailable);
                }
            }
        }
        refuse_all(bids, Code::OutcomeUnknown);
    }

    fn answer(&self, bids: Vec<Pending>, verdicts: Verdicts) {
        let mut accepted = 0;
        for (pending, decision) in bids.into_iter().zip(verdicts.decisions) {
            accepted += u64::from(matches!(decision, Decision::Accepted { found: false, .. }));
            match decision {
                Decision::Refused { .. } if pending.may_be_accepted => pending.refuse(Code::OutcomeUnknown),
                decision => {
                    let answer = self.public(&pending.bid, decision);
                    pending.answer(answer);
                }
            }
        }
        self.shared.counters.accepted.inc_by(accepted);
    }

    /// From here on nothing older is said of this auction, though its record may still be on its way.
    fn about_to_answer(&self, mark: Mark) {
        self.shared.prices.answered(self.auction_id, mark.seq);
    }

    fn public(&self, bid: &BidRequest, decision: Decision) -> Answer {
        match decision {
            Decision::Accepted { accepted, found: true }
                if fault::is_on(service::fault::FaultPoint::ForgetBidId, &self.auction_id) =>
            {
                let minimum = accepted.minimum_bid;
                Answer::Rejected(RefusedBid::by_rule(Code::BidTooLow, bid.bid_id, accepted.seq, None, minimum))
            }
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
                let seq =
                    if fault::is_on(service::fault::FaultPoint::AnswerFromThePast, &self.auction_id) { 2 } else { seq };
                let too_much = fault::is_on(service::fault::FaultPoint::InflateMinimumBid, &self.auction_id);
                let minimum_bid = if too_much { minimum_bid.plus(bid.amount) } else { minimum_bid };
                Answer::Rejected(RefusedBid::by_rule(refusal.into(), bid.bid_id, seq, high_bid, minimum_bid))
            }
        }
    }

    async fn create(&mut self, request: &CreateRequest, answer_by: Instant) -> Result<CommittedState, Failure> {
        if !self.committer.settle(answer_by).await {
            return Err(Code::Unavailable.into());
        }
        // The log knows the auction already: whatever Redis holds, it must not begin anew.
        if self.committer.committed() == 0 {
            if self.shared.counters.log_used.get() >= LOG_FULL_RATIO {
                return Err(Failure::new(
                    Code::Unavailable,
                    "No auctions can be created at the moment; try again later",
                ));
            }
            self.committer.unsettle();
            match self.shared.world.create(request).await {
                Ok(Created::Created(_) | Created::Exists(_)) => {}
                Ok(Created::Late) => return Err(Failure::new(Code::Unavailable, "The request came too late")),
                Err(error) => return Err(self.trouble(&error).await),
            }
        }
        self.open(answer_by).await
    }

    async fn open(&mut self, answer_by: Instant) -> Result<CommittedState, Failure> {
        for _ in 0..MAX_DECISIONS {
            self.committer.unsettle();
            match self.shared.world.open(self.auction_id).await {
                Ok(Some(Opened::Opened(_) | Opened::Already(_))) => return self.standing(answer_by).await,
                Ok(Some(Opened::Early(_))) => {
                    return Err(Failure::new(Code::WrongState, "The auction does not start yet"));
                }
                Ok(None) => match self.missing(answer_by).await {
                    Ok(()) => {}
                    Err(failure) if failure.code == Code::AuctionClosed => return self.standing(answer_by).await,
                    Err(failure) => return Err(failure),
                },
                Err(error) => return Err(self.trouble(&error).await),
            }
        }
        Err(Code::Unavailable.into())
    }

    /// Ends the auction: when due (`by` is None) or for its host. To the timer an end that has come
    /// before is as good; the host is told that it has.
    async fn end(&mut self, ending: Ending, answer_by: Instant) -> Result<CommittedState, Failure> {
        // Bids that were decided before the end count: they reach the log before the closing does,
        // because both stand in the outbox in this order.
        let for_host = ending != Ending::Due;
        for _ in 0..MAX_DECISIONS {
            self.committer.unsettle();
            let ended = match ending {
                Ending::Due => self.shared.world.close(self.auction_id, None).await,
                Ending::Closed(by) => self.shared.world.close(self.auction_id, Some(by)).await,
                Ending::Cancelled(by) => self.shared.world.cancel(self.auction_id, by).await,
            };
            let standing = match ended {
                Ok(Some(Closed::NotHost(_))) => return Err(Code::NotHost.into()),
                Ok(Some(Closed::Already(_))) if for_host => return Err(Code::WrongState.into()),
                Ok(Some(Closed::NotLive(_))) => return Err(Code::WrongState.into()),
                Ok(Some(Closed::Early(_) | Closed::Already(_))) => return self.standing(answer_by).await,
                Ok(Some(Closed::Closed(_))) => self.standing(answer_by).await?,
                Ok(None) => match self.missing(answer_by).await {
                    // Its keys have expired: it was over long ago.
                    Err(failure) if failure.code == Code::AuctionClosed && for_host => {
                        return Err(Code::WrongState.into());
                    }
                    Err(failure) if failure.code == Code::AuctionClosed => return self.standing(answer_by).await,
                    Err(failure) => return Err(failure),
                    Ok(()) => continue,
                },
                Err(error) => return Err(self.trouble(&error).await),
            };
            // Redis may have ended it on a past that the log does not have: then it runs again.
            if standing.state.outcome.is_some() {
                return Ok(standing);
            }
        }
        Err(Code::Unavailable.into())
    }

    /// The committed state.
    async fn standing(&mut self, answer_by: Instant) -> Result<CommittedState, Failure> {
        let taken = Instant::now();
        for _ in 0..MAX_DECISIONS {
            if !self.committer.settle(answer_by).await {
                return Err(Code::Unavailable.into());
            }
            let committed = self.committer.committed();
            match self.shared.world.view(self.auction_id).await {
                Ok(Some(view)) => match self.committer.commit(view.mark, committed, taken, answer_by).await {
                    Commit::InTheLog { stream_seq } => return Ok(CommittedState { stream_seq, ..view.standing }),
                    Commit::Lost | Commit::Outdated => {}
                    Commit::Unknown => return Err(Code::Unavailable.into()),
                },
                Ok(None) => match self.missing(answer_by).await {
                    Ok(()) => {}
                    Err(failure) if failure.code == Code::AuctionClosed => return self.standing_from_log(),
                    Err(failure) => return Err(failure),
                },
                Err(error) => return Err(self.trouble(&error).await),
            }
        }
        Err(Code::Unavailable.into())
    }

    /// The state of an auction whose keys have expired after its end.
    fn standing_from_log(&self) -> Result<CommittedState, Failure> {
        let tail = self.committer.tail().ok_or_else(|| Failure::from(Code::Unavailable))?;
        let record = tail.last.as_ref().ok_or_else(|| Failure::from(Code::AuctionClosed))?;
        Ok(CommittedState {
            auction_id: self.auction_id,
            seq: record.seq,
            stream_seq: tail.stream_seq,
            state: record.state.clone(),
            recent_bids: Vec::new(),
            participant_count: 0,
        })
    }

    async fn trouble(&mut self, error: &HotstateError) -> Failure {
        self.committer.trouble(error).await;
        Code::Unavailable.into()
    }

    /// Redis has no state of this auction. Never begun anew: the log says what that means, and if it
    /// means that Redis has lost it, Redis gets it back.
    async fn missing(&mut self, until: Instant) -> Result<(), Failure> {
        let now = self.shared.world.now();
        let Some(tail) = self.committer.known_tail().await else { return Err(Code::Unavailable.into()) };
        match tail.last.as_ref() {
            None => return Err(self.not_in_the_log().await),
            Some(record) if rebuild::over_for_ms(record, now).is_some_and(rebuild::is_forgotten) => {
                return Err(Code::AuctionClosed.into());
            }
            Some(_) => tracing::error!(auction_id = %self.auction_id, "Redis has lost an auction"),
        }
        if self.committer.restore(until).await { Ok(()) } else { Err(Code::Unavailable.into()) }
    }

    /// Neither Redis nor the log knows this auction: there is none, or it was over long ago and has been
    /// archived. PostgreSQL knows; asked once as long as this auctioneer stays.
    async fn not_in_the_log(&mut self) -> Failure {
        let is_over = match self.archived {
            Some(is_over) => Ok(is_over),
            None => self.shared.world.recall(self.auction_id).await,
        };
        match is_over {
            Ok(is_over) => {
                self.archived = Some(is_over);
                if is_over { Code::AuctionClosed.into() } else { Code::AuctionNotFound.into() }
            }
            Err(error) => {
                tracing::warn!(auction_id = %self.auction_id, error = %errors::chain(&error), "failed to determine whether the auction exists");
                Code::Unavailable.into()
            }
        }
    }
}

fn refuse_all(bids: Vec<Pending>, code: Code) {
    bids.into_iter().for_each(|pending| pending.refuse(code));
}

fn note_accepted(bids: &mut [Pending], verdicts: &Verdicts) {
    for (pending, decision) in bids.iter_mut().zip(&verdicts.decisions) {
        pending.may_be_accepted |= matches!(decision, Decision::Accepted { .. });
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
