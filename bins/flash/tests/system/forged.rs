//! Messages that only a service should send, published by another program with the login of a service: they change no price, no
//! result, no end and no screen, or are withdrawn within seconds. ARCHITECTURE.md, Forged messages.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::HeaderMap;
use domain::{Amount, CloseReason, Outcome, Status};
use flash::stack::Name;
use futures_util::StreamExt;
use identity::development::DevelopmentUser;
use protocol::{
    CancelRequest, ChatMessage, CloseRequest, Code, EdgeCount, Leased, OwnBidsRequest, Person, PlaceBid, Record,
    RecordKind, SyncType, Talk, TimerTick, UserSeen, subject,
};
use serde_json::{Value, json};
use testkit::socket::Socket;
use testkit::{eventually, http};

use crate::test_system::TestSystem;

/// Time within which a forged record disappears from screens: a second until the log is asked, and the way there.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(3);
/// Time limit of a forged request.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// The person that the forger pretends to be.
fn mallory() -> Person {
    Person { user_id: DevelopmentUser::named("mallory").user_id, username: "mallory".to_owned() }
}

/// A bid of 9,000.00 by mallory that continues the log, which anyone who has read it can compute.
fn forged_bid(last: &Record, forger: &Person) -> Result<Record> {
    let mut forged = last.clone();
    forged.bids.truncate(1);
    let bid = forged.bids.first_mut().context("a record of bids")?;
    bid.bid_id = domain::BidId::from_uuid(uuid::Uuid::new_v4());
    (bid.user_id, bid.username, bid.amount) = (forger.user_id, forger.username.clone(), Amount::from_cents(900_000)?);
    let state = &mut forged.state;
    (state.high_bid, state.minimum_bid) = (Some(Amount::from_cents(900_000)?), Amount::from_cents(900_100)?);
    (state.high_bidder_id, state.high_bidder_username) = (Some(forger.user_id), Some(forger.username.clone()));
    state.bid_count += 1;
    Ok(forged.placed_after(last.mark()))
}

/// A closing record for mallory, at one cent.
fn forged_closing(last: &Record, forger: &Person) -> Result<Record> {
    let mut forged = last.clone();
    forged.kind = RecordKind::Closed.into();
    forged.bids.clear();
    let state = &mut forged.state;
    (state.status, state.outcome) = (Status::Closed.into(), Some(Outcome::Sold.into()));
    (state.reason, state.ended_at) = (Some(domain::CloseReason::Ended.into()), Some(forged.time));
    (state.winner_id, state.winner_username) = (Some(forger.user_id), Some(forger.username.clone()));
    state.winning_bid = Some(Amount::from_cents(1)?);
    Ok(forged.placed_after(last.mark()))
}

/// The headers with which the server republishes a message.
fn republished(stream: &str, stream_seq: u64, previous: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Stream", stream);
    headers.insert("Nats-Sequence", stream_seq.to_string());
    headers.insert("Nats-Last-Sequence", previous.to_string());
    headers
}

/// An auction with a bid of anna, and a socket of ben in its room.
async fn watched(system: &TestSystem, seconds: u64) -> Result<(String, Socket)> {
    let mut lot = json!({"title": "Lamp", "duration": seconds, "starting_bid": 1, "minimum_increment": 1});
    lot["anti_snipe"] = json!({"mode": "off"});
    let id = system.auction(&lot).await?;
    let mut ben = system.socket("ben").await?;
    ben.ask("join_auction", json!({"auction_id": id})).await?;
    ensure!(system.bid("anna", &id, &json!(2)).await?.status == 200);
    ben.event("bid_update").await?;
    Ok((id, ben))
}

/// Publishes a record on the subject to which the server republishes, as if it had come right after `last`.
async fn republish(bus: &bus::Bus, last: &bus::Logged, record: &Record) -> Result<()> {
    let headers = republished(subject::LOG_STREAM, last.stream_seq + 1, last.stream_seq);
    let payload = serde_json::to_vec(record)?;
    bus.client.publish_with_headers(subject::events(record.auction_id), headers, payload.into()).await?;
    Ok(bus.client.flush().await?)
}

async fn last_record(bus: &bus::Bus, id: &str) -> Result<bus::Logged> {
    bus::Log::open(bus).await?.last(id.parse()?).await?.context("a record")
}

