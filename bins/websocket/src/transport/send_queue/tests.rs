//! Tests of the send queue, without a socket and over a real one.

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::transport::framing::text_in;

fn auction(number: u128) -> AuctionId {
    AuctionId::from_uuid(uuid::Uuid::from_u128(number))
}

fn bids(number: u128) -> Delivery {
    Delivery::Latest(Update::Bids(auction(number)))
}

fn taken(queue: &SendQueue) -> Option<Vec<String>> {
    queue.take().map(|frames| frames.iter().map(|frame| text_in(frame).to_owned()).collect())
}

#[test]
fn latest_updates_replace_older_ones_and_answers_stay() {
    let queue = SendQueue::new(Transport::SocketIo, Gauge::default());
    queue.send_events(&[(bids(1), &Event::new("bids", 5))]);
    queue.send_events(&[(Delivery::Reliable, &Event::new("answer", 1))]);
    queue.send_events(&[(Delivery::Latest(Update::Timer(auction(1))), &Event::new("tick", 5))]);
    queue.send_events(&[(bids(2), &Event::new("other", 1))]);
    queue.send_events(&[(bids(1), &Event::new("bids", 8))]);
    queue.send_text("2");
    let expected = ["42[\"answer\",1]", "42[\"tick\",5]", "42[\"other\",1]", "42[\"bids\",8]", "2"];
    assert_eq!(taken(&queue), Some(expected.map(str::to_owned).to_vec()));
    assert_eq!(taken(&queue), Some(vec![]));
}

#[test]
fn overflow_disconnects_instead_of_dropping() {
    let edge = Gauge::default();
    let (one, other) = (SendQueue::new(Transport::Plain, edge.clone()), SendQueue::new(Transport::Plain, edge.clone()));
    other.send_events(&[(Delivery::Reliable, &Event::new("answer", 1))]);
    let queued = edge.get();
    let answer = Event::new("answer", "x".repeat(MAX_QUEUED_BYTES / 4));
    for _ in 0..3 {
        one.send_events(&[(Delivery::Reliable, &answer)]);
    }
    assert!(one.take().is_some_and(|frames| frames.len() == 3));
    assert_eq!(edge.get(), queued, "taken frames are not counted");
    for _ in 0..4 {
        one.send_events(&[(Delivery::Reliable, &answer)]);
    }
    assert!(one.take().is_none());
    assert_eq!(edge.get(), queued, "dropped frames are not counted");
    assert!(other.take().is_some(), "an overflow closes one queue only");
    // The same if several events come at once and only the first fits.
    let third = SendQueue::new(Transport::Plain, edge.clone());
    third.send_events(&[(Delivery::Reliable, &answer); 4]);
    assert!(third.take().is_none());
    assert_eq!(edge.get(), 0);
    // However large an update is, only the latest of its kind is queued, and it does not close the queue.
    let update = Event::new("bids", "x".repeat(MAX_QUEUED_BYTES));
    (0..5).for_each(|_| other.send_events(&[(bids(1), &update)]));
    assert!(other.take().is_some_and(|frames| frames.len() == 1));
}

#[test]
fn full_edge_closes_the_longest_queues_first() {
    let edge = Gauge::default();
    let answer = Event::new("answer", "x".repeat(1_000));
    let frame = signed(answer.frame(Transport::Plain).len());
    let queues = |count: usize| -> Vec<_> {
        std::iter::repeat_with(|| SendQueue::new(Transport::Plain, edge.clone())).take(count).collect()
    };
    let closed = |queue: &&SendQueue| queue.lock().closed;
    // A room of clients that do not read: all get the same, until every queue is closed.
    let (room, other) = (queues(2_000), queues(1));
    let mut most = 0;
    for _ in 0..MAX_QUEUED_BYTES / 1_000 {
        for queue in &room {
            queue.send_events(&[(Delivery::Reliable, &answer)]);
            most = most.max(edge.get());
            // A client outside the room gets its answers all the time.
            other[0].send_events(&[(Delivery::Reliable, &answer)]);
            assert!(other[0].take().is_some_and(|frames| frames.len() == 1));
        }
    }
    assert_eq!(room.iter().filter(closed).count(), room.len());
    assert_eq!(edge.get(), 0);
    let held = MAX_EDGE_QUEUED_BYTES - SHARE_OF_REMAINING_BUDGET * frame;
    assert!((MAX_EDGE_QUEUED_BYTES / 2..held).contains(&most), "{most}");
}

