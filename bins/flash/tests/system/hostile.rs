//! Clients that take what they can without a token, that do not read, or that send too fast: the others do not notice.
//! And clients as proxies and HTTP allow them, which are served.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use futures_util::{SinkExt, StreamExt, stream};
use serde_json::{Value, json};
use testkit::http::{self, Caller};
use testkit::socket::Socket;
use testkit::tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::socketio::{node_at, reported};
use crate::test_system::TestSystem;

/// Time in which a client must be served whatever others do, on a machine that is busy with them.
const SOON: Duration = Duration::from_secs(3);
/// CONTRACT.md, Conventions: time for a client to take anything of a reply.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts a second edge with these settings and returns its address.
async fn edge_with(system: &mut TestSystem, settings: &[(&str, &str)]) -> Result<String> {
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    system.stack.add_instance_with(Name::Websocket, &settings).await?;
    Ok((*system.stack.urls(Name::Websocket).last().context("an edge")?).to_owned())
}

/// Sends a request over a raw connection; returns the reply to its end, or what came in time.
async fn raw(url: &str, request: &str, half_close: bool) -> Result<String> {
    let mut stream = tls::connect(url).await?;
    stream.write_all(request.as_bytes()).await?;
    if half_close {
        stream.shutdown().await?;
    }
    let mut reply = Vec::new();
    timeout(SOON, stream.read_to_end(&mut reply)).await.context("the connection stays open")??;
    Ok(String::from_utf8_lossy(&reply).into_owned())
}

/// Opens a polling session; returns the address with its `sid`.
async fn polling_session(caller: &Caller, edge: &str, token: Option<&str>) -> Result<String> {
    let base = format!("{edge}/socket.io/?EIO=4&transport=polling");
    let opened = caller.send(http::request("GET", &base, token).body(Default::default())?).await?;
    ensure!(opened.status == 200, "{opened:?}");
    let open: Value = serde_json::from_str(opened.text.get(1..).unwrap_or_default())?;
    Ok(format!("{base}&sid={}", open["sid"].as_str().context("a sid")?))
}

/// Connects the namespace of a polling session and reads up to `connected`.
async fn connect_namespace(caller: &Caller, session: &str, token: &str) -> Result<()> {
    let auth = format!("40{}", json!({"token": token}));
    let posted = caller.send(http::request("POST", session, None).body(auth.into())?).await?;
    ensure!(posted.status == 200, "{posted:?}");
    let mut seen = String::new();
    while !seen.contains("\"connected\"") {
        let polled = caller.send(http::request("GET", session, None).body(Default::default())?).await?;
        ensure!(polled.status == 200, "{polled:?}");
        seen += &polled.text;
    }
    Ok(())
}

