//! The log is bounded: auctions that ended long ago are archived and removed from it.

use std::io::Read;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::Signal;

use crate::test_system::{TestSystem, program};

impl TestSystem {
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

/// While auction-management hangs, a bid on an unknown id waits for it a second and is answered `unavailable`, not
/// `auction_not_found`. Running auctions are not affected.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_auction_is_unavailable_while_management_hangs() -> Result<()> {
    let system = TestSystem::with("recall", Vec::new(), true).await?;
    let running = system.auction(&json!({"title": "Coin", "duration": 600, "starting_bid": 1})).await?;
    let unknown = uuid::Uuid::new_v4().to_string();
    let instances = &system.stack.instances;
    let management = instances.iter().find(|instance| instance.name == Name::AuctionManagement).context("one")?;
    management.signal(Signal::Stop)?;
    let asked = Instant::now();
    let five = json!(5);
    let (lost, found) = tokio::try_join!(system.bid("anna", &unknown, &five), system.bid("ben", &running, &five))?;
    assert_eq!((lost.json["code"].as_str(), found.status), (Some("unavailable"), 200));
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    management.signal(Signal::Continue)?;
    // The late answer does not affect later bids.
    assert_eq!(system.bid("anna", &unknown, &json!(5)).await?.json["code"], "auction_not_found");
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn archived_auctions_leave_the_log_and_stay_closed() -> Result<()> {
    let system = TestSystem::start("archive").await?;
    let lot = json!({"title": "Stamp", "duration": 600, "starting_bid": 1});
    let (ended, running) = (system.auction(&lot).await?, system.auction(&lot).await?);
    for amount in [2, 4, 6] {
        for id in [&ended, &running] {
            system.bid(if amount == 4 { "ben" } else { "anna" }, id, &json!(amount)).await?;
        }
    }
    let url = system.management(&format!("/auctions/{ended}/close"));
    let closed = testkit::http::post(&url, Some(&system.token("host")?), &json!({})).await?;
    assert_eq!(closed.status, 200, "{}", closed.text);
    system.history(&ended, 3).await?;
    system.closed_row(&ended).await?;
    let records = system.log(&ended).await?;

    assert!(system.archive(1)?.contains("0 archived, 0 kept"), "the auction ended today");
    let bus = system.bus().await?;
    let log = bus::Log::open(&bus).await?;
    let last = log.last(ended.parse()?).await?.context("a record")?.stream_seq;
    // The acknowledgements of the consumers may still be in flight.
    let passing = async {
        while log.passed_by_all().await? < last {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(10), passing).await.context("a consumer has not read the record")??;
    assert!(system.archive(0)?.contains("Redis keeps it"), "the keys of an ended auction live for a day");
    // A day later.
    let keys: Vec<String> =
        redis::cmd("KEYS").arg(format!("auction:{{{ended}}}:*")).query_async(&mut system.redis().await?).await?;
    redis::cmd("DEL").arg(keys).query_async::<()>(&mut system.redis().await?).await?;
    // Incomplete files of an archiver that died are replaced by complete ones.
    std::fs::create_dir_all(system.path().join("archive"))?;
    for remains in ["jsonl.new", "jsonl.gz"] {
        std::fs::write(system.path().join(format!("archive/{ended}.{remains}")), "half a file")?;
    }
    let output = system.archive(0)?;
    assert!(output.contains("1 archived, 0 kept"), "{output}");
    assert_eq!((system.log(&ended).await?.len(), system.log(&running).await?.len()), (0, 5));

    let file = std::fs::File::open(system.path().join(format!("archive/{ended}.jsonl.gz")))?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text)?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(lines.iter().map(|line| &line["record"]).collect::<Vec<_>>(), records.iter().collect::<Vec<_>>());

    // A day later no instance has it in memory either: a bid is still too late, and the row and the history are
    // still there.
    let mut system = system;
    system.stack.restart_instance(Name::BidProcessing, 0).await?;
    assert_eq!(system.bid("carl", &ended, &json!(50)).await?.json["code"], "auction_closed");
    let shown = testkit::http::get(&system.management(&format!("/auctions/{ended}")), None).await?;
    assert_eq!((&shown.json["outcome"], &shown.json["winning_bid"]), (&json!("sold"), &json!(6.0)), "{}", shown.text);
    assert_eq!(system.history(&ended, 3).await?.len(), 3);
    let unknown = uuid::Uuid::new_v4().to_string();
    assert_eq!(system.bid("carl", &unknown, &json!(50)).await?.json["code"], "auction_not_found");
    // The running auction continues.
    assert_eq!(system.bid("carl", &running, &json!(50)).await?.status, 200);
    // Without PostgreSQL the answer is `unavailable`, not `auction_not_found`.
    system.stack.servers.postgres.kill();
    let unknown = uuid::Uuid::new_v4().to_string();
    assert_eq!(system.bid("carl", &unknown, &json!(50)).await?.json["code"], "unavailable");
    assert_eq!(system.bid("ben", &running, &json!(60)).await?.status, 200);
    system.end().await;
    Ok(())
}
