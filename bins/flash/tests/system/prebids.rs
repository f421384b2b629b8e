//! Pre-bids: kept in secret, bid at the opening, and kept when Redis is lost.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::http::{self, Reply};

use crate::secrets::unlimited;
use crate::test_system::TestSystem;

/// A maximum and an amount alone, with digits that appear by chance nowhere else, and the price that they lead to.
const HIGHEST: &str = "71734259.61";
const ALONE: &str = "51293847.13";
const PRICE_CENTS: u64 = 5_129_385_713;
const DIGITS: [&str; 4] = [HIGHEST, ALONE, "7173425961", "5129384713"];

async fn place(system: &TestSystem, name: &str, bid: &Value) -> Result<Reply> {
    system.bid_at(0, &system.token(name)?, bid).await
}

/// A lot that keeps pre-bids and starts this many milliseconds from now.
async fn lot(system: &TestSystem, after_ms: u64) -> Result<Value> {
    let time = http::get(&system.management("/time"), None).await?.json["server_time"].as_u64().context("a time")?;
    let at = std::time::UNIX_EPOCH + Duration::from_millis(time + after_ms);
    let starts_at = humantime::format_rfc3339_millis(at).to_string();
    Ok(json!({"title": "Clock", "duration": 600, "starting_bid": 50, "minimum_increment": 10, "starts_at": starts_at,
        "allow_prebids": true}))
}

