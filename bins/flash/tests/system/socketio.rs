//! The Socket.IO door, with npm's `socket.io-client`.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::http;
use testkit::install;
use testkit::scratch::tools;

use crate::world::World;

/// What every script starts with: one JSON line a thing it wants to tell, and a bound on its time.
const PRELUDE: &str = "
const { io } = require('socket.io-client');
const tell = (what, data) => console.log(JSON.stringify({ what, data }));
setTimeout(() => { tell('too late'); process.exit(1); }, 20000).unref();
const { EDGE: edge, TOKEN: token, OTHER: other, AUCTION: auction_id } = process.env;
";

fn edge(world: &World) -> String {
    world.stack.url(Name::Websocket).replacen("http", "ws", 1)
}

async fn node(world: &World, script: &str, environment: &[(&'static str, String)]) -> Result<Vec<Value>> {
    node_at(edge(world), script, environment).await
}

/// Runs a script in node, with the edge's address and what else it needs in its environment.
pub async fn node_at(edge: String, script: &str, environment: &[(&'static str, String)]) -> Result<Vec<Value>> {
    let folder = install::ensure_node(&tools(), &|step| eprintln!("{step} …"))?;
    let mut command = Command::new("node");
    command
        .args(["-e", &format!("{PRELUDE}{script}")])
        .current_dir(folder)
        .env("EDGE", edge)
        .envs(environment.iter().cloned());
    let output: Output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout)?;
    lines.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

pub fn told<'a>(lines: &'a [Value], what: &str) -> Result<&'a Value> {
    Ok(&lines.iter().find(|line| line["what"] == what).with_context(|| format!("{what} in {lines:?}"))?["data"])
}

/// The snippet that clients have been written with, unchanged, with the client's default transports
/// (polling first, then the upgrade) and over WebSocket alone.
#[tokio::test(flavor = "multi_thread")]
async fn the_usual_snippet_works_from_join_to_hammer() -> Result<()> {
    let world = World::start("snippet").await?;
    for options in ["{ query: { token } }", "{ query: { token }, transports: ['websocket'] }"] {
        let auction = json!({"title": "Lamp", "duration": 5, "starting_bid": 10, "anti_snipe": {"mode": "off"}});
        let id = world.auction(&auction).await?;
        let script = format!(
            "const socket = io(edge, {options});
             let transport, bids = 0;
             socket.on('connected', (data) => {{
               tell('connected', data);
               socket.emit('join_auction', {{ auction_id }});
             }});
             socket.on('joined_auction', (data) => {{
               tell('joined_auction', data);
               socket.emit('chat_message', {{ auction_id, message: 'hello', user_id: '{}', username: 'somebody' }});
               socket.emit('place_bid', {{ auction_id, amount: '10.50' }});
             }});
             socket.on('chat_message', (data) => tell('chat_message', data));
             socket.on('chat_sent', (data) => tell('chat_sent', data));
             socket.on('bid_result', (data) => tell('bid_result', data));
             socket.on('bid_update', (data) => {{ if (!bids++) tell('bid_update', data); }});
             socket.once('timer_update', (data) => tell('timer_update', data));
             socket.on('auction_ended', (data) => {{
               tell('transport', socket.io.engine.transport.name);
               tell('auction_ended', data);
               socket.disconnect();
             }});",
            uuid::Uuid::new_v4()
        );
        let token = world.token("anna")?;
        let lines = node(&world, &script, &[("TOKEN", token), ("AUCTION", id.clone())]).await?;
        assert_eq!(told(&lines, "connected")?["username"], "anna");
        assert_eq!(told(&lines, "joined_auction")?["minimum_bid"].as_f64(), Some(10.0));
        assert_eq!(told(&lines, "bid_result")?["status"], "accepted", "{lines:?}");
        assert_eq!(told(&lines, "bid_update")?["high_bid"], json!(10.5));
        assert_eq!(told(&lines, "timer_update")?["auction_id"], id.as_str());
        let said = told(&lines, "chat_message")?;
        assert_eq!(
            (&said["username"], &said["message"], &said["is_host"]),
            (&json!("anna"), &json!("hello"), &json!(false))
        );
        assert_eq!(said["message_id"], told(&lines, "chat_sent")?["message_id"]);
        assert_eq!(told(&lines, "transport")?, "websocket");
        let ended = told(&lines, "auction_ended")?;
        assert_eq!((&ended["outcome"], &ended["you_won"]), (&json!("sold"), &json!(true)));
    }
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_alone_acknowledgements_and_refusals() -> Result<()> {
    let world = World::start("polling").await?;
    let id = world.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 10})).await?;
    let script = "
        const socket = io(edge, { auth: { token }, transports: ['polling'], forceNew: true });
        const ask = (event, data) => socket.timeout(5000).emitWithAck(event, data);
        socket.on('connected', async () => {
          tell('joined', await ask('join_auction', { auction_id }));
          tell('bid', await ask('place_bid', { auction_id, amount: 12.5 }));
          tell('low', await ask('place_bid', { auction_id, amount: 1 }));
          tell('bad amount', await ask('place_bid', { auction_id, amount: 1.001 }));
          tell('said', await ask('chat_message', { auction_id, message: 'x' }));
          tell('too long', await ask('chat_message', { auction_id, message: 'x'.repeat(501) }));
          tell('empty', await ask('chat_message', { auction_id, message: '' }));
          tell('unknown', await ask('dance', {}));
          tell('not joined', await ask('chat_message', { auction_id: socket.id && '00000000-0000-4000-8000-000000000000', message: 'x' }));
          tell('ping', await ask('ping'));
          tell('left', await ask('leave_auction', { auction_id }));
          socket.once('error', (data) => { tell('binary', data); socket.disconnect(); });
          socket.emit('place_bid', Buffer.from([1, 2, 3]));
        });";
    let token = world.token("anna")?;
    let lines = node(&world, script, &[("TOKEN", token), ("AUCTION", id.clone())]).await?;
    assert_eq!(told(&lines, "joined")?["auction_id"], id.as_str());
    assert_eq!(told(&lines, "bid")?["current_high_bid"], json!(12.5));
    for (what, code) in [
        ("low", "already_leading"),
        ("bad amount", "invalid_amount"),
        ("too long", "invalid_request"),
        ("empty", "invalid_request"),
        ("unknown", "unknown_event"),
        ("not joined", "not_joined"),
        ("binary", "invalid_request"),
    ] {
        assert_eq!(told(&lines, what)?["code"], code, "{what}: {lines:?}");
    }
    assert!(told(&lines, "said")?["message_id"].is_string());
    assert!(told(&lines, "ping")?["timestamp"].is_u64());
    assert_eq!(told(&lines, "left")?["auction_id"], id.as_str());

    // The talk is in the state that the next one gets.
    let mut ben = world.socket("ben").await?;
    let joined = ben.ask("join_auction", json!({"auction_id": id})).await?;
    assert_eq!(joined["data"]["chat_messages"][0]["message"], "x");
    let state = http::get(&world.management(&format!("/auctions/{id}/state")), None).await?.json;
    assert_eq!(state["chat_messages"][0]["username"], "anna");
    world.end().await;
    Ok(())
}

