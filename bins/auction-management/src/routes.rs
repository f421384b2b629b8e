//! The route table. `openapi.rs` describes the same routes; tests fail if one of the two lacks a route.

use std::str::FromStr;

use bus::Log;
use bytes::Bytes;
use cloud::Uploads;
use protocol::Failure;
use serde_json::json;
use service::Health;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::auctions::{Auctions, BlockAction, HostAction};
use crate::bids::Bids;
use crate::context::{Answered, Context, Query};
use crate::facts::Facts;
use crate::people::People;
use crate::uploads::Photos;

/// The handlers of all resources.
pub struct Api {
    pub auctions: Auctions,
    pub bids: Bids,
    pub facts: Facts,
    pub people: People,
    pub photos: Photos,
}

impl Api {
    /// The handlers of one service.
    pub fn new(context: &Context, auctions: Auctions, bids: Bids, log: Log, photos: Option<Uploads>) -> Self {
        Self {
            auctions,
            bids,
            facts: Facts::new(context.clone(), log),
            people: People { context: context.clone() },
            photos: Photos::new(context.clone(), photos),
        }
    }
}

type Token = Option<String>;

/// The last part of `POST /auctions/{id}/close` and its siblings.
impl FromStr for HostAction {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "close" => Ok(Self::Close),
            "cancel" => Ok(Self::Cancel),
            "start" => Ok(Self::Start),
            "pause" => Ok(Self::Pause),
            "resume" => Ok(Self::Resume),
            _ => Err(()),
        }
    }
}

/// The last part of `POST /auctions/{id}/block` and `POST /auctions/{id}/unblock`.
impl FromStr for BlockAction {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "block" => Ok(Self::Block),
            "unblock" => Ok(Self::Unblock),
            _ => Err(()),
        }
    }
}

/// Every route of the service.
pub fn routes(
    api: Api,
    health: Health,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
    let clock = api.auctions.context.clock.clone();
    let time = warp::path!("time")
        .and(warp::get())
        .map(move || service::http::json(StatusCode::OK, &json!({"server_time": clock.now().0})));
    // Boxed: the types of nested filters would take the compiler minutes.
    auctions(api.auctions.clone())
        .or(auction_views(api.auctions.clone()))
        .unify()
        .or(host_actions(api.auctions))
        .unify()
        .boxed()
        .or(bids(api.bids))
        .unify()
        .or(facts(api.facts))
        .unify()
        .or(people(api.people))
        .unify()
        .or(photos(api.photos))
        .unify()
        .boxed()
        .or(time)
        .unify()
        .or(service::http::document("openapi.json", include_str!("openapi.json")))
        .unify()
        .or(health.routes())
        .unify()
        .boxed()
}

/// `/auctions` and `/auctions/categories`.
fn auctions(auctions: Auctions) -> BoxedFilter<(Response,)> {
    let auctions = with(auctions);
    let create = warp::path!("auctions")
        .and(warp::post())
        .and(auctions.clone())
        .and(token())
        .and(warp::header::optional::<String>("idempotency-key"))
        .and(warp::body::bytes())
        .then(|auctions: Auctions, token: Token, key: Option<String>, body: Bytes| async move {
            finish(Box::pin(auctions.create(token.as_deref(), key.as_deref(), &body)).await)
        });
    let list = warp::path!("auctions").and(warp::get()).and(auctions.clone()).and(token()).and(query()).then(
        |auctions: Auctions, token: Token, query: Query| async move {
            finish(auctions.list(token.as_deref(), &query).await)
        },
    );
    let categories = warp::path!("auctions" / "categories")
        .and(warp::get())
        .and(auctions)
        .and(query())
        .then(|auctions: Auctions, query: Query| async move { finish(auctions.categories(&query).await) });
    create.or(list).unify().or(categories).unify().boxed()
}

/// The views of one auction that anyone may ask for.
fn auction_views(auctions: Auctions) -> BoxedFilter<(Response,)> {
    let auctions = with(auctions);
    let get = warp::path!("auctions" / String).and(warp::get()).and(auctions.clone()).and(token()).then(
        |id: String, auctions: Auctions, token: Token| async move { finish(auctions.get(&id, token.as_deref()).await) },
    );
    let state =
        warp::path!("auctions" / String / "state").and(warp::get()).and(auctions.clone()).and(token()).then(
            |id: String, auctions: Auctions, token: Token| async move {
                finish(auctions.state(&id, token.as_deref()).await)
            },
        );
    let timer = warp::path!("auctions" / String / "timer")
        .and(warp::get())
        .and(auctions)
        .then(|id: String, auctions: Auctions| async move { finish(auctions.timer(&id).await) });
    get.or(state).unify().or(timer).unify().boxed()
}

