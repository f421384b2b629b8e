//! Pre-bids by worked examples: each table is one auction, each line one call before the opening, and then what the opening
//! leads to.
//!
//! The examples follow the rule of eBay's help page "Automatic bidding" for two maximums, as those of `maximums.rs` do;
//! here they are resolved all at one moment. Amounts are in cents.

use domain::{
    Acted, Amount, AntiSnipe, AntiSnipeMode, Auction, AuctionId, BidId, BidKind, BidRequest, CloseReason, Decision,
    Host, HostAct, Ladder, MAX_PREBIDDERS, MAX_PREBIDS_OF_ONE, Millis, Offer, Preset, Refusal, Reserve, Rules, Status,
    UserId,
};
use uuid::Uuid;

const HOST: u128 = 1;
const ANNA: u128 = 2;
const BEN: u128 = 3;
const CARA: u128 = 4;
const DORA: u128 = 5;
/// When the auctions start.
const START: u64 = 10_000;
/// Milliseconds that they last.
const DURATION: u64 = 60_000;

fn user(number: u128) -> UserId {
    UserId::from_uuid(Uuid::from_u128(number))
}

fn cents(cents: u64) -> Amount {
    Amount::from_cents(cents).expect("an amount")
}

/// Starts at 70.00 with steps of 10.00, with a window in which every bid would be late.
fn rules() -> Rules {
    let window_ms = DURATION;
    Rules {
        host: Host { user_id: user(HOST), username: "host".to_owned() },
        starting_bid: cents(7_000),
        increments: Ladder::flat(cents(1_000)),
        duration_ms: DURATION,
        anti_snipe: AntiSnipe { mode: AntiSnipeMode::Extend, window_ms, extension_ms: 5_000, max_extensions: 0 },
        allow_self_raise: false,
        buy_now: None,
        reserve: None,
        allow_prebids: true,
        follows: None,
    }
}

fn with_reserve(amount: u64) -> Rules {
    Rules { reserve: Some(Reserve { amount: cents(amount), sealed: "reserve".parse().expect("a text") }), ..rules() }
}

fn scheduled(rules: Rules) -> Auction {
    Auction::create(AuctionId::from_uuid(Uuid::from_u128(9)), rules, Millis(START), Millis(0))
}

/// An offer: an amount and a maximum; 0 where there is none. An amount alone is sealed as well.
fn offer(amount: u64, maximum: u64) -> Offer {
    let sealed = format!("{amount}-{maximum}").parse().expect("a text");
    match (amount, maximum) {
        (amount, 0) => Offer::Kept { amount: cents(amount), sealed },
        (amount, maximum) => Offer::UpTo { amount: Amount::from_stored(amount), maximum: cents(maximum), sealed },
    }
}

fn request(auction: &Auction, person: u128, offer: Offer) -> BidRequest {
    BidRequest {
        bid_id: BidId::from_uuid(Uuid::from_u128(u128::from(auction.seq) + 1_000)),
        user_id: user(person),
        username: format!("user-{person}"),
        offer,
    }
}

/// One call under an id of its own. The answer says the same of each accepted bid, whatever was offered.
fn place(auction: &mut Auction, person: u128, offer: Offer, now: u64) -> Result<(), Refusal> {
    let request = request(auction, person, offer);
    match auction.place(&request, Millis(now)) {
        Decision::Accepted { accepted, .. } => {
            assert_eq!((accepted.price, accepted.leads, accepted.extended), (None, false, false));
            assert_eq!((accepted.amount, accepted.minimum_bid), (cents(7_000), cents(7_000)), "the starting price");
            assert_eq!(accepted.end_time, Millis(START + DURATION), "the end as it is planned");
            Ok(())
        }
        Decision::Refused { refusal, .. } => Err(refusal),
    }
}

/// A call (person, amount, maximum), and the refusal.
type Line = (u128, u64, u64, Result<(), Refusal>);

