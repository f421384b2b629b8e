//! The cases of the official test suites of Engine.IO 4 and Socket.IO 5, written for this edge and run against a real
//! one over raw HTTP polling and raw WebSocket.
//!
//! Each case has a name and returns an error that says what differs. Cases that demand something which the contract
//! leaves out (binary data, namespaces besides `/`, an echo of any event) check what the edge does instead, and say
//! why.

mod engine_io;
mod socket_io;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use futures_util::future::{BoxFuture, join_all};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use testkit::tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::test_system::TestSystem;

/// Time for one reply. A poll that waits for the server's ping takes 25 seconds.
const TIMEOUT: Duration = Duration::from_secs(40);
/// Time in which an answer comes if nothing but the answer is waited for.
const SOON: Duration = Duration::from_secs(5);

/// An edge and a token for it.
#[derive(Clone)]
struct Edge {
    url: String,
    token: String,
}

type Case = (&'static str, fn(Edge) -> BoxFuture<'static, Result<()>>);

/// Each case as a pair of its name and its function.
macro_rules! cases {
    ($($name:ident),+ $(,)?) => { [$((stringify!($name), (|edge| $name(edge).boxed()) as fn(Edge) -> _)),+] };
}
use cases;

/// A reply to a raw HTTP request.
#[derive(Debug)]
struct Reply {
    status: u16,
    body: String,
}

impl Edge {
    /// Sends a request to `/socket.io/` over a connection of its own.
    async fn request(&self, method: &str, query: &str, body: &str) -> Result<Reply> {
        let mut stream = tls::connect(&self.url).await?;
        let request = format!(
            "{method} /socket.io/?{query} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            tls::authority_of(&self.url),
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut reply = String::new();
        timeout(TIMEOUT, stream.read_to_string(&mut reply)).await.context("no reply in time")??;
        let (head, body) = reply.split_once("\r\n\r\n").context("a head and a body")?;
        let status = head.split(' ').nth(1).context("a status")?.parse()?;
        Ok(Reply { status, body: body.to_owned() })
    }

    async fn poll(&self, sid: &str) -> Result<Reply> {
        self.request("GET", &polling(sid), "").await
    }

    async fn post(&self, sid: &str, body: &str) -> Result<Reply> {
        self.request("POST", &polling(sid), body).await
    }

    /// Opens a polling session and returns its id.
    async fn handshake(&self) -> Result<String> {
        let reply = self.request("GET", "EIO=4&transport=polling", "").await?;
        let open: Value = serde_json::from_str(reply.body.strip_prefix('0').context("an open packet")?)?;
        Ok(open["sid"].as_str().context("a sid")?.to_owned())
    }

    /// A polling session whose namespace is connected.
    async fn connected(&self) -> Result<String> {
        let sid = self.handshake().await?;
        self.post(&sid, &format!("40{}", json!({"token": self.token}))).await?;
        let mut packets = String::new();
        while !packets.contains(r#"42["connected""#) {
            packets += &self.poll(&sid).await?.body;
        }
        Ok(sid)
    }

    async fn websocket(&self, query: &str) -> Result<Socket> {
        let url = format!("{}/socket.io/?{query}", self.url.replacen("http", "ws", 1));
        Ok(Socket(testkit::socket::upgrade(&url).await?.0))
    }

    /// A WebSocket session, after its handshake.
    async fn opened(&self) -> Result<Socket> {
        let mut socket = self.websocket("EIO=4&transport=websocket").await?;
        let open = socket.text().await?;
        ensure!(open.starts_with('0'), "{open}");
        Ok(socket)
    }

    /// A WebSocket session whose namespace is connected.
    async fn connected_socket(&self) -> Result<Socket> {
        let mut socket = self.opened().await?;
        socket.send(&format!("40{}", json!({"token": self.token}))).await?;
        let connect = socket.text().await?;
        ensure!(connect.starts_with("40"), "{connect}");
        let connected = socket.text().await?;
        ensure!(connected.starts_with(r#"42["connected""#), "{connected}");
        Ok(socket)
    }
}

fn polling(sid: &str) -> String {
    format!("EIO=4&transport=polling&sid={sid}")
}

fn upgrading(sid: &str) -> String {
    format!("EIO=4&transport=websocket&sid={sid}")
}

struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    async fn send(&mut self, text: &str) -> Result<()> {
        Ok(self.0.send(Message::text(text)).await?)
    }

    /// The next text.
    async fn text(&mut self) -> Result<String> {
        match timeout(TIMEOUT, self.0.next()).await.context("no message in time")?.context("the end")?? {
            Message::Text(text) => Ok(text.to_string()),
            other => anyhow::bail!("{other:?} instead of a text"),
        }
    }

    /// Reads until the connection ends.
    async fn closed(mut self, within: Duration) -> Result<()> {
        let end = async { while self.0.next().await.is_some_and(|message| message.is_ok_and(|m| !m.is_close())) {} };
        timeout(within, end).await.context("not closed in time")
    }

    /// Whether the session goes on: an event is acknowledged.
    async fn lives(&mut self) -> Result<()> {
        self.send(r#"4277["ping",{}]"#).await?;
        let answer = self.text().await?;
        ensure!(answer.starts_with("4377["), "{answer}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_io_and_socket_io_cases_end_as_expected() -> Result<()> {
    let system = TestSystem::start("conformance").await?;
    let url = system.stack.url(Name::Websocket).to_owned();
    let edge = Edge { url, token: system.token("anna")? };
    // All at once: some wait for the edge's timeouts.
    let outcomes = engine_io::all().into_iter().chain(socket_io::all()).map(|(name, case)| {
        let edge = edge.clone();
        async move { case(edge).await.err().map(|error| format!("{name}: {error:#}")) }
    });
    let wrong: Vec<String> = join_all(outcomes).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    system.end().await;
    Ok(())
}
