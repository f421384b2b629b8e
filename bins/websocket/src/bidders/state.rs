//! The people and auctions that [`super::Bidders`] remembers.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use domain::{Amount, AuctionId, UserId};
use prometheus_client::metrics::gauge::Gauge;
use protocol::frames::Outbid;
use protocol::{Record, Snapshot};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use crate::bidders::notice::Notice;
use crate::entry::SessionId;
use crate::event::Event;
use crate::transport::send_queue::{Delivery, SendQueue, Update};

/// Auctions remembered of one person: as many as one connection may join. The oldest are forgotten first.
pub(super) const MAX_AUCTIONS_OF_PERSON: usize = 50;
/// Time for which the bids of a person are remembered after the last socket closed: most come straight back. Also the
/// time for which an auction that is over is remembered, so that a late answer does not follow it again.
pub(super) const REMEMBER_FOR: Duration = Duration::from_secs(60);

/// The people and auctions, under one lock.
#[derive(Default)]
pub(super) struct State {
    pub(super) sockets: HashMap<UserId, Vec<(SessionId, Arc<SendQueue>)>>,
    pub(super) people: HashMap<UserId, Person>,
    pub(super) auctions: HashMap<AuctionId, Auction>,
    /// People who have no socket any more, in the order in which they are forgotten. Stale if the person came back. As
    /// many as leave within [`REMEMBER_FOR`], which the edge's accept rate bounds.
    pub(super) departures: VecDeque<(Instant, UserId)>,
    /// Auctions that are over, in the order in which they are forgotten.
    pub(super) over: VecDeque<(Instant, AuctionId)>,
}

/// A person whose bids are known.
#[derive(Default)]
pub(super) struct Person {
    /// Oldest first, with whether the other edges know of the bid.
    pub(super) auctions: VecDeque<(AuctionId, bool)>,
    /// When the person is forgotten, if there is no socket.
    pub(super) forget_at: Option<Instant>,
}

/// An auction in which people of this edge have bid, or whose room is open.
#[derive(Default)]
pub(super) struct Auction {
    pub(super) bidders: HashMap<UserId, LastBid>,
    /// Bidders who have not been notified since their last bid: the leader, and those whose record has not come yet.
    pub(super) leading: Vec<UserId>,
    /// The lead after the last record; none before the first one.
    pub(super) lead: Option<Lead>,
    pub(super) source: Source,
    pub(super) is_over: bool,
}

/// The lead of an auction after one record.
#[derive(Clone, Copy)]
pub(super) struct Lead {
    pub(super) seq: u64,
    pub(super) leader: Option<UserId>,
    pub(super) high_bid: Option<Amount>,
    pub(super) minimum_bid: Amount,
}

/// The last bid of a person in an auction.
pub(super) struct LastBid {
    pub(super) seq: u64,
    pub(super) amount: Amount,
    pub(super) is_notified: bool,
}

/// Where the records of an auction come from.
#[derive(Default)]
pub(super) enum Source {
    #[default]
    Nowhere,
    /// A room is open.
    Room,
    /// A follower, which ends when this is dropped.
    Follower { _stop: DropGuard, _place: FollowerPlace },
}

/// One of the places of followers.
pub(super) struct FollowerPlace {
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) followed: Gauge,
}

impl Lead {
    pub(super) const fn of(seq: u64, state: &Snapshot) -> Self {
        Self { seq, leader: state.high_bidder_id, high_bid: state.high_bid, minimum_bid: state.minimum_bid }
    }
}

impl Drop for FollowerPlace {
    fn drop(&mut self) {
        self.followed.dec();
    }
}

impl State {
    /// The notices of the waiting bids that do not lead after the last record.
    pub(super) fn overtaken(&mut self, auction_id: AuctionId) -> Vec<Notice> {
        let Some(Auction { bidders, leading, lead: Some(lead), .. }) = self.auctions.get_mut(&auction_id) else {
            return Vec::new();
        };
        let mut notices = Vec::new();
        leading.retain(|user_id| {
            let Some(last) = bidders.get_mut(user_id).filter(|last| !last.is_notified) else { return false };
            if lead.leader == Some(*user_id) || last.seq > lead.seq {
                return true;
            }
            // A person who is away for a moment is notified by the next record after the return.
            let (Some(sockets), Some(high_bid)) = (self.sockets.get(user_id), lead.high_bid) else { return true };
            last.is_notified = true;
            let Lead { seq, minimum_bid, .. } = *lead;
            let outbid = Outbid { auction_id, seq, your_bid: last.amount, high_bid, minimum_bid };
            let queues = sockets.iter().map(|(_, queue)| Arc::clone(queue)).collect();
            let delivery = Delivery::Latest(Update::Outbid(auction_id));
            notices.push(Notice { queues, delivery, event: Event::new("outbid", outbid) });
            false
        });
        notices
    }

