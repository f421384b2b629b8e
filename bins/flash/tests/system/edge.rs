//! The plain WebSocket transport.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use testkit::Signal;
use testkit::socket::Socket;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::test_system::TestSystem;

#[tokio::test(flavor = "multi_thread")]
async fn connection_requires_a_valid_token() -> Result<()> {
    let system = TestSystem::start("door").await?;
    let edge = format!("{}/ws", system.stack.url(Name::Websocket).replacen("http", "ws", 1));

    // A first frame with the token.
    let mut socket = Socket::connect(&edge).await?;
    socket
        .send_raw(&json!({"event": "authenticate", "data": {"token": system.token("anna")?}, "id": "a"}).to_string())
        .await?;
    let connected = socket.event("connected").await?;
    assert_eq!((&connected["data"]["username"], &connected["data"]["protocol"]), (&json!("anna"), &json!(1)));
    let authenticated = socket.event("authenticated").await?;
    assert_eq!(authenticated["id"], "a");

    // Clients with a bad token get an error, then a close with 4401.
    let expired = system.stack.issuer.key.mint(
        &system.stack.issuer.issuer,
        &system.stack.issuer.client_id,
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
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_answered_once() -> Result<()> {
    let system = TestSystem::start("requests").await?;
    let id = system.auction(&json!({"title": "Book", "duration": 600, "starting_bid": 1})).await?;
    let unknown = "00000000-0000-4000-8000-000000000000";
    let mut socket = system.socket("anna").await?;
    let table: [(&str, Value, &str, Value); 14] = [
        ("ping", json!({}), "pong", Value::Null),
        ("dance", json!({}), "error", json!("unknown_event")),
        ("join_auction", json!({"auction_id": "*"}), "error", json!("invalid_request")),
        ("join_auction", json!({}), "error", json!("invalid_request")),
        ("join_auction", json!({"auction_id": unknown}), "error", json!("auction_not_found")),
        ("chat_message", json!({"auction_id": unknown, "message": "x"}), "error", json!("not_joined")),
        ("chat_message", json!({"auction_id": id, "message": "x"}), "error", json!("not_joined")),
        ("leave_auction", json!({"auction_id": id}), "error", json!("not_joined")),
        ("place_bid", json!({"auction_id": id, "amount": "1.001"}), "bid_result", json!("invalid_amount")),
        ("place_bid", json!({"auction_id": id}), "bid_result", json!("invalid_request")),
        ("place_bid", json!({"auction_id": unknown, "amount": 5}), "bid_result", json!("auction_not_found")),
        ("place_bid", json!({"auction_id": id, "amount": 5, "max_amount": 4}), "bid_result", json!("invalid_amount")),
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
    system.end().await;
    Ok(())
}

/// A client that rejoins gets each missed bid once. Its identity comes only from the token.
#[tokio::test(flavor = "multi_thread")]
async fn rejoin_with_last_seq_returns_missed_bids() -> Result<()> {
    let system = TestSystem::start("resume").await?;
    let id = system.auction(&json!({"title": "Map", "duration": 600, "starting_bid": 1})).await?;
    let mut anna = system.socket("anna").await?;
    anna.ask("join_auction", json!({"auction_id": id})).await?;
    let bid =
        anna.ask("place_bid", json!({"auction_id": id, "amount": 1, "user_id": "x", "username": "impostor"})).await?;
    let seq = bid["data"]["seq"].as_u64().context("a seq")?;
    let update = anna.event("bid_update").await?;
    assert_eq!(
        (&update["data"]["high_bidder_username"], &update["data"]["you_are_winning"]),
        (&json!("anna"), &json!(true))
    );
    drop(anna);
    for (name, amount) in [("ben", 2), ("cleo", 3), ("ben", 4)] {
        assert_eq!(system.bid(name, &id, &json!(amount)).await?.status, 200);
    }
    let mut anna = system.socket("anna").await?;
    let joined = anna.ask("join_auction", json!({"auction_id": id, "last_seq": seq})).await?;
    // The room may receive the last bids a moment after their answers; they then follow as updates.
    let mut seqs: Vec<u64> = numbers(&joined["data"]["missed_bids"]);
    assert_eq!(joined["data"]["recovered"], true);
    while seqs.last() != Some(&(seq + 3)) {
        let update = anna.event("bid_update").await?;
        seqs.extend(numbers(&update["data"]["bids"]));
    }
    assert_eq!(seqs, [seq + 1, seq + 2, seq + 3]);
    system.end().await;
    Ok(())
}

/// An edge that started after the bids reads them from the log, up to a thousand.
#[tokio::test(flavor = "multi_thread")]
async fn restarted_edge_reads_missed_bids_from_the_log() -> Result<()> {
    let mut system = TestSystem::start("resume-log").await?;
    let id = system.auction(&json!({"title": "Map", "duration": 600, "starting_bid": 1})).await?;
    let tokens = (0..8).map(|nth| system.token(&format!("bidder-{nth}"))).collect::<Result<Vec<_>>>()?;
    let mut seqs = Vec::new();
    for amount in 1..=1_100u64 {
        let token = &tokens[usize::try_from(amount % 8)?];
        let answer = system.bid_at(0, token, &json!({"auction_id": id, "amount": amount})).await?;
        seqs.push(answer.json["seq"].as_u64().with_context(|| answer.text.clone())?);
    }
    system.stack.restart_instance(Name::Websocket, 0).await?;
    let mut watcher = system.socket("watcher").await?;
    for (missed, recovered) in [(1_100, false), (1_000, true), (300, true), (5, true), (1, true)] {
        let last_seq = seqs[seqs.len() - missed] - 1;
        let joined = watcher.ask("join_auction", json!({"auction_id": id, "last_seq": last_seq})).await?;
        assert_eq!(joined["data"]["recovered"], recovered, "{missed} missed");
        let expected = if recovered { &seqs[seqs.len() - missed..] } else { &[] };
        assert_eq!(numbers(&joined["data"]["missed_bids"]), expected, "{missed} missed");
    }
    system.end().await;
    Ok(())
}

/// While the log does not answer, a rejoin is soon answered without the missed bids; a later one gets them all.
#[tokio::test(flavor = "multi_thread")]
async fn rejoin_is_answered_while_the_log_hangs() -> Result<()> {
    let system = TestSystem::start("resume-silence").await?;
    let id = system.auction(&json!({"title": "Map", "duration": 600, "starting_bid": 1})).await?;
    let tokens = [system.token("anna")?, system.token("ben")?];
    let mut seqs = Vec::new();
    for amount in 1..=60u64 {
        let token = &tokens[usize::try_from(amount % 2)?];
        let answer = system.bid_at(0, token, &json!({"auction_id": id, "amount": amount})).await?;
        seqs.push(answer.json["seq"].as_u64().with_context(|| answer.text.clone())?);
    }
    // The first client opens the room, which knows only the newest bids.
    let (mut first, mut late) = (system.socket("first").await?, system.socket("late").await?);
    first.ask("join_auction", json!({"auction_id": id})).await?;
    let again = json!({"auction_id": id, "last_seq": seqs[0] - 1});
    let nats = &system.stack.servers.nats[0].process;

    nats.signal(Signal::Stop)?;
    let begun = Instant::now();
    let joined = late.ask("join_auction", again.clone()).await?;
    assert_eq!((&joined["data"]["recovered"], &joined["data"]["seq"]), (&json!(false), &json!(seqs[59])));
    // The room waits a second; the NATS client would wait 2.5.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    nats.signal(Signal::Continue)?;

    let begun = Instant::now();
    let joined = loop {
        let joined = late.ask("join_auction", again.clone()).await?;
        if joined["data"]["recovered"] == true {
            break joined;
        }
        // After a failure the room does not read the log for 5 s: retry with each tick.
        ensure!(begun.elapsed() < Duration::from_secs(15), "never recovered");
        first.event("timer_update").await?;
    };
    assert_eq!(numbers(&joined["data"]["missed_bids"]), seqs);
    system.end().await;
    Ok(())
}

/// A draining edge disconnects its clients in batches, with reconnect delays spread over two seconds.
#[tokio::test(flavor = "multi_thread")]
async fn drain_spreads_reconnect_delays() -> Result<()> {
    let mut system = TestSystem::start("spread").await?;
    let mut sockets = Vec::new();
    for number in 0..40 {
        sockets.push(system.socket(&format!("watcher-{number}")).await?);
    }
    system.stack.restart_instance(Name::Websocket, 0).await?;
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
    system.end().await;
    Ok(())
}

/// A client that sends without pause is still closed when its token expires.
#[tokio::test(flavor = "multi_thread")]
async fn flooding_client_is_closed_when_its_token_expires() -> Result<()> {
    let system = TestSystem::start("flood-token").await?;
    let user = identity::development::DevelopmentUser::named("anna");
    let token = system.stack.issuer.token_of(&user, 3)?;
    let url = format!("{}/ws?token={token}", system.stack.url(Name::Websocket).replacen("http", "ws", 1));
    let (socket, _) = testkit::socket::upgrade(&url).await?;
    let (mut sending, mut reading) = socket.split();
    let flood = tokio::spawn(async move {
        // Sends until the edge closes the connection.
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
    let closed = tokio::time::timeout(std::time::Duration::from_secs(15), closed)
        .await
        .context("the connection was not closed")?;
    // The flood may displace the close frame; the connection then ends without it.
    assert!(closed.is_none_or(|code| code == 4401), "{closed:?}");
    flood.abort();
    system.end().await;
    Ok(())
}

fn numbers(bids: &Value) -> Vec<u64> {
    bids.as_array().into_iter().flatten().filter_map(|bid| bid["seq"].as_u64()).collect()
}

/// In the frames of a busy auction seq only rises, each update names its predecessor, there are at most 20 updates a
/// second, and the end comes last.
#[tokio::test(flavor = "multi_thread")]
async fn frames_have_rising_seq_and_name_gaps() -> Result<()> {
    let system = TestSystem::start("frames").await?;
    let id = system
        .auction(&json!({"title": "Bike", "duration": 5, "starting_bid": 1, "anti_snipe": {"mode": "off"}}))
        .await?;
    let mut watcher = system.socket("watcher").await?;
    let joined = watcher.ask("join_auction", json!({"auction_id": id})).await?;
    let tokens = [system.token("anna")?, system.token("ben")?];
    let mut accepted = 0u64;
    for amount in 1..=200u64 {
        let token = &tokens[usize::try_from(amount % 2)?];
        let answer = system.bid_at(0, token, &json!({"auction_id": id, "amount": amount})).await?;
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
            assert_eq!(frame["data"]["previous_seq"], known, "a client that reads fast gets every update");
            bids += numbers(&frame["data"]["bids"]).len() as u64;
            updates += 1;
            known = seq;
        }
    }
    assert_eq!(bids, accepted);
    assert!(updates <= 20 * 6, "{updates} updates in about five seconds");
    let position = |event: &str| watcher.seen.iter().rposition(|frame| frame["event"] == event);
    assert!(position("auction_ended") > position("bid_update"));
    system.end().await;
    Ok(())
}
