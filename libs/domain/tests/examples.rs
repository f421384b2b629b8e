//! The rules by worked examples: each table is one auction, each line one call and what it leads to.

use domain::{
    Acted, Amount, AntiSnipe, AntiSnipeMode, Auction, AuctionId, BidId, BidRequest, CloseReason, Decision, Host,
    HostAct, Ladder, Millis, Outcome, Preset, Refusal, Rules, Status, UserId,
};
use uuid::Uuid;

const HOST: u128 = 1;
const ANNA: u128 = 2;
const BEN: u128 = 3;
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

fn opened(rules: Rules) -> Auction {
    let mut auction = Auction::create(AuctionId::from_uuid(Uuid::from_u128(9)), rules, Millis(0), Millis(0));
    assert!(auction.open(Millis(0)));
    auction
}

/// One bid under an id of its own.
fn bid(auction: &mut Auction, person: u128, amount: u64, now: u64) -> Result<Amount, Refusal> {
    let request = BidRequest {
        bid_id: BidId::from_uuid(Uuid::from_u128(u128::from(auction.seq) + 1_000)),
        user_id: user(person),
        username: format!("user-{person}"),
        offer: cents(amount).into(),
    };
    match auction.place(&request, Millis(now)) {
        Decision::Accepted { accepted, .. } => Ok(accepted.amount),
        Decision::Refused { refusal, .. } => Err(refusal),
    }
}

#[test]
fn steps_follow_the_price_from_band_to_band() {
    // A bid in cents, and the lowest next bid if it is accepted.
    type Line = (u64, Result<u64, Refusal>);
    let check = |start: u64, increments: Ladder, lines: &[Line]| {
        let auction = &mut opened(Rules { starting_bid: cents(start), increments, ..rules() });
        for (nth, (amount, expected)) in lines.iter().enumerate() {
            let person = if auction.bid_count.is_multiple_of(2) { ANNA } else { BEN };
            let placed = bid(auction, person, *amount, 1).map(|_| auction.minimum_bid().cents());
            assert_eq!(placed, *expected, "line {nth}, {amount}");
        }
    };
    check(
        100,
        Preset::Flash.into(),
        &[
            // The first bid may equal the starting price.
            (99, Err(Refusal::TooLow)),
            (100, Ok(200)),
            (199, Err(Refusal::TooLow)),
            (2_999, Ok(3_099)),
            (3_099, Ok(3_299)),
            (3_298, Err(Refusal::TooLow)),
            (4_999, Ok(5_199)),
            (9_999, Ok(10_299)),
            (10_299, Ok(10_799)),
            (200_000, Ok(205_000)),
        ],
    );
    // eBay's help page "Automatic bidding", table "Bid increments": 0.05 up to 0.99, 0.25 up to 4.99, and so on.
    check(
        50,
        Preset::Classic.into(),
        &[(50, Ok(55)), (54, Err(Refusal::TooLow)), (99, Ok(104)), (104, Ok(129)), (500_000, Ok(510_000))],
    );
    // The first band also applies below its beginning.
    check(10, "5000:100 10000:200".parse().expect("a ladder"), &[(10, Ok(110)), (10_000, Ok(10_200))]);
}

#[test]
fn late_bids_move_the_end() {
    use AntiSnipeMode::{Extend, Off, Reset};

    // Time of a bid, and the end after it.
    type Line = (u64, u64);
    let check = |name: &str, anti_snipe: AntiSnipe, lines: &[Line], extensions: u32| {
        let auction = &mut opened(Rules { anti_snipe, ..rules() });
        for (nth, (now, end)) in (0u64..).zip(lines) {
            let person = if nth.is_multiple_of(2) { ANNA } else { BEN };
            assert_eq!(
                bid(auction, person, 7_000 + nth * 1_000, *now),
                Ok(cents(7_000 + nth * 1_000)),
                "{name}: {now}"
            );
            assert_eq!(auction.end_time, Millis(*end), "{name}: after the bid at {now}");
        }
        assert_eq!(auction.extension_count, extensions, "{name}");
    };
    let snipe = |mode, max_extensions| AntiSnipe { mode, window_ms: 30_000, extension_ms: 10_000, max_extensions };
    check("extend", snipe(Extend, 0), &[(30_000, 60_000), (30_001, 70_000), (69_999, 80_000)], 2);
    check("extend, one at most", snipe(Extend, 1), &[(40_000, 70_000), (69_999, 70_000)], 1);
    check("reset", snipe(Reset, 0), &[(50_000, 60_000), (50_001, 60_001), (50_001, 60_001), (60_000, 70_000)], 2);
    check("reset, one at most", snipe(Reset, 1), &[(49_999, 60_000), (55_000, 65_000), (64_999, 65_000)], 1);
    check("off", snipe(Off, 0), &[(59_999, 60_000)], 0);
}

