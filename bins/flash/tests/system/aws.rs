//! Everything that uses AWS: mails, video channels, Cognito's tokens. An emulator takes the place of AWS.

use std::collections::BTreeSet;
use std::path::Path;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cloud::{Streaming, Video, VideoError};
use flash::stack::Name;
use identity::TokenError;
use identity::development::{DevelopmentKey, DevelopmentUser};
use protocol::Code;
use serde_json::{Value, json};
use testkit::http::{self, aws_json};
use warp::Filter;

use crate::test_system::TestSystem;

/// Every mail that the emulator's SES has accepted: recipient, subject, text.
async fn mails(system: &TestSystem) -> Result<Vec<(String, String, String)>> {
    let data = http::emulator_state(&system.stack.servers.aws_endpoint()).await?;
    let mails = data["ses"]["Message"].as_array().context("mails")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(mails
        .iter()
        .map(|mail| (text(&mail["destinations"]["ToAddresses"][0]), text(&mail["subject"]), text(&mail["body"])))
        .collect())
}

/// Waits until `count` mails were sent; fails if there are more.
pub async fn mails_once(system: &TestSystem, count: usize) -> Result<Vec<(String, String, String)>> {
    let mut sent = Vec::new();
    for _ in 0..1_600 {
        sent = mails(system).await?;
        if sent.len() >= count {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    ensure!(sent.len() == count, "{} mails instead of {count}: {sent:?}", sent.len());
    Ok(sent)
}

/// Winner, losers and host get one mail each, also when the queue delivers the message again.
#[tokio::test(flavor = "multi_thread")]
async fn each_recipient_gets_one_mail() -> Result<()> {
    let system = TestSystem::start("mails").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    // The users' tokens contain their addresses; a request to auction-management stores them.
    for (name, amount) in [("anna", 5), ("ben", 6), ("cleo", 7), ("anna", 8)] {
        assert_eq!(system.bid(name, &id, &json!(amount)).await?.status, 200);
    }
    for name in ["anna", "ben", "cleo"] {
        http::get(&system.management("/users/me"), Some(&system.token(name)?)).await?;
    }
    http::post(&system.management(&format!("/auctions/{id}/close")), Some(&system.token("host")?), &json!({})).await?;
    let sent = mails_once(&system, 4).await?;
    let mails: BTreeSet<(&str, &str)> = sent.iter().map(|(to, subject, _)| (to.as_str(), subject.as_str())).collect();
    let expected = [
        ("anna@example.com", "You won: Lamp"),
        ("ben@example.com", "Ended: Lamp"),
        ("cleo@example.com", "Ended: Lamp"),
        ("host@example.com", "Sold: Lamp"),
    ];
    assert_eq!(mails, BTreeSet::from(expected));
    assert!(sent.iter().any(|(_, _, text)| text.contains("8.00 USD")), "{sent:?}");

    // The same message again, with one more recipient, and one that cannot be parsed: no mail is sent twice, and the
    // unreadable message goes to the dead letters.
    let queue = &system.stack.prepared.notification_queue_url;
    let endpoint = system.stack.servers.aws_endpoint();
    let contact = |name: &str| {
        json!({"user_id": identity::development::DevelopmentUser::named(name).user_id.to_string(),
        "email": format!("{name}@example.com"), "name": null, "username": name})
    };
    let again = json!({"type": "auction_closed", "auction_id": id, "title": "Lamp", "final_price": 8, "currency": "USD",
        "outcome": "sold", "winner": contact("anna"), "host": contact("host"), "losers": [contact("ben"), contact("dora")],
        "part": 1, "parts": 1, "timestamp": 1});
    for body in ["no JSON".to_owned(), again.to_string()] {
        let message = json!({"QueueUrl": queue, "MessageBody": body});
        aws_json(&endpoint, "sqs", "AmazonSQS.SendMessage", &message).await?;
    }
    let sent = mails_once(&system, 5).await?;
    assert!(sent.iter().any(|(to, ..)| to == "dora@example.com"), "dora had no mail yet");
    let metrics = http::get(&format!("{}/metrics", system.stack.url(Name::AuctionNotifications)), None).await?.text;
    assert!(
        metrics.contains("flash_mails_sent_total 5") && metrics.contains("flash_mails_resent_total 0"),
        "{metrics}"
    );
    system.end().await;
    Ok(())
}

/// A mail that SES rejects is not lost: it is sent once SES accepts it, and the others are not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn rejected_mail_is_retried() -> Result<()> {
    let system = TestSystem::start("refused-mail").await?;
    let endpoint = system.stack.servers.aws_endpoint();
    let form = async |body: &str| {
        let request = ::http::Request::post(&endpoint)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("authorization", "AWS4-HMAC-SHA256 Credential=flash/20200101/us-east-1/ses/aws4_request, SignedHeaders=host, Signature=none");
        http::send(request.body(body.to_owned().into())?).await
    };
    let id = system.auction(&json!({"title": "Vase", "duration": 600, "starting_bid": 1})).await?;
    // The emulator rejects mails of senders whose identity it does not know.
    let deleted = form("Action=DeleteIdentity&Identity=auctions%40example.com&Version=2010-12-01").await?;
    assert_eq!(deleted.status, 200, "{}", deleted.text);
    http::post(&system.management(&format!("/auctions/{id}/close")), Some(&system.token("host")?), &json!({})).await?;
    let notifications = format!("{}/metrics", system.stack.url(Name::AuctionNotifications));
    let mut was_received = false;
    for _ in 0..200 {
        let received = aws_json(
            &endpoint,
            "sqs",
            "AmazonSQS.GetQueueAttributes",
            &json!({"QueueUrl": system.stack.prepared.notification_queue_url, "AttributeNames": ["ApproximateNumberOfMessagesNotVisible"]}),
        )
        .await?;
        if received["Attributes"]["ApproximateNumberOfMessagesNotVisible"] == "1" {
            was_received = true;
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    assert!(was_received && mails(&system).await?.is_empty());
    form("Action=VerifyEmailIdentity&EmailAddress=auctions%40example.com&Version=2010-12-01").await?;
    let sent = mails_once(&system, 1).await?;
    assert_eq!((sent[0].0.as_str(), sent[0].1.as_str()), ("host@example.com", "Not sold: Vase"));
    assert!(http::get(&notifications, None).await?.text.contains("mails_sent_total 1"));
    system.end().await;
    Ok(())
}

/// A recipient without an address holds up no others, and gets its mail once the address is known.
#[tokio::test(flavor = "multi_thread")]
async fn address_that_arrives_after_the_end_brings_the_mail() -> Result<()> {
    let system = TestSystem::start("late-address").await?;
    let id = system.auction(&json!({"title": "Bowl", "duration": 600, "starting_bid": 1})).await?;
    // A bid whose user auction-management does not know, as after an outage of PostgreSQL.
    let dora = DevelopmentUser::named("dora");
    let bid = protocol::PlaceBid {
        auction_id: id.parse()?,
        bid_id: None,
        amount: Some(domain::Amount::from_cents(500)?),
        max_amount: None,
        user: protocol::Person { user_id: dora.user_id, username: "dora".to_owned() },
    };
    let bus = system.bus().await?;
    let answer: protocol::Answer =
        bus::request_for(&bus, protocol::subject::BIDS_PLACE, &bid, &system.token("dora")?, Duration::from_secs(3))
            .await?;
    assert_eq!(answer.code(), None);
    let close = system.management(&format!("/auctions/{id}/close"));
    assert_eq!(http::post(&close, Some(&system.token("host")?), &json!({})).await?.status, 200);
    system.closed_row(&id).await?;
    let sent = mails_once(&system, 1).await?;
    assert_eq!((sent[0].0.as_str(), sent[0].1.as_str()), ("host@example.com", "Sold: Bowl"));
    let metrics = format!("{}/metrics", system.stack.url(Name::AuctionManagement));
    assert!(http::get(&metrics, None).await?.text.contains("flash_recipients_without_address_total 1"));
    // The log's username made a row; the token brings the address.
    http::get(&system.management("/users/me"), Some(&system.token("dora")?)).await?;
    let recipients: BTreeSet<String> = mails_once(&system, 2).await?.into_iter().map(|(to, ..)| to).collect();
    assert_eq!(recipients, BTreeSet::from(["dora", "host"].map(|name| format!("{name}@example.com"))));
    system.end().await;
    Ok(())
}

/// Adds every file below a directory that contains these bytes.
fn files_with(directory: &Path, needle: &[u8], found: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            files_with(&path, needle, found)?;
        } else if std::fs::read(&path).is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle)) {
            found.push(path.display().to_string());
        }
    }
    Ok(())
}

