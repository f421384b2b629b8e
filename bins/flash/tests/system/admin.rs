//! The operator's tool on a running system: streams changed by hand, dead letters, a log that is lost and restored.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use protocol::rights;
use protocol::subject::{LEASES_BUCKET, LOG_STREAM, PERSISTENCE_CONSUMER, RESULTS_CONSUMER};
use serde_json::{Value, json};
use testkit::eventually;
use testkit::http::{self, aws_json};

use crate::test_system::{TestSystem, program};

impl TestSystem {
    /// Runs an operator's command with the settings of this system.
    pub async fn admin(&self, arguments: &[&str]) -> Result<Output> {
        let servers = &self.stack.servers;
        let (key, secret) = servers.aws_credentials();
        let user = match arguments.first() {
            Some(&"migrate") => "migrate",
            Some(&"log") => "log-archive",
            _ => rights::ADMIN,
        };
        let mut command = Command::new(program());
        command
            .args(arguments)
            .envs(servers.tls_settings())
            .env("NATS_URL", servers.nats_url_of(user))
            .env("REDIS_URL", servers.redis_url())
            .env("DATABASE_URL", servers.postgres_url())
            .env("AWS_REGION", servers.aws_region())
            .env("AWS_ENDPOINT_URL", servers.aws_endpoint())
            .env("AWS_ACCESS_KEY_ID", key)
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .env("SQS_NOTIFICATION_QUEUE_URL", &self.stack.prepared.notification_queue_url);
        // The services run in this process: it must not block.
        Ok(tokio::task::spawn_blocking(move || command.output()).await??)
    }

    /// The same, for a command that must succeed. Returns what it has printed.
    pub async fn admin_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.admin(arguments).await?;
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Waits until a dependency in `/ready` of a service has this state. Returns the whole answer.
    async fn dependency(&self, name: Name, dependency: &str, state: &str) -> Result<Value> {
        let url = format!("{}/ready", self.stack.url(name));
        self.wait_at(&url, |ready| ready["dependencies"][dependency] == state).await
    }
}

/// The configuration of a stream as the server has it.
async fn config(jetstream: &async_nats::jetstream::Context, stream: &str) -> Result<Value> {
    let info: Value = jetstream.request(format!("STREAM.INFO.{stream}"), &json!({})).await?;
    Ok(info["config"].clone())
}

async fn change(jetstream: &async_nats::jetstream::Context, stream: &str, field: &str, value: &Value) -> Result<()> {
    let mut changed = config(jetstream, stream).await?;
    changed[field] = value.clone();
    let reply: Value = jetstream.request(format!("STREAM.UPDATE.{stream}"), &changed).await?;
    ensure!(reply["error"].is_null(), "{stream} {field}: {reply}");
    Ok(())
}

/// The lines of `streams diff --json`, and the exit code.
async fn diff(system: &TestSystem) -> Result<(Vec<Value>, Option<i32>)> {
    let output = system.admin(&["streams", "diff", "--json"]).await?;
    let lines = String::from_utf8(output.stdout)?;
    let lines = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>();
    Ok((lines.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?, output.status.code()))
}

