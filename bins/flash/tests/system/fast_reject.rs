//! Bids below the committed price, which are rejected without Redis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use domain::Amount;
use flash::stack::Name;
use futures_util::future::try_join_all;
use identity::development::DevelopmentUser;
use serde_json::json;
use testkit::socket::{Socket, Transport};
use testkit::{LinkState, Proxy};

use crate::test_system::TestSystem;

const BIDDERS: usize = 10;

impl TestSystem {
    /// Commands that Redis has processed, including those inside scripts.
    async fn redis_commands(&self) -> Result<u64> {
        let info: String = redis::cmd("INFO").arg("stats").query_async(&mut self.redis().await?).await?;
        let count = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
        Ok(count.context("a count")?.trim().parse()?)
    }

    /// Bids that bid-processing has decided with Redis.
    async fn decided_bids(&self) -> Result<u64> {
        let accepted = self.metric::<u64>(Name::BidProcessing, "flash_bids_accepted_total").await?[0];
        Ok(accepted + self.metric::<u64>(Name::BidProcessing, "flash_bids_rejected_total").await?[0])
    }

    /// People who have joined an auction, one on each transport by turns.
    async fn joined(&self, id: &str, people: usize) -> Result<Vec<Socket>> {
        let mut sockets = Vec::new();
        for nth in 0..people {
            let (edge, token) = (self.stack.url(Name::Websocket), self.token(&format!("joined-{nth}"))?);
            let mut socket = Socket::enter(edge, Transport::ALL[nth % 2], &token).await?;
            socket.ask("join_auction", json!({"auction_id": id})).await?;
            sockets.push(socket);
        }
        Ok(sockets)
    }
}

/// Starts with a proxy between bid-processing and Redis, and an auction that these people have joined.
async fn redis_behind_a_proxy(test: &str, people: usize) -> Result<(TestSystem, Proxy, String, Vec<Socket>)> {
    let mut system = TestSystem::start(test).await?;
    let redis = system.redis_behind_a_proxy().await?;
    let id = system.auction(&json!({"title": "Rug", "duration": 600, "starting_bid": 1})).await?;
    let sockets = system.joined(&id, people).await?;
    Ok((system, redis, id, sockets))
}

/// Places `raises` winning bids, each followed by `low_each` bids that are too low; returns the number of Redis
/// commands and of rejected bids.
async fn flood(system: &TestSystem, id: &str, first: u64, raises: u64, low_each: usize) -> Result<(u64, usize)> {
    let url = Arc::new(format!("{}/bids", system.stack.url(Name::BidProcessing)));
    let tokens: Vec<String> =
        (0..BIDDERS).map(|bidder| system.token(&format!("bidder-{bidder}"))).collect::<Result<_>>()?;
    let before = system.redis_commands().await?;
    let mut rejected = 0;
    for raise in first..first + raises {
        let amount = Amount::from_cents(raise * 1_000)?.to_string();
        let leader = &tokens[usize::try_from(raise)? % 2];
        let raised = system.bid_at(0, leader, &json!({"auction_id": id, "amount": amount})).await?;
        anyhow::ensure!(raised.status == 200, "{}", raised.text);
        // From users who do not lead, each with a bid id, as clients send them.
        let low = tokens[2..].iter().cycle().take(low_each).map(|token| {
            let bid = json!({"auction_id": id, "amount": "5.00", "bid_id": uuid::Uuid::new_v4().to_string()});
            let url = Arc::clone(&url);
            async move { testkit::http::post(&url, Some(token), &bid).await }
        });
        for answer in try_join_all(low).await? {
            anyhow::ensure!(answer.json["code"] == "bid_too_low", "{}", answer.text);
            // I6: no answer is based on an older state than an earlier answer.
            anyhow::ensure!(answer.json["seq"].as_u64() >= raised.json["seq"].as_u64(), "{}", answer.text);
            rejected += 1;
        }
    }
    Ok((system.redis_commands().await? - before, rejected))
}

