//! Opening an auction: at its start, or once the one that it follows has ended.
//!
//! Whether that one has ended, its own last record in the log says, and nothing else: an opening needs no service but this
//! one and the timer. The script gets the time as an argument, because the state of the other auction may be in another
//! slot of Redis, and its ending counts once the log has it.

use domain::{Follows, Millis, Status};
use hotstate::Opened;
use protocol::{Code, CommittedState, Failure};
use tokio::time::Instant;

use super::{Auctioneer, MAX_DECISIONS};
use crate::backend::Backend;

impl<B: Backend> Auctioneer<B> {
    /// Opens the auction if it is due. One that waits for another gets its state, which names the time if it is known.
    ///
    /// # Errors
    /// `wrong_state` before the start; `unavailable` if Redis or the log did not answer.
    pub(super) async fn open(&mut self, answer_by: Instant) -> Result<CommittedState, Failure> {
        let mut due = None;
        for _ in 0..MAX_DECISIONS {
            let opened = self.committer.deciding().open(self.auction_id, due).await;
            let opened = match self.reply_of(opened, answer_by).await {
                Ok(Some(opened)) => opened,
                Ok(None) => continue,
                Err(failure) if failure.code == Code::AuctionClosed => return self.state(answer_by).await,
                Err(failure) => return Err(failure),
            };
            let state = self.state(answer_by).await?;
            let is_scheduled = state.state.status == Status::Scheduled;
            match opened {
                Opened::Waits(_) if is_scheduled => {
                    // Redis stood on another creation than the log has, and was rebuilt.
                    let Some(follows) = state.state.options.follows() else { continue };
                    match self.due_after(follows).await? {
                        None => return Ok(state),
                        known => due = known,
                    }
                }
                Opened::Early(_) if is_scheduled => match due {
                    Some(due) => return Ok(CommittedState { opens_at: Some(due.0), ..state }),
                    None => return Err(Failure::new(Code::WrongState, "The auction does not start yet")),
                },
                // Redis stood on an opening that the log does not have, and was rebuilt.
                Opened::Opened(_) | Opened::Already(_) if is_scheduled => {}
                _ => return Ok(state),
            }
        }
        Err(Code::Unavailable.into())
    }

    /// When this auction is due, which follows another. None while that one has not ended.
    ///
    /// An auction without a record has ended and been archived, since it existed when this one was created. Its end is more
    /// than a day ago, the longest gap: nothing is archived before its keys in Redis have expired.
    async fn due_after(&self, follows: Follows) -> Result<Option<Millis>, Failure> {
        let Follows { auction_id, gap_ms } = follows;
        let last = self.shared.backend.last(auction_id).await.map_err(|error| {
            self.shared.counters.trouble.log_failed(auction_id, &error);
            Failure::from(Code::Unavailable)
        })?;
        Ok(match last {
            Some(logged) => logged.record.state.ended_at.map(|ended_at| Millis(ended_at).plus(gap_ms)),
            None => Some(Millis(0)),
        })
    }
}