/// Every field that was changed by hand is shown. A safer or larger stream stays as it is, also after `migrate`;
/// everything else is repaired.
#[tokio::test(flavor = "multi_thread")]
async fn streams_changed_by_hand_are_shown_and_nothing_is_lost() -> Result<()> {
    let system = TestSystem::start("streams").await?;
    let jetstream = system.bus().await?.jetstream;
    assert_eq!(diff(&system).await?, (Vec::new(), Some(0)), "a new system has no differences");

    // Stream, field, value by hand, whether it stays.
    let by_hand = [
        (LOG_STREAM, "max_bytes", json!(8_589_934_592_u64), true),
        (LOG_STREAM, "description", json!("changed"), false),
        (LOG_STREAM, "max_msg_size", json!(524_288), false),
        (LOG_STREAM, "duplicate_window", json!(60_000_000_000_u64), false),
        (LOG_STREAM, "deny_purge", json!(true), true),
        ("AUCTION_CHAT", "max_msgs_per_subject", json!(900), true),
        ("AUCTION_CHAT", "max_age", json!(3_600_000_000_000_u64), false),
        ("AUCTION_CHAT", "discard", json!("new"), true),
        ("AUCTION_CHAT", "subjects", json!(["auction.*.chat", "auction.*.other"]), true),
        ("AUCTION_DLQ", "max_bytes", json!(1_048_576), false),
        ("AUCTION_DLQ", "allow_direct", json!(true), false),
        ("KV_leases", "max_bytes", json!(2_097_152), true),
    ];
    for (stream, field, value, _) in &by_hand {
        change(&jetstream, stream, field, value).await?;
    }
    let (shown, code) = diff(&system).await?;
    assert_eq!(code, Some(2));
    for (stream, field, value, stays) in &by_hand {
        let what = stream.strip_prefix("KV_").map_or(format!("stream {stream}"), |bucket| format!("bucket {bucket}"));
        let line = shown.iter().find(|line| line["what"] == what.as_str() && line["field"] == *field);
        let line = line.with_context(|| format!("{stream} {field} is not shown: {shown:?}"))?;
        assert_eq!((&line["actual"], &line["kept"]), (value, &json!(stays)), "{line}");
    }
    assert_eq!(shown.len(), by_hand.len(), "{shown:?}");

    for repair in [&["streams", "apply"][..], &["migrate"]] {
        let printed = system.admin_ok(repair).await?;
        ensure!(printed.contains("max_bytes is 8589934592, declared is 4294967296 (kept"), "{printed}");
        for (stream, field, value, stays) in &by_hand {
            let now = config(&jetstream, stream).await?[*field].clone();
            assert_eq!(&now == value, *stays, "{stream} {field} is {now} after {repair:?}");
        }
    }
    assert_eq!(diff(&system).await?.1, Some(0), "nothing is left to change");

    // With permission the log gets its size back; the other streams keep theirs.
    let refused = system.admin(&["streams", "apply", "--allow-shrink", "AUCTION_OTHER"]).await?;
    ensure!(!refused.status.success(), "{refused:?}");
    change(&jetstream, "AUCTION_CHAT", "discard", &json!("old")).await?;
    let permitted = system.admin(&["streams", "apply", "--allow-shrink", "AUCTION_CHAT"]).await?;
    ensure!(permitted.status.success(), "{permitted:?}");
    assert_eq!(config(&jetstream, "AUCTION_CHAT").await?["max_msgs_per_subject"], json!(500));
    assert_eq!(config(&jetstream, LOG_STREAM).await?["max_bytes"], json!(8_589_934_592_u64));
    system.end().await;
    Ok(())
}

/// A consumer that was deleted is named in `/ready`; `apply` makes it again and the history goes on. A bucket that was
/// deleted is made again by the timer itself, and by `apply`.
#[tokio::test(flavor = "multi_thread")]
async fn deleted_consumer_and_bucket_are_named_and_made_again() -> Result<()> {
    let system = TestSystem::start("deleted").await?;
    let id = system.auction(&json!({"title": "Drum", "duration": 600, "starting_bid": 1})).await?;
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.status, 200);
    system.history(&id, 1).await?;
    let jetstream = system.bus().await?.jetstream;
    for consumer in [PERSISTENCE_CONSUMER, RESULTS_CONSUMER] {
        jetstream.delete_consumer_from_stream(consumer, LOG_STREAM).await?;
    }
    let ready = system.dependency(Name::BidPersistence, "consumer", "down").await?;
    assert_eq!((&ready["status"], &ready["dependencies"]["log"]), (&json!("not_ready"), &json!("up")));
    // Results are written later; auctions go on, so it stays ready.
    assert_eq!(system.dependency(Name::AuctionManagement, "consumer", "down").await?["status"], "ready");
    let (shown, code) = diff(&system).await?;
    let missing: Vec<_> = shown.iter().filter(|line| line["missing"] == true).map(|line| &line["what"]).collect();
    assert_eq!(
        (missing, code),
        (vec![&json!("consumer bid-persistence"), &json!("consumer auction-results")], Some(2))
    );

    assert_eq!(system.bid("ben", &id, &json!(9)).await?.status, 200);
    system.admin_ok(&["streams", "apply"]).await?;
    system.dependency(Name::BidPersistence, "consumer", "up").await?;
    assert_eq!(system.history(&id, 2).await?.len(), 2);

    // No timer that could make the bucket again by itself.
    let mut system = system;
    system.stack.kill_instance(Name::Timer, 0).await?;
    jetstream.delete_key_value(LEASES_BUCKET).await?;
    assert_eq!(diff(&system).await?.0, [json!({"what": "bucket leases", "missing": true, "kept": false})]);
    system.admin_ok(&["streams", "apply"]).await?;
    assert_eq!(diff(&system).await?, (Vec::new(), Some(0)));
    system.stack.add_instance(Name::Timer).await?;
    system.dependency(Name::Timer, "ticker", "up").await?;
    system.end().await;
    Ok(())
}