/// Only the host gets the stream key: no other reply, frame, log line or record contains it. The channel is
/// deleted after the end.
#[tokio::test(flavor = "multi_thread")]
async fn stream_key_is_visible_to_the_host_only() -> Result<()> {
    let settings = vec![("VIDEO_LINGER_SECONDS".to_owned(), "0".to_owned())];
    let system = TestSystem::with("stream-key", settings, true).await?;
    let auction = system.create("host", &json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    let id = auction["auction_id"].as_str().context("an id")?;
    let key = auction["ivs_stream_key"].as_str().context("a stream key")?.to_owned();
    assert!(key.len() > 8 && auction["ivs_ingest_endpoint"].is_string() && auction["ivs_playback_url"].is_string());

    let stream = system.management(&format!("/auctions/{id}/stream"));
    let (host, anna) = (system.token("host")?, system.token("anna")?);
    let to_host = http::get(&stream, Some(&host)).await?;
    assert_eq!((to_host.status, &to_host.json["ivs_stream_key"]), (200, &json!(key)));
    let refused = http::get(&stream, Some(&anna)).await?;
    assert_eq!((refused.status, &refused.json["code"]), (403, &json!("not_host")));
    assert_eq!(http::get(&stream, None).await?.status, 401);

    let mut watcher = system.socket("anna").await?;
    watcher.ask("join_auction", json!({"auction_id": id})).await?;
    watcher.ask("place_bid", json!({"auction_id": id, "amount": 5})).await?;
    let mut replies = vec![refused.text];
    for path in ["", "/state", "/bids", "/timer"] {
        for token in [None, Some(host.as_str()), Some(anna.as_str())] {
            replies.push(http::get(&system.management(&format!("/auctions/{id}{path}")), token).await?.text);
        }
    }
    replies.push(http::get(&system.management("/auctions"), Some(&host)).await?.text);
    let closed = http::post(&system.management(&format!("/auctions/{id}/close")), Some(&host), &json!({})).await?;
    assert_eq!(closed.status, 200);
    replies.push(closed.text);
    watcher.event("auction_ended").await?;
    replies.extend(watcher.seen.iter().map(ToString::to_string));
    replies.extend(system.log(id).await?.iter().map(ToString::to_string));
    for service in Name::ALL {
        replies.push(http::get(&format!("{}/metrics", system.stack.url(service)), None).await?.text);
    }
    for (to, subject, text) in mails_once(&system, 2).await? {
        replies.push(format!("{to} {subject} {text}"));
    }
    let leaked: Vec<_> = replies.iter().filter(|reply| reply.contains(&key)).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
    // On disk only PostgreSQL's files contain it: no process log, no stream, no file of Redis.
    let mut files = Vec::new();
    files_with(system.path(), key.as_bytes(), &mut files)?;
    files.retain(|file| !file.contains("/postgres/"));
    assert!(files.is_empty(), "the stream key is in {files:?}");

    let shown = system.wait_for(&format!("/auctions/{id}"), |auction| auction["ivs_channel_arn"].is_null()).await?;
    assert_eq!(shown["status"], "closed");
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn auction_without_video_has_no_stream() -> Result<()> {
    let system = TestSystem::start("no-video").await?;
    let auction =
        system.create("host", &json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "video": false})).await?;
    assert_eq!((&auction["ivs_channel_arn"], &auction["ivs_stream_key"]), (&Value::Null, &Value::Null));
    let id = auction["auction_id"].as_str().context("an id")?;
    let stream = http::get(&system.management(&format!("/auctions/{id}/stream")), Some(&system.token("host")?)).await?;
    assert_eq!((stream.status, &stream.json["code"]), (409, &json!("wrong_state")));
    system.end().await;
    Ok(())
}