#[test]
fn full_edge_queues_nothing() {
    let edge = Gauge::default();
    edge.set(MAX_EDGE_QUEUED_BYTES);
    let queue = SendQueue::new(Transport::Plain, edge.clone());
    queue.send_events(&[(Delivery::Reliable, &Event::new("answer", 1))]);
    assert!(queue.take().is_none());
    assert_eq!(edge.get(), MAX_EDGE_QUEUED_BYTES);
}

/// Over a real socket whose reader pauses and goes on: every answer arrives in order, with nothing between frames.
#[tokio::test]
async fn reader_that_pauses_gets_whole_frames_in_order() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut reader = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let edge = Gauge::default();
    let queue = Arc::new(SendQueue::new(Transport::Plain, edge.clone()));
    queue.attach(Arc::new(stream.into()));
    let writing = {
        let queue = Arc::clone(&queue);
        tokio::spawn(async move { queue.run().await })
    };
    // Updates fill the socket; answers are then queued.
    let mut sent = 0u64;
    while edge.get() < signed(MAX_QUEUED_BYTES / 2) {
        sent += 1;
        queue.send_events(&[(bids(1), &Event::new("bids", (sent, "x".repeat(50_000))))]);
        queue.send_events(&[(Delivery::Reliable, &Event::new("answer", sent))]);
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
            assert!(frame["data"][0].as_u64() > Some(answers), "an update does not overtake earlier answers");
        }
        rest = &rest[length..];
    }
    assert_eq!(answers, sent);
    assert!(updates > 1 && updates < sent, "{updates} of {sent}");
    assert_eq!(edge.get(), 0);
    drop(reader);
    queue.detach();
    assert!(matches!(writing.await.unwrap(), WriterError::TooSlow));
}

/// A queue whose socket takes nothing more, and the client that does not read.
async fn blocked(edge: &Gauge) -> (SendQueue, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let reader = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let queue = SendQueue::new(Transport::Plain, edge.clone());
    queue.attach(Arc::new(stream.into()));
    let update = Event::new("bids", "x".repeat(33_000));
    while queue.lock().latest.is_empty() {
        queue.send_events(&[(bids(0), &update)]);
    }
    (queue, reader)
}

/// Updates of fifty rooms with the longest names, for clients that read a little now and then.
#[tokio::test]
async fn slow_reader_in_fifty_rooms_holds_no_uncounted_bytes() {
    const ROOMS: u128 = 50;
    let edge = Gauge::default();
    let (slow, mut reader) = blocked(&edge).await;
    let (other, _unread) = blocked(&edge).await;
    for number in 1..=ROOMS {
        let update = Event::new("bids", "x".repeat(33_000));
        for queue in [&slow, &other] {
            queue.send_events(&[(bids(number), &update)]);
        }
    }
    let mut bytes = Vec::new();
    while slow.lock().latest.len() > ROOMS as usize / 2 {
        assert!(reader.read_buf(&mut bytes).await.unwrap() > 0);
        tokio::task::yield_now().await;
        assert!(slow.write_queued().is_ok());
        let (slow, other) = (slow.lock(), other.lock());
        // The write under way is counted whole. It is small, so that updates are replaced until they are written.
        assert!(slow.write_bytes <= 2 * MAX_WRITE_BYTES, "{}", slow.write_bytes);
        assert_eq!(edge.get(), signed(slow.write_bytes + other.write_bytes));
        // The other queue has the same bytes, not a copy.
        for (update, queued) in &slow.latest {
            let same = other.latest.iter().find(|(other, _)| other == update).map(|(_, queued)| queued.frame.as_ptr());
            assert_eq!(same, Some(queued.frame.as_ptr()));
        }
    }
    other.forget(auction(ROOMS));
    assert!(other.lock().latest.iter().all(|(update, _)| update.auction_id() != auction(ROOMS)), "the room was left");
    slow.detach();
    other.detach();
    assert_eq!(edge.get(), 0);
}
