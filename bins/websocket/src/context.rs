//! State shared by all connections and rooms of this edge.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use admission::{CommittedPrices, Limits, OnAirAuctions, Rate, ShownNames, UnknownAuctions};
use bus::{BackgroundSender, Bus, Chat, LeaseToken, Log};
use domain::{Amount, AuctionId, BidId, BidRequest, Offer, UserId};
use hotstate::{Clock, Hotstate};
use http::StatusCode;
use identity::{Token, Verifier};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use protocol::frames::close;
use protocol::{Answer, Code, Naming, Person, PlaceBid, RefusedBid, Snapshot, UserSeen};
use service::{Answers, Latency, Repeated, Stop};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tracing::field::display;
use uuid::Uuid;

use crate::answers::PendingAnswers;
use crate::bidders::Bidders;
use crate::entry::SessionId;
use crate::places::PlaceMetrics;
use crate::single_flight::{End, Flight, MAX_WAIT, SingleFlight};
use crate::transport::framing::Transport;
use crate::transport::send_queue::SendQueue;

/// Rooms of auctions that exist. With 34 KB each before the first bid they take 680 MB; more with bids.
const MAX_OPEN_ROOMS: usize = 20_000;
/// Rooms that are being opened, whose auctions may not exist. Each takes 10 KB, for as long as bid-processing takes to
/// reply with the state: milliseconds, 4 s at most.
const MAX_OPENING_ROOMS: usize = 1_024;
/// Rooms that read earlier bids from the log at once. Each holds two requests of 512 records, 1.4 MB with one bid a
/// record, for some 20 ms.
const MAX_READING_ROOMS: usize = 16;

/// People who have signed in and wait until their bids are learned: those of two minutes. The bids of further ones are
/// learned as they are placed.
pub const MAX_SIGN_INS: usize = 512;

/// Readings of the log at once that confirm a price before a bid is rejected by it. Further bids go to bid-processing.
const MAX_CONFIRMING: usize = 16;

/// Clients of other services, limits, prices and metrics of one edge.
pub struct EdgeContext {
    /// NATS: requests, ticks, presence.
    pub bus: Bus,
    /// Committed records.
    pub log: Log,
    /// Chat messages of the last hours.
    pub chat: Chat,
    /// Redis, which decides who may chat.
    pub hotstate: Hotstate,
    /// The clock that all services share.
    pub clock: Clock,
    /// Verifies tokens.
    pub verifier: Verifier,
    /// Sends the claims of connected people to auction-management.
    pub users_seen: BackgroundSender<UserSeen>,
    /// The names under which people are shown.
    pub names: ShownNames,
    /// Whether everyone but an auction's host sees aliases in place of names.
    pub show_aliases: bool,
    /// Committed prices of the auctions whose rooms are open.
    pub prices: CommittedPrices,
    /// Auctions whose hosts stream.
    pub on_air: OnAirAuctions,
    /// The fencing token of the elected timer.
    pub timer_lease: LeaseToken,
    /// Bids of this edge's connections that are not answered yet.
    pub answers: Arc<PendingAnswers>,
    /// Work that bids wait for if the price may reject them.
    pub price_waits: PriceWaits,
    /// The connected people, and the auctions that they have bid in.
    pub bidders: Bidders,
    /// People who have signed in, and whose bids are to be learned.
    pub sign_ins: mpsc::Sender<SignIn>,
    /// Limits on bids.
    pub limits: Limits,
    /// Origins that a browser may connect from.
    pub origins: Arc<[String]>,
    /// Which rooms there may be.
    pub rooms: RoomPlaces,
    /// Connections in one room.
    pub max_members: usize,
    /// Frames of one connection.
    pub frames: Rate,
    /// The name of this edge in presence counts and in the ids of its Socket.IO sessions, for as long as its process
    /// lives.
    pub edge: Uuid,
    /// The end of the service.
    pub stop: Stop,
    /// Counters and gauges.
    pub metrics: Metrics,
    /// The number of the next session.
    pub sessions: AtomicU64,
}

/// A person who has signed in, with the token that the request for the own bids needs.
pub struct SignIn {
    /// The person.
    pub user_id: UserId,
    /// Its token.
    pub token: Token,
}

/// Work that a bid waits for before the price rejects it, or it goes to bid-processing.
pub struct PriceWaits {
    /// The first bid of each amount.
    amounts: Arc<SingleFlight<(AuctionId, Amount)>>,
    /// The reading of each log that confirms a price.
    readings: Arc<SingleFlight<AuctionId>>,
    /// One for each such reading that there may be at once.
    reading: Semaphore,
}

impl Default for PriceWaits {
    fn default() -> Self {
        Self { amounts: Arc::default(), readings: Arc::default(), reading: Semaphore::new(MAX_CONFIRMING) }
    }
}

/// How many rooms there may be in each state. Rooms that are opening do not take the places of those that are open, so
/// that ids without an auction keep no client out of an auction.
pub struct RoomPlaces {
    /// Ids that were found not to exist a short time ago.
    pub unknown: UnknownAuctions,
    /// One for each room that may be opening.
    pub opening: Arc<Semaphore>,
    /// One for each room that may be open.
    pub open: Arc<Semaphore>,
    /// One for each room that may read earlier bids from the log.
    pub reading: Arc<Semaphore>,
}

