//! Auctions that follow another one.

use domain::{
    Acted, Amount, AntiSnipe, AntiSnipeMode, Auction, AuctionId, BidId, BidRequest, CloseReason, Decision, Follows,
    Host, HostAct, Ladder, Millis, Offer, Refusal, Rules, Status, UserId,
};
use uuid::Uuid;

const HOST: u128 = 1;
const ANNA: u128 = 2;
const DURATION_MS: u64 = 60_000;
const GAP_MS: u64 = 1_500;

fn user(number: u128) -> UserId {
    UserId::from_uuid(Uuid::from_u128(number))
}

fn auction_id(number: u128) -> AuctionId {
    AuctionId::from_uuid(Uuid::from_u128(number))
}

fn cents(cents: u64) -> Amount {
    Amount::from_cents(cents).expect("an amount")
}

fn rules() -> Rules {
    Rules {
        host: Host { user_id: user(HOST), username: "host".to_owned() },
        starting_bid: cents(7_000),
        increments: Ladder::flat(cents(1_000)),
        duration_ms: DURATION_MS,
        anti_snipe: AntiSnipe { mode: AntiSnipeMode::Off, window_ms: 0, extension_ms: 0, max_extensions: 0 },
        allow_self_raise: false,
        buy_now: None,
        reserve: None,
        allow_prebids: false,
        follows: None,
    }
}

/// The second lot of a sequence, created at 1,000.
fn follower(rules: Rules) -> Auction {
    let follows = Some(Follows { auction_id: auction_id(9), gap_ms: GAP_MS });
    // The start has no meaning.
    Auction::create(auction_id(10), Rules { follows, ..rules }, Millis(1_000), Millis(1_000))
}

fn bid(auction: &mut Auction, amount: u64, now: u64) -> Result<u64, Refusal> {
    let sealed = format!("sealed-{amount}").parse().expect("a text");
    let request = BidRequest {
        bid_id: BidId::from_uuid(Uuid::from_u128(u128::from(amount))),
        user_id: user(ANNA),
        username: "anna".to_owned(),
        offer: Offer::Kept { amount: cents(amount), sealed },
    };
    match auction.place(&request, Millis(now)) {
        Decision::Accepted { accepted, .. } => Ok(accepted.seq),
        Decision::Refused { refusal, .. } => Err(refusal),
    }
}

#[test]
fn follower_opens_once_it_is_due_and_lasts_from_then() {
    let mut auction = follower(rules());
    assert_eq!((auction.starts_at, auction.status), (Millis::NOT_YET, Status::Scheduled));
    assert_eq!(bid(&mut auction, 7_000, 2_000), Err(Refusal::NotStarted));
    let seq = auction.seq;
    for (due, now, opens) in [(50_000, 49_999, false), (50_000, 50_003, true), (50_000, 50_004, false)] {
        assert_eq!(auction.open_follower(Millis(due), Millis(now)), opens, "due {due} at {now}");
    }
    assert_eq!((auction.seq, auction.starts_at), (seq + 1, Millis(50_003)));
    assert_eq!(auction.end_time, Millis(50_003 + DURATION_MS));
    assert_eq!(bid(&mut auction, 7_000, 50_004), Ok(seq + 2));
    assert!(auction.close(CloseReason::Ended, None, auction.end_time));
}

#[test]
fn follower_without_a_time_is_opened_by_its_host_alone() {
    let mut auction = follower(rules());
    assert!(!auction.open(Millis::NOT_YET.plus(1)), "whatever the time");
    assert_eq!(auction.act(HostAct::Start, user(ANNA), Millis(2_000)), Acted::NotHost);
    assert_eq!(auction.act(HostAct::Start, user(HOST), Millis(2_000)), Acted::Done);
    assert_eq!((auction.starts_at, auction.end_time), (Millis(2_000), Millis(2_000 + DURATION_MS)));
    assert!(!auction.open_follower(Millis(2_000), Millis(3_000)), "it is open");

    let mut cancelled = follower(rules());
    assert!(cancelled.cancel(user(HOST), Millis(2_000)));
    assert!(!cancelled.open_follower(Millis(2_000), Millis(3_000)), "it is over");
}

#[test]
fn auction_that_follows_none_is_no_follower() {
    let mut auction = Auction::create(auction_id(10), rules(), Millis(5_000), Millis(1_000));
    assert!(!auction.open_follower(Millis(0), Millis(6_000)));
    assert!(auction.open(Millis(6_000)));
    assert_eq!(auction.starts_at, Millis(5_000), "its start stays the one that its host gave");
}

#[test]
fn prebids_are_bid_when_a_follower_opens() {
    let mut auction = follower(Rules { allow_prebids: true, ..rules() });
    assert_eq!(bid(&mut auction, 9_000, 2_000), Ok(2));
    assert!(auction.open_follower(Millis(3_000), Millis(3_000)));
    assert_eq!(auction.leader.as_ref().map(|leader| leader.amount), Some(cents(7_000)), "one pre-bid alone");
    assert_eq!((auction.seq, auction.status), (4, Status::Live));
}

/// The chain names the auction that another one follows, and one that follows none has the head that it always had.
#[test]
fn head_of_a_creation_depends_on_what_it_follows() {
    let head = |follows| {
        let rules = Rules { follows, ..rules() };
        Auction::create(auction_id(10), rules, Millis::NOT_YET, Millis(1_000)).head
    };
    let following = |number, gap_ms| head(Some(Follows { auction_id: auction_id(number), gap_ms }));
    let heads = [head(None), following(9, 0), following(8, 0), following(9, 1_000)];
    for (nth, one) in heads.iter().enumerate() {
        assert!(heads[nth + 1..].iter().all(|other| other != one), "head {nth}");
    }
    let text = domain::created_fact(auction_id(10), &rules(), None, Millis(5), Millis(1));
    assert!(text.ends_with("\n0\n0\n0\n5"), "{text}");
}
