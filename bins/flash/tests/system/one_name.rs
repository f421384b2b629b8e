//! One name a person, the table's, at every door.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use identity::development::{DevelopmentUser, claims};
use serde_json::json;
use testkit::socket::{Socket, Transport};
use testkit::{eventually, http};

use crate::test_system::TestSystem;

/// A token of the user `name` that claims another username.
fn claiming(system: &TestSystem, name: &str, username: &str) -> Result<String> {
    let issuer = &system.stack.issuer;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut all = claims(&issuer.issuer, &issuer.client_id, &DevelopmentUser::named(name), now, 600);
    all["preferred_username"] = json!(username);
    Ok(issuer.key.sign(&all)?)
}

async fn username(system: &TestSystem, token: &str) -> Result<String> {
    let profile = http::get(&system.management("/users/me"), Some(token)).await?;
    ensure!(profile.status == 200, "{}", profile.text);
    Ok(profile.json["username"].as_str().context("a name")?.to_owned())
}

/// An auction whose leader may raise the own bid.
async fn auction(system: &TestSystem) -> Result<String> {
    let lot = json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "video": false, "allow_self_raise": true});
    system.auction(&lot).await
}

/// Bids with this token until the log has a bid under `expected`: bid-processing follows the names of the table.
async fn shown_at_last(system: &TestSystem, id: &str, token: &str, expected: &str) -> Result<()> {
    let mut amounts = 3..;
    eventually("the name is the table's", async || {
        let placed = system.bid_at(0, token, &json!({"auction_id": id, "amount": amounts.next()})).await?;
        if placed.json["code"] == "rate_limited" {
            return Ok(None);
        }
        ensure!(placed.status == 200, "{}", placed.text);
        let last = system.checked_bids(id).await?.pop().context("a bid")?;
        Ok((last.username == expected).then_some(()))
    })
    .await
}

/// A person claims the name of another who has a row: over HTTP, in frames, in the chat, in the log and in the result
/// it is the table's name, also after the claim has changed.
#[tokio::test(flavor = "multi_thread")]
async fn taken_name_is_shown_at_no_door() -> Result<()> {
    let mut system = TestSystem::start("one-name").await?;
    let id = auction(&system).await?;
    assert_eq!(username(&system, &system.token("ghost")?).await?, "ghost");
    // Doors that start now read the whole table.
    system.stack.restart_instance(Name::BidProcessing, 0).await?;
    system.stack.restart_instance(Name::Websocket, 0).await?;
    let eve = claiming(&system, "eve", "ghost")?;
    let expected = format!("ghost-{}", &DevelopmentUser::named("eve").user_id.to_string()[..4]);

    let placed = system.bid_at(0, &eve, &json!({"auction_id": id, "amount": 2})).await?;
    assert_eq!(placed.status, 200, "{}", placed.text);
    assert_eq!(system.checked_bids(&id).await?[0].username, expected, "before the table had a row");
    let mut socket = Socket::enter(system.stack.url(Name::Websocket), Transport::Plain, &eve).await?;
    let connected = socket.seen.iter().find(|frame| frame["event"] == "connected").context("connected")?;
    assert_eq!(connected["data"]["username"], expected);
    let joined = socket.ask("join_auction", json!({"auction_id": id})).await?;
    assert_eq!(joined["data"]["high_bidder_username"], expected, "{joined}");
    socket.ask("chat_message", json!({"auction_id": id, "message": "hello"})).await?;
    assert_eq!(socket.event("chat_message").await?["data"]["username"], expected);
    assert_eq!(username(&system, &eve).await?, expected);

    // It looks like the first one: the o is Cyrillic.
    let twin = claiming(&system, "fred", "gh\u{43e}st")?;
    let looks_alike = format!("gh\u{43e}st-{}", &DevelopmentUser::named("fred").user_id.to_string()[..4]);
    assert_eq!(username(&system, &twin).await?, looks_alike);

    // A name that is free in the table is not shown for a person who has another one there.
    let renamed = claiming(&system, "eve", "another")?;
    shown_at_last(&system, &id, &renamed, &expected).await?;
    let closed = system.management(&format!("/auctions/{id}/close"));
    assert_eq!(http::post(&closed, Some(&system.token("host")?), &json!({})).await?.status, 200);
    assert_eq!(system.closed_row(&id).await?.winner.map(|winner| winner.username), Some(expected));
    system.end().await;
    Ok(())
}

/// Without auction-management a new person bids at once, under a name that no other person has.
#[tokio::test(flavor = "multi_thread")]
async fn bids_do_not_wait_for_names() -> Result<()> {
    let mut system = TestSystem::start("names-away").await?;
    let id = auction(&system).await?;
    assert_eq!(username(&system, &system.token("ghost")?).await?, "ghost");
    system.stack.kill_instance(Name::AuctionManagement, 0).await?;
    system.stack.restart_instance(Name::BidProcessing, 0).await?;
    let eve = claiming(&system, "eve", "ghost")?;
    let since = tokio::time::Instant::now();
    let placed = system.bid_at(0, &eve, &json!({"auction_id": id, "amount": 2})).await?;
    assert_eq!(placed.status, 200, "{}", placed.text);
    assert!(since.elapsed() < Duration::from_secs(2), "after {:?}", since.elapsed());
    let expected = format!("ghost-{}", &DevelopmentUser::named("eve").user_id.to_string()[..4]);
    assert_eq!(system.checked_bids(&id).await?[0].username, expected);

    // Once auction-management is back, the table's names are shown again.
    system.stack.add_instance(Name::AuctionManagement).await?;
    shown_at_last(&system, &id, &system.token("ghost")?, "ghost").await?;
    system.end().await;
    Ok(())
}
