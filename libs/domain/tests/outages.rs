//! Closings that come late because bids could not be decided: each line is a closing that is asked for.

use domain::{
    Amount, AntiSnipe, AntiSnipeMode, Auction, AuctionId, BidId, BidRequest, CloseReason, Decision, Host, HostAct,
    Ladder, Millis, Rules, UserId,
};
use uuid::Uuid;

const HOST: UserId = UserId::from_uuid(Uuid::from_u128(1));
const ANNA: UserId = UserId::from_uuid(Uuid::from_u128(2));

/// When a closing comes, and the new end if the auction goes on.
type Closing = (u64, Option<u64>);

/// Ends a minute after 0.
fn opened(mode: AntiSnipeMode) -> Auction {
    let cents = |cents| Amount::from_cents(cents).expect("an amount");
    let rules = Rules {
        host: Host { user_id: HOST, username: "host".to_owned() },
        starting_bid: cents(1_000),
        increments: Ladder::flat(cents(100)),
        duration_ms: 60_000,
        anti_snipe: AntiSnipe { mode, window_ms: 30_000, extension_ms: 10_000, max_extensions: 1 },
        allow_self_raise: false,
        buy_now: Some(cents(9_000)),
        reserve: None,
        allow_prebids: false,
        follows: None,
    };
    let mut auction = Auction::create(AuctionId::from_uuid(Uuid::from_u128(9)), rules, Millis(0), Millis(0));
    assert!(auction.open(Millis(0)));
    auction
}

fn bid(auction: &mut Auction, cents: u64, now: u64) -> bool {
    let request = BidRequest {
        bid_id: BidId::from_uuid(Uuid::from_u128(u128::from(auction.seq) + 1_000)),
        user_id: ANNA,
        username: "anna".to_owned(),
        offer: Amount::from_cents(cents).expect("an amount").into(),
    };
    matches!(auction.place(&request, Millis(now)), Decision::Accepted { .. })
}

#[test]
fn late_closing_gives_as_much_time_as_late_bids_have() {
    let tables: [(AntiSnipeMode, &[Closing]); 5] = [
        // In time, and at most 2 s late: it is closed.
        (AntiSnipeMode::Extend, &[(60_000, None)]),
        (AntiSnipeMode::Extend, &[(62_000, None)]),
        // Three times, and then it ends.
        (
            AntiSnipeMode::Extend,
            &[(62_001, Some(92_001)), (100_000, Some(130_000)), (200_000, Some(230_000)), (300_000, None)],
        ),
        (AntiSnipeMode::Reset, &[(70_000, Some(80_000)), (80_005, None)]),
        // Its end is promised by the clock.
        (AntiSnipeMode::Off, &[(70_000, None)]),
    ];
    for (mode, closings) in tables {
        let auction = &mut opened(mode);
        for (now, end) in closings {
            assert_eq!(auction.recover(Millis(*now)), end.is_some(), "{mode} at {now}");
            match end {
                Some(end) => assert_eq!(auction.end_time, Millis(*end), "{mode} at {now}"),
                None => assert!(auction.close(CloseReason::Ended, None, Millis(*now)), "{mode} at {now}"),
            }
        }
    }
}

#[test]
fn outage_is_no_extension_and_bids_go_on() {
    let auction = &mut opened(AntiSnipeMode::Extend);
    assert!(!bid(auction, 1_000, 70_000), "a bid after the end is refused, until a closing was asked for");
    assert!(auction.recover(Millis(70_000)));
    assert_eq!((auction.recoveries, auction.extension_count), (1, 0));
    assert!(bid(auction, 1_000, 99_999));
    assert_eq!((auction.end_time, auction.extension_count), (Millis(110_000), 1));
}

#[test]
fn only_a_live_auction_that_was_not_bought_is_given_time() {
    let bought = &mut opened(AntiSnipeMode::Extend);
    assert!(bid(bought, 9_000, 1));
    assert!(!bought.recover(Millis(70_000)));
    let paused = &mut opened(AntiSnipeMode::Extend);
    paused.act(HostAct::Pause, HOST, Millis(1));
    assert!(!paused.recover(Millis(70_000)));
    let closed = &mut opened(AntiSnipeMode::Extend);
    assert!(closed.close(CloseReason::Host, Some(HOST), Millis(1)));
    assert!(!closed.recover(Millis(70_000)));
}
