//! The running auctions as the schedule follows them, for readers.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use domain::AuctionId;
use protocol::Record;

/// The last record of each running auction. Every clone shares them. Their number is that of the running auctions.
#[derive(Clone, Default)]
pub struct Running(Arc<RwLock<HashMap<AuctionId, Arc<Record>>>>);

impl Running {
    /// The last record of an auction that runs.
    pub fn last(&self, auction_id: AuctionId) -> Option<Arc<Record>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&auction_id).map(Arc::clone)
    }

    /// The number of auctions that run.
    pub fn count(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Forgets every auction.
    pub fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Notes the last record of an auction. An auction that is over runs no longer.
    pub fn note(&self, record: &Arc<Record>) {
        // A poisoned lock is still used: each change of the map is one call, so no panic leaves it half changed.
        let mut running = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if record.state.outcome.is_some() {
            running.remove(&record.auction_id);
        } else {
            running.insert(record.auction_id, Arc::clone(record));
        }
    }
}
