//! The socket of one connection: read by the WebSocket library, written by the send queue alone.
//!
//! The code that makes an event can therefore write it to the socket itself, without waking the connection's own task;
//! the kernel's work is then nearly all that a frame costs. Frames of the library (a pong, a close) take the same way,
//! so that frames never mix.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use service::http::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::transport::send_queue::{Progress, SendQueue};

/// A socket whose writing side can be handed over to a [`SendQueue`].
pub struct SharedStream {
    stream: Arc<Socket>,
    /// None until the client is authenticated; until then the library writes to the socket itself.
    queue: Option<Arc<SendQueue>>,
}

impl SharedStream {
    /// A stream that the library reads and writes.
    pub fn new(stream: Socket) -> Self {
        Self { stream: Arc::new(stream), queue: None }
    }

    /// From now on the queue writes. The library must have nothing left to write.
    pub fn hand_over(&mut self, queue: &Arc<SendQueue>) {
        queue.attach(Arc::clone(&self.stream));
        self.queue = Some(Arc::clone(queue));
    }

    /// Ends the writing side: nothing more comes. Everything must be flushed.
    pub fn finish(&self) {
        self.stream.finish();
    }
}

impl Drop for SharedStream {
    fn drop(&mut self) {
        // A room may hold the queue for a moment longer; the socket closes now.
        if let Some(queue) = &self.queue {
            queue.detach();
        }
    }
}

impl AsyncRead for SharedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buffer) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(queue) = &self.queue {
            queue.send_control(&Bytes::copy_from_slice(bytes));
            return Poll::Ready(Ok(bytes.len()));
        }
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// Ready when the queue is empty.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(queue) = &self.queue else { return Poll::Ready(Ok(())) };
        while let Progress::Blocked(_) = queue.write_queued()? {
            ready!(self.stream.poll_write_ready(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Both directions end when the socket is dropped.
        Poll::Ready(Ok(()))
    }
}
