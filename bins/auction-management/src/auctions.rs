//! Auctions: create, read, end, and what the host sets or sees.

use std::sync::Arc;

use cloud::{Streaming, Video};
use domain::{AuctionId, UserId};
use hotstate::Hotstate;
use identity::Identity;
use protocol::input::Fields;
use protocol::{
    BlockRequest, CancelRequest, ChatMessage, CloseRequest, Code, CommittedState, Failure, HostRequest, HostsAuction,
    MAX_SLOW_MODE_SECONDS, Stored, StreamObject, StreamState, parse_auction_create, subject,
};
use warp::http::StatusCode;
use warp::reply::Response;

use crate::context::{ASK_TIMEOUT, Answered, Context, changed, store_failure};
use crate::creation::Creation;
use crate::people;
use crate::views::STATE_MAX_AGE;

/// An action of the host on an auction.
#[derive(Debug, Clone, Copy)]
pub enum HostAction {
    /// The highest bid wins.
    Close,
    /// No bid wins.
    Cancel,
    /// Opens it before its start.
    Start,
    /// Its time is stopped, and bids are refused.
    Pause,
    /// It goes on with the time that was left.
    Resume,
}

/// Whether the host refuses a person's bids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockAction {
    /// From now on.
    Block,
    /// No longer.
    Unblock,
}

/// `/auctions` and everything below it but the bids.
#[derive(Clone)]
pub struct Auctions {
    pub context: Context,
    pub creation: Creation,
    pub hotstate: Hotstate,
    pub video: Video,
}

impl Auctions {
    /// `POST /auctions`.
    pub async fn create(&self, token: Option<&str>, key: Option<&str>, body: &[u8]) -> Answered {
        let context = &self.context;
        let identity = context.identity(token).await?;
        let create = parse_auction_create(body, context.photos_url.as_deref())?;
        // The auction's row refers to its host's, which must exist first.
        let named = people::name(&context.store, &context.bus, &identity.seen()).await;
        let identity = Identity { person: named.map_err(|error| store_failure(&error))?, ..identity };
        let created = self.creation.create(&identity, &create, key, body).await?;
        context.views.unknown.forget(created.stored.auction_id);
        let channel = created.channel.as_ref();
        let object = HostsAuction {
            auction: context.object(&created.stored, created.state.as_ref(), Some(identity.person.user_id)),
            ivs_stream_key: channel.map(|channel| channel.stream_key.as_str()),
            ivs_ingest_endpoint: channel.map(|channel| channel.ingest_endpoint.as_str()),
            reserve_price: created.stored.reserve,
        };
        Ok(service::http::json(StatusCode::CREATED, &object))
    }

    /// `GET /auctions/{id}`.
    pub async fn get(&self, id: &str, token: Option<&str>) -> Answered {
        let viewer = self.context.viewer(token).await?;
        let stored = self.context.stored(protocol::input::id("auction_id", id)?).await?;
        // Once the auction is over, the row is complete. Before that the committed state is newer; where it is
        // unavailable, the row still shows one moment, if an older one.
        let state = match stored.outcome {
            Some(_) => None,
            None => self.context.views.state(stored.auction_id, STATE_MAX_AGE, ASK_TIMEOUT).await.ok(),
        };
        Ok(self.object(&stored, state.as_deref(), viewer))
    }

    fn object(&self, stored: &Stored, state: Option<&CommittedState>, viewer: Option<UserId>) -> Response {
        service::http::json(StatusCode::OK, &self.context.object(stored, state, viewer))
    }

    /// `GET /auctions/{id}/state`.
    pub async fn state(&self, id: &str, token: Option<&str>) -> Answered {
        let context = &self.context;
        let viewer = match token {
            Some(token) => Some(context.identity(Some(token)).await?.person.user_id),
            None => None,
        };
        let auction_id = protocol::input::id("auction_id", id)?;
        let state = context.state(auction_id).await?;
        // The state is useful without the chat.
        let mut chat = context.views.chat(auction_id).await.unwrap_or_default();
        // The records say who the host is, whatever a message does.
        let is_host = |message: &ChatMessage| message.user_id == state.state.host_user_id;
        if chat.iter().any(|message| message.is_host != is_host(message)) {
            Arc::make_mut(&mut chat).iter_mut().for_each(|message| message.is_host = is_host(message));
        }
        let naming = context.naming(auction_id, state.state.host_user_id, viewer);
        Ok(service::http::json(StatusCode::OK, &state.live(viewer, context.clock.now().0, &chat, naming)))
    }

    /// `GET /auctions/{id}/timer`.
    pub async fn timer(&self, id: &str) -> Answered {
        let committed = self.context.state(protocol::input::id("auction_id", id)?).await?;
        let timer = protocol::timer_object(committed.auction_id, &committed.state, self.context.clock.now().0);
        Ok(service::http::json(StatusCode::OK, &timer))
    }

