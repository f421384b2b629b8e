//! `/client.js`, run by node over a line that breaks again and again.

use std::time::Duration;

use anyhow::Result;
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::Proxy;

use crate::socketio::{node_at, told};
use crate::world::World;

/// Two people bid against each other to the end; what they have seen and been answered.
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

/// The auction that is played.
pub fn lot() -> Value {
    json!({"title": "Lamp", "duration": 8, "starting_bid": 1, "anti_snipe": {"mode": "off"}})
}

/// Breaks every connection again and again, for ever.
pub async fn break_often(proxy: &Proxy) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.reset();
    }
}

/// Holds what `PLAY` says against the log.
pub async fn hold(world: &World, id: &str, done: &Value) -> Result<()> {
    let numbers =
        |name: &str| -> Vec<u64> { done[name].as_array().into_iter().flatten().filter_map(Value::as_u64).collect() };
    let logged: Vec<u64> = world.checked_bids(id).await?.iter().map(|bid| bid.seq).collect();
    assert_eq!(numbers("seen"), logged, "each bid once, in order");
    let mut accepted = numbers("accepted");
    accepted.dedup();
    assert_eq!(accepted, logged, "one bid an id, and none that nobody was told of");
    assert!(logged.len() > 10 && done["disconnected"].as_u64() > Some(3), "this proves nothing: {done}");
    assert_eq!((&done["unknown"], &done["status"]), (&json!(0), &json!("closed")));
    assert_eq!((&done["confirming"], &done["remaining"]), (&json!(true), &Value::Null));
    Ok(())
}

/// Each connection is reset every 300 ms: the module comes back, resumes, asks again for what it was not told, and shows each bid once.
#[tokio::test(flavor = "multi_thread")]
async fn the_module_bids_once_and_sees_each_bid_once() -> Result<()> {
    let world = World::start("client-js").await?;
    let edge = world.stack.url(Name::Websocket);
    let port: u16 = edge.rsplit(':').next().unwrap_or_default().parse()?;
    let proxy = Proxy::start(port).await?;
    let id = world.auction(&lot()).await?;
    let script = format!(
        "(async () => {{
          const source = await (await fetch(process.env.DIRECT + '/client.js')).text();
          const {{ connect }} = await import('data:text/javascript,' + encodeURIComponent(source));
          tell('done', await ({PLAY})(connect, {{ url: edge, WebSocket: require('ws') }}, auction_id, [token, other]));
        }})().catch((error) => {{ tell('failed', String(error.stack)); process.exit(1); }});"
    );
    let environment = [
        ("TOKEN", world.token("anna")?),
        ("OTHER", world.token("ben")?),
        ("AUCTION", id.clone()),
        ("DIRECT", edge.to_owned()),
    ];
    let lines = tokio::select! {
        lines = node_at(format!("ws://127.0.0.1:{}", proxy.port), &script, &environment) => lines?,
        never = break_often(&proxy) => match never {},
    };
    hold(&world, &id, told(&lines, "done")?).await?;
    world.end().await;
    Ok(())
}
