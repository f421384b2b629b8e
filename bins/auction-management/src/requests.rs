//! The requests that other services send over NATS.

use bus::{Bus, Micro};
use protocol::{NamesRequest, OwnBidsRequest, Reply, StateRequest, UserSeen, subject};
use service::Stop;

use crate::auctions::Auctions;
use crate::bids::Bids;
use crate::people;

/// Registers as a NATS micro service and answers `users.seen`, `users.names`, `bids.own` and `auctions.recall`.
pub async fn serve(
    bus: &Bus,
    stop: &Stop,
    auctions: Auctions,
    bids: Bids,
) -> Result<Micro, Box<dyn std::error::Error + Send + Sync>> {
    let micro = Micro::start(bus, crate::NAME, service::VERSION, stop.child_token()).await?;
    let context = auctions.context.clone();
    let seen = move |user: UserSeen| {
        let context = context.clone();
        async move { people::seen(&context.store, &context.bus, &user).await }
    };
    micro.serve(subject::USERS_SEEN, unreadable, seen).await?;
    let store = auctions.context.store.clone();
    let names = move |request: NamesRequest| {
        let store = store.clone();
        async move { people::names(&store, &request).await }
    };
    micro.serve(subject::USERS_NAMES, unreadable, names).await?;
    let own = move |request: OwnBidsRequest| {
        let bids = bids.clone();
        async move { Reply::from(bids.own_page(&request).await) }
    };
    micro.serve(subject::BIDS_OWN, unreadable, own).await?;
    let recall = move |request: StateRequest| {
        let auctions = auctions.clone();
        async move { Reply::from(auctions.is_over(request.auction_id).await) }
    };
    micro.serve(subject::AUCTIONS_RECALL, unreadable, recall).await?;
    Ok(micro)
}

fn unreadable<T>(error: &str) -> Reply<T> {
    tracing::warn!(error, "failed to read a request");
    Reply::Failed(protocol::Code::InvalidRequest.into())
}
