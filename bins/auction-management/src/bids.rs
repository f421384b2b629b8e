//! Bids as readers see them: the history of an auction, and the bids of one person.

use std::collections::{HashMap, HashSet};

use cloud::History;
use domain::AuctionId;
use protocol::{AuctionObject, BidPage, Code, Failure, OwnBid, OwnBids, OwnBidsRequest, PublicBid, parse_pagination};
use serde_json::value::{RawValue, to_raw_value};
use warp::http::StatusCode;

use crate::context::{Answered, Context, MAX_PAGE, Query, store_failure};

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
    pub async fn history(&self, id: &str, query: &Query) -> Answered {
        let auction_id = protocol::input::id("auction_id", id)?;
        let find = |name: &str| query.find(name);
        let page = parse_pagination(find, DEFAULT_PAGE, MAX_PAGE)?;
        let before = find("before_seq")
            .map(|text| {
                let number = text.parse::<u64>().ok().filter(|number| *number <= i64::MAX.cast_unsigned());
                number.ok_or_else(|| Failure::new(Code::InvalidRequest, "before_seq must be a whole number"))
            })
            .transpose()?;
        self.context.stored(auction_id).await?;
        let page = self.history.page(auction_id, page.limit, before).await.map_err(|error| {
            tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to read the bid history");
            Failure::from(Code::Unavailable)
        })?;
        let bids: Vec<PublicBid<'_>> = page.bids.iter().map(PublicBid::from).collect();
        Ok(service::http::json(StatusCode::OK, &BidPage { bids, next_before_seq: page.next_before_seq }))
    }

    /// `GET /bids`.
    pub async fn own(&self, token: Option<&str>, query: &Query) -> Answered {
        let user_id = self.context.identity(token).await?.person.user_id;
        let find = |name: &str| query.find(name);
        let page = self.own_page(&OwnBidsRequest { user_id, limit: find("limit"), before: find("before") }).await?;
        Ok(service::http::json(StatusCode::OK, &page))
    }

    /// A page of one person's bids, as JSON: the answer to `GET /bids` here and, by `bids.own`, in bid-processing.
    pub async fn own_page(&self, request: &OwnBidsRequest) -> Result<Box<RawValue>, Failure> {
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
        let (currency, now) = (self.context.currency.as_str(), self.context.clock.now().0);
        let objects =
            known.iter().map(|(stored, state)| (stored.auction_id, stored.object(state.as_deref(), currency, now)));
        let auctions: HashMap<AuctionId, AuctionObject<'_>> = objects.collect();
        let bids = bids
            .iter()
            .map(|own| OwnBid::new(own.auction_id, &own.bid, auctions.get(&own.auction_id), currency))
            .collect();
        let page = OwnBids { bids, next_before: next.map(|next| next.to_string()) };
        to_raw_value(&page).map_err(|error| {
            tracing::error!(error = %errors::chain(&error), "failed to write a page of bids");
            Code::Unavailable.into()
        })
    }
}