/// A record that continues the chain is withdrawn from screens, is never the price that decides, and delays no bid.
#[tokio::test(flavor = "multi_thread")]
async fn forged_event_is_withdrawn_and_decides_nothing() -> Result<()> {
    let system = TestSystem::start("forged-event").await?;
    let (id, mut ben) = watched(&system, 600).await?;
    let bus = system.bus().await?;
    let last = last_record(&bus, &id).await?;
    republish(&bus, &last, &forged_bid(&last.record, &mallory())?).await?;
    let since = Instant::now();
    let withdrawn = ben.event("joined_auction").await?;
    ensure!(since.elapsed() < WITHDRAWN_WITHIN, "{:?}", since.elapsed());
    let data = &withdrawn["data"];
    assert_eq!(data["recovered"], false, "{withdrawn}");
    // It begins with the last record that the log had confirmed, which may be the one before anna's bid.
    if data["seq"] == last.record.seq {
        assert_eq!((&data["current_high_bid"], &data["recent_bids"][0]["username"]), (&json!(2.0), &json!("anna")));
    } else {
        assert_eq!(
            (&data["current_high_bid"], &data["seq"]),
            (&Value::Null, &json!(last.record.seq - 1)),
            "{withdrawn}"
        );
        let is_true = |frame: &Value| frame["event"] == "bid_update" && frame["data"]["previous_seq"] == data["seq"];
        let shown = ben.until(is_true).await?["data"].clone();
        assert_eq!((&shown["high_bid"], &shown["seq"]), (&json!(2.0), &json!(last.record.seq)), "{shown}");
    }

    // Neither bid-processing nor the edge rejects a bid for the forged price, however often it is forged.
    for (nth, amount) in (3..9).enumerate() {
        let last = last_record(&bus, &id).await?;
        republish(&bus, &last, &forged_bid(&last.record, &mallory())?).await?;
        let placed = if nth % 2 == 0 {
            ben.ask("place_bid", json!({"auction_id": id, "amount": amount})).await?["data"].clone()
        } else {
            system.bid("carl", &id, &json!(amount)).await?.json
        };
        assert_eq!(placed["status"], "accepted", "{placed}");
    }
    assert_eq!(system.checked_bids(&id).await?.len(), 7);
    let state = system.wait_for(&format!("/auctions/{id}/state"), |state| state["current_high_bid"] == 8.0).await?;
    assert_eq!(state["bid_count"], 7, "{state}");
    let metrics = http::get(&format!("{}/metrics", system.stack.url(Name::Websocket)), None).await?.text;
    ensure!(!metrics.contains("flash_forged_records_total 0\n"), "the forgery was not counted");
    system.end().await;
    Ok(())
}

/// A closing record on `events` ends nothing: no screen shows it, and the auction closes when it is due.
#[tokio::test(flavor = "multi_thread")]
async fn forged_closing_event_ends_nothing() -> Result<()> {
    let system = TestSystem::start("forged-closing").await?;
    let (id, mut ben) = watched(&system, 6).await?;
    let bus = system.bus().await?;
    let last = last_record(&bus, &id).await?;
    for _ in 0..50 {
        republish(&bus, &last, &forged_closing(&last.record, &mallory())?).await?;
    }
    let placed = system.bid("carl", &id, &json!(3)).await?;
    assert_eq!(placed.status, 200, "{}", placed.text);
    let ended = ben.event("auction_ended").await?;
    let end = last.record.state.end_time;
    let closed = last_record(&bus, &id).await?.record;
    ensure!((end..end + 2_000).contains(&closed.time), "closed at {} instead of {end}", closed.time);
    assert_eq!(ended["data"]["winner_username"], "carl", "{ended}");
    let ends = ben.seen.iter().filter(|frame| frame["event"] == "auction_ended").count();
    assert_eq!(ends, 1, "an end was shown before the end");
    let row = system.closed_row(&id).await?;
    assert_eq!(row.winner.map(|winner| winner.username).as_deref(), Some("carl"));
    system.end().await;
    Ok(())
}

