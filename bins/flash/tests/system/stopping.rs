//! Clean stops under load, and readiness while dependencies are missing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;
use flash::stack::{Issuer, Name};
use identity::development::DevelopmentKey;
use serde_json::{Value, json};
use testkit::http;
use testkit::socket::Socket;

use crate::faults::{Load, assert_log_agrees};
use crate::test_system::TestSystem;

/// Time limit of an answer to a token with an unknown key: the second that it waits for a fetch, and some slack.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// Time until a key is fetched after the issuer has answered again: a fetch that hangs, a pause, and some slack.
const FETCHED_WITHIN: Duration = Duration::from_secs(15);

/// Each service is stopped by SIGTERM and started again under load, as in a deploy: it ends by itself in time, no
/// accepted bid is lost, and every store is complete.
#[tokio::test(flavor = "multi_thread")]
async fn every_service_stops_cleanly_under_load() -> Result<()> {
    let mut system = TestSystem::with("stopping", Vec::new(), true).await?;
    system.stack.add_instance(Name::BidProcessing).await?;
    let id = system.auction(&json!({"title": "Car", "duration": 600, "starting_bid": 1})).await?;
    let load = Load::start(&system, &id, 8)?;
    for name in Name::ALL {
        let mut watcher = system.socket("watcher").await?;
        watcher.ask("join_auction", json!({"auction_id": id})).await?;
        watcher.event("bid_update").await?;
        let took = system.stack.restart_instance(name, 0).await?;
        eprintln!("{} stopped after {took:?}", name.text());
        assert!(took < Duration::from_secs(4), "{} took {took:?} to stop", name.text());
        if name == Name::Websocket {
            assert!(watcher.event("server_draining").await?["data"]["retry_after_ms"].is_u64());
            assert_eq!(watcher.closed().await?, 1012);
        }
    }
    let answers = load.finish().await?;
    let unknown = answers.iter().filter(|(_, _, answer)| answer["code"] == "outcome_unknown").count();
    let accepted = assert_log_agrees(&system, &id, &answers).await?;
    assert!(accepted > 50, "only {accepted} bids were accepted, too few for a proof");
    assert_eq!(unknown, 0, "a clean stop answers requests in flight");
    system.history(&id, system.checked_bids(&id).await?.len()).await?;
    let closed =
        http::post(&system.management(&format!("/auctions/{id}/close")), Some(&system.token("host")?), &json!({}))
            .await?;
    assert_eq!(closed.status, 200, "{}", closed.text);
    system.closed_row(&id).await?;
    system.end().await;
    Ok(())
}

/// While the queue, the table and the user pool are missing, readiness names them and bids are accepted.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_missing_dependencies_while_bids_continue() -> Result<()> {
    let mut system = TestSystem::start("missing").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    assert_eq!(system.bid("anna", &id, &json!(1)).await?.status, 200);
    // The emulator is gone: no queue, no table, no mail, and the keys of the user pool cannot be fetched.
    system.stack.servers.aws.kill();
    system.stack.keys.stop().await;
    for (name, status, down) in [
        (Name::AuctionManagement, 200, &["sqs", "dynamodb"][..]),
        (Name::BidPersistence, 503, &["dynamodb"][..]),
        (Name::AuctionNotifications, 503, &["sqs", "ses"][..]),
        (Name::BidProcessing, 200, &[][..]),
        (Name::Websocket, 200, &[][..]),
        (Name::Timer, 200, &[][..]),
    ] {
        let is_down = |ready: &Value| {
            let dependencies = ready["dependencies"].as_object().into_iter().flatten();
            let found: BTreeSet<&str> =
                dependencies.filter(|(_, state)| *state == "down").map(|(name, _)| name.as_str()).collect();
            found == down.iter().copied().collect()
        };
        // The result of a check is kept for a second.
        let ready = format!("{}/ready", system.stack.url(name));
        system.wait_at(&ready, is_down).await?;
        assert_eq!(http::get(&ready, None).await?.status, status, "{}", name.text());
    }
    assert_eq!(system.bid("ben", &id, &json!(2)).await?.status, 200);

    // A new instance has no keys: it is not ready and verifies no token.
    let instance = system.stack.add_unready_instance(Name::BidProcessing)?;
    let ready = system.wait_at(&format!("{instance}/ready"), |ready| ready["dependencies"].is_object()).await?;
    assert_eq!((&ready["status"], &ready["dependencies"]["cognito"]), (&json!("not_ready"), &json!("down")));
    let refused =
        http::post(&format!("{instance}/bids"), Some(&system.token("cleo")?), &json!({"auction_id": id, "amount": 3}))
            .await?;
    assert_eq!((refused.status, &refused.json["code"]), (503, &json!("unavailable")));
    system.end().await;
    Ok(())
}