impl RoomPlaces {
    /// Rooms that may exist in either state.
    pub const MAX_ROOMS: usize = MAX_OPEN_ROOMS + MAX_OPENING_ROOMS;
}

impl Default for RoomPlaces {
    fn default() -> Self {
        Self {
            unknown: UnknownAuctions::default(),
            opening: Arc::new(Semaphore::new(MAX_OPENING_ROOMS)),
            open: Arc::new(Semaphore::new(MAX_OPEN_ROOMS)),
            reading: Arc::new(Semaphore::new(MAX_READING_ROOMS)),
        }
    }
}

/// Counters and gauges of connections, bids and forwarded requests.
#[derive(Clone, Default)]
pub struct Metrics {
    /// Open connections.
    pub connections: Gauge,
    /// Bytes in all send queues.
    pub queued_bytes: Gauge,
    /// Connections closed because the client read too slowly.
    pub slow_connections: Counter,
    /// Connections rejected because there was no place for them.
    pub rejected_connections: Counter,
    /// Counters of the places of connections.
    pub places: PlaceMetrics,
    /// Auctions followed without a room, for people who have bid in them.
    pub followed: Gauge,
    /// Requests sent to other services.
    pub forwarded_requests: Counter,
    /// Those of them that got no answer.
    pub failed_forwards: Counter,
    /// Connections closed because the client sent too fast.
    pub flooding_connections: Counter,
    /// Socket.IO requests of sessions that other edges have.
    pub forwarded_session_requests: Counter,
    /// Those that could not be passed on.
    pub failed_session_requests: Counter,
    /// Bids rejected by this edge without asking bid-processing.
    pub rejected_bids: Counter,
    /// Answers to bids, by code; `accepted` for those that were accepted.
    answers: Family<[(&'static str, &'static str); 1], Counter>,
    /// Which of them are logged.
    logged: Arc<Answers>,
    /// Bids without an answer from bid-processing, for the log.
    pub unanswered_bids: Arc<Repeated>,
    /// Time from a bid's frame to its answer in the send queue.
    answered: Latency,
    /// Time from a decision to the room that shows it.
    pub delivered: Latency,
    /// Records that were withdrawn or not shown.
    pub forged_records: Counter,
    /// Bids rejected by this edge because their person exceeded a limit.
    pub bids_over_limit: Counter,
    /// Other requests rejected because of a limit.
    pub requests_over_limit: Counter,
}

impl Metrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "bids_rejected_from_cache",
            "Bids below the committed price, rejected by this edge",
            metrics.rejected_bids.clone(),
        );
        registry.register(
            "bids_over_limit",
            "Bids rejected by this edge because their person exceeded a limit",
            metrics.bids_over_limit.clone(),
        );
        registry.register(
            "requests_over_limit",
            "Joins, renewals and chat messages rejected because of a limit",
            metrics.requests_over_limit.clone(),
        );
        registry.register("connections", "Open WebSocket and Socket.IO connections", metrics.connections.clone());
        registry.register(
            "send_queue_bytes",
            "Bytes queued for clients that have not read them yet",
            metrics.queued_bytes.clone(),
        );
        registry.register(
            "slow_connections_closed",
            "Connections closed because the client read too slowly",
            metrics.slow_connections.clone(),
        );
        registry.register(
            "connections_rejected",
            "Connections rejected because the edge was full, over its accept rate or stopping, or because the person or \
             address had too many",
            metrics.rejected_connections.clone(),
        );
        registry.register(
            "unauthenticated_connections_evicted",
            "Connections closed before they authenticated, in favour of newer ones",
            metrics.places.evicted.clone(),
        );
        registry.register(
            "anonymous_connections",
            "Open connections that watch without a token",
            metrics.places.anonymous.clone(),
        );
        registry.register(
            "anonymous_connections_evicted",
            "Connections without a token closed in favour of people with one",
            metrics.places.evicted_anonymous.clone(),
        );
        registry.register(
            "flooding_connections_closed",
            "Connections closed because the client sent too fast",
            metrics.flooding_connections.clone(),
        );
        let answers = "Answers to bids sent by this edge, by code; accepted for those that were accepted";
        registry.register("edge_bid_answers", answers, metrics.answers.clone());
        metrics.answered.register(registry, "edge_bid_seconds", "Time from the frame of a bid to its queued answer");
        let delivered = "Time from the decision of a record to its arrival in a room";
        metrics.delivered.register(registry, "record_delivery_seconds", delivered);
        registry.register(
            "forged_records",
            "Records that were withdrawn because the log does not have them, or not shown because they break the chain",
            metrics.forged_records.clone(),
        );
        registry.register(
            "followed_auctions",
            "Auctions followed without a room, to notify connected people who have bid in them",
            metrics.followed.clone(),
        );
        metrics.register_forwarding(registry);
        metrics
    }

    fn register_forwarding(&self, registry: &mut Registry) {
        registry.register(
            "requests_forwarded",
            "Requests sent to the services that own their paths",
            self.forwarded_requests.clone(),
        );
        registry.register(
            "requests_forwarded_unanswered",
            "Forwarded requests that the owning service did not answer",
            self.failed_forwards.clone(),
        );
        registry.register(
            "session_requests_forwarded",
            "Socket.IO requests of sessions that other edges have, forwarded to them",
            self.forwarded_session_requests.clone(),
        );
        registry.register(
            "session_requests_failed",
            "Socket.IO requests that could not be forwarded to the edge of their session",
            self.failed_session_requests.clone(),
        );
    }

    /// Counts and logs the answer to a bid that took this long. A bid that was not read has no auction.
    pub fn answer(&self, auction_id: Option<AuctionId>, user_id: UserId, answer: &Answer, took: Duration) {
        let (status, code) = answer.code().map_or((StatusCode::OK, "accepted"), |code| (code.status(), code.name()));
        self.answers.get_or_create(&[("code", code)]).inc();
        self.answered.record(took);
        let (auction_id, bid_id) = (auction_id.map(display), answer.bid_id().map(display));
        let loudness = self.logged.loudness(status, code);
        service::log_answer!(
            loudness,
            auction_id,
            bid_id,
            %user_id,
            code,
            took_us = took.as_micros(),
            "answered a bid"
        );
    }
}

