//! Auctions of very many records: they are rebuilt in bounded time and memory, from checkpoints where there are some.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use domain::{Amount, BidId, BidKind, BidRequest, Decision, Millis, UserId};
use flash::stack::connections;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use protocol::subject::{self, CHECKPOINT_STREAM, RECORD_HEADER};
use protocol::{Bid, RankedBid, Record, RecordKind};
use serde_json::json;

use crate::test_system::TestSystem;
#[cfg(feature = "long")]
use crate::test_system::program;

/// Appends that wait for their acknowledgement at once.
const IN_FLIGHT: usize = 128;

/// The id of the `nth` bid of an auction.
fn bid_id(nth: u64) -> BidId {
    BidId::from_uuid(uuid::Uuid::from_u128(0xB1D0_0000 + u128::from(nth)))
}

/// The bidder of that bid: two people by turns.
fn bidder(nth: u64) -> UserId {
    UserId::from_uuid(uuid::Uuid::from_u128(0xB1DD_E500 + u128::from(nth % 2)))
}

impl TestSystem {
    /// Appends bids to the log of a live auction, one in each record, as an instance of bid-processing would. Redis
    /// does not know of them: it has gone back in time.
    pub async fn append_bids(&self, auction_id: &str, count: u64) -> Result<()> {
        let bus = self.bus().await?;
        let records = bus::Log::open(&bus).await?.records(auction_id.parse()?, 0).await?.collect().await?;
        let mut auction = bid_processing::replay(&records, &bid_processing::LogKeys::default())?;
        let mut record = records.last().context("a record")?.record.clone();
        let bids = (auction.bid_count..auction.bid_count + count).map(|nth| {
            record = next(&mut auction, &record, nth)?;
            Ok(record.clone())
        });
        append(&bus, bids).await
    }

    /// The most memory that each instance of a service has had in its process, in MB.
    #[cfg(feature = "long")]
    fn peak_memory(&self) -> Result<Vec<(&'static str, u64)>> {
        let peak = |instance: &flash::stack::Instance| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", instance.pid()))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("a peak")?;
            let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
            Ok((instance.name.text(), kilobytes / 1024))
        };
        self.stack.instances.iter().map(peak).collect()
    }

    /// The number of checkpoints of an auction.
    async fn checkpoints(&self, auction_id: &str) -> Result<u64> {
        let mut checkpoints = bus::Checkpoints::open(&self.bus().await?).await?.all(auction_id.parse()?).await?;
        let mut count = 0;
        while checkpoints.next().await?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}

/// Appends records without a compare-and-set, many at once.
async fn append(bus: &bus::Bus, records: impl Iterator<Item = Result<Record>>) -> Result<()> {
    let mut pending: FuturesOrdered<BoxFuture<'static, Result<()>>> = FuturesOrdered::new();
    for record in records {
        let record = record?;
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(RECORD_HEADER, record.kind.to_string());
        let (subject, payload) = (subject::log(record.auction_id), serde_json::to_vec(&record)?);
        let acknowledged = bus.jetstream.publish_with_headers(subject, headers, payload.into()).await?;
        pending.push_back(Box::pin(async move {
            acknowledged.await?;
            Ok(())
        }));
        if pending.len() >= IN_FLIGHT {
            pending.next().await.context("an acknowledgement")??;
        }
    }
    while let Some(acknowledged) = pending.next().await {
        acknowledged?;
    }
    Ok(())
}

