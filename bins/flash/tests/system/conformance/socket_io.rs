//! The cases of Socket.IO: connect, disconnect, messages.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{FutureExt, SinkExt};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::{Case, Edge, SOON, cases};

/// The cases of Socket.IO, by name.
pub fn all() -> Vec<Case> {
    cases![
        main_namespace_connects_with_a_payload,
        main_namespace_without_a_token_is_rejected,
        other_namespaces_are_rejected,
        invalid_connect_closes,
        missing_connect_closes,
        disconnect_closes,
        disconnect_of_another_namespace_is_ignored,
        event_is_answered_by_an_event,
        event_with_an_id_is_acknowledged,
        binary_events_are_rejected,
        unknown_packet_type_closes,
        malformed_events_are_answered_by_an_error,
    ]
    .to_vec()
}

// Socket.IO: connect. The suites' servers let every client in and repeat its payload in an event `auth`; the edge wants
// a token and sends the event `connected`.

async fn main_namespace_connects_with_a_payload(edge: Edge) -> Result<()> {
    let mut socket = edge.opened().await?;
    socket.send(&format!("40{}", json!({"token": edge.token}))).await?;
    let connect = socket.text().await?;
    let payload: Value = serde_json::from_str(connect.strip_prefix("40").context("a CONNECT")?)?;
    ensure!(payload.as_object().is_some_and(|fields| fields.len() == 1) && payload["sid"].is_string(), "{connect}");
    let connected = socket.text().await?;
    ensure!(connected.starts_with(r#"42["connected",{"#), "{connected}");
    Ok(())
}

async fn main_namespace_without_a_token_is_rejected(edge: Edge) -> Result<()> {
    let mut socket = edge.opened().await?;
    socket.send("40").await?;
    let rejected = socket.text().await?;
    let error: Value = serde_json::from_str(rejected.strip_prefix("44").context("a CONNECT_ERROR")?)?;
    ensure!(error["message"].is_string() && error["data"]["code"] == "unauthenticated", "{rejected}");
    Ok(())
}

/// There is one namespace: `/custom`, which the suites' servers know, is unknown here like any other.
async fn other_namespaces_are_rejected(edge: Edge) -> Result<()> {
    for connect in ["40/random", "40/custom,", r#"40/custom,{"token":"abc"}"#] {
        let mut socket = edge.opened().await?;
        socket.send(connect).await?;
        let namespace = if connect.contains("random") { "/random" } else { "/custom" };
        let rejected = socket.text().await?;
        ensure!(rejected == format!(r#"44{namespace},{{"message":"Invalid namespace"}}"#), "{connect}: {rejected}");
        // The main namespace still connects.
        socket.send(&format!("40{}", json!({"token": edge.token}))).await?;
        let connect = socket.text().await?;
        ensure!(connect.starts_with("40{"), "{connect}");
    }
    Ok(())
}

async fn invalid_connect_closes(edge: Edge) -> Result<()> {
    let mut socket = edge.opened().await?;
    socket.send("4abc").await?;
    socket.closed(SOON).await
}

async fn missing_connect_closes(edge: Edge) -> Result<()> {
    let socket = edge.opened().await?;
    let started = Instant::now();
    socket.closed(Duration::from_secs(6)).await?;
    ensure!(started.elapsed() > Duration::from_secs(2), "closed after {:?}", started.elapsed());
    Ok(())
}

// Socket.IO: disconnect.

/// The suites keep the connection, for other namespaces. With one namespace nothing is left: the edge closes it.
async fn disconnect_closes(edge: Edge) -> Result<()> {
    let mut socket = edge.connected_socket().await?;
    socket.send("41").await?;
    socket.closed(SOON).await
}

/// Packets of an unknown namespace do not touch the main one.
async fn disconnect_of_another_namespace_is_ignored(edge: Edge) -> Result<()> {
    let mut socket = edge.connected_socket().await?;
    socket.send("40/custom").await?;
    let rejected = socket.text().await?;
    ensure!(rejected.starts_with("44/custom,"), "{rejected}");
    socket.send("41/custom").await?;
    socket.send(r#"42/custom,["ping",{}]"#).await?;
    socket.lives().await
}

// Socket.IO: messages.

async fn event_is_answered_by_an_event(edge: Edge) -> Result<()> {
    let mut socket = edge.connected_socket().await?;
    // Only the first argument is data; the others are ignored.
    socket.send(r#"42["ping",{},"2",{"3":[true]}]"#).await?;
    let answer = socket.text().await?;
    ensure!(answer.starts_with(r#"42["pong",{"timestamp":"#), "{answer}");
    Ok(())
}

async fn event_with_an_id_is_acknowledged(edge: Edge) -> Result<()> {
    let mut socket = edge.connected_socket().await?;
    socket.send(r#"42456["ping",{}]"#).await?;
    let answer = socket.text().await?;
    ensure!(answer.starts_with(r#"43456[{"timestamp":"#), "{answer}");
    Ok(())
}

/// Binary events are rejected with an error, by event or acknowledgement; their attachments are ignored.
async fn binary_events_are_rejected(edge: Edge) -> Result<()> {
    let list = r#"["place_bid",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
    for (packet, answer) in [(format!("452-{list}"), r#"42["error","#), (format!("452-789{list}"), "43789[")] {
        let mut socket = edge.connected_socket().await?;
        socket.send(&packet).await?;
        for attachment in [[1, 2, 3], [4, 5, 6]] {
            socket.0.send(Message::binary(attachment.to_vec())).await?;
        }
        let rejected = socket.text().await?;
        ensure!(rejected.starts_with(answer) && rejected.contains("invalid_request"), "{packet}: {rejected}");
        socket.lives().await?;
    }
    Ok(())
}

async fn unknown_packet_type_closes(edge: Edge) -> Result<()> {
    let mut socket = edge.connected_socket().await?;
    socket.send("4abc").await?;
    socket.closed(SOON).await
}

/// The suites demand a close. The edge answers requests that it does not understand with an error on both transports,
/// and goes on: a mistake in one request does not cost a bidder its connection.
async fn malformed_events_are_answered_by_an_error(edge: Edge) -> Result<()> {
    for (packet, answer) in [
        ("42{}", r#"42["error","#),
        (r#"42abc["ping",{}]"#, r#"42["error","#),
        (r#"4212["ping""#, "4312["),
        ("42[5]", r#"42["error","#),
    ] {
        let mut socket = edge.connected_socket().await?;
        socket.send(packet).await?;
        let rejected = socket.text().await?;
        ensure!(rejected.starts_with(answer) && rejected.contains("invalid_request"), "{packet}: {rejected}");
        socket.lives().await?;
    }
    Ok(())
}