impl EdgeContext {
    /// The send queue of a new connection.
    pub fn send_queue(&self, transport: Transport) -> SendQueue {
        SendQueue::new(transport, self.metrics.queued_bytes.clone())
    }

    /// How people are named to a viewer of an auction in this state.
    pub fn naming(&self, auction_id: AuctionId, state: &Snapshot, viewer: Option<UserId>) -> Naming {
        if self.show_aliases { Naming::for_viewer(auction_id, state.host_user_id, viewer) } else { Naming::Names }
    }

    /// Counts a request that was rejected with this code, if that is one of a limit.
    pub fn count_rejection(&self, code: Code) {
        if matches!(code, Code::RateLimited | Code::ChatTooFast | Code::RoomFull) {
            self.metrics.requests_over_limit.inc();
        }
    }

    /// Counts a close by the server, if it is one for slow reading.
    pub fn count_close(&self, code: u16) {
        if code == close::TOO_SLOW {
            self.metrics.slow_connections.inc();
        }
    }

    /// The number of a new session. Numbers follow each other.
    pub fn next_session(&self) -> SessionId {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    /// Begins the flight of a bid if no other bid of its amount is under way; otherwise returns the end of the other. None:
    /// no price can reject the bid, so it waits for no other.
    pub fn first_of_amount(&self, bid: &PlaceBid, id_is_new: bool) -> Option<Result<Flight<(AuctionId, Amount)>, End>> {
        let amount = bid.amount.filter(|_| bid.max_amount.is_none())?;
        let latest = self.clock.now().0 + u64::try_from(MAX_WAIT.as_millis()).ok()?;
        let may_reject = self.prices.may_reject(bid.auction_id, id_is_new, latest, self.bus.connection());
        may_reject.then(|| self.price_waits.amounts.begin((bid.auction_id, amount)))
    }

    /// The rejection of a bid that is below the committed price, as far as the open room of its auction knows it. None
    /// if no room is open. A price that was only heard is confirmed by one reading of the log, in place of the request
    /// to bid-processing that is saved.
    pub async fn below_committed_price(&self, bid_id: BidId, bid: &PlaceBid, id_is_new: bool) -> Option<RefusedBid> {
        let PlaceBid { auction_id, user: Person { user_id, username }, .. } = bid;
        // Only the maximum of a bid counts here, if it has one.
        let offer = Offer::Exact(bid.limit()?);
        let request = BidRequest { bid_id, user_id: *user_id, username: username.clone(), offer };
        // The time is read again after each wait.
        let (now, connection) = (|| self.clock.now().0, || self.bus.connection());
        let is_unconfirmed = || self.prices.needs_confirmation(*auction_id, &request, id_is_new, now(), connection());
        if is_unconfirmed() {
            Box::pin(self.confirm_price(*auction_id)).await;
        }
        let rejected = self.prices.refusal(*auction_id, &request, id_is_new, now(), connection())?;
        self.metrics.rejected_bids.inc();
        Some(rejected)
    }

    /// Confirms a price by one reading of the log for all bids that wait for it. The price remains unconfirmed if too many
    /// others are being read, or the reading takes longer than [`MAX_WAIT`].
    async fn confirm_price(&self, auction_id: AuctionId) {
        let connection = self.bus.connection();
        match self.price_waits.readings.begin(auction_id) {
            Ok(_flight) => {
                if let Ok(_reading) = self.price_waits.reading.try_acquire()
                    && let Ok(Ok(Some(last))) = timeout(MAX_WAIT, self.log.last(auction_id)).await
                {
                    self.prices.confirm(&last.record, connection);
                }
            }
            Err(read) => drop(timeout(MAX_WAIT, read).await),
        }
    }
}
