//! Committed prices: a bid below the committed price is rejected without asking Redis, on an edge even without asking
//! bid-processing.
//!
//! The price of an auction only rises while it is live, so a bid below the committed price is below the price in Redis.
//! Prices come from the log alone, never from a script's answer, which may yet be lost. The only rejection given here
//! is `bid_too_low`, and only where no check that precedes the amount can apply.
//!
//! Another instance or edge may send an answer whose record has not arrived here yet. Answers sent by this process are
//! noted ([`CommittedPrices::answered`]), and no older answer follows them. This process learns of another's answers
//! when their record arrives, which takes far less than a caller's round trip.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::{Amount, AuctionId, BidId, BidRequest, Status, UserId};

use protocol::{Code, CommittedState, Record, RecordKind, RefusedBid, Snapshot};

/// Accepted bid ids remembered of one auction, 16 bytes each. For an auction with more, Redis is asked.
const MAX_IDS: usize = 100_000;
/// Milliseconds before the end in which Redis decides every bid, because its clock says whether a bid came after the
/// end. Far more than the error of a measurement of that clock.
const END_MARGIN_MS: u64 = 500;

/// The number of the connection to the log's server, None while there is none. See [`CommittedPrices::apply`].
pub type Connection = Option<u64>;

/// The committed price of each auction that this process follows.
#[derive(Debug, Default)]
pub struct CommittedPrices {
    auctions: Mutex<HashMap<AuctionId, Price>>,
}

#[derive(Debug)]
struct Price {
    seq: u64,
    /// The highest seq that an answer of this process rests on.
    answered: u64,
    /// The connection over which the price arrived. Records may have been missed between this connection and the next.
    connection: Connection,
    is_live: bool,
    end_time: u64,
    high_bid: Option<Amount>,
    minimum_bid: Amount,
    host: UserId,
    leader: Option<UserId>,
    /// Every accepted bid id, if no bid was missed since the first. A repeated bid that was accepted is not too low.
    ids: Option<HashSet<BidId>>,
}

impl Price {
    fn new(seq: u64, state: &Snapshot, ids: Option<HashSet<BidId>>, connection: Connection) -> Self {
        Self {
            seq,
            answered: 0,
            connection,
            is_live: state.status == Status::Live,
            end_time: state.end_time,
            high_bid: state.high_bid,
            minimum_bid: state.minimum_bid,
            host: state.host_user_id,
            leader: state.high_bidder_id,
            ids,
        }
    }
}

impl CommittedPrices {
    /// Starts to follow an auction from its committed state; its records are passed to [`Self::apply`] from now on.
    pub fn open(&self, committed: &CommittedState, connection: Connection) {
        let bids = &committed.recent_bids;
        let has_all_bids = u64::try_from(bids.len()) == Ok(committed.state.bid_count);
        let ids = has_all_bids.then(|| bids.iter().map(|bid| bid.bid_id).collect());
        self.lock().insert(committed.auction_id, Price::new(committed.seq, &committed.state, ids, connection));
    }

    /// Takes the next record of an auction, received over `connection`. Older records change nothing. After a closing
    /// record the auction is no longer followed.
    pub fn apply(&self, record: &Record, connection: Connection) {
        if record.state.outcome.is_some() {
            return self.forget(record.auction_id);
        }
        let mut auctions = self.lock();
        let before = auctions.remove(&record.auction_id);
        let price = match before {
            Some(price) if price.seq >= record.seq => price,
            before => {
                let answered = before.as_ref().map_or(0, |price| price.answered);
                Price { answered, ..Price::new(record.seq, &record.state, ids_after(before, record), connection) }
            }
        };
        auctions.insert(record.auction_id, price);
    }

    /// Notes that this process is about to send an answer that rests on `seq`.
    pub fn answered(&self, auction_id: AuctionId, seq: u64) {
        if let Some(price) = self.lock().get_mut(&auction_id) {
            price.answered = price.answered.max(seq);
        }
    }

    /// When a live auction ends, by the clock of Redis. None if it is not live or not followed.
    pub fn ends_at(&self, auction_id: AuctionId) -> Option<u64> {
        self.lock().get(&auction_id).filter(|price| price.is_live).map(|price| price.end_time)
    }

    /// Stops following an auction.
    pub fn forget(&self, auction_id: AuctionId) {
        self.lock().remove(&auction_id);
    }

    /// The rejection of a bid below the committed price; None if Redis must decide. `id_is_new`: the bid id was made
    /// for this request, so it cannot be a repetition. `now`: by the clock of Redis.
    pub fn refusal(
        &self,
        auction_id: AuctionId,
        bid: &BidRequest,
        id_is_new: bool,
        now: u64,
        connection: Connection,
    ) -> Option<RefusedBid> {
        let auctions = self.lock();
        let price = auctions.get(&auction_id)?;
        let is_first_request = id_is_new || price.ids.as_ref().is_some_and(|ids| !ids.contains(&bid.bid_id));
        let is_current = connection.is_some() && price.connection == connection && price.seq >= price.answered;
        let only_amount_counts =
            is_current && price.is_live && now + END_MARGIN_MS < price.end_time && is_first_request;
        if !only_amount_counts
            || bid.user_id == price.host
            || price.leader == Some(bid.user_id)
            || bid.amount >= price.minimum_bid
        {
            return None;
        }
        Some(RefusedBid::by_rule(Code::BidTooLow, bid.bid_id, price.seq, price.high_bid, price.minimum_bid))
    }

    /// A poisoned lock is still used: a panic leaves at most one auction out of the map, for which Redis is
    /// asked.
    fn lock(&self) -> MutexGuard<'_, HashMap<AuctionId, Price>> {
        self.auctions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ids_after(before: Option<Price>, record: &Record) -> Option<HashSet<BidId>> {
    let mut ids = match before {
        None if record.kind == RecordKind::Created => HashSet::new(),
        // A record that overlaps the bids of the state repeats ids; it leaves none out.
        Some(price) if record.seq - record.facts() <= price.seq => price.ids?,
        _ => return None,
    };
    ids.extend(record.bids.iter().map(|bid| bid.bid_id));
    (ids.len() <= MAX_IDS).then_some(ids)
}
