//! Sequences of lots: an auction that follows another opens by itself once that one has ended.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::http::{self, Reply};
use testkit::socket::Socket;
use warp::Filter;

use crate::secrets::unlimited;
use crate::test_system::TestSystem;

/// Milliseconds from the time at which an opening is due to the opening, at most.
const OPENED_WITHIN_MS: u64 = 1_000;

fn check(reply: &Reply, status: u16, code: &str) {
    assert_eq!((reply.status, reply.json["code"].as_str().unwrap_or_default()), (status, code), "{}", reply.text);
}

/// A lot without video, with these fields as well.
fn lot(more: &Value) -> Value {
    let mut lot =
        json!({"title": "Lot", "duration": 600, "starting_bid": 5, "anti_snipe": {"mode": "off"}, "video": false});
    more.as_object().into_iter().flatten().for_each(|(field, value)| lot[field] = value.clone());
    lot
}

/// An act of the host, by the last part of the path.
async fn act(system: &TestSystem, id: &str, action: &str) -> Result<Reply> {
    let url = system.management(&format!("/auctions/{id}/{action}"));
    http::post(&url, Some(&system.token("host")?), &json!({})).await
}

/// Waits for the start of this auction.
async fn started(watcher: &mut Socket, id: &str) -> Result<Value> {
    let is_started = |frame: &Value| frame["event"] == "auction_started" && frame["data"]["auction_id"] == id;
    watcher.until(is_started).await.with_context(|| format!("the start of {id}"))
}

/// When the log says that an auction ended.
async fn ended_at(system: &TestSystem, id: &str) -> Result<u64> {
    let log = system.log(id).await?;
    log.last().context("a record")?["state"]["ended_at"].as_u64().context("an end")
}

/// An auction opened by itself, this number of milliseconds after the end of another one, or within a second after that.
async fn assert_opened(system: &TestSystem, id: &str, before: &str, gap_ms: u64) -> Result<()> {
    let (due, log) = (ended_at(system, before).await? + gap_ms, system.log(id).await?);
    let opened = log.iter().find(|record| record["type"] == "opened").context("an opening")?;
    let time = opened["time"].as_u64().context("a time")?;
    assert!((due..due + OPENED_WITHIN_MS).contains(&time), "due at {due}, opened at {time}");
    assert!(opened["by"].is_null(), "{opened}");
    assert_eq!((&opened["state"]["options"]["follows"], &opened["state"]["starts_at"]), (&json!(before), &json!(time)));
    Ok(())
}

/// With PostgreSQL and auction-management dead after the creation, three lots open and close one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn lots_open_one_after_the_other_without_postgres() -> Result<()> {
    let mut system = TestSystem::with("sequence", Vec::new(), true).await?;
    let first = system.auction(&lot(&json!({"duration": 5}))).await?;
    let second = system.auction(&lot(&json!({"duration": 5, "follows": first, "gap": 1}))).await?;
    let third = system.auction(&lot(&json!({"follows": second, "gap": 1}))).await?;
    let mut watcher = system.socket("watcher").await?;
    for id in [&second, &third] {
        let joined = watcher.ask("join_auction", json!({"auction_id": id})).await?;
        let state = &joined["data"];
        assert_eq!(
            (&state["status"], &state["gap"], &state["end_time"]),
            (&json!("scheduled"), &json!(1), &Value::Null)
        );
        assert!(state["follows"] == first || state["follows"] == second, "{joined}");
    }
    check(&system.bid("anna", &second, &json!(5)).await?, 409, "auction_not_started");
    system.stack.servers.postgres.kill();
    system.stack.kill_instance(Name::AuctionManagement, 0).await?;

    started(&mut watcher, &second).await?;
    assert_opened(&system, &second, &first, 1_000).await?;
    assert_eq!(system.bid("anna", &second, &json!(5)).await?.status, 200);
    started(&mut watcher, &third).await?;
    assert_opened(&system, &third, &second, 1_000).await?;
    assert_eq!(system.bid("ben", &third, &json!(5)).await?.status, 200);

    system.stack.servers.restart_postgres().await?;
    system.stack.add_instance(Name::AuctionManagement).await?;
    assert_eq!(system.closed_row(&second).await?.winner.map(|winner| winner.username).as_deref(), Some("anna"));
    let shown = system.wait_for(&format!("/auctions/{third}"), |auction| auction["status"] == "live").await?;
    assert!(shown["starts_at"].is_string() && shown["follows"] == second, "{shown}");
    system.end().await;
    Ok(())
}

