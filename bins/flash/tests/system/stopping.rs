//! Clean stopping under load, and what is said of dependencies that are not there.

use std::time::Duration;

use anyhow::{Context, Result};
use flash::stack::Name;
use serde_json::json;
use testkit::http;

use crate::faults::{Load, assert_books};
use crate::world::World;

/// Each service is stopped and started again as a deploy does, by SIGTERM, while people bid: it ends by
/// itself in time, nothing accepted is lost, everything is booked.
#[tokio::test(flavor = "multi_thread")]
async fn every_service_stops_cleanly_under_load() -> Result<()> {
    let mut world = World::with("stopping", Vec::new(), true).await?;
    world.stack.add_instance(Name::BidProcessing).await?;
    let id = world.auction(&json!({"title": "Car", "duration": 600, "starting_bid": 1})).await?;
    let load = Load::start(&world, &id, 8)?;
    for name in Name::ALL {
        let mut watcher = world.socket("watcher").await?;
        watcher.ask("join_auction", json!({"auction_id": id})).await?;
        watcher.event("bid_update").await?;
        let took = world.stack.restart_instance(name, 0).await?;
        eprintln!("{} stopped after {took:?}", name.text());
        assert!(took < Duration::from_secs(4), "{} took {took:?}", name.text());
        if name == Name::Websocket {
            assert!(watcher.event("server_draining").await?["data"]["retry_after_ms"].is_u64());
            assert_eq!(watcher.closed().await?, 1012);
        }
    }
    let answers = load.finish().await?;
    let unknown = answers.iter().filter(|(_, _, answer)| answer["code"] == "outcome_unknown").count();
    let accepted = assert_books(&world, &id, &answers).await?;
    assert!(accepted > 50, "only {accepted} bids were accepted: this proves nothing");
    assert_eq!(unknown, 0, "a clean stop answers what is in flight");
    world.history(&id, world.checked_bids(&id).await?.len()).await?;
    let closed =
        http::post(&world.management(&format!("/auctions/{id}/close")), Some(&world.token("host")?), &json!({}))
            .await?;
    assert_eq!(closed.status, 200, "{}", closed.text);
    world.closed_row(&id).await?;
    world.end().await;
    Ok(())
}

/// A queue, a table, a pool that are not there: readiness names them, and bids are accepted.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_what_is_missing_and_bids_go_on() -> Result<()> {
    let mut world = World::start("missing").await?;
    let id = world.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    assert_eq!(world.bid("anna", &id, &json!(1)).await?.status, 200);
    // The emulator is gone: no queue, no table, no mail; and the pool's keys cannot be fetched again.
    world.stack.servers.aws.kill();
    world.stack.keys.stop().await;
    for (name, status, down) in [
        (Name::AuctionManagement, 200, &["sqs", "dynamodb"][..]),
        (Name::BidPersistence, 503, &["dynamodb"][..]),
        (Name::AuctionNotifications, 503, &["sqs", "ses"][..]),
        (Name::BidProcessing, 200, &[][..]),
        (Name::Websocket, 200, &[][..]),
        (Name::Timer, 200, &[][..]),
    ] {
        let ready = http::get(&format!("{}/ready", world.stack.url(name)), None).await?;
        let dependencies = ready.json["dependencies"].as_object().context("dependencies")?;
        let mut found: Vec<&str> =
            dependencies.iter().filter(|(_, state)| *state == "down").map(|(name, _)| name.as_str()).collect();
        found.sort_unstable();
        let mut expected = down.to_vec();
        expected.sort_unstable();
        assert_eq!((ready.status, found), (status, expected), "{}: {}", name.text(), ready.text);
    }
    assert_eq!(world.bid("ben", &id, &json!(2)).await?.status, 200);

    // One that starts now has no keys: it says so, and verifies nobody.
    let instance = world.stack.add_unready_instance(Name::BidProcessing)?;
    let ready = world.wait_at(&format!("{instance}/ready"), |ready| ready["dependencies"].is_object()).await?;
    assert_eq!((&ready["status"], &ready["dependencies"]["cognito"]), (&json!("not_ready"), &json!("down")));
    let refused =
        http::post(&format!("{instance}/bids"), Some(&world.token("cleo")?), &json!({"auction_id": id, "amount": 3}))
            .await?;
    assert_eq!((refused.status, &refused.json["code"]), (503, &json!("unavailable")));
    world.end().await;
    Ok(())
}

/// The disk of the logs is full: lines are lost, and nothing else.
#[test]
fn a_log_that_cannot_be_written_ends_nobody() -> Result<()> {
    let full = || std::fs::File::options().write(true).open("/dev/full");
    let mut timer = std::process::Command::new(crate::world::program());
    timer.args(["service", "timer"]).env("LISTEN_ADDRESS", "127.0.0.1:0");
    // Nobody is there: it says so, or would, and ends. One that panics ends with 101.
    timer.env("NATS_URL", "nats://127.0.0.1:1").env("REDIS_URL", "redis://127.0.0.1:1");
    let status = timer.stdout(full()?).stderr(full()?).status()?;
    assert_eq!(status.code(), Some(1));
    Ok(())
}
