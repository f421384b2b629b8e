//! Bids as readers see them: the history of an auction, and the bids of one person.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use cloud::History;
use domain::{Amount, AuctionId, UserId};
use futures_util::{StreamExt, stream};
use protocol::{
    AuctionObject, BidPage, Code, CommittedState, Failure, MaximumRequest, Naming, OwnBid, OwnBids, OwnBidsRequest,
    OwnMaximum, PublicBid, Reply, parse_pagination, subject,
};
use serde_json::value::{RawValue, to_raw_value};
use warp::http::StatusCode;

use crate::context::{Answered, Context, MAX_PAGE, Query, store_failure};

/// Longest wait for a person's own maximum.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Own maximums that are asked for at once. A page shows a hundred bids at most.
const MAX_ASKED_AT_ONCE: usize = 16;
/// Bids on one page where the client asks for no number.
const DEFAULT_PAGE: u64 = 50;

/// `GET /auctions/{id}/bids`, `GET /bids`, and `bids.own` for bid-processing.
#[derive(Clone)]
pub struct Bids {
    pub context: Context,
    pub history: History,
}

impl Bids {
    /// `GET /auctions/{id}/bids`.
    pub async fn history(&self, id: &str, token: Option<&str>, query: &Query) -> Answered {
        let viewer = self.context.viewer(token).await?;
        let auction_id = protocol::input::id("auction_id", id)?;
        let find = |name: &str| query.find(name);
        let page = parse_pagination(find, DEFAULT_PAGE, MAX_PAGE)?;
        let before = find("before_seq")
            .map(|text| {
                let number = text.parse::<u64>().ok().filter(|number| *number <= i64::MAX.cast_unsigned());
                number.ok_or_else(|| Failure::new(Code::InvalidRequest, "before_seq must be a whole number"))
            })
            .transpose()?;
        let host = self.context.stored(auction_id).await?.host.user_id;
        let page = self.history.page(auction_id, page.limit, before).await.map_err(|error| {
            tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to read the bid history");
            Failure::from(Code::Unavailable)
        })?;
        let naming = self.context.naming(auction_id, host, viewer);
        let bids = page.bids.iter().map(|bid| PublicBid::new(bid, naming)).collect();
        Ok(service::http::json(StatusCode::OK, &BidPage { bids, next_before_seq: page.next_before_seq }))
    }

    /// `GET /bids`.
    pub async fn own(&self, token: Option<&str>, query: &Query) -> Answered {
        let identity = self.context.identity(token).await?;
        let user_id = identity.person.user_id;
        let find = |name: &str| query.find(name);
        let request = OwnBidsRequest { user_id, limit: find("limit"), before: find("before") };
        let page = self.own_page(&request, identity.token.text()).await?;
        Ok(service::http::json(StatusCode::OK, &page))
    }

    /// A page of one person's bids, as JSON: the answer to `GET /bids` here and, by `bids.own`, in bid-processing. The token
    /// is that person's.
    pub async fn own_page(&self, request: &OwnBidsRequest, token: &str) -> Result<Box<RawValue>, Failure> {
        let find = |name: &str| request.limit.clone().filter(|_| name == "limit");
        let limit = parse_pagination(find, DEFAULT_PAGE, MAX_PAGE)?.limit;
        let bad = |_| Failure::new(Code::InvalidRequest, "before must be the next_before of another page, or a time");
        let before = request.before.as_deref().map(|text| text.parse().map_err(bad)).transpose()?;
        let (bids, next) = self.history.of_person(request.user_id, limit, before).await.map_err(|error| {
            tracing::warn!(error = %errors::chain(&error), "failed to read the bids of a person");
            Failure::from(Code::Unavailable)
        })?;
        let auctions: HashSet<AuctionId> = bids.iter().map(|own| own.auction_id).collect();
        let auctions: Vec<AuctionId> = auctions.into_iter().collect();
        let stored = self.context.store.auctions_of(&auctions).await.map_err(|error| store_failure(&error))?;
        let known = self.context.with_states(stored).await;
        let states = known.iter().filter_map(|(_, state)| state.as_deref());
        let maximums = self.maximums(states, request.user_id, token).await;
        let (currency, now) = (self.context.currency.as_str(), self.context.clock.now().0);
        // A page of own bids shows no names.
        let objects = known
            .iter()
            .map(|(stored, state)| (stored.auction_id, stored.object(state.as_deref(), currency, now, Naming::Names)));
        let auctions: HashMap<AuctionId, AuctionObject<'_>> = objects.collect();
        let bids = bids
            .iter()
            .map(|own| {
                let maximum = maximums.get(&own.auction_id).copied();
                OwnBid::new(own.auction_id, &own.bid, auctions.get(&own.auction_id), maximum, currency)
            })
            .collect();
        let page = OwnBids { bids, next_before: next.map(|next| next.to_string()) };
        to_raw_value(&page).map_err(|error| {
            tracing::error!(error = %errors::chain(&error), "failed to write a page of bids");
            Code::Unavailable.into()
        })
    }

    /// How far auctions bid for this person, among those that the person leads. Without an answer it is not shown.
    async fn maximums(
        &self,
        states: impl Iterator<Item = &CommittedState>,
        user_id: UserId,
        token: &str,
    ) -> HashMap<AuctionId, Amount> {
        let leads = |state: &&CommittedState| {
            state.has_secrets && state.state.outcome.is_none() && state.state.high_bidder_id == Some(user_id)
        };
        let asked = states.filter(leads).map(|state| state.auction_id).map(|auction_id| async move {
            let request = MaximumRequest { auction_id, user_id };
            let asked: Result<Reply<OwnMaximum>, _> =
                bus::request_for(&self.context.bus, subject::BIDS_MAXIMUM, &request, token, ASK_TIMEOUT).await;
            let answered = asked.ok()?.into_result().ok()?;
            answered.max_amount.map(|max_amount| (auction_id, max_amount))
        });
        let asked: Vec<_> = asked.collect();
        stream::iter(asked).buffer_unordered(MAX_ASKED_AT_ONCE).filter_map(std::future::ready).collect().await
    }
}
