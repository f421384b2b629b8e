//! Bids on an auction that is not open yet. The log gets each of them encrypted, an amount alone too, which is kept as a
//! maximum; only here it is known whether the auction keeps bids.

use domain::{AuctionId, Offer};
use protocol::Record;

use crate::pending::Pending;
use crate::sealing::LogKeys;

/// Seals the amounts among the bids if the log's last record says that the auction keeps bids. If it has opened since,
/// they are decided as amounts; without a key they are refused, as by any auction that has not started.
pub(super) fn seal(keys: &LogKeys, auction_id: AuctionId, last: Option<&Record>, bids: &mut [Pending]) {
    if !last.is_some_and(|record| record.state.keeps_bids()) {
        return;
    }
    for Pending { bid, .. } in bids {
        if let Offer::Exact(_) = bid.offer
            && let Ok(kept) = keys.kept(auction_id, bid.bid_id, bid.offer.clone())
        {
            bid.offer = kept;
        }
    }
}
