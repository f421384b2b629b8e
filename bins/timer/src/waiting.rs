//! Auctions that wait for the end of another one.

use std::collections::{BTreeSet, HashMap};

use domain::AuctionId;

/// By auction, those that follow it and wait for its end. Each of them runs, so that their number is bounded by that of the
/// running auctions.
#[derive(Default)]
pub struct Waiting(HashMap<AuctionId, BTreeSet<AuctionId>>);

impl Waiting {
    /// Notes that `follower` waits for the end of `auction_id`.
    pub fn add(&mut self, auction_id: AuctionId, follower: AuctionId) {
        self.0.entry(auction_id).or_default().insert(follower);
    }

    /// Notes that `follower` no longer waits.
    pub fn remove(&mut self, auction_id: AuctionId, follower: AuctionId) {
        if let Some(followers) = self.0.get_mut(&auction_id) {
            followers.remove(&follower);
            if followers.is_empty() {
                self.0.remove(&auction_id);
            }
        }
    }

    /// Removes and returns those that waited for the end of this auction.
    pub fn end(&mut self, auction_id: AuctionId) -> BTreeSet<AuctionId> {
        self.0.remove(&auction_id).unwrap_or_default()
    }

    /// Forgets every auction.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