const LOW: Result<(), Refusal> = Err(Refusal::TooLow);

/// Places the lines, opens the auction, and compares price and leader (0 for none).
fn check(name: &str, rules: Rules, lines: &[Line], price: u64, leader: u128) -> Auction {
    let mut auction = scheduled(rules);
    for (nth, (person, amount, maximum, expected)) in lines.iter().enumerate() {
        let seq = auction.seq;
        assert_eq!(place(&mut auction, *person, offer(*amount, *maximum), 5), *expected, "{name}, line {nth}");
        assert_eq!(expected.is_err(), auction.seq == seq, "{name}, line {nth}: a refusal is no fact");
        assert_eq!((auction.bid_count, &auction.leader), (0, &None), "{name}, line {nth}: nothing is bid");
    }
    open(&mut auction, name, price, leader);
    auction
}

fn open(auction: &mut Auction, name: &str, price: u64, leader: u128) {
    let (kept, seq) = (auction.prebids.clone(), auction.seq);
    assert!(!auction.open(Millis(START - 1)) && auction.seq == seq, "{name}: not before the start");
    assert!(auction.open(Millis(START + 7)), "{name}");
    let led = auction.leader.as_ref().map(|leader| (leader.amount.cents(), leader.user_id));
    assert_eq!(led, (price > 0).then_some((price, user(leader))), "{name}: price and leader");
    assert!(auction.prebids.is_empty() && auction.secrets().is_some_and(|secrets| secrets.prebid.is_none()), "{name}");
    let maximum = auction.maximum.as_ref().map(|maximum| maximum.bid_id);
    let set = kept.iter().find(|prebid| prebid.user_id == user(leader)).map(|prebid| prebid.maximum.bid_id);
    assert_eq!(maximum, set, "{name}: the leader's maximum goes on");
    assert_eq!(auction.seq, seq + auction.bid_count + 1, "{name}: one fact a bid, and the opening");
    assert_eq!((auction.end_time, auction.extension_count), (Millis(START + 7 + DURATION), 0), "{name}: the end");
}

#[test]
fn highest_prebid_leads_at_a_step_above_the_second() {
    check("none", rules(), &[], 0, ANNA);
    check("one", rules(), &[(ANNA, 0, 30_000, Ok(()))], 7_000, ANNA);
    check("one at the start", rules(), &[(ANNA, 0, 7_000, Ok(()))], 7_000, ANNA);
    let lines = [(ANNA, 0, 10_000, Ok(())), (BEN, 0, 30_000, Ok(()))];
    let auction = check("100 and 300", rules(), &lines, 11_000, BEN);
    assert_eq!((auction.bid_count, auction.answers), (2, Some(2)));
    let lines = [(ANNA, 0, 30_000, Ok(())), (BEN, 0, 10_000, Ok(()))];
    check("in the other order", rules(), &lines, 11_000, ANNA);
    let lines = [(ANNA, 0, 29_500, Ok(())), (BEN, 0, 30_000, Ok(()))];
    check("cut step", rules(), &lines, 30_000, BEN);
    let lines = [(ANNA, 0, 10_000, Ok(())), (BEN, 0, 30_000, Ok(())), (CARA, 0, 20_000, Ok(()))];
    check("three", rules(), &lines, 21_000, BEN);
    // The price does not depend on the order, though one of them lies less than a step below another.
    for people in [[ANNA, BEN, CARA], [CARA, BEN, ANNA], [BEN, ANNA, CARA]] {
        let lines = people.map(|person| (person, 0, 10_000 + 500 * u64::try_from(person).expect("small"), Ok(())));
        check("within a step", rules(), &lines, 12_000, CARA);
    }
}

