//! A log with unreadable records, without records that it had, or of another shape: each fault is named, and contained
//! to the auctions that it concerns.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::Context as JetStream;
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType};
use flash::stack::Name;
use protocol::Record;
use protocol::subject::{self, LEASES_BUCKET, LOG_STREAM, PERSISTENCE_CONSUMER};
use serde_json::{Value, json};
use testkit::bidder::new_bid;

use crate::test_system::TestSystem;

/// Bytes of the largest message that nats-server takes.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// A message after the last record of an auction: the name of the case, the message, and the reason in the log line.
type Case = (&'static str, fn(&Record) -> Result<Value>, &'static str);

const CASES: [Case; 3] = [
    (
        "a record of a newer version",
        |last| {
            let mut next = serde_json::to_value(last)?;
            (next["v"], next["seq"], next["prev"]) = (json!(2), json!(last.seq + 1), next["head"].clone());
            Ok(next)
        },
        "record version 2 is not known",
    ),
    (
        "a hole before the record",
        |last| {
            let mut next = serde_json::to_value(last)?;
            (next["seq"], next["prev"]) = (json!(last.seq + 2), next["head"].clone());
            Ok(next)
        },
        "does not follow",
    ),
    (
        "a message as large as NATS takes",
        |_| Ok(json!({"v": 1, "note": "x".repeat(MAX_MESSAGE_BYTES - 100)})),
        "missing field",
    ),
];

/// The errors with which bid-processing halted this auction.
fn halted(system: &TestSystem, id: &str) -> Result<Vec<String>> {
    let mut errors = Vec::new();
    for file in std::fs::read_dir(system.path().join("logs"))? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(Name::BidProcessing.text()) {
            continue;
        }
        for line in std::fs::read_to_string(&path)?.lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let fields = &line["fields"];
            if fields["message"].as_str().is_some_and(|text| text.starts_with("auction halted"))
                && fields["auction_id"] == id
            {
                errors.push(fields["error"].to_string());
            }
        }
    }
    Ok(errors)
}

/// Each bid on the auction fails, and none is reported as accepted.
async fn accepts_no_bid(system: &TestSystem, id: &str) -> Result<()> {
    for name in ["ben", "cleo"] {
        let refused = system.bid(name, id, &json!(50)).await?;
        ensure!(refused.status == 503, "{} {}", refused.status, refused.text);
    }
    Ok(())
}

/// An auction can be created, takes a bid, and is closed.
async fn other_auctions_go_on(system: &TestSystem) -> Result<()> {
    let lot = json!({"title": "Cup", "duration": 5, "starting_bid": 1, "anti_snipe": {"mode": "off"}});
    let id = system.auction(&lot).await?;
    let placed = system.bid("dora", &id, &json!(2)).await?;
    ensure!(placed.status == 200, "{}", placed.text);
    system.wait_for(&format!("/auctions/{id}/state"), |state| state["status"] == "closed").await?;
    let row = system.closed_row(&id).await?;
    ensure!(row.winner.is_some_and(|winner| winner.username == "dora"), "the row has no winner");
    Ok(())
}

/// A message in the log that cannot be read, or that does not follow, halts its auction alone. The log line names it.
#[tokio::test(flavor = "multi_thread")]
async fn unreadable_message_halts_its_auction_by_name() -> Result<()> {
    // Separate processes: each writes its log to a file.
    let mut system = TestSystem::with("bad-log", Vec::new(), true).await?;
    let lot = json!({"title": "Vase", "duration": 600, "starting_bid": 1});
    let good = system.auction(&lot).await?;
    let bus = system.bus().await?;
    let log = bus::Log::open(&bus).await?;
    let mut bad = Vec::new();
    for case in &CASES {
        let id = system.auction(&lot).await?;
        assert_eq!(system.bid("anna", &id, &json!(2)).await?.status, 200, "{}", case.0);
        let last = log.last(id.parse()?).await?.context("a record")?;
        let message = serde_json::to_vec(&case.1(&last.record)?)?;
        bus.jetstream.publish(subject::log(id.parse()?), message.into()).await?.await.context(case.0)?;
        bad.push((id, case));
    }
    let too_large = vec![b' '; MAX_MESSAGE_BYTES + 1];
    let published = bus.jetstream.publish(subject::log(good.parse()?), too_large.into()).await;
    let refused = match published {
        Ok(acknowledged) => acknowledged.await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "a message over the limit got into the log");

    for (id, (name, _, detail)) in &bad {
        accepts_no_bid(&system, id).await.context(*name)?;
        let errors = halted(&system, id)?;
        ensure!(errors.iter().any(|error| error.contains(detail)), "{name}: {errors:?}");
    }
    assert_eq!(halted(&system, &good)?, [] as [String; 0]);
    assert_eq!(system.bid("ben", &good, &json!(5)).await?.status, 200);
    other_auctions_go_on(&system).await?;
    // Every service starts beside these messages.
    for name in Name::ALL {
        system.stack.kill_and_restart_instance(name, 0).await?;
    }
    assert_eq!(system.bid("cleo", &good, &json!(7)).await?.status, 200);
    other_auctions_go_on(&system).await?;
    system.end().await;
    Ok(())
}