    /// `POST /auctions/{id}/close`, `/cancel`, `/start`, `/pause` and `/resume`. bid-processing checks that the caller is
    /// the host.
    pub async fn act(&self, id: &str, action: HostAction, token: Option<&str>) -> Answered {
        let context = &self.context;
        let identity = context.identity(token).await?;
        let (by, token) = (identity.person.user_id, identity.token.text());
        let auction_id = protocol::input::id("auction_id", id)?;
        let stored = context.stored(auction_id).await?;
        let asked = match action {
            HostAction::Close => {
                let request = CloseRequest { auction_id, by: Some(by) };
                bus::request_for(&context.bus, subject::AUCTIONS_CLOSE, &request, token, ASK_TIMEOUT).await
            }
            HostAction::Cancel => {
                let request = CancelRequest { auction_id, by, reason: None };
                bus::request_for(&context.bus, subject::AUCTIONS_CANCEL, &request, token, ASK_TIMEOUT).await
            }
            HostAction::Start | HostAction::Pause | HostAction::Resume => {
                let subject = match action {
                    HostAction::Start => subject::AUCTIONS_START,
                    HostAction::Pause => subject::AUCTIONS_PAUSE,
                    _ => subject::AUCTIONS_RESUME,
                };
                bus::request_for(&context.bus, subject, &HostRequest { auction_id, by }, token, ASK_TIMEOUT).await
            }
        };
        let state = changed(asked)?;
        // Readers of this instance see the end at once.
        context.views.learn(state.clone());
        Ok(self.object(&stored, Some(&state), Some(by)))
    }

    /// `POST /auctions/{id}/block` and `POST /auctions/{id}/unblock`.
    pub async fn block(&self, id: &str, action: BlockAction, token: Option<&str>, body: &[u8]) -> Answered {
        let context = &self.context;
        let identity = context.identity(token).await?;
        let (by, token) = (identity.person.user_id, identity.token.text());
        let auction_id = protocol::input::id("auction_id", id)?;
        let user_id = Fields::parse(body)?.id("user_id")?;
        let stored = context.stored(auction_id).await?;
        let subject = match action {
            BlockAction::Block => subject::AUCTIONS_BLOCK,
            BlockAction::Unblock => subject::AUCTIONS_UNBLOCK,
        };
        let request = BlockRequest { auction_id, by, user_id };
        let state = changed(bus::request_for(&context.bus, subject, &request, token, ASK_TIMEOUT).await)?;
        context.views.learn(state.clone());
        Ok(self.object(&stored, Some(&state), Some(by)))
    }

    /// `POST /auctions/{id}/chat`: the host sets how often each person may write.
    pub async fn set_slow_mode(&self, id: &str, token: Option<&str>, body: &[u8]) -> Answered {
        let by = self.context.identity(token).await?.person.user_id;
        let auction_id = protocol::input::id("auction_id", id)?;
        let seconds = Fields::parse(body)?.whole("slow_mode_seconds", 0, MAX_SLOW_MODE_SECONDS)?;
        self.require_host(auction_id, by).await?;
        self.hotstate.set_slow_mode(auction_id, seconds).await.map_err(|error| {
            tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to set slow mode; it may be set");
            Failure::from(Code::OutcomeUnknown)
        })?;
        self.context.views.announce_slow_mode(auction_id, seconds).await.map_err(|error| {
            tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to announce slow mode; it is set");
            Failure::from(Code::OutcomeUnknown)
        })?;
        self.get(id, token).await
    }

    /// `GET /auctions/{id}/stream`: where the host streams to, and whether a stream arrives.
    pub async fn stream(&self, id: &str, token: Option<&str>) -> Answered {
        let by = self.context.identity(token).await?.person.user_id;
        let auction_id = protocol::input::id("auction_id", id)?;
        self.require_host(auction_id, by).await?;
        let channel = self.context.store.channel(auction_id).await.map_err(|error| store_failure(&error))?;
        let channel = channel.ok_or_else(|| Failure::new(Code::WrongState, "This auction has no video channel"))?;
        let streaming = self.video.streaming(&channel.arn).await;
        if let Err(error) = &streaming {
            tracing::warn!(%auction_id, error = %errors::chain(error), "failed to read the state of a stream");
        }
        let (state, viewer_count) = match streaming {
            Ok(Streaming::Live { viewers }) => (Some(StreamState::Live), Some(viewers)),
            Ok(Streaming::Offline) => (Some(StreamState::Offline), Some(0)),
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

    async fn require_host(&self, auction_id: AuctionId, user_id: UserId) -> Result<(), Failure> {
        if self.context.stored(auction_id).await?.host.user_id == user_id { Ok(()) } else { Err(Code::NotHost.into()) }
    }

    /// `auctions.recall`: whether the table knows an auction as over, however long ago.
    pub async fn is_over(&self, auction_id: AuctionId) -> Result<bool, Failure> {
        let stored = self.context.store.auction(auction_id).await.map_err(|error| store_failure(&error))?;
        Ok(stored.is_some_and(|stored| stored.outcome.is_some()))
    }
}