/// A bad token gets `connect_error` and can emit nothing; so does somebody who sends before connecting.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in() -> Result<()> {
    let world = World::start("stranger").await?;
    let id = world.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 10})).await?;
    let script = "
        const tries = [
          ['garbage', { query: { token: 'x' } }], ['expired', { auth: { token: other } }], ['none', {}],
          ['polling', { query: { token: 'x' }, transports: ['polling'] }],
          ['namespace', { query: { token } }, '/admin'],
        ];
        let left = tries.length;
        for (const [name, options, namespace] of tries) {
          const socket = io(edge + (namespace || ''), { ...options, forceNew: true, reconnection: false });
          socket.on('connected', () => tell('connected', name));
          socket.on('connect_error', (error) => {
            tell(name, { message: error.message, code: error.data?.code });
            socket.emit('place_bid', { auction_id, amount: 10 });
            setTimeout(() => { socket.disconnect(); if (!--left) process.exit(0); }, 300);
          });
        }";
    let issuer = &world.stack.issuer;
    let mallory = identity::development::DevelopmentUser::named("mallory");
    let expired = issuer.key.mint(&issuer.issuer, &issuer.client_id, &mallory, 1_000_000_000, 60)?;
    let token = world.token("mallory")?;
    let lines = node(&world, script, &[("TOKEN", token), ("OTHER", expired), ("AUCTION", id.clone())]).await?;
    for (name, code) in [
        ("garbage", json!("unauthenticated")),
        ("expired", json!("token_expired")),
        ("none", json!("unauthenticated")),
        ("polling", json!("unauthenticated")),
        ("namespace", Value::Null),
    ] {
        assert_eq!(told(&lines, name)?["code"], code, "{name}: {lines:?}");
    }
    assert!(told(&lines, "connected").is_err());

    let edge = format!("{}/socket.io/", world.stack.url(Name::Websocket));
    for (query, status, code) in [
        ("?EIO=3&transport=polling", 400, 5),
        ("?EIO=4&transport=carrier-pigeon", 400, 0),
        ("?EIO=4&transport=polling&sid=unknown", 400, 1),
    ] {
        let reply = http::get(&format!("{edge}{query}"), None).await?;
        assert_eq!((reply.status, &reply.json["code"]), (status, &json!(code)), "{query}");
    }
    // What is sent before the namespace is connected ends the session.
    let opened = http::get(&format!("{edge}?EIO=4&transport=polling"), None).await?;
    let open: Value = serde_json::from_str(opened.text.strip_prefix('0').context("an open packet")?)?;
    let session = format!("{edge}?EIO=4&transport=polling&sid={}", open["sid"].as_str().context("a sid")?);
    let bid = format!("42{}", json!(["place_bid", {"auction_id": id, "amount": 10}]));
    http::post_raw(&session, None, bid).await?;
    assert_eq!(http::get(&session, None).await?.text, "1", "closed");
    let state = http::get(&world.management(&format!("/auctions/{id}/state")), None).await?.json;
    assert_eq!(state["bid_count"], 0);
    world.end().await;
    Ok(())
}

