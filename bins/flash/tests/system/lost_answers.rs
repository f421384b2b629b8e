//! Calls to AWS whose answer is late, lost or a failure, and that must not be repeated blindly: mails, new channels.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::http;
use warp::Filter;

use crate::test_system::TestSystem;

const ARN: &str = "arn:aws:ivs:us-east-1:123456789012:channel/abcd";

/// IVS with a memory. Its first CreateChannel makes the channel and answers after the client has given up.
#[derive(Clone, Default)]
struct SlowIvs {
    /// ARN and name of each channel.
    channels: Arc<Mutex<Vec<(String, String)>>>,
    created: Arc<Mutex<usize>>,
}

impl SlowIvs {
    /// Longer than the time limit of one call.
    const SLOW: Duration = Duration::from_secs(7);

    async fn start(&self) -> Result<String> {
        let stub = self.clone();
        let route =
            warp::post().and(warp::path::param()).and(warp::body::json()).then(move |call: String, body: Value| {
                let stub = stub.clone();
                async move {
                    let reply = stub.answer(&call, &body);
                    if call == "CreateChannel" && *stub.created.lock().expect("a lock") == 1 {
                        tokio::time::sleep(Self::SLOW).await;
                    }
                    warp::reply::json(&reply)
                }
            });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        tokio::spawn(warp::serve(route).incoming(listener).run());
        Ok(endpoint)
    }

    fn answer(&self, call: &str, body: &Value) -> Value {
        let mut channels = self.channels.lock().expect("a lock");
        let channel = |arn: &str| json!({"arn": arn, "playbackUrl": "https://play", "ingestEndpoint": "ingest"});
        match call {
            "CreateChannel" => {
                let mut created = self.created.lock().expect("a lock");
                *created += 1;
                let arn = format!("{ARN}{created}");
                channels.push((arn.clone(), body["name"].as_str().unwrap_or_default().to_owned()));
                json!({"channel": channel(&arn), "streamKey": {"value": "sk_new"}})
            }
            "ListChannels" => {
                let named = channels.iter().filter(|(_, name)| body["filterByName"] == *name);
                json!({"channels": named.map(|(arn, name)| json!({"arn": arn, "name": name})).collect::<Vec<_>>()})
            }
            "GetChannel" => json!({"channel": channel(body["arn"].as_str().unwrap_or_default())}),
            "ListStreamKeys" => json!({"streamKeys": [{"arn": "arn:aws:ivs:us-east-1:123456789012:stream-key/k"}]}),
            "GetStreamKey" => json!({"streamKey": {"value": "sk_adopted"}}),
            "DeleteChannel" => {
                channels.retain(|(arn, _)| body["arn"] != *arn);
                json!({})
            }
            _ => json!({}),
        }
    }
}

/// A channel whose answer was lost is adopted by the repeated request and removed after the end: never a second one.
#[tokio::test(flavor = "multi_thread")]
async fn slow_create_channel_leaves_one_channel() -> Result<()> {
    let settings = vec![("VIDEO_LINGER_SECONDS".to_owned(), "0".to_owned())];
    let mut system = TestSystem::with("slow-channel", settings, true).await?;
    let stub = SlowIvs::default();
    let endpoint = ("AWS_ENDPOINT_URL", stub.start().await?);
    let linger = ("VIDEO_LINGER_SECONDS", "0".to_owned());
    system.stack.add_instance_with(Name::AuctionManagement, &[endpoint, linger]).await?;
    system.stack.kill_instance(Name::AuctionManagement, 0).await?;
    let host = system.token("host")?;
    let create = async || {
        let request =
            http::request("POST", &system.management("/auctions"), Some(&host)).header("idempotency-key", "1");
        let lot = json!({"title": "Lamp", "duration": 600, "starting_bid": 1});
        http::send(request.body(lot.to_string().into())?).await
    };
    let lost = create().await?;
    assert_eq!((lost.status, &lost.json["code"]), (503, &json!("unavailable")), "{}", lost.text);
    let channels = || stub.channels.lock().expect("a lock").clone();
    assert_eq!(channels().len(), 1, "the call took effect and was not repeated");

    let created = create().await?;
    assert_eq!((created.status, &created.json["ivs_stream_key"]), (201, &json!("sk_adopted")), "{}", created.text);
    let id = created.json["auction_id"].as_str().context("an id")?;
    let arn = created.json["ivs_channel_arn"].as_str().context("an ARN")?;
    assert_eq!(channels(), [(arn.to_owned(), id.to_owned())]);

    // A call that took effect later still: what it left is removed with the auction's own channel.
    stub.channels.lock().expect("a lock").push((format!("{ARN}-late"), id.to_owned()));
    let closed = http::post(&system.management(&format!("/auctions/{id}/close")), Some(&host), &json!({})).await?;
    assert_eq!(closed.status, 200, "{}", closed.text);
    system.wait_for(&format!("/auctions/{id}"), |auction| auction["ivs_channel_arn"].is_null()).await?;
    assert_eq!((channels(), *stub.created.lock().expect("a lock")), (Vec::new(), 1));
    system.end().await;
    Ok(())
}

/// Each mail is sent to SES once. Only a 4xx says that it was not sent.
#[tokio::test]
async fn mail_is_sent_once_and_only_a_4xx_rejects_it() -> Result<()> {
    const REJECTED: &str = "<ErrorResponse><Error><Type>Sender</Type><Code>MessageRejected</Code><Message>no</Message>\
        </Error></ErrorResponse>";
    for (status, is_rejected) in [(400, true), (429, true), (500, false), (503, false)] {
        let calls = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&calls);
        let route = warp::any().map(move || {
            *counted.lock().expect("a lock") += 1;
            ::http::Response::builder()
                .status(status)
                .header("content-type", "text/xml")
                .body(REJECTED)
                .expect("a reply")
        });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = Some(format!("http://{}", listener.local_addr()?));
        tokio::spawn(warp::serve(route).incoming(listener).run());
        let credentials = Some(("a".to_owned(), "b".to_owned()));
        let settings = cloud::Settings { region: "us-east-1".to_owned(), endpoint, credentials };
        let mail = cloud::Mail::new(&cloud::configuration(&settings).await, "auctions@example.com");
        let sent = mail.send("anna@example.com", "You won", "Lamp").await;
        let as_expected = match &sent {
            Err(cloud::MailError::Rejected(_)) => is_rejected,
            Err(cloud::MailError::Unknown(_)) => !is_rejected,
            _ => false,
        };
        assert!(as_expected, "{status}: {sent:?}");
        assert_eq!(*calls.lock().expect("a lock"), 1, "{status}");
    }
    Ok(())
}
