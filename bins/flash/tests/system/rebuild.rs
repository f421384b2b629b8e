//! Redis loses decisions or is rolled back; its state is rebuilt from the log.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use flash::stack::{Name, connections};
use futures_util::future::try_join_all;
use serde_json::json;

use crate::faults::{Load, assert_log_agrees};
use crate::test_system::TestSystem;

/// Large records: many requests of 1.5 MiB.
const LARGE_RECORDS: usize = 100;
const LARGE_RECORD_BYTES: usize = 100_000;

impl TestSystem {
    /// A connection to Redis.
    pub async fn redis(&self) -> Result<redis::aio::MultiplexedConnection> {
        let client = self.stack.servers.redis[0].client()?;
        Ok(client.get_multiplexed_async_connection().await?)
    }

    async fn empty_redis(&self) -> Result<()> {
        Ok(redis::cmd("FLUSHALL").query_async(&mut self.redis().await?).await?)
    }

    /// The content of every key of an auction, for comparison.
    async fn dump(&self, id: &str) -> Result<BTreeMap<String, String>> {
        let redis = &mut self.redis().await?;
        let key = |name: &str| format!("auction:{{{id}}}:{name}");
        let mut dump = BTreeMap::new();
        for name in ["state", "bids"] {
            let hash: BTreeMap<Vec<u8>, Vec<u8>> = redis::cmd("HGETALL").arg(key(name)).query_async(redis).await?;
            let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
            dump.extend(hash.iter().map(|(field, value)| (format!("{name} {}", text(field)), text(value))));
        }
        let top: Vec<String> =
            redis::cmd("ZRANGE").arg(key("top_bids")).arg(0).arg(-1).arg("WITHSCORES").query_async(redis).await?;
        let recent: Vec<String> = redis::cmd("LRANGE").arg(key("recent")).arg(0).arg(-1).query_async(redis).await?;
        dump.insert("top".to_owned(), top.join(" "));
        dump.insert("recent".to_owned(), recent.join(" "));
        Ok(dump)
    }
}

/// Ten auctions on two instances: no accepted bid is lost, no seq occurs twice, and bidding resumes by itself.
#[tokio::test(flavor = "multi_thread")]
async fn emptied_and_rolled_back_redis_loses_no_bids() -> Result<()> {
    // Separate processes, each with its own cached position of the log.
    let mut system = TestSystem::with("rollback", Vec::new(), true).await?;
    system.stack.add_instance(Name::BidProcessing).await?;
    let mut auctions = Vec::new();
    for lot in 0..10 {
        let lot = json!({"title": format!("Lot {lot}"), "duration": 600, "starting_bid": 1});
        auctions.push(system.auction(&lot).await?);
    }
    let loads: Vec<Load> = auctions.iter().map(|id| Load::start(&system, id, 2)).collect::<Result<_>>()?;
    let all_accept = async || -> Result<()> {
        for load in &loads {
            load.accepted(5).await?;
        }
        Ok(())
    };
    all_accept().await?;
    for _ in 0..3 {
        system.empty_redis().await?;
        all_accept().await?;
    }
    let copy = system.path().join("redis-before");
    for _ in 0..2 {
        system.stack.servers.redis[0].copy(&copy)?;
        all_accept().await?;
        system.stack.servers.redis[0].roll_back(&copy).await?;
        all_accept().await?;
        std::fs::remove_dir_all(&copy)?;
    }
    // All bidders stop before the first log is checked.
    let answers = try_join_all(loads.into_iter().map(Load::finish)).await?;
    for (id, answers) in auctions.iter().zip(answers) {
        let accepted = assert_log_agrees(&system, id, &answers).await?;
        assert!(accepted >= 30, "only {accepted} bids were accepted, too few for a proof");
        system.history(id, system.checked_bids(id).await?.len()).await?;
    }
    system.end().await;
    Ok(())
}

