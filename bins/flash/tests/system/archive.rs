//! The log is bounded: auctions that ended long ago are archived and removed from it.

use std::io::Read;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use identity::development::DevelopmentUser;
use serde_json::{Value, json};
use testkit::Signal;

use crate::test_system::{TestSystem, program};

impl TestSystem {
    /// Archives what ended that many days ago.
    pub fn archive(&self, keep_days: u32) -> Result<String> {
        let output = Command::new(program())
            .args(["log", "archive", "--keep-days", &keep_days.to_string(), "--directory"])
            .arg(self.path().join("archive"))
            .envs(self.stack.servers.tls_settings())
            .env("NATS_URL", self.stack.servers.nats_url_of("log-archive"))
            .env("REDIS_URL", self.stack.servers.redis_url_of("log-archive").context("a login")?)
            .envs(self.stack.servers.tls_settings())
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Waits until every consumer has acknowledged the last record of an auction.
    pub async fn passed_by_all(&self, id: &str) -> Result<()> {
        let bus = self.bus().await?;
        let log = bus::Log::open(&bus).await?;
        let last = log.last(id.parse()?).await?.context("a record")?.stream_seq;
        // The acknowledgements of the consumers may still be in flight.
        let passing = async {
            while log.passed_by_all().await? < last {
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(10), passing).await.context("a consumer has not read the record")?
    }

    /// Removes the keys of an ended auction from Redis, as their expiry does a day after the end.
    pub async fn expire_keys(&self, id: &str) -> Result<()> {
        let mut redis = self.redis().await?;
        let keys: Vec<String> = redis::cmd("KEYS").arg(format!("auction:{{{id}}}:*")).query_async(&mut redis).await?;
        Ok(redis::cmd("DEL").arg(keys).query_async::<()>(&mut redis).await?)
    }
}

/// The key of an auction that was archived long ago returns it as it ended: no channel is made, and it does not begin
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn old_idempotency_key_returns_the_archived_auction() -> Result<()> {
    let settings = vec![("VIDEO_LINGER_SECONDS".to_owned(), "0".to_owned())];
    let mut system = TestSystem::with("old-key", settings, false).await?;
    let host = system.token("host")?;
    let create = async |system: &TestSystem| {
        let url = system.management("/auctions");
        let request = testkit::http::request("POST", &url, Some(&host)).header("idempotency-key", "lot 7");
        let lot = json!({"title": "Stamp", "duration": 600, "starting_bid": 1});
        testkit::http::send(request.body(lot.to_string().into())?).await
    };
    let first = create(&system).await?;
    assert_eq!(first.status, 201, "{}", first.text);
    let id = first.json["auction_id"].as_str().context("an id")?.to_owned();
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.status, 200);
    let running = create(&system).await?;
    assert_eq!((running.status, &running.json["current_high_bid"]), (201, &json!(5.0)), "{}", running.text);
    assert_eq!(running.json["ivs_stream_key"], first.json["ivs_stream_key"]);
    let close = system.management(&format!("/auctions/{id}/close"));
    assert_eq!(testkit::http::post(&close, Some(&host), &json!({})).await?.status, 200);
    system.closed_row(&id).await?;
    system.wait_for(&format!("/auctions/{id}"), |auction| auction["ivs_channel_arn"].is_null()).await?;
    system.history(&id, 1).await?;
    system.passed_by_all(&id).await?;
    system.expire_keys(&id).await?;
    let output = system.archive(0)?;
    assert!(output.contains("1 archived, 0 kept"), "{output}");
    system.stack.restart_instance(Name::BidProcessing, 0).await?;

    let again = create(&system).await?;
    assert_eq!((again.status, again.json["auction_id"].as_str()), (201, Some(id.as_str())), "{}", again.text);
    assert_eq!((&again.json["outcome"], &again.json["winning_bid"]), (&json!("sold"), &json!(5.0)), "{}", again.text);
    assert_eq!((&again.json["ivs_stream_key"], &again.json["ivs_channel_arn"]), (&Value::Null, &Value::Null));
    // Nor does bid-processing begin it again when asked directly.
    let request = protocol::CreateRequest {
        auction_id: id.parse()?,
        host: protocol::Person { user_id: DevelopmentUser::named("host").user_id, username: "host".to_owned() },
        starting_bid: domain::Amount::from_cents(100)?,
        increment: domain::Amount::from_cents(100)?,
        options: protocol::Options::default(),
        reserve: None,
        sealed_reserve: None,
        duration_ms: 600_000,
        anti_snipe_mode: domain::AntiSnipeMode::Off,
        anti_snipe_window_ms: 0,
        anti_snipe_extension_ms: 0,
        anti_snipe_max_extensions: 0,
        starts_at: None,
        valid_until: u64::MAX / 2,
    };
    let bus = system.bus().await?;
    let answer: protocol::StateReply = bus::request_for(
        &bus,
        protocol::subject::AUCTIONS_CREATE,
        &request,
        &system.token("host")?,
        Duration::from_secs(3),
    )
    .await?;
    assert_eq!(answer.into_result().map_err(|failure| failure.code).err(), Some(protocol::Code::AuctionClosed));
    assert_eq!(system.log(&id).await?.len(), 0);
    system.end().await;
    Ok(())
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
    system.passed_by_all(&ended).await?;
    assert!(system.archive(0)?.contains("Redis keeps it"), "the keys of an ended auction live for a day");
    // A day later.
    system.expire_keys(&ended).await?;
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
