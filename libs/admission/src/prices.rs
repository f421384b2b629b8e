//! Committed prices: a bid below the committed price is rejected without asking Redis, on an edge even without asking
//! bid-processing.
//!
//! The price of an auction only rises while it is live, so a bid below the committed price is below the price in Redis.
//! Prices come from the log alone, never from a script's answer, which may yet be lost. The only rejection given here
//! is `bid_too_low`, and only where no check that precedes the amount can apply.
//!
//! A record that was only heard ([`CommittedPrices::hear`]) may be forged: nothing is rejected after it until the log
//! has confirmed the price ([`CommittedPrices::apply`] with a record that was read or appended).
//!
//! Another instance or edge may send an answer whose record has not arrived here yet. Answers sent by this process are
//! noted ([`CommittedPrices::answered`]), and no older answer follows them. This process learns of another's answers
//! when their record arrives, which takes far less than a caller's round trip.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::{Amount, AuctionId, BidId, BidRequest, Status, UserId};

use protocol::{Code, CommittedState, Mark, Record, RecordKind, RefusedBid, Snapshot};

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
    mark: Mark,
    /// Whether the log has it. Not so after a record that was only heard.
    is_confirmed: bool,
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
    /// People whose bids are refused, whatever they offer.
    blocked: Vec<UserId>,
    /// Every accepted bid id, if no bid was missed since the first. A repeated bid that was accepted is not too low.
    ids: Option<HashSet<BidId>>,
}

impl Price {
    fn new(mark: Mark, state: &Snapshot, ids: Option<HashSet<BidId>>, connection: Connection) -> Self {
        Self {
            mark,
            is_confirmed: true,
            answered: 0,
            connection,
            is_live: state.status == Status::Live,
            end_time: state.end_time,
            high_bid: state.high_bid,
            minimum_bid: state.minimum_bid,
            host: state.host_user_id,
            leader: state.high_bidder_id,
            blocked: state.by_host.blocked.clone().unwrap_or_default(),
            ids,
        }
    }

    /// Whether a bid may be rejected by the price, if not by this one then by the next: no record was missed, the auction
    /// is live for long enough, and a repetition of an accepted bid would be noticed.
    fn may_reject(&self, id_is_new: bool, now: u64, connection: Connection) -> bool {
        let is_followed = connection.is_some() && self.connection == connection;
        is_followed && self.is_live && now + END_MARGIN_MS < self.end_time && (id_is_new || self.ids.is_some())
    }

    /// Whether the bid is below the price, and no check that precedes the amount can apply.
    fn is_above(&self, bid: &BidRequest, id_is_new: bool, now: u64, connection: Connection) -> bool {
        let is_repeated = !id_is_new && self.ids.as_ref().is_some_and(|ids| ids.contains(&bid.bid_id));
        let is_current = self.may_reject(id_is_new, now, connection) && self.mark.seq >= self.answered;
        is_current
            && !is_repeated
            && bid.user_id != self.host
            && self.leader != Some(bid.user_id)
            && !self.blocked.contains(&bid.user_id)
            && bid.offer.limit() < self.minimum_bid
    }
}

impl CommittedPrices {
    /// Starts to follow an auction from its committed state; its records are passed to [`Self::apply`] from now on.
    pub fn open(&self, committed: &CommittedState, connection: Connection) {
        let bids = &committed.recent_bids;
        // A changed maximum is no bid, but its id has an answer too.
        let has_all_bids = u64::try_from(bids.len()) == Ok(committed.state.bid_count) && !committed.has_secrets;
        let ids = has_all_bids.then(|| bids.iter().map(|bid| bid.bid_id).collect());
        self.lock().insert(committed.auction_id, Price::new(committed.mark(), &committed.state, ids, connection));
    }

    /// Takes a record of an auction that was read from the log or appended to it; records are received over
    /// `connection`. An older one changes nothing, except after a record that was only heard. After a closing record
    /// the auction is no longer followed.
    pub fn apply(&self, record: &Record, connection: Connection) {
        if record.state.outcome.is_some() {
            return self.forget(record.auction_id);
        }
        let mut auctions = self.lock();
        let before = auctions.remove(&record.auction_id);
        let price = match before {
            Some(price) if price.is_confirmed && price.mark.seq >= record.seq => price,
            before => after(before, record, connection),
        };
        auctions.insert(record.auction_id, price);
    }

