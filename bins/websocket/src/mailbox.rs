//! What one connection is still to be sent, and the only writer to its socket.
//!
//! A frame goes to the kernel at once where nothing waits. Else it waits in one of two lanes: what must arrive
//! is kept in order and bounded in bytes; of updates only the newest of each kind is kept. What waits leaves
//! together, in the order in which it came, so that seq rises in the order of sending.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use domain::AuctionId;
use prometheus_client::metrics::gauge::Gauge;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::outgoing::{Door, Event, Outgoing, framed};

/// Frames that must arrive and wait, in bytes a connection. One that leaves so much unread cannot keep up; it is
/// more than the largest answer, a join with a thousand bids (a quarter of it; with the longest names two thirds).
/// Updates come on top: three an auction at most.
const MAX_WAITING_BYTES: usize = 1024 * 1024;
/// The same of all connections of this edge together.
const MAX_EDGE_WAITING_BYTES: i64 = 256 * 1024 * 1024;
/// A connection may have this part of what the edge has left: as it fills up, those who hold most are closed first,
/// and a room of slow readers costs nobody in another his answer. (The dynamic threshold of shared-memory switches:
/// Choudhury and Hahne, 1998.)
const SHARE_OF_WHAT_IS_LEFT: i64 = 128;
/// A socket that takes nothing for this long is not read at all.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
static PING: Bytes = Bytes::from_static(&[0x89, 0]);

/// Updates of the same kind of the same auction replace each other while they wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    Bids(AuctionId),
    Timer(AuctionId),
    Presence(AuctionId),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    MustArrive,
    /// Only the newest of these need arrive.
    Newest(Update),
    /// Of the WebSocket protocol itself: taken even when nothing else is, for the close.
    Control,
}

struct Waiting {
    /// Rises with each frame that comes.
    came: u64,
    frame: Bytes,
}

#[derive(Default)]
struct State {
    line: Option<Arc<TcpStream>>,
    /// What the kernel has not taken yet of the last write.
    rest: Bytes,
    must_arrive: VecDeque<Waiting>,
    newest: Vec<(Update, Waiting)>,
    came: u64,
    /// Of what must arrive, until it has been written whole.
    waiting_bytes: usize,
    /// More came than fits, or the connection is gone: no event is taken any more.
    is_over: bool,
}

/// How far sending has come.
pub enum Progress {
    Done,
    /// The socket takes no more for now.
    Blocked(Arc<TcpStream>),
}