/// Waits until there are at least so many letters; returns the lines of the list.
async fn letters(system: &TestSystem, count: usize) -> Result<Vec<Value>> {
    eventually(&format!("{count} letters are stored"), async || {
        let printed = system.admin_ok(&["dlq", "list", "nats", "--json"]).await?;
        let letters: Vec<Value> = printed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok((letters.len() >= count).then_some(letters))
    })
    .await
}

/// A record that the history could not take is parked with its body, put back by its sequence, and gone from the
/// letters. A letter that was deleted is stored again at once.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_the_log_are_put_back() -> Result<()> {
    let system = TestSystem::start("letters").await?;
    let id = system.auction(&json!({"title": "Flute", "duration": 600, "starting_bid": 1})).await?;
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.status, 200);
    system.history(&id, 1).await?;
    let bus = system.bus().await?;
    let log = bus::Log::open(&bus).await?;
    let bid = log.last(id.parse()?).await?.context("a record")?;

    // Letters as the consumers write them, of a record that can be handled by now. The item is gone from the table.
    let servers = &system.stack.servers;
    let seq = bid.record.seq.to_string();
    let key = json!({"auction_id": {"S": id}, "seq": {"N": seq}});
    let table = system.stack.prepared.bids_table;
    let item = json!({"TableName": table, "Key": key});
    aws_json(&servers.aws_endpoint(), "dynamodb", "DynamoDB_20120810.DeleteItem", &item).await?;
    for consumer in [PERSISTENCE_CONSUMER, RESULTS_CONSUMER] {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Dead-Letter-Reason", "it was not possible");
        headers.insert("Dead-Letter-Sequence", bid.stream_seq.to_string().as_str());
        headers.insert("Auction-Record", "bids");
        // Without a body, as from a consumer of headers only in an earlier version.
        let subject = protocol::subject::dead_letter(consumer);
        bus.jetstream.publish_with_headers(subject, headers, "".into()).await?.await?;
    }
    let listed = letters(&system, 2).await?;
    let first = &listed[0];
    assert_eq!((&first["consumer"], &first["stream_seq"]), (&json!(PERSISTENCE_CONSUMER), &json!(bid.stream_seq)));
    assert_eq!(first["reason"], "it was not possible");
    let number = first["letter"].to_string();
    let shown: Value = serde_json::from_str(&system.admin_ok(&["dlq", "show", "nats", &number]).await?)?;
    let body: Value = serde_json::from_str(shown["body"].as_str().context("a body")?)?;
    assert_eq!(body, serde_json::to_value(&bid.record)?, "the body comes from the log");

    let printed = system.admin_ok(&["dlq", "redrive", "nats", "--all", "--limit", "1"]).await?;
    ensure!(printed.contains("handled") && printed.contains("1 letters put back, 0 failed"), "{printed}");
    assert_eq!(system.history(&id, 1).await?.len(), 1, "the bid is in the history again");
    let again = system.admin(&["dlq", "redrive", "nats", &number]).await?;
    ensure!(!again.status.success(), "the letter was removed: {again:?}");
    system.admin_ok(&["dlq", "redrive", "nats", "--all"]).await?;
    assert_eq!(system.admin_ok(&["dlq", "list", "nats", "--json"]).await?, "");

    // A record that stays unreadable: its letter stays, and the command fails.
    let unreadable = protocol::subject::log(uuid::Uuid::new_v4().to_string().parse()?);
    let stored = bus.jetstream.publish(unreadable, "{}".into()).await?.await?.sequence;
    let parked = letters(&system, 2).await?;
    ensure!(parked.iter().all(|letter| letter["stream_seq"] == stored && letter["body"] == "{}"), "{parked:?}");
    let failed = system.admin(&["dlq", "redrive", "nats", "--all"]).await?;
    ensure!(!failed.status.success(), "{failed:?}");
    assert_eq!(letters(&system, 2).await?.len(), 2);

    // Deleted within the duplicate window, and parked again: it must be stored.
    let dead = bus::DeadLetters::open(&bus).await?;
    for letter in &parked {
        dead.remove(letter["letter"].as_u64().context("a number")?).await?;
    }
    for consumer in [PERSISTENCE_CONSUMER, RESULTS_CONSUMER] {
        bus::restart_consumer(&bus.jetstream, consumer).await.map_err(anyhow::Error::from_boxed)?;
    }
    let again = letters(&system, 2).await?;
    ensure!(again.iter().all(|letter| letter["stream_seq"] == stored), "{again:?}");
    system.end().await;
    Ok(())
}

