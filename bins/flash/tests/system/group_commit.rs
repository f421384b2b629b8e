//! Records of several auctions share one synced write, and keep the compare-and-set of their own subjects.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bus::AppendError;
use domain::{AuctionId, Head};
use flash::stack::connections;
use futures_util::StreamExt;
use futures_util::future::join_all;
use protocol::subject::LOG_STREAM;
use protocol::{Mark, Record};
use testkit::scratch::{Scratch, programs};
use testkit::{Servers, Topology};

/// Records appended at once, each of another auction. More than two batches.
const RECORDS: usize = 300;
/// The one of them that is not expected where the log is.
const UNEXPECTED: usize = 150;

fn records() -> Result<Vec<Record>> {
    let stored = include_str!("../../../../libs/protocol/tests/stored/closed.jsonl");
    let first: Record = serde_json::from_str(stored.lines().next().context("a record")?)?;
    let of = |auction_id| Record { auction_id, ..first.clone() };
    let nothing = Mark { seq: 0, head: Head::GENESIS };
    let ids = std::iter::repeat_with(|| AuctionId::from_uuid(uuid::Uuid::new_v4()));
    Ok(ids.take(RECORDS).map(|auction_id| of(auction_id).placed_after(nothing)).collect())
}

/// Appends the records at once; `expected` is the stream sequence that the one with this number states.
async fn append(log: &bus::Log, records: &[Record], expected: impl Fn(usize) -> u64) -> Vec<Result<u64, AppendError>> {
    join_all(records.iter().enumerate().map(|(number, record)| log.append(record, expected(number)))).await
}

/// How many of the stored messages came in a batch.
async fn in_batches(bus: &bus::Bus, stored: &[u64]) -> Result<usize> {
    let stream = bus.jetstream.get_stream(LOG_STREAM).await?;
    let mut count = 0;
    for stream_seq in stored {
        let message = stream.get_raw_message(*stream_seq).await?;
        count += usize::from(message.headers.get("Nats-Batch-Id").is_some());
    }
    Ok(count)
}

async fn check(nats_servers: usize) -> Result<()> {
    let scratch = Scratch::new(&format!("group-commit-{nats_servers}"))?;
    let topology = Topology { nats_servers, ..Topology::default() };
    let servers = Servers::start(&programs()?, scratch.path(), topology).await?;
    let bus = bus::Bus::connect(&connections::nats(&servers), "test").await?;
    bus::declare(&bus.jetstream, nats_servers).await.map_err(anyhow::Error::from_boxed)?;
    let log = bus::Log::open(&bus).await?;
    let mut events = bus.client.subscribe("auction.*.events").await?;
    bus.client.flush().await?;

    // One record of another place in the log costs no other record its own.
    let first = records()?;
    let appended = append(&log, &first, |number| if number == UNEXPECTED { 1_000 } else { 0 }).await;
    let mut places = BTreeMap::new();
    for (number, (record, appended)) in first.iter().zip(appended).enumerate() {
        match appended {
            Err(AppendError::Conflict) if number == UNEXPECTED => {}
            Ok(stream_seq) if number != UNEXPECTED => {
                let last = log.last(record.auction_id).await?.context("a record")?;
                assert_eq!((last.stream_seq, last.record.head), (stream_seq, record.head), "record {number}");
                ensure!(places.insert(stream_seq, record.auction_id).is_none(), "two records at {stream_seq}");
            }
            other => anyhow::bail!("record {number}: {other:?}"),
        }
    }

    // Without such a record nearly all share writes.
    let second = records()?;
    let appended: Vec<u64> = append(&log, &second, |_| 0).await.into_iter().collect::<Result<_, _>>()?;
    for (record, stream_seq) in second.iter().zip(&appended) {
        assert_eq!(log.last(record.auction_id).await?.map(|last| last.stream_seq), Some(*stream_seq));
        ensure!(places.insert(*stream_seq, record.auction_id).is_none(), "two records at {stream_seq}");
    }
    let shared = in_batches(&bus, &appended).await?;
    ensure!(shared > RECORDS / 2, "{shared} of {RECORDS} records were in batches");

    // Each is republished once, in the order of the stream.
    let mut heard = Vec::new();
    while heard.len() < places.len() {
        let event = tokio::time::timeout(Duration::from_secs(5), events.next()).await.context("no event")?;
        let headers = event.context("an event")?.headers.context("headers")?;
        heard.push(headers.get("Nats-Sequence").context("a sequence")?.as_str().parse::<u64>()?);
    }
    assert_eq!(heard, places.keys().copied().collect::<Vec<_>>());

    // A stream without batches, as one that an older version made, takes the records one by one.
    let mut config = bus.jetstream.get_stream(LOG_STREAM).await?.cached_info().config.clone();
    config.allow_atomic_publish = false;
    bus.jetstream.update_stream(config).await?;
    let third = append(&log, &records()?, |_| 0).await.into_iter().collect::<Result<Vec<u64>, _>>()?;
    assert_eq!(in_batches(&bus, &third).await?, 0);
    tokio::task::spawn_blocking(move || servers.stop()).await?;
    scratch.remove();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_several_auctions_share_a_write() -> Result<()> {
    check(1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_several_auctions_share_a_replicated_write() -> Result<()> {
    check(3).await
}
