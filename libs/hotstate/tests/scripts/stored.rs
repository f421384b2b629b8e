//! Keys that an earlier version wrote: this version reads them, continues the auction, and restores the same bytes.

use std::collections::BTreeMap;

use domain::{Accepted, Auction, AuctionId, BidId, BidRequest, Decision, Head, Millis};
use hotstate::{Hotstate, MAX_RECENT_BIDS, OutboxEntry, Rebuilt, Restoration};
use protocol::{RECORD_VERSION, Record, RecordKind, StoredAnswer};
use redis::aio::MultiplexedConnection;
use serde_json::Value;

use crate::{Fixture, model, request};

/// The keys of one auction in Redis, as an earlier version left them, and the records that it made of the outbox.
struct Stored {
    keys: Value,
    records: Vec<&'static str>,
    auction_id: AuctionId,
}

impl Stored {
    fn read(keys: &str, records: &'static str) -> Self {
        let records: Vec<&str> = records.lines().collect();
        let first: Record = serde_json::from_str(records[0]).expect("a record");
        Self { keys: serde_json::from_str(keys).expect("JSON"), records, auction_id: first.auction_id }
    }

    fn all() -> [Self; 3] {
        [
            Self::read(include_str!("../stored/live.json"), include_str!("../../../protocol/tests/stored/live.jsonl")),
            Self::read(
                include_str!("../stored/closed.json"),
                include_str!("../../../protocol/tests/stored/closed.jsonl"),
            ),
            Self::read(
                include_str!("../stored/cancelled.json"),
                include_str!("../../../protocol/tests/stored/cancelled.jsonl"),
            ),
        ]
    }

    fn key(&self, name: &str) -> String {
        format!("auction:{{{}}}:{name}", self.auction_id)
    }

    /// Puts the keys into Redis as they were.
    async fn load(&self, connection: &mut MultiplexedConnection) {
        let mut pipe = redis::pipe();
        for (field, value) in self.keys["state"].as_object().expect("fields") {
            pipe.hset(self.key("state"), field, text(value));
        }
        for answer in list(&self.keys["answers"]) {
            pipe.hset(self.key("bids"), bytes(&answer[0]), bytes(&answer[1]));
        }
        for entry in list(&self.keys["outbox"]) {
            pipe.cmd("XADD").arg(self.key("outbox")).arg(text(&entry[0]));
            for part in list(&entry[1]) {
                pipe.arg(text(part));
            }
        }
        for bid in list(&self.keys["recent"]) {
            pipe.rpush(self.key("recent"), text(bid));
        }
        for member in list(&self.keys["top_bids"]) {
            pipe.zadd(self.key("top_bids"), text(&member[0]), text(&member[1]));
        }
        pipe.query_async::<()>(connection).await.expect("loaded");
    }

