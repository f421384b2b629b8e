//! The HTTP API.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, RequestError};
use bytes::Bytes;
use cloud::History;
use domain::{AuctionId, UserId};
use futures_util::{StreamExt, stream};
use hotstate::Clock;
use identity::{Identity, Verifier};
use protocol::{
    CloseRequest, Code, Failure, PublicBid, Standing, StateReply, StateRequest, Stored, parse_auction_create,
    parse_pagination, subject,
};
use serde_json::json;
use service::Health;
use store::{Filter as ListFilter, Store, StoreError};
use warp::http::StatusCode;
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::config::Defaults;

const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// For a list, a live state that comes late is left out: the row says enough.
const LIST_ASK_TIMEOUT: Duration = Duration::from_secs(1);
const LIST_ASK_AT_ONCE: usize = 16;
const DEFAULT_LIST: u64 = 20;
const DEFAULT_BIDS: u64 = 50;
const MAX_PAGE: u64 = 100;

type Query = HashMap<String, String>;
type Answered = Result<Response, Failure>;

#[derive(Clone)]
pub struct Doors {
    pub store: Store,
    pub bus: Bus,
    pub clock: Clock,
    pub history: History,
    pub verifier: Verifier,
    pub defaults: Defaults,
}

impl Doors {
    pub fn routes(
        &self,
        health: Health,
    ) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
        let doors = Arc::new(self.clone());
        let with = warp::any().map(move || Arc::clone(&doors));
        let token = warp::header::optional::<String>("authorization");

