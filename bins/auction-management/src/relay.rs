//! Moves notifications of ended auctions from the outbox table into the queue.
//!
//! The outbox row was written with the result, in one transaction. A notification may be sent twice (its mark was lost,
//! or two instances sent it at once); that does no harm, because each mail is claimed before it is sent.

use std::collections::HashSet;
use std::time::Duration;

use bus::Log;
use cloud::Queue;
use domain::{AuctionId, UserId};
use protocol::{AUCTION_CLOSED, AuctionClosed, Contact, MAX_LOSERS_IN_PART};
use store::Store;

/// Interval between reads of the outbox.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// Most auctions in one read of the outbox.
const MOST_AUCTIONS: u64 = 50;
/// Seconds to wait for the addresses of all recipients. Addresses arrive with `users.seen`, a background request that
/// is retried: a person who bid while PostgreSQL was down is known some seconds after it is back. A token without an
/// address never brings one, so the wait is bounded.
const WAIT_FOR_ADDRESSES_SECONDS: u64 = 15;
/// Pause after a failure of the queue or of the table.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(2);

/// The relay; several instances may run at once.
pub struct Relay {
    pub store: Store,
    pub log: Log,
    pub queue: Queue,
    pub currency: String,
}

impl Relay {
    /// Relays forever.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(POLL_EVERY).await;
            if let Err(error) = self.send_all().await {
                tracing::warn!(error = %errors::chain(&*error), "failed to relay notifications; will retry");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }

    async fn send_all(&self) -> anyhow::Result<()> {
        for (auction_id, age_seconds) in self.store.unsent_notifications(MOST_AUCTIONS).await? {
            let Some(parts) = self.parts(auction_id, age_seconds < WAIT_FOR_ADDRESSES_SECONDS).await? else { continue };
            for part in parts {
                self.queue.send(&serde_json::to_string(&part)?).await?;
            }
            self.store.notification_sent(auction_id).await?;
        }
        Ok(())
    }

    /// The messages about one auction. None while a recipient's address may still arrive.
    async fn parts(&self, auction_id: AuctionId, may_wait: bool) -> anyhow::Result<Option<Vec<AuctionClosed>>> {
        let Some(stored) = self.store.auction(auction_id).await? else { return Ok(Some(Vec::new())) };
        // The result and the outbox row are one transaction, so there is nothing to send without an outcome.
        let Some(outcome) = &stored.outcome else { return Ok(Some(Vec::new())) };
        // Bidders come from the log, because the history may lag behind.
        let mut records = self.log.records(auction_id, 0).await?;
        let mut bidders = HashSet::<UserId>::new();
        while let Some(logged) = records.next().await? {
            bidders.extend(logged.record.bids.iter().map(|bid| bid.user_id));
        }
        let winner_id = stored.winner.as_ref().map(|winner| winner.user_id);
        let people: HashSet<UserId> = bidders.iter().copied().chain(winner_id).chain([stored.host.user_id]).collect();
        let people: Vec<UserId> = people.into_iter().collect();
        let mut losers = self.store.contacts(&people).await?;
        if may_wait && (losers.len() < people.len() || losers.iter().any(|contact| contact.email.is_none())) {
            return Ok(None);
        }
        let mut take = |user_id: UserId| {
            let index = losers.iter().position(|contact| contact.user_id == user_id);
            index.map(|index| losers.remove(index))
        };
        let winner = winner_id.and_then(&mut take);
        let host = take(stored.host.user_id).unwrap_or_else(|| Contact {
            user_id: stored.host.user_id,
            email: None,
            name: None,
            username: stored.host.username.clone(),
        });
        let chunks: Vec<Vec<Contact>> = if losers.is_empty() {
            vec![Vec::new()]
        } else {
            losers.chunks(MAX_LOSERS_IN_PART).map(<[_]>::to_vec).collect()
        };
        let parts = chunks.len();
        let part = |(index, losers)| AuctionClosed {
            kind: AUCTION_CLOSED.to_owned(),
            auction_id,
            title: stored.title.clone(),
            final_price: stored.winning_bid,
            currency: self.currency.clone(),
            outcome: outcome.clone(),
            winner: winner.clone(),
            host: host.clone(),
            losers,
            part: index + 1,
            parts,
            timestamp: stored.ended_at.unwrap_or_default(),
        };
        Ok(Some(chunks.into_iter().enumerate().map(part).collect()))
    }
}
