//! The people who are connected to this edge, the auctions that they have bid in, and which of them must be notified.
//!
//! `outbid` and the end of an auction go to every socket of a person who has bid, whether or not it has joined the
//! room. The edge learns of a bid from the answer that passes it, from the records of open rooms, from the other edges,
//! and from the history when the person signs in. The leader is read from committed records alone, each of which a room
//! or a follower reports.
//!
//! A person is notified once for each bid: the bid waits here until a record shows another leader.
//!
//! **Bounds** Sockets of people are bounded by the edge's places. The newest [`MAX_AUCTIONS_OF_PERSON`] auctions of each
//! person are remembered, for [`REMEMBER_FOR`] after the last socket closed, and at most [`MAX_PEOPLE`] people. Auctions
//! without a room are followed by at most [`MAX_FOLLOWED`] tasks.

use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::{Amount, AuctionId, UserId};
use prometheus_client::metrics::gauge::Gauge;
use protocol::frames::{AuctionCancelled, AuctionEnded};
use protocol::{BidOfPerson, CommittedState, Naming, PlacedBid, Record, RecordKind};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::entry::SessionId;
use crate::event::Event;
use crate::transport::send_queue::{Delivery, SendQueue};

mod notice;
mod state;

pub use notice::Notice;
use state::{FollowerPlace, LastBid, Lead, MAX_AUCTIONS_OF_PERSON, REMEMBER_FOR, Source, State};

/// People with bids who are remembered, connected or gone a moment ago: twice the sockets of an edge by default. Each
/// takes 100 bytes, and 60 for each auction.
const MAX_PEOPLE: usize = 20_000;
/// Auctions followed without a room, of 8 KB each, most of it the channel of the subscription. Those that come later are
/// noticed when a room opens.
const MAX_FOLLOWED: usize = 5_000;
/// The people, and the auctions that they have bid in.
pub struct Bidders {
    state: Mutex<State>,
    places: Arc<Semaphore>,
    followed: Gauge,
}

impl Bidders {
    /// No person is connected. `followed` counts the auctions that are followed without a room.
    pub fn new(followed: Gauge) -> Self {
        Self { state: Mutex::default(), places: Arc::new(Semaphore::new(MAX_FOLLOWED)), followed }
    }

    /// Adds a socket of a person. True if it is the first one and nothing is known of the bids of this person.
    pub fn connect(&self, user_id: UserId, session: SessionId, queue: Arc<SendQueue>) -> bool {
        let mut state = self.lock();
        let State { sockets, people, .. } = &mut *state;
        let known = people.get_mut(&user_id);
        let is_known = known.is_some();
        if let Some(person) = known {
            person.forget_at = None;
        }
        // Nearly all people have one socket.
        let sockets = sockets.entry(user_id).or_insert_with(|| Vec::with_capacity(1));
        sockets.push((session, queue));
        sockets.len() == 1 && !is_known
    }

    /// Whether a person has a socket.
    pub fn is_connected(&self, user_id: UserId) -> bool {
        self.lock().sockets.contains_key(&user_id)
    }

    /// Removes a socket of a person.
    pub fn disconnect(&self, user_id: UserId, session: SessionId, now: Instant) {
        let mut state = self.lock();
        state.forget_old(now);
        let Entry::Occupied(mut sockets) = state.sockets.entry(user_id) else { return };
        sockets.get_mut().retain(|(other, _)| *other != session);
        if !sockets.get().is_empty() {
            return;
        }
        sockets.remove();
        if state.people.len() > MAX_PEOPLE {
            return state.forget(user_id);
        }
        if let Some(person) = state.people.get_mut(&user_id) {
            let forget_at = now + REMEMBER_FOR;
            person.forget_at = Some(forget_at);
            state.departures.push_back((forget_at, user_id));
        }
    }

    /// Notes an accepted bid that was placed through this edge. True if the other edges do not know yet that the person
    /// has bid in this auction.
    pub fn placed(&self, auction_id: AuctionId, user_id: UserId, seq: u64, amount: Amount) -> bool {
        let mut state = self.lock();
        state.note(auction_id, user_id, LastBid { seq, amount, is_notified: false });
        state.share(auction_id, user_id)
    }

    /// The bids of a person that this edge remembers, for another one.
    pub fn known(&self, user_id: UserId) -> Vec<BidOfPerson> {
        let state = self.lock();
        let auctions = state.people.get(&user_id).into_iter().flat_map(|person| &person.auctions);
        auctions
            .filter_map(|(auction_id, _)| {
                let LastBid { seq, amount, is_notified } = *state.auctions.get(auction_id)?.bidders.get(&user_id)?;
                Some(BidOfPerson { auction_id: *auction_id, seq, amount, is_notified })
            })
            .collect()
    }

    /// Notes bids that another edge knows of a person who is connected here. Returns their auctions.
    pub fn learn_shared(&self, user_id: UserId, bids: &[BidOfPerson]) -> Vec<AuctionId> {
        let mut state = self.lock();
        if !state.sockets.contains_key(&user_id) {
            return Vec::new();
        }
        let bids = bids.iter().take(MAX_AUCTIONS_OF_PERSON);
        bids.map(|BidOfPerson { auction_id, seq, amount, is_notified }| {
            let last = LastBid { seq: *seq, amount: *amount, is_notified: *is_notified };
            state.note(*auction_id, user_id, last);
            state.share(*auction_id, user_id);
            *auction_id
        })
        .collect()
    }