/// A flood with 95 % of bids below the committed price costs Redis little more than the other 5 % alone.
#[tokio::test(flavor = "multi_thread")]
async fn bids_below_the_committed_price_do_not_reach_redis() -> Result<()> {
    let system = TestSystem::start("fast-reject").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    let (plain, _) = flood(&system, &id, 1, 60, 0).await?;
    let (flooded, rejected) = flood(&system, &id, 61, 60, 19).await?;
    println!("60 raises: {plain} Redis commands alone, {flooded} with {rejected} low bids among them");
    assert_eq!(rejected, 60 * 19);
    assert!(flooded < plain + plain / 2, "{plain} Redis commands alone, {flooded} in the flood");

    // An accepted bid is found under its id, however low it is now.
    let token = system.token("bidder-5")?;
    let bid = json!({"auction_id": id, "amount": 2_000, "bid_id": uuid::Uuid::new_v4().to_string()});
    let first = system.bid_at(0, &token, &bid).await?;
    assert_eq!(first.status, 200, "{}", first.text);
    assert_eq!(system.bid("anna", &id, &json!(3_000)).await?.status, 200);
    assert_eq!(system.bid_at(0, &token, &bid).await?.json, first.json);
    // The leader and the host get their own codes, not `bid_too_low`.
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.json["code"], "already_leading");
    assert_eq!(system.bid("host", &id, &json!(5)).await?.json["code"], "host_cannot_bid");

    // After the end a low bid is rejected as closed.
    let url = system.management(&format!("/auctions/{id}/close"));
    let closed = testkit::http::post(&url, Some(&system.token("host")?), &json!({})).await?;
    assert_eq!(closed.status, 200, "{}", closed.text);
    assert_eq!(system.bid("ben", &id, &json!(5)).await?.json["code"], "auction_closed");
    system.end().await;
    Ok(())
}

/// The edge rejects a bid of a socket below the committed price by itself.
#[tokio::test(flavor = "multi_thread")]
async fn bids_below_the_committed_price_do_not_leave_the_edge() -> Result<()> {
    let system = TestSystem::start("fast-reject-edge").await?;
    let id = system.auction(&json!({"title": "Vase", "duration": 600, "starting_bid": 1})).await?;
    let mut socket = system.socket("ben").await?;
    socket.ask("join_auction", json!({"auction_id": id})).await?;
    let mut raised = 0;
    for amount in [1_000, 2_000, 3_000] {
        let answer = system.bid("anna", &id, &json!(amount)).await?;
        // Once anna leads, carl places the other bids.
        let answer = if answer.status == 200 { answer } else { system.bid("carl", &id, &json!(amount)).await? };
        raised = answer.json["seq"].as_u64().context("a seq")?;
        // The edge has received the record.
        let update = socket.event("bid_update").await?;
        assert!(update["data"]["seq"].as_u64() >= Some(raised), "{update}");
    }
    let before = system.decided_bids().await?;
    for nth in 0..100 {
        let with_id = json!({"auction_id": id, "amount": 5, "bid_id": uuid::Uuid::new_v4().to_string()});
        let bid = if nth % 2 == 0 { with_id } else { json!({"auction_id": id, "amount": 5}) };
        let answer = socket.ask("place_bid", bid).await?;
        assert_eq!(answer["data"]["code"], "bid_too_low", "{answer}");
        assert!(answer["data"]["seq"].as_u64() >= Some(raised), "{answer}");
    }
    assert_eq!(system.decided_bids().await?, before, "bid-processing was not asked");

    let bid = json!({"auction_id": id, "amount": 4_000, "bid_id": uuid::Uuid::new_v4().to_string()});
    let accepted = socket.ask("place_bid", bid.clone()).await?;
    assert_eq!(accepted["data"]["status"], "accepted", "{accepted}");
    // Right after an answer, whether the record has reached the edge or not, no answer has an older seq.
    let mut behind = system.socket("dora").await?;
    behind.ask("join_auction", json!({"auction_id": id})).await?;
    for amount in (5_000..7_000).step_by(100) {
        let raised = system.bid(if amount % 200 == 0 { "anna" } else { "carl" }, &id, &json!(amount)).await?;
        assert_eq!(raised.status, 200, "{}", raised.text);
        let by_socket = socket.ask("place_bid", json!({"auction_id": id, "amount": amount + 50})).await?;
        let rejected = behind.ask("place_bid", json!({"auction_id": id, "amount": 5})).await?;
        assert!(rejected["data"]["seq"].as_u64() >= by_socket["data"]["seq"].as_u64(), "{by_socket} then {rejected}");
    }
    // An accepted bid is found under its id, however low it is now.
    assert_eq!(socket.ask("place_bid", bid).await?["data"], accepted["data"]);
    system.end().await;
    Ok(())
}

