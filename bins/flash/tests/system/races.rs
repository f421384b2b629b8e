//! Many bidders at the same moment.

use anyhow::Result;
use domain::Amount;
use futures_util::future::try_join_all;
use serde_json::json;

use crate::world::World;

const BIDDERS: usize = 64;

fn tokens(world: &World) -> Result<Vec<String>> {
    (0..BIDDERS).map(|bidder| world.token(&format!("bidder-{bidder}"))).collect()
}

/// The increment holds between every bid and the next, and every accepted answer is in the log.
fn assert_increment(bids: &[protocol::Bid], cents: u64) {
    for pair in bids.windows(2) {
        let step = pair[1].amount.cents().saturating_sub(pair[0].amount.cents());
        assert!(step >= cents, "{} after {}", pair[1].amount, pair[0].amount);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_equal_bids_one_is_accepted() -> Result<()> {
    let world = World::start("equal").await?;
    let id = world.auction(&json!({"title": "Coin", "duration": 600, "starting_bid": 1})).await?;
    let tokens = tokens(&world)?;
    for round in 1..=10u64 {
        let amount = 10 * round;
        let bids = tokens.iter().map(|token| {
            let bid = json!({"auction_id": id, "amount": amount});
            let world = &world;
            async move { world.bid_at(0, token, &bid).await }
        });
        let answers = try_join_all(bids).await?;
        let accepted = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(accepted, 1, "round {round}");
        // The leader of the last round, if he tries, leads; everybody else was too low.
        assert!(answers.iter().filter(|answer| answer.status != 200).all(|answer| {
            answer.status == 409 && (answer.json["code"] == "bid_too_low" || answer.json["code"] == "already_leading")
        }));
    }
    assert_eq!(world.checked_bids(&id).await?.len(), 10);
    assert_eq!(world.history(&id, 10).await?.len(), 10);
    world.end().await;
    Ok(())
}

async fn one_cent_apart(world: &World) -> Result<()> {
    let id =
        world.auction(&json!({"title": "Ring", "duration": 600, "starting_bid": 100, "minimum_increment": 10})).await?;
    let tokens = tokens(world)?;
    for round in 0..5u64 {
        let bids = tokens.iter().enumerate().map(|(nth, token)| {
            let cents = Amount::from_cents(10_000 + round * 1_500 + nth as u64).map(|amount| amount.to_string());
            let id = &id;
            async move { world.bid_at(nth, token, &json!({"auction_id": id, "amount": cents?})).await }
        });
        let answers = try_join_all(bids).await?;
        let bids = world.checked_bids(&id).await?;
        assert_increment(&bids, 1_000);
        for answer in answers.iter().filter(|answer| answer.status == 200) {
            let logged = bids.iter().find(|bid| answer.json["bid_id"] == bid.bid_id.to_string());
            assert_eq!(logged.map(|bid| bid.seq), answer.json["seq"].as_u64(), "an accepted bid is in the log");
        }
    }
    let bids = world.checked_bids(&id).await?;
    assert!(!bids.is_empty());
    world.history(&id, bids.len()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cent_apart_no_increment_is_violated() -> Result<()> {
    let world = World::start("cents").await?;
    one_cent_apart(&world).await?;
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_share_one_auction() -> Result<()> {
    let world = World::with_instances("instances", 2).await?;
    one_cent_apart(&world).await?;

    // Every bid acceptable in turn: both instances commit, again and again.
    let id = world
        .auction(&json!({"title": "Watch", "duration": 600, "starting_bid": 1, "minimum_increment": "0.01"}))
        .await?;
    let tokens = tokens(&world)?;
    let bidders = tokens.iter().enumerate().map(|(nth, token)| {
        let (world, id) = (&world, &id);
        async move {
            let mut accepted = Vec::new();
            for step in 0..20u64 {
                let cents = 100 + step * 2 * BIDDERS as u64 + nth as u64;
                let amount = Amount::from_cents(cents)?.to_string();
                let answer = world.bid_at(nth, token, &json!({"auction_id": id, "amount": amount})).await?;
                assert!(matches!(answer.status, 200 | 409), "{}", answer.text);
                if answer.status == 200 {
                    accepted.push(answer.json);
                }
            }
            anyhow::Ok(accepted)
        }
    });
    let accepted: Vec<_> = try_join_all(bidders).await?.into_iter().flatten().collect();
    let bids = world.checked_bids(&id).await?;
    assert_increment(&bids, 1);
    assert_eq!(bids.len(), accepted.len(), "what was answered accepted is what the log has");
    for answer in &accepted {
        assert!(bids.iter().any(|bid| answer["bid_id"] == bid.bid_id.to_string() && answer["seq"] == bid.seq));
    }
    world.end().await;
    Ok(())
}
