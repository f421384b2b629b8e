//! Bids that cannot win.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use domain::Amount;
use flash::stack::Name;
use futures_util::future::try_join_all;
use serde_json::json;

use crate::world::World;

const BIDDERS: usize = 10;

impl World {
    /// Commands and script calls that Redis has processed, for the services and inside scripts.
    async fn redis_commands(&self) -> Result<u64> {
        let info: String = redis::cmd("INFO").arg("stats").query_async(&mut self.redis().await?).await?;
        let count = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
        Ok(count.context("a count")?.trim().parse()?)
    }
}

/// So many bids at once, `raises` of them a winning one and the rest a cent; returns how many Redis
/// commands they cost a raise, and what the answers were.
async fn flood(world: &World, id: &str, first: u64, raises: u64, hopeless_each: usize) -> Result<(u64, usize)> {
    let url = Arc::new(format!("{}/bids", world.stack.url(Name::BidProcessing)));
    let tokens: Vec<String> =
        (0..BIDDERS).map(|bidder| world.token(&format!("bidder-{bidder}"))).collect::<Result<_>>()?;
    let before = world.redis_commands().await?;
    let mut refused = 0;
    for raise in first..first + raises {
        let amount = Amount::from_cents(raise * 1_000)?.to_string();
        let leader = &tokens[usize::try_from(raise)? % 2];
        let raised = world.bid_at(0, leader, &json!({"auction_id": id, "amount": amount})).await?;
        anyhow::ensure!(raised.status == 200, "{}", raised.text);
        // By people who do not lead, each with an id of his own as clients send them.
        let hopeless = tokens[2..].iter().cycle().take(hopeless_each).map(|token| {
            let bid = json!({"auction_id": id, "amount": "5.00", "bid_id": uuid::Uuid::new_v4().to_string()});
            let url = Arc::clone(&url);
            async move { testkit::http::post(&url, Some(token), &bid).await }
        });
        for answer in try_join_all(hopeless).await? {
            anyhow::ensure!(answer.json["code"] == "bid_too_low", "{}", answer.text);
            // I6: never older than what was answered before.
            anyhow::ensure!(answer.json["seq"].as_u64() >= raised.json["seq"].as_u64(), "{}", answer.text);
            refused += 1;
        }
    }
    Ok((world.redis_commands().await? - before, refused))
}

/// A flood of which 95 % cannot win leaves Redis nearly as it was without them.
#[tokio::test(flavor = "multi_thread")]
async fn a_hopeless_flood_does_not_reach_redis() -> Result<()> {
    let world = World::start("hopeless").await?;
    let id = world.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    let (plain, _) = flood(&world, &id, 1, 60, 0).await?;
    let (flooded, refused) = flood(&world, &id, 61, 60, 19).await?;
    println!("60 raises: {plain} Redis commands alone, {flooded} with {refused} hopeless bids among them");
    assert_eq!(refused, 60 * 19);
    assert!(flooded < plain + plain / 2, "{plain} Redis commands alone, {flooded} in the flood");

    // A bid that was accepted is found under its id however low it is by now.
    let token = world.token("bidder-5")?;
    let bid = json!({"auction_id": id, "amount": 2_000, "bid_id": uuid::Uuid::new_v4().to_string()});
    let first = world.bid_at(0, &token, &bid).await?;
    assert_eq!(first.status, 200, "{}", first.text);
    assert_eq!(world.bid("anna", &id, &json!(3_000)).await?.status, 200);
    assert_eq!(world.bid_at(0, &token, &bid).await?.json, first.json);
    // Whoever leads, or hosts, is told that and not that the bid is low.
    assert_eq!(world.bid("anna", &id, &json!(5)).await?.json["code"], "already_leading");
    assert_eq!(world.bid("host", &id, &json!(5)).await?.json["code"], "host_cannot_bid");

    // Once it is over it is over, also for a bid that would be too low.
    let url = world.management(&format!("/auctions/{id}/close"));
    let closed = testkit::http::post(&url, Some(&world.token("host")?), &json!({})).await?;
    assert_eq!(closed.status, 200, "{}", closed.text);
    assert_eq!(world.bid("ben", &id, &json!(5)).await?.json["code"], "auction_closed");
    world.end().await;
    Ok(())
}

