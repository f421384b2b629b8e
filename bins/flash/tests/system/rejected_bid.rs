//! A bid that DynamoDB rejects for what it holds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::dynamodb_stub::{Answer, DynamoDbStub};
use testkit::http;

use crate::test_system::TestSystem;

/// The record of the rejected bid is parked with the reason, the other bids of its batch are written, and so are later
/// ones.
#[tokio::test]
async fn rejected_bid_is_parked_and_the_others_are_written() -> Result<()> {
    const BIDS: usize = 30;
    let mut system = TestSystem::start("rejected-bid").await?;
    let stub = DynamoDbStub::start(&system.stack.servers.aws_endpoint()).await?;
    system.stack.kill_instance(Name::BidPersistence, 0).await?;
    let lot = json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "video": false});
    let id = system.auction(&lot).await?;
    let bid = async |amount: usize| {
        let placed = system.bid(["anna", "ben"][amount % 2], &id, &json!(amount)).await?;
        ensure!(placed.status == 200, "{}", placed.text);
        anyhow::Ok(())
    };
    // The whole backlog is delivered at once, so that the bad bid is in a batch with others.
    for amount in 1..=BIDS {
        bid(amount).await?;
    }
    let bad = system.checked_bids(&id).await?.swap_remove(10);
    stub.answer(Answer::Reject(bad.bid_id.to_string()));
    let settings = [("AWS_ENDPOINT_URL", stub.endpoint.clone())];
    system.stack.add_instance_with(Name::BidPersistence, &settings).await?;

    let written = system.history(&id, BIDS - 1).await?;
    assert!(written.iter().all(|item| item["bid_id"] != bad.bid_id.to_string()));
    let bus = system.bus().await?;
    let stream = bus.jetstream.get_stream("AUCTION_DLQ").await?;
    let mut letter = None;
    for _ in 0..400 {
        letter = stream.get_last_raw_message_by_subject("dlq.bid-persistence").await.ok();
        if letter.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let letter = letter.context("no dead letter")?;
    let reason = letter.headers.get("Dead-Letter-Reason").context("a reason")?.to_string();
    assert!(reason.contains(&format!("seq {}", bad.seq)) && reason.contains("rejected"), "{reason}");
    let record: Value = serde_json::from_slice(&letter.payload)?;
    assert_eq!(record["bids"][0]["bid_id"], bad.bid_id.to_string());

    let placed = system.bid(["anna", "ben"][(BIDS + 1) % 2], &id, &json!(BIDS + 1)).await?;
    assert_eq!(placed.status, 200, "{}", placed.text);
    system.history(&id, BIDS).await?;
    let urls = system.stack.urls(Name::BidPersistence);
    let metrics = http::get(&format!("{}/metrics", urls.last().context("an instance")?), None).await?.text;
    for line in ["flash_history_items_rejected_total 1", &format!("flash_history_items_written_total {BIDS}")] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
    }
    system.end().await;
    Ok(())
}
