//! The decision about one bid, proxy bids included.
//!
//! The resolution of maximums is the one that auction houses publish, such as eBay's help page "Automatic bidding": the
//! price is one step above the second highest maximum, at most the highest one, and the earlier of two equal ones leads.

use crate::chain::{BidFact, BidKind, maximum_fact};
use crate::offer::{Maximum, Offer};
use crate::{Amount, Auction, BidId, Leader, Millis, Status, UserId};

/// A bid that is to be decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BidRequest {
    /// Identifies the bid when it is repeated.
    pub bid_id: BidId,
    /// The bidder.
    pub user_id: UserId,
    /// The name that others see.
    pub username: String,
    /// The amount or the maximum that is bid.
    pub offer: Offer,
}

/// The effect of an accepted bid. A repetition under the same bid id gets this same answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The bidder.
    pub user_id: UserId,
    /// The bidder's bid. For a leader who only changed the maximum: the bid that leads. For a pre-bid: the starting
    /// price, which it bids at least.
    pub amount: Amount,
    /// The number of this fact within the auction.
    pub seq: u64,
    /// When it was accepted.
    pub timestamp: Millis,
    /// The highest bid, directly after this one and a counter-bid to it. None for a pre-bid.
    pub price: Option<Amount>,
    /// Whether the bidder leads then. Not so before the opening, and if the maximum of another person was at least as high.
    pub leads: bool,
    /// The lowest next bid, directly after this one.
    pub minimum_bid: Amount,
    /// The end of the auction, directly after this bid.
    pub end_time: Millis,
    /// Whether this bid moved the end.
    pub extended: bool,
    /// Extensions so far, this one included.
    pub extension_count: u32,
    /// The offer, cut to the buy-now price.
    pub offer: Offer,
}

/// Why a bid was refused, in the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Another person, or the same one with another offer, used the bid id before.
    BidIdReused,
    /// The auction is scheduled, and keeps no bids.
    NotStarted,
    /// The auction is paused.
    Paused,
    /// The auction is over, or its end has passed.
    Closed,
    /// The bidder is the host.
    HostCannotBid,
    /// The host has blocked the bidder.
    Blocked,
    /// The bidder is the leader, and the rules do not allow raising one's own bid.
    AlreadyLeading,
    /// The offer is below the minimum, or the leader's new maximum below the price.
    TooLow,
    /// The auction keeps as many pre-bids as it may, or this person has set theirs as often as one may.
    PrebidsFull,
}

/// The verdict on one bid, and the state that it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The bid is in the auction.
    Accepted {
        /// Its effect.
        accepted: Accepted,
        /// Whether it had been accepted before under the same id.
        found: bool,
    },
    /// The bid changed nothing.
    Refused {
        /// The first check that failed.
        refusal: Refusal,
        /// The auction's latest fact.
        seq: u64,
        /// The highest bid at that fact.
        high_bid: Option<Amount>,
        /// The lowest amount that would not have been too low.
        minimum_bid: Amount,
    },
}

/// The effect of an accepted bid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// The leader's maximum changes, and nothing else.
    Maximum,
    /// The offer is kept until the opening.
    Prebid,
    /// The bidder bids this amount; the leader's maximum answers with a counter-bid, if it is at least as high.
    Bid { amount: Amount, counter: Option<Amount> },
}

impl Auction {
    /// Decides one bid at `time`. A refusal changes nothing. A bid beyond the buy-now price is one at that price; the
    /// caller closes the auction after it ([`CloseReason::BuyNow`]), as the script does.
    ///
    /// [`CloseReason::BuyNow`]: crate::CloseReason::BuyNow
    pub fn place(&mut self, bid: &BidRequest, time: Millis) -> Decision {
        let now = self.not_before(time);
        let offer = bid.offer.capped(self.rules.buy_now);
        if let Some(earlier) = self.accepted.get(&bid.bid_id) {
            let same = earlier.user_id == bid.user_id && earlier.offer.is_same(&offer);
            return if same {
                Decision::Accepted { accepted: earlier.clone(), found: true }
            } else {
                self.refuse(Refusal::BidIdReused)
            };
        }
        let offer = if self.status == Status::Scheduled { offer } else { offer.at_once() };
        match self.objection(bid.user_id, now).map_or_else(|| self.effect(bid.user_id, &offer), Err) {
            Ok(effect) => Decision::Accepted { accepted: self.accept(bid, offer, effect, now), found: false },
            Err(refusal) => self.refuse(refusal),
        }
    }

