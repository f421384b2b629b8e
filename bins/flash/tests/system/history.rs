//! The history while DynamoDB throttles and fails, which a stub in front of the emulator simulates.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use flash::stack::Name;
use serde_json::json;
use testkit::dynamodb_stub::{Answer, DynamoDbStub};
use testkit::http;

use crate::test_system::TestSystem;

/// DynamoDB throttles one auction, leaves items unprocessed, and fails after it has written: the history still becomes
/// complete, with each bid once, and other auctions are not delayed.
#[tokio::test]
async fn throttled_history_becomes_complete() -> Result<()> {
    let mut system = TestSystem::start("throttled-history").await?;
    let stub = DynamoDbStub::start(&system.stack.servers.aws_endpoint()).await?;
    system.stack.kill_instance(Name::BidPersistence, 0).await?;
    let lot = json!({"title": "Throttled", "duration": 600, "starting_bid": 1, "video": false});
    let (slow, other) = (system.auction(&lot).await?, system.auction(&lot).await?);
    let people = [system.token("anna")?, system.token("ben")?];
    let bids = system.stack.url(Name::BidProcessing).to_owned() + "/bids";
    let bid = async |auction_id: &str, amounts: std::ops::RangeInclusive<usize>| {
        for amount in amounts {
            let bid = json!({"auction_id": auction_id, "amount": amount});
            let placed = http::post(&bids, Some(&people[amount % 2]), &bid).await?;
            ensure!(placed.status == 200, "{}", placed.text);
        }
        anyhow::Ok(())
    };
    let done = stub.done();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);

    // The whole backlog is delivered at once, and each call writes one item of it.
    bid(&slow, 1..=40).await?;
    stub.answer(Answer::Part(1));
    let settings = [("AWS_ENDPOINT_URL", stub.endpoint.clone())];
    system.stack.add_instance_with(Name::BidPersistence, &settings).await?;
    system.history(&slow, 40).await?;
    ensure!(count(&done.parts) > 30, "{} batches were written in part", count(&done.parts));

    stub.answer(Answer::Throttle(Some(slow.clone())));
    bid(&slow, 41..=60).await?;
    bid(&other, 1..=20).await?;
    system.history(&other, 20).await?;
    ensure!(count(&done.throttled) > 0, "nothing was throttled");
    system.history(&slow, 40).await?;

    // Items are written again until the answer confirms it.
    stub.answer(Answer::FailAfterwards);
    system.history(&slow, 60).await?;
    ensure!(count(&done.failed) > 0, "no batch was answered as failed");
    stub.answer(Answer::Pass);
    bid(&slow, 61..=61).await?;
    let (history, bids) = (system.history(&slow, 61).await?, system.checked_bids(&slow).await?);
    for (item, bid) in history.iter().zip(&bids) {
        assert_eq!(item["bid_id"], bid.bid_id.to_string());
    }
    assert_eq!(count(&done.refused), 0, "DynamoDB would reject a batch");
    system.end().await;
    Ok(())
}

/// One throttled auction has more records than may be in flight: the records of another auction are still written at
/// once, and those of the throttled one as soon as DynamoDB accepts them.
#[tokio::test]
async fn throttled_auction_does_not_delay_others() -> Result<()> {
    const WAITING: usize = 2_200;
    let mut system = TestSystem::start("throttled-auction").await?;
    let stub = DynamoDbStub::start(&system.stack.servers.aws_endpoint()).await?;
    system.stack.kill_instance(Name::BidPersistence, 0).await?;
    let lot = json!({"title": "Throttled", "duration": 600, "starting_bid": 1, "video": false});
    let (slow, other) = (system.auction(&lot).await?, system.auction(&lot).await?);
    // Each user may place 200 bids a second.
    let people = (0..16).map(|nth| system.token(&format!("bidder-{nth}"))).collect::<Result<Vec<_>>>()?;
    let (url, caller) = (system.stack.url(Name::BidProcessing).to_owned() + "/bids", http::Caller::new());
    for amount in 1..=WAITING {
        let bid = json!({"auction_id": slow, "amount": amount});
        let placed = caller.post(&url, Some(&people[amount % 16]), &bid).await?;
        ensure!(placed.status == 200, "{}", placed.text);
    }
    stub.answer(Answer::Throttle(Some(slow.clone())));
    let settings = [("AWS_ENDPOINT_URL", stub.endpoint.clone())];
    system.stack.add_instance_with(Name::BidPersistence, &settings).await?;
    for round in 1..=3 {
        system.bid(["anna", "ben"][round % 2], &other, &json!(round)).await?;
        let begun = tokio::time::Instant::now();
        system.history(&other, round).await?;
        let took = begun.elapsed();
        ensure!(took < Duration::from_secs(5), "{took:?} beside a throttled auction");
        system.history(&slow, 0).await?;
        println!("{took:?}, {} batches throttled", stub.done().throttled.load(Ordering::Relaxed));
    }
    stub.answer(Answer::Pass);
    system.history(&slow, WAITING).await?;
    system.end().await;
    Ok(())
}
