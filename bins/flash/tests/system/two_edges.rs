//! Two edges behind a load balancer without sticky sessions, in a network with jitter: each request of a client goes to
//! another edge than the one before, with the ready-made Socket.IO clients and their default transports.

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use testkit::scratch::tools;
use testkit::{Balancer, http, install};
use tokio_tungstenite::tungstenite::Message;

use crate::socketio::node_at;
use crate::test_system::{TestSystem, program};

/// Clients of one run.
const CLIENTS: usize = 200;
/// People that the clients belong to: fewer, so that each has several connections.
const PEOPLE: usize = 8;
/// Milliseconds that bytes take each way.
const DELAY: std::ops::RangeInclusive<u64> = 20..=30;
/// Milliseconds from the first request of a client to its last acknowledgement.
const MAX_MILLISECONDS: f64 = 2_000.0;

/// Starts all clients, five milliseconds apart, and reports one object for each.
const JAVASCRIPT: &str = "
const tokens = JSON.parse(process.env.TOKENS);
const one = async (number) => {
  await new Promise((begin) => setTimeout(begin, number * 5));
  const started = performance.now();
  const took = () => performance.now() - started;
  const socket = io(edge, { auth: { token: tokens[number % tokens.length] }, forceNew: true, reconnection: false });
  const times = {};
  try {
    const upgraded = new Promise((resolve) => socket.io.engine.once('upgrade', () => { times.upgraded = took(); resolve(); }));
    const joined = new Promise((resolve, reject) => {
      socket.once('connect_error', reject);
      socket.once('disconnect', (reason) => reject(new Error(reason)));
      socket.once('connected', () => {
        times.connected = took();
        socket.timeout(5000).emitWithAck('join_auction', { auction_id }).then(resolve, reject);
      });
    });
    const [state] = await Promise.all([joined, upgraded]);
    const pong = await socket.timeout(5000).emitWithAck('ping');
    times.acknowledged = took();
    report('client', { ...times, auction_id: state.auction_id, transport: socket.io.engine.transport.name, timestamp: pong.timestamp });
  } catch (error) {
    report('client', { ...times, error: String(error) });
  }
  socket.disconnect();
};
Promise.all(Array.from({ length: Number(process.env.CLIENTS) }, (_, number) => one(number))).then(() => process.exit(0));
";

/// The same with python-socketio.
const PYTHON: &str = "
import asyncio, json, os, time
import socketio

edge, auction_id, tokens = os.environ['EDGE'], os.environ['AUCTION'], json.loads(os.environ['TOKENS'])

async def one(number):
    await asyncio.sleep(number * 0.005)
    started, times = time.monotonic(), {}
    took = lambda: (time.monotonic() - started) * 1000
    client = socketio.AsyncClient(reconnection=False, handle_sigint=False)
    connected = asyncio.Event()
    client.on('connected', lambda data: connected.set())
    try:
        await client.connect(edge, auth={'token': tokens[number % len(tokens)]}, wait_timeout=5)
        times['upgraded'] = took()
        await asyncio.wait_for(connected.wait(), 5)
        times['connected'] = took()
        state = await client.call('join_auction', {'auction_id': auction_id}, timeout=5)
        pong = await client.call('ping', timeout=5)
        times['acknowledged'] = took()
        times.update(auction_id=state['auction_id'], transport=client.transport(), timestamp=pong['timestamp'])
    except Exception as error:
        times['error'] = repr(error)
    print(json.dumps({'what': 'client', 'data': times}), flush=True)
    await client.disconnect()

async def run():
    await asyncio.wait_for(asyncio.gather(*(one(number) for number in range(int(os.environ['CLIENTS'])))), 20)

asyncio.run(run())
";

async fn two_edges(test: &str) -> Result<TestSystem> {
    TestSystem::start_with(test, |options| {
        options.instances = BTreeMap::from([(Name::Websocket, 2)]);
        // The balancer reads requests, so that TLS would end at it.
        options.topology.tls = false;
    })
    .await
}

async fn balancer(system: &TestSystem) -> Result<Balancer> {
    let ports = system.stack.urls(Name::Websocket).into_iter().map(port).collect::<Result<Vec<_>>>()?;
    ensure!(ports.len() == 2, "{ports:?}");
    Balancer::start(ports, DELAY).await
}

