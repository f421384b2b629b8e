//! Packets of Engine.IO 4 and of Socket.IO 5, encoded and decoded side by side: the only place that spells them.
//!
//! <https://socket.io/docs/v4/engine-io-protocol/>, <https://socket.io/docs/v4/socket-io-protocol/>.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Between the packets of one polling body.
pub const SEPARATOR: char = '\u{1e}';

/// One packet of Engine.IO, the session below Socket.IO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnginePacket<'a> {
    /// The handshake: JSON with the session's id, its upgrades and its timeouts. Sent by the server only.
    Open(&'a str),
    /// The end of the session.
    Close,
    /// A heartbeat of the server, or the probe of an upgrade.
    Ping(&'a str),
    /// The answer to a ping, with its payload.
    Pong(&'a str),
    /// A Socket.IO packet.
    Message(&'a str),
    /// The WebSocket replaces polling from now on.
    Upgrade,
    /// Nothing. Ends a poll.
    Noop,
    /// An attachment of a binary event in base64, as a client that polls sends it.
    Binary(&'a str),
}

impl<'a> EnginePacket<'a> {
    /// The text of the packet.
    #[must_use]
    pub fn encode(&self) -> String {
        match self {
            Self::Open(handshake) => format!("0{handshake}"),
            Self::Close => "1".to_owned(),
            Self::Ping(payload) => format!("2{payload}"),
            Self::Pong(payload) => format!("3{payload}"),
            Self::Message(packet) => format!("4{packet}"),
            Self::Upgrade => "5".to_owned(),
            Self::Noop => "6".to_owned(),
            Self::Binary(base64) => format!("b{base64}"),
        }
    }

    /// The packet in a text. None if Engine.IO knows no such packet.
    #[must_use]
    pub fn decode(text: &'a str) -> Option<Self> {
        let mut rest = text.chars();
        let kind = rest.next()?;
        let rest = rest.as_str();
        Some(match kind {
            '0' => Self::Open(rest),
            '1' => Self::Close,
            '2' => Self::Ping(rest),
            '3' => Self::Pong(rest),
            '4' => Self::Message(rest),
            '5' => Self::Upgrade,
            '6' => Self::Noop,
            'b' => Self::Binary(rest),
            _ => return None,
        })
    }
}

/// One packet of Socket.IO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketPacket<'a> {
    /// Connects to a namespace. Client: the credentials, or empty. Server: the id of the connection.
    Connect(&'a str),
    /// Leaves a namespace.
    Disconnect,
    /// An event: its name and its arguments.
    Event {
        /// The id of the acknowledgement that the sender asks for.
        number: Option<u64>,
        /// A JSON array: the name of the event and its arguments.
        list: &'a str,
    },
    /// The answer to an event that asked for one.
    Acknowledgement {
        /// The id that the event carried.
        number: Option<u64>,
        /// A JSON array: the arguments of the answer.
        list: &'a str,
    },
    /// The server rejects a connect, with an object that says why.
    ConnectError(&'a str),
    /// An event with binary attachments, which follow it.
    BinaryEvent {
        /// Number of attachments.
        attachments: u32,
        /// The id of the acknowledgement that the sender asks for.
        number: Option<u64>,
        /// A JSON array: the name of the event and its arguments.
        list: &'a str,
    },
    /// An acknowledgement with binary attachments, which follow it.
    BinaryAcknowledgement {
        /// Number of attachments.
        attachments: u32,
        /// The id that the event carried.
        number: Option<u64>,
        /// A JSON array: the arguments of the answer.
        list: &'a str,
    },
}

impl<'a> SocketPacket<'a> {
    /// The text of the packet in a namespace.
    #[must_use]
    pub fn encode(&self, namespace: &str) -> String {
        let (kind, attachments, number, data) = match *self {
            Self::Connect(data) => ('0', None, None, data),
            Self::Disconnect => ('1', None, None, ""),
            Self::Event { number, list } => ('2', None, number, list),
            Self::Acknowledgement { number, list } => ('3', None, number, list),
            Self::ConnectError(data) => ('4', None, None, data),
            Self::BinaryEvent { attachments, number, list } => ('5', Some(attachments), number, list),
            Self::BinaryAcknowledgement { attachments, number, list } => ('6', Some(attachments), number, list),
        };
        let attachments = attachments.map_or_else(String::new, |count| format!("{count}-"));
        let namespace = if namespace == "/" { String::new() } else { format!("{namespace},") };
        let number = number.map_or_else(String::new, |number| number.to_string());
        format!("{kind}{attachments}{namespace}{number}{data}")
    }

    /// The text of the Engine.IO message that carries the packet in a namespace.
    #[must_use]
    pub fn message(&self, namespace: &str) -> String {
        EnginePacket::Message(&self.encode(namespace)).encode()
    }

    /// The namespace and the packet in a text. None if Socket.IO knows no such packet.
    #[must_use]
    pub fn decode(text: &'a str) -> Option<(&'a str, Self)> {
        let kind = text.chars().next().filter(|kind| ('0'..='6').contains(kind))?;
        let mut rest = &text[1..];
        let mut attachments = 0;
        if matches!(kind, '5' | '6') {
            let (count, after) = rest.split_once('-')?;
            attachments = count.parse().ok()?;
            rest = after;
        }
        let mut namespace = "/";
        if rest.starts_with('/') {
            (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
        }
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, data) = rest.split_at(digits);
        let number = if number.is_empty() { None } else { Some(number.parse().ok()?) };
        let packet = match kind {
            '0' => Self::Connect(data),
            '1' => Self::Disconnect,
            '2' => Self::Event { number, list: data },
            '3' => Self::Acknowledgement { number, list: data },
            '4' => Self::ConnectError(data),
            '5' => Self::BinaryEvent { attachments, number, list: data },
            _ => Self::BinaryAcknowledgement { attachments, number, list: data },
        };
        Some((namespace, packet))
    }
}

/// The message with one event of the server, in the namespace `/`. Formatted at once instead of packet by packet: one
/// allocation for an event, however many connections receive it.
#[must_use]
pub fn event_message(event: &str, data: &RawValue) -> String {
    // Event names are plain words, so they need no escaping.
    format!("42[\"{event}\",{}]", data.get())
}

/// The message with the acknowledgement that a client requested under this number. Formatted at once, because every bid
/// over Socket.IO is answered with one.
#[must_use]
pub fn acknowledgement_message(number: u64, data: &RawValue) -> String {
    format!("43{number}[{}]", data.get())
}

/// Name and data of the list `["name", data, …]` of an event. The data keeps its text: amounts are read from it, and
/// parsed JSON would have made a float of `1e3` or `1.001`.
#[must_use]
pub fn name_and_data(list: &str) -> Option<(String, &str)> {
    #[derive(Deserialize)]
    struct List<'a>(#[serde(borrow)] Vec<&'a RawValue>);
    let List(parts) = serde_json::from_str(list).ok()?;
    let name = serde_json::from_str(parts.first()?.get()).ok()?;
    Some((name, parts.get(1).map_or("{}", |data| data.get())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_packets_are_encoded_and_decoded() {
        for (text, packet) in [
            (r#"0{"sid":"x"}"#, EnginePacket::Open(r#"{"sid":"x"}"#)),
            ("1", EnginePacket::Close),
            ("2", EnginePacket::Ping("")),
            ("2probe", EnginePacket::Ping("probe")),
            ("3probe", EnginePacket::Pong("probe")),
            (r#"42["ping"]"#, EnginePacket::Message(r#"2["ping"]"#)),
            ("5", EnginePacket::Upgrade),
            ("6", EnginePacket::Noop),
            ("bAQID", EnginePacket::Binary("AQID")),
        ] {
            assert_eq!(EnginePacket::decode(text), Some(packet), "{text}");
            assert_eq!(packet.encode(), text);
        }
        for bad in ["", "7", "x", "é"] {
            assert_eq!(EnginePacket::decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn socket_packets_are_encoded_and_decoded() {
        use SocketPacket::{
            Acknowledgement, BinaryAcknowledgement, BinaryEvent, Connect, ConnectError, Disconnect, Event,
        };
        for (text, namespace, packet) in [
            ("0", "/", Connect("")),
            (r#"0{"token":"t"}"#, "/", Connect(r#"{"token":"t"}"#)),
            ("0/admin,", "/admin", Connect("")),
            ("1/admin,", "/admin", Disconnect),
            (r#"2["ping"]"#, "/", Event { number: None, list: r#"["ping"]"# }),
            (r#"212["ping",{}]"#, "/", Event { number: Some(12), list: r#"["ping",{}]"# }),
            ("37[1]", "/", Acknowledgement { number: Some(7), list: "[1]" }),
            (r#"4/x,{"message":"m"}"#, "/x", ConnectError(r#"{"message":"m"}"#)),
            (r#"51-7["x",{}]"#, "/", BinaryEvent { attachments: 1, number: Some(7), list: r#"["x",{}]"# }),
            ("62-/a,7[]", "/a", BinaryAcknowledgement { attachments: 2, number: Some(7), list: "[]" }),
        ] {
            assert_eq!(SocketPacket::decode(text), Some((namespace, packet)), "{text}");
            assert_eq!(packet.encode(namespace), text);
        }
        assert_eq!(
            SocketPacket::decode("1/admin"),
            Some(("/admin", Disconnect)),
            "the comma may be missing at the end"
        );
        for bad in ["", "7", "x", "é", "5[]", "5x-[]", "299999999999999999999999[]"] {
            assert_eq!(SocketPacket::decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn server_messages_are_spelled_like_packets() {
        let data = RawValue::from_string(r#"{"a":1}"#.to_owned()).unwrap();
        let event = SocketPacket::Event { number: None, list: r#"["pong",{"a":1}]"# };
        let acknowledgement = SocketPacket::Acknowledgement { number: Some(12), list: r#"[{"a":1}]"# };
        for (text, packet, expected) in [
            (event_message("pong", &data), event, r#"42["pong",{"a":1}]"#),
            (acknowledgement_message(12, &data), acknowledgement, r#"4312[{"a":1}]"#),
        ] {
            assert_eq!(text, expected);
            assert_eq!(packet.message("/"), expected);
        }
    }

    #[test]
    fn event_data_keeps_its_text() {
        let check = |list: &str, expected: Option<(&str, &str)>| {
            let read = name_and_data(list);
            assert_eq!(read.as_ref().map(|(name, data)| (name.as_str(), *data)), expected, "{list}");
        };
        check(r#"["place_bid",{"amount":1e3}]"#, Some(("place_bid", r#"{"amount":1e3}"#)));
        check(r#"["ping"]"#, Some(("ping", "{}")));
        for bad in ["", "[]", "{}", "[5]", r#"["a""#, r#"{"a":1}"#] {
            check(bad, None);
        }
    }
}