/// The record of the next bid.
fn next(auction: &mut domain::Auction, before: &Record, nth: u64) -> Result<Record> {
    let (bid_id, user_id, username) = (bid_id(nth), bidder(nth), format!("robot-{}", nth % 2));
    let amount = auction.minimum_bid();
    let request = BidRequest { bid_id, user_id, username: username.clone(), offer: amount.into() };
    let Decision::Accepted { accepted, found: false } = auction.place(&request, Millis(before.time)) else {
        bail!("bid {nth} is refused");
    };
    let mut record = before.clone();
    record.kind = RecordKind::Bids.into();
    (record.prev, record.head, record.seq, record.by) = (before.head, auction.head, auction.seq, None);
    record.marks = vec![record.mark()];
    let timestamp = accepted.timestamp.0;
    let bid =
        Bid { seq: auction.seq, bid_id, user_id, username, amount, timestamp, kind: BidKind::Bid.into(), sealed: None };
    let state = &mut record.state;
    state.top_bids.retain(|ranked| ranked.user_id != user_id);
    state.top_bids.insert(0, RankedBid { user_id, username: bid.username.clone(), amount });
    state.top_bids.truncate(3);
    state.bid_count = auction.bid_count;
    (state.high_bid, state.high_bidder_id) = (Some(amount), Some(user_id));
    state.high_bidder_username = Some(bid.username.clone());
    state.minimum_bid = auction.minimum_bid();
    (state.end_time, state.extension_count) = (auction.end_time.0, auction.extension_count);
    record.bids = vec![bid];
    Ok(record)
}