#[test]
fn earliest_of_equal_prebids_leads() {
    let lines = [(ANNA, 0, 20_000, Ok(())), (BEN, 0, 20_000, Ok(())), (CARA, 0, 20_000, Ok(()))];
    check("tie of three", rules(), &lines, 20_000, ANNA);
    let lines = [(ANNA, 0, 7_000, Ok(())), (BEN, 0, 7_000, Ok(()))];
    check("tie at the start", rules(), &lines, 7_000, ANNA);
    // Setting it again makes it new, with the same amount too.
    let lines = [(ANNA, 0, 20_000, Ok(())), (BEN, 0, 20_000, Ok(())), (ANNA, 0, 20_000, Ok(()))];
    check("set again", rules(), &lines, 20_000, BEN);
    let lines = [(ANNA, 0, 10_000, Ok(())), (BEN, 0, 20_000, Ok(())), (ANNA, 0, 20_000, Ok(()))];
    check("raised to a tie", rules(), &lines, 20_000, BEN);
}

#[test]
fn later_prebid_of_a_person_replaces_the_earlier_one() {
    let lines = [(ANNA, 0, 30_000, Ok(())), (BEN, 0, 10_000, Ok(())), (ANNA, 0, 9_000, Ok(()))];
    let auction = check("lowered", rules(), &lines, 10_000, BEN);
    assert_eq!((auction.bid_count, auction.answers), (2, Some(3)), "one bid a person, and an answer a call");
    let lines = [(ANNA, 0, 9_000, Ok(())), (ANNA, 0, 30_000, Ok(()))];
    check("no bid against one's own", rules(), &lines, 7_000, ANNA);
    let lines = [(ANNA, 0, 9_000, Ok(())), (ANNA, 0, 6_999, LOW), (BEN, 0, 8_000, Ok(()))];
    check("a refused one replaces nothing", rules(), &lines, 9_000, ANNA);
}

#[test]
fn amount_is_kept_as_a_maximum() {
    let lines = [(ANNA, 15_000, 0, Ok(())), (BEN, 10_000, 0, Ok(()))];
    check("amounts alone", rules(), &lines, 11_000, ANNA);
    // Beside a maximum it has no effect, as in a leader's call.
    let lines = [(ANNA, 15_000, 20_000, Ok(())), (BEN, 100, 10_000, Ok(()))];
    check("amount and maximum", rules(), &lines, 11_000, ANNA);
    check("below the start", rules(), &[(ANNA, 6_999, 0, LOW), (ANNA, 0, 6_999, LOW)], 0, ANNA);
    let mut auction = scheduled(rules());
    assert_eq!(place(&mut auction, ANNA, cents(9_000).into(), 1), Err(Refusal::NotStarted), "not encrypted");
    let mut without = scheduled(Rules { allow_prebids: false, ..rules() });
    assert_eq!(place(&mut without, ANNA, offer(0, 9_000), 1), Err(Refusal::NotStarted));
    // A bid that still comes after the opening is an amount, and nothing more.
    open(&mut auction, "none", 0, ANNA);
    let late = request(&auction, ANNA, offer(9_000, 0));
    assert!(matches!(auction.place(&late, Millis(START + 8)), Decision::Accepted { accepted, .. }
        if accepted.leads && accepted.amount == cents(9_000) && accepted.offer == Offer::Exact(cents(9_000))));
    assert_eq!(auction.maximum, None);
}

#[test]
fn steps_are_those_of_the_band_of_the_second_prebid() {
    let classic = || Rules { increments: Preset::Classic.into(), ..rules() };
    let lines = [(ANNA, 0, 9_999, Ok(())), (BEN, 0, 30_000, Ok(()))];
    check("below the edge", classic(), &lines, 10_099, BEN);
    let lines = [(ANNA, 0, 10_000, Ok(())), (BEN, 0, 30_000, Ok(()))];
    check("at the edge", classic(), &lines, 10_250, BEN);
}