/// The rebuilt state equals the lost one field by field, and an accepted bid is still found under its id.
#[tokio::test(flavor = "multi_thread")]
async fn rebuilt_state_equals_the_lost_state() -> Result<()> {
    let system = TestSystem::start("rebuild").await?;
    let snipe = json!({"mode": "extend", "window": 600, "extension": 5, "max_extensions": 3});
    let lot = json!({"title": "Clock", "duration": 600, "starting_bid": 10, "anti_snipe": snipe});
    let (running, ended, unbid) =
        (system.auction(&lot).await?, system.auction(&lot).await?, system.auction(&lot).await?);
    for id in [&running, &ended] {
        for (nth, name) in ["anna", "ben", "carl", "dora", "anna"].into_iter().cycle().take(30).enumerate() {
            system.bid(name, id, &json!(10 + 2 * nth)).await?;
        }
    }
    let bid = json!({"auction_id": ended, "amount": 500, "bid_id": uuid::Uuid::new_v4().to_string()});
    let first = system.bid_at(0, &system.token("ben")?, &bid).await?;
    assert_eq!(first.status, 200, "{}", first.text);
    let url = system.management(&format!("/auctions/{ended}/close"));
    let closed = testkit::http::post(&url, Some(&system.token("host")?), &json!({})).await?;
    assert_eq!(closed.status, 200, "{}", closed.text);
    let before = [system.dump(&running).await?, system.dump(&ended).await?, system.dump(&unbid).await?];

    system.empty_redis().await?;
    // Reading the state rebuilds an auction; so does a rejected bid.
    system.wait_for(&format!("/auctions/{unbid}/state"), |state| state["status"] == "live").await?;
    assert_eq!(system.bid("host", &running, &json!(9)).await?.json["code"], "host_cannot_bid");
    let again = system.bid_at(0, &system.token("ben")?, &bid).await?;
    assert_eq!((again.status, &again.json), (200, &first.json), "the same bid id always has the same answer");
    let after = [system.dump(&running).await?, system.dump(&ended).await?, system.dump(&unbid).await?];
    assert_eq!(before, after);
    let seconds: i64 =
        redis::cmd("TTL").arg(format!("auction:{{{ended}}}:bids")).query_async(&mut system.redis().await?).await?;
    assert!((86_000..=86_400).contains(&seconds), "the keys of an ended auction expire in {seconds} s");
    system.end().await;
    Ok(())
}

/// Redis has an ending that the log does not have and never will. The host's closing is not refused because of it: the
/// auction is rebuilt, and the closing takes effect.
#[tokio::test(flavor = "multi_thread")]
async fn ending_that_the_log_does_not_have_refuses_no_closing() -> Result<()> {
    let mut system = TestSystem::start("lost-ending").await?;
    let id = system.auction(&json!({"title": "Mirror", "duration": 600, "starting_bid": 1})).await?;
    assert_eq!(system.bid("anna", &id, &json!(2)).await?.status, 200);
    // No instance may commit the ending before its outbox is lost.
    system.stack.kill_instance(Name::BidProcessing, 0).await?;
    let hotstate = hotstate::Hotstate::connect(&connections::redis(&system.stack.servers)).await?;
    let host = identity::development::DevelopmentUser::named("host").user_id;
    let ended = hotstate.close(id.parse()?, Some(host)).await?;
    assert!(matches!(ended, Some(hotstate::Closed::Closed(_))), "{ended:?}");
    let outbox = format!("auction:{{{id}}}:outbox");
    redis::cmd("DEL").arg(outbox).query_async::<()>(&mut system.redis().await?).await?;
    system.stack.add_instance(Name::BidProcessing).await?;

    let url = system.management(&format!("/auctions/{id}/close"));
    let closed = testkit::http::post(&url, Some(&system.token("host")?), &json!({})).await?;
    assert_eq!((closed.status, &closed.json["winner_username"]), (200, &json!("anna")), "{}", closed.text);
    assert_eq!(system.log(&id).await?.last().context("a record")?["type"], "closed");
    let again = testkit::http::post(&url, Some(&system.token("host")?), &json!({})).await?;
    assert_eq!((again.status, &again.json["code"]), (409, &json!("wrong_state")), "{}", again.text);
    system.end().await;
    Ok(())
}

