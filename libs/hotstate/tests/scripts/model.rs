//! `domain::Auction` and the scripts decide the same random auctions; every reply must be the same, head by head.

use std::collections::BTreeMap;

use domain::{
    Acted, Amount, AntiSnipeMode, Auction, BidId, BidRequest, CloseReason, Decision, Millis, Outcome, Refusal, Status,
    UserId,
};
use fastrand::Rng;
use hotstate::{Closed, Rebuilt, Restoration};
use protocol::{ByHost, CreateRequest, Mark, Snapshot, StoredAnswer};
use redis::AsyncCommands;
use uuid::Uuid;

use crate::outages;
use crate::prebids;
use crate::random::{random_act, random_bid, random_request};
use crate::{Fixture, request, user};

/// Auctions compared. With twenty-odd calls each this is far more than a hundred thousand commands.
const AUCTIONS: u128 = 800;
const CALLS: usize = 25;
const COMMANDS_AT_LEAST: usize = 100_000;
/// Auctions compared at once. Their round trips overlap.
const AT_ONCE: usize = 24;
pub const HOST: u128 = 1;

pub fn bid(number: u128, person: u128, cents: u64) -> BidRequest {
    BidRequest {
        bid_id: BidId::from_uuid(Uuid::from_u128(number)),
        user_id: user(person),
        username: format!("user-{person}"),
        offer: Amount::from_cents(cents).expect("an amount").into(),
    }
}

/// Auctions compared, `FLASH_MODEL_AUCTIONS` or [`AUCTIONS`]: 1,600 of them are more than 200,000 commands.
fn auctions() -> u128 {
    let given = std::env::var("FLASH_MODEL_AUCTIONS").ok();
    given.map_or(AUCTIONS, |text| text.parse().expect("FLASH_MODEL_AUCTIONS is a number"))
}