/// Waits until there are this many checkpoints.
async fn wait_for_checkpoints(system: &TestSystem, id: &str, count: u64) -> Result<()> {
    for _ in 0..400 {
        if system.checkpoints(id).await? == count {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    bail!("{} checkpoints, not {count}", system.checkpoints(id).await?)
}

/// Empties Redis and returns the time until this person's bid is accepted.
async fn bid_after_loss(system: &TestSystem, id: &str, name: &str, cents: u64) -> Result<Duration> {
    redis::cmd("FLUSHALL").query_async::<()>(&mut system.redis().await?).await?;
    let (started, bid) = (Instant::now(), testkit::bidder::new_bid(id, cents));
    while started.elapsed() < Duration::from_secs(60) {
        let answer = system.bid_at(0, &system.token(name)?, &bid).await?;
        if answer.status == 200 {
            return Ok(started.elapsed());
        }
        ensure!(answer.status == 503, "{}", answer.text);
    }
    bail!("no bid was accepted for a minute")
}

/// The early bid whose answer only a checkpoint has is found under its id, with the same answer.
async fn early_bid_is_found(system: &TestSystem, id: &str) -> Result<()> {
    let nth = 5;
    let request = BidRequest {
        bid_id: bid_id(nth),
        user_id: bidder(nth),
        username: "robot-1".to_owned(),
        offer: Amount::from_cents(100 * (nth + 1))?.into(),
    };
    let hotstate = hotstate::Hotstate::connect(&connections::redis(&system.stack.servers)).await?;
    let verdicts = hotstate.place(id.parse()?, &[request], 0).await?.context("a state")?;
    let Decision::Accepted { accepted, found: true } = &verdicts.decisions[0] else {
        bail!("{:?}", verdicts.decisions);
    };
    assert_eq!(accepted.seq, 3 + nth);
    Ok(())
}

/// An auction of 20,000 records gets checkpoints while it grows, and is rebuilt from them. Checkpoints that are missing
/// or do not belong to the log cost time and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn long_auction_is_rebuilt_from_checkpoints() -> Result<()> {
    let system = TestSystem::with("long-auction", Vec::new(), true).await?;
    let id = system.auction(&json!({"title": "Cello", "duration": 600, "starting_bid": 1})).await?;
    system.append_bids(&id, 20_000).await?;
    // 20,002 facts, 4,096 in each checkpoint.
    wait_for_checkpoints(&system, &id, 4).await?;
    let took = bid_after_loss(&system, &id, "anna", 3_000_000).await?;
    println!("rebuilt from checkpoints and answered in {took:?}");
    early_bid_is_found(&system, &id).await?;
    assert_eq!(system.checked_bids(&id).await?.len(), 20_001);
    let state = system.wait_for(&format!("/auctions/{id}/state"), |state| state["bid_count"] == 20_001).await?;
    assert_eq!((&state["seq"], &state["recent_bids"].as_array().map(Vec::len)), (&json!(20_003), &Some(20)));

    // 25 MB in messages of half a MB: a request has 1.5 MiB at most, and ends before a message that does not fit.
    let bus = system.bus().await?;
    let last = bus::Checkpoints::open(&bus).await?.last(id.parse()?).await?.context("a checkpoint")?;
    let other = "00000000-0000-0000-0000-00000000000a";
    let large = protocol::Checkpoint { auction_id: other.parse()?, ..last.checkpoint };
    let payload = serde_json::to_vec(&large)?;
    for _ in 0..50 {
        let stored = bus.jetstream.publish(subject::checkpoint(large.auction_id), payload.clone().into()).await?;
        stored.await?;
    }
    assert!(payload.len() > 400_000, "{} bytes", payload.len());
    assert_eq!(system.checkpoints(other).await?, 50);

    // One of another log, and a chain that has lost its first piece.
    let stream = bus.jetstream.get_stream(CHECKPOINT_STREAM).await?;
    let last = stream.get_last_raw_message_by_subject(&subject::checkpoint(id.parse()?)).await?;
    let mut foreign: protocol::Checkpoint = serde_json::from_slice(&last.payload)?;
    foreign.answers.truncate(7);
    let subject = subject::checkpoint(id.parse()?);
    for _ in 0..2 {
        // The last one is never used, so the foreign one is followed by another.
        foreign.from = foreign.mark;
        foreign.stream_seq += 1;
        foreign.mark.seq += 7;
        bus.jetstream.publish(subject.clone(), serde_json::to_vec(&foreign)?.into()).await?.await?;
    }
    bid_after_loss(&system, &id, "ben", 3_000_200).await?;
    early_bid_is_found(&system, &id).await?;
    stream.delete_message(1).await?;
    bid_after_loss(&system, &id, "anna", 3_000_400).await?;
    early_bid_is_found(&system, &id).await?;
    assert_eq!(system.checked_bids(&id).await?.len(), 20_003);
    system.end().await;
    Ok(())
}

/// Bids every 5 ms until `done`, 200 at least. Returns their times. None of the `people` exceeds the limit of a person's
/// bids a second, and the first of them does not lead.
#[cfg(feature = "long")]
async fn times_of_bids(system: &TestSystem, id: &str, people: &str, done: impl Fn() -> bool) -> Result<Vec<Duration>> {
    const PEOPLE: usize = 8;

    let state = system.wait_for(&format!("/auctions/{id}/state"), |state| state["status"] == "live").await?;
    let tokens = (0..PEOPLE).map(|nth| system.token(&format!("{people}-{nth}"))).collect::<Result<Vec<_>>>()?;
    let mut cents = testkit::bidder::minimum_bid(&state).context("a minimum")?;
    let mut interval = tokio::time::interval(Duration::from_millis(5));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut took = Vec::new();
    while !done() || took.len() < 200 {
        interval.tick().await;
        let started = Instant::now();
        let bid = testkit::bidder::new_bid(id, cents);
        let answer = system.bid_at(0, &tokens[took.len() % PEOPLE], &bid).await?;
        ensure!(answer.status == 200, "{}", answer.text);
        took.push(started.elapsed());
        cents += 100;
    }
    Ok(took)
}

/// The time within which 99 of 100 were done.
#[cfg(feature = "long")]
fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() * 99 / 100]
}

/// Empties Redis three times. Returns the longest time until a bid on the long auction was accepted, and the times of
/// bids on the other auction at the same time.
#[cfg(feature = "long")]
async fn lose_redis(system: &TestSystem, id: &str, other: &str) -> Result<(Duration, Vec<Duration>)> {
    use std::sync::atomic::{AtomicBool, Ordering};

    let (mut longest, mut times) = (Duration::ZERO, Vec::new());
    for (cents, name) in [(50_000_000, "anna"), (50_000_200, "ben"), (50_000_400, "anna")] {
        let is_done = AtomicBool::new(false);
        let losing = async {
            let took = bid_after_loss(system, id, name, cents).await;
            is_done.store(true, Ordering::Relaxed);
            took
        };
        let people = format!("late-{cents}");
        let bidding = times_of_bids(system, other, &people, || is_done.load(Ordering::Relaxed));
        let (took, bids) = futures_util::future::try_join(losing, bidding).await?;
        println!("first bid after {took:?}; p99 of {} bids on another auction {:?}", bids.len(), p99(bids.clone()));
        longest = longest.max(took);
        times.extend(bids);
    }
    Ok((longest, times))
}

