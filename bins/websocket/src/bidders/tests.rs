use domain::{BidId, BidKind, Outcome};
use protocol::Bid;
use serde_json::Value;

use super::*;
use crate::transport::framing::{Transport, text_in};

fn user(number: u128) -> UserId {
    UserId::from_uuid(uuid::Uuid::from_u128(number))
}

fn amount(seq: u64) -> Amount {
    Amount::from_cents(100 * seq).unwrap()
}

fn queue() -> Arc<SendQueue> {
    Arc::new(SendQueue::new(Transport::Plain, Gauge::default()))
}

fn bidders() -> Bidders {
    Bidders::new(Gauge::default())
}

/// A record with these bids, one for each person, of which the last leads.
fn record(first_seq: u64, people: &[u128]) -> Record {
    let stored = include_str!("../../../../libs/protocol/tests/stored/live.jsonl");
    let mut record: Record = serde_json::from_str(stored.lines().next().unwrap()).unwrap();
    record.bids = (first_seq..)
        .zip(people)
        .map(|(seq, person)| Bid {
            seq,
            bid_id: BidId::from_uuid(uuid::Uuid::from_u128(seq.into())),
            user_id: user(*person),
            username: "anna".to_owned(),
            amount: amount(seq),
            timestamp: seq,
            kind: BidKind::Bid.into(),
            sealed: None,
        })
        .collect();
    let last = record.bids.last().unwrap();
    record.seq = last.seq;
    record.state.high_bid = Some(last.amount);
    record.state.high_bidder_id = Some(last.user_id);
    record.state.minimum_bid = amount(last.seq + 1);
    record
}

fn committed(auction_id: AuctionId) -> CommittedState {
    let Record { seq, head, state, .. } = record(3, &[1]);
    CommittedState {
        auction_id,
        seq,
        head,
        stream_seq: 1,
        state,
        recent_bids: Vec::new(),
        participant_count: 0,
        slow_mode_seconds: 0,
        has_secrets: false,
        opens_at: None,
    }
}

fn closed(record: &Record) -> Record {
    let mut closed =
        Record { kind: RecordKind::Closed.into(), seq: record.seq + 1, bids: Vec::new(), ..record.clone() };
    closed.state.outcome = Some(Outcome::Sold.into());
    closed.state.winner_id = record.state.high_bidder_id;
    closed.state.winning_bid = record.state.high_bid;
    closed
}

/// The frames of a queue, as `event seq`; for an `outbid` also the own bid, for an end whether it was won.
fn taken(queue: &SendQueue) -> Vec<String> {
    let frames = queue.take().unwrap();
    frames
        .iter()
        .map(|frame| {
            let frame: Value = serde_json::from_str(text_in(frame)).unwrap();
            let (event, data) = (frame["event"].as_str().unwrap(), &frame["data"]);
            let own = if event == "outbid" { &data["your_bid"] } else { &data["you_won"] };
            format!("{event} {} {own}", data["seq"])
        })
        .collect()
}

async fn show(bidders: &Bidders, record: &Record) {
    Notice::send_all(bidders.observe(record, Instant::now())).await;
}

#[tokio::test]
async fn every_socket_of_the_overtaken_person_is_notified_once() {
    let bidders = bidders();
    let (phone, laptop, ben) = (queue(), queue(), queue());
    assert!(bidders.connect(user(1), 1, Arc::clone(&phone)), "nothing is known of the person");
    bidders.connect(user(1), 2, Arc::clone(&laptop));
    bidders.connect(user(2), 3, Arc::clone(&ben));
    show(&bidders, &record(3, &[1])).await;
    assert!(taken(&phone).is_empty(), "the person leads");
    show(&bidders, &record(4, &[2])).await;
    show(&bidders, &record(5, &[3])).await;
    for queue in [&phone, &laptop] {
        assert_eq!(taken(queue), ["outbid 4 3.0"], "once for each bid, not for each record after it");
    }
    assert_eq!(taken(&ben), ["outbid 5 4.0"]);
    // Overtaken within the record of the own bid; the newest bid counts.
    show(&bidders, &record(6, &[1, 2, 1, 2])).await;
    assert_eq!(taken(&phone), ["outbid 9 8.0"]);
    assert!(taken(&ben).is_empty());
    // Away for a moment: notified by the next record after the return.
    bidders.disconnect(user(2), 3, Instant::now());
    show(&bidders, &record(10, &[1])).await;
    bidders.connect(user(2), 4, Arc::clone(&ben));
    show(&bidders, &record(11, &[3])).await;
    assert_eq!(taken(&ben), ["outbid 11 9.0"]);
}

