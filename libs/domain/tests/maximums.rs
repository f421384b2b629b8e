//! Proxy bids and the reserve by worked examples: each table is one auction, each line one call and what it leads to.
//!
//! The examples follow the published rules of auction houses: eBay's help pages "Automatic bidding" and "Reserve price
//! auctions", and the increments of eBay's table. Amounts are in cents.

use domain::{
    Acted, Amount, AntiSnipe, AntiSnipeMode, Auction, AuctionId, BidId, BidRequest, CloseReason, Decision, Host,
    HostAct, Ladder, Millis, Offer, Outcome, Preset, Refusal, Reserve, Rules, UserId,
};
use uuid::Uuid;

const HOST: u128 = 1;
const ANNA: u128 = 2;
const BEN: u128 = 3;
const CARA: u128 = 4;
/// Milliseconds after the opening at which an auction without extensions ends.
const END: u64 = 60_000;

fn user(number: u128) -> UserId {
    UserId::from_uuid(Uuid::from_u128(number))
}

fn cents(cents: u64) -> Amount {
    Amount::from_cents(cents).expect("an amount")
}

/// Starts at 70.00 with steps of 10.00 and ends a minute after 0; no bid moves the end.
fn rules() -> Rules {
    Rules {
        host: Host { user_id: user(HOST), username: "host".to_owned() },
        starting_bid: cents(7_000),
        increments: Ladder::flat(cents(1_000)),
        duration_ms: END,
        anti_snipe: AntiSnipe { mode: AntiSnipeMode::Off, window_ms: 0, extension_ms: 0, max_extensions: 0 },
        allow_self_raise: false,
        buy_now: None,
        reserve: None,
        allow_prebids: false,
        follows: None,
    }
}

fn with_reserve(amount: u64) -> Rules {
    Rules { reserve: Some(Reserve { amount: cents(amount), sealed: "reserve".parse().expect("a text") }), ..rules() }
}

fn opened(rules: Rules) -> Auction {
    let mut auction = Auction::create(AuctionId::from_uuid(Uuid::from_u128(9)), rules, Millis(0), Millis(0));
    assert!(auction.open(Millis(0)));
    auction
}

