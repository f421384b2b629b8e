//! Faults on the connections of a service: delays, lost replies, cut connections.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flash::stack::Name;
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use testkit::socket::{Socket, Transport};
use testkit::{LinkState, Proxy, Signal};
use tokio::sync::Notify;

use crate::faults::{Load, assert_log_agrees};
use crate::test_system::TestSystem;

/// Starts one bid-processing instance behind a proxy to NATS, and an auction with one bid.
async fn behind_a_proxy(test: &str) -> Result<(TestSystem, Proxy, String)> {
    let mut system = TestSystem::start(test).await?;
    let servers = &system.stack.servers;
    let proxy = Proxy::start(servers.nats[0].port).await?;
    let url = servers.nats_url().replace(&servers.nats[0].port.to_string(), &proxy.port.to_string());
    system.stack.add_instance_with(Name::BidProcessing, &[("NATS_URL", url)]).await?;
    system.stack.kill_instance(Name::BidProcessing, 0).await?;
    let id = system.auction(&json!({"title": "Cello", "duration": 600, "starting_bid": 1})).await?;
    assert_eq!(system.bid("anna", &id, &json!(2)).await?.status, 200);
    Ok((system, proxy, id))
}

/// One watcher for each transport, joined after the first bid.
async fn watchers(system: &TestSystem, id: &str) -> Result<[Socket; 2]> {
    let edge = system.stack.url(Name::Websocket);
    let mut watchers = [
        Socket::enter(edge, Transport::Plain, &system.token("plain")?).await?,
        Socket::enter(edge, Transport::SocketIo, &system.token("socketio")?).await?,
    ];
    for watcher in &mut watchers {
        let joined = watcher.ask("join_auction", json!({"auction_id": id})).await?;
        assert_eq!(joined["data"]["current_high_bid"].as_f64(), Some(2.0));
    }
    Ok(watchers)
}

/// Whether a frame shows this seq or a later one.
fn shows(frame: &Value, seq: u64) -> bool {
    frame["data"]["seq"].as_u64().is_some_and(|shown| shown >= seq)
}

/// A bid is not visible over any transport before it is stored.
#[tokio::test(flavor = "multi_thread")]
async fn bid_is_not_shown_before_it_is_logged() -> Result<()> {
    let (system, proxy, id) = behind_a_proxy("held-publish").await?;
    let mut watchers = Box::pin(watchers(&system, &id)).await?;
    let held = Duration::from_secs(2);
    proxy.to_server(LinkState::Delay(held));
    let started = Instant::now();
    let amount = json!(7);
    let bid = system.bid("ben", &id, &amount);
    let watch = async {
        let mut first_seen = Vec::new();
        for watcher in &mut watchers {
            watcher.until(|frame| frame["event"] == "bid_update" && shows(frame, 4)).await?;
            first_seen.push(started.elapsed());
        }
        anyhow::Ok(first_seen)
    };
    let read = async {
        // Requests to the delayed instance wait as well; no answer may contain the bid.
        let mut reads = 0;
        while started.elapsed() < held - Duration::from_millis(200) {
            let history = testkit::http::get(&system.management(&format!("/auctions/{id}/bids")), None).await?;
            assert!(!history.text.contains("\"ben\""), "{}", history.text);
            assert_eq!(system.checked_bids(&id).await?.len(), 1, "not in the log yet");
            reads += 1;
        }
        anyhow::Ok(reads)
    };
    let (answer, seen, reads) = tokio::try_join!(bid, watch, read)?;
    assert!(reads > 3);
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(started.elapsed() >= held, "answered before it was stored");
    assert!(seen.iter().all(|seen| *seen >= held), "shown after {seen:?}, stored after {held:?}");
    proxy.to_server(LinkState::Pass);
    system.end().await;
    Ok(())
}

