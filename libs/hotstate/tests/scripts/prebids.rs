//! Random pre-bids and openings for `model.rs`, and the number of pre-bids that are kept.

use domain::{
    Acted, Amount, Auction, BidRequest, CloseReason, Decision, HostAct, MAX_PREBIDDERS, MAX_PREBIDS_OF_ONE, Millis,
    Offer, Refusal, Status, UserId,
};
use fastrand::Rng;
use hotstate::{Hotstate, Opened};
use protocol::{CreateRequest, Options};
use redis::aio::MultiplexedConnection;
use uuid::Uuid;

use crate::model::{self, HOST, bid};
use crate::random::{random_act, random_bid};
use crate::{Fixture, request, user};

/// Calls before an opening, with up to eleven bids each.
const MAX_CALLS: usize = 16;

/// Compares what is done before an opening; nothing in an auction without pre-bids. Notes accepted calls. Returns the
/// number of commands, of pre-bids, and of refusals because there were too many.
pub async fn play(
    hotstate: &Hotstate,
    connection: &mut MultiplexedConnection,
    model: &mut Auction,
    accepted: &mut Vec<BidRequest>,
    random: &mut Rng,
) -> [usize; 3] {
    let (id, mut counts) = (model.auction_id, [0; 3]);
    if !model.rules.allow_prebids {
        return counts;
    }
    for _ in 0..random.usize(0..MAX_CALLS) {
        if random.u8(0..3) == 0 {
            let act = random_act(model, random);
            // An opening ends the pre-bids.
            if act != HostAct::Start {
                let reply = hotstate.act(id, act, user(HOST)).await.expect("a reply").expect("a state");
                let acted = model.act(act, user(HOST), last_now(connection, model).await);
                assert_eq!((reply.acted, reply.mark.seq, reply.mark.head), (acted, model.seq, model.head), "{act:?}");
                counts[0] += 1;
            }
        }
        let bids: Vec<BidRequest> =
            (0..random.usize(1..12)).map(|_| kept(random_bid(model, accepted, true, random), random)).collect();
        let verdicts = hotstate.place(id, &bids, 0).await.expect("a reply").expect("a state");
        assert!(verdicts.appended.is_none(), "each pre-bid is an entry of its own");
        counts[0] += bids.len();
        let moment = last_now(connection, model).await;
        for (bid, decision) in bids.iter().zip(&verdicts.decisions) {
            assert_eq!(decision, &model.place(bid, moment), "{bid:?}");
            match decision {
                Decision::Accepted { accepted: fact, found: false } => {
                    accepted.push(BidRequest { offer: fact.offer.clone(), ..bid.clone() });
                    counts[1] += 1;
                }
                Decision::Refused { refusal: Refusal::PrebidsFull, .. } => counts[2] += 1,
                _ => {}
            }
        }
        let person = bids[random.usize(..bids.len())].user_id;
        assert_eq!(hotstate.prebid(id, person).await.expect("a reply"), own(model, person));
        assert_eq!((verdicts.mark.seq, verdicts.mark.head), (model.seq, model.head));
        if random.u8(0..4) == 0 {
            model::restore(hotstate, connection, model).await;
        }
    }
    counts
}

fn own(model: &Auction, user_id: UserId) -> Option<Amount> {
    model.prebid_of(user_id).map(|prebid| prebid.maximum.amount)
}

/// Most amounts are sealed, as bid-processing seals them.
fn kept(mut bid: BidRequest, random: &mut Rng) -> BidRequest {
    if let Offer::Exact(amount) = bid.offer
        && random.u8(0..8) > 0
    {
        let sealed = format!("kept-{:016x}", random.u64(..)).parse().expect("a text");
        bid.offer = Offer::Kept { amount, sealed };
    }
    bid
}

/// The time that the last script has read.
async fn last_now(connection: &mut MultiplexedConnection, model: &Auction) -> Millis {
    let key = format!("auction:{{{}}}:state", model.auction_id);
    let now: u64 = redis::cmd("HGET").arg(key).arg("last_now").query_async(connection).await.expect("a time");
    Millis(now)
}

/// Opens the auction, by its start or for its host, in both. Returns the bids that were kept.
pub async fn open(hotstate: &Hotstate, model: &mut Auction, random: &mut Rng) -> Vec<(UserId, Amount)> {
    let id = model.auction_id;
    let by_host = random.bool();
    let mark = if by_host {
        let started = hotstate.act(id, HostAct::Start, user(HOST)).await.expect("a reply").expect("a state");
        assert_eq!(started.acted, Acted::Done);
        started.mark
    } else {
        let due = refused_before(hotstate, model).await;
        let opened = hotstate.open_when_due(id, due).await.expect("a reply").expect("a state");
        assert!(matches!(opened, Opened::Opened(_)));
        opened.mark()
    };
    let state = hotstate.view(id).await.expect("a reply").expect("a state").committed.state;
    let now = Millis(state.end_time - model.rules.duration_ms);
    let placed: Vec<_> = model.bid_prebids(now).iter().map(|fact| (fact.user_id, fact.amount)).collect();
    if by_host {
        assert_eq!(model.act(HostAct::Start, user(HOST), now), Acted::Done);
    } else if model.rules.follows.is_some() {
        assert!(model.open_follower(now, now));
    } else {
        assert!(model.open(now));
    }
    assert_eq!(state.starts_at, model.starts_at.0);
    assert_eq!(model.close(CloseReason::BuyNow, None, now), state.status == Status::Closed);
    assert_eq!((mark.seq, mark.head), (model.seq, model.head), "opened with {placed:?}");
    placed
}

