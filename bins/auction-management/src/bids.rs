//! Bids as readers see them: the history of an auction, and the bids of one person.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cloud::History;
use domain::AuctionId;
use protocol::{
    BidPage, BidStatus, Code, CommittedState, Failure, OwnBid, OwnBids, OwnBidsRequest, PublicBid, Stored,
    parse_pagination,
};
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
        let find = |name: &str| query.get(name).cloned();
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
        let find = |name: &str| query.get(name).cloned();
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
        let auctions: HashMap<AuctionId, Auction> =
            self.context.with_states(stored).await.into_iter().map(|known| (known.0.auction_id, known)).collect();
        let bids = bids.iter().map(|own| own_bid(own, auctions.get(&own.auction_id))).collect();
        let page = OwnBids { bids, next_before: next.map(|next| next.to_string()) };
        to_raw_value(&page).map_err(|error| {
            tracing::error!(error = %errors::chain(&error), "failed to write a page of bids");
            Code::Unavailable.into()
        })
    }
}

/// An auction's row, and its committed state where there is one.
type Auction = (Stored, Option<Arc<CommittedState>>);

fn own_bid<'a>(own: &'a cloud::OwnBid, auction: Option<&'a Auction>) -> OwnBid<'a> {
    let bid = &own.bid;
    let stored = auction.map(|(stored, _)| stored);
    OwnBid {
        auction_id: own.auction_id,
        auction_title: stored.map(|stored| stored.title.as_str()),
        auction_image: stored.and_then(|stored| stored.image_url.as_deref()),
        bid_id: bid.bid_id,
        seq: bid.seq,
        amount: bid.amount,
        timestamp: bid.timestamp,
        status: auction.and_then(|auction| bid_status(bid, auction)),
    }
}

/// The status of a bid; None for a live auction without a committed state.
fn bid_status(bid: &protocol::Bid, (stored, state): &Auction) -> Option<BidStatus> {
    match state.as_ref().map(|committed| &committed.state) {
        Some(state) if state.outcome.is_none() => Some(BidStatus::of(bid, false, state.high_bidder_id, state.high_bid)),
        Some(state) => Some(BidStatus::of(bid, true, state.winner_id, state.winning_bid)),
        None => {
            let winner = stored.winner.as_ref().map(|winner| winner.user_id);
            stored.outcome.as_ref().map(|_| BidStatus::of(bid, true, winner, stored.winning_bid))
        }
    }
}
