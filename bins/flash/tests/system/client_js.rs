//! `/client.js` in node, over a connection that is reset again and again.

use std::time::Duration;

use anyhow::{Context, Result};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::Proxy;

use crate::socketio::{node_at, reported};
use crate::test_system::TestSystem;

/// Lets two users bid against each other to the end; returns the bids they saw and the answers they got.
pub const PLAY: &str = "async (connect, options, auction_id, [token, other]) => {
  const seen = [], answers = [];
  let disconnected = 0, confirming = false;
  const client = connect({ ...options, token: () => token });
  client.on('disconnected', () => disconnected++);
  const lot = client.join(auction_id);
  lot.on('bids', (bids) => seen.push(...bids.map((bid) => bid.seq)));
  const counting = setInterval(() => { confirming ||= lot.remaining()?.confirming ?? false; }, 1);
  const rival = connect({ ...options, token: () => other });
  const rivals = rival.join(auction_id);
  const ended = new Promise((resolve) => lot.on('ended', resolve));
  await new Promise((resolve) => lot.on('joined_auction', resolve));
  for (let turn = 0; lot.state.status === 'live'; turn++) {
    const answer = await (turn % 2 ? lot : rivals).bid(String(lot.state.minimum_bid));
    answers.push(answer);
    if (answer.code === 'auction_closed') break;
  }
  await ended;
  clearInterval(counting);
  client.close();
  rival.close();
  return { seen, disconnected, confirming, remaining: lot.remaining(), status: lot.state.status,
    accepted: answers.filter((answer) => answer.status === 'accepted').map((answer) => answer.seq),
    unknown: answers.filter((answer) => answer.code === 'outcome_unknown').length };
}";

/// The auction of the script `PLAY`.
pub fn lot() -> Value {
    json!({"title": "Lamp", "duration": 8, "starting_bid": 1, "anti_snipe": {"mode": "off"}})
}

/// Resets every connection again and again, without end.
pub async fn break_often(proxy: &Proxy) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.reset();
    }
}

/// Compares the result of `PLAY` with the log.
pub async fn assert_agrees(system: &TestSystem, id: &str, done: &Value) -> Result<()> {
    let numbers =
        |name: &str| -> Vec<u64> { done[name].as_array().into_iter().flatten().filter_map(Value::as_u64).collect() };
    let logged: Vec<u64> = system.checked_bids(id).await?.iter().map(|bid| bid.seq).collect();
    assert_eq!(numbers("seen"), logged, "each bid is seen once, in order");
    let mut accepted = numbers("accepted");
    accepted.dedup();
    assert_eq!(accepted, logged, "each id gives one bid, and each bid was answered");
    assert!(logged.len() > 10 && done["disconnected"].as_u64() > Some(3), "too few bids or resets for a proof: {done}");
    assert_eq!((&done["unknown"], &done["status"]), (&json!(0), &json!("closed")));
    assert_eq!((&done["confirming"], &done["remaining"]), (&json!(true), &Value::Null));
    Ok(())
}

/// Each connection is reset every 300 ms: the module reconnects, resumes, repeats requests without an answer, and
/// shows each bid once.
#[tokio::test(flavor = "multi_thread")]
async fn client_module_places_and_shows_each_bid_once() -> Result<()> {
    let system = TestSystem::start("client-js").await?;
    let edge = system.stack.url(Name::Websocket);
    let (scheme, _) = edge.split_once("://").context("a scheme")?;
    let port: u16 = edge.rsplit(':').next().unwrap_or_default().parse()?;
    let proxy = Proxy::start(port).await?;
    let id = system.auction(&lot()).await?;
    let script = format!(
        "(async () => {{
          const source = await (await fetch(process.env.DIRECT + '/client.js')).text();
          const {{ connect }} = await import('data:text/javascript,' + encodeURIComponent(source));
          report('done', await ({PLAY})(connect, {{ url: edge, WebSocket: require('ws') }}, auction_id, [token, other]));
        }})().catch((error) => {{ report('failed', String(error.stack)); process.exit(1); }});"
    );
    let environment = [
        ("TOKEN", system.token("anna")?),
        ("OTHER", system.token("ben")?),
        ("AUCTION", id.clone()),
        ("DIRECT", edge.to_owned()),
    ];
    let lines = tokio::select! {
        lines = node_at(format!("{}://127.0.0.1:{}", scheme.replacen("http", "ws", 1), proxy.port), &script, &environment) => lines?,
        never = break_often(&proxy) => match never {},
    };
    assert_agrees(&system, &id, reported(&lines, "done")?).await?;
    system.end().await;
    Ok(())
}

