//! The auction in a simulated Redis, and the effects of the scripts on it.

use bid_processing::replay;
use bus::Logged;
use domain::{
    Accepted, Acted, Auction, BidFact, BidKind, BidRequest, CloseReason, Decision, Head, HostAct, Millis, Status,
    UserId,
};
use hotstate::{Closed, HostActed, OutboxEntry, Verdicts};
use protocol::{Bid, ByHost, Mark, Options, RankedBid, RecordKind, Snapshot};

/// Newest bids, and best bids, that the scripts keep.
const MAX_RECENT_BIDS: usize = 20;
const MAX_TOP: usize = 3;
/// Outbox entries of one read, as in the real one.
pub const MAX_ENTRIES: usize = 64;

/// The auction in Redis.
#[derive(Clone)]
pub struct Hot {
    /// Its state, and the answers to its bids.
    pub auction: Auction,
    /// Facts that may not be in the log yet.
    pub outbox: Vec<OutboxEntry>,
    /// The newest bids, newest first.
    pub recent: Vec<Bid>,
    /// The best bid of each of the best bidders, highest first.
    pub top: Vec<RankedBid>,
}

impl Hot {
    /// The mark that a reply names.
    pub const fn mark(&self) -> Mark {
        Mark { seq: self.auction.seq, head: self.auction.head }
    }

    /// Appends the facts of a call, and the state after them, to the outbox, as every script does at its end.
    pub fn append(&mut self, kind: RecordKind, prev: Head, time: Millis, by: Option<UserId>, bids: Vec<Bid>) {
        let (mark, state, secrets) = (self.mark(), self.snapshot(), self.auction.secrets());
        self.outbox.push(OutboxEntry { kind, prev, mark, time: time.0, by, user_id: None, bids, state, secrets });
    }

    /// The state that a record carries.
    pub fn snapshot(&self) -> Snapshot {
        let Auction { rules, leader, closing, status, .. } = &self.auction;
        let cancelled = *status == Status::Cancelled;
        let winner = closing.as_ref().and_then(|closing| closing.winner.as_ref());
        Snapshot {
            status: (*status).into(),
            host_user_id: rules.host.user_id,
            host_username: rules.host.username.clone(),
            starting_bid: rules.starting_bid,
            increment: rules.increments.step(leader.as_ref().map_or(rules.starting_bid, |leader| leader.amount)),
            options: Options::of(rules),
            by_host: ByHost::of(&self.auction),
            duration_ms: rules.duration_ms,
            anti_snipe_mode: rules.anti_snipe.mode.into(),
            anti_snipe_window_ms: rules.anti_snipe.window_ms,
            anti_snipe_extension_ms: rules.anti_snipe.extension_ms,
            anti_snipe_max_extensions: rules.anti_snipe.max_extensions,
            created_at: self.auction.starts_at.0,
            starts_at: self.auction.starts_at.0,
            end_time: self.auction.end_time.0,
            extension_count: self.auction.extension_count,
            recoveries: self.auction.recoveries,
            bid_count: self.auction.bid_count,
            high_bid: leader.as_ref().map(|leader| leader.amount),
            high_bidder_id: leader.as_ref().map(|leader| leader.user_id),
            high_bidder_username: leader.as_ref().map(|leader| leader.username.clone()),
            minimum_bid: self.auction.minimum_bid(),
            top_bids: self.top.clone(),
            reserve_met: rules.reserve.as_ref().map(|_| self.auction.reserve_met()),
            ended_at: closing.as_ref().map(|closing| closing.time.0),
            reason: closing.as_ref().map(|closing| closing.reason.into()),
            outcome: closing
                .as_ref()
                .map(domain::Closing::outcome)
                .or_else(|| cancelled.then_some(domain::Outcome::Cancelled))
                .map(Into::into),
            winner_id: winner.map(|winner| winner.user_id),
            winner_username: winner.map(|winner| winner.username.clone()),
            winning_bid: winner.map(|winner| winner.amount),
        }
    }