/// Joins of a hundred clients with `last_seq` 0 while a thousand watch. Returns the longest pause between two ticks that
/// any watcher saw.
#[cfg(feature = "long")]
async fn longest_pause_in_a_crowd(system: &TestSystem, id: &str) -> Result<Duration> {
    use crate::resume::{join, longest_pause};

    let mut watchers = Vec::new();
    for watcher in 0..1_000 {
        let mut socket = system.socket(&format!("watcher-{watcher}")).await?;
        join(&mut socket, id, 0).await?;
        watchers.push(socket);
    }
    let mut joiners = Vec::new();
    for joiner in 0..100 {
        joiners.push(system.socket(&format!("joiner-{joiner}")).await?);
    }
    let until = tokio::time::Instant::now() + Duration::from_secs(4);
    let watching = futures_util::future::try_join_all(watchers.iter_mut().map(async |socket| {
        socket.event("timer_update").await?;
        longest_pause(socket, until).await
    }));
    let joining = futures_util::future::try_join_all(joiners.iter_mut().map(|socket| join(socket, id, 0)));
    let (pauses, joined) = futures_util::future::try_join(watching, joining).await?;
    assert!(joined.iter().all(|joined| joined["recovered"] == false), "300,000 bids in one answer");
    pauses.into_iter().max().context("a watcher")
}

/// An auction of 300,000 records: after a loss of Redis a bid is accepted within 5 s, the auction closes on time though
/// Redis is emptied 4 s before its end, other auctions are not slowed down, its room keeps its ticks while clients join
/// from the beginning, and no service needs 200 MB. Without its checkpoints a rebuild takes longer.
#[cfg(feature = "long")]
#[tokio::test(flavor = "multi_thread")]
async fn auction_of_300_000_records_is_rebuilt_in_seconds() -> Result<()> {
    /// Seconds from the creation to the end. The measurements before it take about half of them.
    const DURATION: u64 = 300;

    let system = TestSystem::with("very-long-auction", Vec::new(), true).await?;
    let lot = json!({"title": "Cello", "duration": DURATION, "starting_bid": 1, "anti_snipe": {"mode": "off"}});
    let (id, other) = (system.auction(&lot).await?, system.auction(&lot).await?);
    let started = Instant::now();
    system.append_bids(&id, 300_000).await?;
    println!("appended in {:?}", started.elapsed());
    wait_for_checkpoints(&system, &id, 73).await?;
    system.bus().await?.jetstream.get_stream(CHECKPOINT_STREAM).await?.purge().await?;
    let without = bid_after_loss(&system, &id, "ben", 40_000_000).await?;
    println!("first bid without checkpoints after {without:?}");
    wait_for_checkpoints(&system, &id, 73).await?;

    let measured = Instant::now();
    let quiet = times_of_bids(&system, &other, "early", || measured.elapsed() > Duration::from_secs(5)).await?;
    let (took, busy) = lose_redis(&system, &id, &other).await?;
    let (quiet, busy) = (p99(quiet), p99(busy));
    println!("p99 of another auction {quiet:?} before, {busy:?} during the rebuilds");
    assert!(took < Duration::from_secs(5), "{took:?}");
    // Below 5 ms the machine matters more than the rebuild.
    assert!(busy < 2 * quiet.max(Duration::from_millis(5)), "{quiet:?} became {busy:?}");
    early_bid_is_found(&system, &id).await?;
    let pause = longest_pause_in_a_crowd(&system, &id).await?;
    println!("longest pause between two ticks for 1,000 watchers while 100 clients join: {pause:?}");
    assert!(pause <= Duration::from_millis(1_500), "no tick for {pause:?}");

    let elapsed = started.elapsed();
    let before_end = Duration::from_secs(DURATION - 4).checked_sub(elapsed);
    tokio::time::sleep(before_end.with_context(|| format!("the measurements took {elapsed:?}"))?).await;
    redis::cmd("FLUSHALL").query_async::<()>(&mut system.redis().await?).await?;
    system.wait_for(&format!("/auctions/{id}/state"), |state| state["status"] == "closed").await?;
    let closed = bus::Log::open(&system.bus().await?).await?.last(id.parse()?).await?.context("a record")?.record.state;
    let late = closed.ended_at.context("a close")?.checked_sub(closed.end_time);
    println!("closed {late:?} ms after its end");
    assert!(late.is_some_and(|late| late <= 1_000), "{late:?}");
    for (name, megabytes) in system.peak_memory()? {
        println!("{name}: {megabytes} MB");
        assert!(megabytes < 200, "{name} needed {megabytes} MB");
    }
    system.end().await;
    Ok(())
}

