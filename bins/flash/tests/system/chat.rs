//! Chat and its moderation.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use futures_util::StreamExt;
use identity::development::DevelopmentUser;
use protocol::subject;
use serde_json::{Value, json};
use testkit::Signal;
use testkit::http;
use testkit::socket::Socket;

use crate::test_system::TestSystem;

/// Sends a message and returns the event of the answer, and its code or message id.
async fn say(socket: &mut Socket, id: &str, message: &str) -> Result<(String, Value)> {
    let answer = socket.ask("chat_message", json!({"auction_id": id, "message": message})).await?;
    let (event, data) = (answer["event"].as_str().context("an event")?.to_owned(), &answer["data"]);
    Ok((event, if data["code"].is_null() { data["message_id"].clone() } else { data["code"].clone() }))
}

/// A message that the host deletes disappears from screens on every edge, from the state that later clients get,
/// and from the stream.
#[tokio::test(flavor = "multi_thread")]
async fn deleted_message_disappears_everywhere() -> Result<()> {
    let mut system = TestSystem::start("delete").await?;
    system.stack.add_instance(Name::Websocket).await?;
    let edges: Vec<String> = system.stack.urls(Name::Websocket).iter().map(|url| (*url).to_owned()).collect();
    let id = system.auction(&json!({"title": "Cup", "duration": 600, "starting_bid": 1})).await?;
    let (mut anna, mut ben) = (system.socket_at(&edges[0], "anna").await?, system.socket_at(&edges[1], "ben").await?);
    let mut host = system.socket_at(&edges[0], "host").await?;
    for socket in [&mut anna, &mut ben, &mut host] {
        socket.ask("join_auction", json!({"auction_id": id})).await?;
    }
    let (event, first) = say(&mut anna, &id, "a rude word").await?;
    assert_eq!(event, "chat_sent");
    let (_, second) = say(&mut ben, &id, "a kind one").await?;
    let delete = |message: &Value| json!({"auction_id": id, "message_id": message});

    // Only the host may delete, and only messages.
    assert_eq!(anna.ask("chat_delete", delete(&first)).await?["data"]["code"], "not_host");
    assert_eq!(host.ask("chat_delete", delete(&json!("*"))).await?["data"]["code"], "invalid_request");
    let deleted = host.ask("chat_delete", delete(&first)).await?;
    assert_eq!((&deleted["event"], &deleted["data"]["message_id"]), (&json!("chat_deleted"), &first));
    for socket in [&mut anna, &mut ben] {
        assert_eq!(socket.event("chat_deleted").await?["data"]["message_id"], first);
    }
    // A repeated request, as after a lost answer, has the same answer.
    assert_eq!(host.ask("chat_delete", delete(&first)).await?["event"], "chat_deleted");

    let bus = system.bus().await?;
    let stream = bus.jetstream.get_stream(subject::CHAT_STREAM).await?;
    let config = async_nats::jetstream::consumer::pull::OrderedConfig::default();
    let count = stream.get_info().await?.state.messages;
    let mut stored = Vec::new();
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    while stored.len() < usize::try_from(count)? {
        stored.push(String::from_utf8(messages.next().await.context("a message")??.payload.to_vec())?);
    }
    assert!(!stored.iter().any(|message| message.contains("rude")), "{stored:?}");

    // A room that is opened again, and a request over HTTP.
    system.stack.restart_instance(Name::Websocket, 0).await?;
    let mut cleo = system.socket("cleo").await?;
    let joined = cleo.ask("join_auction", json!({"auction_id": id})).await?;
    let state = http::get(&system.management(&format!("/auctions/{id}/state")), None).await?.json;
    for shown in [&joined["data"]["chat_messages"], &state["chat_messages"]] {
        let ids: Vec<&Value> = shown.as_array().context("a list")?.iter().map(|said| &said["message_id"]).collect();
        assert_eq!(ids, [&second]);
    }
    system.end().await;
    Ok(())
}

