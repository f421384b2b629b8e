//! What is sent. An event's data is written once, and framed once a door, however many receive it.

use std::sync::{Arc, OnceLock};

use protocol::Failure;
use protocol::frames::{acknowledgement, encode, packet};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// Which of the two doors a connection came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `/ws`: `{"event","data","id"?}`.
    Plain,
    /// `/socket.io/`: `42["event",data]`.
    SocketIo,
}

/// One event, for any number of receivers.
#[derive(Debug)]
pub struct Event {
    name: &'static str,
    data: Box<RawValue>,
    frame: OnceLock<Utf8Bytes>,
    packet: OnceLock<Utf8Bytes>,
}

impl Event {
    pub fn new(name: &'static str, data: impl Serialize) -> Arc<Self> {
        // Data are plain structs with string keys: this cannot fail.
        let data = to_raw_value(&data).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Arc::new(Self { name, data, frame: OnceLock::new(), packet: OnceLock::new() })
    }

    fn text(&self, door: Door) -> Utf8Bytes {
        match door {
            Door::Plain => self.frame.get_or_init(|| encode(self.name, &self.data, None).into()).clone(),
            Door::SocketIo => self.packet.get_or_init(|| packet(self.name, &self.data).into()).clone(),
        }
    }
}

/// Whose request an event answers.
#[derive(Debug, Clone, Default)]
pub enum To {
    /// Nobody's, or one that had no id.
    #[default]
    Anybody,
    /// A plain request with this id, repeated as it came.
    Id(Box<RawValue>),
    /// A Socket.IO packet that wants this acknowledgement.
    Acknowledge(u64),
}

/// An event on its way to one connection.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub event: Arc<Event>,
    pub to: To,
}

impl Outgoing {
    pub fn answer(name: &'static str, data: impl Serialize, to: To) -> Self {
        Self { event: Event::new(name, data), to }
    }

    /// The answer to what could not be understood or allowed.
    pub fn error(failure: &Failure, to: To) -> Self {
        Self::answer("error", failure, to)
    }

    pub fn text(&self, door: Door) -> Utf8Bytes {
        match &self.to {
            To::Anybody => self.event.text(door),
            To::Id(id) => encode(self.event.name, &self.event.data, Some(id)).into(),
            To::Acknowledge(number) => acknowledgement(*number, &self.event.data).into(),
        }
    }
}

impl From<Arc<Event>> for Outgoing {
    fn from(event: Arc<Event>) -> Self {
        Self { event, to: To::Anybody }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_door_has_its_spelling() {
        let id = RawValue::from_string("7".to_owned()).unwrap();
        let cases = [
            (Door::Plain, To::Anybody, r#"{"event":"pong","data":{"timestamp":1}}"#),
            (Door::Plain, To::Id(id), r#"{"event":"pong","data":{"timestamp":1},"id":7}"#),
            (Door::SocketIo, To::Anybody, r#"42["pong",{"timestamp":1}]"#),
            (Door::SocketIo, To::Acknowledge(12), r#"4312[{"timestamp":1}]"#),
        ];
        for (door, to, text) in cases {
            let outgoing = Outgoing::answer("pong", serde_json::json!({"timestamp": 1}), to);
            assert_eq!(outgoing.text(door).as_str(), text);
        }
    }
}
