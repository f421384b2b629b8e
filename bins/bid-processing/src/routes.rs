//! The two doors: HTTP for bidders and NATS for services. Both parse once, then ask the house.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use admission::Limits;
use bus::{BackgroundSender, Bus, Micro};
use bytes::Bytes;
use domain::{BidId, BidRequest};
use identity::Verifier;
use protocol::{
    Answer, CancelRequest, CloseRequest, Code, CommittedState, CreateRequest, Failure, OwnBidsRequest, PlaceBid,
    RefusedBid, Reply, StateReply, StateRequest, UserSeen, parse_place_bid, subject,
};
use serde_json::value::RawValue;
use service::{Health, Stop, fault};
use warp::http::StatusCode;
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::auctioneer::Call;
use crate::house::House;

#[derive(Clone)]
pub struct Doors {
    pub house: House,
    pub verifier: Verifier,
    pub courier: BackgroundSender<UserSeen>,
    pub limits: Limits,
    pub bus: Bus,
}

const OWN_BIDS_TIMEOUT: Duration = Duration::from_secs(4);

impl Doors {
    pub fn routes(
        &self,
        health: Health,
    ) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
        let doors = Arc::new(self.clone());
        let path = warp::path!("internal" / "bids").or(warp::path!("bids")).unify();
        let place = path
            .and(warp::post())
            .and(warp::header::optional::<String>("authorization"))
            .and(warp::header::optional::<String>("idempotency-key"))
            .and(warp::body::bytes())
            .then(move |authorization: Option<String>, key: Option<String>, body: Bytes| {
                let doors = Arc::clone(&doors);
                async move { public(&doors.place_http(authorization.as_deref(), key.as_deref(), &body).await) }
            });
        let doors = Arc::new(self.clone());
        let own = warp::path!("bids")
            .and(warp::get())
            .and(warp::header::optional::<String>("authorization"))
            .and(warp::query::<HashMap<String, String>>())
            .then(move |authorization: Option<String>, query: HashMap<String, String>| {
                let doors = Arc::clone(&doors);
                async move {
                    match doors.own_bids(authorization.as_deref(), &query).await {
                        Ok(page) => service::http::json(StatusCode::OK, &page),
                        Err(failure) => {
                            service::http::problem(failure.code.status(), failure.code.name(), &failure.error)
                        }
                    }
                }
            });
        let document = service::http::document("openapi.json", include_str!("openapi.json"));
        place.or(own).unify().or(document).unify().boxed().or(health.routes()).unify()
    }

    async fn place_http(&self, authorization: Option<&str>, key: Option<&str>, body: &[u8]) -> Answer {
        let identity = async { self.verifier.verify(identity::bearer(authorization)?).await };
        let request = match identity.await {
            Ok(identity) => {
                self.courier.send(identity.seen());
                parse_place_bid(body, key, identity.person)
            }
            Err(error) => Err(error.into()),
        };
        match request {
            Ok(request) if fault::is_on(service::fault::FaultPoint::LeakToken, &request.auction_id) => {
                let failure = Failure::new(Code::Unavailable, authorization.unwrap_or_default());
                Answer::Rejected(RefusedBid::of(failure, request.bid_id))
            }
            Ok(request) if fault::is_on(service::fault::FaultPoint::AskManagementFirst, &request.auction_id) => {
                let question = StateRequest { auction_id: request.auction_id };
                let asked: Result<Reply<bool>, _> =
                    bus::request(&self.bus, subject::AUCTIONS_RECALL, &question, OWN_BIDS_TIMEOUT).await;
                match asked {
                    Ok(_) => self.place(request).await,
                    Err(_) => Answer::Rejected(RefusedBid::of(Code::Unavailable.into(), request.bid_id)),
                }
            }
            Ok(request) => self.place(request).await,
            Err(failure) => Answer::Rejected(RefusedBid::of(failure, None)),
        }
    }

    /// A person's own bids are auction-management's; ingresses route by path, so it is asked from here.
    async fn own_bids(
        &self,
        authorization: Option<&str>,
        query: &HashMap<String, String>,
    ) -> Result<Box<RawValue>, Failure> {
        let user_id = self.verifier.verify(identity::bearer(authorization)?).await?.person.user_id;
        let find = |name: &str| query.get(name).cloned();
        let request = OwnBidsRequest { user_id, limit: find("limit"), before: find("before") };
        let asked: Result<Reply<Box<RawValue>>, _> =
            bus::request(&self.bus, subject::BIDS_OWN, &request, OWN_BIDS_TIMEOUT).await;
        asked.map_err(|_| Failure::from(Code::Unavailable))?.into_result()
    }

    async fn place(&self, request: PlaceBid) -> Answer {
        let id_is_new = request.bid_id.is_none();
        let bid_id = request.bid_id.unwrap_or_else(|| BidId::from_uuid(uuid::Uuid::new_v4()));
        let in_flight = match self.limits.admit(request.user.user_id, Instant::now()) {
            Ok(in_flight) => in_flight,
            Err(code) => return Answer::Rejected(RefusedBid::of(code.into(), Some(bid_id))),
        };
        let bid = BidRequest {
            bid_id,
            user_id: request.user.user_id,
            username: request.user.username,
            amount: request.amount,
        };
        if let Some(refused) = self.house.hopeless(request.auction_id, &bid, id_is_new) {
            return Answer::Rejected(refused);
        }
        let answer = self.house.ask(request.auction_id, |reply| Call::Place(bid, reply)).await;
        drop(in_flight);
        answer.unwrap_or_else(|failure| Answer::Rejected(RefusedBid::of(failure, Some(bid_id))))
    }

    async fn standing(
        &self,
        auction_id: domain::AuctionId,
        call: impl FnOnce(crate::auctioneer::StandingReply) -> Call,
    ) -> StateReply {
        let asked: Result<Result<CommittedState, Failure>, Failure> = self.house.ask(auction_id, call).await;
        asked.and_then(|result| result).into()
    }

    /// Registers as a NATS micro service and answers its requests.
    pub async fn serve_requests(
        &self,
        bus: &Bus,
        stop: &Stop,
    ) -> Result<Micro, Box<dyn std::error::Error + Send + Sync>> {
        let micro = Micro::start(bus, crate::NAME, service::VERSION, stop.child_token()).await?;
        let doors = self.clone();
        let place = move |request: PlaceBid| {
            let doors = doors.clone();
            async move { doors.place(request).await }
        };
        micro
            .serve(subject::BIDS_PLACE, |error| Answer::Rejected(RefusedBid::of(unreadable(error), None)), place)
            .await?;
        let doors = self.clone();
        let create = move |request: CreateRequest| {
            let doors = doors.clone();
            async move { doors.standing(request.auction_id, |reply| Call::Create(request, reply)).await }
        };
        micro.serve(subject::AUCTIONS_CREATE, failed, create).await?;
        let doors = self.clone();
        let open = move |request: StateRequest| {
            let doors = doors.clone();
            async move { doors.standing(request.auction_id, Call::Open).await }
        };
        micro.serve(subject::AUCTIONS_OPEN, failed, open).await?;
        let doors = self.clone();
        let close = move |request: CloseRequest| {
            let doors = doors.clone();
            async move { doors.standing(request.auction_id, |reply| Call::Close(request.by, reply)).await }
        };
        micro.serve(subject::AUCTIONS_CLOSE, failed, close).await?;
        let doors = self.clone();
        let cancel = move |request: CancelRequest| {
            let doors = doors.clone();
            async move { doors.standing(request.auction_id, |reply| Call::Cancel(request.by, reply)).await }
        };
        micro.serve(subject::AUCTIONS_CANCEL, failed, cancel).await?;
        let doors = self.clone();
        let state = move |request: StateRequest| {
            let doors = doors.clone();
            async move { doors.standing(request.auction_id, Call::State).await }
        };
        micro.serve(subject::AUCTIONS_STATE, failed, state).await?;
        Ok(micro)
    }
}

fn unreadable(error: &str) -> Failure {
    tracing::warn!(error, "a request cannot be read");
    Code::InvalidRequest.into()
}

fn failed(error: &str) -> StateReply {
    Reply::Failed(unreadable(error))
}

/// The answer as an HTTP reply.
fn public(answer: &Answer) -> Response {
    let code = answer.code();
    let status = code.map_or(StatusCode::OK, Code::status);
    let mut response = service::http::json(status, &answer.public());
    if let Some(seconds) = code.and_then(Code::retry_after_seconds) {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    }
    response
}
