//! Clients with a token while others open sessions without one, as fast as the machine lets them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use flash::stack::Name;
use serde_json::json;
use testkit::http::{self, Caller};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::test_system::TestSystem;

/// Requests of the flood in a second, as far as the machine makes them.
const PER_SECOND: usize = 10_000;
/// Interval between two bursts of the flood.
const BURST_EVERY: Duration = Duration::from_millis(10);
/// Requests of the flood in flight; a burst sends no more than fit.
const IN_FLIGHT: usize = 256;
/// Time that the flood runs before it is measured under, so that the places of strangers are taken.
const BEFORE: Duration = Duration::from_secs(1);
/// Clients that connect, join and bid, one after the other, in each measurement.
const ROUNDS: usize = 100;
/// Figures below it are noise of a machine that runs everything.
const NOISE: Duration = Duration::from_millis(10);

/// Sends requests without a token to `url` until it is aborted. Returns the number of answers so far.
fn flood(url: String) -> (tokio::task::JoinHandle<()>, Arc<AtomicUsize>) {
    let answered = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&answered);
    let flooding = tokio::spawn(async move {
        let (caller, places) = (Arc::new(Caller::new()), Arc::new(Semaphore::new(IN_FLIGHT)));
        let mut bursts = interval(BURST_EVERY);
        bursts.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            bursts.tick().await;
            for _ in 0..PER_SECOND / 100 {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { break };
                let (caller, url, counted) = (Arc::clone(&caller), url.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    if let Ok(request) = http::request("GET", &url, None).body(Default::default())
                        && caller.send(request).await.is_ok()
                    {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    drop(place);
                });
            }
        }
    });
    (flooding, answered)
}

/// The 99th percentile of the time in which a new client connects, joins and bids.
async fn p99(system: &TestSystem, auction_id: &str, amount: &mut u32) -> Result<Duration> {
    let mut took = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        *amount += 1;
        let since = Instant::now();
        let mut socket = system.socket(["anna", "ben"][*amount as usize % 2]).await?;
        let joined = socket.ask("join_auction", json!({"auction_id": auction_id})).await?;
        ensure!(joined["event"] == "joined_auction", "{joined}");
        let bid = socket.ask("place_bid", json!({"auction_id": auction_id, "amount": *amount})).await?;
        ensure!(bid["data"]["status"] == "accepted", "{bid}");
        took.push(since.elapsed());
    }
    took.sort_unstable();
    Ok(took[ROUNDS * 99 / 100 - 1])
}

/// A flood of handshakes delays authenticated clients at most three times as much as one of `GET /health`, which costs
/// the machine about as much and the edge nothing.
#[tokio::test(flavor = "multi_thread")]
async fn anonymous_handshakes_do_not_triple_the_p99() -> Result<()> {
    let system = TestSystem::start("anonymous-load").await?;
    let lot = json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "video": false});
    let id = system.auction(&lot).await?;
    let edge = system.stack.url(Name::Websocket);
    let mut amount = 0;
    let idle = p99(&system, &id, &mut amount).await?;
    let mut loaded = Vec::new();
    for path in ["/health", "/socket.io/?EIO=4&transport=polling"] {
        let (flooding, answered) = flood(format!("{edge}{path}"));
        tokio::time::sleep(BEFORE).await;
        let (since, before) = (Instant::now(), answered.load(Ordering::Relaxed));
        let p99 = p99(&system, &id, &mut amount).await?;
        let count = answered.load(Ordering::Relaxed) - before;
        flooding.abort();
        println!("{path}: {:.0} a second, p99 {p99:?}; idle {idle:?}", count as f64 / since.elapsed().as_secs_f64());
        ensure!(count > 0, "nothing of the flood was answered");
        loaded.push(p99);
    }
    let [health, handshakes] = loaded[..] else { anyhow::bail!("two measurements") };
    ensure!(handshakes <= 3 * health.max(NOISE), "p99 {handshakes:?}, under requests of /health {health:?}");
    system.end().await;
    Ok(())
}
