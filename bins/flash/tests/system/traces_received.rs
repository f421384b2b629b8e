//! The trace of a bid as a receiver of OTLP sees it that shares no code with the exporter.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::scratch::{Scratch, tools};
use testkit::{Process, Signal, install};

use crate::test_system::TestSystem;

/// Spans of a bid over a socket.
const NAMES: [&str; 7] = ["append", "bids.place", "broadcast", "decide", "place_bid", "script", "write history"];

/// The spans of each trace. The receiver writes each one to `<trace>/<span>/span.json`.
fn received(directory: &Path) -> Result<Vec<Vec<Value>>> {
    let mut traces = Vec::new();
    for trace in std::fs::read_dir(directory)? {
        let mut spans = Vec::new();
        for span in std::fs::read_dir(trace?.path())? {
            let text = std::fs::read_to_string(span?.path().join("span.json")).unwrap_or_default();
            // The file may be unfinished: it is read again.
            spans.extend(serde_json::from_str::<Value>(&text));
        }
        traces.push(spans);
    }
    Ok(traces)
}

#[tokio::test(flavor = "multi_thread")]
async fn receiver_of_another_maker_gets_a_bid_as_one_trace() -> Result<()> {
    let program = install::ensure_otlp_receiver(&tools(), &|step| eprintln!("{step} …"))?;
    let scratch = Scratch::new("traces-receiver")?;
    let spans = scratch.path().join("spans");
    std::fs::create_dir_all(&spans)?;
    let port = testkit::free_port()?;
    let endpoint = format!("http://127.0.0.1:{port}");
    let mut command = Command::new(program);
    command.args(["server", "json", "--protocol", "http/protobuf", "--timeout", "120s", "--endpoint", &endpoint]);
    command.arg("--dir").arg(&spans);
    let log = scratch.path().join("receiver.log");
    let mut receiver = Process::start("otel-cli", &command, None, Signal::Kill, &log)?;
    testkit::eventually("the receiver listens", async || {
        receiver.check()?;
        Ok(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok())
    })
    .await?;

    let settings = vec![("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint)];
    let system = TestSystem::with("traces-received", settings, true).await?;
    let id = system.auction(&json!({"title": "Cello", "duration": 600, "starting_bid": 1})).await?;
    let mut watcher = system.socket("ben").await?;
    watcher.ask("join_auction", json!({"auction_id": id})).await?;
    let mut bidder = system.socket("anna").await?;
    let bid_id = uuid::Uuid::new_v4().to_string();
    let answer = bidder.ask("place_bid", json!({"auction_id": id, "bid_id": bid_id, "amount": 5})).await?;
    assert_eq!(answer["data"]["status"], "accepted", "{answer}");

    let mut seen = Vec::new();
    let whole = testkit::eventually("a whole trace", async || {
        seen = received(&spans)?;
        let of_bid = seen.iter().find(|trace| trace.iter().any(|span| span.to_string().contains(&bid_id)));
        let names: BTreeSet<_> = of_bid.into_iter().flatten().filter_map(|span| span["name"].as_str()).collect();
        Ok(NAMES.iter().all(|name| names.contains(name)).then_some(()))
    });
    let whole = whole.await;
    whole.with_context(|| format!("{NAMES:?} in {seen:#?}"))?;
    system.end().await;
    drop(receiver);
    scratch.remove();
    Ok(())
}