#[tokio::test(flavor = "multi_thread")]
async fn prebids_are_resolved_when_the_auction_opens_by_itself() -> Result<()> {
    let system = TestSystem::with("prebids", unlimited(), false).await?;
    let auction = system.create("host", &lot(&system, 5_000).await?).await?;
    assert_eq!((&auction["status"], &auction["allow_prebids"]), (&json!("scheduled"), &json!(true)), "{auction}");
    let id = auction["auction_id"].as_str().context("an id")?.to_owned();
    let mut watcher = system.socket("watcher").await?;
    let mut shown = vec![watcher.ask("join_auction", json!({"auction_id": id})).await?.to_string()];

    let highest: Value = serde_json::from_str(HIGHEST)?;
    let mut anna = system.socket("anna").await?;
    let kept = anna.ask("place_bid", json!({"auction_id": id, "max_amount": highest})).await?;
    let answer = &kept["data"];
    assert_eq!((&answer["status"], &answer["your_max_amount"]), (&json!("accepted"), &highest), "{kept}");
    assert_eq!((&answer["is_highest"], &answer["current_high_bid"]), (&json!(false), &Value::Null), "{kept}");
    let joined = anna.ask("join_auction", json!({"auction_id": id})).await?;
    assert_eq!(joined["data"]["your_max_amount"], highest, "the owner is shown it");
    // An amount alone is kept as well, and no more shown to others.
    let mut ben = system.socket("ben").await?;
    let alone: Value = serde_json::from_str(ALONE)?;
    let kept = ben.ask("place_bid", json!({"auction_id": id, "amount": alone})).await?;
    assert_eq!((&kept["data"]["amount"], &kept["data"]["your_max_amount"]), (&json!(50.0), &alone), "{kept}");
    let low = place(&system, "cara", &json!({"auction_id": id, "amount": 49.99})).await?;
    assert_eq!((low.status, &low.json["code"]), (409, &json!("bid_too_low")), "{}", low.text);
    let state = http::get(&system.management(&format!("/auctions/{id}/state")), Some(&system.token("ben")?)).await?;
    assert_eq!((&state.json["bid_count"], &state.json["current_high_bid"]), (&json!(0), &Value::Null));
    shown.push(state.text);

    let price: Value = serde_json::from_str("51293857.13")?;
    let started = watcher.event("auction_started").await?;
    shown.push(started.to_string());
    let outbid = ben.event("outbid").await?;
    assert_eq!((&outbid["data"]["high_bid"], &outbid["data"]["your_bid"]), (&price, &json!(50.0)), "{outbid}");
    let state = http::get(&system.management(&format!("/auctions/{id}/state")), None).await?;
    assert_eq!((&state.json["status"], &state.json["current_high_bid"]), (&json!("live"), &price));
    assert_eq!((&state.json["high_bidder_username"], &state.json["bid_count"]), (&json!("anna"), &json!(2)));
    shown.push(state.text);
    // The maximum goes on in the auction.
    let rival = place(&system, "ben", &json!({"auction_id": id, "amount": 60_000_000})).await?;
    assert_eq!((&rival.json["is_highest"], &rival.json["current_high_bid"]), (&json!(false), &json!(60_000_010.0)));

    let log = system.log(&id).await?;
    let types: Vec<&Value> = log.iter().map(|record| &record["type"]).collect();
    assert_eq!(types, ["created", "maximum", "maximum", "bids", "opened", "bids"]);
    let bids: Vec<(&Value, &Value)> =
        log[3]["bids"].as_array().into_iter().flatten().map(|bid| (&bid["kind"], &bid["amount_cents"])).collect();
    assert_eq!(bids, [(&json!("prebid"), &json!(5_000)), (&json!("prebid"), &json!(PRICE_CENTS))]);
    shown.extend(log.iter().map(ToString::to_string));
    for text in &shown {
        assert!(!DIGITS.iter().any(|digits| text.contains(digits)), "{text}");
    }
    let history = format!("/auctions/{id}/bids");
    system.wait_for(&history, |page| page["bids"].as_array().is_some_and(|bids| bids.len() == 4)).await?;
    let own = http::get(&system.management("/bids"), Some(&system.token("anna")?)).await?;
    assert_eq!(
        (&own.json["bids"][0]["status"], &own.json["bids"][0]["your_max_amount"]),
        (&json!("winning"), &highest)
    );
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn prebids_and_their_answers_come_back_from_the_log() -> Result<()> {
    let system = TestSystem::start("prebids-rebuilt").await?;
    let id = system.auction(&lot(&system, 600_000).await?).await?;
    let bid = |fields: Value| {
        let mut bid = json!({"auction_id": id, "bid_id": uuid::Uuid::new_v4().to_string()});
        fields.as_object().into_iter().flatten().for_each(|(field, value)| bid[field] = value.clone());
        bid
    };
    let calls = [
        ("anna", bid(json!({"max_amount": 300}))),
        ("ben", bid(json!({"amount": 200}))),
        ("anna", bid(json!({"amount": 60, "max_amount": 250}))),
    ];
    let mut answers = Vec::new();
    for (name, call) in &calls {
        let answer = place(&system, name, call).await?;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answers.push(answer.json);
    }
    let mut redis = system.stack.servers.redis[0].client()?.get_multiplexed_async_connection().await?;
    redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await?;
    for ((name, call), answer) in calls.iter().zip(&answers) {
        assert_eq!(&place(&system, name, call).await?.json, answer, "the same answer as before the loss");
    }
    let started =
        http::post(&system.management(&format!("/auctions/{id}/start")), Some(&system.token("host")?), &json!({}))
            .await?;
    assert_eq!((&started.json["status"], &started.json["current_high_bid"]), (&json!("live"), &json!(210.0)));
    assert_eq!(started.json["high_bidder_username"], json!("anna"), "{}", started.text);
    redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await?;
    let rival = place(&system, "cara", &json!({"auction_id": id, "amount": 245})).await?;
    assert_eq!(rival.json["current_high_bid"], json!(250.0), "Anna's second pre-bid is the maximum: {}", rival.text);

    let token = system.token("host")?;
    let at_once = json!({"title": "Clock", "duration": 60, "starting_bid": 5, "allow_prebids": true});
    let refused = http::post(&system.management("/auctions"), Some(&token), &at_once).await?;
    assert_eq!((refused.status, &refused.json["code"]), (400, &json!("invalid_request")), "{}", refused.text);
    assert!(refused.text.contains("allow_prebids"), "{}", refused.text);
    system.end().await;
    Ok(())
}
