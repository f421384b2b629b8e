//! Instances that are asked to stop: they serve while load balancers notice it, and give back what they hold.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use serde_json::json;
use testkit::{Signal, http};

use crate::resume::longest_pause;
use crate::test_system::TestSystem;

/// Seconds for which an instance serves after it was asked to stop.
const DELAY: u64 = 2;

/// For `DRAIN_DELAY` an instance is not ready and accepts bids as before; then it ends.
#[tokio::test(flavor = "multi_thread")]
async fn draining_instance_serves_until_its_delay_is_over() -> Result<()> {
    let mut system = TestSystem::with("draining", Vec::new(), true).await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    system.stack.add_instance_with(Name::BidProcessing, &[("DRAIN_DELAY", DELAY.to_string())]).await?;
    let instance = system.stack.instances.last().context("an instance")?;
    let url = instance.url.clone();
    instance.signal(Signal::Terminate)?;
    let asked = Instant::now();
    let ready = system.wait_at(&format!("{url}/ready"), |ready| ready["status"] == "draining").await?;
    assert_eq!(ready["dependencies"]["nats"], "up", "{ready}");
    let mut accepted = 0;
    while asked.elapsed() < Duration::from_secs(DELAY) - Duration::from_millis(200) {
        accepted += 1;
        let name = ["anna", "ben"][accepted % 2];
        let bid = json!({"auction_id": id, "amount": accepted});
        let answer = http::post(&format!("{url}/bids"), Some(&system.token(name)?), &bid).await?;
        ensure!(answer.status == 200, "{} after {:?}", answer.text, asked.elapsed());
        assert_eq!(http::get(&format!("{url}/health"), None).await?.status, 200);
    }
    assert!(accepted > 10, "{accepted} bids");
    while http::get(&format!("{url}/health"), None).await.is_ok() {
        ensure!(asked.elapsed() < Duration::from_secs(DELAY + 10), "the instance still serves");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(asked.elapsed() >= Duration::from_secs(DELAY), "it stopped after {:?}", asked.elapsed());
    system.stack.kill_instance(Name::BidProcessing, 1).await?;
    system.end().await;
    Ok(())
}

/// The elected timer gives its lease back, so that another sends the next ticks: the lease need not run out.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_timer_hands_its_lease_over() -> Result<()> {
    let mut system = TestSystem::with("handover", Vec::new(), true).await?;
    let id = system.auction(&json!({"title": "Clock", "duration": 600, "starting_bid": 1})).await?;
    let mut socket = system.socket("watcher").await?;
    socket.ask("join_auction", json!({"auction_id": id})).await?;
    socket.event("timer_update").await?;
    // The second one waits for the lease of the first.
    system.stack.add_instance(Name::Timer).await?;
    let first = system.stack.urls(Name::Timer)[0].to_owned();
    let metrics = http::get(&format!("{first}/metrics"), None).await?.text;
    ensure!(metrics.contains("flash_timer_elected 1\n"), "{metrics}");
    let until = tokio::time::Instant::now() + Duration::from_secs(4);
    let watching = tokio::spawn(async move { longest_pause(&mut socket, until).await });
    system.stack.restart_instance(Name::Timer, 0).await?;
    let pause = watching.await??;
    // Half a second until the other one asks for the lease, and a second between ticks.
    assert!(pause < Duration::from_millis(1_900), "no tick for {pause:?}");
    system.end().await;
    Ok(())
}
