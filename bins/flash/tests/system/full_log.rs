//! A log that bids fill: no bid is accepted any more, and every auction still ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use domain::{Outcome, Status};
use flash::stack::Name;
use futures_util::future::try_join_all;
use serde_json::json;
use testkit::bidder::{minimum_bid, new_bid};
use testkit::http;

use crate::aws::mails_once;
use crate::test_system::TestSystem;

/// Seconds from the opening of an auction to its end. Bids fill the log in a fraction of that.
const DURATION_SECONDS: u64 = 9;

/// Bytes in the log, and its bound.
async fn size(system: &TestSystem) -> Result<(i64, i64)> {
    let stream = system.bus().await?.jetstream.get_stream(protocol::subject::LOG_STREAM).await?;
    Ok((i64::try_from(stream.cached_info().state.bytes)?, stream.cached_info().config.max_bytes))
}

/// Sets the bound of the log, which nothing may write to now, and waits until bid-processing has measured it.
async fn bound(system: &TestSystem, max_bytes: i64) -> Result<()> {
    let jetstream = system.bus().await?.jetstream;
    let mut config = jetstream.get_stream(protocol::subject::LOG_STREAM).await?.cached_info().config.clone();
    config.max_bytes = max_bytes;
    jetstream.update_stream(&config).await?;
    let expected = size(system).await?.0 as f64 / max_bytes as f64;
    for _ in 0..400 {
        let ratio: f64 = system.metric(Name::BidProcessing, "flash_log_used_ratio").await?[0];
        if (ratio / expected - 1.0).abs() < 0.01 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    bail!("bid-processing did not measure the log")
}

/// Raises the price until a bid is `overloaded`.
async fn bid_until_overloaded(system: &TestSystem, id: &str, name: &str) -> Result<()> {
    let token = system.token(name)?;
    let mut cents = 100;
    loop {
        let answer = system.bid_at(0, &token, &new_bid(id, cents)).await?;
        match answer.json["code"].as_str() {
            Some("overloaded") => {
                ensure!(answer.status == 503 && answer.headers.contains_key("retry-after"), "{}", answer.text);
                return Ok(());
            }
            None | Some("bid_too_low" | "already_leading" | "rate_limited") => {}
            Some(_) => bail!("{name}: {}", answer.text),
        }
        cents = cents.max(minimum_bid(&answer.json).unwrap_or_default()) + 100;
    }
}

/// From 80 % of the log no auction is created and from 95 % no bid accepted, so that running auctions can end. A log
/// with more room takes both again.
#[tokio::test(flavor = "multi_thread")]
async fn nearly_full_log_rejects_new_auctions_and_bids() -> Result<()> {
    let system = TestSystem::start("full-log").await?;
    let lot = json!({"title": "Sofa", "duration": 600, "starting_bid": 1});
    let id = system.auction(&lot).await?;
    let (used, original) = size(&system).await?;
    let create =
        async || testkit::http::post(&system.management("/auctions"), Some(&system.token("host")?), &lot).await;

    bound(&system, used + used / 50).await?;
    let refused = create().await?;
    assert_eq!((refused.status, &refused.json["code"]), (503, &json!("unavailable")), "{}", refused.text);
    let refused = system.bid("anna", &id, &json!(3)).await?;
    assert_eq!((refused.status, &refused.json["code"]), (503, &json!("overloaded")), "{}", refused.text);

    bound(&system, original).await?;
    assert_eq!(system.bid("anna", &id, &json!(3)).await?.status, 200);
    assert_eq!(create().await?.status, 201);

    // Room for a bid, but not for a bid and the endings of all running auctions.
    bound(&system, 300_000).await?;
    let refused = system.bid("ben", &id, &json!(9)).await?;
    assert_eq!((refused.status, &refused.json["code"]), (503, &json!("overloaded")), "{}", refused.text);
    system.end().await;
    Ok(())
}

/// A log of 1 MB takes bids until only the reserve is left. All auctions end on time, with row and mails.
#[tokio::test(flavor = "multi_thread")]
async fn full_log_still_ends_every_auction() -> Result<()> {
    let system = TestSystem::start("filled-log").await?;
    let by_host = system.auction(&json!({"title": "Sofa", "duration": 600, "starting_bid": 1})).await?;
    bound(&system, 1_000_000).await?;
    let snipe = json!({"mode": "off"});
    let lot = json!({"title": "Stool", "duration": DURATION_SECONDS, "starting_bid": 1, "anti_snipe": snipe});
    let mut ids = vec![by_host.clone()];
    for _ in 0..4 {
        ids.push(system.auction(&lot).await?);
    }
    let mut watcher = system.socket("watcher").await?;
    for id in &ids {
        watcher.ask("join_auction", json!({"auction_id": id})).await?;
    }
    let names: Vec<String> = (0..ids.len() * 4).map(|bidder| format!("bidder-{bidder}")).collect();
    let bidding = names.iter().enumerate().map(|(nth, name)| bid_until_overloaded(&system, &ids[nth / 4], name));
    try_join_all(bidding).await?;

    let fill = bus::Log::open(&system.bus().await?).await?.fill().await?;
    assert!(fill.ratio() < 0.95, "bids have used the reserve: {fill:?}");
    let host = system.token("host")?;
    let created = http::post(&system.management("/auctions"), Some(&host), &lot).await?;
    assert_eq!((created.status, &created.json["code"]), (503, &json!("unavailable")), "{}", created.text);
    // The rest of the log is for endings: by the host, and on time.
    let url = system.management(&format!("/auctions/{by_host}/close"));
    let closed = http::post(&url, Some(&host), &json!({})).await?;
    assert_eq!(closed.status, 200, "{}", closed.text);
    let mut mails = 0;
    for id in &ids {
        let id_of_frame = json!(id);
        watcher
            .until(|frame| frame["event"] == "auction_ended" && frame["data"]["auction_id"] == id_of_frame)
            .await
            .with_context(|| format!("the end of {id}"))?;
        let log = system.log(id).await?;
        let last = log.last().context("a record")?;
        assert_eq!(last["type"], "closed", "{last}");
        if *id != by_host {
            let ended_at = last["time"].as_u64().context("a time")?;
            let late_by = ended_at - last["state"]["end_time"].as_u64().context("an end")?;
            assert!(late_by < 1_000, "{late_by} ms late");
        }
        let bids = system.checked_bids(id).await?;
        let (row, winner) = (system.closed_row(id).await?, bids.last().context("a bid")?);
        assert_eq!((row.status, row.outcome), (Status::Closed.into(), Some(Outcome::Sold.into())));
        assert_eq!(row.winner.map(|winner| winner.username), Some(winner.username.clone()));
        // The host and every bidder with an accepted bid.
        mails += 1 + bids.iter().map(|bid| bid.user_id).collect::<BTreeSet<_>>().len();
    }
    let mut titles: BTreeMap<String, usize> = BTreeMap::new();
    for (_, subject, _) in mails_once(&system, mails).await? {
        *titles.entry(subject).or_default() += 1;
    }
    assert_eq!((titles["Sold: Stool"], titles["Sold: Sofa"], titles["You won: Stool"]), (4, 1, 4), "{titles:?}");
    system.end().await;
    Ok(())
}