/// A crowd presses the same button: the edge sends one bid of an amount to bid-processing, and rejects the others by the
/// price that follows.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_bids_of_one_amount_the_edge_sends_one() -> Result<()> {
    const PEOPLE: usize = 20;
    const ROUNDS: usize = 3;
    let (system, redis, id, mut sockets) = redis_behind_a_proxy("same-amount", ROUNDS * PEOPLE).await?;
    let id = id.as_str();
    redis.to_server(LinkState::Delay(Duration::from_millis(20)));
    let before = system.decided_bids().await?;
    // Other people in each round: a leader would be rejected for another reason.
    for (nth, people) in sockets.chunks_mut(PEOPLE).enumerate() {
        let amount = 10 * (nth + 1);
        let asking = people.iter_mut().map(|socket| async move {
            let answer = socket.ask("place_bid", json!({"auction_id": id, "amount": amount})).await?;
            anyhow::Ok(answer["data"].clone())
        });
        let answers = try_join_all(asking).await?;
        let (accepted, rejected): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer["status"] == "accepted");
        assert_eq!(accepted.len(), 1, "{answers:?}");
        for answer in rejected {
            assert_eq!((&answer["code"], &answer["seq"]), (&json!("bid_too_low"), &accepted[0]["seq"]), "{answer}");
        }
    }
    let decided = usize::try_from(system.decided_bids().await? - before)?;
    // The bids of a round go to bid-processing if an answer takes the machine longer than they wait.
    assert!((ROUNDS..=ROUNDS * PEOPLE / 2).contains(&decided), "{decided} bids reached bid-processing");
    println!("{decided} of {} bids reached bid-processing", ROUNDS * PEOPLE);
    system.end().await;
    Ok(())
}

/// A bid that is rejected for another reason than its amount leaves the amount to the next one.
#[tokio::test(flavor = "multi_thread")]
async fn bid_follows_a_rejected_one_of_its_amount() -> Result<()> {
    let (system, redis, id, mut sockets) = redis_behind_a_proxy("next-amount", 3).await?;
    let url = system.management(&format!("/auctions/{id}/block"));
    let blocked = json!({"user_id": DevelopmentUser::named("joined-0").user_id.to_string()});
    let answer = testkit::http::post(&url, Some(&system.token("host")?), &blocked).await?;
    assert_eq!(answer.status, 200, "{}", answer.text);
    redis.to_server(LinkState::Delay(Duration::from_millis(20)));
    for socket in &mut sockets {
        socket.request("place_bid", json!({"auction_id": id, "amount": 10}), 7).await?;
        // The edge has taken the bid.
        socket.ask("ping", json!({})).await?;
    }
    let mut codes = Vec::new();
    for socket in &mut sockets {
        let answer = socket.until(|frame| frame["id"] == 7).await?;
        codes.push(answer["data"]["code"].as_str().unwrap_or("accepted").to_owned());
    }
    assert_eq!(codes[0], "bidder_blocked");
    // Both wait for the first one's answer, and go on at the same moment.
    codes.sort();
    assert_eq!(codes, ["accepted", "bid_too_low", "bidder_blocked"]);
    system.end().await;
    Ok(())
}

