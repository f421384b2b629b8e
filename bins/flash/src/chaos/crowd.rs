//! One auction with ten thousand watchers and few bids. Some of the watchers stop reading for good, and all of them
//! lose their connection at once, again and again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use domain::AuctionId;
use testkit::crowd::Crowd;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::load::Load;
use super::rules::LotRules;
use crate::stack::Issuer;
use crate::stack::issuer::tokens;

/// Watchers, each of another user, by turns at two edges.
const WATCHERS: u64 = 10_000;
/// Watchers that stop reading once all are joined.
const STALLED: usize = 100;
/// Pause between two bids of a bidder. Every update goes to all watchers.
const THINK_MS: std::ops::Range<u64> = 500..1_500;
/// Time after the last fault until all watchers must be back.
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// Time after the closing record for its frames to arrive.
const LAST_FRAMES: Duration = Duration::from_secs(3);

/// The auction, its watchers and its bidders.
pub struct WatchedAuction {
    auction_id: AuctionId,
    crowd: Crowd,
    bidding: JoinSet<Result<()>>,
}

impl WatchedAuction {
    /// Creates the auction and joins the watchers.
    pub async fn begin(load: &Arc<Load>, issuer: &Issuer, duration: Duration) -> Result<Self> {
        let tokens = tokens(issuer, WATCHERS).await?;
        let entering = Duration::from_secs(60);
        let lot = load.create(duration + entering, LotRules::default(), Instant::now() + entering).await?;
        let lot = Arc::new(lot.ok_or_else(|| anyhow::anyhow!("failed to create the auction"))?);
        let edges = load.addresses.edges.clone();
        let crowd = Crowd::enter(edges, &lot.id, tokens, STALLED).await?;
        crowd.stall();
        let give_up = Instant::now() + duration + 2 * entering;
        let mut bidding = JoinSet::new();
        for bidder in Load::crowd_bidders() {
            let (load, lot) = (Arc::clone(load), Arc::clone(&lot));
            bidding.spawn(async move { load.bid_by_http(&bidder, &lot, THINK_MS, give_up).await });
        }
        Ok(Self { auction_id: lot.id.parse()?, crowd, bidding })
    }

    /// Waits for the end of the auction.
    ///
    /// # Errors
    /// When a watcher that reads is not joined then, or has not got each bid once.
    pub async fn finish(mut self, log: &bus::Log) -> Result<()> {
        while let Some(bidder) = self.bidding.join_next().await {
            bidder??;
        }
        self.crowd.all_joined(BACK_WITHIN).await?;
        tokio::time::sleep(LAST_FRAMES).await;
        let records = log.records(self.auction_id, 0).await?.collect().await?;
        let bids: Vec<u64> = records.iter().flat_map(|logged| &logged.record.bids).map(|bid| bid.seq).collect();
        let report = self.crowd.leave(&bids).await?;
        println!(
            "{WATCHERS} watchers of one auction, {} reconnected, each got its {} bids once",
            report.back_at.len(),
            bids.len()
        );
        Ok(())
    }
}