    /// The keys as they are in Redis, in the form of the fixtures.
    async fn dump(&self, connection: &mut MultiplexedConnection) -> [Value; 4] {
        let mut pipe = redis::pipe();
        pipe.hgetall(self.key("state")).hgetall(self.key("bids"));
        pipe.lrange(self.key("recent"), 0, -1).zrange_withscores(self.key("top_bids"), 0, -1);
        type Fields = BTreeMap<String, String>;
        type Answers = BTreeMap<Vec<u8>, Vec<u8>>;
        type Keys = (Fields, Answers, Vec<String>, Vec<(String, String)>);
        let (state, answers, recent, top): Keys = pipe.query_async(connection).await.expect("keys");
        let answers: Vec<[String; 2]> = answers.iter().map(|(id, answer)| [hex(id), hex(answer)]).collect();
        [serde_json::json!(state), serde_json::json!(answers), serde_json::json!(recent), serde_json::json!(top)]
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(value: &Value) -> Vec<u8> {
    let digits = text(value);
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex")).collect()
}

/// One record of one entry.
pub fn record(auction_id: AuctionId, entry: &OutboxEntry) -> Record {
    Record {
        v: RECORD_VERSION,
        kind: entry.kind.into(),
        auction_id,
        seq: entry.mark.seq,
        prev: entry.prev,
        head: entry.mark.head,
        time: entry.time,
        by: entry.by,
        user_id: entry.user_id,
        bids: entry.bids.clone(),
        marks: vec![entry.mark],
        state: entry.state.clone(),
        sealed: entry.secrets.as_ref().map(Into::into),
    }
}

/// Replays the records through the rules.
fn replay(records: &[Record]) -> Auction {
    let first = &records[0];
    let rules = first.state.rules().expect("rules");
    let mut auction = Auction::create(first.auction_id, rules, Millis(first.state.starts_at), Millis(first.time));
    for record in &records[1..] {
        let time = Millis(record.time);
        match record.kind.known().expect("a known type") {
            RecordKind::Created => panic!("created twice"),
            RecordKind::Opened => assert!(auction.open(time)),
            RecordKind::Closed => {
                let reason = record.state.reason.as_ref().and_then(protocol::wire::Named::known).expect("a reason");
                assert!(auction.close(reason, record.by, time));
            }
            RecordKind::Cancelled => assert!(auction.cancel(record.by.expect("a host"), time)),
            RecordKind::Maximum
            | RecordKind::Paused
            | RecordKind::Resumed
            | RecordKind::Blocked
            | RecordKind::Unblocked => {
                panic!("the earlier version had no such record")
            }
            RecordKind::Bids => {
                for bid in &record.bids {
                    let request = BidRequest {
                        bid_id: bid.bid_id,
                        user_id: bid.user_id,
                        username: bid.username.clone(),
                        offer: bid.amount.into(),
                    };
                    auction.place(&request, Millis(bid.timestamp));
                }
            }
        }
        assert_eq!(auction.head, record.head);
    }
    auction
}

#[tokio::test]
async fn keys_of_an_earlier_version_are_read() {
    let fixture = Fixture::start("stored-read").await;
    for stored in Stored::all() {
        stored.load(&mut fixture.connection.clone()).await;
        let entries = fixture.hotstate.outbox(stored.auction_id, 0).await.expect("entries");
        let records: Vec<String> = entries
            .iter()
            .map(|entry| serde_json::to_string(&record(stored.auction_id, entry)).expect("JSON"))
            .collect();
        assert_eq!(records, stored.records, "the records that the earlier version made of them");

        let view = fixture.hotstate.view(stored.auction_id).await.expect("a reply").expect("a state");
        let last = entries.last().expect("an entry");
        assert_eq!((view.mark, &view.committed.state), (last.mark, &last.state));
        assert_eq!(view.committed.recent_bids.len(), 3);
    }
}

#[tokio::test]
async fn auction_of_an_earlier_version_continues() {
    let fixture = Fixture::start("stored-continue").await;
    let [live, ..] = Stored::all();
    live.load(&mut fixture.connection.clone()).await;
    let records: Vec<Record> = live.records.iter().map(|line| serde_json::from_str(line).expect("a record")).collect();
    let earlier = records.last().and_then(|record| record.bids.last()).expect("a bid").clone();
    let again = BidRequest {
        bid_id: earlier.bid_id,
        user_id: earlier.user_id,
        username: earlier.username,
        offer: earlier.amount.into(),
    };
    let other_amount = BidRequest { offer: earlier.amount.plus(earlier.amount).into(), ..again.clone() };
    let bids = [again.clone(), other_amount];
    let verdicts = fixture.hotstate.place(live.auction_id, &bids, 0).await.expect("a reply").expect("a state");
    let auction = replay(&records);
    let expected: BTreeMap<&BidId, &Accepted> = auction.accepted().collect();
    match &verdicts.decisions[..] {
        [Decision::Accepted { accepted, found: true }, Decision::Refused { refusal, .. }] => {
            assert_eq!(accepted, expected[&again.bid_id], "the answer of the earlier version");
            assert_eq!(*refusal, domain::Refusal::BidIdReused);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(verdicts.mark, records.last().expect("a record").mark(), "nothing was decided");
}

#[tokio::test]
async fn restored_auction_has_the_bytes_of_an_earlier_version() {
    let fixture = Fixture::start("stored-restore").await;
    for stored in Stored::all() {
        let records: Vec<Record> =
            stored.records.iter().map(|line| serde_json::from_str(line).expect("a record")).collect();
        restore(&fixture.hotstate, &records).await;
        let keys = ["state", "answers", "recent", "top_bids"].map(|name| stored.keys[name].clone());
        assert_eq!(stored.dump(&mut fixture.connection.clone()).await, keys);
    }
}

async fn restore(hotstate: &Hotstate, records: &[Record]) {
    let auction = replay(records);
    let last = records.last().expect("a record");
    let newest = records.iter().rev().flat_map(|record| record.bids.iter().rev());
    let restoration = Restoration {
        mark: last.mark(),
        state: &last.state,
        secrets: None,
        last_now: Millis(last.time),
        recent: newest.take(MAX_RECENT_BIDS).collect(),
        prebids: &[],
        over_for_ms: last.state.ended_at.map(|_| 0),
    };
    let answers: Vec<_> = auction.accepted().map(|(bid_id, accepted)| StoredAnswer::new(*bid_id, accepted)).collect();
    let mut rebuilt = Rebuilt::new(last.auction_id);
    hotstate.write_answers(&mut rebuilt, &answers).await.expect("a reply");
    assert!(hotstate.restore(last.auction_id, None, &restoration, &rebuilt).await.expect("a reply"));
}

/// The names of the fields of an outbox entry in their order, then those of the state in it: a large hash has no order.
fn layout(entry: &Value) -> Vec<String> {
    let parts: Vec<&str> = list(&entry[1]).iter().map(text).collect();
    let state: Vec<String> = serde_json::from_str(parts.last().expect("a state")).expect("JSON");
    let mut state: Vec<String> = state.into_iter().step_by(2).collect();
    state.sort();
    parts.iter().step_by(2).map(|name| (*name).to_owned()).chain(state).collect()
}

#[tokio::test]
async fn outbox_has_the_layout_of_an_earlier_version() {
    let fixture = Fixture::start("stored-layout").await;
    let [_, closed, _] = Stored::all();
    let auction_id = request(1).auction_id;
    let hotstate = &fixture.hotstate;
    hotstate.create(&request(1)).await.expect("created");
    hotstate.open(auction_id).await.expect("opened");
    let bids = [model::bid(11, 2, 1_000), model::bid(12, 3, 1_200)];
    hotstate.place(auction_id, &bids, 0).await.expect("placed");
    hotstate.place(auction_id, &[model::bid(13, 4, 123_456)], 0).await.expect("placed");
    hotstate.close(auction_id, Some(crate::user(1))).await.expect("closed");
    let entries: Vec<(String, Vec<String>)> = redis::cmd("XRANGE")
        .arg(format!("auction:{{{auction_id}}}:outbox"))
        .arg("-")
        .arg("+")
        .query_async(&mut fixture.connection.clone())
        .await
        .expect("entries");
    let written = serde_json::json!(entries);
    let layouts = |entries: &Value| list(entries).iter().map(layout).collect::<Vec<_>>();
    assert_eq!(layouts(&written), layouts(&closed.keys["outbox"]));
    let first: Vec<&str> = list(&written[0][1]).iter().map(text).collect();
    assert_eq!(first[3], Head::GENESIS.to_string());
}