/// A bid whose answer is slow holds up others of its amount for a tenth of a second: they are decided in turn.
#[tokio::test(flavor = "multi_thread")]
async fn bid_does_not_wait_long_for_another_of_its_amount() -> Result<()> {
    let (system, redis, id, mut sockets) = redis_behind_a_proxy("slow-amount", 2).await?;
    redis.to_server(LinkState::Delay(Duration::from_millis(300)));
    let before = system.decided_bids().await?;
    let asking = sockets.iter_mut().map(|socket| socket.ask("place_bid", json!({"auction_id": id, "amount": 10})));
    let answers = try_join_all(asking).await?;
    let accepted = answers.iter().filter(|answer| answer["data"]["status"] == "accepted").count();
    let too_low = answers.iter().filter(|answer| answer["data"]["code"] == "bid_too_low").count();
    assert_eq!((accepted, too_low), (1, 1), "{answers:?}");
    assert_eq!(system.decided_bids().await? - before, 2, "both bids reached Redis");
    system.end().await;
    Ok(())
}

/// Bids that an edge rejects by itself count towards the user's rate limit.
#[tokio::test(flavor = "multi_thread")]
async fn fast_rejects_of_the_edge_count_towards_the_rate_limit() -> Result<()> {
    const ALLOWED: usize = 40;
    let limit = vec![("MAX_BIDS_PER_USER_PER_SECOND".to_owned(), ALLOWED.to_string())];
    let system = TestSystem::with("edge-limit", limit, false).await?;
    let id = system.auction(&json!({"title": "Bowl", "duration": 600, "starting_bid": 10})).await?;
    let mut socket = system.socket("ben").await?;
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
    // The bids of one second at once, then the rate.
    let most = ALLOWED as f64 * (1.0 + started.elapsed().as_secs_f64()) + 1.0;
    assert!(slowed > 0 && f64::from(low) <= most, "{low} bids were judged, {slowed} rate limited");
    // Another user is not limited.
    let mut other = system.socket("carl").await?;
    let answer = other.ask("place_bid", json!({"auction_id": id, "amount": 5})).await?;
    assert_eq!(answer["data"]["code"], "bid_too_low", "{answer}");
    system.end().await;
    Ok(())
}

/// Close to the end the clock of Redis decides whether a bid is rejected as too low or as after the end.
#[tokio::test(flavor = "multi_thread")]
async fn low_bid_after_the_end_is_rejected_as_late() -> Result<()> {
    const LATE: usize = 100;
    let unlimited = vec![("MAX_BIDS_PER_USER_PER_SECOND".to_owned(), "100000".to_owned())];
    let mut system = TestSystem::with("late-low", unlimited, false).await?;
    let lot = json!({"title": "Fan", "duration": 5, "starting_bid": 1, "anti_snipe": {"mode": "off"}});
    let id = system.auction(&lot).await?;
    assert_eq!(system.bid("anna", &id, &json!(50)).await?.status, 200);
    // Without a timer the auction is not closed: only the clock ends it.
    system.stack.kill_instance(Name::Timer, 0).await?;
    let ben = system.token("ben")?;
    let (started, mut late) = (Instant::now(), 0);
    // One after the other, so that some arrive in the last milliseconds.
    while late < LATE {
        assert!(started.elapsed() < Duration::from_secs(10), "no bid was rejected as late");
        let answer = system.bid_at(0, &ben, &json!({"auction_id": id, "amount": 2})).await?;
        match answer.json["code"].as_str() {
            Some("bid_too_low") => assert_eq!(late, 0, "closed, then open again"),
            Some("auction_closed") => late += 1,
            _ => anyhow::bail!("{}", answer.text),
        }
    }
    assert_eq!(system.log(&id).await?.last().context("a record")?["type"], "bids");
    system.end().await;
    Ok(())
}