/// Every service starts, and the archive runs, within 512 MB of address space while the log has 200,000 ended auctions.
#[cfg(feature = "long")]
#[tokio::test(flavor = "multi_thread")]
async fn services_start_with_200_000_ended_auctions_in_512_megabytes() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;

    use flash::stack::Name;

    /// Auctions of which the archive takes some.
    const ENDED: u128 = 200_000;
    const ARCHIVED: u128 = 500;

    let mut system = TestSystem::with("many-ended", Vec::new(), true).await?;
    let id = system.auction(&json!({"title": "Cello", "duration": 3_600, "starting_bid": 1})).await?;
    let url = system.management(&format!("/auctions/{id}/close"));
    let closed = testkit::http::post(&url, Some(&system.token("host")?), &json!({})).await?;
    assert_eq!(closed.status, 200, "{}", closed.text);
    let bus = system.bus().await?;
    let log = bus::Log::open(&bus).await?;
    let ended = log.last(id.parse()?).await?.context("a record")?.record;
    let old = ended.time - 40 * 24 * 60 * 60 * 1000;
    append(
        &bus,
        (0..ENDED).map(|nth| {
            let mut record = ended.clone();
            record.auction_id = domain::AuctionId::from_uuid(uuid::Uuid::from_u128(nth + 1));
            if nth < ARCHIVED {
                record.state.ended_at = Some(old);
            }
            Ok(record)
        }),
    )
    .await?;
    let last = log.last(domain::AuctionId::from_uuid(uuid::Uuid::from_u128(ENDED))).await?.context("a record")?;
    while log.passed_by_all().await? < last.stream_seq {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let limited = system.path().join("limited.sh");
    std::fs::write(&limited, format!("#!/bin/sh\nulimit -v 524288\nexec {} \"$@\"\n", program().display()))?;
    std::fs::set_permissions(&limited, std::fs::Permissions::from_mode(0o755))?;
    system.stack.use_program(limited.clone());
    for name in Name::ALL {
        let started = Instant::now();
        system.stack.restart_instance(name, 0).await?;
        println!("{} stopped and started in {:?}", name.text(), started.elapsed());
    }
    for (name, megabytes) in system.peak_memory()? {
        println!("{name}: {megabytes} MB");
        assert!(megabytes < 200, "{name} needed {megabytes} MB");
    }
    let id = system.auction(&json!({"title": "Cello", "duration": 3_600, "starting_bid": 1})).await?;
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.status, 200);
    let archive = std::process::Command::new(&limited)
        .args(["log", "archive", "--directory"])
        .arg(system.path().join("archive"))
        .envs(system.stack.servers.tls_settings())
        .env("NATS_URL", system.stack.servers.nats_url_of("log-archive"))
        .env("REDIS_URL", system.stack.servers.redis_url_of("log-archive").context("a login")?)
        .envs(system.stack.servers.tls_settings())
        .output()?;
    let text = String::from_utf8_lossy(&archive.stdout);
    assert!(archive.status.success(), "{}", String::from_utf8_lossy(&archive.stderr));
    assert!(text.contains(&format!("{ARCHIVED} archived, 0 kept")), "{text}");
    system.end().await;
    Ok(())
}
