//! Cost of rejecting a bid below the committed price, which takes neither Redis nor the log.

use std::hint::black_box;

use admission::{CommittedPrices, Connection};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use domain::{Amount, AuctionId, BidId, BidRequest, UserId};
use protocol::Record;
use uuid::Uuid;

/// Records of one auction that ends, one a line.
const STORED: &str = include_str!("../../protocol/tests/stored/closed.jsonl");
/// The connection that all records arrive over.
const CONNECTION: Connection = Some(1);

/// The last record before the end.
fn record() -> Record {
    let mut records = STORED.lines().map(|line| serde_json::from_str::<Record>(line).expect("a record"));
    records.rfind(|record| record.state.outcome.is_none()).expect("a record")
}

fn prices(criterion: &mut Criterion) {
    let record = record();
    let bid = BidRequest {
        bid_id: BidId::from_uuid(Uuid::from_u128(99)),
        user_id: UserId::from_uuid(Uuid::from_u128(98)),
        username: "anna".to_owned(),
        offer: Amount::from_cents(1).expect("an amount").into(),
    };
    let mut group = criterion.benchmark_group("reject below the committed price");
    for auctions in [1u32, 10_000] {
        let prices = CommittedPrices::default();
        for nth in 0..auctions {
            let auction_id = AuctionId::from_uuid(Uuid::from_u128(1_000 + u128::from(nth)));
            prices.apply(&Record { auction_id, ..record.clone() }, CONNECTION);
        }
        let auction_id = AuctionId::from_uuid(Uuid::from_u128(1_000));
        let reject = || prices.refusal(auction_id, black_box(&bid), true, record.time, CONNECTION);
        assert!(reject().is_some(), "the bid is below the price");
        group.bench_function(BenchmarkId::new("auctions", auctions), |bencher| bencher.iter(reject));
    }
    group.finish();
}

criterion_group!(benches, prices);
criterion_main!(benches);