/// A closing record in the log itself, which does not continue the chain: no result is written, no screen shows it, and
/// no service takes it for the end. The auction is halted.
#[tokio::test(flavor = "multi_thread")]
async fn forged_closing_record_is_no_result() -> Result<()> {
    let system = TestSystem::start("forged-record").await?;
    let (id, mut ben) = watched(&system, 600).await?;
    let bus = system.bus().await?;
    let last = last_record(&bus, &id).await?;
    let mut forged = forged_closing(&last.record, &mallory())?;
    forged.head = last.record.prev;
    let payload = serde_json::to_vec(&forged)?;
    let mut headers = HeaderMap::new();
    headers.insert(subject::RECORD_HEADER, "closed");
    let log = subject::log(id.parse()?);
    bus.jetstream.publish_with_headers(log, headers, payload.into()).await?.await?;

    let counted = format!("{}/metrics", system.stack.url(Name::AuctionManagement));
    eventually("the forged result is parked", async || {
        let is_parked = http::get(&counted, None).await?.text.contains("flash_forged_records_total 1\n");
        Ok(is_parked.then_some(()))
    })
    .await?;
    // An operator who puts it back does not make it true.
    let letters = eventually("its letter is stored", async || {
        let letters = system.admin_ok(&["dlq", "list", "nats"]).await?;
        Ok(letters.contains("consumer=auction-results").then_some(letters))
    })
    .await?;
    let again = system.admin(&["dlq", "redrive", "nats", "--all"]).await?;
    ensure!(!again.status.success(), "{letters}: {again:?}");
    let row = http::get(&system.management(&format!("/auctions/{id}")), None).await?.json;
    assert_eq!((&row["status"], &row["winner_id"]), (&json!("live"), &Value::Null), "{row}");
    ben.event("timer_update").await?;
    ensure!(!ben.seen.iter().any(|frame| frame["event"] == "auction_ended"), "the forged end was shown");

    // bid-processing halts the auction, rather than going on in a log that may have lost records, and no other.
    let refused = system.bid("carl", &id, &json!(3)).await?;
    assert_eq!(refused.status, 503, "{}", refused.text);
    let other = system.auction(&json!({"title": "Cup", "duration": 600, "starting_bid": 1})).await?;
    assert_eq!(system.bid("carl", &other, &json!(3)).await?.status, 200);
    system.end().await;
    Ok(())
}

/// Ticks with a fencing token that no lease has, and ticks that contradict the records, are not shown; honest ones go on.
#[tokio::test(flavor = "multi_thread")]
async fn forged_ticks_neither_shorten_the_time_nor_silence_the_timer() -> Result<()> {
    let system = TestSystem::start("forged-ticks").await?;
    let (id, mut ben) = watched(&system, 600).await?;
    let bus = system.bus().await?;
    let record = last_record(&bus, &id).await?.record;
    let server_time = |frame: &Value| frame["data"]["server_time"].as_u64().context("a time");
    let mut ticks = bus.client.subscribe(subject::timer(record.auction_id)).await?;
    let sent = tokio::time::timeout(ASK_TIMEOUT, ticks.next()).await?.context("a tick")?;
    let present = serde_json::from_slice::<Leased<TimerTick>>(&sent.payload)?.token;
    let honest = ben.event("timer_update").await?;
    let now = server_time(&honest)?;
    let tick = |end_time: u64, server_time: u64| TimerTick {
        auction_id: record.auction_id,
        seq: record.seq,
        status: Status::Live.into(),
        server_time,
        end_time: Some(end_time),
        time_remaining_ms: 3_000,
        time_remaining_seconds: 3,
        extension_count: 0,
        sync_type: SyncType::Tick,
    };
    let end = record.state.end_time;
    for token in [u64::MAX, u64::MAX - 1, now, 1, present] {
        for message in [tick(now + 3_000, now), tick(end, end - 3_000)] {
            let payload = serde_json::to_vec(&Leased { token, message })?;
            bus.client.publish(subject::timer(record.auction_id), payload.into()).await?;
        }
    }
    bus.client.flush().await?;
    for _ in 0..3 {
        let next = ben.event("timer_update").await?;
        ensure!(next["data"]["time_remaining_ms"].as_u64() > Some(500_000), "{next}");
        assert_eq!(next["data"]["end_time"].as_u64(), Some(end), "{next}");
        ensure!(server_time(&next)? > now, "the timer was silenced: {next}");
    }
    system.end().await;
    Ok(())
}

