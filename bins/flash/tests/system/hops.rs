//! Faults between a service and what it talks to: late, lost, half done.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flash::stack::Name;
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use testkit::socket::{Socket, Transport};
use testkit::{Proxy, Way};
use tokio::sync::Notify;

use crate::faults::{Load, assert_books};
use crate::world::World;

/// One bid-processing alone, with a proxy between it and NATS, and an auction with one bid.
async fn behind_a_proxy(test: &str) -> Result<(World, Proxy, String)> {
    let mut world = World::start(test).await?;
    let servers = &world.stack.servers;
    let proxy = Proxy::start(servers.nats[0].port).await?;
    let url = servers.nats_url().replace(&servers.nats[0].port.to_string(), &proxy.port.to_string());
    world.stack.add_instance_with(Name::BidProcessing, &[("NATS_URL", url)]).await?;
    world.stack.kill_instance(Name::BidProcessing, 0).await?;
    let id = world.auction(&json!({"title": "Cello", "duration": 600, "starting_bid": 1})).await?;
    assert_eq!(world.bid("anna", &id, &json!(2)).await?.status, 200);
    Ok((world, proxy, id))
}

/// One watcher at each door, who has seen the first bid.
async fn watchers(world: &World, id: &str) -> Result<[Socket; 2]> {
    let edge = world.stack.url(Name::Websocket);
    let mut watchers = [
        Socket::enter(edge, Transport::Plain, &world.token("plain")?).await?,
        Socket::enter(edge, Transport::SocketIo, &world.token("socketio")?).await?,
    ];
    for watcher in &mut watchers {
        let joined = watcher.ask("join_auction", json!({"auction_id": id})).await?;
        assert_eq!(joined["data"]["current_high_bid"].as_f64(), Some(2.0));
    }
    Ok(watchers)
}

fn shows(frame: &Value, seq: u64) -> bool {
    frame["data"]["seq"].as_u64().is_some_and(|shown| shown >= seq)
}

/// Nobody sees a bid over any door before it is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_bid_on_its_way_to_the_log_is_shown_to_nobody() -> Result<()> {
    let (world, proxy, id) = behind_a_proxy("held-publish").await?;
    let mut watchers = watchers(&world, &id).await?;
    let held = Duration::from_secs(2);
    proxy.to_server(Way::Delay(held));
    let started = Instant::now();
    let amount = json!(7);
    let bid = world.bid("ben", &id, &amount);
    let watch = async {
        let mut first_seen = Vec::new();
        for watcher in &mut watchers {
            watcher.until(|frame| frame["event"] == "bid_update" && shows(frame, 4)).await?;
            first_seen.push(started.elapsed());
        }
        anyhow::Ok(first_seen)
    };
    let look = async {
        // What asks the held instance waits as well; whatever answers must not know the bid.
        let mut looks = 0;
        while started.elapsed() < held - Duration::from_millis(200) {
            let history = testkit::http::get(&world.management(&format!("/auctions/{id}/bids")), None).await?;
            assert!(!history.text.contains("\"ben\""), "{}", history.text);
            assert_eq!(world.checked_bids(&id).await?.len(), 1, "not in the log yet");
            looks += 1;
        }
        anyhow::Ok(looks)
    };
    let (answer, seen, looks) = tokio::try_join!(bid, watch, look)?;
    assert!(looks > 3);
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(started.elapsed() >= held, "answered before it was stored");
    assert!(seen.iter().all(|seen| *seen >= held), "shown after {seen:?}, stored after {held:?}");
    proxy.to_server(Way::Pass);
    world.end().await;
    Ok(())
}