/// A notification that failed five times is listed with its text, and put back into its queue by its id.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_the_queue_are_put_back() -> Result<()> {
    let mut system = TestSystem::start("queue-letters").await?;
    // No instance receives the message that is put back, so that it can be seen.
    system.stack.kill_instance(Name::AuctionNotifications, 0).await?;
    let endpoint = system.stack.servers.aws_endpoint();
    let call = async |name: &str, body: Value| aws_json(&endpoint, "sqs", &format!("AmazonSQS.{name}"), &body).await;
    let queue = system.stack.prepared.notification_queue_url.clone();
    let dead = format!("{queue}-dlq");
    for text in ["one", "two"] {
        call("SendMessage", json!({"QueueUrl": dead, "MessageBody": text})).await?;
    }
    for _ in 0..2 {
        // Looking hides nothing: the second look finds the same.
        let printed = system.admin_ok(&["dlq", "list", "sqs", "--json"]).await?;
        let bodies: Vec<Value> = printed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let mut texts: Vec<&str> = bodies.iter().filter_map(|letter| letter["body"].as_str()).collect();
        texts.sort_unstable();
        assert_eq!(texts, ["one", "two"]);
    }
    let printed = system.admin_ok(&["dlq", "list", "sqs", "--json"]).await?;
    let letters: Vec<Value> = printed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let one = letters.iter().find(|letter| letter["body"] == "one").context("a letter")?;
    let id = one["letter"].as_str().context("an id")?;
    let shown: Value = serde_json::from_str(&system.admin_ok(&["dlq", "show", "sqs", id]).await?)?;
    assert_eq!(shown["body"], "one");
    let printed = system.admin_ok(&["dlq", "redrive", "sqs", id]).await?;
    ensure!(printed.contains("1 letters put back"), "{printed}");
    // The last long poll of the killed instance may have received it.
    let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
    let counts = call("GetQueueAttributes", json!({"QueueUrl": queue, "AttributeNames": names})).await?;
    let count = |name: &str| counts["Attributes"][name].as_str().and_then(|count| count.parse::<u64>().ok());
    assert_eq!(names.iter().map(|name| count(name)).sum::<Option<u64>>(), Some(1), "{counts}");
    let left = system.admin_ok(&["dlq", "list", "sqs", "--json"]).await?;
    ensure!(left.contains("two") && !left.contains("one"), "{left}");
    system.admin_ok(&["dlq", "redrive", "sqs", "--all"]).await?;
    assert_eq!(system.admin_ok(&["dlq", "list", "sqs", "--json"]).await?, "");
    system.end().await;
    Ok(())
}

/// Kills NATS, removes all that it has stored, and starts it again, empty.
async fn wipe_nats(system: &mut TestSystem) -> Result<()> {
    system.stack.servers.nats[0].process.kill();
    std::fs::remove_dir_all(system.path().join("nats"))?;
    system.stack.servers.restart_nats().await
}

