//! Anonymous readers ask for auctions that do not exist, and ask again and again for one that does: neither costs the
//! service that decides more than a few bytes and requests.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use testkit::http::{self, Caller};
use uuid::Uuid;

use crate::test_system::TestSystem;

/// Readers that ask at once.
const READERS: usize = 64;
/// Bids after each of which the state is read.
const BIDS: u64 = 30;
/// Ids that do not exist.
#[cfg(not(feature = "long"))]
const UNKNOWN_IDS: usize = 20_000;
#[cfg(feature = "long")]
const UNKNOWN_IDS: usize = 60_000;
/// Ids that are asked for before the memory is measured: the first requests make connections, threads and buffers.
const WARM_UP_IDS: usize = 2_000;
/// Time in which all of them are answered: a second for every 333 ids, as slow as on a busy machine with two cores.
const ANSWERED_WITHIN: Duration = Duration::from_millis(3 * UNKNOWN_IDS as u64);
/// Memory by which bid-processing may grow, in bytes.
const MAX_GROWTH_BYTES: u64 = 10 * 1024 * 1024;

/// The memory of a process, in bytes.
fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Consumers of all streams.
async fn consumers(system: &TestSystem) -> Result<usize> {
    let jetstream = system.bus().await?.jetstream;
    let mut count = 0;
    for stream in [protocol::subject::LOG_STREAM, protocol::subject::CHAT_STREAM] {
        count += jetstream.get_stream(stream).await?.cached_info().state.consumer_count;
    }
    Ok(count)
}

async fn get(caller: &Caller, url: &str) -> Result<http::Reply> {
    caller.send(http::request("GET", url, None).body(Default::default())?).await
}

/// Asks for the state and the timer of this number of ids that do not exist, at the services by turns. Returns how many
/// were `overloaded` or, on a loaded machine, `unavailable`.
async fn ask_for_unknown(system: &TestSystem, ids: usize) -> Result<usize> {
    let (management, timer) = (system.stack.url(Name::AuctionManagement), system.stack.url(Name::Timer));
    let caller = Caller::new();
    let ask = |number: usize| {
        let id = Uuid::new_v4();
        let url = match number % 4 {
            0 | 1 => format!("{timer}/auctions/{id}/timer"),
            2 => format!("{management}/auctions/{id}/state"),
            _ => format!("{management}/auctions/{id}/timer"),
        };
        let caller = caller.clone();
        async move {
            let reply = get(&caller, &url).await?;
            match (reply.status, reply.json["code"].as_str()) {
                (404, Some("auction_not_found")) => Ok(0),
                (503, Some("overloaded" | "unavailable")) if reply.headers.contains_key("retry-after") => Ok(1),
                _ => anyhow::bail!("{url}: {} {}", reply.status, reply.text),
            }
        }
    };
    let mut asked = stream::iter(0..ids).map(ask).buffer_unordered(READERS);
    let mut overloaded = 0;
    while let Some(answer) = asked.next().await {
        overloaded += answer?;
    }
    Ok(overloaded)
}

/// Ids that do not exist cost bid-processing neither memory nor an auctioneer nor a consumer, and an auction without an
/// auctioneer closes on time while they are asked for.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_ids_cost_a_few_bytes() -> Result<()> {
    let mut system = TestSystem::with("unknown-ids", Vec::new(), true).await?;
    let lot = json!({"title": "Vase", "duration": 15, "starting_bid": 1});
    let idle = system.auction(&lot).await?;
    // The new instance has no auctioneer yet.
    system.stack.restart_instance(Name::BidProcessing, 0).await?;
    let bid_processing = system.stack.instances.iter().find(|instance| instance.name == Name::BidProcessing);
    let pid = bid_processing.context("an instance")?.pid();
    ask_for_unknown(&system, WARM_UP_IDS).await?;
    let (before, consumers_before) = (resident_bytes(pid)?, consumers(&system).await?);
    let started = Instant::now();
    let overloaded = ask_for_unknown(&system, UNKNOWN_IDS).await?;
    let took = started.elapsed();
    let grown = resident_bytes(pid)?.saturating_sub(before);
    eprintln!("{UNKNOWN_IDS} unknown ids took {took:?}; {overloaded} overloaded; memory grew by {grown} bytes");
    assert!(took < ANSWERED_WITHIN, "{took:?}");
    assert!(grown < MAX_GROWTH_BYTES, "bid-processing grew by {grown} bytes");
    let auctioneers = system.metric::<u64>(Name::BidProcessing, "flash_auctioneers").await?[0];
    assert!(auctioneers <= 2, "{auctioneers} auctioneers");
    // Consumers of readings are deleted in the background.
    let since = Instant::now();
    while consumers(&system).await? > consumers_before {
        ensure!(since.elapsed() < Duration::from_secs(5), "consumers are left over");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    system.closed_row(&idle).await?;
    let log = system.log(&idle).await?;
    let last = log.last().context("a record")?;
    let (ended_at, end) = (last["time"].as_u64().context("a time")?, last["state"]["end_time"].as_u64());
    let late_by = ended_at - end.context("an end")?;
    assert!(late_by < 1_000, "closed {late_by} ms late");
    system.end().await;
    Ok(())
}

