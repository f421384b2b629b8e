//! One auction of many records: whenever Redis loses it, the rebuild reads all of them, while other auctions go on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use testkit::bidder::new_bid;
use testkit::http::Caller;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::load::{Load, Lot};
use super::rules::LotRules;
use crate::stack::recorder::now;

/// Records before the first fault, one for each bid.
const RECORDS: u64 = 10_000;
/// Time until they are written. A bid takes a few milliseconds, most of them for the sync of its record.
const FILLED_WITHIN: Duration = Duration::from_secs(90);
/// Pause before a bid that was not accepted is repeated: a person may place 200 a second.
const PAUSE: Duration = Duration::from_millis(10);
/// Pause between two bids of a bidder once the faults have begun.
const THINK_MS: std::ops::Range<u64> = 50..200;
/// Time after the planned end until the auction must be closed: extensions, the longest fault and a rebuild.
const GRACE: Duration = Duration::from_secs(60);

/// The auction with its bidders.
pub struct LongAuction {
    bidding: JoinSet<Result<()>>,
}

impl LongAuction {
    /// Creates the auction, fills its log and lets the bidders go on. The faults begin afterwards and take `duration`.
    pub async fn begin(load: &Arc<Load>, duration: Duration) -> Result<Self> {
        let (duration, begun) = (FILLED_WITHIN + duration, Instant::now());
        let lot = load
            .create(duration, LotRules::default(), begun + FILLED_WITHIN)
            .await?
            .context("failed to create the auction")?;
        let lot = Arc::new(lot);
        tokio::time::timeout(FILLED_WITHIN, fill(load, &lot)).await.context("failed to fill the log in time")??;
        eprintln!("{RECORDS} records of one auction after {:?}", begun.elapsed());
        let mut bidding = JoinSet::new();
        for bidder in Load::crowd_bidders() {
            let (load, lot) = (Arc::clone(load), Arc::clone(&lot));
            bidding.spawn(async move { load.bid_by_http(&bidder, &lot, THINK_MS, begun + duration + GRACE).await });
        }
        Ok(Self { bidding })
    }

    /// Waits for the end of the auction.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn finish(mut self) -> Result<()> {
        while let Some(bidder) = self.bidding.join_next().await {
            bidder??;
        }
        Ok(())
    }
}

/// Places one bid after the other, by two bidders in turn, so that each is a record of its own.
async fn fill(load: &Load, lot: &Lot) -> Result<()> {
    let (caller, bidders) = (Caller::new(), Load::crowd_bidders());
    let tokens = [load.token(&bidders[0])?, load.token(&bidders[1])?];
    for (nth, (bidder, token)) in (1..=RECORDS).zip(bidders.iter().zip(&tokens).cycle()) {
        let bid = new_bid(&lot.id, 100 * nth);
        loop {
            let sent = now();
            let answered = caller.post(&load.addresses.bids[0], Some(token), &bid).await;
            let answer = answered.ok().map(|reply| reply.json).filter(Value::is_object);
            load.recorder.call(bidder, &bid, sent, answer.as_ref());
            if answer.is_some_and(|answer| answer["status"] == "accepted") {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}
