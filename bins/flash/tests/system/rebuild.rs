//! Redis loses what it decided, or goes back in time; the log puts it right.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use flash::stack::Name;
use futures_util::future::try_join_all;
use serde_json::json;

use crate::faults::{Load, assert_books};
use crate::world::World;

impl World {
    pub async fn redis(&self) -> Result<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(self.stack.servers.redis_url())?;
        Ok(client.get_multiplexed_async_connection().await?)
    }

    async fn empty_redis(&self) -> Result<()> {
        Ok(redis::cmd("FLUSHALL").query_async(&mut self.redis().await?).await?)
    }

    /// Every key of an auction with all it holds, for comparison.
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

/// Ten auctions, two instances: nothing accepted is lost, no seq comes twice, bidding goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn redis_is_emptied_and_rolled_back_amid_bidding() -> Result<()> {
    // Processes of their own: each has its own knowledge of the log, and its own log of what it did.
    let mut world = World::with("rollback", Vec::new(), true).await?;
    world.stack.add_instance(Name::BidProcessing).await?;
    let mut auctions = Vec::new();
    for lot in 0..10 {
        let lot = json!({"title": format!("Lot {lot}"), "duration": 600, "starting_bid": 1});
        auctions.push(world.auction(&lot).await?);
    }
    let loads: Vec<Load> = auctions.iter().map(|id| Load::start(&world, id, 2)).collect::<Result<_>>()?;
    let all_go_on = async || -> Result<()> {
        for load in &loads {
            load.accepted(5).await?;
        }
        Ok(())
    };
    all_go_on().await?;
    for _ in 0..3 {
        world.empty_redis().await?;
        all_go_on().await?;
    }
    let copy = world.path().join("redis-before");
    for _ in 0..2 {
        world.stack.servers.redis[0].copy(&copy)?;
        all_go_on().await?;
        world.stack.servers.redis[0].roll_back(&copy).await?;
        all_go_on().await?;
        std::fs::remove_dir_all(&copy)?;
    }
    // All stop before the first is looked at.
    let answers = try_join_all(loads.into_iter().map(Load::finish)).await?;
    for (id, answers) in auctions.iter().zip(answers) {
        let accepted = assert_books(&world, id, &answers).await?;
        assert!(accepted >= 30, "only {accepted} bids were accepted: this proves nothing");
        world.history(id, world.checked_bids(id).await?.len()).await?;
    }
    world.end().await;
    Ok(())
}

/// What is rebuilt is what was lost, field by field, and an accepted bid is still found under its id.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_rebuilt_is_what_was_lost() -> Result<()> {
    let world = World::start("rebuild").await?;
    let snipe = json!({"mode": "extend", "window": 600, "extension": 5, "max_extensions": 3});
    let lot = json!({"title": "Clock", "duration": 600, "starting_bid": 10, "anti_snipe": snipe});
    let (running, ended, unbid) = (world.auction(&lot).await?, world.auction(&lot).await?, world.auction(&lot).await?);
    for id in [&running, &ended] {
        for (nth, name) in ["anna", "ben", "carl", "dora", "anna"].into_iter().cycle().take(30).enumerate() {
            world.bid(name, id, &json!(10 + 2 * nth)).await?;
        }
    }
    let bid = json!({"auction_id": ended, "amount": 500, "bid_id": uuid::Uuid::new_v4().to_string()});
    let first = world.bid_at(0, &world.token("ben")?, &bid).await?;
    assert_eq!(first.status, 200, "{}", first.text);
    let url = world.management(&format!("/auctions/{ended}/close"));
    let closed = testkit::http::post(&url, Some(&world.token("host")?), &json!({})).await?;
    assert_eq!(closed.status, 200, "{}", closed.text);
    let before = [world.dump(&running).await?, world.dump(&ended).await?, world.dump(&unbid).await?];

    world.empty_redis().await?;
    // A look is enough to bring an auction back; a refused bid, too.
    world.wait_for(&format!("/auctions/{unbid}/state"), |state| state["status"] == "live").await?;
    assert_eq!(world.bid("host", &running, &json!(9)).await?.json["code"], "host_cannot_bid");
    let again = world.bid_at(0, &world.token("ben")?, &bid).await?;
    assert_eq!((again.status, &again.json), (200, &first.json), "the same bid id has the same answer for ever");
    let after = [world.dump(&running).await?, world.dump(&ended).await?, world.dump(&unbid).await?];
    assert_eq!(before, after);
    let seconds: i64 =
        redis::cmd("TTL").arg(format!("auction:{{{ended}}}:bids")).query_async(&mut world.redis().await?).await?;
    assert!((86_000..=86_400).contains(&seconds), "the keys of an ended auction live on for {seconds} s");
    world.end().await;
    Ok(())
}

