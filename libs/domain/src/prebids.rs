//! Bids on an auction that is not open yet: kept as maximums, and bid at the opening, all at one moment.
//!
//! No client is shown a pre-bid before the opening. There the highest one leads, of equal ones the earliest, at the price that
//! two maximums lead to in a running auction: a step above the second highest, at most the highest itself, at least the
//! starting price, and the reserve if the highest reaches it. The facts say no more of the others than that they bid
//! the starting price. Nothing of this moves the end, which the opening sets afterwards.

use crate::chain::{BidFact, BidKind, maximum_fact};
use crate::offer::{LatestPrebid, Maximum, Offer};
use crate::{Auction, BidId, BidRequest, Leader, Millis, Refusal, Status, UserId};

/// People whose pre-bids one auction keeps. The opening bids for each of them in one script call and one record, which
/// then has 140 KB; a message may have 1 MB.
pub const MAX_PREBIDDERS: usize = 400;
/// Pre-bids of one person in one auction, each of which replaces the one before. All people together then make fewer facts
/// (4,000) than there are in a checkpoint, so that a rebuild before the opening, which has no checkpoint, is short.
pub const MAX_PREBIDS_OF_ONE: u32 = 10;

/// The bid that is kept for one person until the opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prebid {
    /// The fact that set it last, which decides between equal ones.
    pub seq: u64,
    /// The person.
    pub user_id: UserId,
    /// The name that others see after the opening.
    pub username: String,
    /// How far the auction will bid.
    pub maximum: Maximum,
    /// How often the person has set it.
    pub set: u32,
}

impl Auction {
    /// Whether bids are kept now. Not after the pre-bids were bid, though the log may not have the opening yet.
    pub(crate) fn keeps_prebids(&self) -> bool {
        self.status == Status::Scheduled && self.rules.allow_prebids && self.leader.is_none()
    }

    /// The pre-bid of a person.
    #[must_use]
    pub fn prebid_of(&self, user_id: UserId) -> Option<&Prebid> {
        self.prebids.iter().find(|prebid| prebid.user_id == user_id)
    }

    pub(crate) fn latest_prebid(&self) -> Option<LatestPrebid> {
        let Prebid { username, maximum: Maximum { bid_id, sealed, .. }, .. } = self.prebids.last()?;
        Some(LatestPrebid { bid_id: *bid_id, username: username.clone(), sealed: sealed.clone() })
    }

    /// Whether an offer is kept, once no other check speaks against it.
    pub(crate) fn may_keep(&self, user_id: UserId, offer: &Offer) -> Result<(), Refusal> {
        if offer.sealed().is_none() {
            return Err(Refusal::NotStarted);
        } else if offer.limit() < self.rules.starting_bid {
            return Err(Refusal::TooLow);
        }
        let is_full = match self.prebid_of(user_id) {
            Some(prebid) => prebid.set >= MAX_PREBIDS_OF_ONE,
            None => self.prebids.len() >= MAX_PREBIDDERS,
        };
        if is_full { Err(Refusal::PrebidsFull) } else { Ok(()) }
    }

    /// Keeps an offer in place of the person's earlier one, as new among equal ones.
    pub(crate) fn keep(&mut self, bid: &BidRequest, offer: &Offer, now: Millis) {
        let BidRequest { bid_id, user_id, ref username, .. } = *bid;
        let Some(sealed) = offer.sealed().cloned() else { return };
        let set = self.prebid_of(user_id).map_or(0, |earlier| earlier.set) + 1;
        self.record(|seq, _| maximum_fact(seq, now, user_id, bid_id, sealed.as_str()));
        self.prebids.retain(|prebid| prebid.user_id != user_id);
        let maximum = Maximum { bid_id, amount: offer.limit(), sealed };
        self.prebids.push(Prebid { seq: self.seq, user_id, username: username.clone(), maximum, set });
    }

    /// Bids for all people who are not blocked, at `time`: the starting price for all but the highest, and then the price
    /// for that one. Returns the facts, which come directly before the opening. Nothing is kept afterwards.
    pub fn bid_prebids(&mut self, time: Millis) -> Vec<BidFact> {
        let now = self.not_before(time);
        let kept = std::mem::take(&mut self.prebids);
        let mut kept: Vec<Prebid> = kept.into_iter().filter(|prebid| !self.is_blocked(prebid.user_id)).collect();
        // The first of the highest ones; they are in the order in which they were set.
        let highest = kept.iter().map(|prebid| prebid.maximum.amount).max();
        let Some(at) = kept.iter().position(|prebid| Some(prebid.maximum.amount) == highest) else {
            return Vec::new();
        };
        let highest = kept.remove(at);
        let limit = highest.maximum.amount;
        let second = kept.iter().map(|prebid| prebid.maximum.amount).max();
        let above = second.map(|amount| limit.min(amount.plus(self.rules.increments.step(amount))));
        let reserve = self.rules.reserve.as_ref().map(|reserve| reserve.amount).filter(|reserve| *reserve <= limit);
        let starting = self.rules.starting_bid;
        let price = starting.max(above.unwrap_or(starting)).max(reserve.unwrap_or(starting));
        let others = kept.into_iter().map(|prebid| (prebid.user_id, prebid.username, starting));
        let bids = others.chain([(highest.user_id, highest.username, price)]);
        let facts = bids.map(|(user_id, username, amount)| {
            let leader = Leader { user_id, username, amount };
            self.bid_count += 1;
            let bid_id = BidId::of_counter_bid(self.head, self.seq + 1);
            let fact = prebid_fact(self.seq + 1, bid_id, &leader, now);
            self.record(|_, _| fact.text());
            self.leader = Some(leader);
            fact
        });
        let facts = facts.collect();
        (self.last_now, self.maximum) = (now, Some(highest.maximum));
        facts
    }
}

fn prebid_fact(seq: u64, bid_id: BidId, leader: &Leader, timestamp: Millis) -> BidFact {
    let Leader { user_id, username, amount } = leader.clone();
    BidFact { seq, bid_id, user_id, username, amount, timestamp, kind: BidKind::Prebid, sealed: None }
}
