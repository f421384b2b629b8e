//! The cases of Autobahn's WebSocket suite that apply, against a small echo server made of this folder's code: the same
//! socket, framing, send queue and close as the edge's connections.
//!
//! Left out: 9 (performance limits), 12 and 13 (compression, which the edge does not offer). Two things differ from the
//! suite's echo server. The edge sends no binary frames, so that a binary message is answered by a text that counts its
//! bytes. And messages are bounded at 64 KiB, so that the suite's larger ones are closed with 1009.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::transport::framing::Transport;
use crate::transport::send_queue::SendQueue;
use crate::transport::socket::{self, End};

/// Time for one case. Only a server that hangs needs as long.
const CASE_WITHIN: Duration = Duration::from_secs(20);

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;

/// Echoes texts through the send queue until the connection ends.
async fn echo(stream: TcpStream) {
    let mut socket = socket::open(stream.into(), Vec::new()).await;
    let queue = Arc::new(SendQueue::new(Transport::Plain, Gauge::default()));
    socket::hand_over(&mut socket, &queue).await;
    let mut writer = std::pin::pin!(queue.run());
    let end = loop {
        tokio::select! {
            biased;
            error = &mut writer => break error.into(),
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => queue.send_text(&text),
                Some(Ok(Message::Binary(bytes))) => queue.send_text(&format!("binary of {} bytes", bytes.len())),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) => break socket::answer_close(&mut socket).await,
                None => break End::Gone,
                Some(Err(error)) => break End::of(&error),
            },
        }
    };
    if let End::Close(code, reason) = end {
        socket::close_socket(&mut socket, code, reason).await;
    }
}

/// A masked frame. `head`: FIN, reserved bits, opcode.
fn frame(head: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = vec![head];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ 0..126), _) => bytes.push(0x80 | short),
        (_, Ok(medium)) => {
            bytes.push(0x80 | 126);
            bytes.extend(medium.to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A close frame with a code and a reason.
fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, [&code.to_be_bytes()[..], reason].concat())
}

/// A frame of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reply {
    Text(Vec<u8>),
    Pong(Vec<u8>),
    /// 1005: a close without a code.
    Close(u16),
    /// A frame that no case expects.
    Other(u8, Vec<u8>),
}

/// Reads one frame; None at the end of the stream.
async fn read(stream: &mut TcpStream) -> Option<Reply> {
    let head = stream.read_u8().await.ok()?;
    let length = match stream.read_u8().await.ok()? {
        126 => u64::from(stream.read_u16().await.ok()?),
        127 => stream.read_u64().await.ok()?,
        length => u64::from(length),
    };
    let mut payload = vec![0; usize::try_from(length).ok()?];
    stream.read_exact(&mut payload).await.ok()?;
    Some(match head {
        0x81 => Reply::Text(payload),
        0x8a => Reply::Pong(payload),
        0x88 => Reply::Close(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))),
        _ => Reply::Other(head, payload),
    })
}

/// How the client's bytes are cut into writes.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Whole,
    /// One write for each byte.
    Bytes,
}

/// One case: its name, which begins with its numbers in the suite, the bytes that the client sends, and all that the
/// server must send until it ends the connection. Cases that do not end with a close are closed by the client.
struct Case {
    name: String,
    sends: Vec<u8>,
    expected: Vec<Reply>,
}

fn case(name: impl Into<String>, sends: Vec<Vec<u8>>, expected: Vec<Reply>) -> Case {
    let mut case = Case { name: name.into(), sends: sends.into_iter().flatten().collect(), expected };
    if !matches!(case.expected.last(), Some(Reply::Close(_))) {
        case.sends.extend(close(1000, b""));
        case.expected.push(Reply::Close(1000));
    }
    case
}

fn echoed(text: impl AsRef<[u8]>) -> Reply {
    Reply::Text(text.as_ref().to_vec())
}

fn messages() -> Vec<Case> {
    let mut cases = Vec::new();
    for length in [0, 125, 126, 127, 128, 65_535, 65_536] {
        let text = vec![b'*'; length];
        cases.push(case(format!("1.1 text of {length}"), vec![frame(FIN | TEXT, &text)], vec![echoed(&text)]));
        let counted = echoed(format!("binary of {length} bytes"));
        cases.push(case(
            format!("1.2 binary of {length}"),
            vec![frame(FIN | BINARY, vec![0xfe; length])],
            vec![counted],
        ));
    }
    cases.push(case("1.1 text above the bound", vec![frame(FIN | TEXT, vec![b'*'; 65_537])], vec![Reply::Close(1009)]));
    let long: Vec<u8> = vec![b'*'; 65_536];
    let mut parts: Vec<Vec<u8>> = long.chunks(1300).map(|part| frame(CONTINUATION, part)).collect();
    parts[0][0] = TEXT;
    parts.push(frame(FIN | CONTINUATION, b""));
    cases.push(case("10.1.1 64 KiB in fragments of 1300", parts, vec![echoed(&long)]));
    cases
}