#[test]
fn reserve_is_bid_if_the_highest_reaches_it() {
    let auction = check("below", with_reserve(20_000), &[(ANNA, 0, 19_999, Ok(()))], 7_000, ANNA);
    assert!(!auction.reserve_met());
    let auction = check("at", with_reserve(20_000), &[(ANNA, 0, 20_000, Ok(()))], 20_000, ANNA);
    assert!(auction.reserve_met());
    let lines = [(ANNA, 0, 30_000, Ok(())), (BEN, 0, 10_000, Ok(()))];
    check("jump", with_reserve(20_000), &lines, 20_000, ANNA);
    let lines = [(ANNA, 0, 30_000, Ok(())), (BEN, 0, 25_000, Ok(()))];
    check("both above", with_reserve(20_000), &lines, 26_000, ANNA);
}

#[test]
fn buy_now_is_the_cap_of_every_prebid() {
    let rules = || Rules { buy_now: Some(cents(20_000)), ..rules() };
    let sold = |mut auction: Auction| auction.close(CloseReason::BuyNow, None, Millis(START + 7));
    // An amount is kept as a maximum, so that one alone does not buy.
    assert!(!sold(check("one", rules(), &[(ANNA, 20_000, 0, Ok(()))], 7_000, ANNA)));
    let lines = [(ANNA, 0, 50_000, Ok(())), (BEN, 0, 19_000, Ok(()))];
    assert!(sold(check("driven there", rules(), &lines, 20_000, ANNA)));
    let lines = [(ANNA, 0, 50_000, Ok(())), (BEN, 0, 60_000, Ok(()))];
    assert!(sold(check("both are cut to it: a tie", rules(), &lines, 20_000, ANNA)));
    let lines = [(ANNA, 0, 50_000, Ok(())), (BEN, 0, 18_999, Ok(()))];
    assert!(!sold(check("a cent less", rules(), &lines, 19_999, ANNA)));
    let with_reserve = Rules { buy_now: Some(cents(20_000)), ..with_reserve(20_000) };
    assert!(sold(check("a reserve as high", with_reserve, &[(ANNA, 0, 50_000, Ok(()))], 20_000, ANNA)));
}

#[test]
fn blocked_people_do_not_count_at_the_opening() {
    let block = |auction: &mut Auction, person| auction.act(HostAct::Block(user(person)), user(HOST), Millis(6));
    let mut auction = scheduled(rules());
    for (person, maximum) in [(ANNA, 30_000), (BEN, 20_000), (CARA, 10_000), (DORA, 9_000)] {
        assert_eq!(place(&mut auction, person, offer(0, maximum), 5), Ok(()));
    }
    assert_eq!((block(&mut auction, ANNA), block(&mut auction, CARA)), (Acted::Done, Acted::Done));
    assert_eq!(place(&mut auction, ANNA, offer(0, 40_000), 7), Err(Refusal::Blocked));
    let mut unblocked = auction.clone();
    open(&mut auction, "blocked", 10_000, BEN);
    assert_eq!(auction.bid_count, 2);
    // A person who is unblocked in time has kept the pre-bid.
    assert_eq!(unblocked.act(HostAct::Unblock(user(ANNA)), user(HOST), Millis(8)), Acted::Done);
    open(&mut unblocked, "unblocked", 21_000, ANNA);
    let mut alone = scheduled(rules());
    assert_eq!((place(&mut alone, ANNA, offer(0, 9_000), 5), block(&mut alone, ANNA)), (Ok(()), Acted::Done));
    open(&mut alone, "only blocked ones", 0, BEN);
    assert_eq!(place(&mut scheduled(rules()), HOST, offer(0, 9_000), 5), Err(Refusal::HostCannotBid));
}

