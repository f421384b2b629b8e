//! A network between two programs that fails as networks do.
//!
//! Each way is set apart: pass, delay, black hole (nothing moves, nothing is lost: what waits goes on
//! when it heals, as TCP would send it again), or a cut after so many bytes. A cut of the replies after
//! 0 bytes delivers a request and drops its reply.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks under way in each direction of a connection; whoever sends more waits.
const MAX_CHUNKS: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Pass,
    /// Everything takes this much longer; order and rate stay.
    Delay(Duration),
    BlackHole,
    /// So many bytes more pass, then the connection that would carry the next one is reset. Once: after
    /// that it is `Pass`.
    CutAfter(usize),
}

/// Listens on a loopback port and passes to another. Dropping it resets every connection.
pub struct Proxy {
    pub port: u16,
    ways: Arc<Ways>,
    accepting: JoinHandle<()>,
}

struct Ways {
    to_server: watch::Sender<Way>,
    to_client: watch::Sender<Way>,
    /// Counts resets: a connection ends when it is no longer what it was.
    resets: watch::Sender<u64>,
}

impl Proxy {
    /// # Errors
    /// When no port can be had.
    pub async fn start(server_port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let ways = Arc::new(Ways {
            to_server: watch::Sender::new(Way::Pass),
            to_client: watch::Sender::new(Way::Pass),
            resets: watch::Sender::new(0),
        });
        let shared = Arc::clone(&ways);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A server that is away looks as it does without us: the connection ends.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)).await {
                    tokio::spawn(carry(client, server, Arc::clone(&shared)));
                }
            }
        });
        Ok(Self { port, ways, accepting })
    }

    pub fn to_server(&self, way: Way) {
        self.ways.to_server.send_replace(way);
    }

    pub fn to_client(&self, way: Way) {
        self.ways.to_client.send_replace(way);
    }

    /// Resets every connection there is.
    pub fn reset(&self) {
        self.ways.resets.send_modify(|resets| *resets += 1);
    }

    /// Whether a cut has happened since it was asked for.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        *self.ways.to_server.borrow() == Way::Pass && *self.ways.to_client.borrow() == Way::Pass
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.reset();
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, ways: Arc<Ways>) {
    // The end is a reset, not a close: the other side must not take it for an orderly goodbye.
    for socket in [&client, &server] {
        if socket.set_nodelay(true).and_then(|()| socket.set_zero_linger()).is_err() {
            return;
        }
    }
    // Borrowed halves: owned ones say goodbye when they are dropped.
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let mut resets = ways.resets.subscribe();
    tokio::select! {
        () = pump(from_client, to_server, &ways.to_server) => {}
        () = pump(from_server, to_client, &ways.to_client) => {}
        _ = resets.changed() => {}
    }
}

/// Returns when one side has ended, or at a cut.
async fn pump(from: ReadHalf<'_>, to: WriteHalf<'_>, way: &watch::Sender<Way>) {
    let (chunks, due) = mpsc::channel(MAX_CHUNKS);
    // Reading must go on while a delayed chunk waits, or a delay would be a narrow road as well.
    tokio::join!(read(from, chunks, way), write(to, due));
}

async fn read(mut from: ReadHalf<'_>, chunks: mpsc::Sender<(Instant, Vec<u8>)>, way: &watch::Sender<Way>) {
    let mut changes = way.subscribe();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        if changes.wait_for(|way| *way != Way::BlackHole).await.is_err() {
            return;
        }
        let mut chunk = buffer[..length].to_vec();
        let (mut delay, mut cut) = (Duration::ZERO, false);
        way.send_if_modified(|way| match way {
            Way::CutAfter(left) if *left < length => {
                chunk.truncate(*left);
                cut = true;
                *way = Way::Pass;
                true
            }
            Way::CutAfter(left) => {
                *left -= length;
                false
            }
            Way::Delay(by) => {
                delay = *by;
                false
            }
            Way::Pass | Way::BlackHole => false,
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

    /// A proxy in front of an echo.
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
    async fn each_fault_is_what_it_says() -> Result<()> {
        let (proxy, mut client) = echo().await?;
        assert_eq!(ask(&mut client, b"one").await?, b"one");

        proxy.to_server(Way::Delay(Duration::from_millis(150)));
        let started = Instant::now();
        assert_eq!(ask(&mut client, b"two").await?, b"two");
        assert!(started.elapsed() >= Duration::from_millis(150), "{:?}", started.elapsed());

        proxy.to_server(Way::Pass);
        proxy.to_client(Way::BlackHole);
        let waiting = tokio::time::timeout(Duration::from_millis(100), ask(&mut client, b"three"));
        assert!(waiting.await.is_err(), "a black hole gives nothing back");
        proxy.to_client(Way::Pass);
        let mut reply = [0; 5];
        client.read_exact(&mut reply).await?;
        assert_eq!(&reply, b"three", "what waited goes on when it heals");

        proxy.to_client(Way::CutAfter(2));
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
