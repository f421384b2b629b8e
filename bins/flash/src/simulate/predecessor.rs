//! The auction that the simulated one follows in some runs. It is in the log alone: live, and from a random time on closed.

use std::time::Duration;

use bus::{LogError, Logged};
use domain::AuctionId;
use protocol::Record;
use tokio::time::sleep;
use uuid::Uuid;

use super::network::{Endpoint, Outside, READ_TIMEOUT, lock};

/// The auction that goes before.
pub const PREDECESSOR: AuctionId = AuctionId::from_uuid(Uuid::from_u128(0xA0C6));
/// Records of an auction, of which the second is one while it is live and the last one is its end.
const STORED: &str = include_str!("../../../../libs/protocol/tests/stored/closed.jsonl");

impl Outside {
    /// The last record of the auction before; None if there is none.
    pub fn predecessor(&self) -> Option<Logged> {
        let ends_at = self.predecessor_ends_at?;
        let is_over = self.clients_now().0 >= ends_at;
        let line = if is_over { STORED.lines().next_back() } else { STORED.lines().nth(1) };
        let mut record: Record = serde_json::from_str(line?).ok()?;
        record.auction_id = PREDECESSOR;
        record.state.ended_at = is_over.then_some(ends_at);
        Some(Logged { stream_seq: 1, previous_stream_seq: None, record, trace: Default::default() })
    }
}

/// Waits for the end of the auction before, as a timer follows it in the log.
pub async fn ended(endpoint: Endpoint) -> Result<Logged, LogError> {
    loop {
        endpoint.while_frozen().await;
        let (wait, found) = {
            let mut outside = lock(&endpoint.outside);
            let now = outside.clients_now().0;
            let wait = outside.predecessor_ends_at.map(|ends_at| ends_at.saturating_sub(now));
            let lost = outside.lost_in_thousand.unwrap_or(0);
            let is_lost = wait == Some(0) && (outside.log_is_down || outside.random.u32(..1_000) < lost);
            (wait, (!is_lost).then(|| outside.predecessor()).flatten())
        };
        match (wait, found) {
            (Some(0), Some(logged)) => return Ok(logged),
            (Some(0), None) => {
                sleep(READ_TIMEOUT).await;
                return Err(LogError::Read("the connection was lost".into()));
            }
            (Some(wait), _) => sleep(Duration::from_millis(wait)).await,
            // The auction is not created yet, or follows none.
            (None, _) => sleep(READ_TIMEOUT).await,
        }
    }
}