/// An auction that lost its first records in the log, and its state in Redis, is halted and not created again.
#[tokio::test(flavor = "multi_thread")]
async fn lost_first_records_halt_an_auction_that_must_be_rebuilt() -> Result<()> {
    let system = TestSystem::with("lost-records", Vec::new(), true).await?;
    let lot = json!({"title": "Stamp", "duration": 600, "starting_bid": 1});
    let (id, good) = (system.auction(&lot).await?, system.auction(&lot).await?);
    for id in [&id, &good] {
        assert_eq!(system.bid("anna", id, &json!(2)).await?.status, 200);
    }
    let before = system.log(&id).await?;
    let stream = system.bus().await?.jetstream.get_stream(LOG_STREAM).await?;
    stream.purge().filter(subject::log(id.parse()?)).keep(1).await?;
    redis::cmd("FLUSHALL").query_async::<()>(&mut system.redis().await?).await?;

    accepts_no_bid(&system, &id).await?;
    ensure!(!halted(&system, &id)?.is_empty(), "no log line names the auction");
    assert_eq!(system.log(&id).await?, before[before.len() - 1..], "something was appended");
    assert_eq!(system.bid("ben", &good, &json!(5)).await?.status, 200);
    other_auctions_go_on(&system).await?;
    system.end().await;
    Ok(())
}

/// Starts NATS on the data in `from`, after moving its present data to `to`. Then starts all services again.
async fn replace_nats_data(system: &mut TestSystem, from: &Path, to: &Path) -> Result<()> {
    for name in Name::ALL {
        system.stack.kill_instance(name, 0).await?;
    }
    system.stack.servers.nats[0].process.kill();
    let data = system.path().join("nats");
    std::fs::rename(&data, to)?;
    if from.exists() {
        std::fs::rename(from, &data)?;
    }
    system.stack.servers.restart_nats().await?;
    bus::declare(&system.bus().await?.jetstream, 1).await.map_err(anyhow::Error::from_boxed)?;
    for name in Name::ALL {
        system.stack.add_instance(name).await?;
    }
    Ok(())
}

/// An empty NATS under a full Redis: an auction of Redis is not created again in the log and takes no bid; others go
/// on. When NATS has its data again, the auction goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn empty_log_under_a_full_redis_accepts_no_bids() -> Result<()> {
    let mut system = TestSystem::with("empty-log", Vec::new(), true).await?;
    let id = system.auction(&json!({"title": "Globe", "duration": 600, "starting_bid": 1})).await?;
    let bid = new_bid(&id, 200);
    let accepted = system.bid_at(0, &system.token("anna")?, &bid).await?;
    assert_eq!(accepted.status, 200, "{}", accepted.text);
    let (full, empty) = (system.path().join("nats-full"), system.path().join("nats-empty"));

    replace_nats_data(&mut system, &empty, &full).await?;
    for name in ["ben", "cleo"] {
        let refused = system.bid(name, &id, &json!(50)).await?;
        // Halted, or unknown, because the log does not have it.
        ensure!([404, 503].contains(&refused.status), "{} {}", refused.status, refused.text);
    }
    other_auctions_go_on(&system).await?;
    assert_eq!(system.log(&id).await?, [] as [Value; 0], "the auction was created again");

    replace_nats_data(&mut system, &full, &empty).await?;
    let again = system.bid_at(0, &system.token("anna")?, &bid).await?;
    assert_eq!((again.status, &again.json), (200, &accepted.json), "an accepted bid has another answer");
    let placed = system.bid("emil", &id, &json!(90)).await?;
    assert_eq!(placed.status, 200, "{}", placed.text);
    let names: BTreeSet<String> = system.checked_bids(&id).await?.into_iter().map(|bid| bid.username).collect();
    ensure!(names.contains("anna") && names.contains("emil"), "{names:?}");
    system.end().await;
    Ok(())
}

