//! Cost of a decision by the rules, and of a link of the chain.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use domain::{
    Amount, AntiSnipe, AntiSnipeMode, Auction, AuctionId, BidFact, BidId, BidKind, BidRequest, Decision, Head, Host,
    Ladder, Millis, Rules, UserId,
};
use uuid::Uuid;

/// Bids of one round, as many as an auctioneer takes at once under load.
const BIDS: u64 = 256;
/// People who bid by turns.
const PEOPLE: u64 = 64;
/// A moment while the auction is live.
const NOW: Millis = Millis(2_000);

fn cents(cents: u64) -> Amount {
    Amount::from_cents(cents).expect("an amount")
}

fn live_auction() -> Auction {
    let rules = Rules {
        host: Host { user_id: UserId::from_uuid(Uuid::from_u128(1)), username: "host".to_owned() },
        starting_bid: cents(100),
        increments: Ladder::flat(cents(1)),
        duration_ms: 60_000,
        anti_snipe: AntiSnipe { mode: AntiSnipeMode::Off, window_ms: 0, extension_ms: 0, max_extensions: 0 },
        allow_self_raise: false,
        buy_now: None,
        reserve: None,
        allow_prebids: false,
        follows: None,
    };
    let mut auction = Auction::create(AuctionId::from_uuid(Uuid::from_u128(2)), rules, Millis(1_000), Millis(1_000));
    assert!(auction.open(Millis(1_000)));
    auction
}

fn bid(nth: u64, amount: Amount) -> BidRequest {
    BidRequest {
        bid_id: BidId::from_uuid(Uuid::from_u128(u128::from(1_000 + nth))),
        user_id: UserId::from_uuid(Uuid::from_u128(u128::from(10 + nth % PEOPLE))),
        username: "anna".to_owned(),
        offer: amount.into(),
    }
}

fn place_all(auction: &mut Auction, bids: &[BidRequest]) {
    for bid in bids {
        let decision = auction.place(bid, NOW);
        assert!(matches!(decision, Decision::Accepted { .. }), "{decision:?}");
    }
}

fn decisions(criterion: &mut Criterion) {
    let bids: Vec<BidRequest> = (0..BIDS).map(|nth| bid(nth, cents(100 + nth))).collect();
    let mut group = criterion.benchmark_group("decide");
    group.throughput(Throughput::Elements(BIDS));
    group.bench_function("accepted bids", |bencher| {
        bencher.iter_batched_ref(live_auction, |auction| place_all(auction, black_box(&bids)), BatchSize::SmallInput);
    });
    group.throughput(Throughput::Elements(1));
    let mut auction = live_auction();
    place_all(&mut auction, &bids);
    let too_low = bid(BIDS, cents(1));
    group.bench_function("bid that is too low", |bencher| {
        bencher.iter(|| auction.place(black_box(&too_low), NOW));
    });
    group.bench_function("repeated bid", |bencher| {
        bencher.iter(|| auction.place(black_box(&bids[0]), NOW));
    });
    group.finish();
}

fn chain(criterion: &mut Criterion) {
    let fact = BidFact {
        seq: 7,
        bid_id: BidId::from_uuid(Uuid::from_u128(3)),
        user_id: UserId::from_uuid(Uuid::from_u128(4)),
        username: "anna".to_owned(),
        amount: cents(12_345),
        timestamp: NOW,
        kind: BidKind::Bid,
        sealed: None,
    };
    criterion.bench_function("link of the chain", |bencher| {
        bencher.iter(|| Head::GENESIS.next(&black_box(&fact).text()));
    });
}

criterion_group!(benches, decisions, chain);
criterion_main!(benches);