/// NATS loses everything. The services say so, the backup is restored, the auctions of the backup are cancelled with
/// the reason, and new ones take bids: no service is restarted.
#[tokio::test(flavor = "multi_thread")]
async fn restored_log_is_used_without_a_restart() -> Result<()> {
    let mut system = TestSystem::start("restore").await?;
    let lot = json!({"title": "Harp", "duration": 600, "starting_bid": 1});
    let (running, ended, idle) =
        (system.auction(&lot).await?, system.auction(&lot).await?, system.auction(&lot).await?);
    let paused = system.auction(&lot).await?;
    for (name, amount) in [("anna", 5), ("ben", 9)] {
        for id in [&running, &ended] {
            assert_eq!(system.bid(name, id, &json!(amount)).await?.status, 200);
        }
    }
    let directory = system.path().join("backup").to_string_lossy().into_owned();
    let printed = system.admin_ok(&["backup", &directory]).await?;
    ensure!(printed.contains("AUCTION_LOG: 12 messages"), "{printed}");
    let twice = system.admin(&["backup", &directory]).await?;
    ensure!(!twice.status.success(), "a backup is not overwritten: {twice:?}");

    // After the backup: bids that it lacks, and a result.
    // The outbox in Redis keeps the last one only, so that they cannot come back from there.
    for (name, amount) in [("carl", 20), ("dora", 30), ("carl", 40)] {
        for id in [&running, &ended] {
            assert_eq!(system.bid(name, id, &json!(amount)).await?.status, 200);
        }
    }
    // Its row then knows a later record than the restored log will have for its end.
    for act in ["pause", "resume"] {
        let act = system.management(&format!("/auctions/{paused}/{act}"));
        assert_eq!(http::post(&act, Some(&system.token("host")?), &json!({})).await?.status, 200);
    }
    let close = system.management(&format!("/auctions/{ended}/close"));
    assert_eq!(http::post(&close, Some(&system.token("host")?), &json!({})).await?.status, 200);
    let sold = system.closed_row(&ended).await?;
    let mut watcher = system.socket("watcher").await?;
    let joined = watcher.ask("join_auction", json!({"auction_id": running})).await?;
    assert_eq!(joined["data"]["current_high_bid"], 40.0, "{joined}");

    let refused = system.admin(&["restore", &directory]).await?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && text.contains("--overwrite AUCTION_LOG"), "{text}");

    wipe_nats(&mut system).await?;
    for name in [Name::BidProcessing, Name::Timer, Name::Websocket, Name::AuctionManagement, Name::BidPersistence] {
        let ready = system.dependency(name, "log", "down").await?;
        assert_eq!(ready["status"], "not_ready", "{name:?}: {ready}");
    }
    let bid = system.bid("emil", &running, &json!(50)).await?;
    assert_eq!(bid.status, 503, "{}", bid.text);

    let printed = system.admin_ok(&["restore", &directory]).await?;
    ensure!(printed.contains("4 auctions were not over, 0 failed"), "{printed}");
    for name in Name::ALL {
        system.wait_at(&format!("{}/ready", system.stack.url(name)), |ready| ready["status"] == "ready").await?;
    }
    assert_eq!(system.closed_row(&paused).await?.outcome, Some(domain::Outcome::Cancelled.into()));
    for (id, bids) in [(&running, 2), (&ended, 2), (&idle, 0), (&paused, 0)] {
        let records = system.log(id).await?;
        let last = records.last().context("a record")?;
        assert_eq!((&last["type"], &last["state"]["reason"]), (&json!("cancelled"), &json!("restored")), "{last}");
        assert_eq!(system.checked_bids(id).await?.len(), bids, "the log is that of the backup");
        let bid = system.bid("emil", id, &json!(60)).await?;
        assert_eq!(bid.json["code"], "auction_closed", "{}", bid.text);
    }
    // The result that was announced stays.
    assert_eq!(system.closed_row(&ended).await?.winner, sold.winner);
    assert_eq!(watcher.closed().await?, 1012, "its room is opened again");
    let mut again = system.socket("watcher").await?;
    let seq = joined["data"]["seq"].clone();
    let joined = again.ask("join_auction", json!({"auction_id": running, "last_seq": seq})).await?;
    assert_eq!(
        (&joined["data"]["status"], &joined["data"]["recovered"]),
        (&json!("cancelled"), &json!(false)),
        "{joined}"
    );

    // Bids, ticks, closings, history and results go on.
    let lot = json!({"title": "Lyre", "duration": 5, "starting_bid": 1, "anti_snipe": {"mode": "off"}});
    let new = system.auction(&lot).await?;
    again.ask("join_auction", json!({"auction_id": new})).await?;
    assert_eq!(system.bid("anna", &new, &json!(7)).await?.status, 200);
    for event in ["bid_update", "timer_update", "auction_ended"] {
        again.until(|frame| frame["event"] == event && frame["data"]["auction_id"] == new.as_str()).await?;
    }
    assert_eq!(system.history(&new, 1).await?.len(), 1);
    assert_eq!(system.closed_row(&new).await?.outcome, Some(domain::Outcome::Sold.into()));
    system.end().await;
    Ok(())
}

