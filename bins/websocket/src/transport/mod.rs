//! The part that both transports share: frames, the send queue of a connection, its socket and its close.
//!
//! From the ground up: `framing` turns text into frames, `send_queue` holds what one connection still gets and is the
//! only writer to its socket, `shared_stream` lets the WebSocket library read from that socket, and `socket` opens,
//! flushes and closes it.

#[cfg(test)]
mod conformance;
pub mod framing;
pub mod send_queue;
pub mod shared_stream;
pub mod socket;
