//! Chat and its moderation.

use std::time::Duration;

use anyhow::{Context, Result};
use flash::stack::Name;
use futures_util::StreamExt;
use identity::development::DevelopmentUser;
use protocol::subject;
use serde_json::{Value, json};
use testkit::Signal;
use testkit::http;
use testkit::socket::Socket;

use crate::world::World;

/// Says something and returns the answer's event, and code or message id.
async fn say(socket: &mut Socket, id: &str, message: &str) -> Result<(String, Value)> {
    let answer = socket.ask("chat_message", json!({"auction_id": id, "message": message})).await?;
    let (event, data) = (answer["event"].as_str().context("an event")?.to_owned(), &answer["data"]);
    Ok((event, if data["code"].is_null() { data["message_id"].clone() } else { data["code"].clone() }))
}

/// A message that the host takes back is gone for everybody: on screens on every edge, for those who come
/// later, and from the stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_message_is_gone() -> Result<()> {
    let mut world = World::start("delete").await?;
    world.stack.add_instance(Name::Websocket).await?;
    let edges: Vec<String> = world.stack.urls(Name::Websocket).iter().map(|url| (*url).to_owned()).collect();
    let id = world.auction(&json!({"title": "Cup", "duration": 600, "starting_bid": 1})).await?;
    let (mut anna, mut ben) = (world.socket_at(&edges[0], "anna").await?, world.socket_at(&edges[1], "ben").await?);
    let mut host = world.socket_at(&edges[0], "host").await?;
    for socket in [&mut anna, &mut ben, &mut host] {
        socket.ask("join_auction", json!({"auction_id": id})).await?;
    }
    let (event, first) = say(&mut anna, &id, "a rude word").await?;
    assert_eq!(event, "chat_sent");
    let (_, second) = say(&mut ben, &id, "a kind one").await?;
    let delete = |message: &Value| json!({"auction_id": id, "message_id": message});

    // Nobody but the host, and nothing but messages.
    assert_eq!(anna.ask("chat_delete", delete(&first)).await?["data"]["code"], "not_host");
    assert_eq!(host.ask("chat_delete", delete(&json!("*"))).await?["data"]["code"], "invalid_request");
    let deleted = host.ask("chat_delete", delete(&first)).await?;
    assert_eq!((&deleted["event"], &deleted["data"]["message_id"]), (&json!("chat_deleted"), &first));
    for socket in [&mut anna, &mut ben] {
        assert_eq!(socket.event("chat_deleted").await?["data"]["message_id"], first);
    }
    // Asked again, as after an answer that was lost.
    assert_eq!(host.ask("chat_delete", delete(&first)).await?["event"], "chat_deleted");

    let bus = world.bus().await?;
    let stream = bus.jetstream.get_stream(subject::CHAT_STREAM).await?;
    let config = async_nats::jetstream::consumer::pull::OrderedConfig::default();
    let count = stream.get_info().await?.state.messages;
    let mut stored = Vec::new();
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    while stored.len() < usize::try_from(count)? {
        stored.push(String::from_utf8(messages.next().await.context("a message")??.payload.to_vec())?);
    }
    assert!(!stored.iter().any(|message| message.contains("rude")), "{stored:?}");

    // A room opened anew, and whoever asks over HTTP.
    world.stack.restart_instance(Name::Websocket, 0).await?;
    let mut cleo = world.socket("cleo").await?;
    let joined = cleo.ask("join_auction", json!({"auction_id": id})).await?;
    let state = http::get(&world.management(&format!("/auctions/{id}/state")), None).await?.json;
    for shown in [&joined["data"]["chat_messages"], &state["chat_messages"]] {
        let ids: Vec<&Value> = shown.as_array().context("a list")?.iter().map(|said| &said["message_id"]).collect();
        assert_eq!(ids, [&second]);
    }
    world.end().await;
    Ok(())
}

