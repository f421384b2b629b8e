//! Limits on the accepted bids of one person, over all doors and instances together.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use flash::stack::Name;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::test_system::TestSystem;

/// Two instances of bid-processing, with this setting.
async fn limited(test: &str, setting: &str, most: usize) -> Result<TestSystem> {
    TestSystem::start_with(test, |options| {
        options.instances = BTreeMap::from([(Name::BidProcessing, 2)]);
        options.settings = vec![(setting.to_owned(), most.to_string())];
    })
    .await
}

/// Auctions in which one person can each place one bid, because the leader cannot bid again.
async fn auctions(system: &TestSystem, count: usize) -> Result<Vec<String>> {
    let lot = json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "video": false});
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(system.auction(&lot).await?);
    }
    Ok(ids)
}

/// Bids in turn over HTTP at both instances and by socket count as those of one person.
#[tokio::test(flavor = "multi_thread")]
async fn accepted_bids_of_all_doors_count_together() -> Result<()> {
    const A_SECOND: usize = 10;
    // Those whose records are on their way to the other instance when the next bid comes.
    const IN_FLIGHT: usize = 5;
    let system = limited("bids-a-second", "MAX_BIDS_PER_USER_PER_SECOND", A_SECOND).await?;
    let ids = auctions(&system, 60).await?;
    let (anna, mut socket) = (system.token("anna")?, system.socket("anna").await?);
    let (since, mut accepted) = (Instant::now(), 0);
    for (nth, id) in ids.iter().enumerate() {
        let bid = json!({"auction_id": id, "amount": 1});
        let answer: Value = match nth % 3 {
            2 => socket.ask("place_bid", bid).await?["data"].take(),
            door => system.bid_at(door, &anna, &bid).await?.json,
        };
        if answer["status"] == "accepted" {
            accepted += 1;
        } else {
            assert_eq!(answer["code"], "rate_limited", "{answer}");
        }
    }
    // Each instance alone would allow as many.
    let refilled = usize::try_from(since.elapsed().as_millis())? * A_SECOND / 1000;
    let most = A_SECOND + IN_FLIGHT + refilled;
    assert!((A_SECOND..=most).contains(&accepted), "{accepted} accepted in {:?}", since.elapsed());
    assert_eq!(system.bid("ben", &ids[0], &json!(5)).await?.status, 200, "another person");
    system.end().await;
    Ok(())
}

/// When the day's bids are used up, every door says so; accepted bids may still be sent again, and others still bid.
#[tokio::test(flavor = "multi_thread")]
async fn bids_of_a_day_are_limited_at_every_door() -> Result<()> {
    const A_DAY: usize = 5;
    let system = limited("bids-a-day", "MAX_BIDS_PER_USER_PER_DAY", A_DAY).await?;
    let ids = auctions(&system, A_DAY + 4).await?;
    let (anna, mut socket) = (system.token("anna")?, system.socket("anna").await?);
    let first = json!({"auction_id": ids[0], "amount": 1, "bid_id": uuid::Uuid::new_v4().to_string()});
    let placed = system.bid_at(0, &anna, &first).await?;
    assert_eq!(placed.status, 200, "{}", placed.text);
    let mut accepted = 1;
    for (nth, id) in ids.iter().enumerate().skip(1) {
        let reply = system.bid_at(nth, &anna, &json!({"auction_id": id, "amount": 1})).await?;
        if reply.status == 200 {
            accepted += 1;
        } else {
            assert_eq!((reply.status, &reply.json["code"]), (403, &json!("limit_exceeded")), "{}", reply.text);
        }
    }
    // One more may be accepted while the last record is on its way to the other instance.
    assert!((A_DAY..=A_DAY + 1).contains(&accepted), "{accepted}");
    let refused = socket.ask("place_bid", json!({"auction_id": ids[A_DAY + 3], "amount": 1})).await?;
    assert_eq!(refused["data"]["code"], "limit_exceeded", "{refused}");
    for instance in 0..2 {
        let again = system.bid_at(instance, &anna, &first).await?;
        assert_eq!((again.status, &again.json), (200, &placed.json), "sent again");
    }
    assert_eq!(system.bid("ben", &ids[0], &json!(5)).await?.status, 200, "another person");
    let over: usize = system.metric(Name::BidProcessing, "flash_bids_over_limit_total").await?.iter().sum();
    ensure!(over == ids.len() - accepted + 1, "{over} bids over the limit");
    system.end().await;
    Ok(())
}
