//! The requests that other services send over NATS. Those for a person carry the person's token, which is verified here
//! too.

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
    let seen = move |user: UserSeen, token: Option<String>| {
        let context = context.clone();
        async move { people::seen(&context, &user, token.as_deref()).await }
    };
    micro.serve_for(subject::USERS_SEEN, unreadable, seen).await?;
    let store = auctions.context.store.clone();
    let names = move |request: NamesRequest| {
        let store = store.clone();
        async move { people::names(&store, &request).await }
    };
    micro.serve(subject::USERS_NAMES, unreadable, names).await?;
    let verifier = auctions.context.verifier.clone();
    let own = move |request: OwnBidsRequest, token: Option<String>| {
        let (bids, verifier) = (bids.clone(), verifier.clone());
        async move {
            match verifier.verify_caller(token.as_deref(), request.user_id).await {
                Ok(()) => Reply::from(bids.own_page(&request).await),
                Err(error) => Reply::Failed(error.into()),
            }
        }
    };
    micro.serve_for(subject::BIDS_OWN, unreadable, own).await?;
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