/// A client whose edge is restarted is told, reconnects by itself, and misses no bid.
#[tokio::test(flavor = "multi_thread")]
async fn a_drained_client_comes_back() -> Result<()> {
    let mut world = World::start("drained").await?;
    for transports in ["['websocket']", "['polling']"] {
        let id = world.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
        let script = format!(
            "const socket = io(edge, {{ query: {{ token }}, transports: {transports}, reconnectionDelay: 100, reconnectionDelayMax: 300 }});
             let seq, joins = 0;
             socket.on('connected', () => socket.emit('join_auction', seq ? {{ auction_id, last_seq: seq }} : {{ auction_id }}));
             socket.on('joined_auction', (data) => {{
               tell(`joined ${{++joins}}`, {{ recovered: data.recovered, seq: data.seq, missed: data.missed_bids }});
               seq = data.seq;
               if (joins === 2) socket.disconnect();
             }});
             socket.on('bid_update', (data) => {{ seq = data.seq; }});
             socket.on('server_draining', (data) => tell('server_draining', data));
             socket.on('disconnect', (reason) => tell('disconnect', reason));"
        );
        let environment = [("TOKEN", world.token("anna")?), ("AUCTION", id.clone())];
        let edge = edge(&world);
        let client = tokio::spawn(async move { node_at(edge, &script, &environment).await });
        world.wait_for(&format!("/auctions/{id}/state"), |state| state["participant_count"] == 1).await?;
        let placed = world.bid("ben", &id, &json!(5)).await?;
        assert_eq!(placed.status, 200, "{}", placed.text);
        world.stack.restart_instance(Name::Websocket, 0).await?;
        let lines = client.await??;
        assert!(told(&lines, "server_draining")?["retry_after_ms"].is_u64());
        assert!(
            matches!(told(&lines, "disconnect")?.as_str(), Some("transport close" | "transport error")),
            "{lines:?}"
        );
        let (first, second) = (told(&lines, "joined 1")?, told(&lines, "joined 2")?);
        assert_eq!((&second["recovered"], second["seq"].as_u64()), (&json!(true), Some(3)), "{first} {second}");
    }
    world.end().await;
    Ok(())
}
