//! WebSocket frames as the server sends them, and the two transports that carry them.

use bytes::Bytes;

/// The transport of a connection. It decides how an event is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `/ws`: `{"event","data","id"?}`.
    Plain,
    /// `/socket.io/`: `42["event",data]`.
    SocketIo,
}

/// A ping without payload.
pub static PING: Bytes = Bytes::from_static(&[0x89, 0]);

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

/// The text in a frame made by [`framed`].
pub fn text_in(frame: &[u8]) -> &str {
    let head = match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    };
    frame.get(head..).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_header_carries_the_length() {
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
}