fn pings() -> Vec<Case> {
    let ping = |payload: &[u8]| frame(FIN | PING, payload);
    let mut cases = Vec::new();
    let payloads: [&[u8]; 4] = [b"", b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", &[0xfe; 125]];
    for payload in payloads {
        let name = format!("2.1-2.4 ping with {} bytes", payload.len());
        cases.push(case(name, vec![ping(payload)], vec![Reply::Pong(payload.to_vec())]));
    }
    cases.push(case("2.5 ping with 126 bytes", vec![ping(&[0xfe; 126])], vec![Reply::Close(1002)]));
    let pong = |payload: &[u8]| frame(FIN | PONG, payload);
    cases.push(case("2.7 unsolicited pong", vec![pong(b"")], vec![]));
    cases.push(case("2.8 unsolicited pong with payload", vec![pong(b"unsolicited")], vec![]));
    let answered = vec![Reply::Pong(b"ping".to_vec())];
    cases.push(case("2.9 unsolicited pong, then ping", vec![pong(b"unsolicited"), ping(b"ping")], answered));
    let ten: Vec<Vec<u8>> = (0..10).map(|number| format!("payload-{number}").into_bytes()).collect();
    let pongs = ten.iter().cloned().map(Reply::Pong).collect();
    cases.push(case("2.10-2.11 ten pings are answered in order", ten.iter().map(|one| ping(one)).collect(), pongs));
    cases
}

fn reserved() -> Vec<Case> {
    let hello = frame(FIN | TEXT, "Hello");
    let violation = || Reply::Close(1002);
    let mut cases = Vec::new();
    for bits in [0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70] {
        cases.push(case(
            format!("3.1-3.5 text with bits {bits:#x}"),
            vec![frame(FIN | bits | TEXT, "x")],
            vec![violation()],
        ));
        cases.push(case(
            format!("3.2-3.4 text, then text with bits {bits:#x}, then ping"),
            vec![hello.clone(), frame(FIN | bits | TEXT, "x"), frame(FIN | PING, "")],
            vec![echoed("Hello"), violation()],
        ));
    }
    cases.push(case("3.5 binary with a reserved bit", vec![frame(FIN | 0x40 | BINARY, "x")], vec![violation()]));
    cases.push(case("3.6 ping with a reserved bit", vec![frame(FIN | 0x40 | PING, "x")], vec![violation()]));
    cases.push(case("3.7 close with reserved bits", vec![frame(FIN | 0x70 | CLOSE, b"\x03\xe8")], vec![violation()]));
    for opcode in (3..=7).chain(11..=15) {
        let name = |what: &str| format!("4.1-4.2 opcode {opcode} {what}");
        cases.push(case(name("alone"), vec![frame(FIN | opcode, "")], vec![violation()]));
        cases.push(case(name("with payload"), vec![frame(FIN | opcode, "reserved")], vec![violation()]));
        cases.push(case(
            name("after a text"),
            vec![hello.clone(), frame(FIN | opcode, ""), frame(FIN | PING, "")],
            vec![echoed("Hello"), violation()],
        ));
    }
    cases
}

fn fragments() -> Vec<Case> {
    let violation = || Reply::Close(1002);
    let first = |text: &str| frame(TEXT, text);
    let next = |text: &str| frame(CONTINUATION, text);
    let last = |text: &str| frame(FIN | CONTINUATION, text);
    let ping = || frame(FIN | PING, "ping");
    let pong = || Reply::Pong(b"ping".to_vec());
    let whole = |text: &str| frame(FIN | TEXT, text);
    vec![
        case("5.1 ping in two fragments", vec![frame(PING, "a"), last("b")], vec![violation()]),
        case("5.2 pong in two fragments", vec![frame(PONG, "a"), last("b")], vec![violation()]),
        case(
            "5.3-5.5 text in two fragments",
            vec![first("fragment1"), last("fragment2")],
            vec![echoed("fragment1fragment2")],
        ),
        case("5.6-5.8 a ping between fragments", vec![first("a"), ping(), last("b")], vec![pong(), echoed("ab")]),
        case("5.9-5.11 last continuation of nothing", vec![last("x"), whole("Hello")], vec![violation()]),
        case("5.12-5.14 continuation of nothing", vec![next("x"), whole("Hello")], vec![violation()]),
        case(
            "5.15 continuation of nothing after a whole message",
            vec![first("a"), last("b"), next("c"), whole("d")],
            vec![echoed("ab"), violation()],
        ),
        case("5.16 continuation first, then a text", vec![next("x"), first("a"), last("b")], vec![violation()]),
        case("5.17 last continuation first, then a text", vec![last("x"), first("a"), last("b")], vec![violation()]),
        case("5.18 text within a text", vec![first("a"), whole("b")], vec![violation()]),
        case(
            "5.19-5.20 five fragments with pings between",
            vec![first("a"), next("b"), ping(), next("c"), next("d"), ping(), last("e")],
            vec![pong(), pong(), echoed("abcde")],
        ),
    ]
}

fn texts() -> Vec<Case> {
    let mut cases = Vec::new();
    let valid: [(&str, &[u8]); 12] = [
        ("6.1.2 empty fragments", b""),
        ("6.2 Greek", "\u{3ba}\u{1f79}\u{3c3}\u{3bc}\u{3b5}".as_bytes()),
        ("6.2 umlauts and symbols", "Hello-\u{b5}@\u{df}\u{f6}\u{e4}\u{fc}\u{e0}\u{e1}-UTF-8!!".as_bytes()),
        ("6.5 first of two bytes", b"\xc2\x80"),
        ("6.5 first of three bytes", b"\xe0\xa0\x80"),
        ("6.5 first of four bytes", b"\xf0\x90\x80\x80"),
        ("6.7 last of one byte", b"\x7f"),
        ("6.7 last of two bytes", b"\xdf\xbf"),
        ("6.7 last of three bytes", b"\xef\xbf\xbf"),
        ("6.7 last of all", b"\xf4\x8f\xbf\xbf"),
        ("6.9, 6.23 around the surrogates", b"\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbd"),
        ("6.22 non-characters", b"\xef\xbf\xbe\xf0\x9f\xbf\xbe\xf4\x8f\xbf\xbf"),
    ];
    for (name, text) in valid {
        cases.push(case(name, vec![frame(FIN | TEXT, text)], vec![echoed(text)]));
        let mut parts: Vec<Vec<u8>> = text.iter().map(|byte| frame(CONTINUATION, [*byte])).collect();
        parts.insert(0, frame(TEXT, b""));
        parts.push(frame(FIN | CONTINUATION, b""));
        cases.push(case(format!("{name}, a fragment for each byte"), parts, vec![echoed(text)]));
    }
    let invalid: [(&str, &[u8]); 21] = [
        ("6.3 a surrogate within Greek", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"),
        ("6.4 above the range", b"\xce\xba\xf4\x90\x80\x80edited"),
        ("6.6 ends after one byte of two", b"\xce"),
        ("6.6 ends after two bytes of three", b"\xe1\xbd"),
        ("6.6 ends after three bytes of four", b"\xf0\x90\x80"),
        ("6.8 five bytes", b"\xf8\x88\x80\x80\x80"),
        ("6.8 six bytes", b"\xfc\x84\x80\x80\x80\x80"),
        ("6.10 first above the range", b"\xf4\x90\x80\x80"),
        ("6.12 a continuation byte alone", b"\x80"),
        ("6.12 the last continuation byte alone", b"\xbf"),
        ("6.13 a lonely start of two", b"\xc0 "),
        ("6.14 a lonely start of three", b"\xe0 \xef "),
        ("6.15 a start of four without its rest", b"\xf0\x80\x80"),
        ("6.16 starts in a row", b"\xc0\xe0\x80\xf0\x80\x80"),
        ("6.17 bytes that never occur", b"\xfe\xff"),
        ("6.18 slash, too long in two", b"\xc0\xaf"),
        ("6.18 slash, too long in three", b"\xe0\x80\xaf"),
        ("6.19 last too long of two", b"\xc1\xbf"),
        ("6.20 zero, too long", b"\xf0\x80\x80\x80"),
        ("6.21 first surrogate", b"\xed\xa0\x80"),
        ("6.21 last pair of surrogates", b"\xed\xaf\xbf\xed\xbf\xbf"),
    ];
    for (name, text) in invalid {
        cases.push(case(name, vec![frame(FIN | TEXT, text)], vec![Reply::Close(1007)]));
        let (first, rest) = text.split_at(1);
        let parts = vec![frame(TEXT, first), frame(FIN | CONTINUATION, rest)];
        cases.push(case(format!("{name}, in two fragments"), parts, vec![Reply::Close(1007)]));
    }
    cases
}

fn closes() -> Vec<Case> {
    let hello = || frame(FIN | TEXT, "Hello");
    let normal = || close(1000, b"");
    let mut cases = vec![
        case("7.1.1 message, then close", vec![hello(), normal()], vec![echoed("Hello"), Reply::Close(1000)]),
        case("7.1.2 two closes", vec![normal(), normal()], vec![Reply::Close(1000)]),
        case("7.1.3 ping after close", vec![normal(), frame(FIN | PING, "x")], vec![Reply::Close(1000)]),
        case("7.1.4 text after close", vec![normal(), hello()], vec![Reply::Close(1000)]),
        case(
            "7.1.5 close within a fragmented text",
            vec![frame(TEXT, "a"), normal(), frame(FIN | CONTINUATION, "b")],
            vec![Reply::Close(1000)],
        ),
        case(
            "7.1.6 64 KiB, text, close, ping",
            vec![frame(FIN | TEXT, vec![b'*'; 65_536]), hello(), normal(), frame(FIN | PING, "x")],
            vec![echoed(vec![b'*'; 65_536]), echoed("Hello"), Reply::Close(1000)],
        ),
        case("7.3.1 close without payload", vec![frame(FIN | CLOSE, "")], vec![Reply::Close(1005)]),
        case("7.3.2 close of one byte", vec![frame(FIN | CLOSE, "a")], vec![Reply::Close(1002)]),
        case("7.3.3 close with a code", vec![normal()], vec![Reply::Close(1000)]),
        case("7.3.4 close with a reason", vec![close(1000, b"Hello World!")], vec![Reply::Close(1000)]),
        case("7.3.5 close with the longest reason", vec![close(1000, &[b'*'; 123])], vec![Reply::Close(1000)]),
        case("7.3.6 close with too long a reason", vec![close(1000, &[b'*'; 124])], vec![Reply::Close(1002)]),
        case(
            "7.5.1 close with a reason that is not UTF-8",
            vec![close(1000, b"\xce\xba\xed\xa0\x80x")],
            vec![Reply::Close(1007)],
        ),
    ];
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        cases.push(case(format!("7.7 close {code}"), vec![close(code, b"")], vec![Reply::Close(code)]));
    }
    for code in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535] {
        let name = format!("7.9, 7.13 close {code}, which no peer may send");
        cases.push(case(name, vec![close(code, b"")], vec![Reply::Close(1002)]));
    }
    cases
}