/// With only the acknowledgements late, watchers may see the bid; the bidder is answered after the ack.
/// Without any, the answer is `outcome_unknown` in time, and asking again tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_bid_is_answered_after_its_acknowledgement() -> Result<()> {
    let (world, proxy, id) = behind_a_proxy("held-ack").await?;
    let [mut watcher, _] = watchers(&world, &id).await?;
    let held = Duration::from_millis(1_500);
    proxy.to_client(Way::Delay(held));
    let started = Instant::now();
    let amount = json!(7);
    let bid = world.bid("ben", &id, &amount);
    let watch = async {
        watcher.until(|frame| frame["event"] == "bid_update" && shows(frame, 4)).await?;
        anyhow::Ok(started.elapsed())
    };
    let (answer, seen) = tokio::try_join!(bid, watch)?;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(started.elapsed() >= held, "answered before the acknowledgement");
    assert!(seen < held, "the watcher waits for nobody's acknowledgement: {seen:?}");

    proxy.to_client(Way::BlackHole);
    let bid = json!({"auction_id": id, "amount": 9, "bid_id": uuid::Uuid::new_v4().to_string()});
    let (anna, started) = (world.token("anna")?, Instant::now());
    let unknown = world.bid_at(0, &anna, &bid).await?;
    assert_eq!((unknown.status, &unknown.json["code"]), (503, &json!("outcome_unknown")), "{}", unknown.text);
    assert!(started.elapsed() < Duration::from_millis(3_200), "{:?}", started.elapsed());
    proxy.to_client(Way::Pass);
    let answer = again(&world, 0, &anna, &bid).await?;
    assert_eq!((answer["seq"].as_u64(), world.checked_bids(&id).await?.len()), (Some(5), 3), "{answer}");
    world.end().await;
    Ok(())
}