/// One message a second a person, twenty a room; slow mode makes it less, a mute none. The host is above it.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_talk_and_how_often() -> Result<()> {
    let world = World::start("slow-mode").await?;
    let id = world.auction(&json!({"title": "Cup", "duration": 600, "starting_bid": 1})).await?;
    let join = json!({"auction_id": id});
    let (mut anna, mut host) = (world.socket("anna").await?, world.socket("host").await?);
    for socket in [&mut anna, &mut host] {
        socket.ask("join_auction", join.clone()).await?;
    }
    let fast = ("error".to_owned(), json!("chat_too_fast"));
    assert_eq!(say(&mut anna, &id, "one").await?.0, "chat_sent");
    assert_eq!(say(&mut anna, &id, "two").await?, fast);
    // On another connection she is the same person.
    let mut again = world.socket("anna").await?;
    again.ask("join_auction", join.clone()).await?;
    assert_eq!(say(&mut again, &id, "three").await?, fast);
    until_allowed(&mut anna, &id).await?;

    // The room as a whole, the host included: twenty a second, of sixty at once.
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
        let (url, body) = (world.management(&format!("/auctions/{id}/chat")), json!({"slow_mode_seconds": seconds}));
        async move { http::post(&url, Some(&token), &body).await }
    };
    assert_eq!(slow(world.token("anna")?, 60).await?.json["code"], "not_host");
    assert_eq!(slow(world.token("host")?, 4_000).await?.json["code"], "invalid_request");
    assert_eq!(slow(world.token("host")?, 60).await?.status, 200);
    let mut ben = world.socket("ben").await?;
    ben.ask("join_auction", join.clone()).await?;
    until_allowed(&mut ben, &id).await?;
    let left = redis::cmd("PTTL")
        .arg(format!("auction:{{{id}}}:spoke:{}", DevelopmentUser::named("ben").user_id))
        .query_async::<u64>(&mut world.redis().await?)
        .await?;
    assert!(left > 50_000, "slow mode of a minute: {left} ms left");

    let mute = |seconds: u64| json!({"auction_id": id, "user_id": DevelopmentUser::named("cleo").user_id.to_string(), "seconds": seconds});
    let mut cleo = world.socket("cleo").await?;
    cleo.ask("join_auction", join).await?;
    assert_eq!(cleo.ask("chat_mute", mute(60)).await?["data"]["code"], "not_host");
    assert_eq!(host.ask("chat_mute", mute(60)).await?["event"], "chat_muted");
    assert_eq!(cleo.event("chat_muted").await?["data"]["seconds"], 60);
    assert_eq!(say(&mut cleo, &id, "hello").await?, ("error".to_owned(), json!("muted")));
    host.ask("chat_mute", mute(0)).await?;
    until_allowed(&mut cleo, &id).await?;
    // Whatever is said, bids go on.
    assert_eq!(world.bid("cleo", &id, &json!(5)).await?.status, 200);
    world.end().await;
    Ok(())
}

/// While Redis or NATS stand still, whoever talks is told so in seconds and all else on his connection goes on; then
/// the chat does, and a host who asks again has what he wanted.
#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_cannot_be_kept_says_so() -> Result<()> {
    let world = World::start("chat-silence").await?;
    let id = world.auction(&json!({"title": "Cup", "duration": 600, "starting_bid": 1})).await?;
    let (mut anna, mut host) = (world.socket("anna").await?, world.socket("host").await?);
    for socket in [&mut anna, &mut host] {
        socket.ask("join_auction", json!({"auction_id": id})).await?;
    }
    let (_, first) = say(&mut anna, &id, "first").await?;
    let redis = &world.stack.servers.redis[0].process;
    let nats = &world.stack.servers.nats[0].process;
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
    assert_eq!(host.ask("chat_delete", delete).await?["event"], "chat_deleted");
    assert_eq!(anna.event("chat_deleted").await?["data"]["message_id"], first);
    until_allowed(&mut anna, &id).await?;
    world.end().await;
    Ok(())
}

/// Says something until it is allowed.
async fn until_allowed(socket: &mut Socket, id: &str) -> Result<()> {
    let begun = tokio::time::Instant::now();
    while say(socket, id, "patience").await?.0 != "chat_sent" {
        anyhow::ensure!(begun.elapsed() < std::time::Duration::from_secs(5), "never allowed");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(())
}
