//! A proxy between two programs that simulates faults of a network.
//!
//! Each direction has its own state: pass, delay, black hole (no bytes pass, and none are lost: they follow when the
//! state changes, as TCP would send them again), or a cut after a number of bytes. A cut of the replies after 0 bytes
//! delivers a request and drops its reply.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes of one read.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks in flight in each direction of a connection. A sender of more waits.
const MAX_CHUNKS: usize = 1024;

/// The state of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Bytes pass at once.
    Pass,
    /// Bytes pass after this time, in order and at the same rate.
    Delay(Duration),
    /// No bytes pass until the state changes.
    BlackHole,
    /// This many more bytes pass, then the connection that would carry the next one is reset and the state becomes
    /// `Pass`.
    CutAfter(usize),
}

/// Listens on a loopback port and forwards to another. Dropping it resets every connection.
pub struct Proxy {
    /// The port on which it listens.
    pub port: u16,
    links: Arc<LinkStates>,
    accepting: JoinHandle<()>,
}

/// The state of both directions.
struct LinkStates {
    to_server: watch::Sender<LinkState>,
    to_client: watch::Sender<LinkState>,
    /// Number of resets. Each connection ends when it changes.
    resets: watch::Sender<u64>,
}

impl Proxy {
    /// Starts a proxy in front of a loopback port.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(server_port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let links = Arc::new(LinkStates {
            to_server: watch::Sender::new(LinkState::Pass),
            to_client: watch::Sender::new(LinkState::Pass),
            resets: watch::Sender::new(0),
        });
        let shared = Arc::clone(&links);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // If the server does not listen, the connection ends, as without a proxy.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)).await {
                    tokio::spawn(carry(client, server, Arc::clone(&shared)));
                }
            }
        });
        Ok(Self { port, links, accepting })
    }

    /// Sets the state of the direction to the server.
    pub fn to_server(&self, state: LinkState) {
        self.links.to_server.send_replace(state);
    }

    /// Sets the state of the direction to the client.
    pub fn to_client(&self, state: LinkState) {
        self.links.to_client.send_replace(state);
    }

    /// Resets every connection.
    pub fn reset(&self) {
        self.links.resets.send_modify(|resets| *resets += 1);
    }

    /// Whether both directions are `Pass`, as after a cut.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        *self.links.to_server.borrow() == LinkState::Pass && *self.links.to_client.borrow() == LinkState::Pass
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.reset();
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, links: Arc<LinkStates>) {
    // The connection ends with a reset: a close would look like an orderly end.
    for socket in [&client, &server] {
        if socket.set_nodelay(true).and_then(|()| socket.set_zero_linger()).is_err() {
            return;
        }
    }
    // Borrowed halves: owned ones close the connection when they are dropped.
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let mut resets = links.resets.subscribe();
    tokio::select! {
        () = pump(from_client, to_server, &links.to_server) => {}
        () = pump(from_server, to_client, &links.to_client) => {}
        _ = resets.changed() => {}
    }
}

/// Forwards one direction until one side ends the connection or a cut happens.
async fn pump(from: ReadHalf<'_>, to: WriteHalf<'_>, state: &watch::Sender<LinkState>) {
    let (chunks, due) = mpsc::channel(MAX_CHUNKS);
    // Reads while a delayed chunk waits: otherwise a delay would also limit the rate.
    tokio::join!(read(from, chunks, state), write(to, due));
}

async fn read(mut from: ReadHalf<'_>, chunks: mpsc::Sender<(Instant, Vec<u8>)>, state: &watch::Sender<LinkState>) {
    let mut changes = state.subscribe();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        if changes.wait_for(|state| *state != LinkState::BlackHole).await.is_err() {
            return;
        }
        let mut chunk = buffer[..length].to_vec();
        let (mut delay, mut cut) = (Duration::ZERO, false);
        state.send_if_modified(|state| match state {
            LinkState::CutAfter(left) if *left < length => {
                chunk.truncate(*left);
                cut = true;
                *state = LinkState::Pass;
                true
            }
            LinkState::CutAfter(left) => {
                *left -= length;
                false
            }
            LinkState::Delay(by) => {
                delay = *by;
                false
            }
            LinkState::Pass | LinkState::BlackHole => false,
        });
        if chunks.send((Instant::now() + delay, chunk)).await.is_err() || cut {
            return;
        }
    }
}

async fn write(mut to: WriteHalf<'_>, mut due: mpsc::Receiver<(Instant, Vec<u8>)>) {
    while let Some((at, chunk)) = due.recv().await {
        tokio::time::sleep_until(at).await;
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proxy in front of an echo server.
    async fn echo() -> Result<(Proxy, TcpStream)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = socket.into_split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let proxy = Proxy::start(port).await?;
        let client = TcpStream::connect(("127.0.0.1", proxy.port)).await?;
        Ok((proxy, client))
    }

    async fn ask(client: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
        client.write_all(text).await?;
        let mut reply = vec![0; text.len()];
        client.read_exact(&mut reply).await?;
        Ok(reply)
    }

    #[tokio::test]
    async fn link_states_behave_as_named() -> Result<()> {
        let (proxy, mut client) = echo().await?;
        assert_eq!(ask(&mut client, b"one").await?, b"one");

        proxy.to_server(LinkState::Delay(Duration::from_millis(150)));
        let started = Instant::now();
        assert_eq!(ask(&mut client, b"two").await?, b"two");
        assert!(started.elapsed() >= Duration::from_millis(150), "{:?}", started.elapsed());

        proxy.to_server(LinkState::Pass);
        proxy.to_client(LinkState::BlackHole);
        let waiting = tokio::time::timeout(Duration::from_millis(100), ask(&mut client, b"three"));
        assert!(waiting.await.is_err(), "no bytes pass a black hole");
        proxy.to_client(LinkState::Pass);
        let mut reply = [0; 5];
        client.read_exact(&mut reply).await?;
        assert_eq!(&reply, b"three", "the bytes follow when the state changes");

        proxy.to_client(LinkState::CutAfter(2));
        client.write_all(b"four").await?;
        let mut got = Vec::new();
        let end = client.read_to_end(&mut got).await;
        assert_eq!((got.as_slice(), end.is_err()), (b"fo".as_slice(), true), "a reset after two bytes");
        assert!(proxy.is_passing(), "a cut happens once");

        let mut client = TcpStream::connect(("127.0.0.1", proxy.port)).await?;
        assert_eq!(ask(&mut client, b"five").await?, b"five");
        proxy.reset();
        assert!(client.read_to_end(&mut got).await.is_err(), "a reset");
        Ok(())
    }
}
