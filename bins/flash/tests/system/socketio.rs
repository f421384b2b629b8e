//! The Socket.IO transport, with npm's `socket.io-client`.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::http;
use testkit::install;
use testkit::scratch::tools;

use crate::test_system::TestSystem;

/// Beginning of every script: `report` prints one JSON line, and a timer bounds the run. Over TLS the certificate of the
/// stack's own authority is none of node's business; the client has an option of its own for that.
const PRELUDE: &str = "
const io = (url, options) => require('socket.io-client').io(url, { rejectUnauthorized: false, ...options });
const report = (what, data) => console.log(JSON.stringify({ what, data }));
setTimeout(() => { report('too late'); process.exit(1); }, 20000).unref();
const { EDGE: edge, TOKEN: token, OTHER: other, AUCTION: auction_id } = process.env;
";

fn edge(system: &TestSystem) -> String {
    system.stack.url(Name::Websocket).replacen("http", "ws", 1)
}

async fn node(system: &TestSystem, script: &str, environment: &[(&'static str, String)]) -> Result<Vec<Value>> {
    node_at(edge(system), script, environment).await
}

/// Runs a script in node, with the edge's address and these variables in its environment.
pub async fn node_at(edge: String, script: &str, environment: &[(&'static str, String)]) -> Result<Vec<Value>> {
    let folder = install::ensure_node(&tools(), &|step| eprintln!("{step} …"))?;
    let mut command = Command::new("node");
    command
        .args(["-e", &format!("{PRELUDE}{script}")])
        .current_dir(folder)
        .env("EDGE", edge)
        .env("NODE_TLS_REJECT_UNAUTHORIZED", "0")
        .envs(environment.iter().cloned());
    let output: Output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout)?;
    lines.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// The data that a script reported under this name.
pub fn reported<'a>(lines: &'a [Value], what: &str) -> Result<&'a Value> {
    Ok(&lines.iter().find(|line| line["what"] == what).with_context(|| format!("{what} in {lines:?}"))?["data"])
}

/// The usual snippet of a client, with the default transports (polling, then the upgrade) and with WebSocket only.
#[tokio::test(flavor = "multi_thread")]
async fn socketio_client_works_from_join_to_hammer() -> Result<()> {
    let system = TestSystem::start("snippet").await?;
    for options in ["{ query: { token } }", "{ query: { token }, transports: ['websocket'] }"] {
        let auction = json!({"title": "Lamp", "duration": 5, "starting_bid": 10, "anti_snipe": {"mode": "off"}});
        let id = system.auction(&auction).await?;
        let script = format!(
            "const socket = io(edge, {options});
             let transport, bids = 0;
             socket.on('connected', (data) => {{
               report('connected', data);
               socket.emit('join_auction', {{ auction_id }});
             }});
             socket.on('joined_auction', (data) => {{
               report('joined_auction', data);
               socket.emit('chat_message', {{ auction_id, message: 'hello', user_id: '{}', username: 'impostor' }});
               socket.emit('place_bid', {{ auction_id, amount: '10.50' }});
             }});
             socket.on('chat_message', (data) => report('chat_message', data));
             socket.on('chat_sent', (data) => report('chat_sent', data));
             socket.on('bid_result', (data) => report('bid_result', data));
             socket.on('bid_update', (data) => {{ if (!bids++) report('bid_update', data); }});
             socket.once('timer_update', (data) => report('timer_update', data));
             socket.on('auction_ended', (data) => {{
               report('transport', socket.io.engine.transport.name);
               report('auction_ended', data);
               socket.disconnect();
             }});",
            uuid::Uuid::new_v4()
        );
        let token = system.token("anna")?;
        let lines = node(&system, &script, &[("TOKEN", token), ("AUCTION", id.clone())]).await?;
        assert_eq!(reported(&lines, "connected")?["username"], "anna");
        assert_eq!(reported(&lines, "joined_auction")?["minimum_bid"].as_f64(), Some(10.0));
        assert_eq!(reported(&lines, "bid_result")?["status"], "accepted", "{lines:?}");
        assert_eq!(reported(&lines, "bid_update")?["high_bid"], json!(10.5));
        assert_eq!(reported(&lines, "timer_update")?["auction_id"], id.as_str());
        let message = reported(&lines, "chat_message")?;
        assert_eq!(
            (&message["username"], &message["message"], &message["is_host"]),
            (&json!("anna"), &json!("hello"), &json!(false))
        );
        assert_eq!(message["message_id"], reported(&lines, "chat_sent")?["message_id"]);
        assert_eq!(reported(&lines, "transport")?, "websocket");
        let ended = reported(&lines, "auction_ended")?;
        assert_eq!((&ended["outcome"], &ended["you_won"]), (&json!("sold"), &json!(true)));
    }
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_client_gets_acknowledgements_and_rejections() -> Result<()> {
    let system = TestSystem::start("polling").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 10})).await?;
    let script = "
        const socket = io(edge, { auth: { token }, transports: ['polling'], forceNew: true });
        const ask = (event, data) => socket.timeout(5000).emitWithAck(event, data);
        socket.on('connected', async () => {
          report('joined', await ask('join_auction', { auction_id }));
          report('bid', await ask('place_bid', { auction_id, amount: 12.5 }));
          report('low', await ask('place_bid', { auction_id, amount: 1 }));
          report('bad amount', await ask('place_bid', { auction_id, amount: 1.001 }));
          report('said', await ask('chat_message', { auction_id, message: 'x' }));
          report('too long', await ask('chat_message', { auction_id, message: 'x'.repeat(501) }));
          report('empty', await ask('chat_message', { auction_id, message: '' }));
          report('unknown', await ask('dance', {}));
          report('not joined', await ask('chat_message', { auction_id: socket.id && '00000000-0000-4000-8000-000000000000', message: 'x' }));
          report('ping', await ask('ping'));
          report('left', await ask('leave_auction', { auction_id }));
          socket.once('error', (data) => { report('binary', data); socket.disconnect(); });
          socket.emit('place_bid', Buffer.from([1, 2, 3]));
        });";
    let token = system.token("anna")?;
    let lines = node(&system, script, &[("TOKEN", token), ("AUCTION", id.clone())]).await?;
    assert_eq!(reported(&lines, "joined")?["auction_id"], id.as_str());
    assert_eq!(reported(&lines, "bid")?["current_high_bid"], json!(12.5));
    for (what, code) in [
        ("low", "already_leading"),
        ("bad amount", "invalid_amount"),
        ("too long", "invalid_request"),
        ("empty", "invalid_request"),
        ("unknown", "unknown_event"),
        ("not joined", "not_joined"),
        ("binary", "invalid_request"),
    ] {
        assert_eq!(reported(&lines, what)?["code"], code, "{what}: {lines:?}");
    }
    assert!(reported(&lines, "said")?["message_id"].is_string());
    assert!(reported(&lines, "ping")?["timestamp"].is_u64());
    assert_eq!(reported(&lines, "left")?["auction_id"], id.as_str());

    // The next client gets the chat messages with the state.
    let mut ben = system.socket("ben").await?;
    let joined = ben.ask("join_auction", json!({"auction_id": id})).await?;
    assert_eq!(joined["data"]["chat_messages"][0]["message"], "x");
    let state = http::get(&system.management(&format!("/auctions/{id}/state")), None).await?.json;
    assert_eq!(state["chat_messages"][0]["username"], "anna");
    system.end().await;
    Ok(())
}

