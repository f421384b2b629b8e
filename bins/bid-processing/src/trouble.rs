//! Log lines about calls that fail: in an outage every auction of an instance fails, many times a second.

use bus::{AppendError, LogError};
use domain::AuctionId;
use hotstate::HotstateError;
use service::Repeated;

/// Calls that may fail, each kind logged once in a while, with the auction of that call.
#[derive(Debug, Default)]
pub struct Trouble {
    redis: Repeated,
    log: Repeated,
    append: Repeated,
}

impl Trouble {
    /// A call to Redis failed.
    pub fn redis_failed(&self, auction_id: AuctionId, error: &HotstateError) {
        if let Some(not_logged) = self.redis.occurred() {
            tracing::warn!(%auction_id, not_logged, error = %errors::chain(error), "failed to call Redis");
        }
    }

    /// The log could not be read.
    pub fn log_failed(&self, auction_id: AuctionId, error: &LogError) {
        if let Some(not_logged) = self.log.occurred() {
            tracing::warn!(%auction_id, not_logged, error = %errors::chain(error), "failed to read the log");
        }
    }

    /// An append has an unknown outcome.
    pub fn append_unknown(&self, auction_id: AuctionId, error: &AppendError) {
        if let Some(not_logged) = self.append.occurred() {
            tracing::warn!(
                %auction_id,
                not_logged,
                error = %errors::chain(error),
                "failed to append a record; it may be in the log"
            );
        }
    }
}
