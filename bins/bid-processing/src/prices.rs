//! Committed prices: a bid that cannot win is refused without asking Redis.
//!
//! The price of an auction only rises while it lives, so a bid below what is committed is below whatever
//! Redis would say. From the log alone, never from a script's answer, which may yet be lost. Only
//! `bid_too_low` is said here, and only where nothing that is checked before the amount can apply.
//!
//! Another instance may have answered for a record that has not come here yet (the way from the log to
//! us, well under the caller's own round trip): the refusal then names the seq before it, and is as right.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use bus::Bus;
use domain::{Amount, AuctionId, BidId, BidRequest, Status, UserId};
use hotstate::Clock;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use protocol::{Code, Mark, Record, RecordKind, RefusedBid};

/// Accepted ids remembered an auction (16 bytes each); one with more asks Redis again.
const MAX_IDS: usize = 100_000;
/// So close to the end Redis is asked, whose clock decides whether a bid is late. Far more than our
/// measure of that clock can be wrong.
const END_MARGIN_MS: u64 = 500;

pub struct Prices {
    clock: Clock,
    bus: Bus,
    auctions: Mutex<HashMap<AuctionId, Price>>,
    refused: Counter,
}

struct Price {
    mark: Mark,
    /// The connection it came over: what was missed before the next one is not known.
    connection: Option<u64>,
    is_live: bool,
    end_time: u64,
    high_bid: Option<Amount>,
    minimum_bid: Amount,
    host: UserId,
    leader: Option<UserId>,
    /// Every accepted id, if the auction has been followed without a gap since its first record: a
    /// bid that was accepted before is not hopeless.
    ids: Option<HashSet<BidId>>,
}

impl Prices {
    pub fn new(bus: Bus, clock: Clock, registry: &mut Registry) -> Self {
        let refused = Counter::default();
        registry.register("bids_hopeless", "Bids refused without asking Redis", refused.clone());
        Self { bus, clock, auctions: Mutex::default(), refused }
    }

    pub fn note(&self, record: &Record) {
        let mut auctions = self.auctions.lock().unwrap_or_else(PoisonError::into_inner);
        if record.state.outcome.is_some() {
            auctions.remove(&record.auction_id);
            return;
        }
        let before = auctions.remove(&record.auction_id);
        let price = match before {
            Some(price) if price.mark.seq >= record.seq => price,
            before => Price {
                mark: record.mark(),
                connection: self.bus.connection(),
                is_live: Status::from_name(&record.state.status) == Some(Status::Live),
                end_time: record.state.end_time,
                high_bid: record.state.high_bid,
                minimum_bid: record.state.minimum_bid,
                host: record.state.host_user_id,
                leader: record.state.high_bidder_id,
                ids: ids_after(before, record),
            },
        };
        auctions.insert(record.auction_id, price);
    }

    /// The refusal of a bid that cannot win. `id_is_new` if the id was made for this very request.
    pub fn refusal(&self, auction_id: AuctionId, bid: &BidRequest, id_is_new: bool) -> Option<RefusedBid> {
        let now = self.clock.now().0;
        let auctions = self.auctions.lock().unwrap_or_else(PoisonError::into_inner);
        let price = auctions.get(&auction_id)?;
        let unknown_id = id_is_new || price.ids.as_ref().is_some_and(|ids| !ids.contains(&bid.bid_id));
        let is_current = price.connection.is_some() && price.connection == self.bus.connection();
        let plain = is_current && price.is_live && now + END_MARGIN_MS < price.end_time && unknown_id;
        if !plain || bid.user_id == price.host || price.leader == Some(bid.user_id) || bid.amount >= price.minimum_bid {
            return None;
        }
        self.refused.inc();
        Some(RefusedBid::by_rule(Code::BidTooLow, bid.bid_id, price.mark.seq, price.high_bid, price.minimum_bid))
    }
}

fn ids_after(before: Option<Price>, record: &Record) -> Option<HashSet<BidId>> {
    let mut ids = match before {
        None if record.kind == RecordKind::Created => HashSet::new(),
        Some(price) if price.mark.head == record.prev => price.ids?,
        _ => return None,
    };
    ids.extend(record.bids.iter().map(|bid| bid.bid_id));
    (ids.len() <= MAX_IDS).then_some(ids)
}