/// A server that is played by the script: it refuses two joins, its clock and the device's jump, and it falls silent.
const PLAYED: &str = "(async () => {
  const { connect } = await import('data:text/javascript,' + encodeURIComponent(process.env.SOURCE));
  const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const device = Date.now, sockets = [];
  let ahead = 5000, joins = 0, pongs = true;
  class Played {
    constructor() { sockets.push(this); setTimeout(() => this.onopen(), 1); }
    say(event, data, id) { this.onmessage?.({ data: JSON.stringify({ event, data, id }) }); }
    close() { this.isClosed = true; setTimeout(() => this.onclose?.({ code: 1006 }), 1); }
    send(text) {
      const { event, id } = JSON.parse(text), now = () => device() + ahead;
      if (event === 'authenticate' && sockets.length === 1) this.say('connected', { server_time: now() });
      if (event === 'ping' && pongs) setTimeout(() => this.say('pong', { timestamp: now() }, id), 10);
      if (event === 'place_bid') this.say('bid_result', { status: 'accepted', ...JSON.parse(text).data }, id);
      if (event !== 'join_auction') return;
      if (joins++ < 2) return this.say('error', { code: 'unavailable', error: 'later' }, id);
      this.say('joined_auction', { auction_id: 'a', status: 'live', seq: 3, end_time: now() + 60000 }, id);
    }
  }
  const client = connect({ token: () => 'token', url: 'ws://played', WebSocket: Played });
  const lot = client.join('a');
  const seconds = () => Math.round(lot.remaining().ms / 1000);
  const joined = new Promise((resolve) => lot.on('joined_auction', resolve));
  await joined;
  report('joins', joins);
  const atFirst = seconds();
  Date.now = () => device() + 3600000;
  report('device jumped', atFirst - seconds());
  Date.now = () => device() - 3600000;
  report('device jumped back', atFirst - seconds());
  Date.now = device;
  ahead += 30000;
  sockets[0].say('timer_update', { auction_id: 'a', seq: 3, server_time: device() + ahead });
  report('server jumped', atFirst - seconds());
  Object.defineProperty(crypto, 'randomUUID', { value: undefined });
  report('bid_id', (await lot.bid('5')).bid_id);
  sockets[0].onclose({ code: 4401 });
  while (sockets.length < 2) await sleep(10);
  const silent = performance.now();
  while (sockets.length < 3) await sleep(50);
  report('silent for', Math.round((performance.now() - silent) / 1000));
  process.exit(0);
})().catch((error) => { report('failed', String(error.stack)); process.exit(1); });";

#[tokio::test]
async fn client_module_survives_jumping_clocks_refused_joins_and_a_silent_server() -> Result<()> {
    let source = include_str!("../../../websocket/src/client.js").to_owned();
    let lines = node_at(String::new(), PLAYED, &[("SOURCE", source)]).await?;
    assert_eq!(reported(&lines, "joins")?, 3, "two were refused");
    for (what, shift) in [("device jumped", 0..=1), ("device jumped back", 0..=1), ("server jumped", 29..=31)] {
        assert!(reported(&lines, what)?.as_i64().is_some_and(|moved| shift.contains(&moved)), "{what}: {lines:?}");
    }
    let id = reported(&lines, "bid_id")?.as_str().unwrap_or_default();
    assert_eq!(uuid::Uuid::parse_str(id)?.get_version_num(), 4);
    assert!(reported(&lines, "silent for")?.as_i64().is_some_and(|waited| (9..=13).contains(&waited)), "{lines:?}");
    Ok(())
}