        let create = warp::path!("auctions")
            .and(warp::post())
            .and(with.clone())
            .and(token)
            .and(warp::header::optional::<String>("idempotency-key"))
            .and(warp::body::bytes())
            .then(|doors: Arc<Self>, token: Option<String>, key: Option<String>, body: Bytes| async move {
                finish(doors.post_auction(token.as_deref(), key.as_deref(), &body).await)
            });
        let list = warp::path!("auctions")
            .and(warp::get())
            .and(with.clone())
            .and(warp::query::<Query>())
            .then(|doors: Arc<Self>, query: Query| async move { finish(doors.list(&query).await) });
        let get = warp::path!("auctions" / String)
            .and(warp::get())
            .and(with.clone())
            .then(|id: String, doors: Arc<Self>| async move { finish(doors.get(&id).await) });
        let state = warp::path!("auctions" / String / "state").and(warp::get()).and(with.clone()).and(token).then(
            |id: String, doors: Arc<Self>, token: Option<String>| async move {
                finish(doors.state(&id, token.as_deref()).await)
            },
        );
        let bids = warp::path!("auctions" / String / "bids")
            .and(warp::get())
            .and(with.clone())
            .and(warp::query::<Query>())
            .then(|id: String, doors: Arc<Self>, query: Query| async move { finish(doors.bids(&id, &query).await) });
        let close = warp::path!("auctions" / String / "close").and(warp::post()).and(with.clone()).and(token).then(
            |id: String, doors: Arc<Self>, token: Option<String>| async move {
                finish(doors.close(&id, token.as_deref()).await)
            },
        );
        let timer = warp::path!("auctions" / String / "timer")
            .and(warp::get())
            .and(with.clone())
            .then(|id: String, doors: Arc<Self>| async move { finish(doors.timer(&id).await) });
        let time = warp::path!("time")
            .and(warp::get())
            .and(with)
            .map(|doors: Arc<Self>| service::http::json(StatusCode::OK, &json!({"server_time": doors.clock.now().0})));
        // Boxed: nested filters make types that take the compiler minutes.
        create
            .or(list)
            .unify()
            .boxed()
            .or(get)
            .unify()
            .or(state)
            .unify()
            .boxed()
            .or(bids)
            .unify()
            .or(close)
            .unify()
            .boxed()
            .or(timer)
            .unify()
            .or(time)
            .unify()
            .boxed()
            .or(health.routes())
            .unify()
            .boxed()
    }

    async fn identity(&self, token: Option<&str>) -> Result<Identity, Failure> {
        Ok(self.verifier.verify(identity::bearer(token)?).await?)
    }

    async fn post_auction(&self, token: Option<&str>, key: Option<&str>, body: &[u8]) -> Answered {
        let identity = self.identity(token).await?;
        let create = parse_auction_create(body)?;
        // The host is a person like any other; a row made from claims must exist before the auction's.
        self.store.user_seen(&identity.seen()).await.map_err(|error| self.trouble(&error))?;
        let created = self.create(&identity.person, &create, key, body).await?;
        let object = created.stored.object(Some(&created.standing), &self.defaults.currency, self.clock.now().0);
        Ok(service::http::json(StatusCode::CREATED, &object))
    }

    async fn list(&self, query: &Query) -> Answered {
        let find = |name: &str| query.get(name).cloned();
        let page = parse_pagination(find, DEFAULT_LIST, MAX_PAGE)?;
        let status = find("status");
        if status.as_deref().is_some_and(|status| domain::Status::from_name(status).is_none()) {
            return Err(Failure::new(
                Code::InvalidRequest,
                "status must be scheduled, live, paused, closed or cancelled",
            ));
        }
        let host = find("host").map(|host| protocol::input::id::<UserId>("host", &host)).transpose()?;
        let filter = ListFilter { status, category: find("category").filter(|text| !text.contains('\0')), host };
        let (rows, total) = self.store.auctions(&filter, page).await.map_err(|error| self.trouble(&error))?;
        let auctions: Vec<(Stored, Option<Standing>)> = stream::iter(rows)
            .map(|stored| async move {
                let standing = if stored.outcome.is_some() {
                    None
                } else {
                    self.ask_state(stored.auction_id, LIST_ASK_TIMEOUT).await.ok()
                };
                (stored, standing)
            })
            .buffered(LIST_ASK_AT_ONCE)
            .collect()
            .await;
        let now = self.clock.now().0;
        let objects: Vec<_> = auctions
            .iter()
            .map(|(stored, standing)| stored.object(standing.as_ref(), &self.defaults.currency, now))
            .collect();
        let body = List { auctions: objects, limit: page.limit, offset: page.offset, total };
        Ok(service::http::json(StatusCode::OK, &body))
    }

    async fn stored(&self, auction_id: AuctionId) -> Result<Stored, Failure> {
        let stored = self.store.auction(auction_id).await.map_err(|error| self.trouble(&error))?;
        stored.ok_or_else(|| Code::AuctionNotFound.into())
    }

    async fn get(&self, id: &str) -> Answered {
        let stored = self.stored(protocol::input::id("auction_id", id)?).await?;
        // Once it is over the row is whole. Before that the committed state knows better, and where it
        // cannot be had the row is still of one moment, if of an older one.
        let standing =
            if stored.outcome.is_some() { None } else { self.ask_state(stored.auction_id, ASK_TIMEOUT).await.ok() };
        Ok(self.object(&stored, standing.as_ref()))
    }

    fn object(&self, stored: &Stored, standing: Option<&Standing>) -> Response {
        service::http::json(StatusCode::OK, &stored.object(standing, &self.defaults.currency, self.clock.now().0))
    }

    async fn ask_state(&self, auction_id: AuctionId, timeout: Duration) -> Result<Standing, Failure> {
        let asked = bus::request(&self.bus, subject::AUCTIONS_STATE, &StateRequest { auction_id }, timeout).await;
        standing(asked)
    }

    async fn state(&self, id: &str, token: Option<&str>) -> Answered {
        let viewer = match token {
            Some(token) => Some(self.identity(Some(token)).await?.person.user_id),
            None => None,
        };
        let auction_id = protocol::input::id("auction_id", id)?;
        let standing = self.ask_state(auction_id, ASK_TIMEOUT).await?;
        Ok(service::http::json(StatusCode::OK, &standing.live(viewer, self.clock.now().0)))
    }

    async fn timer(&self, id: &str) -> Answered {
        let standing = self.ask_state(protocol::input::id("auction_id", id)?, ASK_TIMEOUT).await?;
        Ok(service::http::json(StatusCode::OK, &protocol::timer_object(&standing, self.clock.now().0)))
    }

    async fn bids(&self, id: &str, query: &Query) -> Answered {
        let auction_id = protocol::input::id("auction_id", id)?;
        let find = |name: &str| query.get(name).cloned();
        let page = parse_pagination(find, DEFAULT_BIDS, MAX_PAGE)?;
        let before = find("before_seq")
            .map(|text| {
                let number = text.parse::<u64>().ok().filter(|number| *number <= i64::MAX.cast_unsigned());
                number.ok_or_else(|| Failure::new(Code::InvalidRequest, "before_seq must be a whole number"))
            })
            .transpose()?;
        self.stored(auction_id).await?;
        let page = self.history.page(auction_id, page.limit, before).await.map_err(|error| {
            tracing::warn!(%auction_id, %error, "the history cannot be read");
            Failure::from(Code::Unavailable)
        })?;
        let bids: Vec<PublicBid<'_>> = page.bids.iter().map(PublicBid::from).collect();
        Ok(service::http::json(StatusCode::OK, &Bids { bids, next_before_seq: page.next_before_seq }))
    }

    async fn close(&self, id: &str, token: Option<&str>) -> Answered {
        let identity = self.identity(token).await?;
        let auction_id = protocol::input::id("auction_id", id)?;
        let stored = self.stored(auction_id).await?;
        let by = Some(identity.person.user_id);
        let asked =
            bus::request(&self.bus, subject::AUCTIONS_CLOSE, &CloseRequest { auction_id, by }, ASK_TIMEOUT).await;
        let standing = standing(asked)?;
        Ok(self.object(&stored, Some(&standing)))
    }

    pub fn trouble(&self, error: &StoreError) -> Failure {
        let source = std::error::Error::source(error).map(ToString::to_string);
        tracing::error!(%error, source, "PostgreSQL");
        Code::Unavailable.into()
    }
}

fn standing(asked: Result<StateReply, RequestError>) -> Result<Standing, Failure> {
    match asked {
        Ok(reply) => reply.into_result(),
        Err(error) => {
            tracing::warn!(%error, "bid-processing does not answer");
            Err(Code::Unavailable.into())
        }
    }
}

#[derive(serde::Serialize)]
struct List<'a> {
    auctions: Vec<protocol::AuctionObject<'a>>,
    limit: u64,
    offset: u64,
    total: u64,
}

#[derive(serde::Serialize)]
struct Bids<'a> {
    bids: Vec<PublicBid<'a>>,
    next_before_seq: Option<u64>,
}

/// The reply, or the failure as one.
fn finish(answered: Answered) -> Response {
    answered.unwrap_or_else(|failure| {
        let code = failure.code;
        let mut response = service::http::problem(code.status(), code.name(), &failure.error);
        if let Some(seconds) = code.retry_after_seconds() {
            response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
        }
        response
    })
}
