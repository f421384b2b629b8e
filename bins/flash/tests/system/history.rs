//! The history in DynamoDB where that does not do what it is asked: a stub before the emulator stands for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use flash::stack::Name;
use serde_json::json;
use testkit::dynamodb_stub::{Answer, DynamoDbStub};
use testkit::http;

use crate::world::World;

/// DynamoDB throttles one auction, leaves items unprocessed, and fails after it has written: the history is whole
/// all the same, each bid once, and no other auction waits.
#[tokio::test]
async fn a_throttled_history_is_whole_in_the_end() -> Result<()> {
    let mut world = World::start("throttled-history").await?;
    let stub = DynamoDbStub::start(&world.stack.servers.aws_endpoint()).await?;
    world.stack.kill_instance(Name::BidPersistence, 0).await?;
    let lot = json!({"title": "Throttled", "duration": 600, "starting_bid": 1, "video": false});
    let (slow, other) = (world.auction(&lot).await?, world.auction(&lot).await?);
    let people = [world.token("anna")?, world.token("ben")?];
    let bids = world.stack.url(Name::BidProcessing).to_owned() + "/bids";
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

    // All that has waited comes at once, and a call writes one item of it.
    bid(&slow, 1..=40).await?;
    stub.answer(Answer::Part(1));
    let settings = [("AWS_ENDPOINT_URL", stub.endpoint.clone())];
    world.stack.add_instance_with(Name::BidPersistence, &settings).await?;
    world.history(&slow, 40).await?;
    ensure!(count(&done.parts) > 30, "{} batches were written in part", count(&done.parts));

    stub.answer(Answer::Throttle(Some(slow.clone())));
    bid(&slow, 41..=60).await?;
    bid(&other, 1..=20).await?;
    world.history(&other, 20).await?;
    ensure!(count(&done.throttled) > 0, "nothing was throttled");
    world.history(&slow, 40).await?;

    // Written, and written again until the answer says so.
    stub.answer(Answer::FailAfterwards);
    world.history(&slow, 60).await?;
    ensure!(count(&done.failed) > 0, "no answer was lost");
    stub.answer(Answer::Pass);
    bid(&slow, 61..=61).await?;
    let (history, bids) = (world.history(&slow, 61).await?, world.checked_bids(&slow).await?);
    for (item, bid) in history.iter().zip(&bids) {
        assert_eq!(item["bid_id"], bid.bid_id.to_string());
    }
    assert_eq!(count(&done.refused), 0, "a batch that DynamoDB does not take");
    world.end().await;
    Ok(())
}

/// More messages of one throttled auction than are ever under way: another's are written at once all the same, and
/// the throttled one's when it may.
#[tokio::test]
async fn a_throttled_auction_holds_up_no_other() -> Result<()> {
    const WAITING: usize = 2_200;
    let mut world = World::start("throttled-auction").await?;
    let stub = DynamoDbStub::start(&world.stack.servers.aws_endpoint()).await?;
    world.stack.kill_instance(Name::BidPersistence, 0).await?;
    let lot = json!({"title": "Throttled", "duration": 600, "starting_bid": 1, "video": false});
    let (slow, other) = (world.auction(&lot).await?, world.auction(&lot).await?);
    // Each may bid 200 times a second.
    let people = (0..16).map(|nth| world.token(&format!("bidder-{nth}"))).collect::<Result<Vec<_>>>()?;
    let (url, caller) = (world.stack.url(Name::BidProcessing).to_owned() + "/bids", http::Caller::new());
    for amount in 1..=WAITING {
        let bid = json!({"auction_id": slow, "amount": amount});
        let placed = caller.post(&url, Some(&people[amount % 16]), &bid).await?;
        ensure!(placed.status == 200, "{}", placed.text);
    }
    stub.answer(Answer::Throttle(Some(slow.clone())));
    let settings = [("AWS_ENDPOINT_URL", stub.endpoint.clone())];
    world.stack.add_instance_with(Name::BidPersistence, &settings).await?;
    for round in 1..=3 {
        world.bid(["anna", "ben"][round % 2], &other, &json!(round)).await?;
        let begun = tokio::time::Instant::now();
        world.history(&other, round).await?;
        let took = begun.elapsed();
        ensure!(took < Duration::from_secs(5), "{took:?} beside a throttled auction");
        world.history(&slow, 0).await?;
        println!("{took:?}, {} batches throttled", stub.done().throttled.load(Ordering::Relaxed));
    }
    stub.answer(Answer::Pass);
    world.history(&slow, WAITING).await?;
    world.end().await;
    Ok(())
}
