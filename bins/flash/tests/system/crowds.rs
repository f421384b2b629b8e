//! An edge with more clients than it accepts, or with clients that cause more work than others: each gets its
//! rejection, and the other clients are not affected.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use flash::stack::Name;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use testkit::http;
use testkit::scratch::tools;
use testkit::socket::Socket;
use testkit::tls;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::Instant;
#[cfg(feature = "long")]
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{self, Message};

#[cfg(feature = "long")]
use crate::framing::Raw;
use crate::test_system::TestSystem;

/// Starts a second edge with this setting and returns its address.
async fn edge_with(system: &mut TestSystem, setting: &str, value: &str) -> Result<String> {
    system.stack.add_instance_with(Name::Websocket, &[(setting, value.to_owned())]).await?;
    Ok((*system.stack.urls(Name::Websocket).last().context("an edge")?).to_owned())
}

/// Connects; returns the socket, or the status, code and seconds to wait of the rejection.
async fn try_connect(system: &TestSystem, edge: &str, name: &str) -> Result<Result<Socket, (u16, Value, String)>> {
    let url = format!("{}/ws?token={}", edge.replacen("http", "ws", 1), system.token(name)?);
    match testkit::socket::upgrade(&url).await {
        Ok(_) => Ok(Ok(system.socket_at(edge, name).await?)),
        Err(tungstenite::Error::Http(rejected)) => {
            let seconds = rejected.headers().get("retry-after").and_then(|seconds| seconds.to_str().ok());
            let seconds = seconds.unwrap_or_default().to_owned();
            let body: Value = serde_json::from_slice(rejected.body().as_deref().unwrap_or_default())?;
            Ok(Err((rejected.status().as_u16(), body["code"].clone(), seconds)))
        }
        Err(error) => Err(error.into()),
    }
}

