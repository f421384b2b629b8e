//! Presence, profiles, own bids, and cancelling.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use flash::stack::Name;
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use testkit::http;
use tokio::time::Instant;

use crate::test_system::TestSystem;

/// Five hundred users join one auction: the number of presence messages grows linearly, not quadratically.
#[tokio::test(flavor = "multi_thread")]
async fn presence_of_500_members_sends_few_messages() -> Result<()> {
    const PEOPLE: usize = 500;
    let system = TestSystem::start("crowd").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    let join = async |nth: usize| {
        let mut socket = system.socket(&format!("person-{nth}")).await?;
        socket.ask("join_auction", json!({"auction_id": id})).await?;
        anyhow::Ok(socket)
    };
    let mut sockets = Vec::new();
    for chunk in (0..PEOPLE).collect::<Vec<_>>().chunks(50) {
        sockets.extend(try_join_all(chunk.iter().map(|nth| join(*nth))).await?);
    }
    let state = format!("/auctions/{id}/state");
    system.wait_for(&state, |state| state["participant_count"] == PEOPLE).await?;
    let mut presence: HashMap<String, usize> = HashMap::new();
    for socket in &mut sockets {
        socket.ask("ping", json!({})).await?;
        for frame in &socket.seen {
            if let Some(event @ ("user_joined" | "user_left" | "presence_update")) = frame["event"].as_str() {
                *presence.entry(event.to_owned()).or_default() += 1;
            }
        }
    }
    let total: usize = presence.values().sum();
    // Up to 50 members each join is announced by name (50²/2 messages in all); above that there is one count a second.
    assert!(total <= PEOPLE * 50, "{total} presence messages: {presence:?}");
    assert!(presence["user_joined"] <= 50 * 50 / 2, "{presence:?}");
    eprintln!("{PEOPLE} users joined: {presence:?}");

    let left = Instant::now();
    drop(sockets);
    system.wait_for(&state, |state| state["participant_count"] == 0).await?;
    assert!(left.elapsed() < Duration::from_secs(5), "the count is 0 after {:?}", left.elapsed());
    system.end().await;
    Ok(())
}