/// A client with a bad token gets `connect_error` and cannot emit events; nor can one that sends before connecting.
#[tokio::test(flavor = "multi_thread")]
async fn invalid_socketio_handshakes_are_rejected() -> Result<()> {
    let system = TestSystem::start("stranger").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 10})).await?;
    let script = "
        const tries = [
          ['garbage', { query: { token: 'x' } }], ['expired', { auth: { token: other } }], ['none', {}],
          ['polling', { query: { token: 'x' }, transports: ['polling'] }],
          ['namespace', { query: { token } }, '/admin'],
        ];
        let left = tries.length;
        for (const [name, options, namespace] of tries) {
          const socket = io(edge + (namespace || ''), { ...options, forceNew: true, reconnection: false });
          socket.on('connected', () => report('connected', name));
          socket.on('connect_error', (error) => {
            report(name, { message: error.message, code: error.data?.code });
            socket.emit('place_bid', { auction_id, amount: 10 });
            setTimeout(() => { socket.disconnect(); if (!--left) process.exit(0); }, 300);
          });
        }";
    let issuer = &system.stack.issuer;
    let mallory = identity::development::DevelopmentUser::named("mallory");
    let expired = issuer.key.mint(&issuer.issuer, &issuer.client_id, &mallory, 1_000_000_000, 60)?;
    let token = system.token("mallory")?;
    let lines = node(&system, script, &[("TOKEN", token), ("OTHER", expired), ("AUCTION", id.clone())]).await?;
    for (name, code) in [
        ("garbage", json!("unauthenticated")),
        ("expired", json!("token_expired")),
        ("none", json!("unauthenticated")),
        ("polling", json!("unauthenticated")),
        ("namespace", Value::Null),
    ] {
        assert_eq!(reported(&lines, name)?["code"], code, "{name}: {lines:?}");
    }
    assert!(reported(&lines, "connected").is_err());

    let edge = format!("{}/socket.io/", system.stack.url(Name::Websocket));
    for (query, status, code) in [
        ("?EIO=3&transport=polling", 400, 5),
        ("?EIO=4&transport=carrier-pigeon", 400, 0),
        ("?EIO=4&transport=polling&sid=unknown", 400, 1),
    ] {
        let reply = http::get(&format!("{edge}{query}"), None).await?;
        assert_eq!((reply.status, &reply.json["code"]), (status, &json!(code)), "{query}");
    }
    // A packet before the namespace is connected ends the session.
    let opened = http::get(&format!("{edge}?EIO=4&transport=polling"), None).await?;
    let open: Value = serde_json::from_str(opened.text.strip_prefix('0').context("an open packet")?)?;
    let session = format!("{edge}?EIO=4&transport=polling&sid={}", open["sid"].as_str().context("a sid")?);
    let bid = format!("42{}", json!(["place_bid", {"auction_id": id, "amount": 10}]));
    http::post_raw(&session, None, bid).await?;
    assert_eq!(http::get(&session, None).await?.text, "1", "closed");
    let state = http::get(&system.management(&format!("/auctions/{id}/state")), None).await?.json;
    assert_eq!(state["bid_count"], 0);
    system.end().await;
    Ok(())
}

