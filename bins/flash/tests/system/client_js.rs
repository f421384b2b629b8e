//! `/client.js`, run by node over a line that breaks again and again.

use std::time::Duration;

use anyhow::Result;
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::Proxy;

use crate::socketio::{node_at, told};
use crate::world::World;

/// Two people bid against each other to the end, each over a connection that is reset every 300 ms: the module
/// comes back, resumes, asks again for what it was not told, and shows each bid once.
#[tokio::test(flavor = "multi_thread")]
async fn the_module_bids_once_and_sees_each_bid_once() -> Result<()> {
    let world = World::start("client-js").await?;
    let edge = world.stack.url(Name::Websocket);
    let port: u16 = edge.rsplit(':').next().unwrap_or_default().parse()?;
    let proxy = Proxy::start(port).await?;
    let auction = json!({"title": "Lamp", "duration": 8, "starting_bid": 1, "anti_snipe": {"mode": "off"}});
    let id = world.auction(&auction).await?;
    let script = "
        (async () => {
          const source = await (await fetch(process.env.DIRECT + '/client.js')).text();
          const { connect } = await import('data:text/javascript,' + encodeURIComponent(source));
          const WebSocket = require('ws');
          const seen = [], answers = [];
          let disconnected = 0, confirming = false;
          const client = connect({ url: edge, token: () => token, WebSocket });
          client.on('disconnected', () => disconnected++);
          const lot = client.join(auction_id);
          lot.on('bids', (bids) => seen.push(...bids.map((bid) => bid.seq)));
          const counting = setInterval(() => { confirming ||= lot.remaining()?.confirming ?? false; }, 1);
          const rival = connect({ url: edge, token: () => other, WebSocket });
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
          tell('done', { seen, disconnected, confirming, remaining: lot.remaining(), status: lot.state.status,
            accepted: answers.filter((answer) => answer.status === 'accepted').map((answer) => answer.seq),
            unknown: answers.filter((answer) => answer.code === 'outcome_unknown').length });
          client.close();
          rival.close();
        })().catch((error) => { tell('failed', String(error.stack)); process.exit(1); });
    ";
    let environment = [
        ("TOKEN", world.token("anna")?),
        ("OTHER", world.token("ben")?),
        ("AUCTION", id.clone()),
        ("DIRECT", edge.to_owned()),
    ];
    let breaking = async {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            proxy.reset();
        }
    };
    let lines = tokio::select! {
        lines = node_at(format!("ws://127.0.0.1:{}", proxy.port), script, &environment) => lines?,
        () = breaking => unreachable!("it goes on for ever"),
    };
    let done = told(&lines, "done")?;
    let numbers =
        |name: &str| -> Vec<u64> { done[name].as_array().into_iter().flatten().filter_map(Value::as_u64).collect() };
    let logged: Vec<u64> = world.checked_bids(&id).await?.iter().map(|bid| bid.seq).collect();
    assert_eq!(numbers("seen"), logged, "each bid once, in order");
    let mut accepted = numbers("accepted");
    accepted.dedup();
    assert_eq!(accepted, logged, "one bid an id, and none that nobody was told of");
    assert!(logged.len() > 10 && done["disconnected"].as_u64() > Some(3), "this proves nothing: {done}");
    assert_eq!((&done["unknown"], &done["status"]), (&json!(0), &json!("closed")));
    assert_eq!((&done["confirming"], &done["remaining"]), (&json!(true), &Value::Null));
    world.end().await;
    Ok(())
}
