//! Bids on their way to bid-processing and back.

use std::time::{Duration, Instant};

use domain::BidId;
use futures_util::future::OptionFuture;
use identity::Token;
use protocol::{Answer, Code, PlaceBid, RefusedBid, subject};
use tokio::time::timeout;

use crate::answers::PendingAnswer;
use crate::context::EdgeContext;
use crate::single_flight::MAX_WAIT;

/// Time from the arrival of a bid to its answer; bid-processing takes at most 2.8 s. CONTRACT.md, Placing a bid.
const BID_TIMEOUT: Duration = Duration::from_millis(3_000);

const fn answer_seq(answer: &Answer) -> Option<u64> {
    match answer {
        Answer::Accepted(bid) => Some(bid.seq),
        Answer::Rejected(rejected) => rejected.seq,
    }
}

/// Decides a bid, or has it decided. A room that shows the bid waits until the pending answer, if there is one, is
/// dropped.
pub async fn ask(context: &EdgeContext, mut bid: PlaceBid, token: &Token) -> (Answer, Option<PendingAnswer>) {
    let id_is_new = bid.bid_id.is_none();
    // The edge chooses the id, so that the client can ask again if no answer comes.
    let bid_id = *bid.bid_id.get_or_insert_with(|| BidId::from_uuid(uuid::Uuid::new_v4()));
    traces::record("bid_id", bid_id);
    // Before all else: bids that the edge rejects count as well.
    let in_flight = match context.limits.admit(bid.user.user_id, Instant::now()) {
        Ok(in_flight) => in_flight,
        Err(code) => {
            if code == Code::RateLimited {
                context.metrics.bids_over_limit.inc();
            }
            return (Answer::Rejected(RefusedBid::of(code.into(), Some(bid_id))), None);
        }
    };
    let arrived = Instant::now();
    // Held until the answer is known.
    let first = loop {
        if let Some(rejected) = context.below_committed_price(bid_id, &bid, id_is_new).await {
            return (Answer::Rejected(rejected), None);
        }
        let left = MAX_WAIT.saturating_sub(arrived.elapsed());
        match context.first_of_amount(&bid, id_is_new) {
            Some(Ok(first)) => break Some(first),
            Some(Err(end)) if !left.is_zero() => drop(timeout(left, end).await),
            _ => break None,
        }
    };
    // Boxed: a crowd's bids are rejected before this, and take no memory for it.
    let within = BID_TIMEOUT.saturating_sub(arrived.elapsed());
    let answered = Box::pin(send(context, bid_id, &bid, token, within)).await;
    drop((first, in_flight));
    answered
}

/// Sends a bid to bid-processing, and waits for its answer or for the record that contains it.
async fn send(
    context: &EdgeContext,
    bid_id: BidId,
    bid: &PlaceBid,
    token: &Token,
    within: Duration,
) -> (Answer, Option<PendingAnswer>) {
    let mut pending = context.answers.expect(bid_id, bid);
    let has_maximum = bid.max_amount.is_some();
    let subject = if has_maximum { subject::BIDS_PLACE_WITH_MAXIMUM } else { subject::BIDS_PLACE };
    let in_record = OptionFuture::from(pending.as_mut().map(PendingAnswer::in_record));
    let asked = tokio::select! {
        Some(accepted) = in_record => Ok(Answer::Accepted(accepted)),
        asked = bus::request_for(&context.bus, subject, bid, token.text(), within) => asked,
    };
    let answer = match asked {
        Ok(answer) => {
            if let Some(seq) = answer_seq(&answer) {
                context.prices.answered(bid.auction_id, seq);
            }
            answer
        }
        Err(error) => {
            if let Some(not_logged) = context.metrics.unanswered_bids.occurred() {
                let auction_id = bid.auction_id;
                tracing::warn!(%auction_id, %bid_id, error = %errors::chain(&error), not_logged, "failed to get an answer to a bid");
            }
            let code = match error {
                bus::RequestError::NoResponder => Code::Unavailable,
                bus::RequestError::NoAnswer(_) => Code::OutcomeUnknown,
            };
            Answer::Rejected(RefusedBid::of(code.into(), Some(bid_id)))
        }
    };
    (answer, pending)
}
