//! A load balancer without sticky sessions, in a network with jitter: each HTTP request goes to the next server, and
//! bytes take a random time each way.
//!
//! Clients keep connections open, and a connection would lead all its requests to one server. So each request
//! but an upgrade ends its connection (`Connection: close`).

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes of one read.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks in flight in each direction of a connection. A sender of more waits.
const MAX_CHUNKS: usize = 64;
/// Bytes of a request's headers.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// A running balancer. Dropping it stops accepting; connections end with their clients.
pub struct Balancer {
    /// The port on which it listens.
    pub port: u16,
    accepting: JoinHandle<()>,
}

impl Balancer {
    /// Starts a balancer in front of these loopback ports. `delay`: milliseconds that bytes take each way.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(servers: Vec<u16>, delay: RangeInclusive<u64>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (servers, turn) = (Arc::new(servers), Arc::new(AtomicUsize::new(0)));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = servers[turn.fetch_add(1, Ordering::Relaxed) % servers.len()];
                tokio::spawn(balance(client, server, delay.clone()));
            }
        });
        Ok(Self { port, accepting })
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn balance(mut client: TcpStream, server: u16, delay: RangeInclusive<u64>) {
    let Some(head) = head(&mut client).await else { return };
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    for socket in [&client, &server] {
        if socket.set_nodelay(true).is_err() {
            return;
        }
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::join!(pump(head, from_client, to_server, delay.clone()), pump(Vec::new(), from_server, to_client, delay));
}

/// The headers of the first request, changed so that it is the only one of its connection, and what was read of its
/// body. None if the client sends none.
async fn head(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 2;
        }
        if read.len() > MAX_HEAD_BYTES || client.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    };
    Some(only_request(&read, end))
}

/// `end`: where the last header ends.
fn only_request(read: &[u8], end: usize) -> Vec<u8> {
    let (headers, rest) = (String::from_utf8_lossy(&read[..end]), &read[end..]);
    let named = |line: &str, name: &str| line.to_ascii_lowercase().starts_with(name);
    if headers.lines().any(|line| named(line, "upgrade:")) {
        return read.to_vec();
    }
    let kept = headers.lines().filter(|line| !named(line, "connection:"));
    let mut changed: String = kept.flat_map(|line| [line, "\r\n"]).collect();
    changed.push_str("Connection: close\r\n");
    [changed.as_bytes(), rest].concat()
}

/// Carries one direction until its sender ends it, `first` before all else.
async fn pump(first: Vec<u8>, from: impl AsyncRead + Unpin, to: impl AsyncWrite + Unpin, delay: RangeInclusive<u64>) {
    let (chunks, due) = mpsc::channel(MAX_CHUNKS);
    tokio::join!(read(first, from, chunks, delay), write(to, due));
}

async fn read(
    first: Vec<u8>,
    mut from: impl AsyncRead + Unpin,
    chunks: mpsc::Sender<(Instant, Vec<u8>)>,
    delay: RangeInclusive<u64>,
) {
    let mut chunk = first;
    loop {
        if !chunk.is_empty() {
            let due = Instant::now() + Duration::from_millis(fastrand::u64(delay.clone()));
            if chunks.send((due, std::mem::take(&mut chunk))).await.is_err() {
                return;
            }
        }
        chunk.resize(CHUNK_BYTES, 0);
        let Ok(length @ 1..) = from.read(&mut chunk).await else { return };
        chunk.truncate(length);
    }
}

/// Writes in order: a chunk that is due before an earlier one waits for it, as in TCP.
async fn write(mut to: impl AsyncWrite + Unpin, mut due: mpsc::Receiver<(Instant, Vec<u8>)>) {
    while let Some((at, chunk)) = due.recv().await {
        tokio::time::sleep_until(at).await;
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
    // The sender has ended; the receiver sees it after the last byte.
    drop(to.shutdown().await);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each connection with its number and the head that it got.
    async fn server(number: u8) -> Result<u16> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut got = vec![0; 1_024];
                let length = socket.read(&mut got).await.unwrap_or(0);
                drop(socket.write_all(&[&[number], &got[..length]].concat()).await);
            }
        });
        Ok(port)
    }

    async fn ask(balancer: &Balancer, request: &str) -> Result<(u8, String)> {
        let mut client = TcpStream::connect(("127.0.0.1", balancer.port)).await?;
        client.write_all(request.as_bytes()).await?;
        let mut reply = Vec::new();
        client.read_to_end(&mut reply).await?;
        Ok((reply[0], String::from_utf8(reply[1..].to_vec())?))
    }

    #[tokio::test]
    async fn requests_take_turns_and_take_their_time() -> Result<()> {
        let balancer = Balancer::start(vec![server(b'0').await?, server(b'1').await?], 20..=30).await?;
        let poll = "GET / HTTP/1.1\r\nConnection: keep-alive\r\nHost: a\r\n\r\nbody";
        let started = Instant::now();
        let (first, seen) = ask(&balancer, poll).await?;
        assert!(started.elapsed() >= Duration::from_millis(40), "{:?}", started.elapsed());
        assert_eq!(seen, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nbody");
        let upgrade = "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let (second, seen) = ask(&balancer, upgrade).await?;
        assert_eq!(seen, upgrade);
        let (third, _) = ask(&balancer, poll).await?;
        assert_eq!((first, second, third), (b'0', b'1', b'0'));
        Ok(())
    }
}
