//! `restore.lua` replaces an auction only if every answer that was written for it is there.

use domain::AuctionId;
use redis::aio::MultiplexedConnection;

use crate::{Fixture, model, request};

const SCRIPT: &str = concat!(include_str!("../../../../lua/prelude.lua"), include_str!("../../../../lua/restore.lua"));
/// Keys of an auction, in the order in which the script takes them.
const KEYS: [&str; 6] = ["state", "top_bids", "bids", "outbox", "recent", "prebids"];
/// The temporary key of the answers.
const REBUILT: &str = "bids:rebuilt";

fn key(auction_id: AuctionId, name: &str) -> String {
    format!("auction:{{{auction_id}}}:{name}")
}

/// Every key of the auction, byte for byte.
async fn dump(connection: &mut MultiplexedConnection, auction_id: AuctionId) -> Vec<Option<Vec<u8>>> {
    let mut pipe = redis::pipe();
    for name in KEYS {
        pipe.cmd("DUMP").arg(key(auction_id, name));
    }
    pipe.query_async(connection).await.expect("keys")
}

/// Writes these answers, as a rebuild does before it calls the script.
async fn write(connection: &mut MultiplexedConnection, auction_id: AuctionId, answers: &[&str]) {
    let mut pipe = redis::pipe();
    pipe.del(key(auction_id, REBUILT));
    for answer in answers {
        pipe.hset(key(auction_id, REBUILT), answer, "an answer");
    }
    pipe.query_async::<()>(connection).await.expect("written");
}

/// Calls the script for a rebuild with this number of answers, which saw this position.
async fn restore(
    connection: &mut MultiplexedConnection,
    auction_id: AuctionId,
    seen: &[String; 2],
    answers: usize,
) -> String {
    let script = redis::Script::new(SCRIPT);
    let mut call = script.prepare_invoke();
    for name in KEYS.into_iter().chain([REBUILT]) {
        call.key(key(auction_id, name));
    }
    call.arg(&seen[..]).arg(answers).arg(0).arg("[]").arg(0).arg(0);
    call.arg("seq").arg(9).arg("head").arg("0123456789abcdef");
    call.invoke_async(connection).await.expect("a reply")
}

async fn answers(connection: &mut MultiplexedConnection, auction_id: AuctionId) -> usize {
    redis::cmd("HLEN").arg(key(auction_id, "bids")).query_async(connection).await.expect("a number")
}

/// Redis lost the answers, or the first part of them, after they were written: an accepted bid would be accepted again.
#[tokio::test]
async fn restore_without_all_answers_changes_nothing() {
    let fixture = Fixture::start("restore-answers").await;
    let (hotstate, mut connection) = (&fixture.hotstate, fixture.connection.clone());
    let auction_id = request(1).auction_id;
    hotstate.create(&request(1)).await.expect("created");
    hotstate.open(auction_id).await.expect("opened");
    let bids = [model::bid(1, 2, 1_000), model::bid(2, 3, 2_000)];
    let mark = hotstate.place(auction_id, &bids, 0).await.expect("a reply").expect("a state").mark;
    let seen = [mark.seq.to_string(), mark.head.to_string()];
    let before = dump(&mut connection, auction_id).await;
    let (prebids, others) = before.split_last().expect("keys");
    assert!(others.iter().all(Option::is_some) && prebids.is_none(), "every key but that of pre-bids is in use");

    for (written, expected) in [(&[][..], 3), (&["1"][..], 3), (&["1", "2"][..], 3), (&["1"][..], 0)] {
        write(&mut connection, auction_id, &["1", "2", "3"]).await;
        write(&mut connection, auction_id, written).await;
        assert_eq!(restore(&mut connection, auction_id, &seen, expected).await, "moved", "{written:?} of {expected}");
        assert_eq!(dump(&mut connection, auction_id).await, before, "{written:?} of {expected}");
    }

    write(&mut connection, auction_id, &["1", "2", "3"]).await;
    assert_eq!(restore(&mut connection, auction_id, &seen, 3).await, "restored");
    assert_eq!(answers(&mut connection, auction_id).await, 3);
}

/// Redis was emptied, and emptied again during the rebuild: the position that was seen, none, is still right.
#[tokio::test]
async fn restore_of_a_missing_auction_needs_all_answers() {
    let fixture = Fixture::start("restore-missing").await;
    let (auction_id, mut connection) = (request(1).auction_id, fixture.connection.clone());
    let nowhere = [String::new(), String::new()];
    write(&mut connection, auction_id, &["2"]).await;
    assert_eq!(restore(&mut connection, auction_id, &nowhere, 2).await, "moved");
    write(&mut connection, auction_id, &[]).await;
    assert_eq!(restore(&mut connection, auction_id, &nowhere, 2).await, "moved");
    assert_eq!(dump(&mut connection, auction_id).await, [const { None }; 6]);

    // An auction without bids has no answers to write.
    assert_eq!(restore(&mut connection, auction_id, &nowhere, 0).await, "restored");
    assert_eq!(answers(&mut connection, auction_id).await, 0);
}
