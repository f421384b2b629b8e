//! Closing and cancelling an auction.

use domain::Status;
use hotstate::Closed;
use protocol::{Code, CommittedState, Failure};
use tokio::time::Instant;

use super::{Auctioneer, MAX_DECISIONS};
use crate::backend::{Backend, may_have_decided};
use crate::call::Ending;

impl<B: Backend> Auctioneer<B> {
    /// Ends the auction because it is due, or for its host. If it has ended before, the timer gets its state like after
    /// any closing; the host gets `wrong_state`. If its closing is late, the timer gets the state of an auction that goes
    /// on.
    ///
    /// # Errors
    /// `outcome_unknown` once Redis may have ended it: then the log may get the closing after the answer.
    pub(super) async fn end(&mut self, ending: Ending, answer_by: Instant) -> Result<CommittedState, Failure> {
        let mut may_have_ended = false;
        let ended = self.try_to_end(ending, answer_by, &mut may_have_ended).await;
        if may_have_ended { ended.map_err(Failure::after_effect) } else { ended }
    }

    async fn try_to_end(
        &mut self,
        ending: Ending,
        answer_by: Instant,
        may_have_ended: &mut bool,
    ) -> Result<CommittedState, Failure> {
        // Bids that were decided before the end count: they precede the closing in the outbox and so in the log.
        let by = match ending {
            Ending::Due => None,
            Ending::Closed(by) | Ending::Cancelled(by, _) => Some(by),
        };
        let for_host = by.is_some();
        // While the log cannot be read, it takes no bids either. A closing decided now would be in time by Redis' clock,
        // and in the log only after the outage.
        if !for_host && !self.committer.reads_log().await {
            return Err(Code::Unavailable.into());
        }
        for _ in 0..MAX_DECISIONS {
            let backend = self.committer.deciding();
            let ended = match ending {
                Ending::Due => backend.close(self.auction_id, None).await,
                Ending::Closed(by) => backend.close(self.auction_id, Some(by)).await,
                Ending::Cancelled(by, reason) => backend.cancel(self.auction_id, by, reason).await,
            };
            *may_have_ended |= match &ended {
                Ok(reply) => matches!(reply, Some(Closed::Closed(_) | Closed::Resumed(_))),
                Err(error) => may_have_decided(error),
            };
            let replied = match self.reply_of(ended, answer_by).await {
                Ok(Some(replied)) => replied,
                Ok(None) => continue,
                // Its keys have expired: it ended long ago.
                Err(failure) if failure.code == Code::AuctionClosed && for_host => return Err(Code::WrongState.into()),
                Err(failure) if failure.code == Code::AuctionClosed => return self.state(answer_by).await,
                Err(failure) => return Err(failure),
            };
            // Redis may stand on facts that the log does not have. Then reading the state rebuilds it; a refusal counts
            // only if the committed state confirms it, otherwise the call is decided again.
            let state = self.state(answer_by).await?;
            let is_over = state.state.outcome.is_some();
            match replied {
                Closed::NotHost(_) if by.is_some_and(|by| by != state.state.host_user_id) => {
                    return Err(Code::NotHost.into());
                }
                Closed::Already(_) if is_over && for_host => return Err(Code::WrongState.into()),
                Closed::NotLive(_) if state.state.status != Status::Live => return Err(Code::WrongState.into()),
                Closed::Early(_) => return Ok(state),
                Closed::Resumed(mark) if state.seq >= mark.seq => return Ok(state),
                Closed::Closed(_) | Closed::Already(_) if is_over => return Ok(state),
                _ => {}
            }
        }
        Err(Code::Unavailable.into())
    }
}