    /// Takes a record that was heard and may be forged. Nothing is rejected until a record from the log follows. One of
    /// an auction that is not followed changes nothing.
    pub fn hear(&self, record: &Record, connection: Connection) {
        let mut auctions = self.lock();
        let Some(before) = auctions.remove(&record.auction_id) else { return };
        let is_known = before.mark.seq >= record.seq && before.connection == connection;
        let price = if is_known || record.state.outcome.is_some() || !record.continues(before.mark) {
            Price { is_confirmed: before.is_confirmed && is_known, ..before }
        } else {
            Price { is_confirmed: false, ..after(Some(before), record, connection) }
        };
        auctions.insert(record.auction_id, price);
    }

    /// Takes the last record of an auction, just read from the log, if it confirms or continues the price. Otherwise
    /// the price remains unconfirmed: bids are not rejected by it until the records in between have been read.
    pub fn confirm(&self, last: &Record, connection: Connection) {
        let mark = self.lock().get(&last.auction_id).map(|price| price.mark);
        if mark.is_some_and(|mark| mark == last.mark() || last.continues(mark)) {
            self.apply(last, connection);
        }
    }

    /// Notes that this process is about to send an answer that rests on `seq`, or to append a record with which an edge
    /// may send one.
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

    /// Whether [`Self::refusal`] may reject a bid on this auction at this time, if its amount is too low.
    pub fn may_reject(&self, auction_id: AuctionId, id_is_new: bool, now: u64, connection: Connection) -> bool {
        self.lock().get(&auction_id).is_some_and(|price| price.may_reject(id_is_new, now, connection))
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
        let (seq, high_bid, minimum_bid) = (price.mark.seq, price.high_bid, price.minimum_bid);
        (price.is_confirmed && price.is_above(bid, id_is_new, now, connection))
            .then(|| RefusedBid::by_rule(Code::BidTooLow, bid.bid_id, seq, high_bid, minimum_bid))
    }

    /// Whether [`Self::refusal`] would reject the bid if the log confirmed the price.
    pub fn needs_confirmation(
        &self,
        auction_id: AuctionId,
        bid: &BidRequest,
        id_is_new: bool,
        now: u64,
        connection: Connection,
    ) -> bool {
        let is_above = |price: &Price| !price.is_confirmed && price.is_above(bid, id_is_new, now, connection);
        self.lock().get(&auction_id).is_some_and(is_above)
    }

