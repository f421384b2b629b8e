//! Many bidders at the same time.

use anyhow::Result;
use domain::Amount;
use futures_util::future::try_join_all;
use serde_json::json;

use crate::test_system::TestSystem;

const BIDDERS: usize = 64;

fn tokens(system: &TestSystem) -> Result<Vec<String>> {
    (0..BIDDERS).map(|bidder| system.token(&format!("bidder-{bidder}"))).collect()
}

/// Each bid exceeds the one before by at least the increment.
fn assert_increment(bids: &[protocol::Bid], cents: u64) {
    for pair in bids.windows(2) {
        let step = pair[1].amount.cents().saturating_sub(pair[0].amount.cents());
        assert!(step >= cents, "{} after {}", pair[1].amount, pair[0].amount);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_64_equal_bids_is_accepted() -> Result<()> {
    let system = TestSystem::start("equal").await?;
    let id = system.auction(&json!({"title": "Coin", "duration": 600, "starting_bid": 1})).await?;
    let tokens = tokens(&system)?;
    for round in 1..=10u64 {
        let amount = 10 * round;
        let bids = tokens.iter().map(|token| {
            let bid = json!({"auction_id": id, "amount": amount});
            let system = &system;
            async move { system.bid_at(0, token, &bid).await }
        });
        let answers = try_join_all(bids).await?;
        let accepted = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(accepted, 1, "round {round}");
        // The leader of the last round may be answered `already_leading`; all others were too low.
        assert!(answers.iter().filter(|answer| answer.status != 200).all(|answer| {
            answer.status == 409 && (answer.json["code"] == "bid_too_low" || answer.json["code"] == "already_leading")
        }));
    }
    assert_eq!(system.checked_bids(&id).await?.len(), 10);
    assert_eq!(system.history(&id, 10).await?.len(), 10);
    system.end().await;
    Ok(())
}

/// Places bids one cent apart at the same time and checks the increment in the log.
async fn one_cent_apart(system: &TestSystem) -> Result<()> {
    let id = system
        .auction(&json!({"title": "Ring", "duration": 600, "starting_bid": 100, "minimum_increment": 10}))
        .await?;
    let tokens = tokens(system)?;
    for round in 0..5u64 {
        let bids = tokens.iter().enumerate().map(|(nth, token)| {
            let cents = Amount::from_cents(10_000 + round * 1_500 + nth as u64).map(|amount| amount.to_string());
            let id = &id;
            async move { system.bid_at(nth, token, &json!({"auction_id": id, "amount": cents?})).await }
        });
        let answers = try_join_all(bids).await?;
        let bids = system.checked_bids(&id).await?;
        assert_increment(&bids, 1_000);
        for answer in answers.iter().filter(|answer| answer.status == 200) {
            let logged = bids.iter().find(|bid| answer.json["bid_id"] == bid.bid_id.to_string());
            assert_eq!(logged.map(|bid| bid.seq), answer.json["seq"].as_u64(), "an accepted bid is in the log");
        }
    }
    let bids = system.checked_bids(&id).await?;
    assert!(!bids.is_empty());
    system.history(&id, bids.len()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_bids_never_violate_the_increment() -> Result<()> {
    let system = TestSystem::start("cents").await?;
    one_cent_apart(&system).await?;
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_share_one_auction() -> Result<()> {
    let system = TestSystem::with_instances("instances", 2).await?;
    one_cent_apart(&system).await?;

    // Every bid is acceptable in turn: both instances commit, again and again.
    let id = system
        .auction(&json!({"title": "Watch", "duration": 600, "starting_bid": 1, "minimum_increment": "0.01"}))
        .await?;
    let tokens = tokens(&system)?;
    let bidders = tokens.iter().enumerate().map(|(nth, token)| {
        let (system, id) = (&system, &id);
        async move {
            let mut accepted = Vec::new();
            for step in 0..20u64 {
                let cents = 100 + step * 2 * BIDDERS as u64 + nth as u64;
                let amount = Amount::from_cents(cents)?.to_string();
                let answer = system.bid_at(nth, token, &json!({"auction_id": id, "amount": amount})).await?;
                assert!(matches!(answer.status, 200 | 409), "{}", answer.text);
                if answer.status == 200 {
                    accepted.push(answer.json);
                }
            }
            anyhow::Ok(accepted)
        }
    });
    let accepted: Vec<_> = try_join_all(bidders).await?.into_iter().flatten().collect();
    let bids = system.checked_bids(&id).await?;
    assert_increment(&bids, 1);
    assert_eq!(bids.len(), accepted.len(), "the log has exactly the accepted bids");
    for answer in &accepted {
        assert!(bids.iter().any(|bid| answer["bid_id"] == bid.bid_id.to_string() && answer["seq"] == bid.seq));
    }
    system.end().await;
    Ok(())
}
