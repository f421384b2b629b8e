//! The HTTP routes: bids for bidders, health and metrics for operators.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use admission::ShownNames;
use bus::{BackgroundSender, Bus};
use bytes::Bytes;
use identity::Verifier;
use protocol::{
    Answer, Code, Failure, OwnBidsRequest, RefusedBid, Reply, StateRequest, UserSeen, parse_place_bid, subject,
};
use serde_json::value::RawValue;
use service::fault::{self, FaultPoint};
use service::{Health, http};
use warp::http::StatusCode;
use warp::http::header::RETRY_AFTER;
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::backend::Backend;
use crate::intake::Intake;

/// Time for auction-management to answer with a page of bids. Then the caller gets `unavailable`.
const OWN_BIDS_TIMEOUT: Duration = Duration::from_secs(4);

/// The HTTP routes, and the handles that they use.
pub struct Routes<B> {
    /// Where bids go.
    pub intake: Intake<B>,
    /// Checks tokens.
    pub verifier: Verifier,
    /// Sends the claims of callers to auction-management.
    pub users_seen: BackgroundSender<UserSeen>,
    /// The names under which people are shown.
    pub names: ShownNames,
    /// For requests to auction-management.
    pub bus: Bus,
}

impl<B: Backend> Routes<B> {
    /// The routes of this service.
    pub fn filter(
        self,
        health: Health,
    ) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
        let routes = Arc::new(self);
        let with_routes = warp::any().map(move || Arc::clone(&routes));
        let bids = warp::path!("internal" / "bids").or(warp::path!("bids")).unify();
        let place = bids
            .and(warp::post())
            .and(with_routes.clone())
            .and(warp::header::optional::<String>("authorization"))
            .and(warp::header::optional::<String>("idempotency-key"))
            .and(warp::body::bytes())
            .then(|routes: Arc<Self>, authorization: Option<String>, key: Option<String>, body: Bytes| async move {
                response(&routes.place(authorization.as_deref(), key.as_deref(), &body).await)
            });
        let own_bids = warp::path!("bids")
            .and(warp::get())
            .and(with_routes)
            .and(warp::header::optional::<String>("authorization"))
            .and(warp::query::<HashMap<String, String>>())
            .then(|routes: Arc<Self>, authorization: Option<String>, query: HashMap<String, String>| async move {
                match routes.own_bids(authorization.as_deref(), &query).await {
                    Ok(page) => http::json(StatusCode::OK, &page),
                    Err(failure) => http::problem(failure.code.status(), failure.code.name(), &failure.error),
                }
            });
        let document = http::document("openapi.json", include_str!("openapi.json"));
        place.or(own_bids).unify().or(document).unify().boxed().or(health.routes()).unify()
    }

    async fn place(&self, authorization: Option<&str>, key: Option<&str>, body: &[u8]) -> Answer {
        let identity = async { self.verifier.verify(identity::bearer(authorization)?).await };
        let request = match identity.await {
            Ok(identity) => {
                self.users_seen.send(identity.seen(), &identity.token);
                parse_place_bid(body, key, self.names.of(&identity.person))
            }
            Err(error) => Err(error.into()),
        };
        match request {
            Ok(request) if fault::is_on(FaultPoint::LeakToken, &request.auction_id) => {
                let failure = Failure::new(Code::Unavailable, authorization.unwrap_or_default());
                Answer::Rejected(RefusedBid::of(failure, request.bid_id))
            }
            Ok(request) if fault::is_on(FaultPoint::AskManagementFirst, &request.auction_id) => {
                let question = StateRequest { auction_id: request.auction_id };
                let asked: Result<Reply<bool>, _> =
                    bus::request(&self.bus, subject::AUCTIONS_RECALL, &question, OWN_BIDS_TIMEOUT).await;
                match asked {
                    Ok(_) => self.intake.place(request).await,
                    Err(_) => Answer::Rejected(RefusedBid::of(Code::Unavailable.into(), request.bid_id)),
                }
            }
            Ok(request) => self.intake.place(request).await,
            Err(failure) => Answer::Rejected(RefusedBid::of(failure, None)),
        }
    }

    /// A page of the caller's own bids. auction-management has them; ingresses route `/bids` here, so it is asked from
    /// here.
    async fn own_bids(
        &self,
        authorization: Option<&str>,
        query: &HashMap<String, String>,
    ) -> Result<Box<RawValue>, Failure> {
        let caller = self.verifier.verify(identity::bearer(authorization)?).await?;
        let (user_id, token) = (caller.person.user_id, caller.token.text());
        let parameter = |name: &str| query.get(name).cloned();
        let request = OwnBidsRequest { user_id, limit: parameter("limit"), before: parameter("before") };
        let asked: Result<Reply<Box<RawValue>>, _> =
            bus::request_for(&self.bus, subject::BIDS_OWN, &request, token, OWN_BIDS_TIMEOUT).await;
        asked.map_err(|_| Failure::from(Code::Unavailable))?.into_result()
    }
}

/// The answer to a bid as an HTTP response.
fn response(answer: &Answer) -> Response {
    let code = answer.code();
    let status = code.map_or(StatusCode::OK, Code::status);
    let mut response = http::json(status, &answer.public());
    if let Some(seconds) = code.and_then(Code::retry_after_seconds) {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}