/// Messages that NATS has received and sent.
async fn messages(system: &TestSystem) -> Result<u64> {
    let port = system.stack.servers.nats[0].monitor_port;
    let reply = http::get(&format!("http://127.0.0.1:{port}/varz"), None).await?.json;
    Ok(reply["in_msgs"].as_u64().context("in_msgs")? + reply["out_msgs"].as_u64().context("out_msgs")?)
}

/// Many readers of one auction share its state and chat, and bids and messages are shown at once.
#[tokio::test(flavor = "multi_thread")]
async fn readers_share_states_and_chats() -> Result<()> {
    let system = TestSystem::start("shared-states").await?;
    let id = system.auction(&json!({"title": "Vase", "duration": 600, "starting_bid": 1})).await?;
    let mut anna = system.socket("anna").await?;
    anna.ask("join_auction", json!({"auction_id": id})).await?;
    let url = system.management(&format!("/auctions/{id}/state"));
    let mut behind = 0;
    for amount in 1..=BIDS {
        let name = ["ben", "cleo"][usize::try_from(amount % 2)?];
        assert_eq!(system.bid(name, &id, &json!(amount)).await?.status, 200);
        let mut state = http::get(&url, Some(&system.token(name)?)).await?.json;
        // NATS sends the record before the bidder gets the answer. Where everything shares two processors, the bidder may
        // still be faster.
        if state["bid_count"] == json!(amount - 1) {
            behind += 1;
            let shown = |state: &Value| state["bid_count"] == json!(amount);
            system.wait_for(&format!("/auctions/{id}/state"), shown).await?;
            state = http::get(&url, Some(&system.token(name)?)).await?.json;
        }
        assert_eq!(state["current_high_bid"], json!(amount as f64), "{state}");
        assert_eq!(state["recent_bids"].as_array().map(Vec::len), Some(usize::try_from(amount.min(20))?));
        assert_eq!((&state["you_are_winning"], &state["bid_count"]), (&json!(true), &json!(amount)), "{state}");
    }
    // A state that is only asked for again when it is old would be behind nearly always.
    ensure!(behind <= BIDS / 5, "{behind} of {BIDS} bids were not shown at once");
    let said = anna.ask("chat_message", json!({"auction_id": id, "message": "Hello"})).await?;
    assert_eq!(said["event"], "chat_sent", "{said}");
    let shown = |state: &Value| state["chat_messages"][0]["message"] == "Hello";
    system.wait_for(&format!("/auctions/{id}/state"), shown).await?;

    let before = messages(&system).await?;
    let caller = Caller::new();
    let list = system.management("/auctions?limit=100&status=live");
    let reads = stream::iter(0..2_000usize).map(|number| {
        let (caller, url) = (caller.clone(), if number % 2 == 0 { url.clone() } else { list.clone() });
        async move { get(&caller, &url).await }
    });
    let mut reads = reads.buffer_unordered(READERS);
    while let Some(reply) = reads.next().await {
        ensure!(reply?.status == 200);
    }
    // Ticks, presence and leases go on at the same time: some 20 messages a second.
    let spent = messages(&system).await? - before;
    eprintln!("2,000 readings of a state or a list: {spent} messages");
    assert!(spent < 1_000, "{spent} messages");

    let closed =
        http::post(&system.management(&format!("/auctions/{id}/close")), Some(&system.token("host")?), &json!({}))
            .await?;
    assert_eq!(closed.status, 200, "{}", closed.text);
    assert_eq!(http::get(&url, None).await?.json["outcome"], "sold");
    let live = http::get(&list, None).await?.json;
    assert_eq!((&live["auctions"], &live["total"]), (&json!([]), &json!(0)), "a closed auction is not live");
    system.end().await;
    Ok(())
}
