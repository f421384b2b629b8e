//! A restart of nats-server under an append that it has received and never acknowledges.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis::AsyncCommands;
use serde_json::json;
use testkit::{Signal, http};

use crate::test_system::TestSystem;

/// Time from the return of NATS to the answer of a bid whose append was lost. The acknowledgement's own time limit is
/// 2.5 s.
const ANSWERED_WITHIN: Duration = Duration::from_millis(1_500);

/// The append of a bid is in flight when nats-server dies. Its acknowledgement can never arrive; the bid is answered as
/// soon as the log can be read again, and its auction can be closed.
#[tokio::test(flavor = "multi_thread")]
async fn lost_acknowledgement_is_not_awaited_after_a_restart() -> Result<()> {
    let mut system = TestSystem::start("lost-acknowledgement").await?;
    let id = system.auction(&json!({"title": "Bell", "duration": 600, "starting_bid": 1})).await?;
    ensure!(system.bid("anna", &id, &json!(1)).await?.status == 200);
    system.stack.servers.nats[0].process.signal(Signal::Stop)?;
    let (url, token) = (format!("{}/bids", system.stack.url(flash::stack::Name::BidProcessing)), system.token("ben")?);
    let bid = json!({"auction_id": id, "amount": 2});
    let bidding = tokio::spawn(async move { http::post(&url, Some(&token), &bid).await });
    // Redis has decided: the append follows at once, to a server that does not read.
    let (mut redis, state, began) = (system.redis().await?, format!("auction:{{{id}}}:state"), Instant::now());
    while redis.hget::<_, _, String>(&state, "current_high_bid").await? != "2.00" {
        ensure!(began.elapsed() < Duration::from_secs(2), "the bid was not decided");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    system.stack.servers.restart_nats().await?;
    let back = Instant::now();
    let answer = bidding.await?.context("an answer")?;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(back.elapsed() < ANSWERED_WITHIN, "answered {:?} after NATS was back", back.elapsed());
    let url = system.management(&format!("/auctions/{id}/close"));
    let closed = http::post(&url, Some(&system.token("host")?), &json!({})).await?;
    assert_eq!(closed.status, 200, "{}", closed.text);
    assert_eq!(system.checked_bids(&id).await?.len(), 2);
    system.end().await;
    Ok(())
}