/// A Redis that lost its disk: auctions come back from the log.
#[tokio::test(flavor = "multi_thread")]
async fn redis_without_its_disk_is_rebuilt_from_the_log() -> Result<()> {
    let mut system = TestSystem::start("lost-disk").await?;
    let id = system.auction(&json!({"title": "Lens", "duration": 600, "starting_bid": 1})).await?;
    let bid = new_bid(&id, 200);
    let accepted = system.bid_at(0, &system.token("anna")?, &bid).await?;
    assert_eq!(accepted.status, 200, "{}", accepted.text);
    system.stack.servers.redis[0].process.kill();
    std::fs::remove_dir_all(system.path().join("redis/appendonlydir"))?;
    system.stack.servers.restart_redis().await?;

    let placed = system.bid("ben", &id, &json!(5)).await?;
    let next_seq = accepted.json["seq"].as_u64().map(|seq| seq + 1);
    assert_eq!((placed.status, placed.json["seq"].as_u64()), (200, next_seq), "{}", placed.text);
    let again = system.bid_at(0, &system.token("anna")?, &bid).await?;
    assert_eq!((again.status, &again.json), (200, &accepted.json));
    assert_eq!(system.checked_bids(&id).await?.len(), 2);
    system.end().await;
    Ok(())
}

/// A stream or bucket of the wrong shape: its name, the stream to delete first, and the shape.
type WrongStream = (&'static str, &'static str, fn() -> Config);

fn shape(name: &str, subjects: &[&str]) -> Config {
    Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        ..Config::default()
    }
}

fn shapes() -> [WrongStream; 4] {
    [
        ("stream AUCTION_LOG", LOG_STREAM, || Config {
            storage: StorageType::Memory,
            ..shape(LOG_STREAM, &["auction.*.log"])
        }),
        ("stream AUCTION_LOG", LOG_STREAM, || Config {
            retention: RetentionPolicy::WorkQueue,
            ..shape(LOG_STREAM, &["auction.*.log"])
        }),
        // The log itself is missing, and another stream takes its subjects.
        ("stream AUCTION_LOG", LOG_STREAM, || shape("OTHER", &["auction.*.log"])),
        ("bucket leases", "KV_leases", || Config {
            retention: RetentionPolicy::WorkQueue,
            ..shape("KV_leases", &["$KV.leases.>"])
        }),
    ]
}

async fn declare(jetstream: &JetStream) -> Result<()> {
    bus::declare(jetstream, 1).await.map_err(anyhow::Error::from_boxed)
}

/// `flash-admin migrate`, which runs before any service, names the stream, bucket or consumer that it cannot bring into
/// shape, and deletes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_shapes_are_named_before_services_start() -> Result<()> {
    let mut system = TestSystem::start("wrong-shape").await?;
    // No service recreates what the test deletes.
    for name in Name::ALL {
        system.stack.kill_instance(name, 0).await?;
    }
    assert_eq!(format!("KV_{LEASES_BUCKET}"), "KV_leases");
    let jetstream = system.bus().await?.jetstream;
    for (what, replaced, wrong) in shapes() {
        let wrong = wrong();
        jetstream.delete_stream(replaced).await.context(what)?;
        jetstream.create_stream(&wrong).await.context(what)?;
        let error = declare(&jetstream).await.expect_err(what);
        let text = format!("{error:#}");
        ensure!(text.starts_with(&format!("failed to declare {what}: ")), "{text}");
        let kept = jetstream.get_stream(&wrong.name).await?.cached_info().config.clone();
        assert_eq!((kept.storage, kept.retention), (wrong.storage, wrong.retention), "{what} was changed");
        jetstream.delete_stream(&wrong.name).await?;
        declare(&jetstream).await.with_context(|| format!("{what} after it was deleted"))?;
    }
    // A consumer that acknowledges nothing cannot become one that does.
    jetstream.delete_consumer_from_stream(PERSISTENCE_CONSUMER, LOG_STREAM).await?;
    let name = Some(PERSISTENCE_CONSUMER.to_owned());
    let wrong = pull::Config { durable_name: name, ack_policy: AckPolicy::None, ..pull::Config::default() };
    jetstream.create_consumer_on_stream(wrong, LOG_STREAM).await?;
    let text = format!("{:#}", declare(&jetstream).await.expect_err("a consumer"));
    ensure!(text.starts_with(&format!("failed to declare consumer {PERSISTENCE_CONSUMER}: ")), "{text}");
    system.end().await;
    Ok(())
}