/// Both kinds of tokens of a user pool are accepted by auction-management and bid-processing.
#[tokio::test(flavor = "multi_thread")]
async fn user_pool_tokens_are_accepted() -> Result<()> {
    let system = TestSystem::start("cognito").await?;
    let prepared = &system.stack.prepared;
    let endpoint = system.stack.servers.aws_endpoint();
    let call = async |name: &str, body: Value| {
        aws_json(&endpoint, "cognito-idp", &format!("AWSCognitoIdentityProviderService.{name}"), &body).await
    };
    let pool = &prepared.user_pool_id;
    let attributes =
        json!([{"Name": "email", "Value": "dora@example.com"}, {"Name": "preferred_username", "Value": "dora"}]);
    call("AdminCreateUser", json!({"UserPoolId": pool, "Username": "dora", "UserAttributes": attributes})).await?;
    let password = "Correct-Horse-7";
    call(
        "AdminSetUserPassword",
        json!({"UserPoolId": pool, "Username": "dora", "Password": password, "Permanent": true}),
    )
    .await?;
    let login = json!({"UserPoolId": pool, "ClientId": prepared.client_id, "AuthFlow": "ADMIN_USER_PASSWORD_AUTH",
        "AuthParameters": {"USERNAME": "dora", "PASSWORD": password}});
    let result = call("AdminInitiateAuth", login).await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    for (kind, amount) in [("IdToken", 5), ("AccessToken", 5)] {
        let token = result["AuthenticationResult"][kind].as_str().with_context(|| format!("{kind} in {result}"))?;
        let profile = http::get(&system.management("/users/me"), Some(token)).await?;
        assert_eq!((profile.status, &profile.json["username"]), (200, &json!("dora")), "{kind}: {}", profile.text);
        let bid = json!({"auction_id": id, "amount": amount, "bid_id": "0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e11"});
        let placed = system.bid_at(0, token, &bid).await?;
        assert_eq!(placed.status, 200, "{kind}: {}", placed.text);
    }
    assert_eq!(system.checked_bids(&id).await?.len(), 1, "both tokens are of the same user");
    system.end().await;
    Ok(())
}

