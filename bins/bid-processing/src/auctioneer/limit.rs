//! Bids above the limit of their person.

use admission::Exceeded;
use domain::Amount;
use protocol::{Answer, Code, RefusedBid};

use super::Auctioneer;
use crate::backend::Backend;
use crate::pending::Pending;

impl<B: Backend> Auctioneer<B> {
    /// Rejects a bid above its person's limit, with the committed state. One that was accepted before gets the same answer
    /// again, one in an auction that is over the answer that it is, and one that the buy-now price brings below the limit
    /// is decided like any other.
    pub(super) async fn over_limit(&mut self, pending: Pending, exceeded: Exceeded) {
        let bid_id = pending.bid.bid_id;
        let (view, is_answered) = match self.view_with_answer(Some(bid_id), pending.answer_by).await {
            Ok(found) => found,
            Err(failure) => return pending.reject(failure.code),
        };
        let state = &view.committed.state;
        let costs = |most: Amount| self.shared.standing.admit(self.auction_id, pending.bid.user_id, most).is_ok();
        let is_capped = state.options.buy_now.is_some_and(|most| most < pending.bid.offer.limit() && costs(most));
        if is_answered || is_capped || state.outcome.is_some() {
            return Box::pin(self.place(vec![pending])).await;
        }
        self.shared.counters.over_limit.inc();
        let (code, error) = match exceeded {
            Exceeded::Limit { limit, elsewhere } => (Code::LimitExceeded, sentence(limit, elsewhere)),
            Exceeded::Unknown => (Code::Unavailable, "How much you may bid is not known yet; try again".to_owned()),
        };
        let refused = RefusedBid::by_rule(code, bid_id, view.mark.seq, state.high_bid, state.minimum_bid);
        pending.answer(Answer::Rejected(RefusedBid { error, ..refused }));
    }
}

fn sentence(limit: Amount, elsewhere: u64) -> String {
    let leads = Amount::from_stored(elsewhere).map(|sum| format!(", and your bids in other auctions come to {sum}"));
    format!("You may lead with at most {limit} at once{}", leads.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_names_the_limit_and_the_leads() {
        let limit = Amount::from_cents(500_000).expect("an amount");
        assert_eq!(sentence(limit, 0), "You may lead with at most 5000.00 at once");
        let leads = "You may lead with at most 5000.00 at once, and your bids in other auctions come to 4200.50";
        assert_eq!(sentence(limit, 420_050), leads);
    }
}