/// Asks with the same id until there is an answer.
async fn again(world: &World, nth: usize, token: &str, bid: &Value) -> Result<Value> {
    for _ in 0..200 {
        if let Ok(answer) = world.bid_at(nth, token, bid).await
            && answer.status != 503
        {
            return Ok(answer.json);
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    anyhow::bail!("no answer to {bid}")
}

/// A script call reaches Redis and its reply is cut, again and again, under load.
#[tokio::test(flavor = "multi_thread")]
async fn replies_of_redis_are_lost() -> Result<()> {
    let mut world = World::start("cut-redis").await?;
    let servers = &world.stack.servers;
    let proxy = Proxy::start(servers.redis[0].port).await?;
    let url = servers.redis_url().replace(&servers.redis[0].port.to_string(), &proxy.port.to_string());
    world.stack.add_instance_with(Name::BidProcessing, &[("REDIS_URL", url)]).await?;
    world.stack.kill_instance(Name::BidProcessing, 0).await?;
    let id = world.auction(&json!({"title": "Viola", "duration": 600, "starting_bid": 1})).await?;
    let load = Load::start(&world, &id, 8)?;
    for bytes in [0, 1, 7, 0, 64, 0, 300, 0] {
        load.accepted(20).await?;
        proxy.to_client(Way::CutAfter(bytes));
        load.accepted(20).await?;
        assert!(proxy.is_passing(), "nothing was cut: this proves nothing");
    }
    let answers = load.finish().await?;
    assert_books(&world, &id, &answers).await?;
    world.history(&id, world.checked_bids(&id).await?.len()).await?;
    world.end().await;
    Ok(())
}

/// The same bid id fifty times over both doors while an instance is killed: one bid, one answer.
#[tokio::test(flavor = "multi_thread")]
async fn one_bid_id_is_one_bid_across_a_kill() -> Result<()> {
    let mut world = World::with("same-id", Vec::new(), true).await?;
    world.stack.add_instance(Name::BidProcessing).await?;
    let id = world.auction(&json!({"title": "Harp", "duration": 600, "starting_bid": 1})).await?;
    let token = world.token("anna")?;
    let bid = json!({"auction_id": id, "amount": 12, "bid_id": uuid::Uuid::new_v4().to_string()});
    let edge = world.stack.url(Name::Websocket).to_owned();
    let urls: Vec<String> = world.stack.urls(Name::BidProcessing).iter().map(|url| format!("{url}/bids")).collect();
    let answered = Arc::new(Notify::new());
    let callers = (0..50).map(|caller| {
        let (bid, token, edge, urls) = (bid.clone(), token.clone(), edge.clone(), urls.clone());
        let answered = Arc::clone(&answered);
        tokio::spawn(async move {
            let mut socket = match caller % 4 {
                0 => Some(Socket::enter(&edge, Transport::Plain, &token).await?),
                1 => Some(Socket::enter(&edge, Transport::SocketIo, &token).await?),
                _ => None,
            };
            let started = Instant::now();
            // Whoever has an answer asks on until the kill has passed: it must stay the same.
            let mut answers = Vec::new();
            while answers.is_empty() || started.elapsed() < Duration::from_secs(2) {
                let answer = match &mut socket {
                    Some(socket) => socket.ask("place_bid", bid.clone()).await?["data"].clone(),
                    None => match testkit::http::post(&urls[caller % urls.len()], Some(&token), &bid).await {
                        Ok(answer) => answer.json,
                        // Killed: the other one from now on.
                        Err(_) => testkit::http::post(&urls[0], Some(&token), &bid).await?.json,
                    },
                };
                if answer["status"] == "accepted" {
                    answers.push(answer);
                    answered.notify_one();
                    continue;
                }
                let code = answer["code"].as_str().unwrap_or_default();
                let passing = ["outcome_unknown", "unavailable", "rate_limited", "overloaded"];
                anyhow::ensure!(passing.contains(&code), "{answer}");
                anyhow::ensure!(started.elapsed() < Duration::from_secs(20), "no answer");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(answers)
        })
    });
    let callers: Vec<_> = callers.collect();
    // Some have their answer, the others are on their way: amid the callers' two seconds.
    tokio::time::timeout(Duration::from_secs(10), answered.notified()).await.context("nobody was answered")?;
    world.stack.kill_instance(Name::BidProcessing, 1).await?;
    let mut different = HashSet::new();
    for answers in try_join_all(callers).await? {
        different.extend(answers?.into_iter().map(|answer| answer.to_string()));
    }
    assert_eq!(different.len(), 1, "{different:?}");
    let bids = world.checked_bids(&id).await?;
    assert_eq!(bids.len(), 1);
    let answer: Value = serde_json::from_str(different.iter().next().context("an answer")?)?;
    assert_eq!((answer["seq"].as_u64(), &answer["bid_id"]), (Some(bids[0].seq), &bid["bid_id"]));
    world.end().await;
    Ok(())
}

/// From 80 % on no auction is created, so that what runs can end.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_fills_up_takes_no_new_auctions() -> Result<()> {
    let world = World::start("full-log").await?;
    let lot = json!({"title": "Sofa", "duration": 600, "starting_bid": 1});
    let id = world.auction(&lot).await?;
    let bus = world.bus().await?;
    let stream = bus.jetstream.get_stream(protocol::subject::LOG_STREAM).await?;
    let mut config = stream.cached_info().config.clone();
    let used = i64::try_from(stream.cached_info().state.bytes)?;
    let plenty = config.max_bytes;
    config.max_bytes = used + used / 8;
    bus.jetstream.update_stream(&config).await?;
    let create = async || testkit::http::post(&world.management("/auctions"), Some(&world.token("host")?), &lot).await;
    let refused = create().await?;
    assert_eq!((refused.status, &refused.json["code"]), (503, &json!("unavailable")), "{}", refused.text);

    config.max_bytes = plenty;
    bus.jetstream.update_stream(&config).await?;
    assert_eq!(world.bid("anna", &id, &json!(3)).await?.status, 200);
    assert_eq!(create().await?.status, 201);
    world.end().await;
    Ok(())
}

/// A connection that breaks takes requests for messages with it; the history goes on all the same.
#[tokio::test(flavor = "multi_thread")]
async fn forgotten_pulls_do_not_stop_the_history() -> Result<()> {
    let mut world = World::start("cut-pull").await?;
    let servers = &world.stack.servers;
    let proxy = Proxy::start(servers.nats[0].port).await?;
    let url = servers.nats_url().replace(&servers.nats[0].port.to_string(), &proxy.port.to_string());
    world.stack.add_instance_with(Name::BidPersistence, &[("NATS_URL", url)]).await?;
    world.stack.kill_instance(Name::BidPersistence, 0).await?;
    let id = world.auction(&json!({"title": "Oboe", "duration": 600, "starting_bid": 1})).await?;
    for round in 0..6usize {
        // Idle, it asks twice a second at once and then waits: either request loses its answer.
        proxy.to_client(Way::CutAfter(0));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !proxy.is_passing() {
            anyhow::ensure!(Instant::now() < deadline, "nothing was cut: this proves nothing");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let name = ["anna", "ben"][round % 2];
        assert_eq!(world.bid(name, &id, &json!(2 + 2 * round)).await?.status, 200);
        world.history(&id, round + 1).await?;
    }
    world.end().await;
    Ok(())
}
