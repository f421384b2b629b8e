//! The rules that a host chooses, and what the host does to a running auction.

use std::time::Duration;

use anyhow::{Context, Result};
use identity::development::DevelopmentUser;
use serde_json::{Value, json};
use testkit::http::{self, Reply};

use crate::test_system::TestSystem;

/// An act of the host, by the last part of the path.
async fn act(system: &TestSystem, id: &str, action: &str, body: &Value) -> Result<Reply> {
    let url = system.management(&format!("/auctions/{id}/{action}"));
    http::post(&url, Some(&system.token("host")?), body).await
}

fn check(reply: &Reply, status: u16, code: &str) {
    assert_eq!((reply.status, reply.json["code"].as_str().unwrap_or_default()), (status, code), "{}", reply.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn bids_climb_the_ladder_and_the_last_one_buys() -> Result<()> {
    let system = TestSystem::start("ladder").await?;
    let lot = json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "increments": "flash", "allow_self_raise": true,
        "buy_now_price": 60, "anti_snipe": {"mode": "reset", "extension": 5}});
    let auction = system.create("host", &lot).await?;
    let id = auction["auction_id"].as_str().context("an id")?.to_owned();
    assert_eq!(auction["increments"].as_array().map(Vec::len), Some(7), "{auction}");
    assert_eq!(auction["increments"][1], json!({"from": 30.0, "step": 2.0}));
    assert_eq!((&auction["buy_now_price"], &auction["bid_increment"]), (&json!(60.0), &json!(1.0)));
    assert_eq!((&auction["allow_self_raise"], &auction["anti_snipe"]["mode"]), (&json!(true), &json!("reset")));
    let mut watcher = system.socket("watcher").await?;
    watcher.ask("join_auction", json!({"auction_id": id})).await?;

    for (name, amount, minimum) in
        [("anna", 1, 2), ("anna", 29, 30), ("ben", 30, 32), ("anna", 50, 53), ("ben", 58, 60)]
    {
        let bid = system.bid(name, &id, &json!(amount)).await?;
        assert_eq!((bid.status, &bid.json["minimum_bid"]), (200, &json!(f64::from(minimum))), "{}", bid.text);
    }
    check(&system.bid("anna", &id, &json!(59.99)).await?, 409, "bid_too_low");
    let bid_id = uuid::Uuid::new_v4().to_string();
    let bid = json!({"auction_id": id, "amount": 1_000, "bid_id": bid_id});
    let bought = system.bid_at(0, &system.token("anna")?, &bid).await?;
    assert_eq!((bought.status, &bought.json["amount"]), (200, &json!(60.0)), "{}", bought.text);
    check(&system.bid("ben", &id, &json!(2_000)).await?, 409, "auction_closed");
    let again = system.bid_at(0, &system.token("anna")?, &bid).await?;
    assert_eq!(again.json, bought.json, "the same bid id always has the same answer");

    let ended = watcher.event("auction_ended").await?;
    assert_eq!((&ended["data"]["outcome"], &ended["data"]["winning_bid"]), (&json!("sold"), &json!(60.0)));
    let row = system.closed_row(&id).await?;
    assert_eq!(row.winner.map(|winner| winner.username).as_deref(), Some("anna"));
    let log = system.log(&id).await?;
    let last = log.last().context("a record")?;
    assert_eq!((&last["type"], &last["state"]["reason"]), (&json!("closed"), &json!("buy_now")));
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_auction_stands_still_and_is_rebuilt_as_it_was() -> Result<()> {
    let system = TestSystem::start("pause").await?;
    let id = system.auction(&json!({"title": "Vase", "duration": 600, "starting_bid": 5})).await?;
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.status, 200);
    let mut watcher = system.socket("watcher").await?;
    watcher.ask("join_auction", json!({"auction_id": id})).await?;

    check(
        &http::post(&system.management(&format!("/auctions/{id}/pause")), Some(&system.token("ben")?), &json!({}))
            .await?,
        403,
        "not_host",
    );
    check(&act(&system, &id, "resume", &json!({})).await?, 200, "");
    let paused = act(&system, &id, "pause", &json!({})).await?;
    assert_eq!((&paused.json["status"], &paused.json["end_time"]), (&json!("paused"), &Value::Null), "{}", paused.text);
    let told = watcher.event("auction_paused").await?;
    let left = told["data"]["time_remaining_ms"].as_u64().context("the time left")?;
    check(&system.bid("ben", &id, &json!(6)).await?, 409, "auction_paused");
    let mut joiner = system.socket("joiner").await?;
    let joined = joiner.ask("join_auction", json!({"auction_id": id})).await?;
    assert_eq!((&joined["data"]["status"], &joined["data"]["end_time"]), (&json!("paused"), &Value::Null));
    let tick = joiner.until(|frame| frame["event"] == "timer_update" && frame["data"]["status"] == "paused").await?;
    assert_eq!(tick["data"]["time_remaining_ms"], json!(left), "it stays the same");

    // Blocked people and the time left come back from the log.
    let ben = DevelopmentUser::named("ben").user_id.to_string();
    check(&act(&system, &id, "block", &json!({"user_id": ben})).await?, 200, "");
    let mut redis = system.stack.servers.redis[0].client()?.get_multiplexed_async_connection().await?;
    redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await?;
    system.wait_for(&format!("/auctions/{id}/state"), |state| state["time_remaining_ms"] == json!(left)).await?;
    let resumed = act(&system, &id, "resume", &json!({})).await?;
    assert_eq!(resumed.json["status"], json!("live"), "{}", resumed.text);
    let told = watcher.event("auction_resumed").await?;
    assert_eq!(told["data"]["time_remaining_ms"], json!(left));
    check(&system.bid("ben", &id, &json!(6)).await?, 403, "bidder_blocked");
    check(&act(&system, &id, "unblock", &json!({"user_id": ben})).await?, 200, "");
    assert_eq!(system.bid("ben", &id, &json!(6)).await?.status, 200);

    let host = DevelopmentUser::named("host").user_id.to_string();
    let facts: Vec<(Value, Value)> =
        system.log(&id).await?.iter().map(|record| (record["type"].clone(), record["by"].clone())).collect();
    for kind in ["paused", "blocked", "resumed", "unblocked"] {
        assert_eq!(facts.iter().filter(|fact| **fact == (json!(kind), json!(host))).count(), 1, "{kind}: {facts:?}");
    }
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduled_auction_opens_by_itself_or_for_its_host() -> Result<()> {
    let system = TestSystem::start("schedule").await?;
    let time = http::get(&system.management("/time"), None).await?.json["server_time"].as_u64().context("a time")?;
    let lot = |after_ms: u64| {
        let at = std::time::UNIX_EPOCH + Duration::from_millis(time + after_ms);
        let starts_at = humantime::format_rfc3339_millis(at).to_string();
        (json!({"title": "Clock", "duration": 60, "starting_bid": 5, "starts_at": starts_at}), starts_at)
    };
    let (soon, starts_at) = lot(4_000);
    let auction = system.create("host", &soon).await?;
    assert_eq!((&auction["status"], &auction["starts_at"]), (&json!("scheduled"), &json!(starts_at)), "{auction}");
    let id = auction["auction_id"].as_str().context("an id")?.to_owned();
    check(&system.bid("anna", &id, &json!(5)).await?, 409, "auction_not_started");
    let mut watcher = system.socket("watcher").await?;
    watcher.ask("join_auction", json!({"auction_id": id})).await?;

    let later = system.auction(&lot(60_000).0).await?;
    check(&act(&system, &later, "pause", &json!({})).await?, 409, "wrong_state");
    let started = act(&system, &later, "start", &json!({})).await?;
    assert_eq!(started.json["status"], json!("live"), "{}", started.text);
    assert_eq!(system.bid("anna", &later, &json!(5)).await?.status, 200);

    let started = watcher.event("auction_started").await?;
    let opened = started["data"]["end_time"].as_u64().context("an end")? - 60_000;
    assert!((time + 4_000..time + 4_250).contains(&opened), "opened {} ms late", opened.abs_diff(time + 4_000));
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.status, 200);

    let token = system.token("host")?;
    for starts_at in ["2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "tomorrow"] {
        let body = json!({"title": "Clock", "duration": 60, "starting_bid": 5, "starts_at": starts_at});
        let reply = http::post(&system.management("/auctions"), Some(&token), &body).await?;
        check(&reply, 400, "invalid_request");
        assert!(reply.text.contains("starts_at"), "{}", reply.text);
    }
    system.end().await;
    Ok(())
}
