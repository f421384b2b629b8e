//! Standing leads of each person, summed over all running auctions, and the limit on them.
//!
//! A lead counts with what its person may have to pay: the highest bid, or the person's maximum where that is more, at
//! most the buy-now price. An auction that ends, or that another person leads, counts no more.
//!
//! Every instance of bid-processing hears the records of all instances, so each has the same sums, and no bid waits for
//! one. A lead counts when its record arrives: a person may exceed the limit by the bids that are in flight at that
//! moment. An auction is followed from its first record that was read from the log or appended to it. After a start that
//! is the last one of each auction.
//!
//! Limits are those of a table of auction-management, which is read in the background and follows it. While it has not
//! been read once, a bid up to the default limit is admitted, and one above it can be neither admitted nor refused. From
//! then on the limits last read hold, however long auction-management is away.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::{Amount, AuctionId, BidId, UserId};
use protocol::{Limit, MAX_OWN_LIMITS, Mark, PersonLimit, Record, SealedMaximum};

/// Cents that a person may lead with at once, unless an operator has given the person another limit. More than
/// most lots cost, and far below an amount that would keep every other bidder out of an auction.
pub const DEFAULT_PERSON_LIMIT_CENTS: u64 = 100_000_000;

/// Why a bid is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    /// With it the person's leads could come to more than this limit.
    Limit {
        /// The limit.
        limit: Amount,
        /// Cents of the person's leads in other auctions.
        elsewhere: u64,
    },
    /// With it they could come to more than the default limit, and whether the person has another one is not known yet.
    Unknown,
}

/// The standing leads and the limits that one process knows.
#[derive(Debug)]
pub struct StandingLeads {
    /// None: no limit.
    default: Option<Amount>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    auctions: HashMap<AuctionId, Lead>,
    /// Cents that each leader's leads may cost together.
    sums: HashMap<UserId, u64>,
    limits: HashMap<UserId, Limit>,
    /// Limits of the reading that runs.
    reading: Option<HashMap<UserId, Limit>>,
    /// The table has been read once.
    is_complete: bool,
}

/// An auction that runs.
#[derive(Debug)]
struct Lead {
    mark: Mark,
    /// Whether the log has the record. One that was only heard may be forged.
    is_confirmed: bool,
    /// The leader, and the cents that the lead may cost.
    leader: Option<(UserId, u64)>,
    /// The call that set the leader's maximum, and the maximum.
    maximum: Option<(BidId, Amount)>,
}

impl StandingLeads {
    /// No leads, with this limit for people without another one; None for no limit.
    #[must_use]
    pub fn new(default: Option<Amount>) -> Self {
        Self { default, known: Mutex::default() }
    }

    /// Takes a record that was read from the log or appended to it. `open` decrypts a maximum.
    pub fn apply(&self, record: &Record, open: impl FnOnce(&SealedMaximum) -> Option<Amount>) {
        let mut known = self.lock();
        let before = known.auctions.get(&record.auction_id);
        // Read a moment before another task appended the next one.
        if before.is_none_or(|lead| !lead.is_confirmed || lead.mark.seq < record.seq) {
            known.set(record, true, open);
        }
    }

    /// Takes a record that was heard. False if the log must say what happened: a record is missing before it, or it is
    /// forged.
    pub fn hear(&self, record: &Record, open: impl FnOnce(&SealedMaximum) -> Option<Amount>) -> bool {
        let mut known = self.lock();
        let Some(before) = known.auctions.get(&record.auction_id).map(|lead| lead.mark) else { return false };
        if record.seq <= before.seq {
            return true;
        }
        let is_next = record.prev == before.head && before.seq + record.facts() == record.seq;
        if is_next {
            known.set(record, false, open);
        }
        is_next
    }

    /// Drops an auction that is over or no longer followed.
    pub fn forget(&self, auction_id: AuctionId) {
        self.lock().drop_lead(auction_id);
    }

    /// Takes limits of the table, or changes of it.
    pub fn learn(&self, limits: &[PersonLimit]) {
        let known = &mut *self.lock();
        for table in [Some(&mut known.limits), known.reading.as_mut()].into_iter().flatten() {
            for PersonLimit { user_id, limit } in limits {
                match limit {
                    Limit::Default => _ = table.remove(user_id),
                    limit if table.len() < MAX_OWN_LIMITS || table.contains_key(user_id) => {
                        table.insert(*user_id, *limit);
                    }
                    _ => {}
                }
            }
        }
    }

