//! The way into the auctioneers, shared by HTTP and NATS: limits, room in the log, the committed price, then the
//! auction's queue.

use std::time::Instant;

use admission::{InFlight, Limits};
use domain::{AuctionId, BidId, BidRequest, Offer, UserId};
use protocol::{Answer, Code, CreateRequest, Failure, OwnMaximum, PlaceBid, RefusedBid, Reply, StateReply};

use crate::auctioneers::Auctioneers;
use crate::backend::Backend;
use crate::call::{Call, Command};
use crate::sealing::SealError;

/// Where calls enter. Every clone shares the limits and the auctioneers.
pub struct Intake<B> {
    auctioneers: Auctioneers<B>,
    limits: Limits,
}

impl<B> Clone for Intake<B> {
    fn clone(&self) -> Self {
        Self { auctioneers: self.auctioneers.clone(), limits: self.limits.clone() }
    }
}

impl<B: Backend> Intake<B> {
    /// The way into these auctioneers, with the limits of this process.
    pub const fn new(auctioneers: Auctioneers<B>, limits: Limits) -> Self {
        Self { auctioneers, limits }
    }

    /// Decides one bid and waits until the decision is committed.
    pub async fn place(&self, request: PlaceBid) -> Answer {
        let (auction_id, user_id, arrived) = (request.auction_id, request.user.user_id, Instant::now());
        let answer = self.decide(request).await;
        self.auctioneers.counters().answer(auction_id, user_id, &answer, arrived.elapsed());
        answer
    }

    async fn decide(&self, request: PlaceBid) -> Answer {
        let id_is_new = request.bid_id.is_none();
        let bid_id = request.bid_id.unwrap_or_else(|| BidId::from_uuid(uuid::Uuid::new_v4()));
        // Held until the answer is there.
        let in_flight = match self.admit(request.user.user_id, bid_id) {
            Ok(in_flight) => in_flight,
            Err(failure) => return Answer::Rejected(RefusedBid::of(failure, Some(bid_id))),
        };
        if self.auctioneers.is_log_reserved() {
            return Answer::Rejected(RefusedBid::of(Code::Overloaded.into(), Some(bid_id)));
        }
        let bid = match self.sealed(&request, bid_id) {
            Ok(offer) => BidRequest { bid_id, user_id: request.user.user_id, username: request.user.username, offer },
            Err(failure) => return Answer::Rejected(RefusedBid::of(failure, Some(bid_id))),
        };
        if let Some(rejected) = self.auctioneers.below_committed_price(request.auction_id, &bid, id_is_new) {
            return Answer::Rejected(rejected);
        }
        let exceeded = self.auctioneers.standing().admit(request.auction_id, bid.user_id, bid.offer.limit()).err();
        let call = |reply| match exceeded {
            None => Call::Bid(bid, reply),
            Some(exceeded) => Call::OverLimit(Box::new((bid, exceeded)), reply),
        };
        let answer = self.auctioneers.ask(request.auction_id, call).await;
        drop(in_flight);
        answer.unwrap_or_else(|failure| Answer::Rejected(RefusedBid::of(failure, Some(bid_id))))
    }

    /// The offer of the request, with a maximum sealed for the log.
    fn sealed(&self, request: &PlaceBid, bid_id: BidId) -> Result<Offer, Failure> {
        let keys = self.auctioneers.keys();
        let offer = keys.offer(request.auction_id, bid_id, request.amount, request.max_amount);
        offer.map_err(|error| unsealed("max_amount", error))?.ok_or_else(|| Code::InvalidRequest.into())
    }

    /// Whether the log is missing or being restored.
    pub fn is_log_held(&self) -> bool {
        self.auctioneers.is_log_held()
    }

    /// The place of one bid of this person. A bid by socket and one over HTTP count alike.
    fn admit(&self, user_id: UserId, bid_id: BidId) -> Result<InFlight, Failure> {
        let admitted = self.limits.admit(user_id, Instant::now()).map_err(Failure::from);
        let admitted = admitted.and_then(|in_flight| self.auctioneers.admit(user_id, bid_id).map(|()| in_flight));
        admitted.inspect_err(|failure| {
            if failure.code != Code::Overloaded {
                self.auctioneers.count_over_limit();
            }
        })
    }

    /// Creates an auction, its reserve sealed for the log.
    pub async fn create(&self, mut request: CreateRequest) -> StateReply {
        if request.options.allow_prebids && !self.auctioneers.keys().can_seal() {
            return Reply::Failed(unsealed("allow_prebids", SealError::NoKey));
        }
        if let Some(reserve) = request.reserve {
            match self.auctioneers.keys().seal_reserve(request.auction_id, reserve) {
                Ok(sealed) => request.sealed_reserve = Some(sealed),
                Err(error) => return Reply::Failed(unsealed("reserve_price", error)),
            }
        }
        self.command(request.auction_id, Command::Create(Box::new(request))).await
    }

    /// How far the auction bids for this person.
    pub async fn maximum(&self, auction_id: AuctionId, user_id: UserId) -> Reply<OwnMaximum> {
        let asked = self.auctioneers.ask(auction_id, |reply| Call::Maximum(user_id, reply)).await;
        asked.and_then(|result| result).map(|max_amount| OwnMaximum { max_amount }).into()
    }

    /// Executes a command and waits for the committed state.
    pub async fn command(&self, auction_id: AuctionId, command: Command) -> StateReply {
        let asked = self.auctioneers.ask(auction_id, |reply| Call::Command(command, reply)).await;
        asked.and_then(|result| result).into()
    }
}

/// The failure for a request with a secret that this instance cannot keep.
fn unsealed(field: &str, error: SealError) -> Failure {
    match error {
        SealError::NoKey => {
            let error = format!("{field} is not available: this deployment has no key to keep it secret");
            Failure::new(Code::InvalidRequest, error)
        }
        SealError::WrongKey | SealError::Form => {
            tracing::error!(error = %errors::chain(&error), field, "failed to seal a secret");
            Code::Unavailable.into()
        }
    }
}
