//! The clients that all handlers share (store, bus, clock, token verifier), and the questions they all ask.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Bus, RequestError};
use domain::{AuctionId, UserId};
use futures_util::{StreamExt, stream};
use hotstate::Clock;
use identity::{Identity, Verifier};
use protocol::{AuctionObject, Code, CommittedState, Failure, Naming, StateReply, StateRequest, Stored, subject};
use store::{Store, StoreError};
use warp::reply::Response;

use crate::views::{LISTED_MAX_AGE, STATE_MAX_AGE, Views};

/// The parameters of a query string, in the order of the query.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// The value of a parameter, the last one if it was given several times.
    pub fn find(&self, name: &str) -> Option<String> {
        self.0.iter().rev().find(|(of, _)| of == name).map(|(_, value)| value.clone())
    }

    /// Every value of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(of, _)| of == name).map(|(_, value)| value.as_str())
    }
}

impl FromIterator<(String, String)> for Query {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

/// A handler's result: the reply, or the failure that becomes one.
pub type Answered = Result<Response, Failure>;

/// Longest wait for bid-processing's answer to one request.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for each state in a list. A state that arrives later is left out, because the row is answer enough.
const LIST_ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Concurrent state requests for one list.
const CONCURRENT_LIST_REQUESTS: usize = 16;
/// Most items on one page of a list.
pub const MAX_PAGE: u64 = 100;

/// Shared by all handlers; a clone is cheap.
#[derive(Clone)]
pub struct Context {
    pub store: Store,
    pub bus: Bus,
    pub clock: Clock,
    pub verifier: Verifier,
    /// States and chats, as they are shown to readers.
    pub views: Arc<Views>,
    /// ISO 4217 code shown with every amount.
    pub currency: String,
    /// Address below which photos are found that were uploaded here.
    pub photos_url: Option<String>,
}

impl Context {
    /// The caller, from the `Authorization` header.
    pub async fn identity(&self, token: Option<&str>) -> Result<Identity, Failure> {
        Ok(self.verifier.verify(identity::bearer(token)?).await?)
    }

    /// The person who reads, where it depends on that which names are shown. None without a token.
    pub async fn viewer(&self, token: Option<&str>) -> Result<Option<UserId>, Failure> {
        match token {
            Some(token) if self.views.show_aliases => Ok(Some(self.identity(Some(token)).await?.person.user_id)),
            Some(_) | None => Ok(None),
        }
    }

    /// How people are named to a viewer of an auction.
    pub fn naming(&self, auction_id: AuctionId, host: UserId, viewer: Option<UserId>) -> Naming {
        if self.views.show_aliases { Naming::for_viewer(auction_id, host, viewer) } else { Naming::Names }
    }

    /// The auction as a viewer sees it now.
    pub fn object<'a>(
        &'a self,
        stored: &'a Stored,
        state: Option<&'a CommittedState>,
        viewer: Option<UserId>,
    ) -> AuctionObject<'a> {
        let is_live = self.views.on_air.contains(stored.auction_id, Instant::now());
        let naming = self.naming(stored.auction_id, stored.host.user_id, viewer);
        stored.object(state, &self.currency, self.clock.now().0, naming).with_stream(is_live)
    }

    /// The row of an auction, or `auction_not_found`.
    pub async fn stored(&self, auction_id: AuctionId) -> Result<Stored, Failure> {
        if self.views.unknown.contains(auction_id, Instant::now()) {
            return Err(Code::AuctionNotFound.into());
        }
        let stored = self.store.auction(auction_id).await.map_err(|error| store_failure(&error))?;
        stored.ok_or_else(|| {
            self.views.unknown.insert(auction_id, Instant::now());
            Code::AuctionNotFound.into()
        })
    }

    /// The committed state of an auction. PostgreSQL is asked first whether the auction exists, so that an unknown id
    /// does not reach bid-processing.
    pub async fn state(&self, auction_id: AuctionId) -> Result<Arc<CommittedState>, Failure> {
        if let Some(state) = self.views.current_state(auction_id) {
            return state;
        }
        match self.stored(auction_id).await {
            Err(failure) if failure.code == Code::AuctionNotFound => Err(failure),
            // Without PostgreSQL, bid-processing determines whether the auction exists.
            Ok(_) | Err(_) => self.views.state(auction_id, STATE_MAX_AGE, ASK_TIMEOUT).await,
        }
    }

    /// Each row with its committed state, unless the auction is over or its state arrives too late.
    pub async fn with_states(&self, rows: Vec<Stored>) -> Vec<(Stored, Option<Arc<CommittedState>>)> {
        stream::iter(rows)
            .map(|stored| async move {
                if stored.outcome.is_some() {
                    return (stored, None);
                }
                let asked = self.views.state(stored.auction_id, LISTED_MAX_AGE, LIST_ASK_TIMEOUT);
                let state = tokio::time::timeout(LIST_ASK_TIMEOUT, asked).await;
                (stored, state.ok().and_then(Result::ok))
            })
            .buffered(CONCURRENT_LIST_REQUESTS)
            .collect()
            .await
    }
}

/// The committed state of an auction, from bid-processing; `unavailable` if no answer came, because reading changes
/// nothing.
pub async fn state(bus: &Bus, auction_id: AuctionId, timeout: Duration) -> Result<CommittedState, Failure> {
    let asked: Result<StateReply, RequestError> =
        bus::request(bus, subject::AUCTIONS_STATE, &StateRequest { auction_id }, timeout).await;
    match asked {
        Ok(reply) => reply.into_result(),
        Err(error) => {
            tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to read a state from bid-processing");
            Err(Code::Unavailable.into())
        }
    }
}

/// bid-processing's answer to a request that changes an auction. Without an answer it is certain that nothing was
/// changed only if no instance received the request.
pub fn changed(asked: Result<StateReply, RequestError>) -> Result<CommittedState, Failure> {
    match asked {
        Ok(reply) => reply.into_result(),
        Err(error) => {
            tracing::warn!(error = %errors::chain(&error), "failed to get an answer from bid-processing");
            let code = match error {
                RequestError::NoResponder => Code::Unavailable,
                RequestError::NoAnswer(_) => Code::OutcomeUnknown,
            };
            Err(code.into())
        }
    }
}

/// Logs a failed query; clients see `unavailable`.
pub fn store_failure(error: &StoreError) -> Failure {
    tracing::error!(error = %errors::chain(error), "failed to query PostgreSQL");
    Code::Unavailable.into()
}