    /// A reading of the table begins, or it has been reported whole: people who were not reported have no own limit.
    pub fn set_complete(&self, is_complete: bool) {
        let known = &mut *self.lock();
        if !is_complete {
            known.reading = Some(HashMap::new());
        } else if let Some(read) = known.reading.take() {
            (known.limits, known.is_complete) = (read, true);
        }
    }

    /// Whether a bid that may cost this much is admitted. One that costs no more than the person's lead in the same
    /// auction already does always is.
    ///
    /// # Errors
    /// If it would exceed the person's limit, or may do so.
    pub fn admit(&self, auction_id: AuctionId, user_id: UserId, bid: Amount) -> Result<(), Exceeded> {
        let known = self.lock();
        let limit = match known.limits.get(&user_id) {
            Some(Limit::None) => return Ok(()),
            Some(Limit::Amount { amount }) => Some(*amount),
            Some(Limit::Default) | None => self.default,
        };
        let is_known = known.is_complete || known.limits.contains_key(&user_id);
        let Some(limit) = limit else { return Ok(()) };
        let lead = known.auctions.get(&auction_id).and_then(|lead| lead.leader);
        let here = lead.filter(|(leader, _)| *leader == user_id).map_or(0, |(_, cents)| cents);
        let elsewhere = known.sums.get(&user_id).map_or(0, |sum| sum.saturating_sub(here));
        if bid.cents() <= here || elsewhere.saturating_add(bid.cents()) <= limit.cents() {
            return Ok(());
        }
        Err(if is_known { Exceeded::Limit { limit, elsewhere } } else { Exceeded::Unknown })
    }

    /// A poisoned lock is still used: a sum that a panic left wrong is at most one lead off until that auction's next
    /// record.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn set(&mut self, record: &Record, is_confirmed: bool, open: impl FnOnce(&SealedMaximum) -> Option<Amount>) {
        let before = self.drop_lead(record.auction_id);
        let state = &record.state;
        if state.outcome.is_some() {
            return;
        }
        let sealed = record.sealed.as_ref().and_then(|sealed| sealed.maximum.as_ref());
        let maximum = sealed.and_then(|sealed| match before.and_then(|lead| lead.maximum) {
            Some((bid_id, maximum)) if bid_id == sealed.bid_id => Some((bid_id, maximum)),
            _ => open(sealed).map(|maximum| (sealed.bid_id, maximum)),
        });
        let leader = state.high_bidder_id.zip(state.high_bid).map(|(leader, price)| {
            let most = maximum.map_or(price, |(_, maximum)| maximum.max(price));
            (leader, state.options.buy_now.map_or(most, |buy_now| most.min(buy_now)).cents())
        });
        if let Some((leader, cents)) = leader {
            let sum = self.sums.entry(leader).or_default();
            *sum = sum.saturating_add(cents);
        }
        self.auctions.insert(record.auction_id, Lead { mark: record.mark(), is_confirmed, leader, maximum });
    }

    fn drop_lead(&mut self, auction_id: AuctionId) -> Option<Lead> {
        let lead = self.auctions.remove(&auction_id)?;
        if let Some((leader, cents)) = lead.leader
            && let Some(sum) = self.sums.get_mut(&leader)
        {
            *sum = sum.saturating_sub(cents);
            if *sum == 0 {
                self.sums.remove(&leader);
            }
        }
        Some(lead)
    }
}

#[cfg(test)]
mod tests {
    use domain::Sealed;
    use protocol::SealedSecrets;

    use super::*;

    fn person(number: u128) -> UserId {
        UserId::from_uuid(uuid::Uuid::from_u128(number))
    }

    fn auction(number: u128) -> AuctionId {
        AuctionId::from_uuid(uuid::Uuid::from_u128(number))
    }

    fn cents(cents: u64) -> Amount {
        Amount::from_cents(cents).expect("an amount")
    }