/// A client of a restarted edge is notified, reconnects by itself, and misses no bid.
#[tokio::test(flavor = "multi_thread")]
async fn drained_client_reconnects_and_misses_no_bid() -> Result<()> {
    let mut system = TestSystem::start("drained").await?;
    for transports in ["['websocket']", "['polling']"] {
        let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
        let script = format!(
            "const socket = io(edge, {{ query: {{ token }}, transports: {transports}, reconnectionDelay: 100, reconnectionDelayMax: 300 }});
             let seq, joins = 0;
             socket.on('connected', () => socket.emit('join_auction', seq ? {{ auction_id, last_seq: seq }} : {{ auction_id }}));
             socket.on('joined_auction', (data) => {{
               report(`joined ${{++joins}}`, {{ recovered: data.recovered, seq: data.seq, missed: data.missed_bids }});
               seq = data.seq;
               if (joins === 2) socket.disconnect();
             }});
             socket.on('bid_update', (data) => {{ seq = data.seq; }});
             socket.on('server_draining', (data) => report('server_draining', data));
             socket.on('disconnect', (reason) => report('disconnect', reason));"
        );
        let environment = [("TOKEN", system.token("anna")?), ("AUCTION", id.clone())];
        let edge = edge(&system);
        let client = tokio::spawn(async move { node_at(edge, &script, &environment).await });
        system.wait_for(&format!("/auctions/{id}/state"), |state| state["participant_count"] == 1).await?;
        let placed = system.bid("ben", &id, &json!(5)).await?;
        assert_eq!(placed.status, 200, "{}", placed.text);
        system.stack.restart_instance(Name::Websocket, 0).await?;
        let lines = client.await??;
        assert!(reported(&lines, "server_draining")?["retry_after_ms"].is_u64());
        assert!(
            matches!(reported(&lines, "disconnect")?.as_str(), Some("transport close" | "transport error")),
            "{lines:?}"
        );
        let (first, second) = (reported(&lines, "joined 1")?, reported(&lines, "joined 2")?);
        assert_eq!((&second["recovered"], second["seq"].as_u64()), (&json!(true), Some(3)), "{first} {second}");
    }
    system.end().await;
    Ok(())
}