/// The rejection of a full edge.
fn full() -> (u16, Value, String) {
    (503, json!("overloaded"), "1".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn full_edge_rejects_both_transports() -> Result<()> {
    let mut system = TestSystem::start("full-edge").await?;
    let edge = edge_with(&mut system, "MAX_CONNECTIONS", "8").await?;
    let mut connected = Vec::new();
    for number in 0..8 {
        connected.push(system.socket_at(&edge, &format!("watcher-{number}")).await?);
    }
    assert_eq!(try_connect(&system, &edge, "anna").await?.err(), Some(full()));
    let polling = http::get(&format!("{edge}/socket.io/?EIO=4&transport=polling"), None).await?;
    assert_eq!((polling.status, &polling.json["code"]), (503, &json!("overloaded")));
    assert_eq!(polling.headers["retry-after"], "1");
    // Connected clients are still served, and a connection that closes frees its slot.
    assert_eq!(connected[0].ask("ping", json!({})).await?["event"], "pong");
    drop(connected.pop());
    let since = Instant::now();
    while system.socket_at(&edge, "anna").await.is_err() {
        ensure!(since.elapsed() < Duration::from_secs(5), "the slot was never free again");
    }
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn accept_rate_limit_rejects_then_recovers() -> Result<()> {
    let mut system = TestSystem::start("accept-rate").await?;
    let edge = edge_with(&mut system, "MAX_NEW_CONNECTIONS_PER_SECOND", "10").await?;
    let token = system.token("anna")?;
    let url = format!("{}/ws?token={token}", edge.replacen("http", "ws", 1));
    let (since, mut accepted, mut rejected) = (Instant::now(), Vec::new(), 0u32);
    for _ in 0..40 {
        match testkit::socket::upgrade(&url).await {
            Ok((socket, _)) => accepted.push(socket),
            Err(tungstenite::Error::Http(reply)) if reply.status() == 503 => rejected += 1,
            Err(error) => bail!(error),
        }
    }
    let allowed = 10.0 + since.elapsed().as_secs_f64() * 10.0;
    assert!(accepted.len() >= 10 && accepted.len() as f64 <= allowed, "{} of {allowed}", accepted.len());
    assert!(rejected > 0, "40 connections took {:?}", since.elapsed());
    // As the `retry-after` of the rejection says: a connection is accepted within a second.
    let rejected_at = Instant::now();
    while testkit::socket::upgrade(&url).await.is_err() {
        ensure!(rejected_at.elapsed() < Duration::from_secs(1), "still rejected");
    }
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn full_room_rejects_joins() -> Result<()> {
    let mut system = TestSystem::start("full-room").await?;
    let edge = edge_with(&mut system, "MAX_CONNECTIONS_PER_AUCTION", "2").await?;
    let id = system.auction(&json!({"title": "Cup", "duration": 600, "starting_bid": 1})).await?;
    let other = system.auction(&json!({"title": "Jug", "duration": 600, "starting_bid": 1})).await?;
    let (mut anna, mut ben) = (system.socket_at(&edge, "anna").await?, system.socket_at(&edge, "ben").await?);
    let mut cleo = system.socket_at(&edge, "cleo").await?;
    let join = |id: &str| json!({"auction_id": id});
    for socket in [&mut anna, &mut ben] {
        assert_eq!(socket.ask("join_auction", join(&id)).await?["event"], "joined_auction");
    }
    assert_eq!(cleo.ask("join_auction", join(&id)).await?["data"]["code"], "room_full");
    assert_eq!(cleo.ask("join_auction", join(&other)).await?["event"], "joined_auction", "another room is open");
    assert_eq!(anna.ask("join_auction", join(&id)).await?["event"], "joined_auction", "a member may join again");
    // Bidding does not require a place in the room.
    assert_eq!(cleo.ask("place_bid", json!({"auction_id": id, "amount": 5})).await?["data"]["status"], "accepted");
    assert_eq!(ben.ask("leave_auction", join(&id)).await?["event"], "left_auction");
    assert_eq!(cleo.ask("join_auction", join(&id)).await?["event"], "joined_auction");
    system.end().await;
    Ok(())
}

/// Each of a thousand joins gets one answer, mostly `rate_limited`, and a bid at the same time is not delayed.
#[tokio::test(flavor = "multi_thread")]
async fn thousand_joins_of_one_connection_are_answered_once_each() -> Result<()> {
    let system = TestSystem::start("joins").await?;
    let id = system.auction(&json!({"title": "Cup", "duration": 600, "starting_bid": 1})).await?;
    for (name, amount) in [("ben", 1), ("cleo", 2), ("ben", 3)] {
        assert_eq!(system.bid(name, &id, &json!(amount)).await?.status, 200);
    }
    let (mut joiner, mut bidder) = (system.socket("joiner").await?, system.socket("anna").await?);
    bidder.ask("join_auction", json!({"auction_id": id})).await?;
    for number in 0..1_000u64 {
        let auction = if number % 2 == 0 { id.clone() } else { uuid::Uuid::from_u128(number.into()).to_string() };
        let join = json!({"auction_id": auction, "last_seq": 1});
        joiner.request("join_auction", join, number).await?;
    }
    let asked = Instant::now();
    let bid = bidder.ask("place_bid", json!({"auction_id": id, "amount": 10})).await?;
    assert_eq!(bid["data"]["status"], "accepted");
    assert!(asked.elapsed() < Duration::from_secs(1), "a bid took {:?}", asked.elapsed());
    let mut answers = std::collections::BTreeMap::<(u64, String), u32>::new();
    while answers.len() < 1_000 {
        let frame = joiner.next().await?;
        let Some(number) = frame["id"].as_u64() else { continue };
        let what = frame["data"]["code"].as_str().or(frame["event"].as_str()).context("an answer")?;
        *answers.entry((number, what.to_owned())).or_default() += 1;
    }
    assert!(answers.values().all(|count| *count == 1), "one answer each");
    let count = |wanted: &str| answers.keys().filter(|(_, what)| what == wanted).count();
    let (joined, unknown) = (count("joined_auction"), count("auction_not_found"));
    assert!(joined >= 25 && unknown >= 25 && joined + unknown < 100, "{joined} and {unknown}");
    assert_eq!(joined + unknown + count("rate_limited"), 1_000);
    assert_eq!(joiner.ask("ping", json!({})).await?["event"], "pong");
    system.end().await;
    Ok(())
}

/// Thirty users send chat messages without pause: the room broadcasts 20 messages a second, and bids are answered and
/// shown about as fast as without them.
#[tokio::test(flavor = "multi_thread")]
async fn chat_flood_does_not_delay_bids() -> Result<()> {
    let system = TestSystem::start("chat-flood").await?;
    let id = system.auction(&json!({"title": "Cup", "duration": 600, "starting_bid": 1})).await?;
    let mut bidders = [system.socket("anna").await?, system.socket("ben").await?];
    for socket in &mut bidders {
        socket.ask("join_auction", json!({"auction_id": id})).await?;
    }
    let quiet = medians(&mut bidders, &id, 1).await?;
    let mut talkers = JoinSet::new();
    for number in 0..30 {
        let mut socket = system.socket(&format!("talker-{number}")).await?;
        socket.ask("join_auction", json!({"auction_id": id})).await?;
        let id = id.clone();
        talkers.spawn(async move {
            // Sends until the test ends, as fast as the answers come.
            loop {
                let answer = socket.ask("chat_message", json!({"auction_id": id, "message": "me me me"})).await;
                let code = answer.map(|answer| answer["data"]["code"].clone());
                if !code.as_ref().is_ok_and(|code| code.is_null() || code == "chat_too_fast") {
                    return code;
                }
            }
        });
    }
    let began = Instant::now();
    let flooded = medians(&mut bidders, &id, 1_000).await?;
    let seconds = began.elapsed().as_secs_f64();
    if let Some(ended) = talkers.try_join_next() {
        bail!("a talker got {ended:?}");
    }
    talkers.abort_all();
    let sent = bidders[0].seen.iter().filter(|frame| frame["event"] == "chat_message").count() as f64;
    println!("medians {quiet:?}, {flooded:?} in the flood; {sent} messages in {seconds:.1} s");
    assert!(sent > 10.0, "no chat message was broadcast");
    assert!(sent <= 20.0 * (seconds + 2.0), "{sent} messages in {seconds} s");
    for (quiet, flooded) in quiet.into_iter().zip(flooded) {
        assert!(flooded < 4 * quiet + Duration::from_millis(20), "{quiet:?} without, {flooded:?} in the flood");
    }
    system.end().await;
    Ok(())
}

/// Places a hundred bids by turns; returns the median times from a bid to its answer and to the other client's update.
async fn medians(bidders: &mut [Socket; 2], id: &str, from: u64) -> Result<[Duration; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    for amount in from..from + 100 {
        let asked = Instant::now();
        let [bidder, other] = &mut *bidders;
        let bid = bidder.ask("place_bid", json!({"auction_id": id, "amount": amount})).await?;
        assert_eq!(bid["data"]["status"], "accepted", "{bid}");
        times[0].push(asked.elapsed());
        let seq = bid["data"]["seq"].clone();
        other.until(|frame| frame["event"] == "bid_update" && frame["data"]["seq"] == seq).await?;
        times[1].push(asked.elapsed());
        bidders.reverse();
    }
    Ok(times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    }))
}

/// The send queue of a client that does not read is bounded in bytes; beyond that the client is closed with 4408.
/// Other clients of the room are not affected, and the queue's memory is released.
#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_is_disconnected() -> Result<()> {
    let system = TestSystem::start("slow").await?;
    let edge = system.stack.url(Name::Websocket).to_owned();
    let id = system.auction(&json!({"title": "Cup", "duration": 600, "starting_bid": 1})).await?;
    // The room is open from the first bid, so that it knows all of them: reading them from the log may take longer than
    // the room waits, and the answers would be short.
    let mut other = system.socket("other").await?;
    other.ask("join_auction", json!({"auction_id": id})).await?;
    // Long names make each bid large.
    let tokens = (0..8).map(|nth| system.token(&format!("{nth}-{}", "ß".repeat(95)))).collect::<Result<Vec<_>>>()?;
    for amount in 1..=900u64 {
        let bid = json!({"auction_id": id, "amount": amount});
        let answer = system.bid_at(0, &tokens[usize::try_from(amount % 8)?], &bid).await?;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    other.until(|frame| frame["event"] == "bid_update" && frame["data"]["high_bid"].as_f64() == Some(900.0)).await?;
    let metric = async |name: &str| -> Result<f64> {
        let metrics = http::get(&format!("{edge}/metrics"), None).await?.text;
        let line = metrics.lines().find(|line| line.starts_with(name)).with_context(|| name.to_owned())?;
        Ok(line.rsplit(' ').next().context("a number")?.parse()?)
    };
    let url = format!("{}/ws?token={}", edge.replacen("http", "ws", 1), system.token("sleeper")?);
    // A small receive buffer, so that frames queue in the edge: the default would take all the answers.
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(16 * 1024)?;
    let stream = socket.connect(tls::authority_of(&edge).parse()?).await?;
    let stream = tls::secure(&edge, stream).await?;
    let (mut sleeper, _) = tokio_tungstenite::client_async(url, stream).await?;
    // Each is answered with nine hundred bids, sixteen megabytes together. The send queue holds one megabyte, and the
    // kernel was seen to take up to eight.
    for number in 0..50 {
        let join = json!({"event": "join_auction", "data": {"auction_id": id, "last_seq": 1}, "id": number});
        sleeper.send(Message::text(join.to_string())).await?;
    }
    let (begun, mut most) = (Instant::now(), 0.0f64);
    while metric("flash_slow_connections_closed_total").await? < 1.0 {
        most = most.max(metric("flash_send_queue_bytes").await?);
        ensure!(begun.elapsed() < Duration::from_secs(9), "not closed, with {most} bytes queued at most");
    }
    // The close frame reaches a client that begins to read in time.
    assert!(most <= 1024.0 * 1024.0, "{most} bytes were queued");
    let (mut closed, mut frames) = (None, 0);
    while let Some(Ok(message)) = sleeper.next().await {
        match message {
            Message::Text(text) => {
                serde_json::from_str::<Value>(&text).context("a frame is complete")?;
                frames += 1;
            }
            Message::Close(close) => closed = close.map(|close| u16::from(close.code)),
            _ => {}
        }
    }
    assert_eq!(closed, Some(4408), "after {frames} frames");
    assert_eq!(metric("flash_send_queue_bytes").await?, 0.0, "dropped frames are still counted");
    assert_eq!(other.ask("place_bid", json!({"auction_id": id, "amount": 5_000})).await?["data"]["status"], "accepted");
    other.until(|frame| frame["event"] == "bid_update" && frame["data"]["high_bid"].as_f64() == Some(5_000.0)).await?;
    system.end().await;
    Ok(())
}

/// A client behind a dead connection answers no ping: it is disconnected after 60 s, not earlier.
#[cfg(feature = "long")]
#[tokio::test(flavor = "multi_thread")]
async fn silent_peer_is_disconnected_after_a_minute() -> Result<()> {
    let system = TestSystem::start("half-open").await?;
    let (since, silent) = (Instant::now(), Raw::connect(&system).await?);
    timeout(Duration::from_secs(90), silent.listen_only()).await.context("never closed")??;
    let seconds = since.elapsed().as_secs();
    assert!((58..=64).contains(&seconds), "disconnected after {seconds} s");
    system.end().await;
    Ok(())
}

/// A draining edge disconnects clients of auctions that end soon last and gives them the shorter reconnect delay.
#[tokio::test(flavor = "multi_thread")]
async fn draining_edge_releases_rooms_that_end_soon_last() -> Result<()> {
    let mut system = TestSystem::start("drain-order").await?;
    let soon = system.auction(&json!({"title": "Soon", "duration": 12, "starting_bid": 1})).await?;
    let late = system.auction(&json!({"title": "Late", "duration": 600, "starting_bid": 1})).await?;
    let mut listening = JoinSet::new();
    for number in 0..40 {
        let ends_soon = number % 2 == 0;
        let mut socket = system.socket(&format!("watcher-{number}")).await?;
        socket.ask("join_auction", json!({"auction_id": if ends_soon { &soon } else { &late }})).await?;
        listening.spawn(async move {
            let draining = socket.event("server_draining").await?;
            let pause = draining["data"]["retry_after_ms"].as_u64().context("a pause")?;
            anyhow::Ok((ends_soon, Instant::now(), pause))
        });
    }
    system.stack.restart_instance(Name::Websocket, 0).await?;
    let drained: Vec<_> = listening.join_all().await.into_iter().collect::<Result<_>>()?;
    let of = |wanted: bool| drained.iter().filter(move |(ends_soon, ..)| *ends_soon == wanted);
    let last_of_late = of(false).map(|(_, at, _)| *at).max().context("late ones")?;
    let first_of_soon = of(true).map(|(_, at, _)| *at).min().context("soon ones")?;
    assert!(first_of_soon > last_of_late, "{:?} too early", last_of_late - first_of_soon);
    let longest = |wanted| of(wanted).map(|(_, _, pause)| *pause).max();
    assert!(longest(true) < Some(750) && longest(false) > Some(1_000), "{drained:?}");
    system.end().await;
    Ok(())
}

/// 2,000 clients that are disconnected at once are back within 10 s and see each bid once.
#[test]
fn two_thousand_clients_reconnect_without_missing_bids() -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_flash")).args(["bench", "reconnects"]).output()?;
    ensure!(output.status.success(), "{output:?}");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    let file = tools().with_file_name("target").join("bench/reconnects.json");
    let measured: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let slowest = measured["back_seconds"]["max"].as_f64().context("a time")?;
    ensure!(slowest < 10.0 && measured["bids"].as_u64() > Some(20), "{measured}");
    Ok(())
}