#[tokio::test]
async fn bid_known_from_its_answer_waits_for_a_record_of_the_log() {
    let bidders = bidders();
    let anna = queue();
    bidders.connect(user(1), 1, Arc::clone(&anna));
    let next = record(8, &[2]);
    bidders.placed(next.auction_id, user(1), 9, amount(9));
    show(&bidders, &next).await;
    assert!(taken(&anna).is_empty(), "an older record says nothing about the bid");
    let later = record(10, &[2]);
    show(&bidders, &later).await;
    assert_eq!(taken(&anna), ["outbid 10 9.0"]);
    bidders.placed(next.auction_id, user(1), 9, amount(9));
    show(&bidders, &record(11, &[3])).await;
    assert!(taken(&anna).is_empty(), "a repeated answer repeats no notice");
}

#[tokio::test]
async fn bid_learned_of_after_the_record_that_overtook_it_is_notified() {
    let bidders = bidders();
    let anna = queue();
    let id = record(8, &[2]).auction_id;
    bidders.connect(user(2), 2, queue());
    show(&bidders, &record(8, &[2])).await;
    bidders.connect(user(1), 1, Arc::clone(&anna));
    bidders.placed(id, user(1), 7, amount(7));
    Notice::send_all(bidders.overtaken(id)).await;
    Notice::send_all(bidders.overtaken(id)).await;
    assert_eq!(taken(&anna), ["outbid 8 7.0"]);
}

#[tokio::test]
async fn leader_that_a_withdrawn_record_denied_is_notified_again() {
    let bidders = bidders();
    let anna = queue();
    bidders.connect(user(1), 1, Arc::clone(&anna));
    show(&bidders, &record(3, &[1])).await;
    show(&bidders, &record(4, &[2])).await;
    assert_eq!(taken(&anna), ["outbid 4 3.0"]);
    show(&bidders, &record(3, &[1])).await;
    show(&bidders, &record(4, &[3])).await;
    assert_eq!(taken(&anna), ["outbid 4 3.0"]);
}

#[tokio::test]
async fn end_reaches_the_bidders_outside_the_room_once() {
    let bidders = bidders();
    let (in_room, outside, loser, stranger) = (queue(), queue(), queue(), queue());
    bidders.connect(user(1), 1, Arc::clone(&in_room));
    bidders.connect(user(1), 2, Arc::clone(&outside));
    bidders.connect(user(2), 3, Arc::clone(&loser));
    bidders.connect(user(3), 4, Arc::clone(&stranger));
    let bid = record(3, &[2, 1]);
    show(&bidders, &bid).await;
    assert_eq!(taken(&loser), ["outbid 4 3.0"]);
    let end = closed(&bid);
    Notice::send_all(bidders.end(&end, Instant::now(), Naming::Names, |session| session == 1)).await;
    // The answer to the last bid may come behind its records.
    bidders.placed(bid.auction_id, user(1), 4, amount(4));
    assert!(bidders.begin_following(bid.auction_id).is_none());
    Notice::send_all(bidders.end(&end, Instant::now(), Naming::Names, |_| false)).await;
    assert_eq!(taken(&outside), ["auction_ended 5 true"]);
    assert_eq!(taken(&loser), ["auction_ended 5 false"]);
    assert!(taken(&in_room).is_empty(), "the room has sent it");
    assert!(taken(&stranger).is_empty());
}

#[tokio::test]
async fn auction_is_followed_while_a_bidder_is_remembered_and_no_room_is_open() {
    let followed = Gauge::default();
    let bidders = Bidders::new(followed.clone());
    let id = record(3, &[1]).auction_id;
    bidders.connect(user(1), 1, queue());
    assert!(bidders.begin_following(id).is_none(), "no one has bid");
    bidders.placed(id, user(1), 3, amount(3));
    let first = bidders.begin_following(id).unwrap();
    assert!(bidders.begin_following(id).is_none(), "it is followed");
    bidders.room_opened(&committed(id));
    assert!(first.is_cancelled() && bidders.begin_following(id).is_none());
    bidders.room_closed(id);
    let second = bidders.begin_following(id).unwrap();
    assert_eq!(followed.get(), 1);
    let now = Instant::now();
    bidders.disconnect(user(1), 1, now);
    bidders.connect(user(2), 2, queue());
    bidders.disconnect(user(2), 2, now + REMEMBER_FOR / 2);
    assert!(!second.is_cancelled(), "the person may come back");
    bidders.connect(user(2), 2, queue());
    bidders.disconnect(user(2), 2, now + REMEMBER_FOR);
    assert!(second.is_cancelled());
    assert_eq!(followed.get(), 0);
    let state = bidders.lock();
    assert!(state.auctions.is_empty() && state.sockets.is_empty() && state.people.is_empty());
}

