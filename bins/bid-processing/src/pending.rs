//! Bids that wait for their answer.

use domain::{BidRequest, Decision};
use hotstate::Verdicts;
use protocol::{Answer, Code, RefusedBid};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{Span, trace_span};

/// A bid without its answer.
pub struct Pending {
    /// The bid.
    pub bid: BidRequest,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
    /// When the caller must have an answer.
    pub answer_by: Instant,
    /// An earlier attempt may yet put it into the log: its script call may have worked, or another instance may be
    /// about to append the fact. From then on a rejection is not certain.
    pub may_be_accepted: bool,
    /// The span of the bid, if its trace is exported.
    pub trace: traces::Context,
}

impl Pending {
    /// Answers the bid.
    pub fn answer(self, answer: Answer) {
        // The caller may have given up; a repeated bid id finds the same answer.
        drop(self.reply.send(answer));
    }

    /// Rejects the bid, or says that its outcome is unknown.
    pub fn reject(self, code: Code) {
        let code = if self.may_be_accepted { Code::OutcomeUnknown } else { code };
        let refused = RefusedBid::of(code.into(), Some(self.bid.bid_id));
        self.answer(Answer::Rejected(refused));
    }
}

/// Links of one span, which is as many as a span has by default.
const MAX_LINKS: usize = 128;

/// The span in which these bids are decided together, in the trace of the first one that has one; linked to the others.
pub fn span(bids: &[Pending]) -> Span {
    let mut traced = bids.iter().map(|pending| &pending.trace).filter(|trace| trace.is_traced());
    let Some(first) = traced.next() else { return Span::none() };
    let span = first.continued(|| trace_span!(target: traces::TARGET, parent: None, "decide", bids = bids.len()));
    traced.take(MAX_LINKS).for_each(|trace| trace.link_from(&span));
    span
}

/// Rejects all bids.
pub fn reject_all(bids: Vec<Pending>, code: Code) {
    bids.into_iter().for_each(|pending| pending.reject(code));
}

/// Notes the bids that the script accepted: they may yet get into the log.
pub fn note_accepted(bids: &mut [Pending], verdicts: &Verdicts) {
    for (pending, decision) in bids.iter_mut().zip(&verdicts.decisions) {
        pending.may_be_accepted |= matches!(decision, Decision::Accepted { .. });
    }
}