/// Over a socket a bid that cannot win goes no further than the edge.
#[tokio::test(flavor = "multi_thread")]
async fn a_hopeless_flood_does_not_leave_the_edge() -> Result<()> {
    let world = World::start("hopeless-edge").await?;
    let id = world.auction(&json!({"title": "Vase", "duration": 600, "starting_bid": 1})).await?;
    let mut socket = world.socket("ben").await?;
    socket.ask("join_auction", json!({"auction_id": id})).await?;
    let decided = async || -> Result<u64> {
        let metrics =
            testkit::http::get(&format!("{}/metrics", world.stack.url(Name::BidProcessing)), None).await?.text;
        let count = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        Ok(count("flash_bids_accepted_total").context("a count")?
            + count("flash_bids_rejected_total").context("a count")?)
    };
    let mut raised = 0;
    for amount in [1_000, 2_000, 3_000] {
        let answer = world.bid("anna", &id, &json!(amount)).await?;
        // Anna leads after the first; her raises are refused, carl's are not.
        let answer = if answer.status == 200 { answer } else { world.bid("carl", &id, &json!(amount)).await? };
        raised = answer.json["seq"].as_u64().context("a seq")?;
        // The edge has heard of it.
        let update = socket.event("bid_update").await?;
        assert!(update["data"]["seq"].as_u64() >= Some(raised), "{update}");
    }
    let before = decided().await?;
    for nth in 0..100 {
        let id_of_his_own = json!({"auction_id": id, "amount": 5, "bid_id": uuid::Uuid::new_v4().to_string()});
        let bid = if nth % 2 == 0 { id_of_his_own } else { json!({"auction_id": id, "amount": 5}) };
        let answer = socket.ask("place_bid", bid).await?;
        assert_eq!(answer["data"]["code"], "bid_too_low", "{answer}");
        assert!(answer["data"]["seq"].as_u64() >= Some(raised), "{answer}");
    }
    assert_eq!(decided().await?, before, "bid-processing was not asked");

    let bid = json!({"auction_id": id, "amount": 4_000, "bid_id": uuid::Uuid::new_v4().to_string()});
    let accepted = socket.ask("place_bid", bid.clone()).await?;
    assert_eq!(accepted["data"]["status"], "accepted", "{accepted}");
    // Right behind the answer, before or after the record has come here: never an older seq.
    let mut behind = world.socket("dora").await?;
    behind.ask("join_auction", json!({"auction_id": id})).await?;
    for amount in (5_000..7_000).step_by(100) {
        let raised = world.bid(if amount % 200 == 0 { "anna" } else { "carl" }, &id, &json!(amount)).await?;
        assert_eq!(raised.status, 200, "{}", raised.text);
        let by_socket = socket.ask("place_bid", json!({"auction_id": id, "amount": amount + 50})).await?;
        let refused = behind.ask("place_bid", json!({"auction_id": id, "amount": 5})).await?;
        assert!(refused["data"]["seq"].as_u64() >= by_socket["data"]["seq"].as_u64(), "{by_socket} then {refused}");
    }
    // An accepted bid is found under its id, however low it is by now.
    assert_eq!(socket.ask("place_bid", bid).await?["data"], accepted["data"]);
    world.end().await;
    Ok(())
}

/// What an edge refuses by itself counts towards what a person may ask for.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_at_the_edge_is_slowed_down() -> Result<()> {
    const ALLOWED: usize = 40;
    let limit = vec![("MAX_BIDS_PER_USER_PER_SECOND".to_owned(), ALLOWED.to_string())];
    let world = World::with("edge-limit", limit, false).await?;
    let id = world.auction(&json!({"title": "Bowl", "duration": 600, "starting_bid": 10})).await?;
    let mut socket = world.socket("ben").await?;
    socket.ask("join_auction", json!({"auction_id": id})).await?;
    let (started, mut low, mut slowed) = (Instant::now(), 0, 0);
    for _ in 0..200 {
        let answer = socket.ask("place_bid", json!({"auction_id": id, "amount": 5})).await?;
        match answer["data"]["code"].as_str() {
            Some("bid_too_low") => low += 1,
            Some("rate_limited") => slowed += 1,
            _ => anyhow::bail!("{answer}"),
        }
    }
    // A full second's bids at once, then as time goes by.
    let most = ALLOWED as f64 * (1.0 + started.elapsed().as_secs_f64()) + 1.0;
    assert!(slowed > 0 && f64::from(low) <= most, "{low} were looked at, {slowed} slowed down");
    // Somebody else is not.
    let mut other = world.socket("carl").await?;
    let answer = other.ask("place_bid", json!({"auction_id": id, "amount": 5})).await?;
    assert_eq!(answer["data"]["code"], "bid_too_low", "{answer}");
    world.end().await;
    Ok(())
}

/// Close to the end Redis's own clock decides whether a bid is late or low.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_low_bid_is_late() -> Result<()> {
    let mut world = World::start("late-low").await?;
    let lot = json!({"title": "Fan", "duration": 5, "starting_bid": 1, "anti_snipe": {"mode": "off"}});
    let id = world.auction(&lot).await?;
    assert_eq!(world.bid("anna", &id, &json!(50)).await?.status, 200);
    // Nobody closes it: the clock alone says that it is over.
    world.stack.kill_instance(Name::Timer, 0).await?;
    let ben = world.token("ben")?;
    let (started, mut last) = (Instant::now(), String::new());
    while started.elapsed() < Duration::from_secs(6) {
        let answer = world.bid_at(0, &ben, &json!({"auction_id": id, "amount": 2})).await?;
        let code = answer.json["code"].as_str().context("a code")?.to_owned();
        assert!(code == "bid_too_low" || code == "auction_closed", "{}", answer.text);
        assert!(!(last == "auction_closed" && code != last), "closed and open again");
        last = code;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(last, "auction_closed");
    assert_eq!(world.log(&id).await?.last().context("a record")?["type"], "bids");
    world.end().await;
    Ok(())
}
