//! One bad item (a person's claims, a title, a record, a mail, a message) stops nothing behind it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use domain::UserId;
use flash::stack::Name;
use identity::development::{DevelopmentUser, claims};
use serde_json::{Value, json};
use testkit::eventually;
use testkit::http::{self, aws_json};
use tokio::time::{Instant, sleep, timeout};

use crate::aws::mails_once;
use crate::aws_stub::{AwsStub, Mode};
use crate::test_system::TestSystem;

/// Longest wait for mails that are tried again: claims expire after 30 s, and SES takes one mail a second.
const PATIENCE: Duration = Duration::from_secs(150);

fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// A token whose claims were changed; null removes one.
fn token(system: &TestSystem, name: &str, changes: &Value) -> Result<String> {
    let issuer = &system.stack.issuer;
    let mut all = claims(&issuer.issuer, &issuer.client_id, &DevelopmentUser::named(name), now()?, 600);
    let all_claims = all.as_object_mut().context("claims")?;
    for (claim, value) in changes.as_object().context("changes")? {
        if value.is_null() {
            all_claims.remove(claim)
        } else {
            all_claims.insert(claim.clone(), value.clone())
        };
    }
    Ok(issuer.key.sign(&all)?)
}

/// Waits until the table has the person's row with this condition.
async fn profile(
    system: &TestSystem,
    user_id: UserId,
    fits: fn(&protocol::Profile) -> bool,
) -> Result<protocol::Profile> {
    let store = store::Store::connect(&system.stack.servers.postgres_url()).await?;
    eventually(&format!("the row of {user_id}"), async || Ok(store.profile(user_id).await?.filter(fits))).await
}

pub async fn close(system: &TestSystem, id: &str) -> Result<()> {
    let closed =
        http::post(&system.management(&format!("/auctions/{id}/close")), Some(&system.token("host")?), &json!({}))
            .await?;
    ensure!(closed.status == 200, "{}", closed.text);
    Ok(())
}

/// Recipients and subjects of exactly `count` mails, sorted, once they were sent.
pub async fn sent(system: &TestSystem, count: usize) -> Result<Vec<(String, String)>> {
    let started = Instant::now();
    loop {
        match mails_once(system, count).await {
            Ok(mails) => {
                let mut mails: Vec<_> = mails.into_iter().map(|(to, subject, _)| (to, subject)).collect();
                mails.sort();
                return Ok(mails);
            }
            Err(error) if started.elapsed() > PATIENCE => return Err(error),
            Err(_) => {}
        }
    }
}

/// Whatever a token claims, its person and the next one have a row, and bids of both are accepted.
#[tokio::test(flavor = "multi_thread")]
async fn bad_claims_stop_no_other_person() -> Result<()> {
    let system = TestSystem::start("bad-claims").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "video": false})).await?;
    let long = "x".repeat(3_500);
    let values = [
        "eve\0",
        "eve\u{202e}\u{200b}",
        "\u{feff}",
        "\u{2800}\u{3164}",
        "eve\u{ffff}\u{fffe}",
        "e\u{1b}[2J",
        long.as_str(),
    ];
    let mut amount = 1;
    for claim in ["preferred_username", "cognito:username", "username", "name", "email"] {
        for (number, value) in values.iter().enumerate() {
            let mut changes = json!({});
            let value = if claim == "email" { format!("{value}{number}@example.com") } else { (*value).to_owned() };
            changes[claim] = json!(value);
            let (bad, next) = (format!("bad-{claim}-{number}"), format!("next-{claim}-{number}"));
            for (name, token) in [(&bad, token(&system, &bad, &changes)?), (&next, system.token(&next)?)] {
                amount += 1;
                let placed = system.bid_at(0, &token, &json!({"auction_id": id, "amount": amount})).await?;
                ensure!(placed.status == 200, "{name} {}", placed.text);
            }
            let stored = profile(&system, DevelopmentUser::named(&bad).user_id, |_| true).await?;
            for text in [Some(&stored.username), stored.name.as_ref(), stored.email.as_ref()].into_iter().flatten() {
                assert!(protocol::characters::are_allowed(text), "{claim} {number}: {stored:?}");
                assert!(!text.is_empty() && text.chars().count() <= 254, "{claim} {number}: {stored:?}");
            }
            let stored = profile(&system, DevelopmentUser::named(&next).user_id, |of| of.email.is_some()).await?;
            assert_eq!((stored.username.as_str(), stored.is_verified), (next.as_str(), true));
        }
    }
    for service in [Name::BidProcessing, Name::Websocket] {
        assert_eq!(system.metric::<u64>(service, "flash_background_requests_refused_total").await?, [0]);
    }
    system.end().await;
    Ok(())
}

