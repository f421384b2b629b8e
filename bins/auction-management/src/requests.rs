//! The requests that other services send over NATS. Those for a person carry the person's token, which is verified here
//! too.

use std::sync::Arc;

use bus::{About, Bus, Log, LogError, Micro};
use protocol::{
    Code, LimitRequest, NamesRequest, OwnBidsRequest, RedriveRequest, Reply, StateRequest, UserSeen, subject,
};
use service::Stop;
use store::Store;

use crate::auctions::Auctions;
use crate::bids::Bids;
use crate::people;

/// Registers as a NATS micro service and answers `users.seen`, `users.names`, `users.limits`, `users.limit`, `bids.own`,
/// `auctions.recall` and `results.redrive`.
pub async fn serve(
    bus: &Bus,
    status: impl Fn() -> serde_json::Value + Send + Sync + 'static,
    stop: &Stop,
    log: Log,
    auctions: Auctions,
    bids: Bids,
) -> Result<Micro, Box<dyn std::error::Error + Send + Sync>> {
    let about = About {
        name: crate::NAME,
        version: service::VERSION,
        description: "Serves the HTTP API of auctions and people, and writes results into PostgreSQL",
        status: Arc::new(status),
    };
    let micro = Micro::start(bus, about, stop.child_token()).await?;
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
    let store = auctions.context.store.clone();
    let limits = move |request: NamesRequest| {
        let store = store.clone();
        async move { people::limits(&store, &request).await }
    };
    micro.serve(subject::USERS_LIMITS, unreadable, limits).await?;
    let context = auctions.context.clone();
    let limit = move |request: LimitRequest| {
        let context = context.clone();
        async move { people::limit(&context.store, &context.bus, &request).await }
    };
    micro.serve(subject::USERS_LIMIT, unreadable, limit).await?;
    let verifier = auctions.context.verifier.clone();
    let own = move |request: OwnBidsRequest, token: Option<String>| {
        let (bids, verifier) = (bids.clone(), verifier.clone());
        async move {
            match verifier.verify_caller(token.as_deref(), request.user_id).await {
                Ok(()) => Reply::from(bids.own_page(&request, token.as_deref().unwrap_or_default()).await),
                Err(error) => Reply::Failed(error.into()),
            }
        }
    };
    micro.serve_for(subject::BIDS_OWN, unreadable, own).await?;
    let store = auctions.context.store.clone();
    let redrive = move |request: RedriveRequest| {
        let (log, store) = (log.clone(), store.clone());
        async move { Reply::from(redrive(&log, &store, request.stream_seq).await.map_err(Into::into)) }
    };
    micro.serve(subject::RESULTS_REDRIVE, unreadable, redrive).await?;
    let recall = move |request: StateRequest| {
        let auctions = auctions.clone();
        async move { Reply::from(auctions.is_over(request.auction_id).await) }
    };
    micro.serve(subject::AUCTIONS_RECALL, unreadable, recall).await?;
    Ok(micro)
}

/// Writes the result in one record again. False if the log no longer has the record.
async fn redrive(log: &Log, store: &Store, stream_seq: u64) -> Result<bool, Code> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        tracing::warn!(stream_seq, error = %errors::chain(error), "failed to handle a record again");
    };
    let read = |error: LogError| {
        failed(&error);
        if matches!(error, LogError::Record { .. }) { Code::InvalidRequest } else { Code::Unavailable }
    };
    let Some(logged) = log.at(stream_seq).await.map_err(read)? else { return Ok(false) };
    // A forged record stays one.
    if !log.is_next(&logged).await.map_err(read)? {
        tracing::warn!(stream_seq, "refused to handle a record again: it does not continue the log");
        return Err(Code::InvalidRequest);
    }
    // An auction without a row has no result to write, as at its first delivery.
    store.write_record(&logged.record).await.map(|_| true).map_err(|error| {
        failed(&error);
        if error.is_permanent() { Code::InvalidRequest } else { Code::Unavailable }
    })
}

fn unreadable<T>(error: &str) -> Reply<T> {
    tracing::warn!(error, "failed to read a request");
    Reply::Failed(protocol::Code::InvalidRequest.into())
}