async fn play(case: &Case, cut: Cut) -> Vec<Reply> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let serving = tokio::spawn(echo(server));
    let (mut replies, mut sent) = (Vec::new(), 0);
    let step = match cut {
        Cut::Whole => case.sends.len(),
        Cut::Bytes => 1,
    };
    while sent < case.sends.len() {
        let end = (sent + step).min(case.sends.len());
        // The server may have closed already: its frames say why.
        if client.write_all(&case.sends[sent..end]).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
        sent = end;
    }
    while let Some(reply) = read(&mut client).await {
        // A client answers the close, and the server then ends the connection.
        if let Reply::Close(code) = reply {
            drop(client.write_all(&close(if code == 1005 { 1000 } else { code }, b"")).await);
        }
        replies.push(reply);
    }
    // The server waits a moment for the client's end.
    drop(client);
    serving.await.unwrap();
    replies
}

#[tokio::test(flavor = "multi_thread")]
async fn autobahn_cases_end_as_rfc_6455_demands() {
    let cases: Vec<Case> =
        [messages(), pings(), reserved(), fragments(), texts(), closes()].into_iter().flatten().collect();
    let mut wrong = String::new();
    for case in &cases {
        for cut in [Cut::Whole, Cut::Bytes] {
            // A long message byte by byte shows nothing that a short one does not.
            if matches!(cut, Cut::Bytes) && case.sends.len() > 1_000 {
                continue;
            }
            match timeout(CASE_WITHIN, play(case, cut)).await {
                Ok(replies) if replies == case.expected => {}
                Ok(replies) => {
                    let (found, expected) = (short(&replies), short(&case.expected));
                    writeln!(wrong, "{} ({cut:?}): {found} instead of {expected}", case.name).unwrap();
                }
                Err(_) => writeln!(wrong, "{} ({cut:?}): no end in time", case.name).unwrap(),
            }
        }
    }
    assert!(cases.len() > 150, "{} cases", cases.len());
    assert!(wrong.is_empty(), "{wrong}");
}

/// Replies without long payloads.
fn short(replies: &[Reply]) -> String {
    let mut text = format!("{replies:?}");
    text.truncate(300);
    text
}
