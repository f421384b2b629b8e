//! Auctions from creation to close.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use domain::{Outcome, Status};
use serde_json::{Value, json};
use store::Claimed;
use testkit::http;

use crate::test_system::TestSystem;

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("a few more million years")
}

#[tokio::test(flavor = "multi_thread")]
async fn auction_runs_from_creation_to_hammer() -> Result<()> {
    let system = TestSystem::start("hammer").await?;
    let created_at = Instant::now();
    let auction = system
        .create("host", &json!({"title": "Lamp", "duration": 5, "starting_bid": 10, "anti_snipe": {"mode": "off"}}))
        .await?;
    let id = auction["auction_id"].as_str().context("an id")?.to_owned();
    assert_eq!(
        (&auction["status"], &auction["starting_bid"], &auction["bid_increment"]),
        (&json!("live"), &json!(10.0), &json!(1.0))
    );
    assert_eq!(
        (&auction["outcome"], &auction["bid_count"], &auction["duration"]),
        (&Value::Null, &json!(0), &json!(5))
    );

    let mut anna = system.socket("anna").await?;
    let joined = anna.ask("join_auction", json!({"auction_id": id})).await?;
    assert_eq!(joined["event"], "joined_auction");
    assert_eq!(joined["data"]["current_high_bid"], Value::Null);
    assert_eq!(joined["data"]["minimum_bid"], json!(10.0));
    anna.event("timer_update").await?;
    assert!(created_at.elapsed() < Duration::from_millis(1_500), "first tick after {:?}", created_at.elapsed());

    // Bids over the socket and over HTTP, and a rejected one.
    let over_socket = anna.ask("place_bid", json!({"auction_id": id, "amount": "10.50"})).await?;
    assert_eq!((&over_socket["event"], &over_socket["data"]["status"]), (&json!("bid_result"), &json!("accepted")));
    assert_eq!(over_socket["data"]["minimum_bid"], json!(11.5));
    let too_low = system.bid("ben", &id, &json!(11.49)).await?;
    assert_eq!(
        (too_low.status, &too_low.json["code"], &too_low.json["minimum_bid"]),
        (409, &json!("bid_too_low"), &json!(11.5))
    );
    let over_http = system.bid("ben", &id, &json!(12)).await?;
    assert_eq!((over_http.status, &over_http.json["is_highest"]), (200, &json!(true)), "{}", over_http.text);

    let update = anna.until(|frame| frame["event"] == "bid_update" && frame["data"]["high_bid"] == json!(12.0)).await?;
    assert_eq!(
        (&update["data"]["high_bidder_username"], &update["data"]["you_are_winning"]),
        (&json!("ben"), &json!(false))
    );
    assert_eq!((&update["data"]["seq"], &update["data"]["previous_seq"]), (&json!(4), &json!(3)));
    assert_eq!(update["data"]["bids"][0]["username"], "ben");

    // The close.
    let ended = anna.event("auction_ended").await?;
    let end_time = ended["data"]["end_time"].as_u64().context("an end")?;
    let late_by = now_ms().saturating_sub(end_time);
    assert!(late_by < 1_000, "the frame came {late_by} ms after the end");
    assert_eq!((&ended["data"]["outcome"], &ended["data"]["winner_username"]), (&json!("sold"), &json!("ben")));
    assert_eq!((&ended["data"]["winning_bid"], &ended["data"]["you_won"]), (&json!(12.0), &json!(false)));
    let after = system.bid("anna", &id, &json!(100)).await?;
    assert_eq!(
        (after.status, &after.json["code"], &after.json["error"]),
        (409, &json!("auction_closed"), &json!("Auction is closed"))
    );

    // The log, the history, PostgreSQL and the answers agree.
    let log = system.log(&id).await?;
    let kinds: Vec<&str> = log.iter().filter_map(|record| record["type"].as_str()).collect();
    assert_eq!(kinds, ["created", "opened", "bids", "bids", "closed"]);
    let closed = &log[4];
    assert_eq!(
        (&closed["state"]["winner_username"], &closed["state"]["winning_bid_cents"]),
        (&json!("ben"), &json!(1_200))
    );
    let due = closed["state"]["end_time"].as_u64().context("an end")?;
    assert!(closed["time"].as_u64() >= Some(due) && closed["time"].as_u64() < Some(due + 1_000));
    assert_eq!(closed["state"]["ended_at"].as_u64(), Some(end_time), "the frame has the real end");

    let bids = system.checked_bids(&id).await?;
    let history = system.history(&id, bids.len()).await?;
    for (bid, item) in bids.iter().zip(&history) {
        assert_eq!(
            (item["seq"].as_u64(), item["bid_id"].as_str()),
            (Some(bid.seq), Some(bid.bid_id.to_string().as_str()))
        );
        assert_eq!(item["amount"].as_f64(), Some(bid.amount.cents() as f64 / 100.0));
        assert_eq!((item["timestamp"].as_u64(), &item["kind"]), (Some(bid.timestamp), &json!("bid")));
    }

    let shown = system.wait_for(&format!("/auctions/{id}"), |auction| auction["status"] == "closed").await?;
    assert_eq!(
        (&shown["outcome"], &shown["winner_username"], &shown["winning_bid"]),
        (&json!("sold"), &json!("ben"), &json!(12.0))
    );
    // The row itself, which is written from the log later.
    let row = system.closed_row(&id).await?;
    assert_eq!((row.status, row.outcome, row.bid_count), (Status::Closed.into(), Some(Outcome::Sold.into()), 2));
    assert_eq!(row.winner.map(|winner| winner.username).as_deref(), Some("ben"));
    assert_eq!(row.winning_bid.map(domain::Amount::cents), Some(1_200));

    // A client that joins after the end gets the result with the state.
    let mut cleo = system.socket("cleo").await?;
    let state = cleo.ask("join_auction", json!({"auction_id": id})).await?;
    assert_eq!((&state["data"]["status"], &state["data"]["winner_username"]), (&json!("closed"), &json!("ben")));
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn late_bids_extend_the_end_and_the_host_closes_early() -> Result<()> {
    let system = TestSystem::start("extend").await?;
    let anti_snipe = json!({"mode": "extend", "window": 20, "extension": 60, "max_extensions": 1});
    let auction = system
        .create("host", &json!({"title": "Vase", "duration": 20, "starting_bid": 5, "anti_snipe": anti_snipe}))
        .await?;
    let id = auction["auction_id"].as_str().context("an id")?;
    let mut watcher = system.socket("watcher").await?;
    let joined = watcher.ask("join_auction", json!({"auction_id": id})).await?;
    let end = joined["data"]["end_time"].as_u64().context("an end")?;

    let first = system.bid("anna", id, &json!(5)).await?.json;
    assert_eq!(
        (&first["anti_snipe_triggered"], &first["end_time"], &first["extension_count"]),
        (&json!(true), &json!(end + 60_000), &json!(1))
    );
    let second = system.bid("ben", id, &json!(6)).await?.json;
    assert_eq!(
        (&second["anti_snipe_triggered"], &second["end_time"]),
        (&json!(false), &json!(end + 60_000)),
        "max_extensions is reached"
    );
    let tick = watcher.until(|frame| frame["data"]["sync_type"] == "extended").await?;
    assert_eq!((&tick["data"]["end_time"], &tick["data"]["extension_count"]), (&json!(end + 60_000), &json!(1)));

    let url = system.management(&format!("/auctions/{id}/close"));
    let not_host = http::post(&url, Some(&system.token("anna")?), &json!({})).await?;
    assert_eq!((not_host.status, &not_host.json["code"]), (403, &json!("not_host")));
    let closed = http::post(&url, Some(&system.token("host")?), &json!({})).await?;
    assert_eq!(
        (closed.status, &closed.json["status"], &closed.json["winner_username"]),
        (200, &json!("closed"), &json!("ben"))
    );
    let again = http::post(&url, Some(&system.token("host")?), &json!({})).await?;
    assert_eq!((again.status, &again.json["code"]), (409, &json!("wrong_state")));
    let last = watcher.event("auction_ended").await?;
    assert_eq!(last["data"]["winner_username"], "ben");
    let log = system.log(id).await?;
    assert_eq!(log.last().map(|record| &record["state"]["reason"]), Some(&json!("host")));
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn auctions_are_listed_and_an_idempotency_key_creates_one() -> Result<()> {
    let system = TestSystem::start("list").await?;
    let body = json!({"title": "Chair", "duration": 600, "starting_bid": "99.95", "category": "furniture", "images": ["https://example.com/a.jpg"]});
    let token = system.token("host")?;
    let create = async |key: &str, body: &Value| {
        let request = ::http::Request::post(system.management("/api/auctions"))
            .header("authorization", format!("Bearer {token}"))
            .header("idempotency-key", key);
        http::send(request.body(body.to_string().into_bytes().into())?).await
    };
    let first = create("key-1", &body).await?;
    assert_eq!(first.status, 201, "{}", first.text);
    let again = create("key-1", &body).await?;
    assert_eq!((again.status, &again.json["auction_id"]), (201, &first.json["auction_id"]));
    assert_eq!(create("key-1", &json!({"title": "Other", "duration": 60, "starting_bid": 1})).await?.status, 400);
    let other = create("key-2", &json!({"title": "Table", "duration": 600, "starting_bid": 1})).await?;

    let list = http::get(&system.management("/auctions?limit=1"), None).await?.json;
    assert_eq!((&list["total"], &list["limit"], &list["offset"]), (&json!(2), &json!(1), &json!(0)));
    assert_eq!(list["auctions"][0]["auction_id"], other.json["auction_id"], "newest first");
    let furniture = http::get(&system.management("/auctions?category=furniture&status=live"), None).await?.json;
    assert_eq!(furniture["auctions"].as_array().map(Vec::len), Some(1));
    assert_eq!(furniture["auctions"][0]["minimum_bid"], json!(99.95));
    assert_eq!(http::get(&system.management("/auctions?status=gone"), None).await?.status, 400);
    system.end().await;
    Ok(())
}

/// The row of a creation passes from request to request with its key, until the sweep has given it up: then no request
/// continues it, and the key is free once the row is gone.
#[tokio::test(flavor = "multi_thread")]
async fn abandoned_creation_is_not_taken_over() -> Result<()> {
    let system = TestSystem::start("take-over").await?;
    let store = store::Store::connect(&system.stack.servers.postgres_url()).await?;
    let create = protocol::parse_auction_create(br#"{"title": "Lamp", "duration": 600, "starting_bid": 1}"#, None)?;
    let host = protocol::Person {
        user_id: identity::development::DevelopmentUser::named("host").user_id,
        username: "host".to_owned(),
    };
    let start = async || {
        let new = store::NewAuction {
            auction_id: domain::AuctionId::from_uuid(uuid::Uuid::new_v4()),
            host: &host,
            create: &create,
            increments: domain::Ladder::flat(domain::Amount::from_cents(100)?),
            anti_snipe_mode: domain::AntiSnipeMode::Off,
            anti_snipe_window_seconds: 0,
            anti_snipe_extension_seconds: 0,
            anti_snipe_max_extensions: 0,
        };
        let limits = store::HostLimits { open: 100, in_an_hour: 100 };
        anyhow::Ok((new.auction_id, store.start_auction(&new, Some(("1", "hash")), limits).await?))
    };
    let (id, claimed) = start().await?;
    assert_eq!(claimed, Claimed::New);
    assert_eq!(start().await?.1, Claimed::TakenOver(id));
    assert!(!store.abandon_creation(id, 60).await?, "a request has just claimed it");
    store.forget_creation(id).await?;
    assert_eq!(start().await?.1, Claimed::TakenOver(id), "only what is abandoned is forgotten");

    assert!(store.abandon_creation(id, 0).await?);
    assert_eq!(start().await?.1, Claimed::Abandoned);
    let text = || "x".to_owned();
    let channel = protocol::Channel { arn: text(), playback_url: text(), ingest_endpoint: text(), stream_key: text() };
    assert!(!store.set_channel(id, &channel).await?, "its channel would be left behind");
    store.forget_creation(id).await?;
    assert_eq!(start().await?.1, Claimed::New);
    store.close().await;
    system.end().await;
    Ok(())
}
