//! The HTTP API.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, Chat, Log, RequestError};
use bytes::Bytes;
use cloud::{History, Streaming, Video};
use domain::{AuctionId, UserId};
use futures_util::{StreamExt, stream};
use hotstate::{Clock, Hotstate};
use identity::{Identity, Verifier};
use protocol::input::Fields;
use protocol::{
    BidStatus, CancelRequest, CloseRequest, Code, CommittedState, Failure, HostsAuction, MAX_SLOW_MODE_SECONDS, OwnBid,
    OwnBids, OwnBidsRequest, Profile, PublicBid, StateReply, StateRequest, Stored, StreamObject, parse_auction_create,
    parse_pagination, parse_profile_change, subject,
};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};
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

/// `POST /auctions/{id}/<act>`, for the host alone.
#[derive(Debug, Clone, Copy)]
enum HostAct {
    Close,
    Cancel,
}

impl FromStr for HostAct {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "close" => Ok(Self::Close),
            "cancel" => Ok(Self::Cancel),
            _ => Err(()),
        }
    }
}
type Answered = Result<Response, Failure>;

#[derive(Clone)]
pub struct Doors {
    pub store: Store,
    pub bus: Bus,
    pub log: Log,
    pub chat: Chat,
    pub hotstate: Hotstate,
    pub clock: Clock,
    pub history: History,
    pub video: Video,
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
        let act = warp::path!("auctions" / String / HostAct).and(warp::post()).and(with.clone()).and(token).then(
            |id: String, act: HostAct, doors: Arc<Self>, token: Option<String>| async move {
                finish(doors.act(&id, act, token.as_deref()).await)
            },
        );
        let chat = warp::path!("auctions" / String / "chat")
            .and(warp::post())
            .and(with.clone())
            .and(token)
            .and(warp::body::bytes())
            .then(|id: String, doors: Arc<Self>, token: Option<String>, body: Bytes| async move {
                finish(doors.set_chat(&id, token.as_deref(), &body).await)
            });
        let stream = warp::path!("auctions" / String / "stream").and(warp::get()).and(with.clone()).and(token).then(
            |id: String, doors: Arc<Self>, token: Option<String>| async move {
                finish(doors.stream(&id, token.as_deref()).await)
            },
        );
        let me =
            warp::path!("users" / "me").and(warp::get()).and(with.clone()).and(token).then(
                |doors: Arc<Self>, token: Option<String>| async move { finish(doors.me(token.as_deref()).await) },
            );
        let change_me =
            warp::path!("users" / "me").and(warp::put()).and(with.clone()).and(token).and(warp::body::bytes()).then(
                |doors: Arc<Self>, token: Option<String>, body: Bytes| async move {
                    finish(doors.change_me(token.as_deref(), &body).await)
                },
            );
        let own_bids =
            warp::path!("bids").and(warp::get()).and(with.clone()).and(token).and(warp::query::<Query>()).then(
                |doors: Arc<Self>, token: Option<String>, query: Query| async move {
                    finish(doors.get_own_bids(token.as_deref(), &query).await)
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
            .or(act)
            .unify()
            .boxed()
            .or(chat)
            .unify()
            .or(stream)
            .unify()
            .or(me)
            .unify()
            .or(change_me)
            .unify()
            .boxed()
            .or(own_bids)
            .unify()
            .boxed()
            .or(timer)
            .unify()
            .or(time)
            .unify()
            .boxed()
            .or(service::http::document("openapi.json", include_str!("openapi.json")))
            .unify()
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
        let channel = created.channel.as_ref();
        let object = HostsAuction {
            auction: created.stored.object(Some(&created.standing), &self.defaults.currency, self.clock.now().0),
            ivs_stream_key: channel.map(|channel| channel.stream_key.as_str()),
            ivs_ingest_endpoint: channel.map(|channel| channel.ingest_endpoint.as_str()),
        };
        Ok(service::http::json(StatusCode::CREATED, &object))
    }

    async fn list(&self, query: &Query) -> Answered {
        let find = |name: &str| query.get(name).cloned();
        let page = parse_pagination(find, DEFAULT_LIST, MAX_PAGE)?;
        let unknown =
            |_| Failure::new(Code::InvalidRequest, "status must be scheduled, live, paused, closed or cancelled");
        let status = find("status").map(|status| status.parse()).transpose().map_err(unknown)?;
        let host = find("host").map(|host| protocol::input::id::<UserId>("host", &host)).transpose()?;
        let filter = ListFilter { status, category: find("category").filter(|text| !text.contains('\0')), host };
        let (rows, total) = self.store.auctions(&filter, page).await.map_err(|error| self.trouble(&error))?;
        let auctions = self.with_states(rows).await;
        let now = self.clock.now().0;
        let objects: Vec<_> = auctions
            .iter()
            .map(|(stored, standing)| stored.object(standing.as_ref(), &self.defaults.currency, now))
            .collect();
        let body = List { auctions: objects, limit: page.limit, offset: page.offset, total };
        Ok(service::http::json(StatusCode::OK, &body))
    }

    /// Each with its committed state, unless it is over or its state comes too late.
    async fn with_states(&self, rows: Vec<Stored>) -> Vec<(Stored, Option<CommittedState>)> {
        stream::iter(rows)
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
            .await
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

    fn object(&self, stored: &Stored, standing: Option<&CommittedState>) -> Response {
        service::http::json(StatusCode::OK, &stored.object(standing, &self.defaults.currency, self.clock.now().0))
    }

    async fn ask_state(&self, auction_id: AuctionId, timeout: Duration) -> Result<CommittedState, Failure> {
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
        // Without the talk the state is still worth having.
        let said = self.chat.history(auction_id).await.unwrap_or_else(|error| {
            tracing::warn!(%auction_id, %error, "the chat cannot be read");
            Vec::new()
        });
        let said = protocol::messages(said.into_iter().map(|(_, talk)| talk));
        Ok(service::http::json(StatusCode::OK, &standing.live(viewer, self.clock.now().0, &said)))
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

    /// What only the host may ask for. bid-processing knows who that is.
    async fn act(&self, id: &str, act: HostAct, token: Option<&str>) -> Answered {
        let by = self.identity(token).await?.person.user_id;
        let auction_id = protocol::input::id("auction_id", id)?;
        let stored = self.stored(auction_id).await?;
        let asked = match act {
            HostAct::Close => {
                let request = CloseRequest { auction_id, by: Some(by) };
                bus::request(&self.bus, subject::AUCTIONS_CLOSE, &request, ASK_TIMEOUT).await
            }
            HostAct::Cancel => {
                bus::request(&self.bus, subject::AUCTIONS_CANCEL, &CancelRequest { auction_id, by }, ASK_TIMEOUT).await
            }
        };
        let standing = standing(asked)?;
        Ok(self.object(&stored, Some(&standing)))
    }

    /// The host sets how often each person may say something.
    async fn set_chat(&self, id: &str, token: Option<&str>, body: &[u8]) -> Answered {
        let by = self.identity(token).await?.person.user_id;
        let auction_id = protocol::input::id("auction_id", id)?;
        let seconds = Fields::parse(body)?.whole("slow_mode_seconds", 0, MAX_SLOW_MODE_SECONDS)?;
        let stored = self.stored(auction_id).await?;
        if stored.host.user_id != by {
            return Err(Code::NotHost.into());
        }
        self.hotstate.set_slow_mode(auction_id, seconds).await.map_err(|error| {
            tracing::warn!(%auction_id, %error, "slow mode may or may not be set");
            Failure::from(Code::Unavailable)
        })?;
        self.get(id).await
    }

    /// Where the host streams to, and what arrives there.
    async fn stream(&self, id: &str, token: Option<&str>) -> Answered {
        let by = self.identity(token).await?.person.user_id;
        let auction_id = protocol::input::id("auction_id", id)?;
        if self.stored(auction_id).await?.host.user_id != by {
            return Err(Code::NotHost.into());
        }
        let channel = self.store.channel(auction_id).await.map_err(|error| self.trouble(&error))?;
        let channel = channel.ok_or_else(|| Failure::new(Code::WrongState, "This auction has no video channel"))?;
        let streaming = self.video.streaming(&channel.arn).await;
        if let Err(error) = &streaming {
            tracing::warn!(%auction_id, %error, "the state of a stream is not known");
        }
        let (state, viewer_count) = match streaming {
            Ok(Streaming::Live { viewers }) => (Some("live"), Some(viewers)),
            Ok(Streaming::Offline) => (Some("offline"), Some(0)),
            Err(_) => (None, None),
        };
        let object = StreamObject {
            ivs_channel_arn: &channel.arn,
            ivs_playback_url: &channel.playback_url,
            ivs_ingest_endpoint: &channel.ingest_endpoint,
            ivs_stream_key: &channel.stream_key,
            state,
            viewer_count,
        };
        Ok(service::http::json(StatusCode::OK, &object))
    }

    async fn me(&self, token: Option<&str>) -> Answered {
        let identity = self.identity(token).await?;
        self.store.user_seen(&identity.seen()).await.map_err(|error| self.trouble(&error))?;
        self.profile(self.store.profile(identity.person.user_id).await)
    }

    async fn change_me(&self, token: Option<&str>, body: &[u8]) -> Answered {
        let identity = self.identity(token).await?;
        let change = parse_profile_change(body)?;
        self.store.user_seen(&identity.seen()).await.map_err(|error| self.trouble(&error))?;
        let (name, phone) = (change.name.as_deref(), change.phone.as_deref());
        self.profile(self.store.change_profile(identity.person.user_id, name, phone).await)
    }

    fn profile(&self, found: Result<Option<Profile>, StoreError>) -> Answered {
        match found {
            Ok(Some(profile)) => Ok(service::http::json(StatusCode::OK, &profile)),
            // A row that was just made.
            Ok(None) => Err(Code::Unavailable.into()),
            Err(error) => Err(self.trouble(&error)),
        }
    }

    async fn get_own_bids(&self, token: Option<&str>, query: &Query) -> Answered {
        let user_id = self.identity(token).await?.person.user_id;
        let find = |name: &str| query.get(name).cloned();
        let page = self.own_bids(&OwnBidsRequest { user_id, limit: find("limit"), before: find("before") }).await?;
        Ok(service::http::json(StatusCode::OK, &page))
    }

    /// A page of a person's own bids, as JSON: this service answers with it, and for bid-processing.
    pub async fn own_bids(&self, request: &OwnBidsRequest) -> Result<Box<RawValue>, Failure> {
        let find = |name: &str| request.limit.clone().filter(|_| name == "limit");
        let limit = parse_pagination(find, DEFAULT_BIDS, MAX_PAGE)?.limit;
        let bad = |_| Failure::new(Code::InvalidRequest, "before must be the next_before of another page, or a time");
        let before = request.before.as_deref().map(|text| text.parse().map_err(bad)).transpose()?;
        let (bids, next) = self.history.of_person(request.user_id, limit, before).await.map_err(|error| {
            tracing::warn!(%error, "the history cannot be read");
            Failure::from(Code::Unavailable)
        })?;
        let auctions: HashSet<AuctionId> = bids.iter().map(|own| own.auction_id).collect();
        let auctions: Vec<AuctionId> = auctions.into_iter().collect();
        let stored = self.store.auctions_of(&auctions).await.map_err(|error| self.trouble(&error))?;
        let auctions: HashMap<AuctionId, (Stored, Option<CommittedState>)> =
            self.with_states(stored).await.into_iter().map(|known| (known.0.auction_id, known)).collect();
        let own = |own: &'_ cloud::OwnBid| {
            let (bid, known) = (&own.bid, auctions.get(&own.auction_id));
            let status = known.and_then(|(stored, standing)| match standing {
                Some(CommittedState { state, .. }) if state.outcome.is_none() => {
                    Some(BidStatus::of(bid, false, state.high_bidder_id, state.high_bid))
                }
                Some(CommittedState { state, .. }) => {
                    Some(BidStatus::of(bid, true, state.winner_id, state.winning_bid))
                }
                None => {
                    let winner = stored.winner.as_ref().map(|winner| winner.user_id);
                    stored.outcome.as_ref().map(|_| BidStatus::of(bid, true, winner, stored.winning_bid))
                }
            });
            OwnBid {
                auction_id: own.auction_id,
                auction_title: known.map(|(stored, _)| stored.title.as_str()),
                auction_image: known.and_then(|(stored, _)| stored.image_url.as_deref()),
                bid_id: bid.bid_id,
                seq: bid.seq,
                amount: bid.amount,
                timestamp: bid.timestamp,
                status,
            }
        };
        let page = OwnBids { bids: bids.iter().map(own).collect(), next_before: next.map(|next| next.to_string()) };
        to_raw_value(&page).map_err(|error| {
            tracing::error!(%error, "a page cannot be written");
            Code::Unavailable.into()
        })
    }

    /// Whether the table knows an auction as over, however long ago.
    pub async fn is_over(&self, auction_id: AuctionId) -> Result<bool, Failure> {
        let stored = self.store.auction(auction_id).await.map_err(|error| self.trouble(&error))?;
        Ok(stored.is_some_and(|stored| stored.outcome.is_some()))
    }

    pub fn trouble(&self, error: &StoreError) -> Failure {
        let source = std::error::Error::source(error).map(ToString::to_string);
        tracing::error!(%error, source, "PostgreSQL");
        Code::Unavailable.into()
    }
}

fn standing(asked: Result<StateReply, RequestError>) -> Result<CommittedState, Failure> {
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
