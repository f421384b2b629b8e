//! RFC 6455 against `/ws`, with the kinds of cases of Autobahn's suite: valid frames are answered, violations are
//! closed with their code, and other connections are not affected.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::MaybeTlsStream;

use crate::test_system::TestSystem;

const TIMEOUT: Duration = Duration::from_secs(15);
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;

/// A masked frame as a client sends it. `head` holds FIN, reserved bits and opcode.
fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![head];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | u8::try_from(len).unwrap_or_default()),
        len @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(len).unwrap_or_default().to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    let mask = [1, 2, 3, 4];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A WebSocket connection that sends any bytes.
pub struct Raw(MaybeTlsStream<TcpStream>);

impl Raw {
    /// Connects with a token and reads `connected`.
    pub async fn connect(system: &TestSystem) -> Result<Self> {
        let edge = system.stack.url(Name::Websocket);
        let (address, mut stream) = (tls::authority_of(edge), tls::connect(edge).await?);
        let request = format!(
            "GET /ws?token={} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            system.token("anna")?
        );
        stream.write_all(request.as_bytes()).await?;
        let mut reply = Vec::new();
        while !reply.ends_with(b"\r\n\r\n") {
            reply.push(timeout(TIMEOUT, stream.read_u8()).await??);
        }
        let reply = String::from_utf8(reply)?;
        ensure!(reply.starts_with("HTTP/1.1 101"), "{reply}");
        // The key's answer in RFC 6455, 1.3.
        ensure!(reply.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{reply}");
        let mut raw = Self(stream);
        ensure!(raw.event().await? == "connected");
        Ok(raw)
    }

    /// The next frame: its opcode and payload. None when the stream has ended.
    async fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let Ok(head) = timeout(TIMEOUT, self.0.read_u8()).await.context("no frame came")? else { return Ok(None) };
        ensure!(head & 0x70 == 0 && head & FIN != 0, "the server sends whole frames without extensions");
        let len = match self.0.read_u8().await? {
            126 => u64::from(self.0.read_u16().await?),
            127 => self.0.read_u64().await?,
            len => u64::from(len),
        };
        let mut payload = vec![0; usize::try_from(len)?];
        self.0.read_exact(&mut payload).await?;
        Ok(Some((head & 0x0f, payload)))
    }

    /// Reads without answering until the server ends the connection.
    #[cfg(feature = "long")]
    pub async fn listen_only(mut self) -> Result<()> {
        let mut bytes = [0; 1024];
        while self.0.read(&mut bytes).await? > 0 {}
        Ok(())
    }

    /// The name of the next event.
    async fn event(&mut self) -> Result<String> {
        let (opcode, payload) = self.next().await?.context("the connection ended")?;
        ensure!(opcode == TEXT, "opcode {opcode}: {payload:?}");
        Ok(serde_json::from_slice::<Value>(&payload)?["event"].as_str().unwrap_or_default().to_owned())
    }
}

/// The expected result of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// This event, and the connection stays open.
    Event(&'static str),
    /// A pong with this payload first, then this event.
    Pong(&'static [u8], &'static str),
    /// Closed with this code, and the stream ends.
    Closed(u16),
}

fn cases() -> Vec<(&'static str, Vec<u8>, Expected)> {
    let request = r#"{"event":"ping","data":{"note":"é"}}"#.as_bytes();
    let accent = request.iter().position(|byte| *byte == 0xc3).unwrap_or_default();
    let join = |frames: &[Vec<u8>]| frames.concat();
    let close = |code: u16| [&code.to_be_bytes()[..], b"bye"].concat();
    let big = vec![b' '; 64 * 1024 + 1];
    let piece = vec![b' '; 16 * 1024];
    let mut huge = vec![FIN | TEXT, 0x80 | 127];
    huge.extend(u64::MAX.to_be_bytes());
    huge.extend([0; 4]);
    let pong = Expected::Event("pong");
    vec![
        ("one frame", frame(FIN | TEXT, request), pong),
        ("two messages in one write", join(&[frame(FIN | TEXT, request), frame(FIN | TEXT, request)]), pong),
        (
            "fragments, within a character, empty ones between",
            join(&[
                frame(TEXT, &request[..=accent]),
                frame(CONTINUATION, b""),
                frame(CONTINUATION, &request[accent + 1..accent + 3]),
                frame(FIN | CONTINUATION, &request[accent + 3..]),
            ]),
            pong,
        ),
        (
            "a ping between fragments",
            join(&[frame(TEXT, &request[..5]), frame(FIN | PING, b"hey"), frame(FIN | CONTINUATION, &request[5..])]),
            Expected::Pong(b"hey", "pong"),
        ),
        ("an unsolicited pong", join(&[frame(FIN | PONG, b"x"), frame(FIN | TEXT, request)]), pong),
        ("binary", frame(FIN | BINARY, b"\x00\x01"), Expected::Event("error")),
        ("an empty text", frame(FIN | TEXT, b""), Expected::Event("error")),
        ("unmasked", [&[FIN | TEXT, 2][..], b"{}"].concat(), Expected::Closed(1002)),
        ("not UTF-8", frame(FIN | TEXT, b"\xff\xfe"), Expected::Closed(1007)),
        (
            "not UTF-8 over two fragments",
            join(&[frame(TEXT, b"{\xc3"), frame(FIN | CONTINUATION, b"{}")]),
            Expected::Closed(1007),
        ),
        ("a reserved bit", frame(FIN | 0x40 | TEXT, request), Expected::Closed(1002)),
        ("a reserved opcode", frame(FIN | 3, b""), Expected::Closed(1002)),
        ("a reserved control opcode", frame(FIN | 11, b""), Expected::Closed(1002)),
        ("a fragmented ping", frame(PING, b"x"), Expected::Closed(1002)),
        ("a ping of 126 bytes", frame(FIN | PING, &[b'x'; 126]), Expected::Closed(1002)),
        ("a continuation of nothing", frame(FIN | CONTINUATION, b"x"), Expected::Closed(1002)),
        ("a text within a text", join(&[frame(TEXT, b"{"), frame(FIN | TEXT, b"{}")]), Expected::Closed(1002)),
        ("larger than a body may be", frame(FIN | TEXT, &big), Expected::Closed(1009)),
        (
            "larger in fragments",
            join(&[frame(TEXT, &piece), join(&vec![frame(CONTINUATION, &piece); 4])]),
            Expected::Closed(1009),
        ),
        ("an impossible length", huge, Expected::Closed(1009)),
        ("a close", frame(FIN | CLOSE, &close(1000)), Expected::Closed(1000)),
        ("a close without a code", frame(FIN | CLOSE, b""), Expected::Closed(1005)),
        ("a close of one byte", frame(FIN | CLOSE, b"x"), Expected::Closed(1002)),
        ("a close that is not UTF-8", frame(FIN | CLOSE, b"\x03\xe8\xff"), Expected::Closed(1007)),
    ]
}