/// The actions and views of one auction that are for its host alone.
fn host_actions(auctions: Auctions) -> BoxedFilter<(Response,)> {
    let auctions = with(auctions);
    let act = warp::path!("auctions" / String / HostAction).and(warp::post()).and(auctions.clone()).and(token()).then(
        |id: String, action: HostAction, auctions: Auctions, token: Token| async move {
            finish(auctions.act(&id, action, token.as_deref()).await)
        },
    );
    let block = warp::path!("auctions" / String / BlockAction)
        .and(warp::post())
        .and(auctions.clone())
        .and(token())
        .and(warp::body::bytes())
        .then(|id: String, action: BlockAction, auctions: Auctions, token: Token, body: Bytes| async move {
            finish(auctions.block(&id, action, token.as_deref(), &body).await)
        });
    let chat = warp::path!("auctions" / String / "chat")
        .and(warp::post())
        .and(auctions.clone())
        .and(token())
        .and(warp::body::bytes())
        .then(|id: String, auctions: Auctions, token: Token, body: Bytes| async move {
            finish(auctions.set_slow_mode(&id, token.as_deref(), &body).await)
        });
    let stream =
        warp::path!("auctions" / String / "stream").and(warp::get()).and(auctions).and(token()).then(
            |id: String, auctions: Auctions, token: Token| async move {
                finish(auctions.stream(&id, token.as_deref()).await)
            },
        );
    act.or(block).unify().or(chat).unify().or(stream).unify().boxed()
}

/// The history of an auction, and the bids of the caller.
fn bids(bids: Bids) -> BoxedFilter<(Response,)> {
    let bids = with(bids);
    let history =
        warp::path!("auctions" / String / "bids").and(warp::get()).and(bids.clone()).and(token()).and(query()).then(
            |id: String, bids: Bids, token: Token, query: Query| async move {
                finish(bids.history(&id, token.as_deref(), &query).await)
            },
        );
    let own =
        warp::path!("bids").and(warp::get()).and(bids).and(token()).and(query()).then(
            |bids: Bids, token: Token, query: Query| async move { finish(bids.own(token.as_deref(), &query).await) },
        );
    history.or(own).unify().boxed()
}

/// The facts of an auction that is over.
fn facts(facts: Facts) -> BoxedFilter<(Response,)> {
    warp::path!("auctions" / String / "facts")
        .and(warp::get())
        .and(with(facts))
        .and(token())
        .and(query())
        .then(|id: String, facts: Facts, token: Token, query: Query| async move {
            finish(facts.page(&id, token.as_deref(), &query).await)
        })
        .boxed()
}

/// `/users/me`.
fn people(people: People) -> BoxedFilter<(Response,)> {
    let people = with(people);
    let get = warp::path!("users" / "me")
        .and(warp::get())
        .and(people.clone())
        .and(token())
        .then(|people: People, token: Token| async move { finish(people.profile(token.as_deref()).await) });
    let change = warp::path!("users" / "me").and(warp::put()).and(people).and(token()).and(warp::body::bytes()).then(
        |people: People, token: Token, body: Bytes| async move {
            finish(people.change_profile(token.as_deref(), &body).await)
        },
    );
    get.or(change).unify().boxed()
}

/// `/uploads`.
fn photos(photos: Photos) -> BoxedFilter<(Response,)> {
    warp::path!("uploads")
        .and(warp::post())
        .and(with(photos))
        .and(token())
        .and(warp::body::bytes())
        .then(|photos: Photos, token: Token, body: Bytes| async move {
            finish(photos.ask(token.as_deref(), &body).await)
        })
        .boxed()
}

/// Hands a clone of `handlers` to each request.
fn with<T: Clone + Send + Sync + 'static>(
    handlers: T,
) -> impl Filter<Extract = (T,), Error = std::convert::Infallible> + Clone {
    let handlers = std::sync::Arc::new(handlers);
    warp::any().map(move || T::clone(&handlers))
}

/// The query string; without one, no parameters.
fn query() -> impl Filter<Extract = (Query,), Error = Rejection> + Copy {
    warp::query::<Vec<(String, String)>>().map(Query::from_iter)
}

fn token() -> impl Filter<Extract = (Token,), Error = Rejection> + Copy {
    warp::header::optional::<String>("authorization")
}

/// Turns a failure into its error reply.
fn finish(answered: Answered) -> Response {
    answered.unwrap_or_else(|failure| problem(&failure))
}

fn problem(failure: &Failure) -> Response {
    let code = failure.code;
    let mut response = service::http::problem(code.status(), code.name(), &failure.error);
    if let Some(seconds) = failure.retry_after_seconds() {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    }
    response
}