/// A cancelled lot counts as ended, pre-bids of the next one are bid, and the host need not wait.
#[tokio::test(flavor = "multi_thread")]
async fn cancelled_lot_opens_the_next_and_its_host_another_early() -> Result<()> {
    let system = TestSystem::with("sequence-cancelled", unlimited(), false).await?;
    let first = system.auction(&lot(&json!({}))).await?;
    let second = system.create("host", &lot(&json!({"follows": first, "allow_prebids": true}))).await?;
    assert_eq!(
        (&second["status"], &second["starts_at"], &second["end_time"]),
        (&json!("scheduled"), &Value::Null, &Value::Null)
    );
    assert_eq!(
        (&second["follows"], &second["gap"], &second["time_remaining_seconds"]),
        (&json!(first), &json!(0), &json!(600))
    );
    let second = second["auction_id"].as_str().context("an id")?.to_owned();
    let third = system.auction(&lot(&json!({"follows": first, "gap": 86_400}))).await?;
    let fourth = system.auction(&lot(&json!({"follows": third}))).await?;
    let mut watcher = system.socket("watcher").await?;
    for id in [&second, &third, &fourth] {
        watcher.ask("join_auction", json!({"auction_id": id})).await?;
    }
    let bid = json!({"auction_id": second, "max_amount": 50});
    let kept = system.bid_at(0, &system.token("anna")?, &bid).await?;
    assert_eq!((kept.status, &kept.json["end_time"]), (200, &Value::Null), "{}", kept.text);

    assert_eq!(act(&system, &first, "cancel").await?.status, 200);
    started(&mut watcher, &second).await?;
    assert_opened(&system, &second, &first, 0).await?;
    let state = http::get(&system.management(&format!("/auctions/{second}/state")), None).await?;
    assert_eq!((&state.json["high_bidder_username"], &state.json["current_high_bid"]), (&json!("anna"), &json!(5.0)));

    // The other one that follows it waits for a day; its host does not.
    let state = http::get(&system.management(&format!("/auctions/{third}/state")), None).await?;
    assert_eq!((&state.json["status"], &state.json["end_time"]), (&json!("scheduled"), &Value::Null), "{}", state.text);
    let begun = act(&system, &third, "start").await?;
    assert_eq!((begun.status, &begun.json["status"]), (200, &json!("live")), "{}", begun.text);
    assert!(begun.json["starts_at"].is_string() && begun.json["end_time"].is_string(), "{}", begun.text);
    started(&mut watcher, &third).await?;
    // One that waits is cancelled as any other.
    let cancelled = act(&system, &fourth, "cancel").await?;
    assert_eq!((cancelled.status, &cancelled.json["starts_at"]), (200, &Value::Null), "{}", cancelled.text);
    assert_eq!(act(&system, &third, "close").await?.status, 200);
    assert_eq!(system.closed_row(&third).await?.follows.map(domain::Follows::gap_seconds), Some(86_400));
    let log = system.log(&fourth).await?;
    let types: Vec<&Value> = log.iter().map(|record| &record["type"]).collect();
    assert_eq!(types, ["created", "cancelled"]);
    system.end().await;
    Ok(())
}

/// A timer that starts learns from the log which lots wait, and bid-processing answers which of them are due. Waiting lots
/// survive the loss of Redis.
#[tokio::test(flavor = "multi_thread")]
async fn restarted_timer_opens_the_lots_that_wait() -> Result<()> {
    let mut system = TestSystem::start("sequence-restarted").await?;
    let first = system.auction(&lot(&json!({}))).await?;
    let second = system.auction(&lot(&json!({"follows": first}))).await?;
    let third = system.auction(&lot(&json!({"follows": second, "gap": 1}))).await?;
    let mut watcher = system.socket("watcher").await?;
    for id in [&second, &third] {
        watcher.ask("join_auction", json!({"auction_id": id})).await?;
    }
    // Before the end. The new timer asks for both, and they are rebuilt.
    redis::cmd("FLUSHALL").query_async::<()>(&mut system.redis().await?).await?;
    system.stack.restart_instance(Name::Timer, 0).await?;
    let state = http::get(&system.management(&format!("/auctions/{second}/state")), None).await?;
    assert_eq!((&state.json["status"], &state.json["follows"]), (&json!("scheduled"), &json!(first)), "{}", state.text);
    assert_eq!(act(&system, &first, "close").await?.status, 200);
    started(&mut watcher, &second).await?;
    assert_opened(&system, &second, &first, 0).await?;

    // Over an end.
    system.stack.kill_instance(Name::Timer, 0).await?;
    assert_eq!(act(&system, &second, "close").await?.status, 200);
    let ended = ended_at(&system, &second).await?;
    system.stack.add_instance(Name::Timer).await?;
    started(&mut watcher, &third).await?;
    let log = system.log(&third).await?;
    let opened = log.iter().find(|record| record["type"] == "opened").context("an opening")?;
    assert!(opened["time"].as_u64() >= Some(ended + 1_000), "{opened}");
    system.end().await;
    Ok(())
}