/// While only acknowledgements are delayed, watchers may see the bid before its bidder is answered. Without any, the
/// answer is `outcome_unknown` within its deadline, and a repeated request gets the outcome.
#[tokio::test(flavor = "multi_thread")]
async fn bid_is_answered_after_its_append_is_acknowledged() -> Result<()> {
    let (system, proxy, id) = behind_a_proxy("held-ack").await?;
    let [mut watcher, _] = Box::pin(watchers(&system, &id)).await?;
    let held = Duration::from_millis(1_500);
    proxy.to_client(LinkState::Delay(held));
    let started = Instant::now();
    let amount = json!(7);
    let bid = system.bid("ben", &id, &amount);
    let watch = async {
        watcher.until(|frame| frame["event"] == "bid_update" && shows(frame, 4)).await?;
        anyhow::Ok(started.elapsed())
    };
    let (answer, seen) = tokio::try_join!(bid, watch)?;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(started.elapsed() >= held, "answered before the acknowledgement");
    assert!(seen < held, "the watcher saw the bid only after {seen:?}");

    proxy.to_client(LinkState::BlackHole);
    let bid = json!({"auction_id": id, "amount": 9, "bid_id": uuid::Uuid::new_v4().to_string()});
    let (anna, started) = (system.token("anna")?, Instant::now());
    let unknown = system.bid_at(0, &anna, &bid).await?;
    assert_eq!((unknown.status, &unknown.json["code"]), (503, &json!("outcome_unknown")), "{}", unknown.text);
    assert!(started.elapsed() < Duration::from_millis(3_200), "{:?}", started.elapsed());
    proxy.to_client(LinkState::Pass);
    let answer = repeat(&system, 0, &anna, &bid).await?;
    assert_eq!((answer["seq"].as_u64(), system.checked_bids(&id).await?.len()), (Some(5), 3), "{answer}");
    system.end().await;
    Ok(())
}

/// The record of a bid answers the bidder on a socket, though the reply of bid-processing comes a second later. The answer
/// is the one that a repetition gets from Redis, also of a bid that moved the end; and bid-processing gives no older one,
/// though it does not know yet that the record is stored.
#[tokio::test(flavor = "multi_thread")]
async fn record_answers_before_bid_processing_does() -> Result<()> {
    let (system, proxy, _) = behind_a_proxy("record-answers").await?;
    let edge = system.stack.url(Name::Websocket);
    let late = json!({"mode": "extend", "window": 600, "extension": 5, "max_extensions": 1});
    let lot = json!({"title": "Viol", "duration": 600, "starting_bid": 1, "anti_snipe": late});
    let id = system.auction(&lot).await?;
    let held = Duration::from_secs(1);
    for (nth, transport) in (1..).zip(Transport::ALL) {
        let mut socket = Socket::enter(edge, transport, &system.token(transport.name())?).await?;
        socket.ask("join_auction", json!({"auction_id": id})).await?;
        let bid = json!({"auction_id": id, "amount": nth, "bid_id": uuid::Uuid::new_v4().to_string()});
        proxy.to_client(LinkState::Delay(held));
        let asked = Instant::now();
        let answer = socket.ask("place_bid", bid.clone()).await?["data"].take();
        let took = asked.elapsed();
        // The acknowledgement is still held. The third person bids the first price again.
        proxy.to_client(LinkState::Pass);
        let too_low = system.bid("cleo", &id, &json!(1)).await?.json;
        assert_eq!((&too_low["code"], &too_low["seq"]), (&json!("bid_too_low"), &answer["seq"]), "{too_low}");
        assert_eq!(
            (&answer["status"], &answer["anti_snipe_triggered"]),
            (&json!("accepted"), &json!(nth == 1)),
            "{answer}"
        );
        // The request is held once on its way to bid-processing; its reply would wait for an acknowledgement held as long.
        assert!((held..2 * held).contains(&took), "answered after {took:?}");
        let again = socket.ask("place_bid", bid).await?["data"].take();
        assert_eq!(answer, again);
    }
    assert_eq!(system.checked_bids(&id).await?.len(), 2);
    system.end().await;
    Ok(())
}

/// A cancellation whose reply is lost may have taken effect: the answer does not say that nothing was changed.
#[tokio::test(flavor = "multi_thread")]
async fn cancel_without_an_answer_is_outcome_unknown() -> Result<()> {
    let mut system = TestSystem::with("lost-cancel", Vec::new(), true).await?;
    let servers = &system.stack.servers;
    let proxy = Proxy::start(servers.nats[0].port).await?;
    let url = servers.nats_url().replace(&servers.nats[0].port.to_string(), &proxy.port.to_string());
    let id = system.auction(&json!({"title": "Gong", "duration": 600, "starting_bid": 1})).await?;
    system.stack.add_instance_with(Name::AuctionManagement, &[("NATS_URL", url)]).await?;
    system.stack.kill_instance(Name::AuctionManagement, 0).await?;
    proxy.to_client(LinkState::BlackHole);
    let (cancel, host) = (system.management(&format!("/auctions/{id}/cancel")), system.token("host")?);
    let lost = testkit::http::post(&cancel, Some(&host), &json!({})).await?;
    assert_eq!((lost.status, &lost.json["code"]), (503, &json!("outcome_unknown")), "{}", lost.text);
    proxy.to_client(LinkState::Pass);
    system.wait_for(&format!("/auctions/{id}"), |auction| auction["status"] == "cancelled").await?;

    // Where no instance receives the request, it is certain that nothing was changed.
    let other = system.auction(&json!({"title": "Bell", "duration": 600, "starting_bid": 1})).await?;
    system.stack.kill_instance(Name::BidProcessing, 0).await?;
    let cancel = system.management(&format!("/auctions/{other}/cancel"));
    let refused = testkit::http::post(&cancel, Some(&host), &json!({})).await?;
    assert_eq!((refused.status, &refused.json["code"]), (503, &json!("unavailable")), "{}", refused.text);
    system.end().await;
    Ok(())
}