/// The issuer accepts connections and never answers: services stay ready and known tokens work, over several checks
/// and attempts to fetch. A token with a new key gets `unavailable`, and works when the issuer answers.
#[tokio::test(flavor = "multi_thread")]
async fn hanging_issuer_changes_nothing_for_known_keys() -> Result<()> {
    let mut system = TestSystem::start("hanging_issuer").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    system.stack.keys.hang().await?;
    let new = Issuer { key: DevelopmentKey::generate("new")?, ..system.stack.issuer.clone() };
    let bid = |amount: u64| json!({"auction_id": id, "amount": amount});

    let mut amount = 0;
    // In the first round each door waits for its fetch, which hangs for longer than a check may take.
    for _ in 0..4 {
        let asked = Instant::now();
        let early = system.bid_at(0, &new.token("cleo")?, &bid(1)).await?;
        assert_eq!((early.status, &early.json["code"]), (503, &json!("unavailable")), "{}", early.text);
        assert!(early.headers.contains_key("retry-after") && asked.elapsed() < ANSWERED_WITHIN);
        let profile = http::get(&system.management("/users/me"), Some(&new.token("cleo")?)).await?;
        assert_eq!((profile.status, &profile.json["code"]), (503, &json!("unavailable")), "{}", profile.text);
        let edge = system.stack.url(Name::Websocket).replacen("http", "ws", 1);
        let mut socket = Socket::connect(&format!("{edge}/ws?token={}", new.token("cleo")?)).await?;
        assert_eq!(socket.event("error").await?["data"]["code"], json!("unavailable"));
        assert_eq!(socket.closed().await?, protocol::frames::close::TRY_AGAIN);

        for name in [Name::AuctionManagement, Name::BidProcessing, Name::Websocket] {
            let ready = http::get(&format!("{}/ready", system.stack.url(name)), None).await?;
            assert_eq!((ready.status, &ready.json["dependencies"]["cognito"]), (200, &json!("up")), "{}", ready.text);
        }
        for name in ["anna", "ben"] {
            amount += 1;
            let placed = system.bid(name, &id, &json!(amount)).await?;
            assert_eq!(placed.status, 200, "{name}: {}", placed.text);
        }
    }

    for name in [Name::AuctionManagement, Name::BidProcessing, Name::Websocket] {
        let failures = system.metric::<u64>(name, "flash_issuer_key_fetch_failures_total").await?[0];
        assert!(failures > 0, "{} counts no failed fetch", name.text());
    }

    system.stack.keys.resume(Some(&new.key)).await?;
    amount += 1;
    let token = new.token("cleo")?;
    let deadline = Instant::now() + FETCHED_WITHIN;
    loop {
        let placed = system.bid_at(0, &token, &bid(amount)).await?;
        if placed.status == 200 {
            break;
        }
        assert_eq!((placed.status, &placed.json["code"]), (503, &json!("unavailable")), "{}", placed.text);
        assert!(Instant::now() < deadline, "the new key is still unknown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    system.end().await;
    Ok(())
}

/// While the disk of the logs is full, lines are lost, without further effects.
#[test]
fn unwritable_log_output_causes_no_panic() -> Result<()> {
    let full = || std::fs::File::options().write(true).open("/dev/full");
    let mut timer = std::process::Command::new(crate::test_system::program());
    timer.args(["service", "timer"]).env("LISTEN_ADDRESS", "127.0.0.1:0");
    // No server listens: the service reports it and exits with 1. A panic would exit with 101.
    timer.env("NATS_URL", "nats://127.0.0.1:1").env("REDIS_URL", "redis://127.0.0.1:1");
    let status = timer.stdout(full()?).stderr(full()?).status()?;
    assert_eq!(status.code(), Some(1));
    Ok(())
}
