//! Limits of a person: open auctions and creations in an hour, over all instances, and a fair share of a chat.

use anyhow::{Context, Result};
use flash::stack::Name;
use futures_util::future::try_join_all;
use identity::development::DevelopmentUser;
use serde_json::json;
use testkit::http::{self, Reply};

use crate::test_system::TestSystem;

/// Concurrent creations, four times as many as the limits below allow.
const CREATIONS: usize = 12;
const ALLOWED: usize = 3;

/// A system with two instances of auction-management and this limit.
async fn limited(test: &str, limit: &str) -> Result<TestSystem> {
    let mut system = TestSystem::with(test, vec![(limit.to_owned(), ALLOWED.to_string())], false).await?;
    system.stack.add_instance(Name::AuctionManagement).await?;
    Ok(system)
}

/// A creation at the `nth` instance.
async fn create(system: &TestSystem, nth: usize, host: &str, key: &str) -> Result<Reply> {
    let urls = system.stack.urls(Name::AuctionManagement);
    let url = format!("{}/auctions", urls[nth % urls.len()]);
    let lot = json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "video": false});
    let request = http::request("POST", &url, Some(&system.token(host)?)).header("idempotency-key", key);
    http::send(request.body(lot.to_string().into())?).await
}

/// Concurrent creations of one host, each with a key of its own, at both instances.
async fn create_at_once(system: &TestSystem) -> Result<Vec<Reply>> {
    let keys: Vec<String> = (0..CREATIONS).map(key).collect();
    try_join_all(keys.iter().enumerate().map(|(nth, key)| create(system, nth, "host", key))).await
}

fn key(nth: usize) -> String {
    format!("lot {nth}")
}

fn id(reply: &Reply) -> Result<String> {
    Ok(reply.json["auction_id"].as_str().with_context(|| reply.text.clone())?.to_owned())
}

async fn end(system: &TestSystem, id: &str, action: &str) -> Result<()> {
    let url = system.management(&format!("/auctions/{id}/{action}"));
    let ended = http::post(&url, Some(&system.token("host")?), &json!({})).await?;
    assert_eq!(ended.status, 200, "{}", ended.text);
    system.closed_row(id).await?;
    Ok(())
}

/// Twelve concurrent creations at two instances: three succeed. A repeated key returns its auction, another host is
/// not affected, and each ended auction makes place for one.
#[tokio::test(flavor = "multi_thread")]
async fn host_has_a_bounded_number_of_open_auctions() -> Result<()> {
    let system = limited("open-auctions", "MAX_OPEN_AUCTIONS_PER_USER").await?;
    let replies = create_at_once(&system).await?;
    let (created, refused): (Vec<_>, Vec<_>) = replies.iter().enumerate().partition(|(_, reply)| reply.status == 201);
    assert_eq!(created.len(), ALLOWED);
    for (_, reply) in &refused {
        assert_eq!((reply.status, &reply.json["code"]), (403, &json!("limit_exceeded")), "{}", reply.text);
    }
    for (nth, reply) in &created {
        let again = create(&system, nth + 1, "host", &key(*nth)).await?;
        assert_eq!((again.status, id(&again)?), (201, id(reply)?), "a repeated key at the other instance");
    }
    assert_eq!(create(&system, 0, "anna", &key(0)).await?.status, 201, "another host");

    end(&system, &id(created[0].1)?, "close").await?;
    let refused_before = key(refused[0].0);
    let next = create(&system, 0, "host", &refused_before).await?;
    assert_eq!(next.status, 201, "the key of a refused creation is free: {}", next.text);
    assert_eq!(create(&system, 1, "host", "one more").await?.status, 403);
    system.end().await;
    Ok(())
}

/// Twelve concurrent creations at two instances: three succeed within the hour, and an auction that has ended still
/// counts. The other replies say how long to wait, and a repeated key is not counted.
#[tokio::test(flavor = "multi_thread")]
async fn host_creates_a_bounded_number_of_auctions_in_an_hour() -> Result<()> {
    let system = limited("creations", "MAX_AUCTIONS_PER_USER_PER_HOUR").await?;
    let rejected = |reply: &Reply| -> Result<()> {
        assert_eq!((reply.status, &reply.json["code"]), (429, &json!("rate_limited")), "{}", reply.text);
        let seconds: u64 = reply.headers.get("retry-after").context("Retry-After")?.to_str()?.parse()?;
        assert!((3_000..=3_601).contains(&seconds), "{seconds}");
        Ok(())
    };
    let replies = create_at_once(&system).await?;
    let (created, refused): (Vec<_>, Vec<_>) = replies.iter().enumerate().partition(|(_, reply)| reply.status == 201);
    assert_eq!(created.len(), ALLOWED);
    for (_, reply) in refused {
        rejected(reply)?;
    }
    let (nth, first) = created[0];
    end(&system, &id(first)?, "cancel").await?;
    rejected(&create(&system, 0, "host", "one more").await?)?;
    let again = create(&system, 0, "host", &key(nth)).await?;
    assert_eq!((again.status, &again.json["status"]), (201, &json!("cancelled")), "{}", again.text);
    assert_eq!(create(&system, 0, "anna", &key(0)).await?.status, 201, "another host");
    system.end().await;
    Ok(())
}

/// In a busy room a guest who has just sent a message waits, another one does not; in a full room only the host speaks.
#[tokio::test(flavor = "multi_thread")]
async fn busy_chat_keeps_places_for_the_quiet_and_the_host() -> Result<()> {
    let system = TestSystem::start("busy-chat").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "video": false})).await?;
    let (mut anna, mut ben) = (system.socket("anna").await?, system.socket("ben").await?);
    let mut host = system.socket("host").await?;
    for socket in [&mut anna, &mut ben, &mut host] {
        socket.ask("join_auction", json!({"auction_id": id})).await?;
    }
    let message = json!({"auction_id": id, "message": "x"});
    let mut redis = system.redis().await?;
    // Without an expiry: this second does not end.
    let mut room = async |messages: u64| {
        redis::cmd("SET").arg(format!("auction:{{{id}}}:said")).arg(messages).query_async::<()>(&mut redis).await
    };
    room(1).await?;
    assert_eq!(anna.ask("chat_message", message.clone()).await?["event"], "chat_sent");
    room(15).await?;
    let pause = format!("auction:{{{id}}}:spoke:{}", DevelopmentUser::named("anna").user_id);
    redis::cmd("DEL").arg(pause).query_async::<()>(&mut system.redis().await?).await?;
    assert_eq!(anna.ask("chat_message", message.clone()).await?["data"]["code"], "chat_too_fast");
    assert_eq!(ben.ask("chat_message", message.clone()).await?["event"], "chat_sent");
    room(20).await?;
    let mut cleo = system.socket("cleo").await?;
    cleo.ask("join_auction", json!({"auction_id": id})).await?;
    assert_eq!(cleo.ask("chat_message", message.clone()).await?["data"]["code"], "chat_too_fast");
    for _ in 0..9 {
        assert_eq!(host.ask("chat_message", message.clone()).await?["event"], "chat_sent");
    }
    system.end().await;
    Ok(())
}
