//! AsyncAPI 3.0.

use serde_json::{Map, Value, json};

use super::document::{reference, referenced, text};
use crate::api::Event;

/// The AsyncAPI document of the WebSocket edge, as text: frames from clients and frames from the server.
///
/// # Panics
/// If an event names a schema that does not exist.
#[must_use]
pub fn asyncapi(name: &str, client: &[Event], server: &[Event]) -> String {
    let both = || client.iter().map(|event| ("client", event)).chain(server.iter().map(|event| ("server", event)));
    let messages: Map<String, Value> = both().map(|(side, event)| (key(side, event), message(event))).collect();
    let schemas = referenced(&json!(messages));
    let channel: Map<String, Value> = both()
        .map(|(side, event)| {
            let key = key(side, event);
            let target = json!({ "$ref": format!("#/components/messages/{key}") });
            (key, target)
        })
        .collect();
    let operation = |action: &str, side: &str, events: &[Event]| {
        let messages: Vec<Value> = events
            .iter()
            .map(|event| json!({ "$ref": format!("#/channels/edge/messages/{}", key(side, event)) }))
            .collect();
        json!({ "action": action, "channel": { "$ref": "#/channels/edge" }, "messages": messages })
    };
    text(&json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": name,
            "version": "1",
            "description": "The edge's vocabulary. Plain WebSocket at /ws: text frames {event, data, id?}. Socket.IO v4 at \
                /socket.io/: the same events and data; an acknowledgement gets the answer's data.",
            "license": { "name": "MIT" },
        },
        "channels": { "edge": { "address": "/ws", "messages": channel } },
        "operations": {
            "request": operation("receive", "client", client),
            "notify": operation("send", "server", server),
        },
        "components": { "messages": messages, "schemas": schemas },
    }))
}

fn key(side: &str, event: &Event) -> String {
    format!("{side}.{}", event.name)
}

fn message(event: &Event) -> Value {
    let mut message = json!({
        "name": event.name,
        "payload": {
            "type": "object",
            "required": ["event", "data"],
            "properties": {
                "event": { "const": event.name },
                "data": reference(event.data),
                "id": { "description": "The request's id, repeated as it came" },
            },
        },
    });
    if !event.summary.is_empty() {
        message["summary"] = event.summary.into();
    }
    message
}