/// A stub of IVS for features that the emulator lacks: streams, their end, and the quota. It speaks the wire format
/// of the REST-JSON protocol and records the calls in order.
struct IvsStub {
    endpoint: String,
    calls: Arc<Mutex<Vec<String>>>,
}

impl IvsStub {
    /// Answers each call by its name with a status, an error type (or none) and a body.
    async fn start(answers: &'static [(&'static str, u16, &'static str, &'static str)]) -> Result<Self> {
        let calls: Arc<Mutex<Vec<String>>> = Arc::default();
        let recorded = Arc::clone(&calls);
        let route = warp::post().and(warp::path::param()).map(move |call: String| {
            recorded.lock().expect("a lock").push(call.clone());
            let found = answers.iter().find(|(name, ..)| *name == call);
            let (_, status, error, body) = found.copied().unwrap_or(("", 404, "ResourceNotFoundException", "{}"));
            let mut reply = ::http::Response::builder().status(status).header("content-type", "application/json");
            if !error.is_empty() {
                reply = reply.header("x-amzn-errortype", error);
            }
            reply.body(body).expect("a reply")
        });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        tokio::spawn(warp::serve(route).incoming(listener).run());
        Ok(Self { endpoint, calls })
    }

    async fn video(&self) -> Video {
        let credentials = Some(("a".to_owned(), "b".to_owned()));
        let settings =
            cloud::Settings { region: "us-east-1".to_owned(), endpoint: Some(self.endpoint.clone()), credentials };
        Video::new(&cloud::configuration(&settings).await)
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("a lock").clone()
    }
}

const ARN: &str = "arn:aws:ivs:us-east-1:123456789012:channel/abcd";