/// An auction that follows another is not opened without the time at which it is due, nor before, in both. Returns a time
/// at which it may be; None for one that follows none.
async fn refused_before(hotstate: &Hotstate, model: &mut Auction) -> Option<Millis> {
    model.rules.follows?;
    let (id, before, now) = (model.auction_id, (model.seq, model.head), hotstate.time().await.expect("the time"));
    let without = hotstate.open(id).await.expect("a reply").expect("a state");
    assert!(matches!(without, Opened::Waits(_)) && !model.open(now), "{without:?}");
    let later = now.plus(600_000);
    let early = hotstate.open_when_due(id, Some(later)).await.expect("a reply").expect("a state");
    assert!(matches!(early, Opened::Early(_)) && !model.open_follower(later, now), "{early:?}");
    for mark in [without.mark(), early.mark()] {
        assert_eq!((mark.seq, mark.head), before, "a refusal changes nothing");
    }
    Some(now)
}

/// The bound of the people, and that of one person; and that an opening with all of them is one record.
#[tokio::test]
async fn as_many_prebids_are_kept_as_the_opening_can_bid() {
    let fixture = Fixture::start("prebids").await;
    let hotstate = &fixture.hotstate;
    let options = Options { allow_prebids: true, ..Options::default() };
    let scheduled = CreateRequest { options, starts_at: Some(1), ..request(1) };
    let id = scheduled.auction_id;
    hotstate.create(&scheduled).await.expect("created");
    let prebid = |number: u128, person: u128, cents: u64| {
        let offer = Offer::Kept {
            amount: Amount::from_cents(cents).expect("an amount"),
            sealed: "c2VhbGVk".repeat(10).parse().expect("a text"),
        };
        BidRequest { offer, username: "n".repeat(60), ..bid(number, person, cents) }
    };
    let placed = async |bids: &[BidRequest]| -> Vec<Result<(), Refusal>> {
        let verdicts = hotstate.place(id, bids, 0).await.expect("a reply").expect("a state");
        let result = |decision: &Decision| match decision {
            Decision::Accepted { .. } => Ok(()),
            Decision::Refused { refusal, .. } => Err(*refusal),
        };
        verdicts.decisions.iter().map(result).collect()
    };
    let all: Vec<_> =
        (0..MAX_PREBIDDERS as u64).map(|nth| prebid(1 + u128::from(nth), 100 + u128::from(nth), 1_000 + nth)).collect();
    for some in all.chunks(100) {
        assert!(placed(some).await.iter().all(Result::is_ok));
    }
    assert_eq!(placed(&[prebid(9_000, 99, 9_000)]).await, [Err(Refusal::PrebidsFull)]);
    let again: Vec<_> = (0..MAX_PREBIDS_OF_ONE).map(|nth| prebid(9_001 + u128::from(nth), 100, 2_000)).collect();
    let (last, others) = again.split_last().expect("some");
    assert!(placed(others).await.iter().all(Result::is_ok), "the first one counts");
    assert_eq!(placed(std::slice::from_ref(last)).await, [Err(Refusal::PrebidsFull)]);

    hotstate.open(id).await.expect("a reply").expect("a state");
    let view = hotstate.view(id).await.expect("a reply").expect("a state");
    assert_eq!(view.committed.state.bid_count, MAX_PREBIDDERS as u64);
    assert_eq!(view.committed.state.high_bidder_id, Some(UserId::from_uuid(Uuid::from_u128(100))));
    let before = view.mark.seq - MAX_PREBIDDERS as u64 - 1;
    let entries = hotstate.outbox(id, before).await.expect("entries");
    assert_eq!(entries.iter().map(|entry| entry.bids.len()).collect::<Vec<_>>(), [MAX_PREBIDDERS, 0]);
    let record = crate::stored::record(id, &entries[0]);
    let bytes = serde_json::to_string(&record).expect("JSON").len();
    assert!(bytes < 500_000, "the record has {bytes} bytes, half of a message at most");
    // Nothing else is left in Redis.
    let keys: usize = redis::cmd("EXISTS")
        .arg(format!("auction:{{{id}}}:prebids"))
        .query_async(&mut fixture.connection.clone())
        .await
        .expect("a number");
    assert_eq!(keys, 0);
}