    fn objection(&self, user_id: UserId, now: Millis) -> Option<Refusal> {
        match self.status {
            Status::Scheduled if self.keeps_prebids() => {}
            Status::Scheduled => return Some(Refusal::NotStarted),
            Status::Paused => return Some(Refusal::Paused),
            Status::Closed | Status::Cancelled => return Some(Refusal::Closed),
            Status::Live if now >= self.end_time || self.is_bought() => return Some(Refusal::Closed),
            Status::Live => {}
        }
        if user_id == self.rules.host.user_id {
            return Some(Refusal::HostCannotBid);
        }
        self.is_blocked(user_id).then_some(Refusal::Blocked)
    }

    pub(crate) fn is_blocked(&self, user_id: UserId) -> bool {
        self.blocked.as_ref().is_some_and(|blocked| blocked.contains(&user_id))
    }

    /// The effect of an offer, once no other check speaks against it.
    fn effect(&self, user_id: UserId, offer: &Offer) -> Result<Effect, Refusal> {
        if self.status == Status::Scheduled {
            return self.may_keep(user_id, offer).map(|()| Effect::Prebid);
        }
        let is_met = self.reserve_met();
        // The reserve, if this offer is the first that reaches it.
        let reached = self.rules.reserve.as_ref().map(|reserve| reserve.amount);
        let reached = reached.filter(|reserve| !is_met && offer.limit() >= *reserve);
        let leads = self.leader.as_ref().filter(|leader| leader.user_id == user_id);
        if let Some(leader) = leads {
            match (offer.maximum(), reached) {
                (Some(maximum), _) if maximum < leader.amount => return Err(Refusal::TooLow),
                // A leader never bids against their own bid, but does against the host's reserve.
                (Some(_), Some(amount)) => return Ok(Effect::Bid { amount, counter: None }),
                (Some(_), None) => return Ok(Effect::Maximum),
                (None, _) if !self.rules.allow_self_raise => return Err(Refusal::AlreadyLeading),
                (None, _) => {}
            }
        }
        let (minimum, limit) = (self.minimum_bid(), offer.limit());
        if limit < minimum {
            return Err(Refusal::TooLow);
        }
        let at_once = offer.amount().unwrap_or(minimum).max(minimum);
        let amount = reached.map_or(at_once, |reserve| at_once.max(reserve));
        if leads.is_some() || self.rules.buys(amount) {
            return Ok(Effect::Bid { amount, counter: None });
        }
        let above = |amount: Amount| amount.plus(self.rules.increments.step(amount));
        // A blocked leader keeps the bid that stands, and makes no further ones.
        let rests = self.leader.as_ref().is_some_and(|leader| self.is_blocked(leader.user_id));
        Ok(match self.maximum.as_ref().filter(|_| !rests).map(|maximum| maximum.amount) {
            Some(maximum) if limit <= maximum => Effect::Bid { amount, counter: Some(maximum.min(above(limit))) },
            Some(maximum) => Effect::Bid { amount: amount.max(limit.min(above(maximum))), counter: None },
            None => Effect::Bid { amount, counter: None },
        })
    }

    fn refuse(&self, refusal: Refusal) -> Decision {
        let high_bid = self.leader.as_ref().map(|leader| leader.amount);
        Decision::Refused { refusal, seq: self.seq, high_bid, minimum_bid: self.minimum_bid() }
    }

