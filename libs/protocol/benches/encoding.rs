//! Cost of writing and reading a record, and of a `bid_update` frame.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use protocol::frames::{BidUpdate, MAX_BIDS_IN_UPDATE, encode};
use protocol::{CommittedState, Naming, Record, RecordKind};

/// Records of one auction, one a line.
const STORED: &str = include_str!("../tests/stored/live.jsonl");

/// The last record with bids.
fn record() -> Record {
    let mut records = STORED.lines().map(|line| serde_json::from_str::<Record>(line).expect("a record"));
    records.rfind(|record| record.kind == RecordKind::Bids).expect("a record with bids")
}

fn records(criterion: &mut Criterion) {
    let record = record();
    let text = serde_json::to_string(&record).expect("JSON");
    let mut group = criterion.benchmark_group("record");
    group.bench_function("encode", |bencher| bencher.iter(|| serde_json::to_vec(black_box(&record))));
    group.bench_function("read", |bencher| bencher.iter(|| serde_json::from_str::<Record>(black_box(&text))));
    group.bench_function("compute its head", |bencher| bencher.iter(|| black_box(&record).computed_head()));
    group.finish();
}

fn updates(criterion: &mut Criterion) {
    let record = record();
    let committed = CommittedState {
        auction_id: record.auction_id,
        seq: record.seq,
        head: record.head,
        stream_seq: 1,
        state: record.state.clone(),
        recent_bids: Vec::new(),
        participant_count: 1_000,
        slow_mode_seconds: 0,
        has_secrets: false,
        opens_at: None,
    };
    let mut group = criterion.benchmark_group("encode bid_update");
    for bids in [1, MAX_BIDS_IN_UPDATE] {
        group.bench_with_input(BenchmarkId::from_parameter(bids), &bids, |bencher, bids| {
            bencher.iter(|| {
                let shown = record.bids.iter().cycle().take(*bids);
                let update = BidUpdate::new(black_box(&committed), 1, shown, record.time, false, Naming::Names);
                encode("bid_update", update, None)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, records, updates);
criterion_main!(benches);