    /// The record after `before` in which this person leads the auction at a price.
    fn led(number: u128, before: Mark, leader: u128, price: u64) -> Record {
        let stored = include_str!("../../protocol/tests/stored/closed.jsonl").lines().nth(1).expect("an opening");
        let mut record: Record = serde_json::from_str(stored).expect("a record");
        record.auction_id = auction(number);
        (record.state.high_bidder_id, record.state.high_bid) = (Some(person(leader)), Some(cents(price)));
        record.placed_after(before)
    }

    fn with_maximum(mut record: Record, call: u128) -> Record {
        let (bid_id, value) = (BidId::from_uuid(uuid::Uuid::from_u128(call)), "x".repeat(75).parse::<Sealed>());
        let maximum = Some(SealedMaximum { bid_id, value: value.expect("a sealed value") });
        record.sealed = Some(SealedSecrets { reserve: None, maximum, prebid: None, answers: 1 });
        record
    }

    /// Applies a record without a maximum.
    fn apply(leads: &StandingLeads, record: &Record) {
        leads.apply(record, |_| unreachable!("it has none"));
    }

    fn limited(limit: u64) -> StandingLeads {
        let leads = StandingLeads::new(Some(cents(limit)));
        leads.set_complete(false);
        leads.set_complete(true);
        leads
    }

    fn is_admitted(leads: &StandingLeads, number: u128, user: u128, bid: u64) -> bool {
        leads.admit(auction(number), person(user), cents(bid)).is_ok()
    }

    #[test]
    fn leads_of_all_auctions_count_together_until_they_end() {
        let leads = limited(1_000);
        assert!(is_admitted(&leads, 1, 7, 1_000) && !is_admitted(&leads, 1, 7, 1_001));
        let first = led(1, Mark::default(), 7, 600);
        apply(&leads, &first);
        apply(&leads, &led(2, Mark::default(), 7, 300));
        assert!(is_admitted(&leads, 3, 7, 100) && !is_admitted(&leads, 3, 7, 101));
        assert_eq!(
            leads.admit(auction(3), person(7), cents(101)),
            Err(Exceeded::Limit { limit: cents(1_000), elsewhere: 900 })
        );
        assert!(is_admitted(&leads, 1, 7, 700) && !is_admitted(&leads, 1, 7, 701), "the lead there is replaced");
        assert!(is_admitted(&leads, 3, 8, 1_000), "another person");

        apply(&leads, &led(1, first.mark(), 8, 650));
        assert!(is_admitted(&leads, 3, 7, 700) && !is_admitted(&leads, 3, 7, 701), "overtaken");
        assert!(is_admitted(&leads, 3, 8, 350) && !is_admitted(&leads, 3, 8, 351), "leads now");
        let mut ended = led(2, Mark { seq: 9, ..Mark::default() }, 7, 300);
        ended.state.outcome = Some(domain::Outcome::Sold.into());
        apply(&leads, &ended);
        assert!(is_admitted(&leads, 3, 7, 1_000), "ended");
        leads.forget(auction(1));
        assert!(is_admitted(&leads, 3, 8, 1_000), "forgotten");
        let known = leads.lock();
        assert!(known.auctions.is_empty() && known.sums.is_empty(), "{known:?}");
    }

    #[test]
    fn lead_counts_with_the_maximum_up_to_the_buy_now_price() {
        let leads = limited(1_000);
        let first = with_maximum(led(1, Mark::default(), 7, 100), 1);
        leads.apply(&first, |_| Some(cents(800)));
        assert!(is_admitted(&leads, 2, 7, 200) && !is_admitted(&leads, 2, 7, 201));
        // The next record has the same maximum: it is not decrypted again.
        let second = with_maximum(led(1, first.mark(), 7, 500), 1);
        assert!(leads.hear(&second, |_| unreachable!("known")));
        assert!(is_admitted(&leads, 2, 7, 200) && !is_admitted(&leads, 2, 7, 201));
        // The leader's own raise goes beyond it.
        let third = with_maximum(led(1, second.mark(), 7, 900), 1);
        assert!(leads.hear(&third, |_| unreachable!("known")));
        assert!(is_admitted(&leads, 2, 7, 100) && !is_admitted(&leads, 2, 7, 101));
        let mut capped = with_maximum(led(1, third.mark(), 7, 500), 2);
        capped.state.options.buy_now = Some(cents(700));
        leads.apply(&capped, |_| Some(cents(9_000)));
        assert!(is_admitted(&leads, 2, 7, 300) && !is_admitted(&leads, 2, 7, 301));
        // Without the key the highest bid counts.
        leads.apply(&with_maximum(led(1, capped.mark(), 7, 500), 3), |_| None);
        assert!(is_admitted(&leads, 2, 7, 500) && !is_admitted(&leads, 2, 7, 501));
    }

