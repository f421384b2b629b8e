//! Committed prices: a bid that cannot win is refused without asking Redis, or even bid-processing.
//!
//! The price of an auction only rises while it lives, so a bid below what is committed is below whatever
//! Redis would say. From the log alone, never from a script's answer, which may yet be lost. Only
//! `bid_too_low` is said here, and only where nothing that is checked before the amount can apply.
//!
//! An instance or an edge may answer for a record that has not come here yet. What is answered through
//! this process is noted ([`CommittedPrices::answered`]), and nothing older is said after it; of another's answers
//! we know when its record comes, well under a caller's round trip later.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::{Amount, AuctionId, BidId, BidRequest, Status, UserId};

use protocol::{Code, CommittedState, Record, RecordKind, RefusedBid, Snapshot};

/// Accepted ids remembered an auction (16 bytes each); one with more asks Redis again.
const MAX_IDS: usize = 100_000;
/// So close to the end Redis is asked, whose clock decides whether a bid is late. Far more than our
/// measure of that clock can be wrong.
const END_MARGIN_MS: u64 = 500;

/// Which connection to the log's server is up, None while there is none: see [`CommittedPrices::hear`].
pub type Connection = Option<u64>;

/// What is committed about the price of each auction that is followed here.
#[derive(Debug, Default)]
pub struct CommittedPrices {
    auctions: Mutex<HashMap<AuctionId, Price>>,
}

#[derive(Debug)]
struct Price {
    seq: u64,
    /// The highest seq that an answer from here rests on.
    answered: u64,
    /// The connection it came over: what was missed before the next one is not known.
    connection: Connection,
    is_live: bool,
    end_time: u64,
    high_bid: Option<Amount>,
    minimum_bid: Amount,
    host: UserId,
    leader: Option<UserId>,
    /// Every accepted id, if no bid has been missed since the first: a bid that was accepted before is
    /// not hopeless.
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
    /// The state of an auction whose records will be heard from now on.
    pub fn open(&self, standing: &CommittedState, connection: Connection) {
        let bids = &standing.recent_bids;
        let all = u64::try_from(bids.len()) == Ok(standing.state.bid_count);
        let ids = all.then(|| bids.iter().map(|bid| bid.bid_id).collect());
        self.lock().insert(standing.auction_id, Price::new(standing.seq, &standing.state, ids, connection));
    }

    /// The next record of an auction, heard or read over `connection`; older ones change nothing.
    pub fn hear(&self, record: &Record, connection: Connection) {
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

    /// An answer that rests on `seq` goes out from here.
    pub fn answered(&self, auction_id: AuctionId, seq: u64) {
        if let Some(price) = self.lock().get_mut(&auction_id) {
            price.answered = price.answered.max(seq);
        }
    }

    /// When a live auction ends, by Redis's clock; None of those that are not followed here.
    pub fn ends_at(&self, auction_id: AuctionId) -> Option<u64> {
        self.lock().get(&auction_id).filter(|price| price.is_live).map(|price| price.end_time)
    }

    pub fn forget(&self, auction_id: AuctionId) {
        self.lock().remove(&auction_id);
    }

    /// The refusal of a bid that cannot win. `id_is_new` if the id was made for this very request; `now`
    /// is Redis's clock.
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
        let unknown_id = id_is_new || price.ids.as_ref().is_some_and(|ids| !ids.contains(&bid.bid_id));
        let is_current = connection.is_some() && price.connection == connection && price.seq >= price.answered;
        let plain = is_current && price.is_live && now + END_MARGIN_MS < price.end_time && unknown_id;
        if !plain || bid.user_id == price.host || price.leader == Some(bid.user_id) || bid.amount >= price.minimum_bid {
            return None;
        }
        Some(RefusedBid::by_rule(Code::BidTooLow, bid.bid_id, price.seq, price.high_bid, price.minimum_bid))
    }

    /// The map is whole after every statement, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, HashMap<AuctionId, Price>> {
        self.auctions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ids_after(before: Option<Price>, record: &Record) -> Option<HashSet<BidId>> {
    let mut ids = match before {
        None if record.kind == RecordKind::Created => HashSet::new(),
        // A record that overlaps what came with the state repeats ids, it leaves none out.
        Some(price) if record.seq - record.facts() <= price.seq => price.ids?,
        _ => return None,
    };
    ids.extend(record.bids.iter().map(|bid| bid.bid_id));
    (ids.len() <= MAX_IDS).then_some(ids)
}