/// Chat is limited to one message a second for each user and twenty for the room. Slow mode lowers the user's limit and
/// a mute blocks the user. The host is exempt from the user's limit.
#[tokio::test(flavor = "multi_thread")]
async fn chat_limits_slow_mode_and_mutes_are_enforced() -> Result<()> {
    let system = TestSystem::start("slow-mode").await?;
    let id = system.auction(&json!({"title": "Cup", "duration": 600, "starting_bid": 1})).await?;
    let join = json!({"auction_id": id});
    let (mut anna, mut host) = (system.socket("anna").await?, system.socket("host").await?);
    for socket in [&mut anna, &mut host] {
        socket.ask("join_auction", join.clone()).await?;
    }
    let fast = ("error".to_owned(), json!("chat_too_fast"));
    assert_eq!(say(&mut anna, &id, "one").await?.0, "chat_sent");
    assert_eq!(say(&mut anna, &id, "two").await?, fast);
    // Another connection of the same user shares the limit.
    let mut again = system.socket("anna").await?;
    again.ask("join_auction", join.clone()).await?;
    assert_eq!(say(&mut again, &id, "three").await?, fast);
    until_allowed(&mut anna, &id).await?;

    // The host has a limit as large as the room's: twenty messages a second, of sixty sent at once.
    let begun = tokio::time::Instant::now();
    for number in 1_000..1_060 {
        host.request("chat_message", json!({"auction_id": id, "message": "x"}), number).await?;
    }
    let mut sent = 0;
    for number in 1_000..1_060 {
        sent += u64::from(host.until(|frame| frame["id"] == number).await?["event"] == "chat_sent");
    }
    let seconds = begun.elapsed().as_secs();
    assert!((15..=20 * (seconds + 2)).contains(&sent), "{sent} of 60 in {seconds} s");

    let slow = |token: String, seconds: u64| {
        let (url, body) = (system.management(&format!("/auctions/{id}/chat")), json!({"slow_mode_seconds": seconds}));
        async move { http::post(&url, Some(&token), &body).await }
    };
    assert_eq!(slow(system.token("anna")?, 60).await?.json["code"], "not_host");
    assert_eq!(slow(system.token("host")?, 4_000).await?.json["code"], "invalid_request");
    assert_eq!(slow(system.token("host")?, 60).await?.status, 200);
    let mut ben = system.socket("ben").await?;
    ben.ask("join_auction", join.clone()).await?;
    until_allowed(&mut ben, &id).await?;
    let left = redis::cmd("PTTL")
        .arg(format!("auction:{{{id}}}:spoke:{}", DevelopmentUser::named("ben").user_id))
        .query_async::<u64>(&mut system.redis().await?)
        .await?;
    assert!(left > 50_000, "slow mode of a minute: {left} ms left");

    // The flood has used up what its connection may ask for.
    let mut host = system.socket("host").await?;
    host.ask("join_auction", join.clone()).await?;
    let mute = |seconds: u64| json!({"auction_id": id, "user_id": DevelopmentUser::named("cleo").user_id.to_string(), "seconds": seconds});
    let mut cleo = system.socket("cleo").await?;
    cleo.ask("join_auction", join).await?;
    assert_eq!(cleo.ask("chat_mute", mute(60)).await?["data"]["code"], "not_host");
    assert_eq!(host.ask("chat_mute", mute(60)).await?["event"], "chat_muted");
    assert_eq!(cleo.event("chat_muted").await?["data"]["seconds"], 60);
    assert_eq!(say(&mut cleo, &id, "hello").await?, ("error".to_owned(), json!("muted")));
    host.ask("chat_mute", mute(0)).await?;
    until_allowed(&mut cleo, &id).await?;
    // A muted user can still bid.
    assert_eq!(system.bid("cleo", &id, &json!(5)).await?.status, 200);
    system.end().await;
    Ok(())
}

/// While Redis or NATS is stopped, a chat request is answered `unavailable` within seconds and other requests of the
/// connection are answered at once. Afterwards chat works again, and a repeated deletion succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn chat_is_unavailable_while_redis_or_nats_hangs() -> Result<()> {
    let system = TestSystem::start("chat-silence").await?;
    let id = system.auction(&json!({"title": "Cup", "duration": 600, "starting_bid": 1})).await?;
    let (mut anna, mut host) = (system.socket("anna").await?, system.socket("host").await?);
    for socket in [&mut anna, &mut host] {
        socket.ask("join_auction", json!({"auction_id": id})).await?;
    }
    let (_, first) = say(&mut anna, &id, "first").await?;
    let redis = &system.stack.servers.redis[0].process;
    let nats = &system.stack.servers.nats[0].process;
    let unavailable = async |socket: &mut Socket, event: &str, data: Value| {
        let begun = tokio::time::Instant::now();
        socket.request(event, data, 1_000).await?;
        assert_eq!(socket.ask("ping", json!({})).await?["event"], "pong");
        let early = begun.elapsed();
        assert_eq!(socket.until(|frame| frame["id"] == 1_000).await?["data"]["code"], "unavailable");
        assert!(early < Duration::from_secs(1) && begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        anyhow::Ok(())
    };

    redis.signal(Signal::Stop)?;
    unavailable(&mut anna, "chat_message", json!({"auction_id": id, "message": "second"})).await?;
    redis.signal(Signal::Continue)?;
    until_allowed(&mut anna, &id).await?;

    let delete = json!({"auction_id": id, "message_id": first});
    nats.signal(Signal::Stop)?;
    unavailable(&mut host, "chat_delete", delete.clone()).await?;
    nats.signal(Signal::Continue)?;
    // NATS answers a moment after it goes on.
    let begun = tokio::time::Instant::now();
    while host.ask("chat_delete", delete.clone()).await?["event"] != "chat_deleted" {
        ensure!(begun.elapsed() < Duration::from_secs(10), "the message cannot be deleted");
    }
    assert_eq!(anna.event("chat_deleted").await?["data"]["message_id"], first);
    until_allowed(&mut anna, &id).await?;
    system.end().await;
    Ok(())
}

/// Sends messages until one is accepted.
async fn until_allowed(socket: &mut Socket, id: &str) -> Result<()> {
    testkit::eventually("a message is accepted", async || {
        Ok((say(socket, id, "patience").await?.0 == "chat_sent").then_some(()))
    })
    .await
}