#[test]
fn facts_show_no_maximum_but_that_the_price_follows_from_two() {
    let mut auction = scheduled(rules());
    for (person, maximum) in [(ANNA, 11_113), (BEN, 30_017), (CARA, 20_019)] {
        assert_eq!(place(&mut auction, person, offer(0, maximum), 5), Ok(()));
    }
    let facts = auction.bid_prebids(Millis(START));
    let bids: Vec<_> = facts.iter().map(|fact| (fact.user_id, fact.amount.cents())).collect();
    assert_eq!(bids, [(user(ANNA), 7_000), (user(CARA), 7_000), (user(BEN), 21_019)], "in order, the leader last");
    for fact in &facts {
        assert!(fact.kind == BidKind::Prebid && fact.sealed.is_none() && fact.bid_id.is_of_counter_bid());
    }
    // Between them and the opening nothing more is kept, and the opening bids nothing again.
    assert_eq!(place(&mut auction, DORA, offer(0, 50_000), START), Err(Refusal::NotStarted));
    let seq = auction.seq;
    assert!(auction.open(Millis(START)) && auction.seq == seq + 1 && auction.status == Status::Live);
    let text = format!("{auction:?}");
    assert!(!["11113", "30017", "20019"].iter().any(|secret| text.contains(secret)), "{text}");
}

#[test]
fn number_of_prebids_is_bounded() {
    let mut auction = scheduled(rules());
    for person in 0..MAX_PREBIDDERS {
        assert_eq!(place(&mut auction, 10 + person as u128, offer(0, 9_000), 1), Ok(()), "{person}");
    }
    assert_eq!(place(&mut auction, ANNA, offer(0, 50_000), 1), Err(Refusal::PrebidsFull));
    for _ in 1..MAX_PREBIDS_OF_ONE {
        assert_eq!(place(&mut auction, 10, offer(0, 9_500), 1), Ok(()), "a person who is in may change it");
    }
    assert_eq!(place(&mut auction, 10, offer(0, 50_000), 1), Err(Refusal::PrebidsFull));
    open(&mut auction, "full", 9_500, 10);
    assert_eq!(auction.bid_count, MAX_PREBIDDERS as u64);
}

#[test]
fn repeated_prebid_finds_its_answer_before_and_after_the_opening() {
    let mut auction = scheduled(rules());
    for first in [offer(0, 20_000), offer(8_000, 0)] {
        let first = request(&auction, ANNA, first);
        let Decision::Accepted { accepted, found: false } = auction.place(&first, Millis(1)) else { panic!("refused") };
        let found = Decision::Accepted { accepted, found: true };
        assert_eq!(auction.place(&first, Millis(2)), found);
        let mut opened = auction.clone();
        open(&mut opened, "one", 7_000, ANNA);
        assert_eq!(opened.place(&first, Millis(START + 9)), found);
        // The same amount is found without its encryption, as a client sends it.
        if first.offer.maximum().is_none() {
            let again = BidRequest { offer: cents(8_000).into(), ..first.clone() };
            assert_eq!(opened.place(&again, Millis(START + 9)), found);
        }
        let other = BidRequest { offer: offer(0, 20_001), ..first };
        assert!(matches!(auction.place(&other, Millis(2)), Decision::Refused { refusal: Refusal::BidIdReused, .. }));
    }
}

#[test]
fn host_who_starts_early_opens_with_what_is_kept() {
    let mut auction = scheduled(rules());
    assert_eq!(place(&mut auction, ANNA, offer(0, 20_000), 5), Ok(()));
    assert_eq!(auction.act(HostAct::Start, user(ANNA), Millis(6)), Acted::NotHost);
    assert_eq!(auction.act(HostAct::Start, user(HOST), Millis(6)), Acted::Done);
    assert_eq!(auction.leader.as_ref().map(|leader| leader.amount.cents()), Some(7_000));
    // In the auction, the maximum answers as any other.
    let bid = request(&auction, BEN, cents(8_000).into());
    assert!(matches!(auction.place(&bid, Millis(7)), Decision::Accepted { accepted, .. } if !accepted.leads));
    assert_eq!(auction.leader.map(|leader| (leader.user_id, leader.amount.cents())), Some((user(ANNA), 9_000)));
}
