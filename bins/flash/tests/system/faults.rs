//! Instances and servers are killed under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use domain::Amount;
use flash::stack::{Name, connections};
use serde_json::{Value, json};
use testkit::Signal;
use testkit::bidder::{minimum_bid, new_bid};
use tokio::task::JoinHandle;

use crate::aws::mails_once;
use crate::test_system::TestSystem;

/// Bidders that raise each other and record every answer until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    bidders: Vec<JoinHandle<Vec<(Value, u16, Value)>>>,
}

impl Load {
    /// Starts this number of bidders, over the instances of bid-processing by turns.
    pub fn start(system: &TestSystem, id: &str, bidders: usize) -> Result<Self> {
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let urls: Vec<String> =
            system.stack.urls(Name::BidProcessing).iter().map(|url| format!("{url}/bids")).collect();
        let bidders: Result<Vec<_>> = (0..bidders)
            .map(|bidder| {
                let (stop, url, id) = (Arc::clone(&stop), urls[bidder % urls.len()].clone(), id.to_owned());
                let accepted = Arc::clone(&accepted);
                let token = system.token(&format!("bidder-{bidder}"))?;
                Ok(tokio::spawn(async move {
                    let mut answers = Vec::new();
                    let (mut cents, mut last_seq) = (100, 0);
                    while !stop.load(Ordering::Relaxed) {
                        let bid = new_bid(&id, cents);
                        match testkit::http::post(&url, Some(&token), &bid).await {
                            Ok(answer) => {
                                cents = cents.max(minimum_bid(&answer.json).unwrap_or_default()) + 100;
                                // I6: no answer is based on an older state than an earlier answer.
                                if let Some(seq) = answer.json["seq"].as_u64() {
                                    assert!(seq >= last_seq, "an answer with seq {last_seq}, then {}", answer.text);
                                    last_seq = seq;
                                }
                                accepted.fetch_add(usize::from(answer.status == 200), Ordering::Relaxed);
                                answers.push((bid, answer.status, answer.json));
                            }
                            // The instance is gone: the outcome of the bid is unknown.
                            Err(_) => {
                                answers.push((bid, 0, Value::Null));
                                tokio::time::sleep(Duration::from_millis(20)).await;
                            }
                        }
                    }
                    answers
                }))
            })
            .collect();
        Ok(Self { stop, accepted, bidders: bidders? })
    }