async fn check(system: &TestSystem, name: &str, bytes: &[u8], expected: Expected, byte_by_byte: bool) -> Result<()> {
    let mut raw = Raw::connect(system).await?;
    if byte_by_byte {
        for byte in bytes {
            raw.0.write_all(&[*byte]).await?;
        }
    } else {
        raw.0.write_all(bytes).await?;
    }
    // With TLS a write may only reach the buffer.
    raw.0.flush().await?;
    if let Expected::Pong(payload, _) = expected {
        ensure!(raw.next().await? == Some((PONG, payload.to_vec())), "{name}: no pong");
    }
    match expected {
        Expected::Event(event) | Expected::Pong(_, event) => {
            ensure!(raw.event().await? == event, "{name}");
            // The connection is still open.
            raw.0.write_all(&frame(FIN | PING, b"alive")).await?;
            while raw.next().await?.with_context(|| format!("{name}: the connection ended"))?
                != (PONG, b"alive".to_vec())
            {}
        }
        Expected::Closed(code) => {
            let (opcode, payload) = raw.next().await?.with_context(|| format!("{name}: no close"))?;
            let found = match payload.first_chunk() {
                Some(code) => u16::from_be_bytes(*code),
                None => 1005,
            };
            ensure!((opcode, found) == (CLOSE, code), "{name}: {opcode} {found}");
            // After the client's close frame the server sends nothing more.
            drop(raw.0.write_all(&frame(FIN | CLOSE, &payload)).await);
            ensure!(raw.next().await?.is_none(), "{name}: something follows the close");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc6455_violations_are_closed_with_their_code() -> Result<()> {
    let system = TestSystem::start("framing").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    let mut watcher = system.socket("watcher").await?;
    watcher.ask("join_auction", json!({"auction_id": id})).await?;
    let mut wrong = Vec::new();
    for (name, bytes, expected) in cases() {
        for byte_by_byte in [false, true] {
            // Sending a long message byte by byte covers no more than a short one.
            if byte_by_byte && bytes.len() > 1_000 {
                continue;
            }
            if let Err(error) = check(&system, name, &bytes, expected, byte_by_byte).await {
                wrong.push(format!("{name} (byte by byte: {byte_by_byte}): {error:#}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.status, 200);
    watcher.event("bid_update").await?;
    system.end().await;
    Ok(())
}

/// After a violation the client is read for a moment more: otherwise the kernel would reset the connection, and the close
/// could be lost on its way.
#[tokio::test(flavor = "multi_thread")]
async fn violating_client_may_go_on_sending_while_it_is_closed() -> Result<()> {
    const RESERVED: u8 = 0x3;
    let system = TestSystem::start("violating").await?;
    let mut raw = Raw::connect(&system).await?;
    raw.0.write_all(&frame(FIN | RESERVED, b"")).await?;
    let (opcode, payload) = raw.next().await?.context("no close")?;
    assert_eq!((opcode, payload.get(..2)), (CLOSE, Some(&1002u16.to_be_bytes()[..])));
    for _ in 0..3 {
        raw.0.write_all(&[0; 1024]).await?;
        raw.0.flush().await?;
    }
    ensure!(raw.next().await?.is_none(), "something follows the close");
    system.end().await;
    Ok(())
}

/// A handshake that never completes is ended by the server and does not block other clients.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_handshake_times_out() -> Result<()> {
    let system = TestSystem::start("loris").await?;
    let edge = system.stack.url(Name::Websocket);
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = tls::connect(edge).await?;
        stream.write_all(b"GET /ws HTTP/1.1\r\nHost: x\r\nX-Slow: ").await?;
        slow.push(stream);
    }
    system.socket("anna").await?;
    for mut stream in slow {
        let mut rest = Vec::new();
        // The connection ends, by a close or by a reset.
        drop(timeout(TIMEOUT, stream.read_to_end(&mut rest)).await.context("still open")?);
    }
    system.end().await;
    Ok(())
}
