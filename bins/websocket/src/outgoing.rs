//! What is sent. An event's data is written once, and framed once a door, however many receive it.

use std::sync::OnceLock;

use bytes::Bytes;
use protocol::Failure;
use protocol::frames::{acknowledgement, encode, packet};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

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
    plain: OnceLock<Bytes>,
    socketio: OnceLock<Bytes>,
}

/// One whole, unmasked text frame (RFC 6455, 5.2): the same bytes for every receiver.
pub fn framed(text: &str) -> Bytes {
    const FIN_AND_TEXT: u8 = 0x81;
    let length = text.len();
    let mut frame = Vec::with_capacity(10 + length);
    frame.push(FIN_AND_TEXT);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..126), _) => frame.push(short),
        (_, Ok(medium)) => {
            frame.push(126);
            frame.extend(medium.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(text.as_bytes());
    frame.into()
}

/// The text in a frame that was made by [`framed`].
pub fn text_in(frame: &[u8]) -> &str {
    let head = match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    };
    frame.get(head..).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
}

impl Event {
    pub fn new(name: &'static str, data: impl Serialize) -> Self {
        // Data are plain structs with string keys: this cannot fail.
        let data = to_raw_value(&data).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Self { name, data, plain: OnceLock::new(), socketio: OnceLock::new() }
    }

    /// The WebSocket frame that carries it, made for the first who gets it.
    pub fn frame(&self, door: Door) -> &Bytes {
        match door {
            Door::Plain => self.plain.get_or_init(|| framed(&encode(self.name, &self.data, None))),
            Door::SocketIo => self.socketio.get_or_init(|| framed(&packet(self.name, &self.data))),
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

/// An event for one connection alone.
#[derive(Debug)]
pub struct Outgoing {
    event: Event,
    to: To,
}

impl Outgoing {
    pub fn answer(name: &'static str, data: impl Serialize, to: To) -> Self {
        Self { event: Event::new(name, data), to }
    }

    /// The answer to what could not be understood or allowed.
    pub fn error(failure: &Failure, to: To) -> Self {
        Self::answer("error", failure, to)
    }

    /// The WebSocket frame that carries it.
    pub fn frame(&self, door: Door) -> Bytes {
        match &self.to {
            To::Anybody => self.event.frame(door).clone(),
            To::Id(id) => framed(&encode(self.event.name, &self.event.data, Some(id))),
            To::Acknowledge(number) => framed(&acknowledgement(*number, &self.event.data)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_name_their_length() {
        for (length, head) in [
            (0, &[0x81, 0][..]),
            (125, &[0x81, 125]),
            (126, &[0x81, 126, 0, 126]),
            (65_535, &[0x81, 126, 255, 255]),
            (65_536, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let text = "x".repeat(length);
            let frame = framed(&text);
            assert_eq!(frame, [head, text.as_bytes()].concat());
            assert_eq!(text_in(&frame), text);
        }
    }

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
            assert_eq!(text_in(&outgoing.frame(door)), text);
        }
    }
}
