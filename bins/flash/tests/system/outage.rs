//! Servers that a bid needs are stopped over the end of an auction.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::{Process, Signal, Topology, http};

use crate::test_system::TestSystem;

/// Seconds in which a bid is late, and that an auction gets after an outage.
const WINDOW: u64 = 2;
/// Time from before the end to the stop of a server.
const BEFORE_END_MS: u64 = 700;
/// Time from the end to the moment at which it goes on. A closing is late from 2 s on.
const AFTER_END_MS: u64 = 2_600;

async fn server_time(system: &TestSystem) -> Result<u64> {
    let reply = http::get(&format!("{}/time", system.stack.url(Name::Timer)), None).await?;
    reply.json["server_time"].as_u64().context("a time")
}

/// The end as a client is shown it.
async fn end(system: &TestSystem, id: &str) -> Result<u64> {
    let state = system.wait_for(&format!("/auctions/{id}/state"), |state| state["end_time"].is_u64()).await?;
    state["end_time"].as_u64().context("an end")
}

/// Waits until the auction is about to end.
async fn shortly_before(system: &TestSystem, end: u64) -> Result<()> {
    let now = server_time(system).await?;
    let left = (end - BEFORE_END_MS).checked_sub(now).context("the auction is about to end")?;
    tokio::time::sleep(Duration::from_millis(left)).await;
    Ok(())
}

/// Stops the server before the end of the auction, and lets it go on after it.
async fn stop_over_end(system: &TestSystem, server: &Process, end: u64) -> Result<()> {
    shortly_before(system, end).await?;
    server.signal(Signal::Stop)?;
    tokio::time::sleep(Duration::from_millis(BEFORE_END_MS + AFTER_END_MS)).await;
    server.signal(Signal::Continue)
}

/// An auction of 6 s.
fn auction(mode: &str) -> Value {
    let anti_snipe = json!({"mode": mode, "window": WINDOW, "extension": 30, "max_extensions": 1});
    json!({"title": "Clock", "duration": 6, "starting_bid": 1, "anti_snipe": anti_snipe, "video": false})
}

/// The price at which the auction was sold.
async fn winning_bid(system: &TestSystem, id: &str) -> Result<Option<f64>> {
    let over = system.wait_for(&format!("/auctions/{id}"), |auction| auction["outcome"].is_string()).await?;
    Ok(over["winning_bid"].as_f64())
}

#[tokio::test(flavor = "multi_thread")]
async fn auction_that_could_not_take_bids_before_its_end_goes_on() -> Result<()> {
    let system = TestSystem::start("outage").await?;
    let servers = &system.stack.servers;
    let (nats, redis) = (&servers.nats[0].process, &servers.redis[0].process);
    for (name, server) in [("NATS", nats), ("Redis", redis)] {
        let id = system.auction(&auction("extend")).await?;
        let fixed = system.auction(&auction("off")).await?;
        for id in [&id, &fixed] {
            assert_eq!(system.bid("anna", id, &json!(1)).await?.status, 200);
        }
        let mut watcher = system.socket("watcher").await?;
        watcher.ask("join_auction", json!({"auction_id": id})).await?;

        stop_over_end(&system, server, end(&system, &id).await?).await?;
        let resumed = watcher.event("auction_resumed").await?["data"].clone();
        assert_eq!((&resumed["reason"], &resumed["status"]), (&json!("outage"), &json!("live")), "{name}");
        assert_eq!(resumed["time_remaining_ms"], WINDOW * 1_000, "{name}");

        // Ben bids in the time that was given, and wins.
        let bid = system.bid("ben", &id, &json!(2)).await?;
        assert_eq!(bid.status, 200, "{name}: {}", bid.text);
        assert_eq!(winning_bid(&system, &fixed).await?, Some(1.0), "{name}");
        let host = system.token("host")?;
        let closed = http::post(&system.management(&format!("/auctions/{id}/close")), Some(&host), &json!({})).await?;
        assert_eq!(closed.status, 200, "{name}: {}", closed.text);
        assert_eq!(winning_bid(&system, &id).await?, Some(2.0), "{name}");

        let kinds = |records: Vec<Value>| -> Vec<String> {
            records.iter().filter_map(|record| record["type"].as_str().map(str::to_owned)).collect()
        };
        let expected = ["created", "opened", "bids", "resumed", "bids", "closed"];
        assert_eq!(kinds(system.log(&id).await?), expected, "{name}");
        assert_eq!(kinds(system.log(&fixed).await?), ["created", "opened", "bids", "closed"], "{name}");
        let record = system.log(&id).await?.swap_remove(3);
        ensure!(record["by"].is_null() && record["state"]["recoveries"] == 1, "{name}: {record}");
    }
    system.end().await;
    Ok(())
}

/// The log's leader dies shortly before the end. Until the others have elected one, services reach each other and Redis, and
/// the log takes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn election_of_a_log_leader_over_the_end_gives_time() -> Result<()> {
    let topology = Topology { nats_servers: 3, ..Topology::default() };
    let mut system = TestSystem::start_with("outage-election", |options| options.topology = topology).await?;
    let bus = system.bus().await?;
    let id = system.auction(&auction("extend")).await?;
    assert_eq!(system.bid("anna", &id, &json!(1)).await?.status, 200);
    let mut watcher = system.socket("watcher").await?;
    watcher.ask("join_auction", json!({"auction_id": id})).await?;
    let leader = system.log_leader(&bus).await?;
    shortly_before(&system, end(&system, &id).await?).await?;
    system.stack.servers.nats[leader].process.kill();
    let is_decided = |frame: &Value| ["auction_resumed", "auction_ended"].iter().any(|event| frame["event"] == *event);
    let decided = watcher.until(is_decided).await?;
    assert_eq!((&decided["event"], &decided["data"]["reason"]), (&json!("auction_resumed"), &json!("outage")));
    let bid = system.bid("ben", &id, &json!(2)).await?;
    assert_eq!(bid.status, 200, "{}", bid.text);
    system.stack.servers.restart_nats_server(leader).await?;
    system.end().await;
    Ok(())
}