#[tokio::test]
async fn stream_is_stopped_before_its_channel_is_deleted() -> Result<()> {
    let live =
        r#"{"stream":{"channelArn":"arn:aws:ivs:us-east-1:123456789012:channel/abcd","state":"LIVE","viewerCount":7}}"#;
    let stub = Box::leak(Box::new([
        ("GetStream", 200, "", live),
        ("StopStream", 200, "", "{}"),
        ("DeleteChannel", 204, "", ""),
    ]));
    let stub = IvsStub::start(stub).await?;
    let video = stub.video().await;
    assert_eq!(video.streaming(ARN).await?, Streaming::Live { viewers: 7 });
    video.remove(ARN).await?;
    assert_eq!(stub.calls(), ["GetStream", "StopStream", "DeleteChannel"]);

    let stub = IvsStub::start(&[
        ("GetStream", 404, "ChannelNotBroadcasting", r#"{"exceptionMessage":"off"}"#),
        ("StopStream", 404, "ChannelNotBroadcasting", r#"{"exceptionMessage":"off"}"#),
        ("DeleteChannel", 404, "ResourceNotFoundException", r#"{"exceptionMessage":"gone"}"#),
        ("CreateChannel", 402, "ServiceQuotaExceededException", r#"{"exceptionMessage":"full"}"#),
    ])
    .await?;
    let video = stub.video().await;
    assert_eq!(video.streaming(ARN).await?, Streaming::Offline);
    // A channel that is already gone counts as deleted.
    video.remove(ARN).await?;
    let auction_id = domain::AuctionId::from_uuid(uuid::Uuid::new_v4());
    assert!(matches!(video.create(auction_id).await, Err(VideoError::Quota)));
    assert_eq!((Code::VideoQuota.name(), Code::VideoQuota.status().as_u16()), ("video_quota", 503));
    Ok(())
}

/// Keys are fetched in the background, and when a token names an unknown one, at most once a minute. Known keys stay
/// valid while the issuer is down, and a rotated key is found after that minute.
#[tokio::test]
async fn issuer_keys_are_cached_refreshed_and_kept_during_an_outage() -> Result<()> {
    let (first, second) = (DevelopmentKey::generate("first")?, DevelopmentKey::generate("second")?);
    let keys = Arc::new(Mutex::new(json!({"keys": [first.public_jwk()?]})));
    let fetches = Arc::new(Mutex::new(0));
    let (served, counted) = (Arc::clone(&keys), Arc::clone(&fetches));
    let route = warp::any().map(move || {
        *counted.lock().expect("a lock") += 1;
        warp::reply::json(&*served.lock().expect("a lock"))
    });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let jwks_url = format!("http://{address}/");
    let server = tokio::spawn(warp::serve(route).incoming(listener).run());
    let (issuer, client_id) = ("https://issuer.example".to_owned(), "client".to_owned());
    let verifier =
        identity::Verifier::new(identity::Settings { issuer: issuer.clone(), client_id: client_id.clone(), jwks_url });
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let token =
        |key: &DevelopmentKey, name: &str| key.mint(&issuer, &client_id, &DevelopmentUser::named(name), now, 600);

    assert!(!verifier.is_ready());
    tokio::spawn(verifier.clone().refresh_keys());
    assert!(verifier.verify(&token(&first, "anna")?).await.is_ok(), "it waits for the first fetch");
    // The issuer was asked for the first, and could not be asked for the others.
    assert_eq!(verifier.verify(&token(&second, "mallory")?).await, Err(TokenError::Invalid));
    for number in 0..50 {
        let unknown = token(&second, &format!("mallory-{number}"))?;
        assert_eq!(verifier.verify(&unknown).await, Err(TokenError::KeysUnavailable));
    }
    assert_eq!(*fetches.lock().expect("a lock"), 2, "unknown keys cause one fetch");
    *keys.lock().expect("a lock") = json!({"keys": [first.public_jwk()?, second.public_jwk()?]});
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    assert!(verifier.verify(&token(&second, "ben")?).await.is_ok(), "the rotated key is known");
    server.abort();
    drop(server.await);
    assert!(verifier.verify(&token(&first, "cleo")?).await.is_ok(), "known keys stay valid while the issuer is down");
    // The issuer is back but hangs: the kernel accepts connections and no answer comes. Tokens with known keys do not
    // wait.
    let _hangs = tokio::net::TcpListener::bind(address).await?;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    let strange = token(&DevelopmentKey::generate("third")?, "mallory")?;
    let (fetching, known) = (verifier.verify(&strange), token(&second, "dora")?);
    let quickly = tokio::time::timeout(Duration::from_millis(500), verifier.verify(&known));
    tokio::select! {
        biased;
        refused = fetching => panic!("{refused:?} without a fetch"),
        verified = quickly => assert!(verified?.is_ok(), "a token with a known key is verified"),
    }
    assert!(verifier.is_ready());
    Ok(())
}