#[test]
fn refused_bids_move_nothing() {
    let anti_snipe = AntiSnipe { mode: AntiSnipeMode::Reset, window_ms: 0, extension_ms: 10_000, max_extensions: 0 };
    let auction = &mut opened(Rules { anti_snipe, ..rules() });
    assert_eq!(bid(auction, ANNA, 7_000, 1), Ok(cents(7_000)));
    assert_eq!(bid(auction, BEN, 7_999, 59_999), Err(Refusal::TooLow));
    assert_eq!(bid(auction, ANNA, 9_900, 59_999), Err(Refusal::AlreadyLeading));
    assert_eq!((auction.end_time, auction.extension_count), (Millis(END), 0));
}

#[test]
fn leader_raises_where_the_rules_allow_it() {
    let auction = &mut opened(Rules { allow_self_raise: true, ..rules() });
    for (person, amount, expected) in [
        (ANNA, 7_000, Ok(cents(7_000))),
        (ANNA, 7_999, Err(Refusal::TooLow)),
        (ANNA, 8_000, Ok(cents(8_000))),
        (HOST, 9_900, Err(Refusal::HostCannotBid)),
        (BEN, 9_000, Ok(cents(9_000))),
        (BEN, 15_000, Ok(cents(15_000))),
    ] {
        assert_eq!(bid(auction, person, amount, 1), expected, "{person} bids {amount}");
    }
    assert_eq!(auction.bid_count, 4);
    let auction = &mut opened(rules());
    assert_eq!(bid(auction, ANNA, 7_000, 1), Ok(cents(7_000)));
    assert_eq!(bid(auction, ANNA, 8_000, 1), Err(Refusal::AlreadyLeading));
}

#[test]
fn bid_at_the_buy_now_price_ends_the_auction() {
    let snipe = AntiSnipe { mode: AntiSnipeMode::Extend, window_ms: END, extension_ms: 10_000, max_extensions: 0 };
    let rules = || Rules { buy_now: Some(cents(10_000)), anti_snipe: snipe, ..rules() };
    // A bid, the price if it is accepted, and the lowest next bid after it.
    type Line = (u128, u64, Result<Amount, Refusal>, u64);
    let check = |lines: &[Line]| {
        let auction = &mut opened(rules());
        for (person, amount, expected, minimum) in lines {
            assert_eq!(bid(auction, *person, *amount, 1), *expected, "{amount}");
            assert_eq!(auction.minimum_bid(), cents(*minimum), "after {amount}");
            let is_due = auction.is_bought() && auction.status == Status::Live;
            assert_eq!(auction.close(CloseReason::BuyNow, None, Millis(1)), is_due);
        }
        auction.clone()
    };
    // One cent less is an ordinary bid, and the next one need not exceed the buy-now price.
    let open = check(&[(ANNA, 9_999, Ok(cents(9_999)), 10_000), (BEN, 9_999, Err(Refusal::TooLow), 10_000)]);
    assert_eq!((open.status, open.end_time), (Status::Live, Millis(END + 10_000)));
    for amount in [10_000, 10_001, 9_999_999_900] {
        let bought = check(&[(ANNA, 9_500, Ok(cents(9_500)), 10_000), (BEN, amount, Ok(cents(10_000)), 10_000)]);
        assert_eq!(bought.status, Status::Closed, "{amount}");
        let closing = bought.closing.as_ref().expect("a closing");
        assert_eq!((closing.reason, closing.outcome(), closing.time), (CloseReason::BuyNow, Outcome::Sold, Millis(1)));
        assert_eq!(
            closing.winner.as_ref().map(|winner| (winner.user_id, winner.amount)),
            Some((user(BEN), cents(10_000)))
        );
        // The bid that buys does not move the end.
        assert_eq!((bought.end_time, bought.extension_count), (Millis(END + 10_000), 1));
    }
    let first = check(&[(ANNA, 10_000, Ok(cents(10_000)), 10_000), (BEN, 10_000, Err(Refusal::Closed), 10_000)]);
    assert_eq!((first.status, first.bid_count), (Status::Closed, 1));
}

#[test]
fn bought_auction_takes_no_bid_before_it_is_closed() {
    let auction = &mut opened(Rules { buy_now: Some(cents(10_000)), allow_self_raise: true, ..rules() });
    assert!(!auction.close(CloseReason::BuyNow, None, Millis(1)));
    assert_eq!(bid(auction, ANNA, 50_000, 1), Ok(cents(10_000)));
    for person in [ANNA, BEN, HOST] {
        assert_eq!(bid(auction, person, 50_000, 1), Err(Refusal::Closed));
    }
    assert!(auction.close(CloseReason::BuyNow, None, Millis(2)));
}

