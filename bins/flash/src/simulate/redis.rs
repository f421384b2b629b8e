//! The auction in a simulated Redis, and the effects of the scripts on it.

use bid_processing::replay;
use bus::Logged;
use domain::{Acted, Auction, BidRequest, CloseReason, Decision, Head, HostAct, Millis, Status, UserId};
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
        let (mark, state) = (self.mark(), self.snapshot());
        self.outbox.push(OutboxEntry { kind, prev, mark, time: time.0, by, user_id: None, bids, state });
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
            bid_count: self.auction.bid_count,
            high_bid: leader.as_ref().map(|leader| leader.amount),
            high_bidder_id: leader.as_ref().map(|leader| leader.user_id),
            high_bidder_username: leader.as_ref().map(|leader| leader.username.clone()),
            minimum_bid: self.auction.minimum_bid(),
            top_bids: self.top.clone(),
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
        let prev = self.auction.head;
        let mut appended = None;
        let (mut facts, mut decisions) = (Vec::new(), Vec::new());
        for bid in bids {
            let decision = self.auction.place(bid, now);
            if let Decision::Accepted { accepted, found: false } = &decision {
                self.top.retain(|ranked| ranked.user_id != bid.user_id);
                let BidRequest { bid_id, user_id, username, .. } = bid.clone();
                let amount = accepted.amount;
                self.top.insert(0, RankedBid { user_id, username: username.clone(), amount });
                self.top.truncate(MAX_TOP);
                let (seq, timestamp, kind) = (accepted.seq, accepted.timestamp.0, domain::BidKind::Bid.into());
                facts.push(Bid { seq, bid_id, user_id, username, amount, timestamp, kind });
            }
            decisions.push(decision);
        }
        if let Some(last) = facts.last() {
            let time = Millis(last.timestamp);
            facts.iter().for_each(|fact| self.recent.insert(0, fact.clone()));
            self.recent.truncate(MAX_RECENT_BIDS);
            self.outbox.retain(|entry| entry.mark.seq > committed);
            self.append(RecordKind::Bids, prev, time, None, facts);
            appended = self.outbox.last().cloned();
            let prev = self.auction.head;
            if self.auction.close(CloseReason::BuyNow, None, time) {
                self.append(RecordKind::Closed, prev, time, None, Vec::new());
                appended = None;
            }
        }
        Verdicts { mark: self.mark(), decisions, appended }
    }

    /// Does something for the host, as `start.lua` and its siblings.
    pub fn act(&mut self, act: HostAct, by: UserId, now: Millis) -> HostActed {
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
            auction: replay(records).ok()?,
            outbox: Vec::new(),
            recent: recent.take(MAX_RECENT_BIDS).collect(),
            top: last.state.top_bids.clone(),
        })
    }
}
