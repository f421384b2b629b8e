//! The send queue of one connection, the only writer to its socket.
//!
//! A frame goes to the kernel at once if nothing is queued. Otherwise it waits: reliable frames in order and bounded
//! in bytes, of updates only the latest of each kind. Queued frames leave together, in the order in which they were
//! queued, so that seq rises in the order of sending.
//!
//! Reliable frames and the bytes handed to the kernel are counted. Queued updates are not: the queues of all members hold
//! the same newest frame of their room, however slow they are, and those of a room that was left are removed. Those of one
//! person, the queued `outbid`, are short and as few as the auctions remembered of a person.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use domain::AuctionId;
use prometheus_client::metrics::gauge::Gauge;
use service::http::Socket;
use socket2::SockRef;
use tokio::sync::Notify;

use crate::event::{Event, Outgoing};
use crate::transport::framing::{PING, Transport, framed};

/// Bytes counted in one queue. A client that leaves so much unread cannot keep up; it is more than the largest answer, a
/// join with a thousand bids (a quarter of it; with the longest names two thirds).
const MAX_QUEUED_BYTES: usize = 1024 * 1024;
/// Bytes counted in all queues of this edge.
const MAX_EDGE_QUEUED_BYTES: i64 = 256 * 1024 * 1024;
/// Divisor of the edge's remaining budget: a connection may queue at most 1/128 of it. As the budget shrinks, the
/// connections with the longest queues are closed first, so slow readers in one room cannot starve another. (Dynamic
/// threshold of shared-memory switches: Choudhury and Hahne, 1998.)
const SHARE_OF_REMAINING_BUDGET: i64 = 128;
/// Time for a socket to take anything at all. After it the client counts as one that does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes after which no further frame is added to one write. A write of several frames copies them, and an update that is
/// part of it is no longer replaced by a newer one.
const MAX_WRITE_BYTES: usize = 64 * 1024;

/// The kind of an update. Updates of the same kind of the same auction replace each other while they are queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// `bid_update`.
    Bids(AuctionId),
    /// `timer_update`.
    Timer(AuctionId),
    /// `presence_update`.
    Presence(AuctionId),
    /// `outbid`: of the auctions that the edge remembers of the person, fifty at most.
    Outbid(AuctionId),
}

impl Update {
    const fn auction_id(self) -> AuctionId {
        match self {
            Self::Bids(auction_id)
            | Self::Timer(auction_id)
            | Self::Presence(auction_id)
            | Self::Outbid(auction_id) => auction_id,
        }
    }
}

/// How a frame is kept while it cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Every frame arrives, in order.
    Reliable,
    /// Only the latest of these arrives.
    Latest(Update),
    /// A frame of the WebSocket protocol itself: accepted even by a closed queue, for the close.
    Control,
}

struct Queued {
    /// Position in the order of arrival.
    order: u64,
    frame: Bytes,
}

#[derive(Default)]
struct State {
    stream: Option<Arc<Socket>>,
    /// The part of the last write that the kernel has not taken yet.
    unwritten: Bytes,
    /// Bytes of the whole last write, 0 if the kernel has taken all. A part keeps the whole in memory.
    write_bytes: usize,
    reliable: VecDeque<Queued>,
    latest: Vec<(Update, Queued)>,
    next_order: u64,
    /// Bytes of reliable frames and of the last write, as counted for this edge.
    counted_bytes: usize,
    /// The queue has overflowed, or the connection is gone or must begin again: no event is accepted any more.
    closed: bool,
    /// It was closed by [`SendQueue::begin_again`].
    must_begin_again: bool,
}

/// How far writing has come.
pub enum Progress {
    /// Nothing is queued any more.
    Done,
    /// The socket takes no more for now.
    Blocked(Arc<Socket>),
}

/// Why nothing more is written to a connection.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// The client does not read fast enough.
    #[error("send queue overflowed or write timed out")]
    TooSlow,
    /// The client's state is that of a log which no longer exists.
    #[error("the client must reconnect")]
    MustBeginAgain,
    /// The socket is broken.
    #[error("failed to write to the socket")]
    Broken(#[from] io::Error),
}

/// Frames that one connection has not taken yet, and its socket once it is attached.
pub struct SendQueue {
    transport: Transport,
    state: Mutex<State>,
    /// Something was queued, or the state has changed.
    changed: Notify,
    /// Bytes in all queues of this edge.
    edge_queued: Gauge,
}