    /// Places bids, as `place_bid.lua`.
    pub fn place(&mut self, bids: &[BidRequest], committed: u64, now: Millis) -> Verdicts {
        let first_head = self.auction.head;
        let mut prev = first_head;
        let (mut facts, mut decisions) = (Vec::new(), Vec::new());
        let mut entries = 0;
        for bid in bids {
            let leads = self.auction.leader.as_ref().is_some_and(|leader| leader.user_id == bid.user_id);
            if leads && bid.offer.maximum().is_some() && !facts.is_empty() {
                // A changed maximum is an entry of its own, after the bids before it.
                self.append_bids(committed, &mut prev, &mut facts);
                entries += 1;
            }
            let bids_before = self.auction.bid_count;
            let decision = self.auction.place(bid, now);
            if let Decision::Accepted { accepted, found: false } = &decision {
                if self.auction.bid_count == bids_before {
                    self.outbox.retain(|entry| entry.mark.seq > committed);
                    self.append(RecordKind::Maximum, prev, accepted.timestamp, Some(bid.user_id), Vec::new());
                    prev = self.auction.head;
                    entries += 1;
                } else {
                    self.rise(bid, accepted, &mut facts);
                }
            }
            decisions.push(decision);
        }
        let last_is_bids = !facts.is_empty();
        if last_is_bids {
            self.append_bids(committed, &mut prev, &mut facts);
            entries += 1;
        }
        let mut appended = None;
        if entries > 0 {
            appended = self.outbox.last().filter(|_| entries == 1 && last_is_bids).cloned();
            let (prev, time) = (self.auction.head, self.auction.last_now());
            if self.auction.close(CloseReason::BuyNow, None, time) {
                self.append(RecordKind::Closed, prev, time, None, Vec::new());
                appended = None;
            }
        }
        Verdicts { mark: self.mark(), decisions, appended }
    }

    fn append_bids(&mut self, committed: u64, prev: &mut Head, facts: &mut Vec<Bid>) {
        self.outbox.retain(|entry| entry.mark.seq > committed);
        let time = Millis(facts.last().map_or(0, |fact| fact.timestamp));
        facts.iter().for_each(|fact| self.recent.insert(0, fact.clone()));
        self.recent.truncate(MAX_RECENT_BIDS);
        self.append(RecordKind::Bids, *prev, time, None, std::mem::take(facts));
        *prev = self.auction.head;
    }

    /// Puts an accepted bid, and the counter-bid to it, first in the top.
    fn rise(&mut self, bid: &BidRequest, accepted: &Accepted, facts: &mut Vec<Bid>) {
        let BidRequest { bid_id, user_id, username, .. } = bid.clone();
        let fact = BidFact {
            seq: accepted.seq,
            bid_id,
            user_id,
            username,
            amount: accepted.amount,
            timestamp: accepted.timestamp,
            kind: BidKind::Bid,
            // One that might have been kept is only an amount by now.
            sealed: accepted.offer.sealed().cloned(),
        };
        for fact in std::iter::once(fact).chain(self.auction.counter.clone()) {
            let bid = self.insert(fact);
            facts.push(bid);
        }
    }

    /// Puts a bid first in the top.
    fn insert(&mut self, fact: BidFact) -> Bid {
        let BidFact { seq, bid_id, user_id, username, amount, timestamp, kind, sealed } = fact;
        self.top.retain(|ranked| ranked.user_id != user_id);
        self.top.insert(0, RankedBid { user_id, username: username.clone(), amount });
        self.top.truncate(MAX_TOP);
        Bid { seq, bid_id, user_id, username, amount, timestamp: timestamp.0, kind: kind.into(), sealed }
    }

