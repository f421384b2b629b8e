//! Clients that resume in an auction with a long log, and rooms that missed many records.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use bus::Log;
use protocol::RecordKind;
use serde_json::{Value, json};
use testkit::socket::Socket;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::test_system::TestSystem;

/// Records with one bid each, appended to the log directly.
const RECORDS: u64 = 20_000;
/// Clients that watch, and clients that join at once.
const WATCHERS: usize = 20;
const JOINERS: usize = 100;
/// Longest pause between two ticks, which come once a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(1_500);

/// Appends this many bids to an auction; returns the last seq.
async fn append_bids(system: &TestSystem, auction_id: &str, count: u64) -> Result<u64> {
    system.append_bids(auction_id, count).await?;
    let last = Log::open(&system.bus().await?).await?.last(auction_id.parse()?).await?;
    Ok(last.context("a record")?.record.seq)
}

/// An auction that is open.
async fn live_auction(system: &TestSystem) -> Result<String> {
    let lot = json!({"title": "Map", "duration": 600, "starting_bid": 1, "anti_snipe": {"mode": "off"}});
    let id = system.auction(&lot).await?;
    let log = Log::open(&system.bus().await?).await?;
    let begun = Instant::now();
    while log.last(id.parse()?).await?.is_none_or(|last| last.record.kind != RecordKind::Opened) {
        ensure!(begun.elapsed() < Duration::from_secs(5), "the auction was not opened");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(id)
}

/// Joins an auction whose Redis is behind the log: the first answers may be `unavailable` while it is rebuilt.
async fn open_room(system: &TestSystem, auction_id: &str) -> Result<Socket> {
    let mut socket = system.socket("first").await?;
    let begun = Instant::now();
    loop {
        let joined = socket.ask("join_auction", json!({"auction_id": auction_id})).await?;
        if joined["event"] == "joined_auction" {
            return Ok(socket);
        }
        ensure!(joined["data"]["code"] == "unavailable" && begun.elapsed() < Duration::from_secs(15), "{joined}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Joins from `last_seq` on.
pub async fn join(socket: &mut Socket, auction_id: &str, last_seq: u64) -> Result<Value> {
    let joined = socket.ask("join_auction", json!({"auction_id": auction_id, "last_seq": last_seq})).await?;
    ensure!(joined["event"] == "joined_auction", "{joined}");
    Ok(joined["data"].clone())
}

fn seqs(bids: &Value) -> Vec<u64> {
    bids.as_array().into_iter().flatten().filter_map(|bid| bid["seq"].as_u64()).collect()
}

/// Reads ticks until one comes after `until`; returns the longest pause.
pub async fn longest_pause(socket: &mut Socket, until: Instant) -> Result<Duration> {
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    while last < until {
        socket.event("timer_update").await?;
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    Ok(longest)
}

/// While a hundred clients join with `last_seq` 0, and a hundred with the lowest one that is answered with bids, the
/// watchers get their ticks, and the next bid.
#[tokio::test(flavor = "multi_thread")]
async fn joins_in_a_long_auction_do_not_pause_its_room() -> Result<()> {
    let system = TestSystem::start("resume-long").await?;
    let id = live_auction(&system).await?;
    let last = append_bids(&system, &id, RECORDS).await?;
    let mut watching = JoinSet::new();
    let mut sockets = vec![open_room(&system, &id).await?];
    for watcher in 1..WATCHERS {
        let mut socket = system.socket(&format!("watcher-{watcher}")).await?;
        socket.ask("join_auction", json!({"auction_id": id})).await?;
        sockets.push(socket);
    }
    let mut joiners = Vec::new();
    for joiner in 0..2 * JOINERS {
        joiners.push(system.socket(&format!("joiner-{joiner}")).await?);
    }
    let until = Instant::now() + Duration::from_secs(4);
    for mut socket in sockets {
        watching.spawn(async move {
            socket.event("timer_update").await?;
            let longest = longest_pause(&mut socket, until).await?;
            anyhow::Ok((socket, longest))
        });
    }
    let mut joining = JoinSet::new();
    for (nth, mut socket) in joiners.into_iter().enumerate() {
        let (id, last_seq) = (id.clone(), if nth % 2 == 0 { 0 } else { last - 1_000 });
        joining.spawn(async move { anyhow::Ok((last_seq, join(&mut socket, &id, last_seq).await?)) });
    }
    while let Some(joined) = joining.join_next().await {
        let (last_seq, joined) = joined??;
        let missed = if last_seq == 0 { Vec::new() } else { (last_seq + 1..=last).collect() };
        assert_eq!((joined["recovered"].as_bool(), joined["seq"].as_u64()), (Some(last_seq > 0), Some(last)));
        assert_eq!(seqs(&joined["missed_bids"]), missed);
    }
    let bid = append_bids(&system, &id, 1).await?;
    while let Some(watched) = watching.join_next().await {
        let (mut socket, longest) = watched??;
        assert!(longest <= LONGEST_PAUSE, "no tick for {longest:?}");
        let update = socket.event("bid_update").await?;
        assert_eq!((&update["data"]["previous_seq"], seqs(&update["data"]["bids"])), (&json!(last), vec![bid]));
    }
    system.end().await;
    Ok(())
}

/// Every bid after `last_seq`, up to a thousand, wherever it is in a log of many records. A bid that is placed after
/// the answer follows as an update.
#[tokio::test(flavor = "multi_thread")]
async fn resume_returns_exactly_the_missed_bids_or_says_that_it_does_not() -> Result<()> {
    let system = TestSystem::start("resume-exact").await?;
    let id = live_auction(&system).await?;
    append_bids(&system, &id, 3_000).await?;
    // Another auction between its records.
    let other = live_auction(&system).await?;
    append_bids(&system, &other, 500).await?;
    let last = append_bids(&system, &id, 2_000).await?;
    let mut socket = open_room(&system, &id).await?;
    for missed in [0, 1, 20, 21, 300, 257, 777, 1_000] {
        let joined = join(&mut socket, &id, last - missed).await?;
        assert_eq!(joined["recovered"], true, "{missed} missed");
        assert_eq!(seqs(&joined["missed_bids"]), (last - missed + 1..=last).collect::<Vec<_>>(), "{missed} missed");
    }
    for last_seq in [last - 1_001, last - 2_500, 3, 0] {
        let joined = join(&mut socket, &id, last_seq).await?;
        assert_eq!((&joined["recovered"], &joined["missed_bids"]), (&json!(false), &Value::Null), "{last_seq}");
    }
    let bid = append_bids(&system, &id, 1).await?;
    let update = socket.event("bid_update").await?;
    assert_eq!((&update["data"]["previous_seq"], seqs(&update["data"]["bids"])), (&json!(last), vec![bid]));
    system.end().await;
    Ok(())
}

/// A room that was not sent 500 records shows the newest state at the next tick, says which bids it has not shown, and
/// gives them to a client that joins again.
#[tokio::test(flavor = "multi_thread")]
async fn room_that_missed_many_records_jumps_and_says_so() -> Result<()> {
    let system = TestSystem::start("resume-jump").await?;
    let id = live_auction(&system).await?;
    let bus = system.bus().await?;
    let first = append_bids(&system, &id, 30).await?;
    let mut socket = open_room(&system, &id).await?;
    assert_eq!(join(&mut socket, &id, first).await?["seq"], first);

    // The server stores records and sends none of them to rooms. Ticks name the newest one.
    let mut config: jetstream::stream::Config =
        bus.jetstream.get_stream(protocol::subject::LOG_STREAM).await?.cached_info().config.clone();
    config.republish = None;
    bus.jetstream.update_stream(&config).await?;
    let last = append_bids(&system, &id, 500).await?;
    let (mut known, mut has_jumped) = (first, false);
    while known < last {
        let update = socket.event("bid_update").await?["data"].clone();
        let (previous, seq) = (update["previous_seq"].as_u64(), update["seq"].as_u64().context("a seq")?);
        let previous = previous.context("a previous seq")?;
        ensure!(previous >= known && seq > previous, "{previous} to {seq} after {known}");
        assert_eq!(seqs(&update["bids"]), (previous + 1..=seq).collect::<Vec<_>>(), "the bids after previous_seq");
        has_jumped |= previous > known;
        known = seq;
    }
    assert!(has_jumped, "500 records were read one by one");
    let joined = join(&mut socket, &id, first).await?;
    assert_eq!((&joined["recovered"], &joined["seq"]), (&json!(true), &json!(last)));
    assert_eq!(seqs(&joined["missed_bids"]), (first + 1..=last).collect::<Vec<_>>());
    assert_eq!(seqs(&joined["recent_bids"]), (last - 19..=last).rev().collect::<Vec<_>>());
    system.end().await;
    Ok(())
}

/// Ids without an auction are answered, more than a connection may join and more than once; an auction can be joined as
/// soon as it is created.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_ids_keep_no_client_out_of_a_new_auction() -> Result<()> {
    let system = TestSystem::start("resume-unknown").await?;
    let mut strangers = Vec::new();
    for stranger in 0..5 {
        strangers.push(system.socket(&format!("stranger-{stranger}")).await?);
    }
    for socket in &mut strangers {
        for number in 0..20u128 {
            let unknown = json!({"auction_id": uuid::Uuid::from_u128(number).to_string()});
            assert_eq!(socket.ask("join_auction", unknown).await?["data"]["code"], "auction_not_found");
        }
    }
    let mut host = system.socket("host").await?;
    let id = live_auction(&system).await?;
    assert_eq!(host.ask("join_auction", json!({"auction_id": id})).await?["event"], "joined_auction");
    system.end().await;
    Ok(())
}
