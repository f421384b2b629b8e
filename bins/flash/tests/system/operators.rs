//! Streams, consumers and micro services as the operator's login sees them, over the wire and, if it is installed,
//! with the nats CLI.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::stream::{ConsumerLimits, DiscardPolicy};
use flash::stack::{Name, connections};
use futures_util::{StreamExt, TryStreamExt};
use protocol::rights;
use serde_json::{Value, json};
use testkit::scratch::tools;

use crate::test_system::TestSystem;

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_streams_consumers_and_six_services() -> Result<()> {
    let system = TestSystem::start("operators").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.status, 200);
    let servers = &system.stack.servers;
    let url = servers.nats_url_of(rights::OPERATOR);
    let bus = bus::Bus::connect(&connections::nats_of(servers, rights::OPERATOR), "operator").await?;

    let streams: BTreeSet<String> = bus.jetstream.stream_names().try_collect().await?;
    for stream in ["AUCTION_LOG", "AUCTION_CHAT", "AUCTION_CHECKPOINTS", "AUCTION_DLQ"] {
        ensure!(streams.contains(stream), "{streams:?}");
    }
    let log = bus.jetstream.get_stream("AUCTION_LOG").await?;
    let config = &log.cached_info().config;
    assert_eq!((config.discard, config.max_bytes > 0, config.deny_delete), (DiscardPolicy::New, true, true));
    assert_eq!(config.consumer_limits, None::<ConsumerLimits>, "its limits are copied onto durables and delete them");
    let consumers: BTreeSet<String> = log.consumer_names().try_collect().await?;
    ensure!(consumers.contains("bid-persistence") && consumers.contains("auction-results"), "{consumers:?}");

    let inbox = bus.client.new_inbox();
    let answers = bus.client.subscribe(inbox.clone()).await?;
    bus.client.publish_with_reply("$SRV.PING", inbox, "".into()).await?;
    let mut answers = answers.take_until(Box::pin(tokio::time::sleep(Duration::from_secs(5))));
    let all: BTreeSet<String> = Name::ALL.iter().map(|name| name.text().to_owned()).collect();
    let mut found = BTreeSet::new();
    while found != all {
        let answer = answers.next().await.with_context(|| format!("only {found:?} answer"))?;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        found.insert(answer["name"].as_str().context("a name")?.to_owned());
    }

    // The operator's login may read the log but not write it.
    let before = system.log(&id).await?.len();
    bus.client.publish(protocol::subject::log(id.parse()?), "{}".into()).await?;
    bus.client.flush().await?;
    assert_eq!(system.log(&id).await?.len(), before);

    if let Some(nats) = cli() {
        through_the_cli(&nats, &url, &servers.nats_url_of(rights::ADMIN), &id)?;
    } else {
        eprintln!("the nats CLI is not installed; checked over the wire only");
    }
    system.end().await;
    Ok(())
}

/// The nats CLI on PATH, or where `go install` puts it.
fn cli() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join("go/bin"));
    std::env::split_paths(&path).chain(home).map(|directory| directory.join("nats")).find(|file| file.is_file())
}

fn through_the_cli(nats: &PathBuf, operator: &str, admin: &str, auction_id: &str) -> Result<()> {
    let run_as = |url: &str, arguments: &[&str]| {
        let output = Command::new(nats).args(["--server", url]).args(arguments).output()?;
        ensure!(output.status.success(), "nats {arguments:?}: {output:?}");
        anyhow::Ok(String::from_utf8(output.stdout)?)
    };
    let run = |arguments: &[&str]| run_as(operator, arguments);
    let streams = run(&["stream", "ls"])?;
    let consumers = run(&["consumer", "ls", "AUCTION_LOG"])?;
    let services = run(&["micro", "ls"])?;
    for (list, names) in [
        (&streams, &["AUCTION_LOG", "AUCTION_CHAT", "AUCTION_CHECKPOINTS", "AUCTION_DLQ"][..]),
        (&consumers, &["bid-persistence", "auction-results"]),
        (&services, &Name::ALL.map(Name::text)),
    ] {
        for name in names {
            ensure!(list.contains(name), "{name} in {list}");
        }
    }
    let record = run(&["stream", "get", "AUCTION_LOG", "--last-for", &format!("auction.{auction_id}.log")])?;
    ensure!(record.contains("\"type\":\"bids\"") && record.contains("\"amount_cents\":500"), "{record}");
    // The CLI accepts the committed files of streams and consumers.
    let nats_directory = tools().with_file_name("nats");
    for stream in ["AUCTION_LOG", "AUCTION_CHAT", "AUCTION_CHECKPOINTS", "AUCTION_DLQ"] {
        let file = nats_directory.join(format!("streams/{stream}.json"));
        run_as(admin, &["stream", "edit", stream, "--config", &file.to_string_lossy(), "--force"])?;
    }
    for consumer in ["bid-persistence", "auction-results"] {
        let file = nats_directory.join(format!("consumers/{consumer}.json"));
        run_as(admin, &["consumer", "edit", "AUCTION_LOG", consumer, "--config", &file.to_string_lossy(), "--force"])?;
    }
    Ok(())
}