/// With `--keep-live` an auction goes on where the backup has it, and a bid that the backup lacks can be placed again
/// under its id. A restore that broke off is finished by `--finish`; until then no bid is accepted.
#[tokio::test(flavor = "multi_thread")]
async fn kept_auctions_go_on_from_the_backup() -> Result<()> {
    let mut system = TestSystem::start("keep-live").await?;
    let id = system.auction(&json!({"title": "Oboe", "duration": 600, "starting_bid": 1})).await?;
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.status, 200);
    let directory = system.path().join("backup").to_string_lossy().into_owned();
    system.admin_ok(&["backup", &directory]).await?;
    let lost = json!({"auction_id": id, "amount": 20, "bid_id": uuid::Uuid::new_v4().to_string()});
    assert_eq!(system.bid_at(0, &system.token("ben")?, &lost).await?.status, 200);
    wipe_nats(&mut system).await?;

    // The streams alone, as a restore leaves them that breaks off, after bid-processing has noticed that the log is gone.
    let bus = system.bus().await?;
    eventually("bid-processing notices that the log is missing", async || {
        let status = protocol::subject::status("bid-processing");
        let reply = bus::request(&bus, status, &json!({}), Duration::from_secs(2)).await;
        let status = reply.ok().and_then(|reply: protocol::Reply<Value>| reply.into_result().ok());
        Ok(status.filter(|status| status["log_is_reserved"] == true))
    })
    .await?;
    let archive = bus::ServerArchive::new(&bus);
    for stream in bus::stored_streams() {
        archive.restore(&stream, &std::path::Path::new(&directory).join(&stream), 1).await?;
    }
    let url = format!("{}/ready", system.stack.url(Name::BidProcessing));
    system.wait_at(&url, |ready| ready["status"] == "ready").await?;
    let held = system.bid("carl", &id, &json!(30)).await?;
    assert_eq!((held.status, &held.json["code"]), (503, &json!("overloaded")), "{}", held.text);
    // Nor does the host sell it to the last bidder of the backup, or pause it.
    for (path, body) in [(format!("/auctions/{id}/close"), json!({})), (format!("/auctions/{id}/pause"), json!({}))] {
        let refused = http::post(&system.management(&path), Some(&system.token("host")?), &body).await?;
        assert_eq!((refused.status, &refused.json["code"]), (503, &json!("unavailable")), "{path}: {}", refused.text);
    }

    let printed = system.admin_ok(&["restore", &directory, "--finish", "--keep-live"]).await?;
    ensure!(printed.contains("goes on"), "{printed}");
    // Repeated after its answer was lost, it cancels nothing.
    let again = system.admin_ok(&["restore", &directory, "--finish"]).await?;
    ensure!(again.contains("No restore is unfinished"), "{again}");
    let placed = system.bid_at(0, &system.token("ben")?, &lost).await?;
    assert_eq!((placed.status, placed.json["is_highest"].as_bool()), (200, Some(true)), "{}", placed.text);
    let bids = system.checked_bids(&id).await?;
    assert_eq!(bids.iter().map(|bid| bid.username.as_str()).collect::<Vec<_>>(), ["anna", "ben"]);
    system.end().await;
    Ok(())
}