/// Redis has decided a closing and the log takes no record: the answer does not say that nothing was changed, and the
/// auction is closed once the log has space.
#[tokio::test(flavor = "multi_thread")]
async fn close_that_the_log_does_not_take_is_outcome_unknown() -> Result<()> {
    let system = TestSystem::start("close-waits").await?;
    let id = system.auction(&json!({"title": "Drum", "duration": 600, "starting_bid": 1})).await?;
    let bus = system.bus().await?;
    let stream = bus.jetstream.get_stream(protocol::subject::LOG_STREAM).await?;
    let mut config = stream.cached_info().config.clone();
    let original = config.max_bytes;
    config.max_bytes = i64::try_from(stream.cached_info().state.bytes)?;
    bus.jetstream.update_stream(&config).await?;
    let close = system.management(&format!("/auctions/{id}/close"));
    let lost = testkit::http::post(&close, Some(&system.token("host")?), &json!({})).await?;
    assert_eq!((lost.status, &lost.json["code"]), (503, &json!("outcome_unknown")), "{}", lost.text);
    config.max_bytes = original;
    bus.jetstream.update_stream(&config).await?;
    system.wait_for(&format!("/auctions/{id}"), |auction| auction["status"] == "closed").await?;
    system.end().await;
    Ok(())
}

/// A creation whose answer is late may take effect: repeated with its key it is the same auction.
#[tokio::test(flavor = "multi_thread")]
async fn creation_without_an_answer_is_outcome_unknown() -> Result<()> {
    let system = TestSystem::with("lost-creation", Vec::new(), true).await?;
    let (url, host) = (system.management("/auctions"), system.token("host")?);
    let create = async || {
        let request = testkit::http::request("POST", &url, Some(&host)).header("idempotency-key", "1");
        let lot = json!({"title": "Gong", "duration": 600, "starting_bid": 1});
        testkit::http::send(request.body(lot.to_string().into())?).await
    };
    let instances = &system.stack.instances;
    let deciding = instances.iter().find(|instance| instance.name == Name::BidProcessing).context("one")?;
    deciding.signal(Signal::Stop)?;
    let lost = create().await?;
    assert_eq!((lost.status, &lost.json["code"]), (503, &json!("outcome_unknown")), "{}", lost.text);
    assert!(lost.json["error"].as_str().is_some_and(|error| error.contains("Idempotency-Key")), "{}", lost.text);
    deciding.signal(Signal::Continue)?;
    let shown = system.wait_for("/auctions", |list| list["auctions"][0]["auction_id"].is_string()).await?;
    let again = create().await?;
    assert_eq!((again.status, &again.json["auction_id"]), (201, &shown["auctions"][0]["auction_id"]), "{}", again.text);
    system.end().await;
    Ok(())
}

/// Repeats a bid under its id until it has an answer.
async fn repeat(system: &TestSystem, nth: usize, token: &str, bid: &Value) -> Result<Value> {
    testkit::eventually("an answer to the bid", async || {
        let answer = system.bid_at(nth, token, bid).await.ok();
        Ok(answer.filter(|answer| answer.status != 503).map(|answer| answer.json))
    })
    .await
}

/// Script calls reach Redis and their replies are lost, again and again, under load.
#[tokio::test(flavor = "multi_thread")]
async fn lost_redis_replies_lose_no_bids() -> Result<()> {
    let mut system = TestSystem::start("cut-redis").await?;
    let proxy = system.redis_behind_a_proxy().await?;
    let id = system.auction(&json!({"title": "Viola", "duration": 600, "starting_bid": 1})).await?;
    let load = Load::start(&system, &id, 8)?;
    for bytes in [0, 1, 7, 0, 64, 0, 300, 0] {
        load.accepted(20).await?;
        proxy.to_client(LinkState::CutAfter(bytes));
        load.accepted(20).await?;
        assert!(proxy.is_passing(), "no connection was cut");
    }
    let answers = load.finish().await?;
    assert_log_agrees(&system, &id, &answers).await?;
    system.history(&id, system.checked_bids(&id).await?.len()).await?;
    system.end().await;
    Ok(())
}