    #[test]
    fn bid_that_raises_no_lead_is_admitted_above_the_limit() {
        let leads = limited(100);
        leads.apply(&with_maximum(led(1, Mark::default(), 7, 50), 1), |_| Some(cents(900)));
        assert!(is_admitted(&leads, 1, 7, 900) && is_admitted(&leads, 1, 7, 200), "lowers the maximum");
        assert!(!is_admitted(&leads, 1, 7, 901) && !is_admitted(&leads, 2, 7, 1));
    }

    #[test]
    fn heard_record_counts_if_it_follows_and_older_ones_change_nothing() {
        let leads = limited(1_000);
        let (first, unused) = (led(1, Mark::default(), 7, 600), |_: &SealedMaximum| None);
        assert!(!leads.hear(&first, unused), "an auction that is not known");
        apply(&leads, &first);
        let second = led(1, first.mark(), 8, 700);
        let third = led(1, second.mark(), 9, 800);
        assert!(!leads.hear(&third, unused), "a record is missing");
        assert!(!is_admitted(&leads, 2, 7, 401), "nothing has changed");
        assert!(leads.hear(&second, unused) && leads.hear(&third, unused));
        assert!(leads.hear(&first, unused), "an old one");
        assert!(is_admitted(&leads, 2, 7, 1_000) && !is_admitted(&leads, 2, 9, 201));
        apply(&leads, &second);
        assert!(is_admitted(&leads, 2, 9, 1_000) && !is_admitted(&leads, 2, 8, 301), "the log does not have the third");
        apply(&leads, &third);
        apply(&leads, &second);
        assert!(!is_admitted(&leads, 2, 9, 201), "read before another task appended the third");
        let forged = Record { prev: first.head, ..led(1, third.mark(), 7, 999) };
        assert!(!leads.hear(&forged, unused) && is_admitted(&leads, 2, 7, 1_000));
    }

    #[test]
    fn own_limits_replace_the_default_once_they_are_known() {
        let leads = StandingLeads::new(Some(cents(1_000)));
        let of = |user, limit| PersonLimit { user_id: person(user), limit };
        assert!(is_admitted(&leads, 1, 7, 1_000));
        assert_eq!(leads.admit(auction(1), person(7), cents(1_001)), Err(Exceeded::Unknown));
        leads.set_complete(false);
        leads.learn(&[of(7, Limit::Amount { amount: cents(5_000) }), of(8, Limit::None)]);
        assert!(is_admitted(&leads, 1, 7, 5_000), "known although the reading runs");
        leads.set_complete(true);
        assert!(is_admitted(&leads, 1, 8, 9_000_000) && !is_admitted(&leads, 1, 7, 5_001));
        assert_eq!(
            leads.admit(auction(1), person(9), cents(1_001)),
            Err(Exceeded::Limit { limit: cents(1_000), elsewhere: 0 })
        );
        leads.learn(&[of(7, Limit::Default), of(9, Limit::Amount { amount: cents(10) })]);
        assert!(!is_admitted(&leads, 1, 7, 1_001) && !is_admitted(&leads, 1, 9, 11));
        // A change was missed: the next reading does not report the person any more.
        leads.set_complete(false);
        leads.learn(&[of(8, Limit::None)]);
        assert!(!is_admitted(&leads, 1, 9, 11), "until the reading is complete, what was read before holds");
        leads.set_complete(true);
        assert!(is_admitted(&leads, 1, 9, 1_000) && is_admitted(&leads, 1, 8, 9_000_000));
        assert!(is_admitted(&StandingLeads::new(None), 1, 7, 9_999_999_999), "no default");
    }
}