/// 10,000 handshakes without a token, as fast as they are answered, while a bidder connects, joins and bids.
#[tokio::test(flavor = "multi_thread")]
async fn anonymous_handshakes_take_nobodys_place() -> Result<()> {
    let system = TestSystem::start("anonymous").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    let edge = system.stack.url(Name::Websocket).to_owned();
    let url = format!("{edge}/socket.io/?EIO=4&transport=polling");
    let caller = Caller::new();
    let flood = async {
        let handshakes = stream::iter(0..10_000)
            .map(|_| async { caller.send(http::request("GET", &url, None).body(Default::default())?).await });
        let replies: Vec<_> = handshakes.buffer_unordered(64).collect().await;
        replies.into_iter().try_for_each(|reply| {
            let reply = reply?;
            ensure!(reply.status == 200, "{reply:?}");
            anyhow::Ok(())
        })
    };
    let bidder = async {
        // Within the flood: some thousand handshakes are alive already.
        sleep(Duration::from_millis(300)).await;
        for amount in 1..=5 {
            let since = Instant::now();
            let name = if amount % 2 == 0 { "ben" } else { "anna" };
            let mut socket = system.socket(name).await?;
            let joined = socket.ask("join_auction", json!({"auction_id": id})).await?;
            ensure!(joined["event"] == "joined_auction", "{joined}");
            let bid = socket.ask("place_bid", json!({"auction_id": id, "amount": amount})).await?;
            ensure!(bid["data"]["status"] == "accepted", "{bid}");
            ensure!(since.elapsed() < SOON, "after {:?}", since.elapsed());
        }
        Ok(())
    };
    tokio::try_join!(flood, bidder)?;
    // The sessions end by themselves.
    sleep(Duration::from_secs(4)).await;
    let metrics = http::get(&format!("{edge}/metrics"), None).await?.text;
    ensure!(metrics.contains("\nflash_connections 0\n"), "sessions that never connected are still open");
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn session_without_a_connect_ends_in_seconds() -> Result<()> {
    let system = TestSystem::start("no-connect").await?;
    let (caller, edge) = (Caller::new(), system.stack.url(Name::Websocket));
    let session = polling_session(&caller, edge, None).await?;
    let since = Instant::now();
    let polled = caller.send(http::request("GET", &session, None).body(Default::default())?).await?;
    assert_eq!((polled.status, polled.text.as_str()), (200, "1"));
    assert!((2.5..5.0).contains(&since.elapsed().as_secs_f64()), "{:?}", since.elapsed());
    let polled = caller.send(http::request("GET", &session, None).body(Default::default())?).await?;
    assert_eq!(polled.status, 400);
    system.end().await;
    Ok(())
}

/// Twenty clients ask for documents and read nothing, as many as there are slots.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_read_are_closed_and_health_answers() -> Result<()> {
    let mut system = TestSystem::start("never-read").await?;
    let edge = edge_with(&mut system, &[("MAX_CONNECTIONS", "20")]).await?;
    let requests = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2_000);
    let mut deaf = Vec::new();
    for _ in 0..20 {
        let mut stream = tls::connect(&edge).await?;
        // Until neither side's buffers take any more.
        drop(timeout(Duration::from_millis(200), stream.write_all(requests.as_bytes())).await);
        deaf.push(stream);
    }
    let since = Instant::now();
    let health = timeout(SOON, http::get(&format!("{edge}/health"), None)).await.context("no answer")??;
    assert_eq!(health.status, 200);
    system.socket_at(&edge, "anna").await?;
    sleep((WRITE_TIMEOUT + SOON).saturating_sub(since.elapsed())).await;
    for mut stream in deaf {
        // Replies that were written before still arrive; an open connection would answer the other requests, too.
        let mut rest = Vec::new();
        drop(timeout(SOON, stream.read_to_end(&mut rest)).await.context("still open")?);
        let answers = rest.windows(15).filter(|part| part == b"HTTP/1.1 200 OK").count();
        assert!(answers < 2_000, "every request was answered");
    }
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_a_person_and_of_an_address_are_limited() -> Result<()> {
    let mut system = TestSystem::start("per-person").await?;
    let edge =
        edge_with(&mut system, &[("MAX_CONNECTIONS_PER_USER", "2"), ("MAX_CONNECTIONS_PER_ADDRESS", "3")]).await?;
    let ws = edge.replacen("http", "ws", 1);
    let status = |error: tungstenite::Error| match error {
        tungstenite::Error::Http(reply) => Ok((reply.status().as_u16(), reply.headers()["retry-after"].clone())),
        error => Err(error),
    };
    let url = format!("{ws}/ws?token={}", system.token("anna")?);
    let _both = (system.socket_at(&edge, "anna").await?, system.socket_at(&edge, "anna").await?);
    let refused = testkit::socket::upgrade(&url).await.map(|_| ()).map_err(status);
    assert_eq!(refused.unwrap_err()?, (429, "1".parse()?));
    system.socket_at(&edge, "ben").await?;

    // Loopback is a trusted proxy by default, so that the address is the one that it names.
    let mut held = Vec::new();
    for nth in 0..4 {
        let caller = Caller::new();
        let url = format!("{edge}/socket.io/?EIO=4&transport=polling");
        let request = http::request("GET", &url, None).header("x-forwarded-for", "203.0.113.9, 198.51.100.7");
        let reply = caller.send(request.body(Default::default())?).await?;
        assert_eq!(reply.status, if nth < 3 { 200 } else { 429 }, "{reply:?}");
        held.push(caller);
    }
    let mut first = Socket::connect(&format!("{ws}/ws")).await?;
    let authenticated = first.ask("authenticate", json!({"token": system.token("anna")?})).await?;
    assert_eq!((&authenticated["event"], &authenticated["data"]["code"]), (&json!("error"), &json!("rate_limited")));
    assert_eq!(first.closed().await?, 1013);
    system.end().await;
    Ok(())
}