    /// Opens the auction with its pre-bids, for its host if `by` is one, as `opening.lua`. False if it may not open now.
    pub fn open(&mut self, may_open: bool, by: Option<UserId>, now: Millis) -> bool {
        if !may_open {
            return false;
        }
        let prev = self.auction.head;
        let bids: Vec<Bid> = self.auction.bid_prebids(now).into_iter().map(|fact| self.insert(fact)).collect();
        if !bids.is_empty() {
            bids.iter().for_each(|bid| self.recent.insert(0, bid.clone()));
            self.recent.truncate(MAX_RECENT_BIDS);
            self.append(RecordKind::Bids, prev, self.auction.last_now(), None, bids);
        }
        let prev = self.auction.head;
        let opened = match by {
            Some(by) => self.auction.act(HostAct::Start, by, now) == Acted::Done,
            None if self.auction.rules.follows.is_some() => self.auction.open_follower(now, now),
            None => self.auction.open(now),
        };
        let (time, opening) = (self.auction.last_now(), self.auction.head);
        self.append(RecordKind::Opened, prev, time, by, Vec::new());
        if self.auction.close(CloseReason::BuyNow, None, time) {
            self.append(RecordKind::Closed, opening, time, None, Vec::new());
        }
        opened
    }

    /// Does something for the host, as `start.lua` and its siblings.
    pub fn act(&mut self, act: HostAct, by: UserId, now: Millis) -> HostActed {
        let starts = act == HostAct::Start && self.auction.status == Status::Scheduled;
        if self.open(starts && by == self.auction.rules.host.user_id, Some(by), now) {
            return HostActed { acted: Acted::Done, mark: self.mark() };
        }
        let prev = self.auction.head;
        let acted = self.auction.act(act, by, now);
        if acted == Acted::Done {
            let (kind, user_id) = match act {
                HostAct::Start => (RecordKind::Opened, None),
                HostAct::Pause => (RecordKind::Paused, None),
                HostAct::Resume => (RecordKind::Resumed, None),
                HostAct::Block(user_id) => (RecordKind::Blocked, Some(user_id)),
                HostAct::Unblock(user_id) => (RecordKind::Unblocked, Some(user_id)),
            };
            self.append(kind, prev, self.auction.last_now(), Some(by), Vec::new());
            if let Some(entry) = self.outbox.last_mut() {
                entry.user_id = user_id;
            }
        }
        HostActed { acted, mark: self.mark() }
    }

    /// Closes the auction, as `close.lua`.
    pub fn close(&mut self, by: Option<UserId>, now: Millis) -> Closed {
        let (prev, mark) = (self.auction.head, self.mark());
        if by.is_some_and(|by| by != self.auction.rules.host.user_id) {
            return Closed::NotHost(mark);
        }
        let reason = match by {
            Some(_) => CloseReason::Host,
            None if self.auction.is_bought() => CloseReason::BuyNow,
            None => CloseReason::Ended,
        };
        if self.auction.status.is_over() {
            Closed::Already(mark)
        } else if self.auction.status != Status::Live && (by.is_none() || self.auction.status != Status::Paused) {
            Closed::NotLive(mark)
        } else if by.is_none() && self.auction.recover(now) {
            self.append(RecordKind::Resumed, prev, self.auction.last_now(), None, Vec::new());
            Closed::Resumed(self.mark())
        } else if self.auction.close(reason, by, now) {
            let time = self.auction.closing.as_ref().map_or(now, |closing| closing.time);
            self.append(RecordKind::Closed, prev, time, by, Vec::new());
            Closed::Closed(self.mark())
        } else {
            Closed::Early(mark)
        }
    }

    /// The auction as the log has it, up to and including a mark.
    pub fn restored(log: &[Logged], mark: Mark) -> Option<Self> {
        let until = log.iter().position(|logged| logged.record.mark() == mark)?;
        let records = &log[..=until];
        let last = &records.last()?.record;
        let recent = records.iter().rev().flat_map(|logged| logged.record.bids.iter().rev().cloned());
        Some(Self {
            auction: replay(records, &super::log_keys()).ok()?,
            outbox: Vec::new(),
            recent: recent.take(MAX_RECENT_BIDS).collect(),
            top: last.state.top_bids.clone(),
        })
    }
}