/// A record that cannot be parsed, or that does not follow its predecessor, halts its auction and no other.
#[tokio::test(flavor = "multi_thread")]
async fn inconsistent_record_halts_only_its_auction() -> Result<()> {
    let mut system = TestSystem::start("poison").await?;
    let lot = json!({"title": "Vase", "duration": 600, "starting_bid": 1});
    let (unreadable, out_of_order, good) =
        (system.auction(&lot).await?, system.auction(&lot).await?, system.auction(&lot).await?);
    for id in [&unreadable, &out_of_order, &good] {
        assert_eq!(system.bid("anna", id, &json!(2)).await?.status, 200);
    }
    let bus = system.bus().await?;
    let last = bus::Log::open(&bus).await?.last(out_of_order.parse()?).await?.context("a record")?;
    let mut skipping = serde_json::to_value(&last.record)?;
    skipping["seq"] = json!(last.record.seq + 7);
    for (id, payload) in [(&unreadable, json!({"v": 1})), (&out_of_order, skipping)] {
        let subject = protocol::subject::log(id.parse()?);
        bus.jetstream.publish(subject, serde_json::to_vec(&payload)?.into()).await?.await?;
    }
    for id in [&unreadable, &out_of_order] {
        // The first bid is decided before the append is rejected.
        assert_eq!(system.bid("ben", id, &json!(5)).await?.status, 503);
        let refused = system.bid("ben", id, &json!(6)).await?;
        assert_eq!((refused.status, &refused.json["code"]), (503, &json!("unavailable")), "{}", refused.text);
        assert!(system.checked_bids(id).await.is_err());
    }
    assert_eq!(system.bid("ben", &good, &json!(5)).await?.status, 200);
    // A new instance reads the last record of each auction, including these.
    system.stack.add_instance(Name::BidProcessing).await?;
    assert_eq!(system.bid_at(1, &system.token("anna")?, &json!({"auction_id": good, "amount": 7})).await?.status, 200);
    let lot = json!({"title": "Cup", "duration": 5, "starting_bid": 1, "anti_snipe": {"mode": "off"}});
    let later = system.auction(&lot).await?;
    system.wait_for(&format!("/auctions/{later}/state"), |state| state["status"] == "closed").await?;
    system.end().await;
    Ok(())
}

/// Rebuilding an auction of ten thousand bids takes less than a second.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_bids_are_rebuilt_in_under_a_second() -> Result<()> {
    let system = TestSystem::start("rebuild-large").await?;
    let id = system.auction(&json!({"title": "Violin", "duration": 600, "starting_bid": 1})).await?;
    // Decided without a commit, as by an instance that died in between.
    let hotstate = hotstate::Hotstate::connect(&connections::redis(&system.stack.servers)).await?;
    let person = |nth: u64| domain::UserId::from_uuid(uuid::Uuid::from_u128(u128::from(100 + nth % 2)));
    for call in 0..50 {
        let bids: Vec<_> = (0..200)
            .map(|nth| {
                Ok(domain::BidRequest {
                    bid_id: domain::BidId::from_uuid(uuid::Uuid::new_v4()),
                    user_id: person(nth),
                    username: format!("robot-{}", nth % 2),
                    offer: domain::Amount::from_cents(100 * (1 + call * 200 + nth))?.into(),
                })
            })
            .collect::<Result<_>>()?;
        hotstate.place(id.parse()?, &bids, 0).await?.context("a state")?;
        // Reading the state commits the outbox first.
        let bid_count = 200 * (call + 1);
        system.wait_for(&format!("/auctions/{id}/state"), |state| state["bid_count"] == bid_count).await?;
    }
    assert_eq!(system.checked_bids(&id).await?.len(), 10_000);
    system.empty_redis().await?;
    let started = std::time::Instant::now();
    let answer = system.bid("anna", &id, &json!(20_000)).await?;
    let took = started.elapsed();
    assert_eq!(answer.status, 200, "{}", answer.text);
    println!("rebuilt and answered in {took:?}");
    assert!(took < std::time::Duration::from_secs(1), "{took:?}");
    assert_eq!(system.checked_bids(&id).await?.len(), 10_001);
    system.end().await;
    Ok(())
}

/// Last records that are larger than what one request may take: nats-server would skip one at the end of each.
#[tokio::test(flavor = "multi_thread")]
async fn large_last_records_are_all_read() -> Result<()> {
    let system = TestSystem::start("large-last").await?;
    let id = system.auction(&json!({"title": "Organ", "duration": 600, "starting_bid": 1})).await?;
    let bus = system.bus().await?;
    let log = bus::Log::open(&bus).await?;
    let mut record = serde_json::to_value(&log.last(id.parse()?).await?.context("a record")?.record)?;
    (record["type"], record["state"]["status"]) = (json!("closed"), json!("closed"));
    (record["state"]["outcome"], record["state"]["ended_at"]) = (json!("unsold"), record["time"].clone());
    record["padding"] = json!("x".repeat(LARGE_RECORD_BYTES));
    let mut written = BTreeSet::from([id]);
    for _ in 0..LARGE_RECORDS {
        let id = uuid::Uuid::new_v4().to_string();
        record["auction_id"] = json!(id);
        let subject = protocol::subject::log(id.parse()?);
        bus.jetstream.publish(subject, serde_json::to_vec(&record)?.into()).await?.await?;
        written.insert(id);
    }
    let (mut last, mut read) = (log.last_of_each().await?, BTreeSet::new());
    while let Some(logged) = last.next().await? {
        read.insert(logged.record.auction_id.to_string());
    }
    assert_eq!(read, written);
    system.end().await;
    Ok(())
}
