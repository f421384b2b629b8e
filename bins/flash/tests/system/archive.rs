//! The log is bounded: auctions that ended long ago leave it.

use std::io::Read;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::Signal;

use crate::world::{World, program};

impl World {
    fn archive(&self, keep_days: u32) -> Result<String> {
        let output = Command::new(program())
            .args(["log", "archive", "--keep-days", &keep_days.to_string(), "--directory"])
            .arg(self.path().join("archive"))
            .env("NATS_URL", self.stack.servers.nats_url())
            .env("REDIS_URL", self.stack.servers.redis_url())
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// With auction-management hanging, bids on an id that nobody knows wait for it a second and are not told that
/// there is no such auction; what runs does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_claims_what_cannot_be_known() -> Result<()> {
    let world = World::with("recall", Vec::new(), true).await?;
    let running = world.auction(&json!({"title": "Coin", "duration": 600, "starting_bid": 1})).await?;
    let unknown = uuid::Uuid::new_v4().to_string();
    let instances = &world.stack.instances;
    let management = instances.iter().find(|instance| instance.name == Name::AuctionManagement).context("one")?;
    management.signal(Signal::Stop)?;
    let asked = Instant::now();
    let five = json!(5);
    let (lost, found) = tokio::try_join!(world.bid("anna", &unknown, &five), world.bid("ben", &running, &five))?;
    assert_eq!((lost.json["code"].as_str(), found.status), (Some("unavailable"), 200));
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    management.signal(Signal::Continue)?;
    // The answer that came too late is not kept against anybody.
    assert_eq!(world.bid("anna", &unknown, &json!(5)).await?.json["code"], "auction_not_found");
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_auctions_leave_the_log_and_are_remembered() -> Result<()> {
    let world = World::start("archive").await?;
    let lot = json!({"title": "Stamp", "duration": 600, "starting_bid": 1});
    let (ended, running) = (world.auction(&lot).await?, world.auction(&lot).await?);
    for amount in [2, 4, 6] {
        for id in [&ended, &running] {
            world.bid(if amount == 4 { "ben" } else { "anna" }, id, &json!(amount)).await?;
        }
    }
    let url = world.management(&format!("/auctions/{ended}/close"));
    let closed = testkit::http::post(&url, Some(&world.token("host")?), &json!({})).await?;
    assert_eq!(closed.status, 200, "{}", closed.text);
    world.history(&ended, 3).await?;
    world.closed_row(&ended).await?;
    let records = world.log(&ended).await?;

    assert!(world.archive(1)?.contains("0 archived, 0 kept"), "it ended today");
    let bus = world.bus().await?;
    let log = bus::Log::open(&bus).await?;
    let last = log.last(ended.parse()?).await?.context("a record")?.stream_seq;
    // Acknowledgements of the consumers are on their way.
    let passing = async {
        while log.passed_by_all().await? < last {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(10), passing).await.context("a consumer has not read it")??;
    assert!(world.archive(0)?.contains("Redis keeps it"), "its keys live for a day");
    // A day later.
    let keys: Vec<String> =
        redis::cmd("KEYS").arg(format!("auction:{{{ended}}}:*")).query_async(&mut world.redis().await?).await?;
    redis::cmd("DEL").arg(keys).query_async::<()>(&mut world.redis().await?).await?;
    // What an archiver left that died half-way is written again, whole.
    std::fs::create_dir_all(world.path().join("archive"))?;
    for remains in ["jsonl.new", "jsonl.gz"] {
        std::fs::write(world.path().join(format!("archive/{ended}.{remains}")), "half a file")?;
    }
    let said = world.archive(0)?;
    assert!(said.contains("1 archived, 0 kept"), "{said}");
    assert_eq!((world.log(&ended).await?.len(), world.log(&running).await?.len()), (0, 5));

    let file = std::fs::File::open(world.path().join(format!("archive/{ended}.jsonl.gz")))?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text)?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(lines.iter().map(|line| &line["record"]).collect::<Vec<_>>(), records.iter().collect::<Vec<_>>());

    // A day later nothing remembers it in memory either: a bid is too late all the same, and the row and
    // the history are there.
    let mut world = world;
    world.stack.restart_instance(Name::BidProcessing, 0).await?;
    assert_eq!(world.bid("carl", &ended, &json!(50)).await?.json["code"], "auction_closed");
    let shown = testkit::http::get(&world.management(&format!("/auctions/{ended}")), None).await?;
    assert_eq!((&shown.json["outcome"], &shown.json["winning_bid"]), (&json!("sold"), &json!(6.0)), "{}", shown.text);
    assert_eq!(world.history(&ended, 3).await?.len(), 3);
    let unknown = uuid::Uuid::new_v4().to_string();
    assert_eq!(world.bid("carl", &unknown, &json!(50)).await?.json["code"], "auction_not_found");
    // What runs goes on.
    assert_eq!(world.bid("carl", &running, &json!(50)).await?.status, 200);
    // With nobody to ask, nobody claims that there was no such auction.
    world.stack.servers.postgres.kill();
    let unknown = uuid::Uuid::new_v4().to_string();
    assert_eq!(world.bid("carl", &unknown, &json!(50)).await?.json["code"], "unavailable");
    assert_eq!(world.bid("ben", &running, &json!(60)).await?.status, 200);
    world.end().await;
    Ok(())
}
