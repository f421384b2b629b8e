//! The socket of a connection, with TLS or without: as HTTP reads and writes it, and as one task reads and any thread
//! writes it after the connection has switched protocols.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ServerConnection;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::http::stream::TimedStream;

/// Time limit of a TLS handshake. Two round trips and some computing; a client that says nothing holds a slot for so
/// long at most.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The stream of an HTTP connection.
pub(super) enum HttpStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl HttpStream {
    /// Does the handshake, if the listener has a certificate.
    pub(super) async fn open(stream: TcpStream, acceptor: Option<&TlsAcceptor>) -> io::Result<Self> {
        let Some(acceptor) = acceptor else { return Ok(Self::Plain(stream)) };
        // Boxed: otherwise the task of every connection would reserve its size, also without TLS.
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, Box::pin(acceptor.accept(stream)));
        let stream = handshake.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Self::Tls(Box::new(stream)))
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The socket of a connection that has switched protocols, and the bytes that the client sent right behind its request.
#[must_use]
pub fn into_socket(upgraded: hyper::upgrade::Upgraded) -> Option<(Socket, Vec<u8>)> {
    let parts = upgraded.downcast::<TokioIo<TimedStream<HttpStream>>>().ok()?;
    Some((parts.io.into_inner().into_inner().into(), parts.read_buf.to_vec()))
}

/// The socket of a connection that has switched protocols. No call waits.
pub struct Socket {
    stream: TcpStream,
    /// None without TLS. The lock is held for one read or write that does not wait.
    tls: Option<Box<Mutex<Tls>>>,
}

struct Tls {
    connection: ServerConnection,
    /// A byte that is encrypted already, but was not reported as written: see [`Socket::try_write`].
    withheld: bool,
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self { stream, tls: None }
    }
}

impl From<HttpStream> for Socket {
    fn from(stream: HttpStream) -> Self {
        match stream {
            HttpStream::Plain(stream) => stream.into(),
            HttpStream::Tls(stream) => {
                let (stream, connection) = stream.into_inner();
                Self { stream, tls: Some(Box::new(Mutex::new(Tls { connection, withheld: false }))) }
            }
        }
    }
}

impl Socket {
    /// The TCP stream, if there is no TLS on it.
    #[must_use]
    pub fn bare(&self) -> Option<&TcpStream> {
        self.tls.is_none().then_some(&self.stream)
    }

    /// Reads what has arrived into the free part of the buffer. 0 at the end.
    ///
    /// # Errors
    /// `WouldBlock` if nothing has; else the connection is broken.
    pub fn try_read(&self, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
        let Some(tls) = &self.tls else { return self.stream.try_read_buf(buffer) };
        let mut tls = lock(tls);
        loop {
            match tls.connection.reader().read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The client closed the connection without saying so in TLS. The protocol above has its own close.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
            tls.connection.read_tls(&mut NonBlocking(&self.stream))?;
            let processed = tls.connection.process_new_packets();
            // An alert, or the answer to a change of keys. The rest, if the socket is full, leaves with the next write.
            let flushed = tls.flush(&self.stream);
            if let Err(error) = processed {
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            flushed?;
        }
    }

    /// Writes as many bytes as the socket takes; returns their number. The bytes that it did not take must be the
    /// first of the next write.
    ///
    /// With TLS the last byte counts as not taken until the kernel has all of the encrypted record, so that "everything
    /// is written" means the same as without.
    ///
    /// # Errors
    /// `WouldBlock` if it takes none now; else the connection is broken.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else { return self.stream.try_write(bytes) };
        let mut tls = lock(tls);
        if !tls.flush(&self.stream)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if std::mem::take(&mut tls.withheld) {
            return Ok(1);
        }
        let taken = tls.connection.writer().write(bytes)?;
        if tls.flush(&self.stream)? {
            return Ok(taken);
        }
        tls.withheld = true;
        if taken > 1 { Ok(taken - 1) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    /// Ends the writing side. The client gets what was written before, and then the end; it may still write.
    pub fn finish(&self) {
        self.end_tls();
        // It fails if the connection is broken, which is the end as well.
        drop(SockRef::from(&self.stream).shutdown(Shutdown::Write));
    }

    fn end_tls(&self) {
        let Some(tls) = &self.tls else { return };
        let mut tls = lock(tls);
        tls.connection.send_close_notify();
        // A client that does not read does not get it.
        drop(tls.flush(&self.stream));
    }

    /// Waits until the socket may take bytes.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn writable(&self) -> io::Result<()> {
        self.stream.writable().await
    }

    /// As [`Socket::writable`].
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_write_ready(cx)
    }

    /// Waits until bytes, or the end, may have arrived.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tls.as_ref().is_some_and(|tls| lock(tls).has_something_to_read()) {
            return Poll::Ready(Ok(()));
        }
        self.stream.poll_read_ready(cx)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.end_tls();
    }
}

impl Tls {
    /// Whether decrypted bytes or the end of the client's are here already: the TCP stream does not say so.
    fn has_something_to_read(&mut self) -> bool {
        let state = self.connection.process_new_packets();
        state.is_ok_and(|state| state.plaintext_bytes_to_read() > 0 || state.peer_has_closed())
    }

    /// Hands encrypted bytes to the kernel. True if none are left.
    fn flush(&mut self, stream: &TcpStream) -> io::Result<bool> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut NonBlocking(stream)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

struct NonBlocking<'a>(&'a TcpStream);

impl Read for NonBlocking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for NonBlocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A poisoned lock is still used: a connection whose state is broken fails at its next record.
fn lock(tls: &Mutex<Tls>) -> MutexGuard<'_, Tls> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}