    /// Waits until this many more bids have been accepted.
    pub async fn accepted(&self, more: usize) -> Result<()> {
        let wanted = self.accepted.load(Ordering::Relaxed) + more;
        for _ in 0..1_000 {
            if self.accepted.load(Ordering::Relaxed) >= wanted {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("bids are no longer accepted: {:?} of {wanted}", self.accepted)
    }

    /// Stops the bidders and returns each bid with the status and body of its answer (0 if there was none).
    pub async fn finish(self) -> Result<Vec<(Value, u16, Value)>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answers = Vec::new();
        for bidder in self.bidders {
            answers.extend(bidder.await?);
        }
        Ok(answers)
    }
}

/// I1, I2, I3: every accepted bid is in the log once, with the same seq and amount; no rejected bid is in the log.
pub async fn assert_log_agrees(system: &TestSystem, id: &str, answers: &[(Value, u16, Value)]) -> Result<usize> {
    let bids = system.checked_bids(id).await?;
    let mut accepted = 0;
    for (asked, status, answer) in answers {
        let logged: Vec<_> = bids.iter().filter(|bid| asked["bid_id"] == bid.bid_id.to_string()).collect();
        match (*status, answer["code"].as_str()) {
            (200, _) => {
                accepted += 1;
                assert_eq!(logged.len(), 1, "accepted but not in the log: {answer}");
                assert_eq!(
                    (answer["seq"].as_u64(), answer["amount"].as_f64()),
                    (Some(logged[0].seq), Some(logged[0].amount.cents() as f64 / 100.0))
                );
            }
            (0, _) | (503, Some("outcome_unknown")) => assert!(logged.len() <= 1),
            _ => assert!(logged.is_empty(), "rejected but in the log: {answer}"),
        }
    }
    Ok(accepted)
}

/// Fails unless a bid is accepted within 5 s.
async fn accepted_again(system: &TestSystem, id: &str) -> Result<()> {
    let started = std::time::Instant::now();
    for attempt in 0..200u64 {
        let state = system.wait_for(&format!("/auctions/{id}/state"), |state| state["minimum_bid"].is_number()).await?;
        let amount = state["minimum_bid"].as_f64().context("a minimum")? + 1000.0;
        let name = format!("after-{}", attempt % 2);
        if system.bid(&name, id, &json!(format!("{amount:.2}"))).await?.status == 200 {
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "the first bid was accepted after {:?}",
                started.elapsed()
            );
            return Ok(());
        }
    }
    anyhow::bail!("no bid was accepted after the fault")
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_instance_loses_no_bids() -> Result<()> {
    // Separate processes: a killed instance loses all its work in flight.
    let mut system = TestSystem::with("kill-instance", Vec::new(), true).await?;
    system.stack.add_instance(Name::BidProcessing).await?;
    let id = system.auction(&json!({"title": "Car", "duration": 600, "starting_bid": 1})).await?;
    let load = Load::start(&system, &id, 16)?;
    load.accepted(50).await?;
    system.stack.kill_instance(Name::BidProcessing, 1).await?;
    load.accepted(50).await?;
    let answers = load.finish().await?;
    accepted_again(&system, &id).await?;
    let accepted = assert_log_agrees(&system, &id, &answers).await?;
    assert!(accepted > 20, "only {accepted} bids were accepted, too few for a proof");
    system.history(&id, system.checked_bids(&id).await?.len()).await?;
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_redis_and_nats_lose_no_bids() -> Result<()> {
    let mut system = TestSystem::start("kill-servers").await?;
    let id = system.auction(&json!({"title": "Boat", "duration": 600, "starting_bid": 1})).await?;
    let mut total = 0;
    for fault in ["redis", "nats"] {
        let load = Load::start(&system, &id, 8)?;
        load.accepted(30).await?;
        match fault {
            "redis" => system.stack.servers.restart_redis().await?,
            _ => system.stack.servers.restart_nats().await?,
        }
        accepted_again(&system, &id).await.context(fault)?;
        let answers = load.finish().await?;
        total += assert_log_agrees(&system, &id, &answers).await?;
    }
    assert!(total > 20, "only {total} bids were accepted, too few for a proof");
    system.history(&id, system.checked_bids(&id).await?.len()).await?;
    system.end().await;
    Ok(())
}

/// Facts that an instance decided but did not commit before it died are committed by another.
#[tokio::test(flavor = "multi_thread")]
async fn orphaned_outbox_entries_are_committed() -> Result<()> {
    let system = TestSystem::start("left-behind").await?;
    let id = system.auction(&json!({"title": "Pen", "duration": 600, "starting_bid": 1})).await?;
    // As if an instance had died between deciding and committing.
    let hotstate = hotstate::Hotstate::connect(&connections::redis(&system.stack.servers)).await?;
    let bid = domain::BidRequest {
        bid_id: domain::BidId::from_uuid(uuid::Uuid::new_v4()),
        user_id: domain::UserId::from_uuid(uuid::Uuid::new_v4()),
        username: "anna".to_owned(),
        offer: Amount::from_cents(500)?.into(),
    };
    hotstate.place(id.parse()?, std::slice::from_ref(&bid), 0).await?.context("a state")?;
    // No request names this auction; the sweep finds it.
    let history = system.history(&id, 1).await?;
    assert_eq!(history[0]["bid_id"], bid.bid_id.to_string());
    assert_eq!(system.checked_bids(&id).await?.len(), 1);
    system.end().await;
    Ok(())
}

/// While PostgreSQL, the token issuer and auction-management are dead and AWS does not answer, bids are accepted over
/// HTTP and WebSocket, also from a new user, and the auction closes on time. Afterwards everything is stored, and each
/// mail is sent once.
#[tokio::test(flavor = "multi_thread")]
async fn bids_are_accepted_without_postgres_and_aws() -> Result<()> {
    let mut system = TestSystem::with("narrow", Vec::new(), true).await?;
    let id = system
        .auction(&json!({"title": "Desk", "duration": 5, "starting_bid": 1, "anti_snipe": {"mode": "off"}}))
        .await?;
    let mut watcher = system.socket("watcher").await?;
    watcher.ask("join_auction", json!({"auction_id": id})).await?;
    system.stack.servers.postgres.kill();
    system.stack.servers.aws.signal(Signal::Stop)?;
    system.stack.keys.stop().await;
    let management = system.stack.instances.iter().find(|instance| instance.name == Name::AuctionManagement);
    management.context("one")?.signal(Signal::Kill)?;

    assert_eq!(system.bid("anna", &id, &json!(3)).await?.status, 200);
    let mut ben = system.socket("ben").await?;
    assert_eq!(ben.ask("place_bid", json!({"auction_id": id, "amount": 4})).await?["data"]["status"], "accepted");
    let ended = watcher.event("auction_ended").await?;
    assert_eq!(ended["data"]["winner_username"], "ben");
    let log = system.log(&id).await?;
    let closed = log.last().context("a record")?;
    let late_by =
        closed["time"].as_u64().context("a time")? - closed["state"]["end_time"].as_u64().context("an end")?;
    assert!(late_by < 1_000, "{late_by} ms late");

    system.stack.servers.restart_postgres().await?;
    system.stack.servers.aws.signal(Signal::Continue)?;
    system.stack.keys.resume(None).await?;
    system.stack.kill_and_restart_instance(Name::AuctionManagement, 0).await?;
    let row = system.closed_row(&id).await?;
    assert_eq!((row.winner.map(|winner| winner.username).as_deref(), row.bid_count), (Some("ben"), 2));
    assert_eq!(system.history(&id, 2).await?.len(), 2);
    // Host, winner, loser.
    mails_once(&system, 3).await?;
    system.end().await;
    Ok(())
}