/// All names that a person could get are taken: it wins, the result is written, and host, winner and loser are mailed.
#[tokio::test(flavor = "multi_thread")]
async fn taken_names_stop_no_result() -> Result<()> {
    let system = TestSystem::start("taken-names").await?;
    let anna = DevelopmentUser::named("anna").user_id.to_string();
    let taken = [
        "x".to_owned(),
        format!("x-{}", &anna[..4]),
        format!("x-{}", &anna[..8]),
        format!("x-{anna}"),
        format!("user-{anna}"),
    ];
    let me = system.management("/users/me");
    for (number, name) in taken.iter().enumerate() {
        let token = token(&system, &format!("taker-{number}"), &json!({"preferred_username": name}))?;
        let profile = http::get(&me, Some(&token)).await?;
        assert_eq!((profile.status, &profile.json["username"]), (200, &json!(name)), "{}", profile.text);
    }
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    assert_eq!(system.bid("ben", &id, &json!(2)).await?.status, 200);
    let x = token(&system, "anna", &json!({"preferred_username": "x"}))?;
    assert_eq!(system.bid_at(0, &x, &json!({"auction_id": id, "amount": 3})).await?.status, 200);
    close(&system, &id).await?;
    let winner = system.closed_row(&id).await?.winner.context("a winner")?;
    assert_eq!(winner.user_id.to_string(), anna);
    let expected = [("anna", "You won: Lamp"), ("ben", "Ended: Lamp"), ("host", "Sold: Lamp")];
    assert_eq!(
        sent(&system, 3).await?,
        expected.map(|(to, subject)| (format!("{to}@example.com"), subject.to_owned()))
    );
    let profile = http::get(&me, Some(&x)).await?;
    let username = profile.json["username"].as_str().context("a name")?;
    // The service that notices the person first decides which one it is.
    assert!(!username.is_empty() && !taken.iter().any(|name| name == username), "{username}");
    system.end().await;
    Ok(())
}

/// Titles and chat messages with characters that no reader sees, or that SQS refuses, are refused, naming the field.
#[tokio::test(flavor = "multi_thread")]
async fn invisible_characters_are_refused_at_the_door() -> Result<()> {
    let system = TestSystem::start("characters").await?;
    let host = system.token("host")?;
    let family = "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} \u{2764}\u{fe0f}";
    let id = system.auction(&json!({"title": family, "duration": 600, "starting_bid": 1, "video": false})).await?;
    let mut anna = system.socket("anna").await?;
    anna.ask("join_auction", json!({"auction_id": id})).await?;
    for text in [
        "Lamp \u{ffff}",
        "Lamp \u{fffe}",
        "\u{202e}Lamp",
        "La\u{200b}mp",
        "\u{3164}",
        "\u{2800}",
        "La\u{ad}mp",
        "\u{feff}",
    ] {
        let lot = json!({"title": text, "duration": 5, "starting_bid": 10, "video": false});
        let refused = http::post(&system.management("/auctions"), Some(&host), &lot).await?;
        assert_eq!((refused.status, &refused.json["code"]), (400, &json!("invalid_request")), "{text:?}");
        assert!(refused.json["error"].as_str().is_some_and(|error| error.starts_with("title ")), "{}", refused.text);
        let said = anna.ask("chat_message", json!({"auction_id": id, "message": text})).await?;
        assert_eq!(said["data"]["code"], "invalid_request", "{said}");
        let name = json!({"name": text});
        let request = http::request("PUT", &system.management("/users/me"), Some(&host));
        assert_eq!(http::send(request.body(name.to_string().into())?).await?.status, 400, "{text:?}");
    }
    let said = anna.ask("chat_message", json!({"auction_id": id, "message": family})).await?;
    assert!(said["data"]["message_id"].is_string(), "{said}");
    system.end().await;
    Ok(())
}