/// A small room announces members by name. A user with another connection has not left. Counts add up over edges.
#[tokio::test(flavor = "multi_thread")]
async fn presence_names_members_and_counts_over_all_edges() -> Result<()> {
    let mut system = TestSystem::start("presence").await?;
    system.stack.add_instance(Name::Websocket).await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    let join = json!({"auction_id": id});
    let mut anna = system.socket("anna").await?;
    assert_eq!(anna.ask("join_auction", join.clone()).await?["data"]["participant_count"], 1);
    let mut ben = system.socket("ben").await?;
    assert_eq!(ben.ask("join_auction", join.clone()).await?["data"]["participant_count"], 2);
    let came = anna.event("user_joined").await?;
    assert_eq!((&came["data"]["username"], &came["data"]["participant_count"]), (&json!("ben"), &json!(2)));

    // Another user at the other edge, and a second connection of ben at this one.
    let edges: Vec<String> = system.stack.urls(Name::Websocket).into_iter().map(str::to_owned).collect();
    let mut cleo = system.socket_at(&edges[1], "cleo").await?;
    cleo.ask("join_auction", join.clone()).await?;
    let update = anna.event("presence_update").await?;
    assert_eq!(update["data"]["participant_count"], 3);
    let mut second = system.socket("ben").await?;
    second.ask("join_auction", join.clone()).await?;
    drop(ben);
    // Closing one of ben's two connections announces nothing; closing the second announces that ben left.
    drop(second);
    let left = anna.event("user_left").await?;
    assert_eq!((&left["data"]["username"], &left["data"]["participant_count"]), (&json!("ben"), &json!(2)));
    assert_eq!(anna.seen.iter().filter(|frame| frame["event"] == "user_joined").count(), 1, "ben joined once");
    drop(cleo);
    let update = anna.event("presence_update").await?;
    assert_eq!(update["data"]["participant_count"], 1);
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn profiles_can_be_edited_and_own_bids_are_paged() -> Result<()> {
    let system = TestSystem::start("profile").await?;
    let (me, anna) = (system.management("/users/me"), system.token("anna")?);
    let profile = http::get(&me, Some(&anna)).await?;
    assert_eq!(
        (profile.status, &profile.json["username"], &profile.json["phone"]),
        (200, &json!("anna"), &Value::Null)
    );
    assert_eq!(profile.json["created_at"].as_str().map(str::len), Some("2026-01-01T00:00:00.000Z".len()));
    let put = async |body: &str| {
        let request = ::http::Request::put(&me).header("authorization", format!("Bearer {anna}"));
        http::send(request.body(body.to_owned().into())?).await
    };
    let changed = put(r#"{"name":"Anna A.","phone":"+49 30 123456","email":"else@example.com"}"#).await?;
    assert_eq!(
        (changed.status, &changed.json["name"], &changed.json["phone"]),
        (200, &json!("Anna A."), &json!("+49 30 123456"))
    );
    assert_eq!(changed.json["email"], profile.json["email"], "the e-mail address follows the token");
    assert_eq!(put(r#"{"phone":""}"#).await?.json["phone"], Value::Null);
    for bad in ["", "[]", r#"{"phone":"call me"}"#, r#"{"name":5}"#, &format!(r#"{{"name":"{}"}}"#, "x".repeat(201))] {
        assert_eq!(put(bad).await?.status, 400, "{bad}");
    }
    assert_eq!(http::get(&me, None).await?.status, 401);

    // Own bids come newest first, in pages, each with its result, from both services.
    let first = system
        .auction(&json!({"title": "One", "duration": 5, "starting_bid": 1, "anti_snipe": {"mode": "off"}}))
        .await?;
    let second = system
        .auction(&json!({"title": "Two", "duration": 600, "starting_bid": 1, "image_url": "https://example.com/2.jpg"}))
        .await?;
    for (name, id, amount) in
        [("anna", &first, 1), ("ben", &first, 2), ("anna", &first, 3), ("anna", &second, 5), ("ben", &second, 6)]
    {
        assert_eq!(system.bid(name, id, &json!(amount)).await?.status, 200);
    }
    system.history(&first, 3).await?;
    system.history(&second, 2).await?;
    system.wait_for(&format!("/auctions/{first}"), |auction| auction["status"] == "closed").await?;
    let expected = [("Two", 5.0, "outbid"), ("One", 3.0, "won"), ("One", 1.0, "lost")];
    for service in [Name::AuctionManagement, Name::BidProcessing] {
        let (mut before, mut found) = (String::new(), Vec::new());
        loop {
            let url = format!("{}/api/bids?limit=2{before}", system.stack.url(service));
            let page = http::get(&url, Some(&anna)).await?;
            assert_eq!(page.status, 200, "{}", page.text);
            found.extend(page.json["bids"].as_array().context("bids")?.iter().cloned());
            match page.json["next_before"].as_str() {
                Some(next) => before = format!("&before={next}"),
                None => break,
            }
        }
        let shown: Vec<_> = found
            .iter()
            .map(|bid| (bid["auction_title"].as_str(), bid["amount"].as_f64(), bid["status"].as_str()))
            .collect();
        assert_eq!(shown, expected.map(|(title, amount, status)| (Some(title), Some(amount), Some(status))));
        assert_eq!(found[0]["auction_image"], "https://example.com/2.jpg");
        let url = format!("{}/bids", system.stack.url(service));
        assert_eq!(http::get(&url, None).await?.status, 401);
        assert_eq!(http::get(&format!("{url}?before=x"), Some(&anna)).await?.status, 400);
        assert_eq!(http::get(&format!("{url}?limit=0"), Some(&anna)).await?.status, 400);
    }
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_host_cancels_an_auction() -> Result<()> {
    let system = TestSystem::start("cancel").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    let mut anna = system.socket("anna").await?;
    anna.ask("join_auction", json!({"auction_id": id})).await?;
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.status, 200);
    let cancel = async |name: &str| {
        http::post(&system.management(&format!("/auctions/{id}/cancel")), Some(&system.token(name)?), &json!({})).await
    };
    let refused = cancel("anna").await?;
    assert_eq!((refused.status, &refused.json["code"]), (403, &json!("not_host")));
    let cancelled = cancel("host").await?;
    assert_eq!(
        (cancelled.status, &cancelled.json["status"], &cancelled.json["outcome"]),
        (200, &json!("cancelled"), &json!("cancelled"))
    );
    assert_eq!((&cancelled.json["winner_id"], &cancelled.json["winning_bid"]), (&Value::Null, &Value::Null));
    let notified = anna.event("auction_cancelled").await?;
    assert_eq!((&notified["data"]["outcome"], &notified["data"]["seq"]), (&json!("cancelled"), &json!(4)));
    assert_eq!(cancel("host").await?.json["code"], "wrong_state");
    assert_eq!(system.bid("ben", &id, &json!(9)).await?.json["code"], "auction_closed");
    system.checked_bids(&id).await?;
    assert_eq!(system.log(&id).await?.last().map(|record| record["type"].clone()), Some(json!("cancelled")));
    let row = system.closed_row(&id).await?;
    assert_eq!((row.status, row.winner, row.winning_bid), (domain::Status::Cancelled.into(), None, None));
    system.end().await;
    Ok(())
}
