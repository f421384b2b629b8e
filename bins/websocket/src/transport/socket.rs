//! The socket of a connection after the handshake: opened, handed over to the send queue, flushed and closed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use protocol::frames::close;
use protocol::input::MAX_BODY_BYTES;
use tokio::io::AsyncReadExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Utf8Bytes};

use crate::transport::send_queue::{SendQueue, WriterError};
use crate::transport::shared_stream::SharedStream;

/// Bytes of a connection's read buffer. A bid has less than 200 bytes; the buffer grows for a larger request.
const READ_BUFFER_BYTES: usize = 512;
/// Bytes of the library's write buffer, for its own frames.
const WRITE_BUFFER_BYTES: usize = 4 * 1024;
/// Time for one write of the library or one flush. A longer one means that the client does not read at all.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the client to answer a close.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// Time for a slow client to drain its socket buffer (possibly megabytes) before the close frame can reach it.
const SLOW_CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// A server's WebSocket over a stream that a send queue can take over.
pub type Socket = WebSocketStream<SharedStream>;

/// Why a connection ends.
#[derive(Debug)]
pub enum End {
    /// The client closed, or the connection broke.
    Gone,
    /// The server closes with this code and reason.
    Close(u16, &'static str),
}

impl End {
    /// The end that follows from an error of the library: a violation of the protocol is closed with its code.
    pub const fn of(error: &tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Capacity(_) => Self::Close(close::TOO_BIG, "larger than 64 KiB"),
            tungstenite::Error::Utf8(_) => Self::Close(close::NOT_TEXT, "not UTF-8"),
            tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Gone,
            tungstenite::Error::Protocol(_) => Self::Close(close::PROTOCOL_ERROR, "not as RFC 6455 has it"),
            _ => Self::Gone,
        }
    }
}

impl From<WriterError> for End {
    fn from(error: WriterError) -> Self {
        match error {
            WriterError::TooSlow => Self::Close(close::TOO_SLOW, "not read fast enough"),
            WriterError::MustBeginAgain => Self::Close(close::DRAINING, "the log was restored"),
            WriterError::Broken(_) => Self::Gone,
        }
    }
}

/// A socket after the HTTP reply that switched protocols. `early`: bytes that the client sent right behind its request
/// and that were read together with it.
pub async fn open(stream: service::http::Socket, early: Vec<u8>) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(MAX_BODY_BYTES))
        .max_frame_size(Some(MAX_BODY_BYTES));
    WebSocketStream::from_partially_read(SharedStream::new(stream), early, Role::Server, Some(config)).await
}

/// From now on the queue writes to the socket.
pub async fn hand_over(socket: &mut Socket, queue: &Arc<SendQueue>) {
    // A pong may be half written. If that does not end in time, the connection will not last either.
    flush(socket).await;
    socket.get_mut().hand_over(queue);
}

/// Writes all queued frames, bounded by [`WRITE_TIMEOUT`].
pub async fn flush(socket: &mut Socket) {
    drop(tokio::time::timeout(WRITE_TIMEOUT, socket.flush()).await);
}

/// Sends a close frame and waits for the client's answer, both bounded.
pub async fn close_socket(socket: &mut Socket, code: u16, reason: &'static str) {
    let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
    let within = if code == close::TOO_SLOW { SLOW_CLOSE_WITHIN } else { CLOSE_WITHIN };
    drop(tokio::time::timeout(within, socket.close(Some(frame))).await);
    // The client answers the close. Its further bytes are read and dropped: the kernel would reset a connection that is
    // closed with unread bytes, and the close could be lost. After a violation the library reads no more.
    let rest = Box::pin(async {
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
        socket.get_ref().finish();
        let mut bytes = vec![0; READ_BUFFER_BYTES];
        while socket.get_mut().read(&mut bytes).await.is_ok_and(|read| read > 0) {}
    });
    drop(tokio::time::timeout(CLOSE_WITHIN, rest).await);
}

/// The client has closed: the library has the answer ready, and it must leave before the connection ends.
pub async fn answer_close(socket: &mut Socket) -> End {
    // The library reports the end as an error.
    drop(tokio::time::timeout(CLOSE_WITHIN, socket.flush()).await);
    End::Gone
}
