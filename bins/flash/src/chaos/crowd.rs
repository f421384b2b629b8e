//! One auction that ten thousand watch while bids trickle in: some of them stop reading for good, and everybody
//! is thrown off at once, again and again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use domain::AuctionId;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::load::Load;
use crate::crowd::{self, Crowd};
use crate::issuer::Issuer;

/// By turns at two edges, each person's token of its own.
const WATCHERS: u64 = 10_000;
/// Of them stop reading once all are there.
const STALLED: usize = 100;
/// Each update goes to all of them.
const THINK_MS: std::ops::Range<u64> = 500..1_500;
/// For all of them to come back after the last fault.
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// From the closing record to the last screen.
const LAST_FRAMES: Duration = Duration::from_secs(3);

pub struct Watched {
    auction_id: AuctionId,
    crowd: Crowd,
    bidding: JoinSet<Result<()>>,
}

impl Watched {
    pub async fn begin(load: &Arc<Load>, issuer: &Issuer, duration: Duration) -> Result<Self> {
        let tokens = crowd::tokens(issuer, WATCHERS).await?;
        let entering = Duration::from_secs(60);
        let lot = load.create(duration + entering, Instant::now() + entering).await?;
        let lot = Arc::new(lot.ok_or_else(|| anyhow::anyhow!("no auction to watch"))?);
        let edges = load.addresses.edges.iter().map(|edge| edge.trim_start_matches("http://").to_owned()).collect();
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

    /// Waits for the end of the auction: everybody who reads is there and has seen each bid once.
    pub async fn finish(mut self, log: &bus::Log) -> Result<()> {
        while let Some(bidder) = self.bidding.join_next().await {
            bidder??;
        }
        self.crowd.all_here(BACK_WITHIN).await?;
        tokio::time::sleep(LAST_FRAMES).await;
        let records = log.all(self.auction_id).await?;
        let bids: Vec<u64> = records.iter().flat_map(|logged| &logged.record.bids).map(|bid| bid.seq).collect();
        let sights = self.crowd.leave(&bids).await?;
        println!(
            "{WATCHERS} watched one auction, {} came back, each saw its {} bids once",
            sights.back_at.len(),
            bids.len()
        );
        Ok(())
    }
}