    /// Notes bids of a person in auctions that are not over, newest first. Returns these auctions.
    pub fn learn(&self, user_id: UserId, bids: &[PlacedBid]) -> Vec<AuctionId> {
        let mut state = self.lock();
        if !state.sockets.contains_key(&user_id) {
            return Vec::new();
        }
        let mut auctions = Vec::new();
        for bid in bids.iter().filter(|bid| bid.is_running()) {
            if auctions.contains(&bid.auction_id) {
                continue;
            }
            let last = LastBid { seq: bid.seq, amount: bid.amount, is_notified: bid.is_outbid() };
            state.note(bid.auction_id, user_id, last);
            auctions.push(bid.auction_id);
        }
        auctions
    }

    /// The room of an auction is open in this state, and reports its records from now on.
    pub fn room_opened(&self, committed: &CommittedState) {
        let mut state = self.lock();
        let auction = state.auctions.entry(committed.auction_id).or_default();
        auction.source = Source::Room;
        auction.lead = Some(Lead::of(committed.seq, &committed.state));
    }

    /// The room of an auction has ended.
    pub fn room_closed(&self, auction_id: AuctionId) {
        let mut state = self.lock();
        if let Some(auction) = state.auctions.get_mut(&auction_id) {
            auction.source = Source::Nowhere;
        }
        state.tidy(auction_id);
    }

    /// Takes a place for a follower of this auction. None if it needs none, or there is no place.
    pub fn begin_following(&self, auction_id: AuctionId) -> Option<CancellationToken> {
        let mut state = self.lock();
        let auction = state.auctions.get_mut(&auction_id)?;
        if !matches!(auction.source, Source::Nowhere) || auction.bidders.is_empty() || auction.is_over {
            return None;
        }
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        self.followed.inc();
        let (stop, place) =
            (CancellationToken::new(), FollowerPlace { _permit: permit, followed: self.followed.clone() });
        auction.source = Source::Follower { _stop: stop.clone().drop_guard(), _place: place };
        Some(stop)
    }

    /// Takes a record of an auction that is not over. Returns the notices of the bids that were overtaken.
    #[must_use]
    pub fn observe(&self, record: &Record, now: Instant) -> Vec<Notice> {
        let mut state = self.lock();
        state.forget_old(now);
        for bid in &record.bids {
            if state.sockets.contains_key(&bid.user_id) || state.people.contains_key(&bid.user_id) {
                state.distrust(record, bid.user_id);
                let last = LastBid { seq: bid.seq, amount: bid.amount, is_notified: false };
                state.note(record.auction_id, bid.user_id, last);
            }
        }
        let Some(auction) = state.auctions.get_mut(&record.auction_id) else { return Vec::new() };
        auction.lead = Some(Lead::of(record.seq, &record.state));
        // A record that was withdrawn may have shown another leader.
        if let Some(leader) = record.state.high_bidder_id
            && let Some(last) = auction.bidders.get_mut(&leader)
            && last.is_notified
        {
            last.is_notified = false;
            auction.leading.push(leader);
        }
        state.overtaken(record.auction_id)
    }

    /// The notices of bids that were learned of after the record that overtook them.
    #[must_use]
    pub fn overtaken(&self, auction_id: AuctionId) -> Vec<Notice> {
        self.lock().overtaken(auction_id)
    }

    /// Takes the last record of an auction, which is over. Returns the notices to its bidders' sockets, except those that
    /// the room reaches; `naming` gives the winner's name to show.
    #[must_use]
    pub fn end(
        &self,
        record: &Record,
        now: Instant,
        naming: Naming,
        in_room: impl Fn(SessionId) -> bool,
    ) -> Vec<Notice> {
        let mut state = self.lock();
        state.forget_old(now);
        let State { sockets, people, auctions, over, .. } = &mut *state;
        let Some(auction) = auctions.get_mut(&record.auction_id) else { return Vec::new() };
        if auction.is_over {
            return Vec::new();
        }
        auction.is_over = true;
        over.push_back((now + REMEMBER_FOR, record.auction_id));
        if matches!(auction.source, Source::Follower { .. }) {
            auction.source = Source::Nowhere;
        }
        auction.leading = Vec::new();
        let (mut winner, mut others) = (Vec::new(), Vec::new());
        for user_id in std::mem::take(&mut auction.bidders).into_keys() {
            if let Some(person) = people.get_mut(&user_id) {
                person.auctions.retain(|(other, _)| *other != record.auction_id);
            }
            let queues = if record.state.winner_id == Some(user_id) { &mut winner } else { &mut others };
            let own = sockets.get(&user_id).into_iter().flatten().filter(|(session, _)| !in_room(*session));
            queues.extend(own.map(|(_, queue)| Arc::clone(queue)));
        }
        let ended = |you_won| {
            if record.kind == RecordKind::Cancelled {
                Event::new("auction_cancelled", AuctionCancelled::new(record))
            } else {
                Event::new("auction_ended", AuctionEnded::new(record, you_won, naming))
            }
        };
        [(winner, true), (others, false)]
            .into_iter()
            .filter(|(queues, _)| !queues.is_empty())
            .map(|(queues, you_won)| Notice { queues, delivery: Delivery::Reliable, event: ended(you_won) })
            .collect()
    }

    /// Forgets an auction that the log does not have.
    pub fn forget_auction(&self, auction_id: AuctionId) {
        self.lock().auctions.remove(&auction_id);
    }

    /// A poisoned lock is still used: a panic loses notices of one record at most.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