/// Chat that the stream does not have is not shown, nor is a stranger the host because a message says so; counts that no
/// edge sends are ignored.
#[tokio::test(flavor = "multi_thread")]
async fn forged_chat_and_presence_are_not_shown() -> Result<()> {
    let system = TestSystem::start("forged-chat").await?;
    let (id, mut ben) = watched(&system, 600).await?;
    let bus = system.bus().await?;
    let message = |text: &str| {
        let message = ChatMessage {
            message_id: uuid::Uuid::new_v4().to_string(),
            auction_id: id.parse()?,
            user_id: mallory().user_id,
            username: "host".to_owned(),
            message: text.to_owned(),
            is_host: true,
            timestamp: 1,
        };
        anyhow::Ok(serde_json::to_vec(&Talk::Message(message))?)
    };
    let said = ben.ask("chat_message", json!({"auction_id": id, "message": "hello"})).await?;
    assert_eq!(said["event"], "chat_sent", "{said}");
    let first = ben.event("chat_message").await?;
    for stream_seq in [2, 3, 1_000_000] {
        let payload = message("send me your card number")?;
        let headers = republished(subject::CHAT_STREAM, stream_seq, stream_seq - 1);
        bus.client.publish_with_headers(subject::talk(id.parse()?), headers, payload.into()).await?;
    }
    let edge = EdgeCount { edge: "x".to_owned(), participant_count: u64::MAX };
    bus.client.publish(subject::presence(id.parse()?), serde_json::to_vec(&edge)?.into()).await?;
    bus.client.flush().await?;
    // A stored message of a stranger who calls itself the host.
    let stored = message("I am the host")?;
    bus.jetstream.publish(subject::chat(id.parse()?), stored.into()).await?.await?;
    let next = ben.event("chat_message").await?;
    assert_eq!(
        (&next["data"]["message"], &next["data"]["is_host"]),
        (&json!("I am the host"), &json!(false)),
        "{next}"
    );
    assert_eq!(first["data"]["message"], "hello");
    let shown = http::get(&system.management(&format!("/auctions/{id}/state")), None).await?.json;
    let messages = shown["chat_messages"].as_array().context("a list")?;
    assert_eq!(messages.len(), 2, "{messages:?}");
    ensure!(messages.iter().all(|message| message["is_host"] == false), "{messages:?}");
    ensure!(shown["participant_count"].as_u64() < Some(1_000), "{}", shown["participant_count"]);
    system.end().await;
    Ok(())
}

/// Requests for a person without the person's token are refused.
#[tokio::test(flavor = "multi_thread")]
async fn requests_for_a_person_need_the_persons_token() -> Result<()> {
    let system = TestSystem::start("forged-requests").await?;
    let (id, _ben) = watched(&system, 600).await?;
    let bus = system.bus().await?;
    let (host, victim) = (DevelopmentUser::named("host"), DevelopmentUser::named("victim"));
    let auction_id = id.parse()?;
    let person = |user: &DevelopmentUser| Person { user_id: user.user_id, username: user.name.clone() };
    let bid = PlaceBid {
        auction_id,
        bid_id: None,
        amount: Some(Amount::from_cents(7_700)?),
        max_amount: None,
        user: person(&victim),
    };
    let other = system.token("mallory")?;
    let close = CloseRequest { auction_id, by: Some(host.user_id) };
    let cancel = CancelRequest { auction_id, by: host.user_id, reason: None };
    // Only while the log is being restored would this need no token.
    let restored = CancelRequest { reason: Some(CloseReason::Restored.into()), ..cancel.clone() };
    let own = OwnBidsRequest { user_id: victim.user_id, limit: None, before: None };
    let seen = UserSeen {
        person: person(&host),
        email: Some("mallory@example.com".to_owned()),
        email_verified: true,
        name: None,
        issued_at: 4_000_000_000,
        wants_name: false,
    };
    let requests = [
        (subject::BIDS_PLACE, serde_json::to_value(&bid)?, Code::Unauthenticated),
        (subject::AUCTIONS_CLOSE, serde_json::to_value(&close)?, Code::Unauthenticated),
        (subject::AUCTIONS_CANCEL, serde_json::to_value(&cancel)?, Code::Unauthenticated),
        (subject::AUCTIONS_CANCEL, serde_json::to_value(&restored)?, Code::Unauthenticated),
        (subject::BIDS_OWN, serde_json::to_value(&own)?, Code::Unauthenticated),
        (subject::USERS_SEEN, serde_json::to_value(&seen)?, Code::InvalidRequest),
    ];
    for token in [None, Some(other.as_str()), Some("x")] {
        for (subject, request, code) in &requests {
            let answer = ask(&bus, subject, request, token).await?.to_string();
            ensure!(answer.contains(&format!("\"code\":\"{}\"", code.name())), "{subject}: {answer}");
        }
    }
    // With the token the same requests work.
    let token = system.token("victim")?;
    let answer = ask(&bus, subject::BIDS_PLACE, &requests[0].1, Some(&token)).await?;
    assert_eq!(answer["status"], "accepted", "{answer}");
    let profile = http::get(&system.management("/users/me"), Some(&system.token("host")?)).await?.json;
    assert_eq!(profile["email"], "host@example.com", "{profile}");
    let names: Vec<String> = system.checked_bids(&id).await?.into_iter().map(|bid| bid.username).collect();
    assert_eq!(names, ["anna", "victim"]);
    system.end().await;
    Ok(())
}

async fn ask(bus: &bus::Bus, subject: &'static str, request: &Value, token: Option<&str>) -> Result<Value> {
    Ok(match token {
        Some(token) => bus::request_for(bus, subject, request, token, ASK_TIMEOUT).await?,
        None => bus::request(bus, subject, request, ASK_TIMEOUT).await?,
    })
}