#[test]
fn repeated_bid_beyond_the_buy_now_price_finds_its_answer() {
    let auction = &mut opened(Rules { buy_now: Some(cents(10_000)), ..rules() });
    let request = |amount| BidRequest {
        bid_id: BidId::from_uuid(Uuid::from_u128(5)),
        user_id: user(ANNA),
        username: "anna".to_owned(),
        offer: cents(amount).into(),
    };
    let Decision::Accepted { accepted, found: false } = auction.place(&request(50_000), Millis(1)) else {
        panic!("refused")
    };
    let again = auction.place(&request(50_000), Millis(2));
    assert_eq!(again, Decision::Accepted { accepted, found: true });
    let other = auction.place(&request(9_900), Millis(2));
    assert!(matches!(other, Decision::Refused { refusal: Refusal::BidIdReused, .. }));
}

#[test]
fn time_stands_still_while_an_auction_is_paused() {
    let auction = &mut opened(rules());
    let act = |auction: &mut Auction, act, now| auction.act(act, user(HOST), Millis(now));
    assert_eq!(bid(auction, ANNA, 7_000, 10_000), Ok(cents(7_000)));
    assert_eq!(act(auction, HostAct::Resume, 10_000), Acted::Already);
    assert_eq!(auction.act(HostAct::Pause, user(ANNA), Millis(20_000)), Acted::NotHost);
    assert_eq!(act(auction, HostAct::Pause, 20_000), Acted::Done);
    assert_eq!(act(auction, HostAct::Pause, 30_000), Acted::Already);
    assert_eq!(bid(auction, BEN, 8_000, 30_000), Err(Refusal::Paused));
    assert!(!auction.close(CloseReason::Ended, None, Millis(90_000)), "it does not end");
    // 40 of 60 seconds were left.
    assert_eq!(act(auction, HostAct::Resume, 100_000), Acted::Done);
    assert_eq!((auction.end_time, auction.pauses), (Millis(140_000), 1));
    assert_eq!(bid(auction, BEN, 8_000, 139_999), Ok(cents(8_000)));
    assert_eq!(act(auction, HostAct::Pause, 140_000), Acted::WrongState);
    assert!(auction.close(CloseReason::Ended, None, Millis(140_000)));
    for over in [HostAct::Start, HostAct::Pause, HostAct::Resume, HostAct::Block(user(ANNA))] {
        assert_eq!(act(auction, over, 150_000), Acted::WrongState, "{over:?}");
    }
    let paused = &mut opened(rules());
    assert_eq!(act(paused, HostAct::Pause, 1), Acted::Done);
    assert!(paused.close(CloseReason::Host, Some(user(HOST)), Millis(2)), "the host may end it while it is paused");
}

#[test]
fn blocked_bidder_keeps_the_bids_that_stand() {
    let auction = &mut opened(rules());
    let act = |auction: &mut Auction, act| auction.act(act, user(HOST), Millis(1));
    assert_eq!(bid(auction, ANNA, 7_000, 1), Ok(cents(7_000)));
    assert_eq!(act(auction, HostAct::Unblock(user(ANNA))), Acted::Already);
    assert_eq!(act(auction, HostAct::Block(user(ANNA))), Acted::Done);
    assert_eq!(act(auction, HostAct::Block(user(ANNA))), Acted::Already);
    assert_eq!(act(auction, HostAct::Block(user(HOST))), Acted::WrongState);
    assert_eq!(auction.leader.as_ref().map(|leader| leader.user_id), Some(user(ANNA)));
    // Blocked comes before leading and before the amount.
    assert_eq!(bid(auction, ANNA, 1, 1), Err(Refusal::Blocked));
    assert_eq!(bid(auction, BEN, 8_000, 1), Ok(cents(8_000)));
    assert_eq!(bid(auction, ANNA, 9_000, 1), Err(Refusal::Blocked));
    assert_eq!(act(auction, HostAct::Unblock(user(ANNA))), Acted::Done);
    assert_eq!(bid(auction, ANNA, 9_000, 1), Ok(cents(9_000)));
    for other in 0..200 {
        assert_eq!(act(auction, HostAct::Block(user(1_000 + other))), Acted::Done);
    }
    assert_eq!(act(auction, HostAct::Block(user(5_000))), Acted::Full);
}

#[test]
fn host_starts_a_scheduled_auction_early() {
    let id = AuctionId::from_uuid(Uuid::from_u128(9));
    let mut auction = Auction::create(id, rules(), Millis(50_000), Millis(0));
    assert!(!auction.open(Millis(49_999)));
    assert_eq!(bid(&mut auction, ANNA, 7_000, 49_999), Err(Refusal::NotStarted));
    assert_eq!(auction.act(HostAct::Pause, user(HOST), Millis(10)), Acted::WrongState);
    assert_eq!(auction.act(HostAct::Start, user(HOST), Millis(10)), Acted::Done);
    assert_eq!((auction.status, auction.end_time), (Status::Live, Millis(60_010)));
    assert_eq!(auction.act(HostAct::Start, user(HOST), Millis(10)), Acted::Already);
    assert_eq!(bid(&mut auction, ANNA, 7_000, 11), Ok(cents(7_000)));
}
