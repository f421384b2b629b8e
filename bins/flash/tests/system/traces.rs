//! Traces over OTLP: one bid is one trace, and a collector that is away changes nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flash::stack::Name;
use serde_json::json;
use testkit::http;
use testkit::otlp_stub::{OtlpStub, Span};

use crate::test_system::TestSystem;

/// Longest time for a bid while no collector listens. Far above that of a bid, below every time limit of the exporter.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

fn settings(endpoint: &str) -> Vec<(String, String)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint.to_owned()),
        ("OTEL_TRACES_SAMPLER_ARG".to_owned(), "1".to_owned()),
        ("RUST_LOG".to_owned(), "info,bid_processing=debug".to_owned()),
    ]
}

/// Waits until the trace of a bid has a span of each of these services with these names; returns them by name.
async fn trace_of(stub: &OtlpStub, bid_id: &str, expected: &[(&str, Name)]) -> Result<BTreeMap<String, Span>> {
    let mut seen = Vec::new();
    let found = testkit::eventually("a whole trace", async || {
        seen = stub.spans();
        let is_of_bid = |span: &&Span| span.attributes.get("bid_id").is_some_and(|id| id == bid_id);
        let Some(bid) = seen.iter().find(is_of_bid) else { return Ok(None) };
        let trace: BTreeMap<_, _> = seen
            .iter()
            .filter(|span| span.trace_id == bid.trace_id)
            .map(|span| (span.name.clone(), span.clone()))
            .collect();
        let has =
            |(name, service): &(&str, Name)| trace.get(*name).is_some_and(|span| span.service() == service.text());
        Ok(expected.iter().all(has).then_some(trace))
    });
    let found = found.await;
    found.with_context(|| format!("{expected:?} in {seen:#?}"))
}

/// From the frame to the record, the history and the screens of others.
#[tokio::test(flavor = "multi_thread")]
async fn bid_over_a_socket_is_one_trace_to_history_and_screens() -> Result<()> {
    let stub = OtlpStub::start().await?;
    let system = TestSystem::with("traces", settings(&stub.endpoint), true).await?;
    let id = system.auction(&json!({"title": "Cello", "duration": 600, "starting_bid": 1})).await?;
    let mut watcher = system.socket("ben").await?;
    watcher.ask("join_auction", json!({"auction_id": id})).await?;
    let mut bidder = system.socket("anna").await?;
    let bid_id = uuid::Uuid::new_v4().to_string();
    let bid = json!({"auction_id": id, "bid_id": bid_id, "amount": 5});
    let answer = bidder.ask("place_bid", bid).await?;
    assert_eq!(answer["data"]["status"], "accepted", "{answer}");
    watcher.until(|frame| frame["event"] == "bid_update").await?;

    let steps = [
        ("place_bid", Name::Websocket),
        ("bids.place", Name::BidProcessing),
        ("decide", Name::BidProcessing),
        ("script", Name::BidProcessing),
        ("append", Name::BidProcessing),
        ("write history", Name::BidPersistence),
        ("broadcast", Name::Websocket),
    ];
    let trace = trace_of(&stub, &bid_id, &steps).await?;
    assert_eq!(trace["place_bid"].parent_id, "", "the frame begins the trace");
    for (child, parent) in [
        ("bids.place", "place_bid"),
        ("decide", "bids.place"),
        ("script", "decide"),
        ("append", "decide"),
        ("write history", "append"),
        ("broadcast", "append"),
    ] {
        assert_eq!(trace[child].parent_id, trace[parent].span_id, "{child} in {parent}");
    }
    let of_bid = &trace["bids.place"].attributes;
    assert_eq!((of_bid["code"].as_str(), of_bid["auction_id"].as_str()), ("accepted", id.as_str()), "{of_bid:?}");
    let resource = &trace["append"].resource;
    assert!(resource["service.instance.id"].contains('/'), "{resource:?}");
    assert_eq!(resource["service.version"], service::VERSION);

    // A second bid is another trace.
    let second = uuid::Uuid::new_v4().to_string();
    bidder.ask("place_bid", json!({"auction_id": id, "bid_id": second, "amount": 1})).await?;
    let refused = trace_of(&stub, &second, &steps[..1]).await?;
    assert_ne!(refused["place_bid"].trace_id, trace["place_bid"].trace_id);
    assert_ne!(refused["place_bid"].attributes["code"], "accepted");
    system.end().await;
    Ok(())
}