/// Why a connection gets nothing any more.
#[derive(Debug, thiserror::Error)]
pub enum Stuck {
    #[error("not read fast enough")]
    TooSlow,
    #[error(transparent)]
    Broken(#[from] io::Error),
}

pub struct Mailbox {
    door: Door,
    state: Mutex<State>,
    news: Notify,
    /// Bytes that wait in all mailboxes of this edge.
    edge_waiting: Gauge,
}

impl State {
    /// Gives a frame to the kernel if nothing waits before it: true if it need not wait itself.
    fn send_now(&mut self, frame: &Bytes) -> bool {
        let idle = self.rest.is_empty() && self.must_arrive.is_empty() && self.newest.is_empty();
        let Some(line) = self.line.as_ref().filter(|_| idle) else { return false };
        match write_now(line, frame) {
            Ok(written) => {
                self.rest = frame.slice(written..);
                true
            }
            // That the connection is broken, its reader finds.
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// All that waits, in the order in which it came.
    fn gather(&mut self) -> Vec<Bytes> {
        let (must_arrive, newest) = (std::mem::take(&mut self.must_arrive), std::mem::take(&mut self.newest));
        let mut waiting: Vec<Waiting> =
            must_arrive.into_iter().chain(newest.into_iter().map(|(_, waiting)| waiting)).collect();
        waiting.sort_by_key(|waiting| waiting.came);
        waiting.into_iter().map(|waiting| waiting.frame).collect()
    }
}

impl Mailbox {
    pub fn new(door: Door, edge_waiting: Gauge) -> Self {
        Self { door, state: Mutex::default(), news: Notify::new(), edge_waiting }
    }

    /// What must arrive, for this connection alone.
    pub fn push(&self, outgoing: &Outgoing) {
        self.add(&[(Lane::MustArrive, &outgoing.frame(self.door))]);
    }

    /// What others get as well, in this order and in one write.
    pub fn give(&self, events: &[(Lane, &Event)]) {
        match events {
            [(lane, event)] => self.add(&[(*lane, event.frame(self.door))]),
            several => {
                let frames: Vec<_> = several.iter().map(|(lane, event)| (*lane, event.frame(self.door))).collect();
                self.add(&frames);
            }
        }
    }

    /// A text of the door's own protocol.
    pub fn raw(&self, text: &str) {
        self.add(&[(Lane::MustArrive, &framed(text))]);
    }

    /// Whole frames of the WebSocket protocol.
    pub fn control(&self, frames: &Bytes) {
        self.add(&[(Lane::Control, frames)]);
    }

    pub fn ping(&self) {
        self.control(&PING);
    }

    fn add(&self, frames: &[(Lane, &Bytes)]) {
        let together;
        let all = match frames {
            [(_, frame)] => *frame,
            several => {
                together = several.iter().map(|(_, frame)| &frame[..]).collect::<Vec<_>>().concat().into();
                &together
            }
        };
        let mut state = self.lock();
        if state.is_over && !matches!(frames, [(Lane::Control, _)]) {
            return;
        }
        if state.send_now(all) {
            if state.rest.is_empty() {
                return;
            }
        } else {
            for (lane, frame) in frames {
                self.keep(&mut state, *lane, (*frame).clone());
            }
        }
        drop(state);
        self.news.notify_one();
    }

    fn keep(&self, state: &mut State, lane: Lane, frame: Bytes) {
        if state.is_over && lane != Lane::Control {
            return;
        }
        state.came += 1;
        let (bytes, waiting) = (frame.len(), Waiting { came: state.came, frame });
        if let Lane::Newest(update) = lane {
            state.newest.retain(|(other, _)| *other != update);
            return state.newest.push((update, waiting));
        }
        let left = MAX_EDGE_WAITING_BYTES - self.edge_waiting.get();
        let most = signed(MAX_WAITING_BYTES).min(left / SHARE_OF_WHAT_IS_LEFT);
        if signed(state.waiting_bytes + bytes) > most {
            return self.give_up(state);
        }
        self.edge_waiting.inc_by(signed(bytes));
        state.waiting_bytes += bytes;
        state.must_arrive.push_back(waiting);
    }

    fn give_up(&self, state: &mut State) {
        state.is_over = true;
        drop(state.gather());
        self.release(state);
    }

    /// What was counted has left or been dropped.
    fn release(&self, state: &mut State) {
        let left = state.must_arrive.iter().map(|waiting| waiting.frame.len()).sum();
        self.edge_waiting.dec_by(signed(state.waiting_bytes - left));
        state.waiting_bytes = left;
    }

    /// From now on frames go to this socket.
    pub fn attach(&self, line: Arc<TcpStream>) {
        self.lock().line = Some(line);
        self.news.notify_one();
    }

    /// The connection is gone.
    pub fn detach(&self) {
        let mut state = self.lock();
        (state.line, state.rest) = (None, Bytes::new());
        self.give_up(&mut state);
        drop(state);
        self.news.notify_one();
    }

    /// Writes what waits, as far as the socket takes it.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn send_waiting(&self) -> io::Result<Progress> {
        let mut state = self.lock();
        let Some(line) = state.line.clone() else { return Ok(Progress::Done) };
        loop {
            if state.rest.is_empty() {
                if state.waiting_bytes > 0 {
                    self.release(&mut state);
                }
                state.rest = match state.gather().as_slice() {
                    [] => return Ok(Progress::Done),
                    [frame] => frame.clone(),
                    frames => frames.concat().into(),
                };
            }
            match line.try_write(&state.rest) {
                Ok(written) => state.rest.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Blocked(line)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends what had to wait, as the socket takes it, until the connection cannot go on.
    pub async fn deliver(&self) -> Stuck {
        loop {
            self.news.notified().await;
            loop {
                if self.lock().is_over {
                    return Stuck::TooSlow;
                }
                match self.send_waiting() {
                    Ok(Progress::Done) => break,
                    Ok(Progress::Blocked(line)) => {
                        match tokio::time::timeout(WRITE_TIMEOUT, self.writable_or_over(&line)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => return error.into(),
                            Err(_) => return Stuck::TooSlow,
                        }
                    }
                    Err(error) => return error.into(),
                }
            }
        }
    }

    async fn writable_or_over(&self, line: &TcpStream) -> io::Result<()> {
        loop {
            tokio::select! {
                writable = line.writable() => return writable,
                () = self.news.notified() => if self.lock().is_over {
                    return Ok(());
                }
            }
        }
    }

    /// Waits until there is something to take.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Everything that waits, for one who has no socket; None once more came than fits.
    pub fn take(&self) -> Option<Vec<Bytes>> {
        let mut state = self.lock();
        if state.is_over {
            return None;
        }
        let frames = state.gather();
        self.release(&mut state);
        Some(frames)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole after every statement, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.detach();
    }
}

/// As [`TcpStream::try_write`], but past what tokio remembers of the socket: to look that up costs as much as all
/// the rest here.
fn write_now(line: &TcpStream, frame: &[u8]) -> io::Result<usize> {
    match SockRef::from(line).send(frame) {
        // Once more by tokio, which then knows that it must wait for room.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => line.try_write(frame),
        sent => sent,
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::outgoing::text_in;

    fn auction(number: u128) -> AuctionId {
        AuctionId::from_uuid(uuid::Uuid::from_u128(number))
    }

    fn bids(number: u128) -> Lane {
        Lane::Newest(Update::Bids(auction(number)))
    }

    fn taken(mailbox: &Mailbox) -> Option<Vec<String>> {
        mailbox.take().map(|frames| frames.iter().map(|frame| text_in(frame).to_owned()).collect())
    }

    #[test]
    fn newest_updates_replace_older_ones_and_answers_stay() {
        let mailbox = Mailbox::new(Door::SocketIo, Gauge::default());
        mailbox.give(&[(bids(1), &Event::new("bids", 5))]);
        mailbox.give(&[(Lane::MustArrive, &Event::new("answer", 1))]);
        mailbox.give(&[(Lane::Newest(Update::Timer(auction(1))), &Event::new("tick", 5))]);
        mailbox.give(&[(bids(2), &Event::new("other", 1))]);
        mailbox.give(&[(bids(1), &Event::new("bids", 8))]);
        mailbox.raw("2");
        let expected = ["42[\"answer\",1]", "42[\"tick\",5]", "42[\"other\",1]", "42[\"bids\",8]", "2"];
        assert_eq!(taken(&mailbox), Some(expected.map(str::to_owned).to_vec()));
        assert_eq!(taken(&mailbox), Some(vec![]));
    }

    #[test]
    fn what_does_not_fit_ends_the_connection_instead_of_being_lost() {
        let edge = Gauge::default();
        let (one, other) = (Mailbox::new(Door::Plain, edge.clone()), Mailbox::new(Door::Plain, edge.clone()));
        other.give(&[(Lane::MustArrive, &Event::new("answer", 1))]);
        let waiting = edge.get();
        let answer = Event::new("answer", "x".repeat(MAX_WAITING_BYTES / 4));
        for _ in 0..3 {
            one.give(&[(Lane::MustArrive, &answer)]);
        }
        assert!(one.take().is_some_and(|frames| frames.len() == 3));
        assert_eq!(edge.get(), waiting, "what was taken does not wait");
        for _ in 0..4 {
            one.give(&[(Lane::MustArrive, &answer)]);
        }
        assert!(one.take().is_none());
        assert_eq!(edge.get(), waiting, "what was dropped does not wait");
        assert!(other.take().is_some(), "another's overflow is his");
        // The same where several come at once, of which the first still fits.
        let third = Mailbox::new(Door::Plain, edge.clone());
        third.give(&[(Lane::MustArrive, &answer); 4]);
        assert!(third.take().is_none());
        assert_eq!(edge.get(), 0);
        // However much one kind of update is, the newest alone waits, and costs nobody his place.
        let update = Event::new("bids", "x".repeat(MAX_WAITING_BYTES));
        (0..5).for_each(|_| other.give(&[(bids(1), &update)]));
        assert!(other.take().is_some_and(|frames| frames.len() == 1));
    }

    #[test]
    fn an_edge_that_fills_up_gives_up_those_who_hold_most() {
        let edge = Gauge::default();
        let answer = Event::new("answer", "x".repeat(1_000));
        let frame = signed(answer.frame(Door::Plain).len());
        let mailboxes = |count: usize| -> Vec<_> {
            std::iter::repeat_with(|| Mailbox::new(Door::Plain, edge.clone())).take(count).collect()
        };
        let is_over = |mailbox: &&Mailbox| mailbox.lock().is_over;
        // A room in which nobody reads: all get the same, until none of them is left.
        let (room, other) = (mailboxes(2_000), mailboxes(1));
        let mut most = 0;
        for _ in 0..MAX_WAITING_BYTES / 1_000 {
            for mailbox in &room {
                mailbox.give(&[(Lane::MustArrive, &answer)]);
                most = most.max(edge.get());
                // Somebody else gets his answer at any time.
                other[0].give(&[(Lane::MustArrive, &answer)]);
                assert!(other[0].take().is_some_and(|frames| frames.len() == 1));
            }
        }
        assert_eq!(room.iter().filter(is_over).count(), room.len());
        assert_eq!(edge.get(), 0);
        let held = MAX_EDGE_WAITING_BYTES - SHARE_OF_WHAT_IS_LEFT * frame;
        assert!((MAX_EDGE_WAITING_BYTES / 2..held).contains(&most), "{most}");
    }

    #[test]
    fn a_full_edge_takes_nothing() {
        let edge = Gauge::default();
        edge.set(MAX_EDGE_WAITING_BYTES);
        let mailbox = Mailbox::new(Door::Plain, edge.clone());
        mailbox.give(&[(Lane::MustArrive, &Event::new("answer", 1))]);
        assert!(mailbox.take().is_none());
        assert_eq!(edge.get(), MAX_EDGE_WAITING_BYTES);
    }

    /// Over a real socket whose reader stops and goes on: every answer in order, between frames nothing.
    #[tokio::test]
    async fn a_reader_who_stops_for_a_while_gets_whole_frames_in_order() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut reader = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let edge = Gauge::default();
        let mailbox = Arc::new(Mailbox::new(Door::Plain, edge.clone()));
        mailbox.attach(Arc::new(stream));
        let delivering = {
            let mailbox = Arc::clone(&mailbox);
            tokio::spawn(async move { mailbox.deliver().await })
        };
        // Updates fill the socket; answers then wait.
        let mut sent = 0u64;
        while edge.get() < signed(MAX_WAITING_BYTES / 2) {
            sent += 1;
            mailbox.give(&[(bids(1), &Event::new("bids", (sent, "x".repeat(50_000))))]);
            mailbox.give(&[(Lane::MustArrive, &Event::new("answer", sent))]);
            tokio::task::yield_now().await;
        }
        let mut bytes = Vec::new();
        let last = framed(&format!(r#"{{"event":"answer","data":{sent}}}"#));
        while !bytes.ends_with(&last) {
            let read = tokio::time::timeout(WRITE_TIMEOUT, reader.read_buf(&mut bytes));
            assert!(read.await.unwrap().unwrap() > 0);
        }
        let (mut answers, mut updates, mut rest) = (0, 0, &bytes[..]);
        while !rest.is_empty() {
            let length = match rest[1] {
                126 => 4 + usize::from(u16::from_be_bytes([rest[2], rest[3]])),
                length => 2 + usize::from(length),
            };
            let frame: serde_json::Value = serde_json::from_str(text_in(&rest[..length])).unwrap();
            if frame["event"] == "answer" {
                answers += 1;
                assert_eq!(frame["data"], answers);
            } else {
                updates += 1;
                assert!(frame["data"][0].as_u64() > Some(answers), "an update does not overtake what came before it");
            }
            rest = &rest[length..];
        }
        assert_eq!(answers, sent);
        assert!(updates > 1 && updates < sent, "{updates} of {sent}");
        assert_eq!(edge.get(), 0);
        drop(reader);
        mailbox.detach();
        assert!(matches!(delivering.await.unwrap(), Stuck::TooSlow));
    }
}