fn port(url: &str) -> Result<u16> {
    Ok(url.rsplit(':').next().context("a port")?.parse()?)
}

async fn environment(system: &TestSystem) -> Result<Vec<(&'static str, String)>> {
    let auction = json!({"title": "Lamp", "duration": 600, "starting_bid": 10});
    let tokens = (0..PEOPLE).map(|number| system.token(&format!("user{number}"))).collect::<Result<Vec<_>>>()?;
    Ok(vec![
        ("AUCTION", system.auction(&auction).await?),
        ("TOKENS", serde_json::to_string(&tokens)?),
        ("CLIENTS", CLIENTS.to_string()),
    ])
}

async fn python(edge: String, environment: Vec<(&'static str, String)>) -> Result<Vec<Value>> {
    let program = install::ensure_python_clients(&tools(), &|step| eprintln!("{step} …"))?;
    let mut command = Command::new(program);
    command.args(["-c", PYTHON]).env("EDGE", edge).envs(environment);
    let output: Output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Every client got everything in time, over a WebSocket, although both edges passed requests on to each other.
async fn check(system: &TestSystem, lines: &[Value], environment: &[(&str, String)]) -> Result<()> {
    assert_eq!(lines.len(), CLIENTS);
    let auction_id = environment[0].1.as_str();
    let mut slowest = 0.0_f64;
    for client in lines.iter().map(|line| &line["data"]) {
        assert!(client["error"].is_null(), "{client}");
        assert_eq!(
            (&client["transport"], &client["auction_id"]),
            (&json!("websocket"), &json!(auction_id)),
            "{client}"
        );
        assert!(client["timestamp"].is_u64(), "{client}");
        let last = client["acknowledged"].as_f64().context("a time")?;
        slowest = slowest.max(last).max(client["upgraded"].as_f64().context("a time")?);
    }
    eprintln!("the slowest of {CLIENTS} clients took {slowest:.0} ms");
    assert!(slowest <= MAX_MILLISECONDS, "{slowest} ms");
    let forwarded = system.metric::<u64>(Name::Websocket, "flash_session_requests_forwarded_total").await?;
    assert!(forwarded.iter().all(|count| *count > CLIENTS as u64 / 10), "{forwarded:?}");
    assert_eq!(system.metric::<u64>(Name::Websocket, "flash_session_requests_failed_total").await?, [0, 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_clients_connect_upgrade_and_join_without_sticky_sessions() -> Result<()> {
    let system = two_edges("two-edges-js").await?;
    let balancer = balancer(&system).await?;
    let environment = environment(&system).await?;
    let lines = node_at(format!("ws://127.0.0.1:{}", balancer.port), JAVASCRIPT, &environment).await?;
    check(&system, &lines, &environment).await?;
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_connect_upgrade_and_join_without_sticky_sessions() -> Result<()> {
    let system = two_edges("two-edges-python").await?;
    let balancer = balancer(&system).await?;
    let environment = environment(&system).await?;
    let lines = python(format!("http://127.0.0.1:{}", balancer.port), environment.clone()).await?;
    check(&system, &lines, &environment).await?;
    system.end().await;
    Ok(())
}

/// A session that polls through the other edge, step by step: what the other edge refuses, passes on, and answers when
/// the session's edge is gone.
#[tokio::test(flavor = "multi_thread")]
async fn other_edge_serves_a_session_until_its_own_edge_ends() -> Result<()> {
    let mut system = TestSystem::start_with("two-edges-poll", |options| {
        options.instances = BTreeMap::from([(Name::Websocket, 2)]);
        options.processes = Some(program());
    })
    .await?;
    let edges: Vec<String> = system.stack.urls(Name::Websocket).into_iter().map(str::to_owned).collect();
    let opened = http::get(&format!("{}/socket.io/?EIO=4&transport=polling", edges[0]), None).await?;
    let open: Value = serde_json::from_str(opened.text.strip_prefix('0').context("an open packet")?)?;
    let sid = open["sid"].as_str().context("a sid")?.to_owned();
    let at = |edge: &str, sid: &str| format!("{edge}/socket.io/?EIO=4&transport=polling&sid={sid}");
    let other = at(&edges[1], &sid);

    // CONNECT, `connected` and an acknowledgement, all through the other edge.
    let connect = format!("40{}", json!({"token": system.token("anna")?}));
    assert_eq!(http::post_raw(&other, None, connect).await?.text, "ok");
    let mut seen = http::get(&other, None).await?.text;
    while !seen.contains("connected") {
        seen.push_str(&http::get(&other, None).await?.text);
    }
    assert!(seen.starts_with("40{\"sid\":"), "{seen}");
    assert_eq!(http::post_raw(&other, None, "427[\"ping\"]".to_owned()).await?.text, "ok");
    let pong = http::get(&other, None).await?.text;
    assert!(pong.starts_with("437[{\"timestamp\":"), "{pong}");

    // The token of another person is refused by the session's edge, and its answer passed back.
    let stranger = http::get(&format!("{other}&token={}", system.token("ben")?), None).await?;
    assert_eq!((stranger.status, &stranger.json["code"]), (400, &json!(3)), "{}", stranger.text);

    // An edge that does not exist, a session that its edge does not have.
    let unknown = sid[..32].to_owned() + &"0".repeat(32);
    for wrong in ["0".repeat(64), unknown, "*.*".to_owned() + &sid[3..]] {
        let reply = http::get(&at(&edges[1], &wrong), None).await?;
        assert_eq!((reply.status, &reply.json["code"]), (400, &json!(1)), "{wrong}: {}", reply.text);
    }

    // The session's edge is killed: the client must learn it at once, not after a timeout.
    system.stack.kill_instance(Name::Websocket, 0).await?;
    let killed = Instant::now();
    let gone = http::get(&other, None).await?;
    let second = http::get(&other, None).await?;
    let took = killed.elapsed();
    assert!(matches!(gone.status, 400 | 503), "{}", gone.text);
    assert!(matches!(second.status, 400 | 503), "{}", second.text);
    assert!(took.as_secs_f64() < 3.0, "{took:?}");
    system.end().await;
    Ok(())
}

/// A WebSocket that an edge carries for the other edge closes with 1012 when that edge stops.
#[tokio::test(flavor = "multi_thread")]
async fn stopping_edge_ends_the_websockets_that_it_carries() -> Result<()> {
    let mut system = two_edges("two-edges-stop").await?;
    let edges: Vec<String> = system.stack.urls(Name::Websocket).into_iter().map(str::to_owned).collect();
    let opened = http::get(&format!("{}/socket.io/?EIO=4&transport=polling", edges[0]), None).await?;
    let open: Value = serde_json::from_str(opened.text.strip_prefix('0').context("an open packet")?)?;
    let sid = open["sid"].as_str().context("a sid")?;
    let polling = format!("{}/socket.io/?EIO=4&transport=polling&sid={sid}", edges[0]);
    let connect = format!("40{}", json!({"token": system.token("anna")?}));
    assert_eq!(http::post_raw(&polling, None, connect).await?.text, "ok");

    let other = edges[1].replacen("http", "ws", 1);
    let url = format!("{other}/socket.io/?EIO=4&transport=websocket&sid={sid}");
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await?;
    socket.send(Message::text("2probe")).await?;
    // Until the upgrade the packets of the session go to polls; the probe ends the one that waits.
    http::get(&polling, None).await?;
    socket.send(Message::text("5")).await?;
    let client = tokio::spawn(async move {
        let mut texts = Vec::new();
        while let Some(message) = socket.next().await {
            match message? {
                Message::Text(text) => texts.push(text.to_string()),
                Message::Close(close) => return Ok((texts, close.map(|close| u16::from(close.code)))),
                _ => {}
            }
        }
        anyhow::bail!("no close frame after {texts:?}")
    });
    system.stack.restart_instance(Name::Websocket, 1).await?;
    let (texts, code) = tokio::time::timeout(Duration::from_secs(5), client).await???;
    assert_eq!((texts.first().map(String::as_str), code), (Some("3probe"), Some(protocol::frames::close::DRAINING)));
    // The session has ended at its own edge as well.
    let reply = http::get(&polling, None).await?;
    assert_eq!(reply.status, 400, "{}", reply.text);
    system.end().await;
    Ok(())
}