    /// Notes a bid, unless a later one of the person is known.
    pub(super) fn note(&mut self, auction_id: AuctionId, user_id: UserId, last: LastBid) {
        let auction = self.auctions.entry(auction_id).or_default();
        if auction.is_over {
            return;
        }
        let is_leading = !last.is_notified;
        let is_new = match auction.bidders.entry(user_id) {
            Entry::Occupied(known) if known.get().seq >= last.seq => return,
            Entry::Occupied(mut known) => {
                // A bid that was not overtaken yet is in the list already.
                let is_listed = !known.get().is_notified;
                known.insert(last);
                if is_listed {
                    return;
                }
                false
            }
            Entry::Vacant(vacant) => {
                vacant.insert(last);
                true
            }
        };
        if is_leading {
            auction.leading.push(user_id);
        }
        if is_new {
            let person = self.people.entry(user_id).or_default();
            person.auctions.push_back((auction_id, false));
            if person.auctions.len() > MAX_AUCTIONS_OF_PERSON
                && let Some((oldest, _)) = person.auctions.pop_front()
            {
                self.remove(oldest, user_id);
            }
        }
    }

    /// Lets a record replace a bid that claims to be later than it: another edge may have sent any seq.
    pub(super) fn distrust(&mut self, record: &Record, user_id: UserId) {
        let auction = self.auctions.get_mut(&record.auction_id);
        if let Some(last) = auction.and_then(|auction| auction.bidders.get_mut(&user_id))
            && last.seq > record.seq
        {
            last.seq = 0;
        }
    }

    /// Marks that the other edges know of the bids of a person in an auction. False if they did, or if there are none.
    pub(super) fn share(&mut self, auction_id: AuctionId, user_id: UserId) -> bool {
        let auctions = self.people.get_mut(&user_id).into_iter().flat_map(|person| &mut person.auctions);
        let mut unshared = auctions.filter(|(other, is_shared)| *other == auction_id && !is_shared);
        unshared.next().is_some_and(|(_, is_shared)| {
            *is_shared = true;
            true
        })
    }

    pub(super) fn remove(&mut self, auction_id: AuctionId, user_id: UserId) {
        if let Some(auction) = self.auctions.get_mut(&auction_id) {
            auction.bidders.remove(&user_id);
            auction.leading.retain(|other| *other != user_id);
        }
        self.tidy(auction_id);
    }

    /// Forgets an auction that no one on this edge has bid in. A follower ends with it.
    pub(super) fn tidy(&mut self, auction_id: AuctionId) {
        let is_unused = |auction: &Auction| {
            auction.bidders.is_empty() && !auction.is_over && !matches!(auction.source, Source::Room)
        };
        if self.auctions.get(&auction_id).is_some_and(is_unused) {
            self.auctions.remove(&auction_id);
        }
    }

    pub(super) fn forget(&mut self, user_id: UserId) {
        for (auction_id, _) in self.people.remove(&user_id).into_iter().flat_map(|person| person.auctions) {
            self.remove(auction_id, user_id);
        }
    }

    /// Forgets the people and auctions whose time has come.
    pub(super) fn forget_old(&mut self, now: Instant) {
        while let Some((at, user_id)) = self.departures.front().copied()
            && at <= now
        {
            self.departures.pop_front();
            if self.people.get(&user_id).is_some_and(|person| person.forget_at == Some(at)) {
                self.forget(user_id);
            }
        }
        while let Some((at, auction_id)) = self.over.front().copied()
            && at <= now
        {
            self.over.pop_front();
            if let Some(auction) = self.auctions.get_mut(&auction_id) {
                auction.is_over = false;
            }
            self.tidy(auction_id);
        }
    }
}
