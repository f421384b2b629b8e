//! Bids of people whose sockets are on several edges: a person who bids through one edge is notified on all.
//!
//! An edge publishes the first bid of a person in an auction, and asks the others when a person's first socket connects.
//! Every edge hears both and replies with what it knows, which is nothing for nearly all people. A message is a hint: it
//! makes an edge follow an auction, within its bounds, and a record then decides who is notified.

use std::sync::Arc;

use domain::{Amount, AuctionId, UserId};
use futures_util::StreamExt;
use protocol::{BidOfPerson, BidsOfPerson, subject};

use crate::context::EdgeContext;
use crate::follow;

/// Asks the other edges for the bids of a person, in the background.
pub fn ask(context: &Arc<EdgeContext>, user_id: UserId) {
    let context = Arc::clone(context);
    tokio::spawn(async move { publish(&context, user_id, Vec::new()).await });
}

/// Notes an accepted bid that was placed through this edge, and lets the other edges know of the first one.
pub async fn placed(context: &Arc<EdgeContext>, user_id: UserId, auction_id: AuctionId, seq: u64, amount: Amount) {
    if context.bidders.placed(auction_id, user_id, seq, amount) {
        publish(context, user_id, vec![BidOfPerson { auction_id, seq, amount, is_notified: false }]).await;
    }
    follow::start(context, auction_id).await;
}

async fn publish(context: &EdgeContext, user_id: UserId, bids: Vec<BidOfPerson>) {
    let message = BidsOfPerson { edge: context.edge.to_string(), user_id, bids };
    let payload = serde_json::to_vec(&message).unwrap_or_default();
    if let Err(error) = context.bus.client.publish(subject::EDGES_BIDS, payload.into()).await {
        tracing::debug!(error = %errors::chain(&error), "failed to publish the bids of a person");
    }
}

/// Hears the other edges, until the connection to NATS is closed for good.
pub async fn follow(context: Arc<EdgeContext>) {
    let mut messages = match context.bus.client.subscribe(subject::EDGES_BIDS).await {
        Ok(messages) => messages,
        Err(error) => {
            return tracing::error!(error = %errors::chain(&error), "failed to subscribe to other edges' bids");
        }
    };
    let own = context.edge.to_string();
    while let Some(message) = messages.next().await {
        let BidsOfPerson { edge, user_id, bids } = match serde_json::from_slice(&message.payload) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(error = %errors::chain(&error), "failed to parse the bids of a person");
                continue;
            }
        };
        if edge == own {
            continue;
        }
        if bids.is_empty() {
            let known = context.bidders.known(user_id);
            if !known.is_empty() {
                publish(&context, user_id, known).await;
            }
        }
        for auction_id in context.bidders.learn_shared(user_id, &bids) {
            follow::start(&context, auction_id).await;
        }
    }
}