/// Fifty clients repeat the same bid id over both transports while an instance is killed: one bid, one answer.
#[tokio::test(flavor = "multi_thread")]
async fn one_bid_id_is_one_bid_across_an_instance_kill() -> Result<()> {
    let mut system = TestSystem::with("same-id", Vec::new(), true).await?;
    system.stack.add_instance(Name::BidProcessing).await?;
    let id = system.auction(&json!({"title": "Harp", "duration": 600, "starting_bid": 1})).await?;
    let token = system.token("anna")?;
    let bid = json!({"auction_id": id, "amount": 12, "bid_id": uuid::Uuid::new_v4().to_string()});
    let edge = system.stack.url(Name::Websocket).to_owned();
    let urls: Vec<String> = system.stack.urls(Name::BidProcessing).iter().map(|url| format!("{url}/bids")).collect();
    let (answered, killed) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let callers = (0..50).map(|caller| {
        let (bid, token, edge, urls) = (bid.clone(), token.clone(), edge.clone(), urls.clone());
        let (answered, killed) = (Arc::clone(&answered), Arc::clone(&killed));
        tokio::spawn(async move {
            let mut socket = match caller % 4 {
                0 => Some(Socket::enter(&edge, Transport::Plain, &token).await?),
                1 => Some(Socket::enter(&edge, Transport::SocketIo, &token).await?),
                _ => None,
            };
            let started = Instant::now();
            // A client repeats the request until it is answered after the kill: the answer must stay the same.
            let (mut answers, mut repeat) = (Vec::new(), tokio::time::interval(Duration::from_millis(20)));
            loop {
                repeat.tick().await;
                anyhow::ensure!(started.elapsed() < Duration::from_secs(20), "no answer");
                let is_killed = killed.load(Ordering::Relaxed);
                let answer = match &mut socket {
                    Some(socket) => socket.ask("place_bid", bid.clone()).await?["data"].clone(),
                    None => match testkit::http::post(&urls[caller % urls.len()], Some(&token), &bid).await {
                        Ok(answer) => answer.json,
                        // Killed: use the other instance.
                        Err(_) => testkit::http::post(&urls[0], Some(&token), &bid).await?.json,
                    },
                };
                if answer["status"] == "accepted" {
                    answers.push(answer);
                    answered.notify_one();
                    if is_killed {
                        return anyhow::Ok(answers);
                    }
                    continue;
                }
                let code = answer["code"].as_str().unwrap_or_default();
                let transient = ["outcome_unknown", "unavailable", "rate_limited", "overloaded"];
                anyhow::ensure!(transient.contains(&code), "{answer}");
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    // When some are answered and others are waiting.
    tokio::time::timeout(Duration::from_secs(10), answered.notified()).await.context("no client was answered")?;
    system.stack.kill_instance(Name::BidProcessing, 1).await?;
    killed.store(true, Ordering::Relaxed);
    let mut different = HashSet::new();
    for answers in try_join_all(callers).await? {
        different.extend(answers?.into_iter().map(|answer| answer.to_string()));
    }
    assert_eq!(different.len(), 1, "{different:?}");
    let bids = system.checked_bids(&id).await?;
    assert_eq!(bids.len(), 1);
    let answer: Value = serde_json::from_str(different.iter().next().context("an answer")?)?;
    assert_eq!((answer["seq"].as_u64(), &answer["bid_id"]), (Some(bids[0].seq), &bid["bid_id"]));
    system.end().await;
    Ok(())
}

/// A broken connection loses pull requests; the history still continues.
#[tokio::test(flavor = "multi_thread")]
async fn lost_pull_requests_do_not_stop_the_history() -> Result<()> {
    let mut system = TestSystem::start("cut-pull").await?;
    let servers = &system.stack.servers;
    let proxy = Proxy::start(servers.nats[0].port).await?;
    let url = servers.nats_url().replace(&servers.nats[0].port.to_string(), &proxy.port.to_string());
    system.stack.add_instance_with(Name::BidPersistence, &[("NATS_URL", url)]).await?;
    system.stack.kill_instance(Name::BidPersistence, 0).await?;
    let id = system.auction(&json!({"title": "Oboe", "duration": 600, "starting_bid": 1})).await?;
    for round in 0..6usize {
        // While idle, the consumer sends a request that is answered at once and then one that waits: the cut hits
        // either.
        proxy.to_client(LinkState::CutAfter(0));
        testkit::eventually("a connection is cut", async || Ok(proxy.is_passing().then_some(()))).await?;
        let name = ["anna", "ben"][round % 2];
        assert_eq!(system.bid(name, &id, &json!(2 + 2 * round)).await?.status, 200);
        system.history(&id, round + 1).await?;
    }
    system.end().await;
    Ok(())
}