/// An unverified address is neither stored nor moved nor written to; a verified one moves, with its flag.
#[tokio::test(flavor = "multi_thread")]
async fn unverified_address_takes_nothing() -> Result<()> {
    let system = TestSystem::start("unverified").await?;
    let me = system.management("/users/me");
    let vic = system.token("vic")?;
    let stolen = json!({"email": "vic@example.com", "email_verified": false, "iat": now()? + 60});
    let eve = token(&system, "eve", &stolen)?;
    let shown = async |token: &str| {
        let profile = http::get(&me, Some(token)).await?;
        ensure!(profile.status == 200, "{}", profile.text);
        anyhow::Ok((profile.json["email"].clone(), profile.json["is_verified"].clone()))
    };
    assert_eq!(shown(&vic).await?, (json!("vic@example.com"), json!(true)));
    assert_eq!(shown(&eve).await?, (Value::Null, json!(false)));
    assert_eq!(shown(&vic).await?, (json!("vic@example.com"), json!(true)));
    // A token without an address, such as an access token, changes nothing.
    let without = token(&system, "vic", &json!({"email": null, "email_verified": null}))?;
    assert_eq!(shown(&without).await?, (json!("vic@example.com"), json!(true)));

    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    for (token, amount) in [(&eve, 11), (&vic, 20)] {
        assert_eq!(system.bid_at(0, token, &json!({"auction_id": id, "amount": amount})).await?.status, 200);
    }
    close(&system, &id).await?;
    let expected = [("host", "Sold: Lamp"), ("vic", "You won: Lamp")];
    assert_eq!(
        sent(&system, 2).await?,
        expected.map(|(to, subject)| (format!("{to}@example.com"), subject.to_owned()))
    );

    let walt = token(&system, "walt", &json!({"email": "vic@example.com", "iat": now()? + 60}))?;
    assert_eq!(shown(&walt).await?, (json!("vic@example.com"), json!(true)));
    assert_eq!(shown(&vic).await?, (Value::Null, json!(false)));
    system.end().await;
    Ok(())
}

/// An unreadable record is parked with its body, and holds up neither the result nor the mails of a later auction.
#[tokio::test(flavor = "multi_thread")]
async fn unreadable_record_stops_no_later_auction() -> Result<()> {
    let mut system = TestSystem::start("bad-record").await?;
    let lot = |title: &str| json!({"title": title, "duration": 5, "starting_bid": 1, "anti_snipe": {"mode": "off"}, "video": false});
    let bad = system.auction(&lot("Bad")).await?;
    let mut watcher = system.socket("anna").await?;
    watcher.ask("join_auction", json!({"auction_id": bad})).await?;
    system.stack.kill_instance(Name::AuctionManagement, 0).await?;
    watcher.event("auction_ended").await?;
    let bus = system.bus().await?;
    let body = json!({"v": 1, "kind": "unheard of"}).to_string();
    let published = bus.jetstream.publish(protocol::subject::log(bad.parse()?), body.clone().into()).await?;
    published.await?;
    system.stack.add_instance(Name::AuctionManagement).await?;

    let good = system.auction(&lot("Good")).await?;
    close(&system, &good).await?;
    assert_eq!(sent(&system, 1).await?, [("host@example.com".to_owned(), "Not sold: Good".to_owned())]);
    let stream = bus.jetstream.get_stream("AUCTION_DLQ").await?;
    let found = async || Ok(stream.get_last_raw_message_by_subject("dlq.auction-results").await.ok());
    let letter = eventually("a dead letter", found).await?;
    assert_eq!(String::from_utf8(letter.payload.to_vec())?, body, "the dead letter has the record");
    system.end().await;
    Ok(())
}

/// Messages in the dead letters of the notification queue.
pub async fn dead_letters(system: &TestSystem) -> Result<Value> {
    let queue = format!("{}-dlq", system.stack.prepared.notification_queue_url);
    let asked = json!({"QueueUrl": queue, "AttributeNames": ["ApproximateNumberOfMessages"]});
    let endpoint = system.stack.servers.aws_endpoint();
    let found = aws_json(&endpoint, "sqs", "AmazonSQS.GetQueueAttributes", &asked).await?;
    Ok(found["Attributes"]["ApproximateNumberOfMessages"].clone())
}

