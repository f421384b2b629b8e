use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

use tracing::trace_span;
use tracing_subscriber::layer::SubscriberExt;

use super::*;

/// Whether traces are exported is one value for the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn start(endpoint: String, ratio: f64) -> (Traces, MutexGuard<'static, ()>) {
    let alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let process = Process { service: "a-service", instance: "host/1", version: "1.2.3" };
    (Traces::start(&Settings { endpoint, ratio }, process).expect("an exporter"), alone)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// The address of a collector for one request, which its thread returns.
fn collector() -> (String, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    (format!("http://{address}/"), std::thread::spawn(move || take_request(&listener)))
}

/// Takes one request, and answers 200.
fn take_request(listener: &TcpListener) -> Vec<u8> {
    let (mut stream, _) = listener.accept().expect("a connection");
    let (mut taken, mut buffer) = (Vec::new(), [0; 64 * 1024]);
    loop {
        let read = stream.read(&mut buffer).expect("bytes");
        taken.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&taken).to_lowercase();
        let length = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
        let body = taken.windows(4).position(|window| window == b"\r\n\r\n").map(|at| taken.len() - at - 4);
        if read == 0 || (length.is_some() && body >= length) {
            break;
        }
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("an answer");
    taken
}

#[test]
fn span_and_its_child_in_another_process_reach_the_collector_in_one_trace() {
    let (endpoint, collector) = collector();
    let runtime = runtime();
    let entered = runtime.enter();
    let (traces, _alone) = start(endpoint, 1.0);
    let subscriber = tracing_subscriber::registry().with(traces.layer());
    tracing::subscriber::with_default(subscriber, || {
        let header = trace_span!(target: TARGET, "first").in_scope(|| {
            record("bid_id", "a-bid");
            assert!(within(|| trace_span!(target: TARGET, "inner")).id().is_some());
            Context::current().traceparent().expect("a trace")
        });
        let (context, trace_id_before) = (Context::parse(&header), header[3..35].to_owned());
        context.continued(|| trace_span!(target: TARGET, "second")).in_scope(|| {
            assert_eq!(trace_id().expect("a trace").to_string(), trace_id_before);
        });
        tracing::trace_span!("not exported").in_scope(|| assert!(trace_id().is_none()));
        assert!(trace_id().is_none() && Context::current().traceparent().is_none());
    });
    drop(entered);
    runtime.block_on(traces.finish());
    let request = collector.join().expect("a request");
    let text = String::from_utf8_lossy(&request);
    assert!(text.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{text}");
    for part in ["application/x-protobuf", "a-service", "host/1", "1.2.3", "first", "inner", "second", "a-bid"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("not exported"), "{text}");
}

#[test]
fn caller_decides_whether_a_trace_is_exported() {
    let (endpoint, collector) = collector();
    let runtime = runtime();
    let entered = runtime.enter();
    let (traces, _alone) = start(endpoint, 0.0);
    let subscriber = tracing_subscriber::registry().with(traces.layer());
    tracing::subscriber::with_default(subscriber, || {
        let exported = |header: &str| {
            let span = Context::parse(header).parent_of(trace_span!(target: TARGET, "request"));
            span.in_scope(|| trace_id().is_some())
        };
        assert!(exported("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        assert!(!exported("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"));
        assert!(!exported(""), "none of its own");
    });
    drop(entered);
    runtime.block_on(traces.finish());
    assert!(collector.join().is_ok(), "the one span that the caller wants was exported");
}

#[test]
fn full_queue_drops_spans_at_once_and_counts_them() {
    // It takes connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let runtime = runtime();
    let entered = runtime.enter();
    let (traces, _alone) = start(format!("http://{}", listener.local_addr().expect("an address")), 1.0);
    let (before, begun) = (dropped().get(), Instant::now());
    let subscriber = tracing_subscriber::registry().with(traces.layer());
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..queue::MAX_SPANS + 100 {
            drop(trace_span!(target: TARGET, "one of many"));
        }
    });
    assert_eq!(dropped().get() - before, 100);
    assert!(begun.elapsed() < EXPORT_TIMEOUT, "{:?}", begun.elapsed());
    drop(entered);
    let begun = Instant::now();
    runtime.block_on(traces.finish());
    assert!(begun.elapsed() < FLUSH_TIMEOUT * 3, "{:?}", begun.elapsed());
}

#[test]
fn header_is_read_strictly_and_written_as_it_was() {
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(Context::parse(good).traceparent().as_deref(), Some(good));
    let long = format!("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-{}", "x".repeat(128));
    for bad in [
        "",
        "00",
        "00-1-2-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "zz-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        &long,
    ] {
        assert!(Context::parse(bad).traceparent().is_none(), "{bad}");
    }
    let (empty, full) = (Context::default(), Context::parse(good));
    assert_eq!(empty.clone().or(full.clone()).traceparent().as_deref(), Some(good));
    assert_eq!(full.or(empty).traceparent().as_deref(), Some(good));
}