impl State {
    /// Writes a frame to the kernel if nothing is queued before it. True if the frame need not be queued.
    fn write_directly(&mut self, frame: &Bytes) -> bool {
        let idle = self.unwritten.is_empty() && self.reliable.is_empty() && self.latest.is_empty();
        let Some(stream) = self.stream.as_ref().filter(|_| idle) else { return false };
        match write_now(stream, frame) {
            Ok(written) if written == frame.len() => true,
            Ok(written) => {
                self.begin_write(frame.clone());
                self.unwritten.advance(written);
                true
            }
            // The reader notices that the connection is broken.
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    fn begin_write(&mut self, bytes: Bytes) {
        self.write_bytes = bytes.len();
        self.unwritten = bytes;
    }

    /// Removes the frame that was queued first.
    fn pop(&mut self) -> Option<Bytes> {
        let update = self.latest.first().map(|(_, queued)| queued.order);
        match self.reliable.front().map(|queued| queued.order) {
            Some(order) if update.is_none_or(|update| order < update) => self.reliable.pop_front(),
            _ => update.map(|_| self.latest.remove(0).1),
        }
        .map(|queued| queued.frame)
    }

    /// Removes all queued frames, in the order in which they were queued.
    fn drain(&mut self) -> Vec<Bytes> {
        std::iter::from_fn(|| self.pop()).collect()
    }

    /// Begins to write the frames that were queued first. False if none is queued.
    fn begin_queued(&mut self) -> bool {
        let (mut frames, mut bytes) = (Vec::new(), 0);
        while bytes < MAX_WRITE_BYTES
            && let Some(frame) = self.pop()
        {
            bytes += frame.len();
            frames.push(frame);
        }
        self.begin_write(match frames.as_slice() {
            [frame] => frame.clone(),
            frames => frames.concat().into(),
        });
        !frames.is_empty()
    }
}

impl SendQueue {
    /// An empty queue. `edge_queued` counts the bytes in all queues of the edge.
    pub fn new(transport: Transport, edge_queued: Gauge) -> Self {
        Self { transport, state: Mutex::default(), changed: Notify::new(), edge_queued }
    }

    /// Sends an event for this connection alone.
    pub fn send(&self, outgoing: &Outgoing) {
        self.add(&[(Delivery::Reliable, &outgoing.frame(self.transport))]);
    }

    /// Sends events that other connections get as well, in this order and in one write.
    pub fn send_events(&self, events: &[(Delivery, &Event)]) {
        match events {
            [(delivery, event)] => self.add(&[(*delivery, event.frame(self.transport))]),
            several => {
                let frames: Vec<_> =
                    several.iter().map(|(delivery, event)| (*delivery, event.frame(self.transport))).collect();
                self.add(&frames);
            }
        }
    }

    /// Sends a text of the transport's own protocol.
    pub fn send_text(&self, text: &str) {
        self.add(&[(Delivery::Reliable, &framed(text))]);
    }

    /// Sends whole frames of the WebSocket protocol.
    pub fn send_control(&self, frames: &Bytes) {
        self.add(&[(Delivery::Control, frames)]);
    }

    /// Sends a WebSocket ping.
    pub fn ping(&self) {
        self.send_control(&PING);
    }

    fn add(&self, frames: &[(Delivery, &Bytes)]) {
        let together;
        let all = match frames {
            [(_, frame)] => *frame,
            several => {
                together = several.iter().map(|(_, frame)| &frame[..]).collect::<Vec<_>>().concat().into();
                &together
            }
        };
        let mut state = self.lock();
        if state.closed && !matches!(frames, [(Delivery::Control, _)]) {
            return;
        }
        if state.write_directly(all) {
            if state.unwritten.is_empty() {
                return;
            }
            self.count(&mut state);
        } else {
            for (delivery, frame) in frames {
                self.enqueue(&mut state, *delivery, (*frame).clone());
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    fn enqueue(&self, state: &mut State, delivery: Delivery, frame: Bytes) {
        if state.closed && delivery != Delivery::Control {
            return;
        }
        state.next_order += 1;
        let bytes = frame.len();
        let queued = Queued { order: state.next_order, frame };
        if let Delivery::Latest(update) = delivery {
            state.latest.retain(|(other, _)| *other != update);
            return state.latest.push((update, queued));
        }
        let remaining = MAX_EDGE_QUEUED_BYTES - self.edge_queued.get();
        let most = signed(MAX_QUEUED_BYTES).min(remaining / SHARE_OF_REMAINING_BUDGET);
        if signed(state.counted_bytes + bytes) > most {
            return self.disconnect(state);
        }
        self.edge_queued.inc_by(signed(bytes));
        state.counted_bytes += bytes;
        state.reliable.push_back(queued);
    }

    /// Closes the queue and drops its frames.
    fn disconnect(&self, state: &mut State) {
        state.closed = true;
        drop(state.drain());
        self.count(state);
    }

    /// Counts the bytes again, after frames were removed.
    fn count(&self, state: &mut State) {
        let reliable: usize = state.reliable.iter().map(|queued| queued.frame.len()).sum();
        let counted = reliable + state.write_bytes;
        self.edge_queued.inc_by(signed(counted) - signed(state.counted_bytes));
        state.counted_bytes = counted;
    }

    /// Closes the connection, so that the client reconnects and begins again.
    pub fn begin_again(&self) {
        let mut state = self.lock();
        state.must_begin_again = !state.closed;
        self.disconnect(&mut state);
        drop(state);
        self.changed.notify_one();
    }

    /// Removes the updates of an auction that the connection has left.
    pub fn forget(&self, auction_id: AuctionId) {
        self.lock().latest.retain(|(update, _)| update.auction_id() != auction_id);
    }

    /// From now on frames go to this socket.
    pub fn attach(&self, stream: Arc<Socket>) {
        self.lock().stream = Some(stream);
        self.changed.notify_one();
    }

    /// The connection is gone: closes the queue and lets the socket go.
    pub fn detach(&self) {
        let mut state = self.lock();
        state.stream = None;
        state.begin_write(Bytes::new());
        self.disconnect(&mut state);
        drop(state);
        self.changed.notify_one();
    }

    /// Writes queued frames, as many as the socket takes now.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn write_queued(&self) -> io::Result<Progress> {
        let mut state = self.lock();
        let Some(stream) = state.stream.clone() else { return Ok(Progress::Done) };
        loop {
            if state.unwritten.is_empty() {
                let has_begun = state.begin_queued();
                self.count(&mut state);
                if !has_begun {
                    return Ok(Progress::Done);
                }
            }
            match stream.try_write(&state.unwritten) {
                Ok(written) => state.unwritten.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Blocked(stream)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes queued frames whenever the socket takes them, until nothing more can be written.
    pub async fn run(&self) -> WriterError {
        loop {
            self.changed.notified().await;
            loop {
                if let Some(error) = self.why_closed() {
                    return error;
                }
                match self.write_queued() {
                    Ok(Progress::Done) => break,
                    Ok(Progress::Blocked(stream)) => {
                        // Boxed: a connection takes memory for it only while its client is slow.
                        let writable = tokio::time::timeout(WRITE_TIMEOUT, self.writable_or_closed(&stream));
                        match Box::pin(writable).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => return error.into(),
                            Err(_) => return WriterError::TooSlow,
                        }
                    }
                    Err(error) => return error.into(),
                }
            }
        }
    }

    fn why_closed(&self) -> Option<WriterError> {
        let state = self.lock();
        let error = if state.must_begin_again { WriterError::MustBeginAgain } else { WriterError::TooSlow };
        state.closed.then_some(error)
    }

    async fn writable_or_closed(&self, stream: &Socket) -> io::Result<()> {
        loop {
            tokio::select! {
                writable = stream.writable() => return writable,
                () = self.changed.notified() => if self.lock().closed {
                    return Ok(());
                }
            }
        }
    }

    /// Waits until something is queued, for a client that polls.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Removes all queued frames, for a client that polls. None once the queue has overflowed.
    pub fn take(&self) -> Option<Vec<Bytes>> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let frames = state.drain();
        self.count(&mut state);
        Some(frames)
    }

    /// A poisoned lock is still used: `count` computes the bytes from the queued frames again.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SendQueue {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Like [`Socket::try_write`], but without TLS it does not ask tokio whether the socket is ready: that check costs as
/// much as everything else here.
fn write_now(stream: &Socket, frame: &[u8]) -> io::Result<usize> {
    let Some(bare) = stream.bare() else { return stream.try_write(frame) };
    match SockRef::from(bare).send(frame) {
        // Tries again through tokio, which then records that the socket is full and waits until it is writable.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.try_write(frame),
        sent => sent,
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