/// A record that does not parse, or does not follow, stops its auction and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_record_stops_one_auction() -> Result<()> {
    let mut world = World::start("poison").await?;
    let lot = json!({"title": "Vase", "duration": 600, "starting_bid": 1});
    let (unreadable, out_of_order, good) =
        (world.auction(&lot).await?, world.auction(&lot).await?, world.auction(&lot).await?);
    for id in [&unreadable, &out_of_order, &good] {
        assert_eq!(world.bid("anna", id, &json!(2)).await?.status, 200);
    }
    let bus = world.bus().await?;
    let last = bus::Log::open(&bus).await?.last(out_of_order.parse()?).await?.context("a record")?;
    let mut skipping = serde_json::to_value(&last.record)?;
    skipping["seq"] = json!(last.record.seq + 7);
    for (id, payload) in [(&unreadable, json!({"v": 1})), (&out_of_order, skipping)] {
        let subject = protocol::subject::log(id.parse()?);
        bus.jetstream.publish(subject, serde_json::to_vec(&payload)?.into()).await?.await?;
    }
    for id in [&unreadable, &out_of_order] {
        // The first is decided before the log says no.
        assert_eq!(world.bid("ben", id, &json!(5)).await?.status, 503);
        let refused = world.bid("ben", id, &json!(6)).await?;
        assert_eq!((refused.status, &refused.json["code"]), (503, &json!("unavailable")), "{}", refused.text);
        assert!(world.checked_bids(id).await.is_err());
    }
    assert_eq!(world.bid("ben", &good, &json!(5)).await?.status, 200);
    // Services that start now read the last record of each auction, these among them.
    world.stack.add_instance(Name::BidProcessing).await?;
    assert_eq!(world.bid_at(1, &world.token("anna")?, &json!({"auction_id": good, "amount": 7})).await?.status, 200);
    let lot = json!({"title": "Cup", "duration": 5, "starting_bid": 1, "anti_snipe": {"mode": "off"}});
    let later = world.auction(&lot).await?;
    world.wait_for(&format!("/auctions/{later}/state"), |state| state["status"] == "closed").await?;
    world.end().await;
    Ok(())
}

/// An auction of ten thousand bids is frozen for less than a second.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_bids_are_rebuilt_in_under_a_second() -> Result<()> {
    let world = World::start("rebuild-large").await?;
    let id = world.auction(&json!({"title": "Violin", "duration": 600, "starting_bid": 1})).await?;
    // Decided as an instance decides them that dies before it commits: the sweep does that.
    let hotstate = hotstate::Hotstate::connect(&world.stack.servers.redis_url()).await?;
    let person = |nth: u64| domain::UserId::from_uuid(uuid::Uuid::from_u128(u128::from(100 + nth % 2)));
    for call in 0..50 {
        let bids: Vec<_> = (0..200)
            .map(|nth| {
                Ok(domain::BidRequest {
                    bid_id: domain::BidId::from_uuid(uuid::Uuid::new_v4()),
                    user_id: person(nth),
                    username: format!("robot-{}", nth % 2),
                    amount: domain::Amount::from_cents(100 * (1 + call * 200 + nth))?,
                })
            })
            .collect::<Result<_>>()?;
        hotstate.place(id.parse()?, &bids).await?.context("a state")?;
        // Whoever looks commits what stands in the outbox first.
        let bid_count = 200 * (call + 1);
        world.wait_for(&format!("/auctions/{id}/state"), |state| state["bid_count"] == bid_count).await?;
    }
    assert_eq!(world.checked_bids(&id).await?.len(), 10_000);
    world.empty_redis().await?;
    let started = std::time::Instant::now();
    let answer = world.bid("anna", &id, &json!(20_000)).await?;
    let took = started.elapsed();
    assert_eq!(answer.status, 200, "{}", answer.text);
    println!("rebuilt and answered in {took:?}");
    assert!(took < std::time::Duration::from_secs(1), "{took:?}");
    assert_eq!(world.checked_bids(&id).await?.len(), 10_001);
    world.end().await;
    Ok(())
}
