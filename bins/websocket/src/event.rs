//! Events as they are sent. The data of an event is serialised once, and framed once for each transport, however many
//! connections receive it.

use std::sync::OnceLock;

use bytes::Bytes;
use protocol::Failure;
use protocol::frames::encode;
use protocol::socketio::{acknowledgement_message, event_message};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::transport::framing::{Transport, framed};

/// One event, for any number of receivers.
#[derive(Debug)]
pub struct Event {
    name: &'static str,
    data: Box<RawValue>,
    plain: OnceLock<Bytes>,
    socketio: OnceLock<Bytes>,
}

impl Event {
    /// Serialises the data; the frames are made when the first connection needs them.
    pub fn new(name: &'static str, data: impl Serialize) -> Self {
        // Data are plain structs with string keys: this cannot fail.
        let data = to_raw_value(&data).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Self { name, data, plain: OnceLock::new(), socketio: OnceLock::new() }
    }

    /// The WebSocket frame of the event, made for its first receiver on this transport.
    pub fn frame(&self, transport: Transport) -> &Bytes {
        match transport {
            Transport::Plain => self.plain.get_or_init(|| framed(&encode(self.name, &self.data, None))),
            Transport::SocketIo => self.socketio.get_or_init(|| framed(&event_message(self.name, &self.data))),
        }
    }
}

/// The request that an event answers.
#[derive(Debug, Clone, Default)]
pub enum ReplyTo {
    /// None, or a request without an id.
    #[default]
    Nothing,
    /// A plain request with this id, which is repeated byte for byte.
    Id(Box<RawValue>),
    /// A Socket.IO packet that asks for this acknowledgement.
    Acknowledge(u64),
}

/// An event for one connection alone.
#[derive(Debug)]
pub struct Outgoing {
    event: Event,
    reply_to: ReplyTo,
}

impl Outgoing {
    /// An event with data, as the answer to a request if there is one.
    pub fn answer(name: &'static str, data: impl Serialize, reply_to: ReplyTo) -> Self {
        Self { event: Event::new(name, data), reply_to }
    }

    /// The answer to a request that is not understood or not allowed.
    pub fn error(failure: &Failure, reply_to: ReplyTo) -> Self {
        Self::answer("error", failure, reply_to)
    }

    /// The WebSocket frame of the event.
    pub fn frame(&self, transport: Transport) -> Bytes {
        match &self.reply_to {
            ReplyTo::Nothing => self.event.frame(transport).clone(),
            ReplyTo::Id(id) => framed(&encode(self.event.name, &self.event.data, Some(id))),
            ReplyTo::Acknowledge(number) => framed(&acknowledgement_message(*number, &self.event.data)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::framing::text_in;

    #[test]
    fn each_transport_has_its_spelling() {
        let id = RawValue::from_string("7".to_owned()).unwrap();
        let cases = [
            (Transport::Plain, ReplyTo::Nothing, r#"{"event":"pong","data":{"timestamp":1}}"#),
            (Transport::Plain, ReplyTo::Id(id), r#"{"event":"pong","data":{"timestamp":1},"id":7}"#),
            (Transport::SocketIo, ReplyTo::Nothing, r#"42["pong",{"timestamp":1}]"#),
            (Transport::SocketIo, ReplyTo::Acknowledge(12), r#"4312[{"timestamp":1}]"#),
        ];
        for (transport, reply_to, text) in cases {
            let outgoing = Outgoing::answer("pong", serde_json::json!({"timestamp": 1}), reply_to);
            assert_eq!(text_in(&outgoing.frame(transport)), text);
        }
    }
}