/// A request continues the trace that its client names, is in none if the client has decided so, and returns its
/// context. Log lines name the trace.
#[tokio::test(flavor = "multi_thread")]
async fn request_continues_the_trace_of_its_client() -> Result<()> {
    let stub = OtlpStub::start().await?;
    let system = TestSystem::with("traces-http", settings(&stub.endpoint), true).await?;
    let id = system.auction(&json!({"title": "Vase", "duration": 600, "starting_bid": 1})).await?;
    let url = format!("{}/bids", system.stack.url(Name::BidProcessing));
    let (trace_id, unsampled) = ("0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736");
    let (parent, bid_id) = ("b7ad6b7169203331", uuid::Uuid::new_v4().to_string());
    let place = async |bidder: &str, context: &str, amount: u32, bid_id: &str| {
        let bid = json!({"auction_id": id, "bid_id": bid_id, "amount": amount});
        let request = http::request("POST", &url, Some(&system.token(bidder)?)).header("traceparent", context);
        let reply = http::send(request.body(bid.to_string().into())?).await?;
        assert_eq!(reply.status, 200, "{}", reply.text);
        anyhow::Ok(reply.headers["traceparent"].to_str()?.to_owned())
    };
    let not_exported = format!("00-{unsampled}-{parent}-00");
    assert_eq!(place("anna", &not_exported, 2, &uuid::Uuid::new_v4().to_string()).await?, not_exported);
    let returned = place("ben", &format!("00-{trace_id}-{parent}-01"), 3, &bid_id).await?;
    assert!(returned.starts_with(&format!("00-{trace_id}-")) && returned.ends_with("-01"), "{returned}");

    let steps =
        [("POST", Name::BidProcessing), ("append", Name::BidProcessing), ("write history", Name::BidPersistence)];
    let trace = trace_of(&stub, &bid_id, &steps).await?;
    assert_eq!((trace["POST"].trace_id.as_str(), trace["POST"].parent_id.as_str()), (trace_id, parent));
    assert_eq!(returned[36..52], trace["POST"].span_id);
    assert!(stub.spans().iter().all(|span| span.trace_id != unsampled), "{:#?}", stub.spans());

    let logs = std::fs::read_dir(system.path().join("logs"))?.collect::<Result<Vec<_>, _>>()?;
    let of_service = logs.iter().find(|entry| entry.file_name().to_string_lossy().starts_with("bid-processing-"));
    let text = std::fs::read_to_string(of_service.context("a log")?.path())?;
    let line = text.lines().find(|line| line.contains(&bid_id)).context("a line of the bid")?;
    let line: serde_json::Value = serde_json::from_str(line)?;
    assert_eq!((&line["trace_id"], &line["fields"]["code"]), (&json!(trace_id), &json!("accepted")), "{line}");
    assert!(line["span"]["request_id"].is_string(), "{line}");
    system.end().await;
    Ok(())
}

/// Spans that no collector takes are counted. Bids are answered and services stop as without.
#[tokio::test(flavor = "multi_thread")]
async fn unreachable_collector_changes_nothing_for_bids() -> Result<()> {
    let closed = testkit::free_port()?;
    let mut system = TestSystem::with("traces-lost", settings(&format!("http://127.0.0.1:{closed}")), true).await?;
    let id = system.auction(&json!({"title": "Clock", "duration": 600, "starting_bid": 1})).await?;
    for amount in 2..22 {
        let asked = Instant::now();
        let bidder = if amount % 2 == 0 { "anna" } else { "ben" };
        let reply = system.bid(bidder, &id, &json!(amount)).await?;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert!(asked.elapsed() < ANSWERED_WITHIN, "{:?}", asked.elapsed());
    }
    system.history(&id, 20).await?;
    testkit::eventually("dropped spans are counted", async || {
        Ok(system.metric::<u64>(Name::BidProcessing, "flash_trace_spans_dropped_total").await?[0].checked_sub(1))
    })
    .await?;
    system.stack.restart_instance(Name::BidProcessing, 0).await?;
    system.end().await;
    Ok(())
}
