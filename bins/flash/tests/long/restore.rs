//! A log of 200 MB, backed up and restored while no service is restarted.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use flash::{Options, Ports, Stack};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use testkit::scratch::{Scratch, tools};
use testkit::{Topology, http};

/// Records in the log, each of this many bytes: 200 MB that do not compress.
const RECORDS: usize = 2_000;
const RECORD_BYTES: usize = 100_000;
/// Appends in flight.
const CONCURRENT: usize = 16;
/// Longest backup or restore. Both take seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs an operator's command and returns what it has printed.
async fn admin(stack: &Stack, arguments: &[&str]) -> Result<String> {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_flash"));
    let url = stack.servers.nats_url_of(protocol::rights::ADMIN);
    command.args(arguments).envs(stack.servers.tls_settings()).env("NATS_URL", url);
    let output = tokio::time::timeout(PATIENCE, command.output()).await??;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

async fn create(stack: &Stack) -> Result<String> {
    let lot = json!({"title": "Organ", "duration": 600, "starting_bid": 1});
    let url = format!("{}/auctions", stack.url(Name::AuctionManagement));
    let reply = http::post(&url, Some(&stack.issuer.token("host")?), &lot).await?;
    ensure!(reply.status == 201, "{}", reply.text);
    Ok(reply.json["auction_id"].as_str().context("an id")?.to_owned())
}

async fn bid(stack: &Stack, name: &str, id: &str, amount: u32) -> Result<http::Reply> {
    let url = format!("{}/bids", stack.url(Name::BidProcessing));
    http::post(&url, Some(&stack.issuer.token(name)?), &json!({"auction_id": id, "amount": amount})).await
}

/// Fills the log with closing records of auctions that no client asks for.
async fn fill(stack: &Stack, id: &str) -> Result<()> {
    let bus = bus::Bus::connect(&flash::stack::connections::nats(&stack.servers), "test").await?;
    let last = bus::Log::open(&bus).await?.last(id.parse()?).await?.context("a record")?;
    let mut record = serde_json::to_value(&last.record)?;
    (record["type"], record["state"]["status"]) = (json!("closed"), json!("closed"));
    (record["state"]["outcome"], record["state"]["ended_at"]) = (json!("unsold"), record["time"].clone());
    stream::iter(0..RECORDS)
        .map(|_| {
            let (mut record, bus) = (record.clone(), bus.clone());
            async move {
                let id = uuid::Uuid::new_v4().to_string();
                record["auction_id"] = json!(id);
                let noise = std::iter::repeat_with(|| uuid::Uuid::new_v4().simple().to_string());
                record["padding"] = Value::String(noise.take(RECORD_BYTES / 32).collect());
                let mut headers = async_nats::HeaderMap::new();
                headers.insert("Auction-Record", "closed");
                let subject = protocol::subject::log(id.parse()?);
                let payload = serde_json::to_vec(&record)?.into();
                bus.jetstream.publish_with_headers(subject, headers, payload).await?.await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(CONCURRENT)
        .try_collect()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn log_of_200_megabytes_is_restored_and_bids_go_on() -> Result<()> {
    let scratch = Scratch::new("restore-large")?;
    let options = Options {
        directory: scratch.path().to_owned(),
        tools: tools(),
        ports: Ports::Free,
        topology: Topology::default(),
        instances: BTreeMap::new(),
        processes: None,
        settings: Vec::new(),
    };
    let mut stack = Stack::start(options, &|step| eprintln!("{step} …")).await?;
    let id = create(&stack).await?;
    assert_eq!(bid(&stack, "anna", &id, 5).await?.status, 200);
    fill(&stack, &id).await?;

    let directory = scratch.path().join("backup");
    let (path, started) = (directory.to_string_lossy().into_owned(), Instant::now());
    let printed = admin(&stack, &["backup", &path, "--stream", "AUCTION_LOG"]).await?;
    let archive = Path::new(&path).join("AUCTION_LOG");
    let bytes: u64 = std::fs::read_dir(&archive)?.map(|entry| Ok(entry?.metadata()?.len())).sum::<Result<u64>>()?;
    println!("{printed}backed up {bytes} bytes in {:?}", started.elapsed());
    ensure!(bytes > 100_000_000, "only {bytes} bytes");
    assert_eq!(bid(&stack, "ben", &id, 9).await?.status, 200);

    stack.servers.nats[0].process.kill();
    std::fs::remove_dir_all(scratch.path().join("nats"))?;
    stack.servers.restart_nats().await?;
    let started = Instant::now();
    println!("{}restored in {:?}", admin(&stack, &["restore", &path]).await?, started.elapsed());
    let new = create(&stack).await?;
    assert_eq!(bid(&stack, "cleo", &new, 5).await?.status, 200);
    assert_eq!(bid(&stack, "dora", &id, 50).await?.json["code"], "auction_closed");
    stack.stop().await;
    scratch.remove();
    Ok(())
}
