//! Asks bid-processing for a client's own maximum, beside the work of the room.

use std::time::Duration;

use bus::Bus;
use domain::Amount;
use identity::Token;
use protocol::{MaximumRequest, OwnMaximum as Answer, Reply, subject};
use tokio::task::JoinSet;

use crate::entry::SessionId;

/// Longest wait of a client that joins for its own maximum. Then it is answered without.
const WAIT_FOR_MAXIMUM: Duration = Duration::from_millis(500);
/// Questions of one room at once; beyond that a client is answered without. In a running auction only the leader's
/// connections ask, before the opening all clients with a token.
const MAX_ASKING: usize = 64;

/// The questions that are under way.
#[derive(Default)]
pub struct Asking(JoinSet<OwnMaximum>);

/// The answer to one.
#[derive(Debug, Clone, Copy)]
pub struct OwnMaximum {
    /// The connection that waits for it.
    pub session: SessionId,
    /// None without a maximum, or without an answer in time.
    pub max_amount: Option<Amount>,
}

impl Asking {
    /// Asks for a connection. False if too many wait already.
    pub fn ask(&mut self, bus: &Bus, session: SessionId, request: MaximumRequest, token: Token) -> bool {
        if self.0.len() >= MAX_ASKING {
            return false;
        }
        let bus = bus.clone();
        self.0.spawn(async move {
            let asked = bus::request_for(&bus, subject::BIDS_MAXIMUM, &request, token.text(), WAIT_FOR_MAXIMUM).await;
            let answer = asked.map(Reply::<Answer>::into_result);
            let max_amount = match answer {
                Ok(Ok(answer)) => answer.max_amount,
                Ok(Err(failure)) => {
                    tracing::debug!(auction_id = %request.auction_id, code = failure.code.name(), "got no maximum");
                    None
                }
                Err(error) => {
                    let auction_id = request.auction_id;
                    tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to ask for a maximum");
                    None
                }
            };
            OwnMaximum { session, max_amount }
        });
        true
    }

    /// The next answer; None while nothing is asked. Nothing is lost if this future is dropped.
    pub async fn next(&mut self) -> Option<OwnMaximum> {
        // A question that panicked leaves its client waiting no longer than the connection lives.
        self.0.join_next().await.and_then(Result::ok)
    }
}