#[tokio::test]
async fn auctions_of_a_person_are_bounded_and_the_oldest_is_forgotten() {
    let bidders = bidders();
    bidders.connect(user(1), 1, queue());
    for number in 0..2 * MAX_AUCTIONS_OF_PERSON as u128 {
        bidders.placed(AuctionId::from_uuid(uuid::Uuid::from_u128(number)), user(1), 3, amount(3));
    }
    let state = bidders.lock();
    assert_eq!((state.auctions.len(), state.people[&user(1)].auctions.len()), (50, 50));
    assert!(state.auctions.contains_key(&AuctionId::from_uuid(uuid::Uuid::from_u128(99))));
}

#[tokio::test]
async fn bids_learned_at_sign_in_are_followed_unless_their_auction_is_over() {
    let bidders = bidders();
    let anna = queue();
    let next = record(8, &[2]);
    let page = |status: &str, auction_id: AuctionId| -> PlacedBid {
        let text = format!(r#"{{"auction_id":"{auction_id}","seq":7,"amount":7.00,"status":{status},"title":null}}"#);
        serde_json::from_str(&text).unwrap()
    };
    let other = |number| AuctionId::from_uuid(uuid::Uuid::from_u128(number));
    let bids = [
        page(r#""winning""#, next.auction_id),
        page(r#""outbid""#, next.auction_id),
        page(r#""outbid""#, other(1)),
        page(r#""won""#, other(2)),
        page(r#""lost""#, other(3)),
        page("null", other(4)),
    ];
    assert!(bidders.learn(user(1), &bids).is_empty(), "the person is gone again");
    assert!(bidders.connect(user(1), 1, Arc::clone(&anna)));
    assert_eq!(bidders.learn(user(1), &bids), [next.auction_id, other(1), other(4)]);
    show(&bidders, &Record { auction_id: other(1), ..next.clone() }).await;
    assert!(taken(&anna).is_empty(), "it was overtaken before the sign-in");
    show(&bidders, &next).await;
    assert_eq!(taken(&anna), ["outbid 8 7.0"]);
    let second = queue();
    assert!(!bidders.connect(user(1), 2, second), "known: not to be learned again");
}

#[tokio::test]
async fn other_edge_learns_the_bids_of_a_person_from_this_one() {
    let (here, there) = (bidders(), bidders());
    let anna = queue();
    let bid = record(3, &[1]);
    here.connect(user(1), 1, queue());
    assert!(here.placed(bid.auction_id, user(1), 3, amount(3)), "the first one is published");
    assert!(!here.placed(bid.auction_id, user(1), 5, amount(5)));
    let known = here.known(user(1));
    assert_eq!(known.len(), 1);
    assert!(here.known(user(2)).is_empty());
    assert!(there.learn_shared(user(1), &known).is_empty(), "the person is not connected there");
    there.connect(user(1), 1, Arc::clone(&anna));
    assert_eq!(there.learn_shared(user(1), &known), [bid.auction_id]);
    assert!(!there.placed(bid.auction_id, user(1), 7, amount(7)), "the others know");
    show(&there, &record(8, &[2])).await;
    assert_eq!(taken(&anna), ["outbid 8 7.0"]);
}

#[tokio::test]
async fn record_replaces_a_bid_that_another_edge_made_up() {
    let bidders = bidders();
    let anna = queue();
    let bid = record(3, &[1]);
    bidders.connect(user(1), 1, Arc::clone(&anna));
    let made_up = BidOfPerson { auction_id: bid.auction_id, seq: u64::MAX, amount: amount(99), is_notified: true };
    bidders.learn_shared(user(1), &[made_up]);
    show(&bidders, &bid).await;
    show(&bidders, &record(4, &[2])).await;
    assert_eq!(taken(&anna), ["outbid 4 3.0"]);
}
