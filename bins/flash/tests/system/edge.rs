//! The plain WebSocket door.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use testkit::Signal;
use testkit::socket::Socket;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn who_is_let_in() -> Result<()> {
    let world = World::start("door").await?;
    let edge = format!("{}/ws", world.stack.url(Name::Websocket).replacen("http", "ws", 1));

    // A first frame with the token.
    let mut socket = Socket::connect(&edge).await?;
    socket
        .send_raw(&json!({"event": "authenticate", "data": {"token": world.token("anna")?}, "id": "a"}).to_string())
        .await?;
    let connected = socket.event("connected").await?;
    assert_eq!((&connected["data"]["username"], &connected["data"]["protocol"]), (&json!("anna"), &json!(1)));
    let authenticated = socket.event("authenticated").await?;
    assert_eq!(authenticated["id"], "a");

    // Bad ones are told why, then closed with 4401.
    let expired = world.stack.issuer.key.mint(
        &world.stack.issuer.issuer,
        &world.stack.issuer.client_id,
        &identity::development::DevelopmentUser::named("anna"),
        1_000_000_000,
        60,
    )?;
    for (name, query, first, code) in [
        ("garbage", "?token=x", None, "unauthenticated"),
        ("expired", &*format!("?token={expired}"), None, "token_expired"),
        ("another event first", "", Some(r#"{"event":"ping","data":{}}"#), "unauthenticated"),
        ("no token in time", "", None, "unauthenticated"),
    ] {
        let mut socket = Socket::connect(&format!("{edge}{query}")).await?;
        if let Some(first) = first {
            socket.send_raw(first).await?;
        }
        let code_sent = socket.event("error").await.with_context(|| name.to_owned())?["data"]["code"].clone();
        assert_eq!((name, code_sent, socket.closed().await?), (name, json!(code), 4401));
    }
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_answered_once() -> Result<()> {
    let world = World::start("requests").await?;
    let id = world.auction(&json!({"title": "Book", "duration": 600, "starting_bid": 1})).await?;
    let unknown = "00000000-0000-4000-8000-000000000000";
    let mut socket = world.socket("anna").await?;
    let table: [(&str, Value, &str, Value); 14] = [
        ("ping", json!({}), "pong", Value::Null),
        ("dance", json!({}), "error", json!("unknown_event")),
        ("join_auction", json!({"auction_id": "*"}), "error", json!("invalid_request")),
        ("join_auction", json!({}), "error", json!("invalid_request")),
        ("join_auction", json!({"auction_id": unknown}), "error", json!("auction_not_found")),
        ("chat_message", json!({"auction_id": unknown, "message": "x"}), "error", json!("auction_not_found")),
        ("chat_message", json!({"auction_id": id, "message": "x"}), "error", json!("not_joined")),
        ("leave_auction", json!({"auction_id": id}), "error", json!("not_joined")),
        ("place_bid", json!({"auction_id": id, "amount": "1.001"}), "bid_result", json!("invalid_amount")),
        ("place_bid", json!({"auction_id": id}), "bid_result", json!("invalid_request")),
        ("place_bid", json!({"auction_id": unknown, "amount": 5}), "bid_result", json!("auction_not_found")),
        ("place_bid", json!({"auction_id": id, "amount": 5, "max_amount": 9}), "bid_result", json!("invalid_request")),
        ("join_auction", json!({"auction_id": id}), "joined_auction", Value::Null),
        ("leave_auction", json!({"auction_id": id}), "left_auction", Value::Null),
    ];
    for (event, data, answer, code) in table {
        let got = socket.ask(event, data.clone()).await?;
        assert_eq!((&got["event"], &got["data"]["code"]), (&json!(answer), &code), "{event} {data}");
    }
    for raw in ["", "[]", "{", r#"{"event":5}"#, "null"] {
        socket.send_raw(raw).await?;
        assert_eq!(socket.event("error").await?["data"]["code"], "invalid_request", "{raw:?}");
    }
    socket.send_raw(&"x".repeat(70_000)).await?;
    assert_eq!(socket.closed().await?, 1009);
    world.end().await;
    Ok(())
}

/// One who was away gets what he missed, once; identity comes from the token alone.
#[tokio::test(flavor = "multi_thread")]
async fn coming_back_with_last_seq() -> Result<()> {
    let world = World::start("resume").await?;
    let id = world.auction(&json!({"title": "Map", "duration": 600, "starting_bid": 1})).await?;
    let mut anna = world.socket("anna").await?;
    anna.ask("join_auction", json!({"auction_id": id})).await?;
    let bid =
        anna.ask("place_bid", json!({"auction_id": id, "amount": 1, "user_id": "x", "username": "somebody"})).await?;
    let seq = bid["data"]["seq"].as_u64().context("a seq")?;
    let update = anna.event("bid_update").await?;
    assert_eq!(
        (&update["data"]["high_bidder_username"], &update["data"]["you_are_winning"]),
        (&json!("anna"), &json!(true))
    );
    drop(anna);
    for (name, amount) in [("ben", 2), ("cleo", 3), ("ben", 4)] {
        assert_eq!(world.bid(name, &id, &json!(amount)).await?.status, 200);
    }
    let mut anna = world.socket("anna").await?;
    let joined = anna.ask("join_auction", json!({"auction_id": id, "last_seq": seq})).await?;
    // The room may hear of the last bids a moment after their answers: what is missing then follows.
    let mut seqs: Vec<u64> = numbers(&joined["data"]["missed_bids"]);
    assert_eq!(joined["data"]["recovered"], true);
    while seqs.last() != Some(&(seq + 3)) {
        let update = anna.event("bid_update").await?;
        seqs.extend(numbers(&update["data"]["bids"]));
    }
    assert_eq!(seqs, [seq + 1, seq + 2, seq + 3]);
    world.end().await;
    Ok(())
}

/// An edge that did not see the bids go by reads them from the log: up to a thousand, and no further.
#[tokio::test(flavor = "multi_thread")]
async fn coming_back_to_an_edge_that_was_not_there() -> Result<()> {
    let mut world = World::start("resume-log").await?;
    let id = world.auction(&json!({"title": "Map", "duration": 600, "starting_bid": 1})).await?;
    let tokens = (0..8).map(|nth| world.token(&format!("bidder-{nth}"))).collect::<Result<Vec<_>>>()?;
    let mut seqs = Vec::new();
    for amount in 1..=1_100u64 {
        let token = &tokens[usize::try_from(amount % 8)?];
        let answer = world.bid_at(0, token, &json!({"auction_id": id, "amount": amount})).await?;
        seqs.push(answer.json["seq"].as_u64().with_context(|| answer.text.clone())?);
    }
    world.stack.restart_instance(Name::Websocket, 0).await?;
    let mut watcher = world.socket("watcher").await?;
    for (missed, recovered) in [(1_100, false), (1_000, true), (300, true), (5, true), (1, true)] {
        let last_seq = seqs[seqs.len() - missed] - 1;
        let joined = watcher.ask("join_auction", json!({"auction_id": id, "last_seq": last_seq})).await?;
        assert_eq!(joined["data"]["recovered"], recovered, "{missed} missed");
        let expected = if recovered { &seqs[seqs.len() - missed..] } else { &[] };
        assert_eq!(numbers(&joined["data"]["missed_bids"]), expected, "{missed} missed");
    }
    world.end().await;
    Ok(())
}

/// Where the log does not answer one who comes back, he is soon told to start afresh; the next gets everything.
#[tokio::test(flavor = "multi_thread")]
async fn coming_back_while_the_log_is_silent() -> Result<()> {
    let world = World::start("resume-silence").await?;
    let id = world.auction(&json!({"title": "Map", "duration": 600, "starting_bid": 1})).await?;
    let tokens = [world.token("anna")?, world.token("ben")?];
    let mut seqs = Vec::new();
    for amount in 1..=60u64 {
        let token = &tokens[usize::try_from(amount % 2)?];
        let answer = world.bid_at(0, token, &json!({"auction_id": id, "amount": amount})).await?;
        seqs.push(answer.json["seq"].as_u64().with_context(|| answer.text.clone())?);
    }
    // The first opens the room, which knows the newest bids alone.
    let (mut first, mut late) = (world.socket("first").await?, world.socket("late").await?);
    first.ask("join_auction", json!({"auction_id": id})).await?;
    let again = json!({"auction_id": id, "last_seq": seqs[0] - 1});
    let nats = &world.stack.servers.nats[0].process;

    nats.signal(Signal::Stop)?;
    let begun = Instant::now();
    let joined = late.ask("join_auction", again.clone()).await?;
    assert_eq!((&joined["data"]["recovered"], &joined["data"]["seq"]), (&json!(false), &json!(seqs[59])));
    // The room waits a second, NATS's own client would wait 2.5.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    nats.signal(Signal::Continue)?;

    let begun = Instant::now();
    let joined = loop {
        let joined = late.ask("join_auction", again.clone()).await?;
        if joined["data"]["recovered"] == true {
            break joined;
        }
        // After a failure the log is left alone for 5 s: once more with each tick.
        ensure!(begun.elapsed() < Duration::from_secs(15), "never recovered");
        first.event("timer_update").await?;
    };
    assert_eq!(numbers(&joined["data"]["missed_bids"]), seqs);
    world.end().await;
    Ok(())
}

/// A deploy sends its people away in batches, to come back spread over two seconds.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_sent_away_comes_back_spread() -> Result<()> {
    let mut world = World::start("spread").await?;
    let mut sockets = Vec::new();
    for number in 0..40 {
        sockets.push(world.socket(&format!("watcher-{number}")).await?);
    }
    world.stack.restart_instance(Name::Websocket, 0).await?;
    let mut pauses = Vec::new();
    for socket in &mut sockets {
        let draining = socket.event("server_draining").await?;
        pauses.push(draining["data"]["retry_after_ms"].as_u64().context("a pause")?);
        assert_eq!(socket.closed().await?, 1012);
    }
    pauses.sort_unstable();
    let gaps = pauses.windows(2).map(|pair| pair[1] - pair[0]);
    let widest = gaps.max().context("a gap")?;
    assert!(pauses[0] >= 250 && pauses[39] <= 2_250 && widest < 500, "{pauses:?}");
    world.end().await;
    Ok(())
}

/// One who sends without pause is closed when the token expires, like everybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_does_not_outlive_its_token() -> Result<()> {
    let world = World::start("flood-token").await?;
    let user = identity::development::DevelopmentUser::named("anna");
    let token = world.stack.issuer.token_of(&user, 3)?;
    let url = format!("{}/ws?token={token}", world.stack.url(Name::Websocket).replacen("http", "ws", 1));
    let (socket, _) = tokio_tungstenite::connect_async(url).await?;
    let (mut sending, mut reading) = socket.split();
    let flood = tokio::spawn(async move {
        // Until the edge has closed.
        while sending.send(Message::text(r#"{"event":"ping","data":{}}"#)).await.is_ok() {}
    });
    let closed = async {
        while let Some(Ok(message)) = reading.next().await {
            if let Message::Close(close) = message {
                return close.map(|close| u16::from(close.code));
            }
        }
        None
    };
    let closed = tokio::time::timeout(std::time::Duration::from_secs(15), closed).await.context("it goes on")?;
    // Its own flood may drown the close: then the connection is just gone.
    assert!(closed.is_none_or(|code| code == 4401), "{closed:?}");
    flood.abort();
    world.end().await;
    Ok(())
}

fn numbers(bids: &Value) -> Vec<u64> {
    bids.as_array().into_iter().flatten().filter_map(|bid| bid["seq"].as_u64()).collect()
}

/// Frames of a busy auction: seq only rises, gaps are named, at most 20 updates a second, and the end
/// comes last.
#[tokio::test(flavor = "multi_thread")]
async fn frames_rise_and_name_their_gaps() -> Result<()> {
    let world = World::start("frames").await?;
    let id = world
        .auction(&json!({"title": "Bike", "duration": 5, "starting_bid": 1, "anti_snipe": {"mode": "off"}}))
        .await?;
    let mut watcher = world.socket("watcher").await?;
    let joined = watcher.ask("join_auction", json!({"auction_id": id})).await?;
    let tokens = [world.token("anna")?, world.token("ben")?];
    let mut accepted = 0u64;
    for amount in 1..=200u64 {
        let token = &tokens[usize::try_from(amount % 2)?];
        let answer = world.bid_at(0, token, &json!({"auction_id": id, "amount": amount})).await?;
        accepted += u64::from(answer.status == 200);
    }
    let ended = watcher.event("auction_ended").await?;
    assert_eq!(ended["data"]["bid_count"], json!(accepted));
    let mut known = joined["data"]["seq"].as_u64().context("a seq")?;
    let (mut updates, mut bids) = (0u64, 0);
    for frame in watcher.seen.iter().filter(|frame| frame["event"] == "bid_update" || frame["event"] == "timer_update")
    {
        let seq = frame["data"]["seq"].as_u64().context("a seq")?;
        assert!(seq >= known, "{seq} after {known}");
        if frame["event"] == "bid_update" {
            assert_eq!(frame["data"]["previous_seq"], known, "this client reads fast: nothing may be left out");
            bids += numbers(&frame["data"]["bids"]).len() as u64;
            updates += 1;
            known = seq;
        }
    }
    assert_eq!(bids, accepted);
    assert!(updates <= 20 * 6, "{updates} updates in about five seconds");
    let position = |event: &str| watcher.seen.iter().rposition(|frame| frame["event"] == event);
    assert!(position("auction_ended") > position("bid_update"));
    world.end().await;
    Ok(())
}
