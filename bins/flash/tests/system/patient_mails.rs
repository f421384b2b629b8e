//! Mails after ten minutes without SES or PostgreSQL, and from an account that may send one a second. Takes minutes.

use std::time::Duration;

use anyhow::Result;
use flash::stack::Name;
use serde_json::json;
use testkit::http;
use tokio::time::{Instant, sleep};

use crate::aws_stub::Mode;
use crate::bad_items::{assert_throttled_mails_arrive, behind_stub, close, dead_letters, sent};
use crate::test_system::TestSystem;

const AWAY: Duration = Duration::from_secs(600);

/// An auction in which anna and ben have bid.
async fn auction(system: &TestSystem, duration: u32) -> Result<String> {
    let lot = json!({"title": "Lamp", "duration": duration, "starting_bid": 1, "video": false,
        "anti_snipe": {"mode": "off"}});
    let id = system.auction(&lot).await?;
    for (name, amount) in [("anna", 1), ("ben", 2)] {
        let placed = system.bid(name, &id, &json!(amount)).await?;
        assert_eq!(placed.status, 200, "{}", placed.text);
    }
    Ok(id)
}

/// The mails of the auction above: host, winner and loser, each once, and nothing in the dead letters.
async fn assert_all_mailed_once(system: &TestSystem) -> Result<()> {
    let mails = sent(system, 3).await?;
    let expected = [("anna", "Ended: Lamp"), ("ben", "You won: Lamp"), ("host", "Sold: Lamp")];
    assert_eq!(mails, expected.map(|(name, subject)| (format!("{name}@example.com"), subject.to_owned())));
    assert_eq!(dead_letters(system).await?, "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_minutes_without_ses_cost_no_mail() -> Result<()> {
    let (system, stub) = behind_stub("ses-away", Name::AuctionNotifications, Mode::ResetMails).await?;
    let id = auction(&system, 600).await?;
    close(&system, &id).await?;
    sleep(AWAY).await;
    assert!(stub.failed() > 0, "no mail was tried");
    let tried = stub.failed();
    stub.set(Mode::Pass);
    let back = Instant::now();
    assert_all_mailed_once(&system).await?;
    eprintln!("without SES for {AWAY:?}: {tried} attempts failed, 3 mails {:?} after it was back", back.elapsed());
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_minutes_without_postgres_cost_no_mail() -> Result<()> {
    let mut system = TestSystem::start("postgres-away").await?;
    // It ends by itself: its host is not known without PostgreSQL.
    let id = auction(&system, 10).await?;
    // A request to auction-management stores their addresses before it is gone.
    for name in ["anna", "ben"] {
        let profile = http::get(&system.management("/users/me"), Some(&system.token(name)?)).await?;
        assert_eq!(profile.status, 200, "{}", profile.text);
    }
    system.stack.servers.postgres.kill();
    sleep(AWAY).await;
    system.stack.servers.restart_postgres().await?;
    let back = Instant::now();
    assert_all_mailed_once(&system).await?;
    let log = system.log(&id).await?;
    assert_eq!(log.last().map(|record| &record["type"]), Some(&json!("closed")));
    eprintln!("without PostgreSQL for {AWAY:?}: 3 mails {:?} after it was back", back.elapsed());
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_one_mails_at_one_a_second_all_arrive_once() -> Result<()> {
    assert_throttled_mails_arrive("slow-account", 60).await
}