    fn accept(&mut self, bid: &BidRequest, offer: Offer, effect: Effect, now: Millis) -> Accepted {
        self.last_now = now;
        let before = self.extension_count;
        // Before the first maximum every bid was a call of its own.
        let answers = self.answers.unwrap_or(self.bid_count) + 1;
        self.answers = (self.answers.is_some() || offer.maximum().is_some()).then_some(answers);
        let (seq, amount) = (self.seq + 1, self.take_effect(bid, &offer, effect, now));
        let price = self.leader.as_ref().map(|leader| leader.amount);
        let leads = self.leader.as_ref().is_some_and(|leader| leader.user_id == bid.user_id);
        let accepted = Accepted {
            user_id: bid.user_id,
            amount,
            seq,
            timestamp: now,
            price,
            leads,
            minimum_bid: self.minimum_bid(),
            // An opening that is late may come after the end that was planned.
            end_time: self.end_time.max(now),
            extended: self.extension_count > before,
            extension_count: self.extension_count,
            offer,
        };
        self.accepted.insert(bid.bid_id, accepted.clone());
        accepted
    }

    /// Records the facts, and returns what the bidder now bids.
    fn take_effect(&mut self, bid: &BidRequest, offer: &Offer, effect: Effect, now: Millis) -> Amount {
        let BidRequest { bid_id, user_id, ref username, .. } = *bid;
        let maximum = match offer {
            Offer::UpTo { maximum, sealed, .. } => Some(Maximum { bid_id, amount: *maximum, sealed: sealed.clone() }),
            Offer::Exact(_) | Offer::Kept { .. } => None,
        };
        let led = self.leader.clone();
        self.counter = None;
        let (amount, counter) = match effect {
            Effect::Bid { amount, counter } => (amount, counter),
            Effect::Maximum => {
                self.maximum = maximum;
                let sealed = offer.sealed().map(ToString::to_string).unwrap_or_default();
                self.record(|seq, _| maximum_fact(seq, now, user_id, bid_id, &sealed));
                return led.map_or(offer.limit(), |leader| leader.amount);
            }
            Effect::Prebid => {
                self.keep(bid, offer, now);
                return self.rules.starting_bid;
            }
        };
        self.move_end(counter.unwrap_or(amount), now);
        let fact = |seq, kind, bid_id, leader: &Leader| BidFact {
            seq,
            bid_id,
            user_id: leader.user_id,
            username: leader.username.clone(),
            amount: leader.amount,
            timestamp: now,
            kind,
            sealed: None,
        };
        let bidder = Leader { user_id, username: username.clone(), amount };
        self.bid_count += 1;
        self.record(|seq, _| {
            BidFact { sealed: offer.sealed().cloned(), ..fact(seq, BidKind::Bid, bid_id, &bidder) }.text()
        });
        match counter.zip(led) {
            Some((amount, led)) => {
                let leader = Leader { amount, ..led };
                let counter =
                    fact(self.seq + 1, BidKind::Proxy, BidId::of_counter_bid(self.head, self.seq + 1), &leader);
                self.bid_count += 1;
                self.record(|_, _| counter.text());
                self.leader = Some(leader);
                self.counter = Some(counter);
            }
            None => {
                // A leader who raises the bid without a maximum keeps the one that was set before.
                if maximum.is_some() || self.leader.as_ref().is_none_or(|leader| leader.user_id != user_id) {
                    self.maximum = maximum;
                }
                self.leader = Some(bidder);
            }
        }
        amount
    }

    /// Moves the end because of a late bid that leads to this price. One that buys moves nothing.
    fn move_end(&mut self, price: Amount, now: Millis) {
        let snipe = &self.rules.anti_snipe;
        let moved =
            if self.rules.buys(price) { None } else { snipe.moved_end(now, self.end_time, self.extension_count) };
        if let Some(end) = moved {
            self.end_time = end;
            self.extension_count += 1;
        }
    }
}
