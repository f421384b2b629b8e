//! Auctions that people of this edge have bid in and whose room is not open here: one task follows the records of each,
//! so that its bidders are notified.
//!
//! A follower has one subscription, and no ticks, chat or members: an eighth of a room's memory. A republished record is
//! a hint, as in a room: one that does not continue the last one, or that ends the auction, only causes the log's last
//! record to be read. That is also read after the end, for a closing record that was lost. A follower ends with the
//! auction, when its room opens, or when no bidder is remembered any more.

use std::sync::Arc;
use std::time::Duration;

use bus::Logged;
use domain::AuctionId;
use futures_util::StreamExt;
use protocol::{Failure, Mark, OwnBidsRequest, PlacedBid, PlacedBids, Record, Reply, subject};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bidders::Notice;
use crate::context::{EdgeContext, SignIn};

/// Shortest time between two readings of the log for one follower: forged records cause no more.
const READ_EVERY: Duration = Duration::from_millis(250);
/// Time after a failed reading or subscription before the next.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Time after an end, in milliseconds, for the closing record to come. After it the log is read. Longer than a room
/// waits: bid-processing is not asked at every hammer for auctions that no client here watches.
const END_GRACE_MS: u64 = 1_000;
/// Pause after a question for the bids of a person, in multiples of the time that its answer took: a storm of sign-ins
/// keeps history and database busy for a twentieth of the time, however slow they are. With answers in 10 ms this is
/// five people a second.
const PAUSE_FACTOR: u32 = 19;
/// Time for auction-management to reply with the bids of a person.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The newest bids of a person that are read: one page.
const MAX_OWN_BIDS: usize = 100;

/// Starts to follow an auction, unless its room is open, it is followed already, or no one here has bid in it. Bids that
/// were learned of late are notified.
pub async fn start(context: &Arc<EdgeContext>, auction_id: AuctionId) {
    Notice::send_all(context.bidders.overtaken(auction_id)).await;
    let Some(stop) = context.bidders.begin_following(auction_id) else { return };
    let context = Arc::clone(context);
    tokio::spawn(async move { follow(&context, auction_id, &stop).await });
}

/// Learns the bids of people who have signed in, one after the other. Never ends.
pub async fn learn(context: Arc<EdgeContext>, mut signed_in: mpsc::Receiver<SignIn>) {
    while let Some(SignIn { user_id, token }) = signed_in.recv().await {
        if !context.bidders.is_connected(user_id) {
            continue;
        }
        let request = OwnBidsRequest { user_id, limit: Some(MAX_OWN_BIDS.to_string()), before: None };
        let asked = Instant::now();
        match own_bids(&context, &request, token.text()).await {
            Ok(bids) => {
                for auction_id in context.bidders.learn(user_id, &bids) {
                    start(&context, auction_id).await;
                }
                tokio::time::sleep(asked.elapsed() * PAUSE_FACTOR).await;
            }
            // They are learned as the person bids, or at the next sign-in.
            Err(error) => {
                tracing::debug!(error = %errors::chain(&error), "failed to learn the bids of a person");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum OwnBidsError {
    #[error("failed to ask for the bids of a person")]
    Request(#[from] bus::RequestError),
    #[error("the bids of a person were refused")]
    Refused(#[from] Failure),
}

async fn own_bids(
    context: &EdgeContext,
    request: &OwnBidsRequest,
    token: &str,
) -> Result<Vec<PlacedBid>, OwnBidsError> {
    let reply: Reply<PlacedBids> = bus::request_for(&context.bus, subject::BIDS_OWN, request, token, TIMEOUT).await?;
    Ok(reply.into_result()?.bids)
}

/// A followed auction, as far as it is known.
struct Follower<'a> {
    context: &'a EdgeContext,
    auction_id: AuctionId,
    /// The last record; none before the first reading.
    last: Option<Mark>,
    read_at: Option<Instant>,
    /// Before it the log is not read again.
    read_after: Instant,
}

/// Follows an auction until the stop, until it is over, or if the log does not have it. Notices are sent to their end.
async fn follow(context: &EdgeContext, auction_id: AuctionId, stop: &CancellationToken) {
    let mut records = loop {
        if stop.is_cancelled() || context.stop.is_cancelled() {
            return;
        }
        match context.log.events(subject::events(auction_id)).await {
            Ok(records) => break records,
            Err(error) => {
                tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to follow an auction");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    };
    let now = Instant::now();
    let mut follower = Follower { context, auction_id, last: None, read_at: Some(now), read_after: now };
    loop {
        let read_at = follower.read_at;
        tokio::select! {
            () = stop.cancelled() => return,
            () = context.stop.cancelled() => return,
            logged = records.next() => match logged {
                Some(logged) => follower.hear(&logged).await,
                // The connection to NATS is closed for good: the service is ending.
                None => return,
            },
            () = tokio::time::sleep_until(read_at.unwrap_or(now)), if read_at.is_some() => {
                if follower.read().await == Progress::Over {
                    return;
                }
            }
        }
    }
}

/// Whether an auction may have further records.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Running,
    Over,
}

impl Follower<'_> {
    /// Shows a record that was republished, if it continues the last one; otherwise the log is read.
    async fn hear(&mut self, logged: &Logged) {
        let record = &logged.record;
        let continues = record.auction_id == self.auction_id
            && record.state.outcome.is_none()
            && record.computed_head().is_some()
            && self.last.is_some_and(|last| record.continues(last));
        if continues {
            self.show(record).await;
        } else if self.last != Some(record.mark()) {
            let at = self.read_after.max(Instant::now());
            self.read_at = Some(self.read_at.map_or(at, |due| due.min(at)));
        }
    }

    /// Reads the last record of the log.
    async fn read(&mut self) -> Progress {
        let now = Instant::now();
        self.read_after = now + READ_EVERY;
        match self.context.log.last(self.auction_id).await {
            Ok(Some(Logged { record, .. })) if record.state.outcome.is_some() => {
                let naming = self.context.naming(self.auction_id, &record.state, None);
                Notice::send_all(self.context.bidders.end(&record, Instant::now(), naming, |_| false)).await;
                return Progress::Over;
            }
            Ok(Some(Logged { record, .. })) => self.show(&record).await,
            // It was archived.
            Ok(None) => {
                self.context.bidders.forget_auction(self.auction_id);
                return Progress::Over;
            }
            // bid-processing reports a record that cannot be read.
            Err(error) => {
                tracing::debug!(auction_id = %self.auction_id, error = %errors::chain(&error), "failed to read the log");
                self.read_at = Some(now + AGAIN_AFTER);
            }
        }
        Progress::Running
    }

    /// Notifies the people that a record has overtaken.
    async fn show(&mut self, record: &Record) {
        let now = Instant::now();
        Notice::send_all(self.context.bidders.observe(record, now)).await;
        self.last = Some(record.mark());
        // Only its host ends a paused auction.
        self.read_at = record.state.shown_end().map(|end| {
            let wait = (end + END_GRACE_MS).saturating_sub(self.context.clock.now().0).max(END_GRACE_MS);
            now + Duration::from_millis(wait)
        });
    }
}