/// The seed of this run. `FLASH_SEED` repeats a failed run, which has printed it.
fn seed() -> u64 {
    let given = std::env::var("FLASH_SEED").ok().map(|text| text.parse().expect("FLASH_SEED is a number"));
    given.unwrap_or_else(|| fastrand::u64(..))
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_agree_with_their_model() {
    let fixture = Fixture::start("model").await;
    let seed = seed();
    println!("FLASH_SEED={seed}");
    let mut playing = tokio::task::JoinSet::new();
    let mut seen = [0; KINDS];
    let mut commands = 0;
    let auctions = auctions();
    for auction in 1..=auctions {
        if playing.len() == AT_ONCE {
            count(playing.join_next().await, &mut seen, &mut commands);
        }
        playing.spawn(play(fixture.hotstate.clone(), fixture.connection.clone(), seed, auction));
    }
    while !playing.is_empty() {
        count(playing.join_next().await, &mut seen, &mut commands);
    }
    println!("{commands} commands: {seen:?}");
    let at_least = COMMANDS_AT_LEAST * usize::try_from(auctions / AUCTIONS).expect("small");
    assert!(commands >= at_least, "only {commands} commands were compared");
    assert!(seen.iter().all(|count| *count > 20), "every kind of reply was compared often: {seen:?}");
}

type Seen = [usize; KINDS];

fn count(played: Option<Result<(Seen, usize), tokio::task::JoinError>>, seen: &mut Seen, commands: &mut usize) {
    let (more, played) = played.expect("one is playing").expect("the scripts and the model agree");
    seen.iter_mut().zip(more).for_each(|(all, more)| *all += more);
    *commands += played;
}

/// One random auction from creation to its end. Returns the number of replies of each kind, and of commands.
async fn play(
    hotstate: hotstate::Hotstate,
    mut connection: redis::aio::MultiplexedConnection,
    seed: u64,
    auction: u128,
) -> (Seen, usize) {
    let mut seen = [0; KINDS];
    // Creation, opening, ending, and one bid after it.
    let mut commands = 4;
    let mut random = Rng::with_seed(seed.wrapping_add(u64::try_from(auction).expect("small")));
    let request = random_request(auction, &mut random);
    let id = request.auction_id;
    // Accepted calls, and every bid that they led to.
    let (mut model, mut accepted, mut placed) =
        begin(&hotstate, &mut connection, &request, &mut random, &mut seen, &mut commands).await;
    let state = async || hotstate.view(id).await.expect("a reply").expect("a state").committed.state;

    let with_maximums = auction % 4 < 2;
    // Three quarters of the auctions, plain ones among them, have a host who pauses and blocks.
    let with_acts = !auction.is_multiple_of(4);
    let restored_at = random.usize(..CALLS);
    for call in 0..CALLS {
        if call == restored_at {
            restore(&hotstate, &mut connection, &model).await;
        }
        commands += interrupt(&hotstate, &mut connection, &mut model, with_acts, &mut random, &mut seen).await;
        let bids: Vec<BidRequest> =
            (0..random.usize(1..12)).map(|_| random_bid(&model, &accepted, with_maximums, &mut random)).collect();
        let verdicts = hotstate.place(id, &bids, 0).await.expect("a reply").expect("a state");
        commands += bids.len();
        // All bids of a call are decided at one moment, which is in the answer to an accepted one.
        let moment = verdicts.decisions.iter().find_map(|decision| match decision {
            Decision::Accepted { accepted, found: false } => Some(accepted.timestamp),
            _ => None,
        });
        for (bid, decision) in bids.iter().zip(&verdicts.decisions) {
            let bids_before = model.bid_count;
            let expected = model.place(bid, moment.unwrap_or_default());
            assert_eq!(decision, &expected, "seed {seed}, auction {auction}, call {call}: {bid:?}");
            seen[kind(decision)] += 1;
            if let Decision::Accepted { accepted: fact, found: false } = decision {
                // A bid beyond the buy-now price is one at that price.
                accepted.push(BidRequest { offer: fact.offer.clone(), ..bid.clone() });
                note_placed(&model, bids_before, fact, &mut placed, &mut seen);
            }
        }
        let closes = model.close(CloseReason::BuyNow, None, model.last_now());
        assert_eq!(closes, verdicts.appended.is_none() && model.status == Status::Closed && moment.is_some());
        let mark = (verdicts.mark.seq, verdicts.mark.head);
        assert_eq!(mark, (model.seq, model.head), "seed {seed}, auction {auction}, call {call}");
    }
    assert_same_state(&state().await, &model, &placed);
    assert_chained(&hotstate, id).await;

    if model.status == Status::Closed {
        assert_bought(&hotstate, &model).await;
        seen[BOUGHT] += 1;
        return (seen, commands);
    }
    // Every third auction is cancelled: there is no winner, whatever was bid.
    let cancels = auction.is_multiple_of(3);
    let ended = if cancels {
        hotstate.cancel(id, user(HOST), CloseReason::Host).await
    } else {
        hotstate.close(id, Some(user(HOST))).await
    };
    let ended = ended.expect("a reply").expect("a state").mark();
    let state = state().await;
    let time = Millis(state.ended_at.expect("an end"));
    let model_ended =
        if cancels { model.cancel(user(HOST), time) } else { model.close(CloseReason::Host, Some(user(HOST)), time) };
    assert!(model_ended);
    assert_eq!((ended.seq, ended.head), (model.seq, model.head), "seed {seed}, auction {auction}: ended");
    let winner = model.leader.as_ref().filter(|_| !cancels && model.reserve_met()).map(|leader| leader.user_id);
    assert_eq!(state.winner_id, winner);
    seen[UNMET] += usize::from(!cancels && winner.is_none() && model.leader.is_some());
    let late = hotstate.place(id, &[bid(1_000, 3, Amount::MAX_CENTS)], 0).await.expect("a reply").expect("a state");
    assert!(matches!(late.decisions[..], [Decision::Refused { refusal: Refusal::Closed, .. }]));
    (seen, commands)
}

/// Between two calls: the host acts, or a closing comes late. Returns the number of commands.
async fn interrupt(
    hotstate: &hotstate::Hotstate,
    connection: &mut redis::aio::MultiplexedConnection,
    model: &mut Auction,
    with_acts: bool,
    random: &mut Rng,
    seen: &mut Seen,
) -> usize {
    let acts = with_acts && random.u8(0..4) == 0;
    if acts {
        seen[ACTED + usize::from(!act(hotstate, connection, model, random).await)] += 1;
    }
    let recovers = random.u8(0..8) == 0 && outages::play(hotstate, connection, model, random).await;
    seen[RECOVERED] += usize::from(recovers);
    usize::from(acts) + usize::from(recovers)
}

/// Notes the bids that an accepted call has placed: its own, unless it only changed a maximum, and a counter-bid.
fn note_placed(
    model: &Auction,
    bids_before: u64,
    fact: &domain::Accepted,
    placed: &mut Vec<(UserId, Amount)>,
    seen: &mut Seen,
) {
    let (is_bid, counter) = (model.bid_count > bids_before, model.counter.as_ref());
    placed.extend(is_bid.then_some((fact.user_id, fact.amount)));
    placed.extend(counter.map(|counter| (counter.user_id, counter.amount)));
    seen[MAXIMUM] += usize::from(!is_bid);
    seen[COUNTERED] += usize::from(counter.is_some());
}

/// Creates an auction in Redis and in the model, and opens it, with pre-bids or without. Returns the accepted calls, and the
/// bids of the opening.
async fn begin(
    hotstate: &hotstate::Hotstate,
    connection: &mut redis::aio::MultiplexedConnection,
    request: &CreateRequest,
    random: &mut Rng,
    seen: &mut Seen,
    commands: &mut usize,
) -> (Auction, Vec<BidRequest>, Vec<(UserId, Amount)>) {
    let id = request.auction_id;
    hotstate.create(request).await.expect("created");
    let created = hotstate.view(id).await.expect("a reply").expect("a state").committed.state;
    let (starts_at, created_at) = (Millis(created.starts_at), Millis(created.created_at));
    let mut model = Auction::create(id, request.rules(), starts_at, created_at);
    let mut accepted = Vec::new();
    let [more, kept, full] = prebids::play(hotstate, connection, &mut model, &mut accepted, random).await;
    *commands += more;
    seen[PREBID] += kept;
    seen[PREBIDS_FULL] += full;
    let placed = prebids::open(hotstate, &mut model, random).await;
    seen[OPENED_WITH_BIDS] += usize::from(!placed.is_empty());
    seen[FOLLOWED] += usize::from(model.rules.follows.is_some());
    (model, accepted, placed)
}

/// The auction is closed with the bid at the buy-now price, and nothing closes it again.
async fn assert_bought(hotstate: &hotstate::Hotstate, model: &Auction) {
    let bought = hotstate.view(model.auction_id).await.expect("a reply").expect("a state").committed.state;
    assert_eq!(bought.reason, Some(CloseReason::BuyNow.into()));
    assert_eq!((bought.winner_id, bought.winning_bid), (bought.high_bidder_id, model.rules.buy_now));
    assert_eq!(bought.outcome, Some(Outcome::Sold.into()));
    let (closed, cancelled) = (
        hotstate.close(model.auction_id, None).await,
        hotstate.cancel(model.auction_id, user(HOST), CloseReason::Host).await,
    );
    for ended in [closed, cancelled] {
        assert!(matches!(ended, Ok(Some(Closed::Already(_)))), "{ended:?}");
    }
}

/// One act of the host, or of a guest who poses as the host. Whether it changed something.
async fn act(
    hotstate: &hotstate::Hotstate,
    connection: &mut redis::aio::MultiplexedConnection,
    model: &mut Auction,
    random: &mut Rng,
) -> bool {
    let (id, act) = (model.auction_id, random_act(model, random));
    let by = user(HOST + u128::from(random.u8(0..20) == 0));
    let reply = hotstate.act(id, act, by).await.expect("a reply").expect("a state");
    let time: u64 = connection.hget(format!("auction:{{{id}}}:state"), "last_now").await.expect("a time");
    let acted = model.act(act, by, Millis(time));
    assert_eq!((reply.acted, reply.mark.seq, reply.mark.head), (acted, model.seq, model.head), "{id}: {act:?}");
    acted == Acted::Done
}

/// Restores an auction from its state and the answers of the model: every field of the hash must come back.
pub async fn restore(
    hotstate: &hotstate::Hotstate,
    connection: &mut redis::aio::MultiplexedConnection,
    model: &Auction,
) {
    let id = model.auction_id;
    let key = format!("auction:{{{id}}}:state");
    let before: BTreeMap<String, String> = connection.hgetall(&key).await.expect("a state");
    type Lists = (BTreeMap<Vec<u8>, Vec<u8>>, BTreeMap<String, String>, Vec<String>);
    let lists = async || -> Lists {
        let mut pipe = redis::pipe();
        pipe.hgetall(format!("auction:{{{id}}}:bids")).hgetall(format!("auction:{{{id}}}:prebids"));
        pipe.lrange(format!("auction:{{{id}}}:recent"), 0, -1);
        pipe.query_async(&mut connection.clone()).await.expect("lists")
    };
    let lists_before = lists().await;
    let view = hotstate.view(id).await.expect("a reply").expect("a state");
    let answers: Vec<_> = model.accepted().map(|(bid_id, accepted)| StoredAnswer::new(*bid_id, accepted)).collect();
    let mut rebuilt = Rebuilt::new(id);
    hotstate.write_answers(&mut rebuilt, &answers).await.expect("a reply");
    let restoration = Restoration {
        mark: view.mark,
        state: &view.committed.state,
        secrets: model.secrets(),
        last_now: model.last_now(),
        recent: view.committed.recent_bids.iter().collect(),
        prebids: &model.prebids,
        over_for_ms: None,
    };
    assert!(hotstate.restore(id, Some(view.mark), &restoration, &rebuilt).await.expect("a reply"));
    assert_eq!(lists().await, lists_before, "the answers, pre-bids and newest bids of a restored auction");
    let after: BTreeMap<String, String> = connection.hgetall(&key).await.expect("a state");
    assert_eq!(after, before, "the fields of a restored auction");
}

/// The entries of the outbox since the last restoration continue each other, as the records that they become.
async fn assert_chained(hotstate: &hotstate::Hotstate, id: domain::AuctionId) {
    let mut before: Option<Mark> = None;
    loop {
        let committed = before.map_or(0, |mark| mark.seq);
        let entries = hotstate.outbox(id, committed).await.expect("entries");
        if entries.is_empty() {
            return;
        }
        for entry in &entries {
            let record = crate::stored::record(id, entry);
            let first = Mark { seq: record.seq - record.facts(), head: record.prev };
            assert!(record.continues(before.unwrap_or(first)), "{} {}", record.kind, record.seq);
            before = Some(record.mark());
        }
    }
}

fn assert_same_state(state: &Snapshot, model: &Auction, placed: &[(UserId, Amount)]) {
    let public = domain::Rules { reserve: None, ..model.rules.clone() };
    assert_eq!(state.rules(), Some(public));
    assert_eq!(state.reserve_met, model.rules.reserve.as_ref().map(|_| model.reserve_met()));
    assert_eq!((&state.by_host, state.recoveries), (&ByHost::of(model), model.recoveries));
    let leader = model.leader.as_ref();
    assert_eq!(
        (state.high_bid, state.high_bidder_id, state.high_bidder_username.as_deref()),
        (
            leader.map(|leader| leader.amount),
            leader.map(|leader| leader.user_id),
            leader.map(|leader| leader.username.as_str())
        )
    );
    assert_eq!(
        (state.minimum_bid, state.bid_count, state.end_time, state.extension_count),
        (model.minimum_bid(), model.bid_count, model.end_time.0, model.extension_count)
    );
    // The best three bids, one a person. The price only rises, so the newest bids are the best.
    let mut top: Vec<(UserId, Amount)> = Vec::new();
    for (user_id, amount) in placed.iter().rev() {
        if top.len() < 3 && top.iter().all(|(other, _)| other != user_id) {
            top.push((*user_id, *amount));
        }
    }
    let ranked: Vec<_> = state.top_bids.iter().map(|bid| (bid.user_id, bid.amount)).collect();
    assert_eq!(ranked, top);
}

const KINDS: usize = 19;
/// Changed maximums, counter-bids, and auctions that ended below their reserve.
const MAXIMUM: usize = 11;
const COUNTERED: usize = 12;
const UNMET: usize = 13;
/// Pre-bids, refusals because there were too many, and openings with bids.
const PREBID: usize = 14;
const PREBIDS_FULL: usize = 15;
const OPENED_WITH_BIDS: usize = 16;
/// Late closings, after which the auction went on.
const RECOVERED: usize = 17;
/// Auctions that followed another.
const FOLLOWED: usize = 18;
/// Auctions that a bid at the buy-now price ended.
const BOUGHT: usize = 6;
/// Acts of the host that changed something, and then those that changed nothing.
const ACTED: usize = 7;

fn kind(decision: &Decision) -> usize {
    match decision {
        Decision::Accepted { found, .. } => usize::from(*found),
        Decision::Refused { refusal, .. } => match refusal {
            Refusal::BidIdReused => 2,
            Refusal::HostCannotBid => 3,
            Refusal::AlreadyLeading => 4,
            Refusal::Blocked => 9,
            Refusal::Paused => 10,
            _ => 5,
        },
    }
}

/// A bid at the very end and after it, by the clock of Redis itself.
#[tokio::test]
async fn bid_at_the_end_is_refused() {
    let fixture = Fixture::start("end").await;
    let hotstate = &fixture.hotstate;
    let short = CreateRequest { duration_ms: 300, anti_snipe_mode: AntiSnipeMode::Off, ..request(1) };
    hotstate.create(&short).await.expect("created");
    hotstate.open(short.auction_id).await.expect("opened");
    let end_time = hotstate.view(short.auction_id).await.expect("a reply").expect("a state").committed.state.end_time;
    let (mut number, mut cents, mut last_accepted) = (0, 1_000, 0);
    loop {
        number += 1;
        cents += 100;
        let before = hotstate.time().await.expect("the time");
        let verdicts = hotstate.place(short.auction_id, &[bid(number, 2 + number % 2, cents)], 0).await;
        let after = hotstate.time().await.expect("the time");
        match &verdicts.expect("a reply").expect("a state").decisions[..] {
            [Decision::Accepted { accepted, .. }] => {
                assert!(before.0 < end_time, "accepted at {} after the end {end_time}", accepted.timestamp.0);
                assert!(accepted.timestamp.0 < end_time);
                last_accepted = accepted.timestamp.0;
            }
            [Decision::Refused { refusal: Refusal::Closed, .. }] => {
                assert!(after.0 >= end_time, "refused before the end");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(last_accepted > 0, "some bids came in time");
}