/// A flood of the cheapest frames is first read more slowly, then closed.
#[tokio::test(flavor = "multi_thread")]
async fn flooding_connection_is_closed() -> Result<()> {
    let mut system = TestSystem::start("flood").await?;
    let edge = edge_with(&mut system, &[("MAX_BIDS_PER_USER_PER_SECOND", "1")]).await?;
    let url = format!("{}/ws?token={}", edge.replacen("http", "ws", 1), system.token("anna")?);
    let (socket, _) = testkit::socket::upgrade(&url).await?;
    let (mut sink, mut source) = socket.split();
    let sending = tokio::spawn(async move { while sink.send(Message::text(r#"{"event":"ping"}"#)).await.is_ok() {} });
    let (since, mut pongs, mut code) = (Instant::now(), 0, None);
    let reading = async {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Close(close) => code = close.map(|close| u16::from(close.code)),
                _ => pongs += 1,
            }
        }
    };
    timeout(Duration::from_secs(30), reading).await.context("never closed")?;
    sending.abort();
    // 404 at once, then 101 a second, for ten seconds.
    assert!(code.is_none_or(|code| code == 4408), "{code:?}");
    assert!(
        (1_000..2_500).contains(&pongs) && since.elapsed() > Duration::from_secs(8),
        "{pongs} {:?}",
        since.elapsed()
    );
    let metrics = http::get(&format!("{edge}/metrics"), None).await?.text;
    ensure!(metrics.contains("\nflash_flooding_connections_closed_total 1\n"), "{metrics}");
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_joins_do_not_count() -> Result<()> {
    let system = TestSystem::start("refused-joins").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    let mut anna = system.socket("anna").await?;
    for _ in 0..49 {
        let unknown = json!({"auction_id": uuid::Uuid::new_v4().to_string()});
        assert_eq!(anna.ask("join_auction", unknown.clone()).await?["data"]["code"], "auction_not_found");
        assert_eq!(anna.ask("leave_auction", unknown).await?["data"]["code"], "not_joined");
    }
    assert_eq!(anna.ask("join_auction", json!({"auction_id": id})).await?["event"], "joined_auction");
    sleep(Duration::from_secs(1)).await;
    // To join again is no second membership, and one that is left is gone.
    assert_eq!(anna.ask("join_auction", json!({"auction_id": id})).await?["event"], "joined_auction");
    assert_eq!(anna.ask("leave_auction", json!({"auction_id": id})).await?["event"], "left_auction");
    assert_eq!(anna.ask("leave_auction", json!({"auction_id": id})).await?["data"]["code"], "not_joined");
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn session_has_one_websocket_and_one_person() -> Result<()> {
    let system = TestSystem::start("one-websocket").await?;
    let (caller, edge) = (Caller::new(), system.stack.url(Name::Websocket));
    let session = polling_session(&caller, edge, None).await?;
    connect_namespace(&caller, &session, &system.token("anna")?).await?;
    let upgrade = session.replacen("http", "ws", 1).replace("transport=polling", "transport=websocket");
    let (mut probing, _) = testkit::socket::upgrade(&upgrade).await?;
    for _ in 0..20 {
        let refused = testkit::socket::upgrade(&upgrade).await;
        assert!(matches!(refused, Err(tungstenite::Error::Http(reply)) if reply.status() == 400));
    }
    let request = |token: Option<&str>| http::request("POST", &session, token);
    let stranger = caller.send(request(Some(&system.token("eve")?)).body("2".into())?).await?;
    assert_eq!(stranger.status, 400, "another person's token");
    let foreign = request(None).header("origin", "http://evil.example").header("host", "evil.example");
    assert_eq!(caller.send(foreign.body("2".into())?).await?.status, 403, "a foreign origin, whatever the host");

    // While the WebSocket probes, polls are answered at once; after the upgrade they are not, and the session goes on.
    probing.send(Message::text("2probe")).await?;
    assert_eq!(probing.next().await.context("an answer")??, Message::text("3probe"));
    for _ in 0..5 {
        let since = Instant::now();
        let polled = caller.send(http::request("GET", &session, None).body(Default::default())?).await?;
        assert_eq!((polled.status, polled.text.as_str()), (200, "6"));
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    }
    probing.send(Message::text("5")).await?;
    probing.send(Message::text(r#"421["ping",{}]"#)).await?;
    let pong = timeout(SOON, probing.next()).await?.context("an answer")??;
    assert!(pong.to_text()?.starts_with("431["), "{pong:?}");
    let stray = caller.send(http::request("GET", &session, None).body(Default::default())?).await?;
    assert_eq!(stray.status, 400);
    probing.send(Message::text(r#"422["ping",{}]"#)).await?;
    let pong = timeout(SOON, probing.next()).await?.context("an answer")??;
    assert!(pong.to_text()?.starts_with("432["), "{pong:?}");
    system.end().await;
    Ok(())
}

/// npm's client, with every event of its WebSocket 50 ms later than the polls.
#[tokio::test(flavor = "multi_thread")]
async fn client_upgrades_over_a_slower_websocket() -> Result<()> {
    let system = TestSystem::start("slow-upgrade").await?;
    let script = "
      const { WebSocket } = require('ws');
      const emit = WebSocket.prototype.emit;
      WebSocket.prototype.emit = function (...event) { setTimeout(() => emit.apply(this, event), 50); return true; };
      let left = 10;
      for (let nth = 0; nth < left; nth++) {
        const since = Date.now();
        const options = nth % 2 ? { auth: { token } } : { extraHeaders: { Authorization: 'Bearer ' + token } };
        const socket = io(edge, { ...options, forceNew: true });
        socket.on('connect', () => socket.io.engine.on('upgrade', async () => {
          const upgraded = Date.now() - since;
          const pong = await socket.timeout(5000).emitWithAck('ping');
          report('upgraded', { upgraded, answered: Date.now() - since, pong: pong.timestamp > 0 });
          socket.disconnect();
          if (--left === 0) process.exit(0);
        }));
        socket.on('connect_error', (error) => report('failed', String(error)));
      }";
    let edge = system.stack.url(Name::Websocket).to_owned();
    let lines = node_at(edge, script, &[("TOKEN", system.token("anna")?)]).await?;
    reported(&lines, "upgraded")?;
    assert_eq!(lines.len(), 10, "{lines:?}");
    for line in &lines {
        let (upgraded, answered) = (&line["data"]["upgraded"], &line["data"]["answered"]);
        assert!(upgraded.as_u64().is_some_and(|ms| ms < 1_000), "{lines:?}");
        assert!(answered.as_u64().is_some_and(|ms| ms < 2_000) && line["data"]["pong"] == true, "{lines:?}");
    }
    system.end().await;
    Ok(())
}

/// Every service keeps an idle connection for longer than it gives to headers, and answers a client that half-closes.
#[tokio::test(flavor = "multi_thread")]
async fn every_service_serves_idle_and_half_closing_clients() -> Result<()> {
    let system = TestSystem::start("idle").await?;
    let get = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut idle = Vec::new();
    for name in Name::ALL {
        let url = system.stack.url(name);
        let mut stream = tls::connect(url).await?;
        stream.write_all(get.as_bytes()).await?;
        let mut reply = [0; 4096];
        ensure!(stream.read(&mut reply).await? > 0, "{}", name.text());
        idle.push((name, stream));

        let halved = raw(url, get, true).await?;
        ensure!(halved.starts_with("HTTP/1.1 200"), "{}: {halved}", name.text());
        let head = raw(url, "HEAD /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", false).await?;
        ensure!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{}: {head}", name.text());
        let delete = raw(url, "DELETE /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", false).await?;
        ensure!(delete.to_ascii_lowercase().contains("allow: get, head"), "{}: {delete}", name.text());
    }
    let methods = raw(
        system.stack.url(Name::AuctionManagement),
        "DELETE /auctions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        false,
    );
    let methods = methods.await?.to_ascii_lowercase();
    ensure!(methods.starts_with("http/1.1 405") && methods.contains("allow: get, head, post\r\n"), "{methods}");
    // The bid of a client that has finished sending is placed, and answered.
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    let bid = json!({"auction_id": id, "amount": 5}).to_string();
    let head = format!("POST /bids HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n", system.token("anna")?);
    let request = format!("{head}Content-Length: {}\r\n\r\n{bid}", bid.len());
    let answer = raw(system.stack.url(Name::BidProcessing), &request, true).await?;
    ensure!(answer.starts_with("HTTP/1.1 200") && answer.contains("no-store"), "{answer}");
    let listed = http::get(&system.management("/auctions?category=a%00b"), None).await?;
    assert_eq!((listed.status, &listed.json["code"]), (400, &json!("invalid_request")));

    sleep(Duration::from_secs(12)).await;
    for (name, mut stream) in idle {
        stream.write_all(get.as_bytes()).await?;
        let mut reply = [0; 4096];
        let read = timeout(SOON, stream.read(&mut reply)).await??;
        ensure!(reply[..read].starts_with(b"HTTP/1.1 200"), "{}: closed while idle", name.text());
    }
    system.end().await;
    Ok(())
}
