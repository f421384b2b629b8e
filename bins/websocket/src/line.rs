//! The socket of one connection: read by the WebSocket library, written by the mailbox alone.
//!
//! Whatever makes an event can so write it to the socket itself, without waking the connection's own task; the
//! kernel's work is then nearly all that a frame costs. What the library has to say (a pong, a close) goes the
//! same way, so that frames never mix.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::mailbox::{Mailbox, Progress};

pub struct Line {
    stream: Arc<TcpStream>,
    /// None until the connection is let in: so far the library writes by itself.
    mailbox: Option<Arc<Mailbox>>,
}

impl Line {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream: Arc::new(stream), mailbox: None }
    }

    /// From now on the mailbox writes. The library must have nothing left to write.
    pub fn hand_over(&mut self, mailbox: &Arc<Mailbox>) {
        mailbox.attach(Arc::clone(&self.stream));
        self.mailbox = Some(Arc::clone(mailbox));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // A room may hold the mailbox for a moment longer; the socket closes now.
        if let Some(mailbox) = &self.mailbox {
            mailbox.detach();
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read_buf(buffer) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(mailbox) = &self.mailbox {
            mailbox.control(&Bytes::copy_from_slice(bytes));
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

    /// Ready when nothing waits any more.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(mailbox) = &self.mailbox else { return Poll::Ready(Ok(())) };
        while let Progress::Blocked(_) = mailbox.send_waiting()? {
            ready!(self.stream.poll_write_ready(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Both directions end when the socket is dropped.
        Poll::Ready(Ok(()))
    }
}
