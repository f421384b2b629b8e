//! The cases of Engine.IO: handshake, messages, heartbeat, close, upgrade.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{FutureExt, SinkExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::{Case, Edge, SOON, Socket, cases, upgrading};

/// The edge's settings, as its handshake names them, in milliseconds and bytes.
const PING_INTERVAL_MS: u64 = 25_000;
const PING_TIMEOUT_MS: u64 = 20_000;
const MAX_PAYLOAD: u64 = 65_536;

/// The cases of Engine.IO, by name.
pub fn all() -> Vec<Case> {
    cases![
        polling_opens_a_session,
        websocket_opens_a_session,
        wrong_parameters_are_rejected,
        wrong_methods_are_rejected,
        polling_carries_one_packet,
        polling_carries_several_packets,
        polling_rejects_binary_and_goes_on,
        polling_closes_on_an_invalid_packet,
        polling_closes_on_two_polls_at_once,
        websocket_carries_a_packet,
        websocket_ignores_binary,
        websocket_closes_on_an_invalid_packet,
        polling_pings,
        websocket_pings,
        silent_clients_are_closed,
        polling_client_closes,
        websocket_client_closes,
        polling_upgrades_to_websocket,
        late_poll_does_not_block_the_upgrade,
        polls_after_the_upgrade_are_ignored,
        second_websocket_after_the_upgrade_is_ignored,
    ]
    .to_vec()
}

/// The handshake's fields, which the official suites check one by one.
fn check_open(packet: &str, upgrades: &Value) -> Result<()> {
    let open: Value = serde_json::from_str(packet.strip_prefix('0').context("an open packet")?)?;
    let fields = open.as_object().context("an object")?;
    ensure!(fields.len() == 5, "{open}");
    ensure!(open["sid"].as_str().is_some_and(|sid| !sid.is_empty()), "{open}");
    ensure!(open["upgrades"] == *upgrades, "{open}");
    ensure!(open["pingInterval"] == PING_INTERVAL_MS && open["pingTimeout"] == PING_TIMEOUT_MS, "{open}");
    ensure!(open["maxPayload"] == MAX_PAYLOAD, "{open}");
    Ok(())
}

// Engine.IO: handshake.

async fn polling_opens_a_session(edge: Edge) -> Result<()> {
    let reply = edge.request("GET", "EIO=4&transport=polling", "").await?;
    ensure!(reply.status == 200, "{reply:?}");
    check_open(&reply.body, &json!(["websocket"]))
}

async fn websocket_opens_a_session(edge: Edge) -> Result<()> {
    let mut socket = edge.websocket("EIO=4&transport=websocket").await?;
    check_open(&socket.text().await?, &json!([]))
}

async fn wrong_parameters_are_rejected(edge: Edge) -> Result<()> {
    for (query, code) in [
        ("transport=polling", 5),
        ("EIO=abc&transport=polling", 5),
        ("EIO=3&transport=polling", 5),
        ("EIO=4", 0),
        ("EIO=4&transport=abc", 0),
        ("EIO=4&transport=polling&sid=unknown", 1),
    ] {
        let reply = edge.request("GET", query, "").await?;
        let body: Value = serde_json::from_str(&reply.body)?;
        ensure!(reply.status == 400 && body["code"] == code, "{query}: {reply:?}");
    }
    for query in [
        "transport=websocket",
        "EIO=abc&transport=websocket",
        "EIO=4&transport=abc",
        "EIO=4&transport=websocket&sid=unknown",
    ] {
        ensure!(edge.websocket(query).await.is_err(), "{query} was upgraded");
    }
    Ok(())
}

/// The suites demand 400 for PUT as well. The edge says what HTTP says: 405.
async fn wrong_methods_are_rejected(edge: Edge) -> Result<()> {
    let posted = edge.request("POST", "EIO=4&transport=polling", "").await?;
    ensure!(posted.status == 400, "{posted:?}");
    let put = edge.request("PUT", "EIO=4&transport=polling", "").await?;
    ensure!(put.status == 405, "{put:?}");
    Ok(())
}

// Engine.IO: messages. The suites' servers echo; the edge answers the event `ping` instead.

