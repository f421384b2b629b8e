//! Frames as the load reads them. It shares the processors with the services, so it parses what it needs and no more.

use anyhow::{Context, Result};
use domain::Amount;
use protocol::socketio::{EnginePacket, SocketPacket};
use serde::Deserialize;
use serde_json::value::RawValue;
use testkit::socket::Transport;

/// A frame of the edge.
#[derive(Debug, Deserialize)]
pub struct Frame<'a> {
    /// None for an acknowledgement of Socket.IO.
    event: Option<&'a str>,
    /// The number of the request that it answers.
    pub id: Option<u64>,
    #[serde(borrow)]
    pub data: Data<'a>,
}

/// The fields of answers to bids and of updates that the load looks at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Data<'a> {
    pub seq: Option<u64>,
    #[serde(borrow)]
    minimum_bid: Option<&'a RawValue>,
    is_highest: bool,
    you_are_winning: bool,
    status: Option<&'a str>,
    code: Option<&'a str>,
}

impl<'a> Frame<'a> {
    /// The frame in a text. None for packets that carry no event.
    pub fn parse(transport: Transport, text: &'a str) -> Result<Option<Self>> {
        if transport == Transport::Plain {
            return Ok(Some(serde_json::from_str(text)?));
        }
        let Some(EnginePacket::Message(packet)) = EnginePacket::decode(text) else { return Ok(None) };
        let (_, packet) = SocketPacket::decode(packet).with_context(|| format!("not a packet: {text}"))?;
        Ok(match packet {
            SocketPacket::Event { list, .. } => {
                let (event, data) = serde_json::from_str(list)?;
                Some(Self { event: Some(event), id: None, data })
            }
            SocketPacket::Acknowledgement { number, list } => {
                let (data,) = serde_json::from_str(list)?;
                Some(Self { event: None, id: number, data })
            }
            _ => None,
        })
    }

    /// Whether an event by this name.
    pub fn is(&self, event: &str) -> bool {
        self.event == Some(event)
    }
}

impl Data<'_> {
    /// The least amount of the next bid, in cents.
    pub fn minimum_cents(&self) -> Option<u64> {
        Some(Amount::parse(self.minimum_bid?.get()).ok()?.cents())
    }

    /// Whether the person leads, as far as this frame has it.
    pub fn leads(&self) -> bool {
        self.is_highest || self.you_are_winning || self.code == Some("already_leading")
    }

    /// `accepted`, or the code of the rejection.
    pub fn code(&self) -> &str {
        if self.status == Some("accepted") { "accepted" } else { self.code.unwrap_or("unreadable") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_updates_are_read_on_both_transports() {
        let data = r#"{"status":"rejected","code":"bid_too_low","seq":7,"minimum_bid":2.50,"other":[{"seq":1}]}"#;
        for (transport, text) in [
            (Transport::Plain, format!(r#"{{"event":"bid_result","data":{data},"id":3}}"#)),
            (Transport::SocketIo, format!("433[{data}]")),
        ] {
            let frame = Frame::parse(transport, &text).expect("a frame").expect("an event");
            let read = (frame.id, frame.data.seq, frame.data.minimum_cents(), frame.data.code(), frame.data.leads());
            assert_eq!(read, (Some(3), Some(7), Some(250), "bid_too_low", false), "{text}");
        }
        for (transport, text) in [
            (Transport::Plain, r#"{"event":"bid_update","data":{"you_are_winning":true}}"#),
            (Transport::SocketIo, r#"42["bid_update",{"you_are_winning":true}]"#),
        ] {
            let frame = Frame::parse(transport, text).expect("a frame").expect("an event");
            assert!(
                frame.is("bid_update") && !frame.is("outbid") && frame.id.is_none() && frame.data.leads(),
                "{text}"
            );
        }
        assert!(Frame::parse(Transport::SocketIo, "2").expect("a packet").is_none());
    }

    #[test]
    fn accepted_bid_leads_if_it_is_the_highest() {
        let leads = |text: &str| {
            let data: Data<'_> = serde_json::from_str(text).expect("data");
            (data.code().to_owned(), data.leads())
        };
        assert_eq!(leads(r#"{"status":"accepted","is_highest":true}"#), ("accepted".to_owned(), true));
        assert_eq!(leads(r#"{"status":"accepted","is_highest":false}"#), ("accepted".to_owned(), false));
        assert_eq!(leads(r#"{"status":"rejected","code":"already_leading"}"#), ("already_leading".to_owned(), true));
        assert_eq!(leads("{}"), ("unreadable".to_owned(), false));
    }
}