/// An offer: an amount to bid at once, and a maximum; 0 where there is none.
fn offer(amount: u64, maximum: u64) -> Offer {
    match (amount, maximum) {
        (amount, 0) => cents(amount).into(),
        (amount, maximum) => Offer::UpTo {
            amount: Amount::from_stored(amount),
            maximum: cents(maximum),
            sealed: format!("{amount}-{maximum}").parse().expect("a text"),
        },
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

/// One call under an id of its own: the caller's bid, or why it was refused.
fn place(auction: &mut Auction, person: u128, offer: Offer, now: u64) -> Result<u64, Refusal> {
    let request = request(auction, person, offer);
    match auction.place(&request, Millis(now)) {
        Decision::Accepted { accepted, .. } => {
            let leader = auction.leader.as_ref().expect("a leader");
            assert_eq!((accepted.price, accepted.leads), (Some(leader.amount), leader.user_id == user(person)));
            assert_eq!(accepted.minimum_bid, auction.minimum_bid());
            Ok(accepted.amount.cents())
        }
        Decision::Refused { refusal, .. } => Err(refusal),
    }
}

/// A call (person, amount, maximum), the caller's bid or the refusal, and then the price and who leads.
type Line = (u128, u64, u64, Result<u64, Refusal>, u64, u128);

fn check(name: &str, rules: Rules, lines: &[Line]) -> Auction {
    let mut auction = opened(rules);
    for (nth, (person, amount, maximum, expected, price, leader)) in lines.iter().enumerate() {
        let seq = auction.seq;
        let bid = place(&mut auction, *person, offer(*amount, *maximum), 1);
        assert_eq!(bid, *expected, "{name}, line {nth}");
        assert_eq!(bid.is_err(), auction.seq == seq, "{name}, line {nth}: a refusal is no fact");
        let led = auction.leader.as_ref().map(|leader| (leader.amount.cents(), leader.user_id));
        assert_eq!(led, (*price > 0).then_some((*price, user(*leader))), "{name}, line {nth}: price and leader");
    }
    auction
}

const LOW: Result<u64, Refusal> = Err(Refusal::TooLow);

#[test]
fn two_maximums_resolve_one_step_above_the_lower_one() {
    // Maximums 100 and 300 from a start of 70 with step 10: 110 to the second.
    let lines = [(ANNA, 0, 10_000, Ok(7_000), 7_000, ANNA), (BEN, 0, 30_000, Ok(11_000), 11_000, BEN)];
    let auction = check("100 and 300", rules(), &lines);
    assert_eq!((auction.seq, auction.bid_count, auction.answers), (4, 2, Some(2)), "no counter-bid: two facts");
    let lines = [(ANNA, 0, 30_000, Ok(7_000), 7_000, ANNA), (BEN, 0, 10_000, Ok(8_000), 11_000, ANNA)];
    let auction = check("300 and 100", rules(), &lines);
    assert_eq!((auction.seq, auction.bid_count, auction.answers), (5, 3, Some(2)), "the counter-bid is a fact");
    let counter = auction.counter.expect("a counter-bid");
    assert_eq!((counter.seq, counter.user_id, counter.amount.cents()), (5, user(ANNA), 11_000));
    assert!(counter.bid_id.is_of_counter_bid());
    check(
        "amounts are bid at once",
        rules(),
        &[
            (ANNA, 9_000, 10_000, Ok(9_000), 9_000, ANNA),
            (BEN, 25_000, 30_000, Ok(25_000), 25_000, BEN),
            // An amount below the minimum counts as the least that is needed, if the maximum reaches it.
            (ANNA, 100, 40_000, Ok(31_000), 31_000, ANNA),
            (BEN, 100, 31_999, LOW, 31_000, ANNA),
        ],
    );
}

#[test]
fn plain_bid_is_met_by_the_leaders_maximum() {
    check(
        "counter-bids",
        rules(),
        &[
            (ANNA, 0, 20_000, Ok(7_000), 7_000, ANNA),
            (BEN, 8_000, 0, Ok(8_000), 9_000, ANNA),
            (BEN, 9_999, 0, LOW, 9_000, ANNA),
            (BEN, 15_000, 0, Ok(15_000), 16_000, ANNA),
            // Less than a step above, where the maximum ends.
            (BEN, 19_500, 0, Ok(19_500), 20_000, ANNA),
            (BEN, 20_500, 0, LOW, 20_000, ANNA),
            (BEN, 21_000, 0, Ok(21_000), 21_000, BEN),
        ],
    );
    // Beyond the maximum less than a step is enough: the step counts from the price.
    check("cut step", rules(), &[(ANNA, 0, 20_000, Ok(7_000), 7_000, ANNA), (BEN, 20_001, 0, Ok(20_001), 20_001, BEN)]);
    check(
        "cut step of a maximum",
        rules(),
        &[(ANNA, 0, 20_000, Ok(7_000), 7_000, ANNA), (BEN, 0, 20_300, Ok(20_300), 20_300, BEN)],
    );
}

#[test]
fn earlier_of_two_equal_maximums_leads() {
    check(
        "tie of maximums",
        rules(),
        &[
            (ANNA, 0, 20_000, Ok(7_000), 7_000, ANNA),
            (BEN, 0, 20_000, Ok(8_000), 20_000, ANNA),
            (CARA, 0, 20_000, LOW, 20_000, ANNA),
        ],
    );
    check(
        "tie of a maximum and a bid",
        rules(),
        &[(ANNA, 0, 20_000, Ok(7_000), 7_000, ANNA), (BEN, 20_000, 0, Ok(20_000), 20_000, ANNA)],
    );
    check(
        "one cent more",
        rules(),
        &[(ANNA, 0, 20_000, Ok(7_000), 7_000, ANNA), (BEN, 0, 20_001, Ok(20_001), 20_001, BEN)],
    );
}

#[test]
fn leader_changes_the_maximum_alone() {
    let auction = check(
        "leader raises the maximum",
        rules(),
        &[
            (ANNA, 0, 10_000, Ok(7_000), 7_000, ANNA),
            (ANNA, 0, 30_000, Ok(7_000), 7_000, ANNA),
            // The amount of a leader's call has no effect.
            (ANNA, 29_000, 31_000, Ok(7_000), 7_000, ANNA),
            (ANNA, 29_000, 0, Err(Refusal::AlreadyLeading), 7_000, ANNA),
            (BEN, 0, 15_000, Ok(8_000), 16_000, ANNA),
            // Never below the current price; at it, the maximum is used up.
            (ANNA, 0, 15_999, LOW, 16_000, ANNA),
            (ANNA, 0, 16_000, Ok(16_000), 16_000, ANNA),
            (BEN, 0, 20_000, Ok(17_000), 17_000, BEN),
        ],
    );
    assert_eq!((auction.bid_count, auction.answers), (4, Some(6)), "a changed maximum is no bid");
    // A leader without a maximum gets one.
    check(
        "later maximum",
        rules(),
        &[
            (ANNA, 8_000, 0, Ok(8_000), 8_000, ANNA),
            (ANNA, 0, 20_000, Ok(8_000), 8_000, ANNA),
            (BEN, 9_000, 0, Ok(9_000), 10_000, ANNA),
        ],
    );
    // A raise of one's own bid keeps the maximum, as far as it goes.
    check(
        "raise",
        Rules { allow_self_raise: true, ..rules() },
        &[
            (ANNA, 0, 20_000, Ok(7_000), 7_000, ANNA),
            (ANNA, 15_000, 0, Ok(15_000), 15_000, ANNA),
            (BEN, 16_000, 0, Ok(16_000), 17_000, ANNA),
            (ANNA, 30_000, 0, Ok(30_000), 30_000, ANNA),
            (BEN, 0, 50_000, Ok(31_000), 31_000, BEN),
        ],
    );
}

#[test]
fn steps_are_those_of_the_band_that_a_maximum_reaches() {
    // eBay's help page "Automatic bidding", table "Bid increments": 1.00 from 25.00, 2.50 from 100.00.
    let classic = || Rules { starting_bid: cents(500), increments: Preset::Classic.into(), ..rules() };
    check(
        "within a band",
        classic(),
        &[
            (ANNA, 0, 3_000, Ok(500), 500, ANNA),
            (BEN, 0, 2_500, Ok(550), 2_600, ANNA),
            (BEN, 0, 10_000, Ok(3_100), 3_100, BEN),
        ],
    );
    check(
        "at the edge",
        classic(),
        &[
            (ANNA, 0, 10_000, Ok(500), 500, ANNA),
            (BEN, 0, 9_999, Ok(550), 10_000, ANNA),
            (CARA, 0, 20_000, Ok(10_250), 10_250, CARA),
        ],
    );
    check(
        "above the edge",
        classic(),
        &[
            (ANNA, 0, 9_950, Ok(500), 500, ANNA),
            (BEN, 0, 20_000, Ok(10_050), 10_050, BEN),
            (ANNA, 10_299, 0, LOW, 10_050, BEN),
            (ANNA, 10_300, 0, Ok(10_300), 10_550, BEN),
        ],
    );
}

#[test]
fn maximum_that_reaches_the_reserve_bids_the_reserve() {
    // eBay's help page "Reserve price auctions": a maximum at or above the reserve raises the bid to the reserve.
    let auction = check(
        "jump",
        with_reserve(20_000),
        &[
            (ANNA, 0, 15_000, Ok(7_000), 7_000, ANNA),
            (BEN, 0, 19_999, Ok(16_000), 16_000, BEN),
            (ANNA, 0, 30_000, Ok(20_999), 20_999, ANNA),
        ],
    );
    assert!(auction.reserve_met());
    check(
        "jump from below",
        with_reserve(20_000),
        &[
            (ANNA, 8_000, 0, Ok(8_000), 8_000, ANNA),
            (BEN, 9_000, 50_000, Ok(20_000), 20_000, BEN),
            (ANNA, 20_500, 0, LOW, 20_000, BEN),
            (ANNA, 21_000, 0, Ok(21_000), 22_000, BEN),
        ],
    );
    check("first bid", with_reserve(20_000), &[(ANNA, 0, 20_000, Ok(20_000), 20_000, ANNA)]);
    check("amount above the reserve", with_reserve(20_000), &[(ANNA, 25_000, 30_000, Ok(25_000), 25_000, ANNA)]);
    // A leader never bids against their own bid, but the reserve is the host's.
    let auction = check(
        "leader",
        with_reserve(20_000),
        &[
            (ANNA, 0, 19_999, Ok(7_000), 7_000, ANNA),
            (ANNA, 0, 20_000, Ok(20_000), 20_000, ANNA),
            (ANNA, 0, 40_000, Ok(20_000), 20_000, ANNA),
            (BEN, 0, 30_000, Ok(21_000), 31_000, ANNA),
        ],
    );
    assert_eq!(auction.answers, Some(4));
}

#[test]
fn auction_below_its_reserve_is_not_sold() {
    let ended = |name: &str, lines: &[Line], reason: CloseReason, by| {
        let mut auction = check(name, with_reserve(20_000), lines);
        assert!(auction.close(reason, by, Millis(END)), "{name}");
        let closing = auction.closing.clone().expect("a closing");
        (closing.outcome(), closing.winner.map(|winner| (winner.user_id, winner.amount.cents())))
    };
    let below = [(ANNA, 19_999, 0, Ok(19_999), 19_999, ANNA)];
    assert_eq!(ended("below", &below, CloseReason::Ended, None), (Outcome::Unsold, None));
    assert_eq!(ended("host closes", &below, CloseReason::Host, Some(user(HOST))), (Outcome::Unsold, None));
    assert_eq!(ended("no bid", &[], CloseReason::Ended, None), (Outcome::Unsold, None));
    let at = [(ANNA, 20_000, 0, Ok(20_000), 20_000, ANNA)];
    assert_eq!(ended("at", &at, CloseReason::Ended, None), (Outcome::Sold, Some((user(ANNA), 20_000))));
}

#[test]
fn buy_now_is_the_cap_of_every_maximum() {
    let rules = || Rules { buy_now: Some(cents(20_000)), ..rules() };
    let sold_to = |name: &str, lines: &[Line]| {
        let mut auction = check(name, rules(), lines);
        assert_eq!(place(&mut auction, CARA, offer(30_000, 0), 2), Err(Refusal::Closed), "{name}");
        assert!(auction.close(CloseReason::BuyNow, None, Millis(2)), "{name}");
        auction.closing.and_then(|closing| closing.winner).map(|winner| winner.user_id)
    };
    // Maximums that drive the price there end the auction.
    let lines = [(ANNA, 0, 50_000, Ok(7_000), 7_000, ANNA), (BEN, 0, 19_500, Ok(8_000), 20_000, ANNA)];
    assert_eq!(sold_to("driven by a lower maximum", &lines), Some(user(ANNA)));
    let lines = [(ANNA, 0, 19_500, Ok(7_000), 7_000, ANNA), (BEN, 0, 50_000, Ok(20_000), 20_000, BEN)];
    assert_eq!(sold_to("driven by a higher maximum", &lines), Some(user(BEN)));
    let lines = [(ANNA, 0, 50_000, Ok(7_000), 7_000, ANNA), (BEN, 0, 60_000, Ok(8_000), 20_000, ANNA)];
    assert_eq!(sold_to("both are cut to it: a tie", &lines), Some(user(ANNA)));
    // An amount at the buy-now price buys, whatever maximum stands.
    let lines = [(ANNA, 0, 50_000, Ok(7_000), 7_000, ANNA), (BEN, 20_000, 0, Ok(20_000), 20_000, BEN)];
    assert_eq!(sold_to("amount", &lines), Some(user(BEN)));
    let lines = [(ANNA, 0, 50_000, Ok(7_000), 7_000, ANNA), (BEN, 25_000, 70_000, Ok(20_000), 20_000, BEN)];
    assert_eq!(sold_to("amount and maximum", &lines), Some(user(BEN)));
    check(
        "one cent less",
        rules(),
        &[(ANNA, 0, 19_999, Ok(7_000), 7_000, ANNA), (BEN, 0, 19_000, Ok(8_000), 19_999, ANNA)],
    );
}

#[test]
fn maximum_of_a_blocked_leader_makes_no_more_bids() {
    let auction = &mut opened(rules());
    assert_eq!(place(auction, ANNA, offer(0, 30_000), 1), Ok(7_000));
    assert_eq!(auction.act(HostAct::Block(user(ANNA)), user(HOST), Millis(1)), Acted::Done);
    assert_eq!(auction.leader.as_ref().map(|leader| leader.user_id), Some(user(ANNA)), "the bid stands");
    assert_eq!(place(auction, ANNA, offer(0, 40_000), 1), Err(Refusal::Blocked));
    assert_eq!(place(auction, BEN, offer(0, 20_000), 1), Ok(8_000));
    assert_eq!(auction.leader.as_ref().map(|leader| leader.user_id), Some(user(BEN)));
    assert_eq!(auction.act(HostAct::Unblock(user(ANNA)), user(HOST), Millis(1)), Acted::Done);
    assert_eq!(place(auction, ANNA, offer(0, 30_000), 1), Ok(21_000), "a new maximum against Ben's");
}

#[test]
fn maximums_stay_within_what_can_be_bid() {
    let most = Amount::MAX_CENTS;
    check(
        "largest amount",
        rules(),
        &[
            (ANNA, 0, most, Ok(7_000), 7_000, ANNA),
            (BEN, 0, most, Ok(8_000), most, ANNA),
            (CARA, 0, most, LOW, most, ANNA),
        ],
    );
    check(
        "one cent below it",
        rules(),
        &[(ANNA, 0, most - 1, Ok(7_000), 7_000, ANNA), (BEN, 0, most, Ok(most), most, BEN)],
    );
}

#[test]
fn only_a_new_price_or_leader_moves_the_end() {
    let snipe = AntiSnipe { mode: AntiSnipeMode::Extend, window_ms: END, extension_ms: 10_000, max_extensions: 0 };
    let auction = &mut opened(Rules { anti_snipe: snipe, ..rules() });
    for (person, given, end, extensions) in [
        (ANNA, offer(0, 20_000), END + 10_000, 1),
        // A changed maximum.
        (ANNA, offer(0, 30_000), END + 10_000, 1),
        // A bid and the counter-bid to it: once.
        (BEN, offer(15_000, 0), END + 20_000, 2),
    ] {
        assert!(place(auction, person, given, 15_000).is_ok());
        assert_eq!((auction.end_time, auction.extension_count), (Millis(end), extensions), "{person}");
    }
}

#[test]
fn repeated_proxy_bid_finds_its_answer() {
    let auction = &mut opened(rules());
    let first = request(auction, ANNA, offer(0, 20_000));
    let Decision::Accepted { accepted, found: false } = auction.place(&first, Millis(1)) else { panic!("refused") };
    let second = request(auction, ANNA, offer(0, 30_000));
    let Decision::Accepted { accepted: changed, found: false } = auction.place(&second, Millis(1)) else {
        panic!("refused")
    };
    assert_eq!(place(auction, BEN, offer(0, 40_000), 1), Ok(31_000));
    // Encrypted again, the same offer is the same.
    let again = Offer::UpTo { amount: None, maximum: cents(20_000), sealed: "another".parse().expect("a text") };
    let again = auction.place(&BidRequest { offer: again, ..first.clone() }, Millis(2));
    assert_eq!(again, Decision::Accepted { accepted, found: true });
    assert_eq!(auction.place(&second, Millis(2)), Decision::Accepted { accepted: changed, found: true });
    for other in [offer(0, 20_001), offer(20_000, 20_000), offer(20_000, 0)] {
        let other = auction.place(&BidRequest { offer: other, ..first.clone() }, Millis(2));
        assert!(matches!(other, Decision::Refused { refusal: Refusal::BidIdReused, .. }));
    }
}

#[test]
fn secret_amounts_are_in_no_debug_output() {
    let mut auction = opened(with_reserve(23_457));
    assert_eq!(place(&mut auction, ANNA, offer(0, 19_991), 1), Ok(7_000));
    let text = format!("{auction:?} {:?} {:?}", auction.secrets(), request(&auction, BEN, offer(0, 19_991)));
    assert!(!text.contains("23457") && !text.contains("19991"), "{text}");
}