/// Without records the auction before ended more than a day ago, and so long is the longest gap.
#[tokio::test(flavor = "multi_thread")]
async fn lot_opens_although_the_one_before_is_archived() -> Result<()> {
    let mut system = TestSystem::start("sequence-archived").await?;
    let first = system.auction(&lot(&json!({}))).await?;
    let second = system.auction(&lot(&json!({"follows": first, "gap": 86_400}))).await?;
    let mut watcher = system.socket("watcher").await?;
    watcher.ask("join_auction", json!({"auction_id": second})).await?;
    assert_eq!(act(&system, &first, "close").await?.status, 200);
    system.closed_row(&first).await?;
    system.passed_by_all(&first).await?;
    system.expire_keys(&first).await?;
    system.archive(0)?;
    assert_eq!(system.log(&first).await?.len(), 0);
    // A running timer knows the end, and waits for the gap.
    system.stack.restart_instance(Name::Timer, 0).await?;
    started(&mut watcher, &second).await?;
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_running_auction_of_the_same_host_is_followed() -> Result<()> {
    let system = TestSystem::start("sequence-refused").await?;
    let (first, ended) = (system.auction(&lot(&json!({}))).await?, system.auction(&lot(&json!({}))).await?);
    let others = system.create("another", &lot(&json!({}))).await?["auction_id"].clone();
    assert_eq!(act(&system, &ended, "close").await?.status, 200);
    system.closed_row(&ended).await?;
    let (url, host) = (system.management("/auctions"), system.token("host")?);
    let unknown = uuid::Uuid::new_v4().to_string();
    for (more, status, code, named) in [
        (json!({"follows": "first"}), 400, "invalid_request", "follows"),
        (json!({"follows": [first]}), 400, "invalid_request", "follows"),
        (json!({"gap": 1}), 400, "invalid_request", "gap needs follows"),
        (json!({"follows": first, "gap": 86_401}), 400, "invalid_request", "gap"),
        (json!({"follows": first, "gap": -1}), 400, "invalid_request", "gap"),
        (json!({"follows": first, "gap": 0.5}), 400, "invalid_request", "gap"),
        (json!({"follows": first, "gap": "1"}), 400, "invalid_request", "gap"),
        (json!({"follows": first, "starts_at": "2999-01-01T00:00:00Z"}), 400, "invalid_request", "starts_at"),
        (json!({"allow_prebids": true}), 400, "invalid_request", "follows"),
        (json!({"follows": unknown}), 404, "auction_not_found", "follows"),
        (json!({"follows": others}), 403, "not_host", "follows"),
        (json!({"follows": ended}), 409, "wrong_state", "ended"),
    ] {
        let reply = http::post(&url, Some(&host), &lot(&more)).await?;
        check(&reply, status, code);
        assert!(reply.json["error"].as_str().is_some_and(|error| error.contains(named)), "{more}: {}", reply.text);
    }

    // An auction can follow neither itself nor one that follows it: it has no id before it exists, and a key belongs to
    // one body.
    let create = async |key: &str, more: &Value| {
        let request = http::request("POST", &url, Some(&host)).header("idempotency-key", key);
        http::send(request.body(lot(more).to_string().into())?).await
    };
    // A refused request leaves its key free.
    check(&create("lot 2", &json!({"follows": ended})).await?, 409, "wrong_state");
    let made = create("lot 2", &json!({"follows": first})).await?;
    assert_eq!(made.status, 201, "{}", made.text);
    let second = &made.json["auction_id"];
    for follows in [second.clone(), json!(ended)] {
        check(&create("lot 2", &json!({"follows": follows})).await?, 400, "invalid_request");
    }
    let third = create("lot 3", &json!({"follows": second})).await?;
    assert_eq!(third.status, 201, "{}", third.text);
    check(&create("lot 2", &json!({"follows": third.json["auction_id"]})).await?, 400, "invalid_request");
    // The same request finds its auction also once the one before has ended.
    assert_eq!(act(&system, &first, "close").await?.status, 200);
    system.closed_row(&first).await?;
    let again = create("lot 2", &json!({"follows": first})).await?;
    assert_eq!((again.status, &again.json["auction_id"]), (201, second), "{}", again.text);
    let listed = http::get(&format!("{url}?limit=100"), None).await?;
    assert_eq!(listed.json["total"], 5, "nothing else was created: {}", listed.text);
    system.end().await;
    Ok(())
}

/// IVS with a memory of its calls.
#[derive(Clone, Default)]
struct Ivs {
    /// ARN and name of each channel.
    channels: Arc<Mutex<Vec<(String, String)>>>,
    /// The ARNs of all that were created and deleted.
    created: Arc<Mutex<Vec<String>>>,
    deleted: Arc<Mutex<Vec<String>>>,
}

impl Ivs {
    async fn start(&self) -> Result<String> {
        let stub = self.clone();
        let route = warp::post().and(warp::path::param()).and(warp::body::json());
        let route = route.map(move |call: String, body: Value| warp::reply::json(&stub.answer(&call, &body)));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        tokio::spawn(warp::serve(route).incoming(listener).run());
        Ok(endpoint)
    }

    fn answer(&self, call: &str, body: &Value) -> Value {
        let mut channels = self.channels.lock().expect("a lock");
        match call {
            "CreateChannel" => {
                let mut created = self.created.lock().expect("a lock");
                let arn = format!("arn:aws:ivs:us-east-1:123456789012:channel/lot{}", created.len() + 1);
                created.push(arn.clone());
                channels.push((arn.clone(), body["name"].as_str().unwrap_or_default().to_owned()));
                let key = format!("sk_{}", created.len());
                json!({"channel": {"arn": arn, "playbackUrl": "https://play", "ingestEndpoint": "ingest"},
                    "streamKey": {"value": key}})
            }
            "ListChannels" => {
                let named = channels.iter().filter(|(_, name)| body["filterByName"] == *name);
                json!({"channels": named.map(|(arn, name)| json!({"arn": arn, "name": name})).collect::<Vec<_>>()})
            }
            "DeleteChannel" => {
                self.deleted.lock().expect("a lock").push(body["arn"].as_str().unwrap_or_default().to_owned());
                channels.retain(|(arn, _)| body["arn"] != *arn);
                json!({})
            }
            _ => json!({}),
        }
    }
}

/// The lots of a sequence have one channel, created with the first and deleted after the last end.
#[tokio::test(flavor = "multi_thread")]
async fn lots_of_a_sequence_share_a_channel() -> Result<()> {
    let mut system = TestSystem::with("sequence-video", Vec::new(), true).await?;
    let ivs = Ivs::default();
    let (endpoint, linger) = (("AWS_ENDPOINT_URL", ivs.start().await?), ("VIDEO_LINGER_SECONDS", "0".to_owned()));
    system.stack.add_instance_with(Name::AuctionManagement, &[endpoint, linger]).await?;
    system.stack.kill_instance(Name::AuctionManagement, 0).await?;
    let id = |auction: &Value| auction["auction_id"].as_str().unwrap_or_default().to_owned();
    let first = system.create("host", &lot(&json!({"video": true}))).await?;
    let second = system.create("host", &lot(&json!({"video": true, "follows": id(&first)}))).await?;
    let silent = system.create("host", &lot(&json!({"video": false, "follows": id(&first)}))).await?;
    let own = system.create("host", &lot(&json!({"video": true, "follows": id(&silent)}))).await?;
    for field in ["ivs_channel_arn", "ivs_playback_url", "ivs_stream_key", "ivs_ingest_endpoint"] {
        assert!(second[field].is_string() && second[field] == first[field], "{field}: {second}");
        assert_eq!(silent[field], Value::Null, "{field}");
    }
    let created = ivs.created.lock().expect("a lock").clone();
    let [shared, other] = &created[..] else { panic!("{created:?}") };
    assert_eq!((&first["ivs_channel_arn"], &own["ivs_channel_arn"]), (&json!(shared), &json!(other)));

    // The channel that is removed afterwards shows that the first end has been seen.
    assert_eq!(act(&system, &id(&first), "close").await?.status, 200);
    system.closed_row(&id(&first)).await?;
    assert_eq!(act(&system, &id(&own), "cancel").await?.status, 200);
    let is_removed = |auction: &Value| auction["ivs_channel_arn"].is_null();
    system.wait_for(&format!("/auctions/{}", id(&own)), is_removed).await?;
    let deleted = || ivs.deleted.lock().expect("a lock").clone();
    assert_eq!(deleted(), std::slice::from_ref(other));
    let running = system.wait_for(&format!("/auctions/{}", id(&second)), |auction| auction["status"] == "live").await?;
    assert_eq!(running["ivs_channel_arn"], json!(shared));
    let stream = system.management(&format!("/auctions/{}/stream", id(&second)));
    let stream = http::get(&stream, Some(&system.token("host")?)).await?;
    assert_eq!((stream.status, &stream.json["ivs_stream_key"]), (200, &first["ivs_stream_key"]), "{}", stream.text);

    assert_eq!(act(&system, &id(&second), "close").await?.status, 200);
    for auction in [&first, &second] {
        system.wait_for(&format!("/auctions/{}", id(auction)), is_removed).await?;
    }
    assert_eq!(deleted(), [other.clone(), shared.clone()], "each is deleted once");
    assert_eq!((ivs.created.lock().expect("a lock").len(), ivs.channels.lock().expect("a lock").len()), (2, 0));
    system.end().await;
    Ok(())
}
