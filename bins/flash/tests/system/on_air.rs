//! Whether hosts stream, as viewers are shown it: auction-management asks IVS, edges and auction objects follow.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Result, ensure};
use cloud::{Video, VideoError};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::http;
use warp::Filter;

use crate::test_system::TestSystem;

/// Channels have this ARN, and the name of their auction.
const ARN: &str = "arn:aws:ivs:us-east-1:123456789012:channel/";

/// IVS with streams that the test begins and ends. A page of streams has one.
#[derive(Clone, Default)]
struct StreamingIvs {
    /// ARN and state of each stream.
    streams: Arc<Mutex<Vec<(String, &'static str)>>>,
    is_failing: Arc<AtomicBool>,
    /// First pages that were asked for.
    asked: Arc<AtomicUsize>,
}

impl StreamingIvs {
    async fn start(&self) -> Result<String> {
        let stub = self.clone();
        let route =
            warp::post().and(warp::path::param()).and(warp::body::json()).map(move |call: String, body: Value| {
                let (status, reply) = stub.answer(&call, &body);
                warp::reply::with_status(warp::reply::json(&reply), status)
            });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        tokio::spawn(warp::serve(route).incoming(listener).run());
        Ok(endpoint)
    }

    fn answer(&self, call: &str, body: &Value) -> (warp::http::StatusCode, Value) {
        let reply = match call {
            "CreateChannel" => {
                let arn = format!("{ARN}{}", body["name"].as_str().unwrap_or_default());
                let channel = json!({"arn": arn, "playbackUrl": "https://play", "ingestEndpoint": "ingest"});
                json!({"channel": channel, "streamKey": {"value": "sk"}})
            }
            "ListChannels" => json!({"channels": []}),
            "ListStreams" => {
                let from = body["nextToken"].as_str().and_then(|token| token.parse().ok()).unwrap_or(0);
                self.asked.fetch_add(usize::from(from == 0), Ordering::SeqCst);
                if self.is_failing.load(Ordering::SeqCst) {
                    return (warp::http::StatusCode::FORBIDDEN, json!({"exceptionMessage": "injected by the test"}));
                }
                let streams = self.streams.lock().expect("a lock");
                let page = streams.iter().skip(from).take(1);
                let page: Vec<_> = page.map(|(arn, state)| json!({"channelArn": arn, "state": state})).collect();
                let more = (from + 1 < streams.len()).then(|| (from + 1).to_string());
                json!({"streams": page, "nextToken": more})
            }
            _ => json!({}),
        };
        (warp::http::StatusCode::OK, reply)
    }

    fn set(&self, streams: &[(&str, &'static str)]) {
        let streams = streams.iter().map(|(id, state)| (format!("{ARN}{id}"), *state)).collect();
        *self.streams.lock().expect("a lock") = streams;
    }
}

#[tokio::test]
async fn all_pages_of_live_streams_are_read_and_no_others() -> Result<()> {
    let stub = StreamingIvs::default();
    let settings = cloud::Settings {
        region: "us-east-1".to_owned(),
        endpoint: Some(stub.start().await?),
        credentials: Some(("a".to_owned(), "b".to_owned())),
    };
    let video = Video::new(&cloud::configuration(&settings).await);
    assert_eq!(video.live().await?, Vec::<String>::new());
    stub.set(&[("a", "LIVE"), ("b", "OFFLINE"), ("c", "LIVE"), ("d", "OFFLINE")]);
    assert_eq!(video.live().await?, [format!("{ARN}a"), format!("{ARN}c")]);
    let many: Vec<String> = (0..101).map(|number| number.to_string()).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|id| (id.as_str(), "LIVE")).collect();
    stub.set(&many);
    assert!(matches!(video.live().await, Err(VideoError::TooMany)), "the reading is bounded");
    stub.is_failing.store(true, Ordering::SeqCst);
    assert!(matches!(video.live().await, Err(VideoError::Call(_))));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_are_shown_when_the_host_streams() -> Result<()> {
    let mut system = TestSystem::with("on-air", Vec::new(), true).await?;
    let ivs = StreamingIvs::default();
    let settings = [("AWS_ENDPOINT_URL", ivs.start().await?), ("STREAM_STATE_INTERVAL_SECONDS", "1".to_owned())];
    let since = Instant::now();
    for _ in 0..2 {
        system.stack.add_instance_with(Name::AuctionManagement, &settings).await?;
    }
    system.stack.kill_instance(Name::AuctionManagement, 0).await?;
    let urls: Vec<String> = system.stack.urls(Name::AuctionManagement).into_iter().map(str::to_owned).collect();
    ensure!(urls.len() == 2, "{urls:?}");
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    let without = json!({"title": "Jug", "duration": 600, "starting_bid": 1, "video": false});
    let without = system.auction(&without).await?;
    for url in &urls {
        // Both instances know that there is no stream.
        system.wait_at(&format!("{url}/auctions/{id}"), |auction| auction["stream_live"] == json!(false)).await?;
    }
    let mut anna = system.socket("anna").await?;
    let joined = anna.ask("join_auction", json!({"auction_id": id})).await?;
    assert_ne!(joined["data"]["stream_live"], json!(true), "{joined}");

    // Streams of other channels of the account, and one that has just ended, change nothing.
    ivs.set(&[("of-another-system", "LIVE"), (&without, "OFFLINE"), (&id, "LIVE")]);
    let started = anna.event("stream_started").await?;
    assert_eq!(started["data"]["auction_id"], json!(id), "{started}");
    assert!(started["data"]["timestamp"].is_u64(), "{started}");
    for url in &urls {
        system.wait_at(&format!("{url}/auctions/{id}"), |auction| auction["stream_live"] == json!(true)).await?;
    }
    let list = http::get(&system.management("/auctions?status=live"), None).await?;
    let shown = |id: &str| {
        let found = list.json["auctions"].as_array().into_iter().flatten().find(|auction| auction["auction_id"] == id);
        found.map(|auction| auction["stream_live"].clone())
    };
    assert_eq!((shown(&id), shown(&without)), (Some(json!(true)), Some(Value::Null)), "{}", list.text);
    let mut ben = system.socket("ben").await?;
    let joined = ben.ask("join_auction", json!({"auction_id": id})).await?;
    assert_eq!(joined["data"]["stream_live"], json!(true), "{joined}");

    ivs.set(&[("of-another-system", "LIVE")]);
    for viewer in [&mut anna, &mut ben] {
        let ended = viewer.event("stream_ended").await?;
        assert_eq!(ended["data"]["auction_id"], json!(id), "{ended}");
    }
    let (asked, seconds) = (u32::try_from(ivs.asked.load(Ordering::SeqCst))?, since.elapsed().as_secs_f64());
    let asked = f64::from(asked);
    assert!(asked <= seconds * 1.2 + 2.0, "two instances have asked {asked} times in {seconds} s");

    ivs.is_failing.store(true, Ordering::SeqCst);
    system.wait_for(&format!("/auctions/{id}"), |auction| auction["stream_live"].is_null()).await?;
    system.end().await;
    Ok(())
}