/// A system whose service reaches AWS through a stub.
pub async fn behind_stub(test: &str, service: Name, mode: Mode) -> Result<(TestSystem, AwsStub)> {
    let mut system = TestSystem::start(test).await?;
    let (stub, endpoint) = AwsStub::start(&system, mode).await?;
    system.stack.add_instance_with(service, &[("AWS_ENDPOINT_URL", endpoint)]).await?;
    system.stack.kill_instance(service, 0).await?;
    Ok((system, stub))
}

/// A notification that SQS refuses is parked and counted, and the next auction's host is mailed.
#[tokio::test(flavor = "multi_thread")]
async fn refused_notification_is_parked() -> Result<()> {
    let (system, stub) = behind_stub("refused", Name::AuctionManagement, Mode::RejectRefused).await?;
    for title in ["Refused", "Good"] {
        let id = system.auction(&json!({"title": title, "duration": 600, "starting_bid": 1, "video": false})).await?;
        close(&system, &id).await?;
    }
    assert_eq!(sent(&system, 1).await?, [("host@example.com".to_owned(), "Not sold: Good".to_owned())]);
    let store = store::Store::connect(&system.stack.servers.postgres_url()).await?;
    let parked = async || Ok(Some(store.parked_notifications().await?).filter(|parked| *parked > 0));
    assert_eq!((eventually("a parked notification", parked).await?, stub.failed()), (1, 1), "at its first refusal");
    assert_eq!(system.metric::<u64>(Name::AuctionManagement, "flash_notifications_parked_total").await?, [1]);
    system.end().await;
    Ok(())
}

/// SES resets its connections for some seconds: the host is mailed once, and nothing is in the dead letters.
#[tokio::test(flavor = "multi_thread")]
async fn reset_connections_cost_no_mail() -> Result<()> {
    let (system, stub) = behind_stub("reset-mails", Name::AuctionNotifications, Mode::ResetMails).await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    close(&system, &id).await?;
    // The instance that was killed may have taken the message.
    let tried = async {
        while stub.failed() == 0 {
            sleep(Duration::from_millis(25)).await;
        }
    };
    timeout(PATIENCE, tried).await.context("no mail was tried")?;
    stub.set(Mode::Pass);
    assert_eq!(sent(&system, 1).await?, [("host@example.com".to_owned(), "Not sold: Lamp".to_owned())]);
    assert_eq!(dead_letters(&system).await?, "0");
    assert_eq!(system.metric::<u64>(Name::AuctionNotifications, "flash_mails_resent_total").await?, [1]);
    system.end().await;
    Ok(())
}

/// An account that may send one mail a second: all recipients are mailed once, and nothing is in the dead letters.
pub async fn assert_throttled_mails_arrive(test: &str, bidders: usize) -> Result<()> {
    let (system, stub) = behind_stub(test, Name::AuctionNotifications, Mode::OneMailASecond).await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "video": false})).await?;
    for bidder in 0..bidders {
        let placed = system.bid(&format!("bidder-{bidder}"), &id, &json!(bidder + 1)).await?;
        assert_eq!(placed.status, 200, "{}", placed.text);
    }
    close(&system, &id).await?;
    let started = Instant::now();
    let mails = sent(&system, bidders + 1).await?;
    eprintln!("{} mails in {:?}, {} throttled", mails.len(), started.elapsed(), stub.failed());
    let recipients: std::collections::BTreeSet<&str> = mails.iter().map(|(to, _)| to.as_str()).collect();
    assert_eq!(recipients.len(), bidders + 1, "{mails:?}");
    assert!(stub.failed() > 0, "the account was never throttled");
    assert_eq!(dead_letters(&system).await?, "0");
    assert_eq!(system.metric::<u64>(Name::AuctionNotifications, "flash_mails_resent_total").await?, [0]);
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn throttled_mails_all_arrive() -> Result<()> {
    assert_throttled_mails_arrive("throttled-mails", 20).await
}
