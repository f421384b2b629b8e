//! The stream of one HTTP connection, which fails when its client keeps the server waiting.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Time limit for receiving a request's headers, from their first byte. A slow client must not hold a connection for
/// long.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that a connection may wait for its next request. Longer than the usual load balancer keeps one (60 s), so that
/// the balancer is the one that closes, and no request meets a closing connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(80);
/// Time for a client to take anything at all of a reply, or with TLS the rest that TLS holds, at most 64 KiB. After it the
/// client counts as one that does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether a request is being handled, which has time limits of its own.
#[derive(Clone, Default)]
pub(super) struct Handling(Arc<AtomicBool>);

impl Handling {
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A stream with the time limits above.
pub(super) struct TimedStream<S> {
    stream: S,
    handling: Handling,
    /// When the last byte of a reply was taken, or the connection was opened.
    idle_since: Instant,
    /// When the first byte of the request came whose headers are being received.
    request_since: Option<Instant>,
    /// Since when the client has taken nothing of a reply.
    blocked_since: Option<Instant>,
    read_alarm: Pin<Box<Sleep>>,
    write_alarm: Pin<Box<Sleep>>,
}

impl<S> TimedStream<S> {
    pub(super) fn new(stream: S, handling: Handling) -> Self {
        let now = Instant::now();
        let alarm = || Box::pin(tokio::time::sleep_until(now));
        Self {
            stream,
            handling,
            idle_since: now,
            request_since: None,
            blocked_since: None,
            read_alarm: alarm(),
            write_alarm: alarm(),
        }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// Fails once the client has kept the server waiting for too long.
    fn check_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.handling.is_on() {
            self.request_since = None;
            return Poll::Pending;
        }
        let due = self.request_since.map_or(self.idle_since + IDLE_TIMEOUT, |since| since + HEADER_TIMEOUT);
        rings(&mut self.read_alarm, due, cx).map(|()| io::ErrorKind::TimedOut.into())
    }

    fn check_write<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.idle_since = Instant::now();
        }
        self.check_blocked(written, cx)
    }

    fn check_blocked<T>(&mut self, done: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.blocked_since = None;
            return done;
        }
        let due = *self.blocked_since.get_or_insert_with(Instant::now) + WRITE_TIMEOUT;
        rings(&mut self.write_alarm, due, cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn rings(alarm: &mut Pin<Box<Sleep>>, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
    if alarm.deadline() != due {
        alarm.as_mut().reset(due);
    }
    alarm.as_mut().poll(cx)
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if read.is_pending() {
            return Poll::Ready(Err(ready!(this.check_read(cx))));
        }
        if buffer.filled().len() > before && !this.handling.is_on() {
            this.request_since.get_or_insert_with(Instant::now);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // The headers of the request that is answered were complete.
        this.request_since = None;
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.check_write(written, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.request_since = None;
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.check_write(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Waits for the client where TLS holds bytes that were written before.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.check_blocked(flushed, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.check_blocked(shut, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter, DuplexStream, duplex};

    fn streams() -> (TimedStream<DuplexStream>, DuplexStream, Handling) {
        let (server, client) = duplex(64);
        let handling = Handling::default();
        (TimedStream::new(server, handling.clone()), client, handling)
    }

    /// The time after which reading fails.
    async fn reading_fails_after(stream: &mut TimedStream<DuplexStream>) -> Duration {
        let since = Instant::now();
        let mut buffer = [0; 64];
        while stream.read(&mut buffer).await.is_ok() {}
        since.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connection_is_kept_longer_than_load_balancers_keep_one() {
        let (mut stream, _client, _) = streams();
        assert_eq!(reading_fails_after(&mut stream).await.as_secs(), IDLE_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn headers_have_their_time_from_their_first_byte() {
        let (mut stream, mut client, _) = streams();
        let dripping = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let after = reading_fails_after(&mut stream).await;
        assert_eq!(after.as_secs(), 60 + HEADER_TIMEOUT.as_secs());
        dripping.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn handled_request_has_no_read_timeout() {
        let (mut stream, _client, handling) = streams();
        handling.begin();
        let waited = tokio::time::timeout(IDLE_TIMEOUT * 2, stream.read_u8()).await;
        assert!(waited.is_err(), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_takes_nothing_fails_the_write() {
        let (mut stream, mut client, _) = streams();
        let since = Instant::now();
        let slow = tokio::spawn(async move {
            for _ in 0..3 {
                tokio::time::sleep(WRITE_TIMEOUT / 2).await;
                drop(client.read_u8().await);
            }
            client
        });
        let error = stream.write_all(&[0; 1024]).await.expect_err("no bytes are read");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // Each byte that is taken gives the client time again.
        assert_eq!(since.elapsed(), WRITE_TIMEOUT * 5 / 2);
        drop(slow);
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_takes_nothing_fails_the_flush() {
        let (server, _client) = duplex(64);
        // As TLS does: it takes the bytes, and waits for the client when they are flushed.
        let mut stream = TimedStream::new(BufWriter::with_capacity(1024, server), Handling::default());
        stream.write_all(&[0; 1024]).await.expect("the buffer takes it");
        let since = Instant::now();
        let flushed = tokio::time::timeout(WRITE_TIMEOUT * 2, stream.flush()).await.expect("an end of the flush");
        let error = flushed.expect_err("no bytes are read");
        assert_eq!((error.kind(), since.elapsed()), (io::ErrorKind::TimedOut, WRITE_TIMEOUT));
        let since = Instant::now();
        let shut = tokio::time::timeout(WRITE_TIMEOUT, stream.shutdown()).await.expect("an end of the shutdown");
        let error = shut.expect_err("no bytes are read");
        assert_eq!((error.kind(), since.elapsed()), (io::ErrorKind::TimedOut, Duration::ZERO), "it has had its time");
    }
}
