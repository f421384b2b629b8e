//! The number of people who watch each auction: the counts of all edges are added up here and written to Redis once a
//! second.

use std::collections::HashMap;
use std::time::Duration;

use bus::Bus;
use domain::AuctionId;
use futures_util::{StreamExt, stream};
use hotstate::Hotstate;
use protocol::{EdgeCount, Presence, subject};
use tokio::time::{Instant, MissedTickBehavior};

/// Interval between writes of the counts. CONTRACT.md, Presence: they change at most once a second.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Counts written at once. Redis takes them in a pipeline, between the scripts of bids.
const CONCURRENT_WRITES: usize = 64;
/// Longest time for the writes of one second. Counts that arrive in that time wait, and an edge counts as silent after
/// three seconds.
const WRITE_WITHIN: Duration = Duration::from_secs(1);
/// Auctions whose counts are kept. A bound on memory; counts of further auctions are not written.
const MAX_AUCTIONS: usize = 50_000;

/// One auction's count.
#[derive(Default)]
struct Watched {
    presence: Presence,
    /// The count that Redis has.
    written: Option<u64>,
    /// When it was written, in milliseconds since the start.
    written_at: u64,
}

/// Follows the counts of all edges; the returned future runs until it is dropped.
///
/// # Errors
/// When NATS rejects the subscription.
pub async fn follow(bus: &Bus, hotstate: Hotstate) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut counts = bus.client.subscribe(subject::ALL_PRESENCE).await?;
    Ok(async move {
        let (mut watched, started) = (HashMap::<AuctionId, Watched>::new(), Instant::now());
        let now = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut write = tokio::time::interval(WRITE_EVERY);
        write.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = counts.next() => {
                    let Some(message) = message else { return };
                    let count = serde_json::from_slice::<EdgeCount>(&message.payload);
                    let (Some(auction_id), Ok(count)) = (subject::auction_of(&message.subject), count) else {
                        tracing::warn!(subject = %message.subject, "failed to read a count");
                        continue;
                    };
                    if watched.len() < MAX_AUCTIONS || watched.contains_key(&auction_id) {
                        watched.entry(auction_id).or_default().presence.observe(count, now());
                    }
                }
                _ = write.tick() => write_changed(&mut watched, now(), &hotstate).await,
            }
        }
    })
}

async fn write_changed(watched: &mut HashMap<AuctionId, Watched>, now: u64, hotstate: &Hotstate) {
    let sums = watched.iter_mut().map(|(auction_id, watched)| (watched.presence.sum(now), *auction_id, watched));
    let mut changed: Vec<(u64, AuctionId, u64)> = sums
        .filter(|(people, _, watched)| watched.written != Some(*people))
        .map(|(people, auction_id, watched)| (watched.written_at, auction_id, people))
        .collect();
    // The longest unwritten first, so that every count has its turn when there are too many.
    changed.sort_unstable_by_key(|(written_at, ..)| *written_at);
    let write = |(_, auction_id, people)| async move {
        let written = hotstate.set_participants(auction_id, people).await;
        (auction_id, people, written)
    };
    let mut writes = stream::iter(changed).map(write).buffer_unordered(CONCURRENT_WRITES);
    let all = async {
        while let Some((auction_id, people, written)) = writes.next().await {
            if let Err(error) = written {
                return tracing::debug!(error = %errors::chain(&error), "failed to write a count");
            }
            if people == 0 {
                watched.remove(&auction_id);
            } else if let Some(watched) = watched.get_mut(&auction_id) {
                (watched.written, watched.written_at) = (Some(people), now);
            }
        }
    };
    // The remaining counts are written in the next second.
    if tokio::time::timeout(WRITE_WITHIN, all).await.is_err() {
        tracing::debug!("failed to write all counts in time");
    }
}