async fn polling_carries_one_packet(edge: Edge) -> Result<()> {
    let sid = edge.connected().await?;
    let posted = edge.post(&sid, r#"421["ping",{}]"#).await?;
    ensure!((posted.status, posted.body.as_str()) == (200, "ok"), "{posted:?}");
    let polled = edge.poll(&sid).await?;
    ensure!(polled.status == 200 && polled.body.starts_with(r#"431[{"timestamp":"#), "{polled:?}");
    Ok(())
}

async fn polling_carries_several_packets(edge: Edge) -> Result<()> {
    let sid = edge.connected().await?;
    let body = [r#"421["ping",{}]"#, r#"422["ping",{}]"#, r#"423["ping",{}]"#].join("\u{1e}");
    let posted = edge.post(&sid, &body).await?;
    ensure!((posted.status, posted.body.as_str()) == (200, "ok"), "{posted:?}");
    let polled = edge.poll(&sid).await?;
    let heads: Vec<_> = polled.body.split('\u{1e}').map(|packet| packet.get(..3).unwrap_or_default()).collect();
    ensure!(polled.status == 200 && heads == ["431", "432", "433"], "{polled:?}");
    Ok(())
}

/// Binary data is no part of the vocabulary: the event is answered by an error, its attachment is ignored, and the
/// packets around it are served.
async fn polling_rejects_binary_and_goes_on(edge: Edge) -> Result<()> {
    let sid = edge.connected().await?;
    let event = r#"451-1["place_bid",{"_placeholder":true,"num":0}]"#;
    let body = [event, "bAQIDBA==", r#"422["ping",{}]"#].join("\u{1e}");
    let posted = edge.post(&sid, &body).await?;
    ensure!(posted.status == 200, "{posted:?}");
    let polled = edge.poll(&sid).await?;
    let packets: Vec<_> = polled.body.split('\u{1e}').collect();
    ensure!(
        packets.len() == 2 && packets[0].starts_with("431[") && packets[0].contains("invalid_request"),
        "{polled:?}"
    );
    ensure!(packets[1].starts_with("432["), "{polled:?}");
    Ok(())
}

async fn polling_closes_on_an_invalid_packet(edge: Edge) -> Result<()> {
    for bad in ["abc", "7", ""] {
        let sid = edge.handshake().await?;
        let posted = edge.post(&sid, bad).await?;
        ensure!(posted.status == 400, "{bad:?}: {posted:?}");
        let polled = edge.poll(&sid).await?;
        ensure!(polled.status == 400, "{bad:?}: {polled:?}");
    }
    Ok(())
}

async fn polling_closes_on_two_polls_at_once(edge: Edge) -> Result<()> {
    let sid = edge.handshake().await?;
    let second = async {
        sleep(Duration::from_millis(100)).await;
        edge.poll(&sid).await
    };
    let (first, second) = tokio::try_join!(edge.poll(&sid), second)?;
    ensure!((first.status, first.body.as_str()) == (200, "1"), "{first:?}");
    ensure!(second.status == 400, "{second:?}");
    let third = edge.poll(&sid).await?;
    ensure!(third.status == 400, "{third:?}");
    Ok(())
}

async fn websocket_carries_a_packet(edge: Edge) -> Result<()> {
    edge.connected_socket().await?.lives().await
}

/// The suites' servers echo a binary message. The edge takes it for the attachment of a binary event, which it has
/// rejected, and ignores it.
async fn websocket_ignores_binary(edge: Edge) -> Result<()> {
    let mut socket = edge.connected_socket().await?;
    socket.0.send(Message::binary(vec![1, 2, 3, 4])).await?;
    socket.lives().await
}

async fn websocket_closes_on_an_invalid_packet(edge: Edge) -> Result<()> {
    let mut socket = edge.opened().await?;
    socket.send("abc").await?;
    socket.closed(SOON).await
}

// Engine.IO: heartbeat. One ping each: the interval is 25 seconds here, and 300 milliseconds in the suites.

async fn polling_pings(edge: Edge) -> Result<()> {
    let sid = edge.connected().await?;
    let polled = edge.poll(&sid).await?;
    ensure!((polled.status, polled.body.as_str()) == (200, "2"), "{polled:?}");
    let posted = edge.post(&sid, "3").await?;
    ensure!(posted.status == 200, "{posted:?}");
    // The session goes on.
    edge.post(&sid, r#"421["ping",{}]"#).await?;
    let polled = edge.poll(&sid).await?;
    ensure!(polled.body.starts_with("431["), "{polled:?}");
    Ok(())
}

async fn websocket_pings(edge: Edge) -> Result<()> {
    let mut socket = edge.connected_socket().await?;
    let ping = socket.text().await?;
    ensure!(ping == "2", "{ping}");
    socket.send("3").await?;
    socket.lives().await
}

/// A session that answers no ping ends with the second ping that follows: after 50 seconds at most.
async fn silent_clients_are_closed(edge: Edge) -> Result<()> {
    let (sid, socket) = (edge.connected().await?, edge.connected_socket().await?);
    let started = Instant::now();
    socket.closed(Duration::from_millis(2 * PING_INTERVAL_MS + 5_000)).await?;
    ensure!(started.elapsed() > Duration::from_millis(PING_INTERVAL_MS), "closed after {:?}", started.elapsed());
    // The last poll may wait two seconds for the close.
    sleep(Duration::from_secs(4)).await;
    let polled = edge.poll(&sid).await?;
    ensure!(polled.status == 400, "{polled:?}");
    Ok(())
}

// Engine.IO: close.

async fn polling_client_closes(edge: Edge) -> Result<()> {
    let sid = edge.handshake().await?;
    let close = async {
        sleep(Duration::from_millis(100)).await;
        edge.post(&sid, "1").await
    };
    let (polled, closed) = tokio::try_join!(edge.poll(&sid), close)?;
    ensure!((polled.status, polled.body.as_str()) == (200, "6"), "{polled:?}");
    ensure!(closed.status == 200, "{closed:?}");
    let polled = edge.poll(&sid).await?;
    ensure!(polled.status == 400, "{polled:?}");
    Ok(())
}

async fn websocket_client_closes(edge: Edge) -> Result<()> {
    let mut socket = edge.opened().await?;
    socket.send("1").await?;
    socket.closed(SOON).await
}

// Engine.IO: upgrade.

/// A polling session, connected, and the WebSocket that has replaced polling.
async fn upgraded(edge: &Edge) -> Result<(String, Socket)> {
    let sid = edge.connected().await?;
    let mut socket = edge.websocket(&upgrading(&sid)).await?;
    socket.send("2probe").await?;
    let probed = socket.text().await?;
    ensure!(probed == "3probe", "{probed}");
    socket.send("5").await?;
    socket.lives().await?;
    Ok((sid, socket))
}

async fn polling_upgrades_to_websocket(edge: Edge) -> Result<()> {
    let sid = edge.connected().await?;
    let mut socket = edge.websocket(&upgrading(&sid)).await?;
    socket.send("2probe").await?;
    let probed = socket.text().await?;
    ensure!(probed == "3probe", "{probed}");
    // The poll ends with a packet that means nothing.
    let polled = edge.poll(&sid).await?;
    ensure!((polled.status, polled.body.as_str()) == (200, "6"), "{polled:?}");
    socket.send("5").await?;
    socket.lives().await
}

/// Not in the suites: a client that polls once more between the probe and the upgrade does not block the upgrade.
async fn late_poll_does_not_block_the_upgrade(edge: Edge) -> Result<()> {
    let sid = edge.connected().await?;
    let mut socket = edge.websocket(&upgrading(&sid)).await?;
    socket.send("2probe").await?;
    ensure!(socket.text().await? == "3probe");
    let upgrade = async {
        edge.poll(&sid).await?;
        let late = edge.poll(&sid);
        let upgrade = async {
            sleep(Duration::from_millis(100)).await;
            socket.send("5").await
        };
        tokio::try_join!(late, upgrade)
    };
    let (late, ()) = timeout(SOON, upgrade).await.context("the poll did not end")??;
    ensure!((late.status, late.body.as_str()) == (200, "6"), "{late:?}");
    socket.lives().await
}

async fn polls_after_the_upgrade_are_ignored(edge: Edge) -> Result<()> {
    let (sid, mut socket) = upgraded(&edge).await?;
    let polled = edge.poll(&sid).await?;
    ensure!(polled.status == 400, "{polled:?}");
    socket.lives().await
}

async fn second_websocket_after_the_upgrade_is_ignored(edge: Edge) -> Result<()> {
    let (sid, mut socket) = upgraded(&edge).await?;
    ensure!(edge.websocket(&upgrading(&sid)).await.is_err(), "a second WebSocket was upgraded");
    socket.lives().await
}