    /// A poisoned lock is still used: a panic leaves at most one auction out of the map, for which Redis is
    /// asked.
    fn lock(&self) -> MutexGuard<'_, HashMap<AuctionId, Price>> {
        self.auctions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn after(before: Option<Price>, record: &Record, connection: Connection) -> Price {
    let answered = before.as_ref().map_or(0, |price| price.answered);
    Price { answered, ..Price::new(record.mark(), &record.state, ids_after(before, record), connection) }
}

fn ids_after(before: Option<Price>, record: &Record) -> Option<HashSet<BidId>> {
    let mut ids = match before {
        None if record.kind == RecordKind::Created => HashSet::new(),
        // The record that was heard before.
        Some(price) if price.mark == record.mark() => price.ids?,
        Some(price) if record.continues(price.mark) => price.ids?,
        // A record that overlaps the bids of the state repeats ids; it leaves none out.
        Some(price)
            if price.is_confirmed
                && record.seq.saturating_sub(record.facts()) <= price.mark.seq
                && price.mark.seq < record.seq =>
        {
            price.ids?
        }
        _ => return None,
    };
    ids.extend(record.bid_ids());
    (ids.len() <= MAX_IDS).then_some(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTION: Connection = Some(1);

    fn stored() -> Vec<Record> {
        let lines = include_str!("../../protocol/tests/stored/closed.jsonl").lines();
        lines.map(|line| serde_json::from_str(line).expect("a record")).collect()
    }

    /// The seq of the rejection of a bid of one cent.
    fn rejected_at(prices: &CommittedPrices, record: &Record) -> Option<u64> {
        let bid = BidRequest {
            bid_id: BidId::from_uuid(uuid::Uuid::from_u128(99)),
            user_id: UserId::from_uuid(uuid::Uuid::from_u128(98)),
            username: "anna".to_owned(),
            offer: Amount::from_cents(1).expect("an amount").into(),
        };
        prices.refusal(record.auction_id, &bid, false, record.time, CONNECTION)?.seq
    }

    #[test]
    fn price_may_reject_where_it_is_certain() {
        let records = stored();
        let opened = &records[1];
        let prices = CommittedPrices::default();
        let may = |is_new, now, connection| prices.may_reject(opened.auction_id, is_new, now, connection);
        assert!(!may(true, opened.time, CONNECTION), "the auction is not followed");
        prices.apply(&records[0], CONNECTION);
        assert!(!may(true, opened.time, CONNECTION), "the auction is not open");
        prices.apply(opened, CONNECTION);
        let last_moment = opened.state.end_time - END_MARGIN_MS - 1;
        for is_new in [true, false] {
            assert!(may(is_new, opened.time, CONNECTION) && may(is_new, last_moment, CONNECTION));
            assert!(!may(is_new, last_moment + 1, CONNECTION), "the clock of Redis decides");
            assert!(!may(is_new, opened.time, Some(2)) && !may(is_new, opened.time, None), "records may be missing");
        }
        // A record in between was missed, and with it the ids of its bids.
        prices.apply(&records[3], CONNECTION);
        assert!(may(true, opened.time, CONNECTION));
        assert!(!may(false, opened.time, CONNECTION), "the bid may be a repetition");
        prices.apply(&records[4], CONNECTION);
        assert!(!may(true, opened.time, CONNECTION), "the auction is over");
    }

    /// The record with a price that was not bid.
    fn forged(record: &Record) -> Record {
        let before = Mark { seq: record.seq - record.facts(), head: record.prev };
        let mut forged = record.clone();
        forged.bids.iter_mut().for_each(|bid| bid.username.push_str(" the forger"));
        forged.state.minimum_bid = Amount::from_cents(9_999_999).expect("an amount");
        forged.placed_after(before)
    }

    #[test]
    fn nothing_is_rejected_after_a_record_that_was_only_heard() {
        let records = stored();
        let prices = CommittedPrices::default();
        records[..2].iter().for_each(|record| prices.apply(record, CONNECTION));
        assert_eq!(rejected_at(&prices, &records[1]), Some(2));
        prices.hear(&records[2], CONNECTION);
        assert_eq!(rejected_at(&prices, &records[2]), None);
        prices.confirm(&records[1], CONNECTION);
        assert_eq!(rejected_at(&prices, &records[2]), None, "the log does not have it");
        prices.confirm(&records[2], CONNECTION);
        assert_eq!(rejected_at(&prices, &records[2]), Some(4), "the ids of the bids are still known");
    }

    #[test]
    fn forged_record_is_replaced_by_the_log() {
        let records = stored();
        for read in &records[1..4] {
            let prices = CommittedPrices::default();
            records[..2].iter().for_each(|record| prices.apply(record, CONNECTION));
            prices.hear(&forged(&records[2]), CONNECTION);
            assert_eq!(rejected_at(&prices, &records[2]), None, "the forged price");
            prices.apply(read, CONNECTION);
            let auctions = prices.lock();
            let price = &auctions[&read.auction_id];
            assert!(price.is_confirmed);
            assert_eq!((price.mark, price.minimum_bid), (read.mark(), read.state.minimum_bid));
            assert!(price.ids.as_ref().is_none_or(|ids| read.bids.iter().all(|bid| ids.contains(&bid.bid_id))));
        }
    }

    #[test]
    fn forged_closing_record_does_not_end_the_following() {
        let records = stored();
        let prices = CommittedPrices::default();
        records[..4].iter().for_each(|record| prices.apply(record, CONNECTION));
        prices.hear(&records[4], CONNECTION);
        assert!(prices.ends_at(records[4].auction_id).is_some());
        prices.apply(&records[4], CONNECTION);
        assert!(prices.ends_at(records[4].auction_id).is_none());
    }
}
