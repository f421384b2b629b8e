//! Limits of each login: with the logins of a running stack in hand, everything that is another's is tried on NATS, Redis
//! and PostgreSQL.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::{Client, Event};
use flash::stack::Name;
use protocol::rights::{LOGINS, Login, OPERATOR, inbox};
use serde_json::{Value, json};
use testkit::scratch::{Scratch, programs};
use testkit::{Process, Signal, eventually, free_port, http};
use tokio::sync::mpsc;

use crate::test_system::TestSystem;

/// Time for the server's refusals to arrive.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);
/// Refusals that wait to be looked at. More than any test here causes.
const MAX_EVENTS: usize = 4_096;

/// A connection of one NATS user, and what the server refused it.
struct Connection {
    client: Client,
    events: mpsc::Receiver<String>,
}

impl Connection {
    async fn of(system: &TestSystem, user: &str) -> Result<Self> {
        let (sender, events) = mpsc::channel(MAX_EVENTS);
        let servers = &system.stack.servers;
        let mut options = async_nats::ConnectOptions::new()
            .user_and_password(user.to_owned(), servers.secrets.nats[user].clone())
            .custom_inbox_prefix(inbox(user))
            .event_callback(move |event| {
                if let Event::ServerError(error) = &event {
                    // The test may have ended.
                    drop(sender.try_send(error.to_string()));
                }
                std::future::ready(())
            });
        if let Some(tls) = &servers.tls {
            options = options
                .add_root_certificates(tls.authority.ca_file.clone())
                .add_client_certificate(tls.client.cert_file.clone(), tls.client.key_file.clone());
        }
        let client = options.connect(format!("{}://127.0.0.1:{}", servers.nats_scheme(), servers.nats[0].port)).await?;
        Ok(Self { client, events })
    }

    /// The subjects among `expected` that the server has refused, once it has refused them all or had the time to.
    async fn refused(&mut self, expected: &BTreeSet<String>) -> Result<BTreeSet<String>> {
        self.client.flush().await?;
        let (mut refused, deadline) = (BTreeSet::new(), Instant::now() + REFUSED_WITHIN);
        while !refused.is_superset(expected) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(Some(error)) = tokio::time::timeout(left, self.events.recv()).await else { break };
            refused.extend(error.split('"').nth(1).map(str::to_owned));
        }
        Ok(refused)
    }

    /// Publishes a message on each subject; all must be refused.
    async fn must_not_publish(&mut self, user: &str, subjects: impl Iterator<Item = String>) -> Result<()> {
        let subjects: BTreeSet<String> = subjects.collect();
        for subject in &subjects {
            self.client.publish(subject.clone(), "{}".into()).await?;
        }
        let refused = self.refused(&subjects).await?;
        assert_eq!(refused, subjects, "{user} may publish what is missing on the left");
        Ok(())
    }
}

/// Every subject that a login publishes, and every call of JetStream that changes or takes something.
fn subjects(id: &str) -> Vec<String> {
    let mut subjects: Vec<String> = ["log", "events", "talk", "timer", "chat", "presence", "checkpoint"]
        .map(|kind| format!("auction.{id}.{kind}"))
        .into();
    let requests = [
        "bids.place",
        "auctions.create",
        "auctions.open",
        "auctions.close",
        "auctions.cancel",
        "auctions.state",
        "auctions.recall",
        "bids.own",
        "users.seen",
        "dlq.bid-persistence",
        "dlq.auction-results",
        "$KV.leases.timer",
        "$JS.ACK.AUCTION_LOG.bid-persistence.1.1.1.1.1",
        "$JS.ACK.AUCTION_LOG.auction-results.1.1.1.1.1",
    ];
    subjects.extend(requests.map(str::to_owned));
    for stream in ["AUCTION_LOG", "AUCTION_CHAT", "AUCTION_CHECKPOINTS", "AUCTION_DLQ", "KV_leases", "EVIL"] {
        for call in ["CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE", "RESTORE", "LEADER.STEPDOWN"] {
            subjects.push(format!("$JS.API.STREAM.{call}.{stream}"));
        }
        subjects.push(format!("$JS.API.CONSUMER.CREATE.{stream}"));
    }
    subjects.push(format!("$JS.API.CONSUMER.CREATE.AUCTION_CHAT.evil.auction.{id}.chat"));
    for durable in ["bid-persistence", "auction-results"] {
        for call in ["MSG.NEXT", "DELETE", "CREATE", "DURABLE.CREATE", "RESET", "PAUSE", "UNPIN"] {
            subjects.push(format!("$JS.API.CONSUMER.{call}.AUCTION_LOG.{durable}"));
        }
        subjects.push(format!("$JS.API.CONSUMER.CREATE.AUCTION_LOG.{durable}.auction.*.log"));
    }
    subjects.extend(LOGINS.iter().map(|login| format!("{}.reply.1", inbox(login.name))));
    subjects
}

#[tokio::test(flavor = "multi_thread")]
async fn no_login_does_on_nats_what_is_anothers() -> Result<()> {
    let system = TestSystem::start("rights-nats").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.status, 200);
    let before = system.log(&id).await?;
    for login in &LOGINS {
        let mut connection = Connection::of(&system, login.name).await?;
        let forbidden = subjects(&id).into_iter().filter(|subject| !login.publishes_to(subject));
        connection.must_not_publish(login.name, forbidden).await?;

        let inboxes = LOGINS.iter().map(|login| format!("{}.>", inbox(login.name)));
        let all = ["auction.*.log", ">", "users.seen", "bids.place", "auction.*.chat", "$KV.>", "_INBOX.>"];
        let forbidden: BTreeSet<String> = all.map(str::to_owned).into_iter().chain(inboxes).collect();
        let forbidden: BTreeSet<String> =
            forbidden.into_iter().filter(|subject| !login.may_subscribe().contains(subject)).collect();
        let mut subscriptions = Vec::new();
        for subject in &forbidden {
            subscriptions.push(connection.client.subscribe(subject.clone()).await?);
        }
        assert_eq!(connection.refused(&forbidden).await?, forbidden, "{} may listen", login.name);
    }
    let mut operator = Connection::of(&system, OPERATOR).await?;
    operator
        .must_not_publish(OPERATOR, subjects(&id).into_iter().filter(|subject| !subject.contains(".evil.")))
        .await?;
    assert_eq!(system.log(&id).await?, before, "a record was published");
    assert_eq!(system.bid("ben", &id, &json!(6)).await?.status, 200);
    let state = http::get(&system.management(&format!("/auctions/{id}/state")), None).await?;
    assert_eq!((&state.json["status"], state.json["current_high_bid"].as_f64()), (&json!("live"), Some(6.0)));
    // The refusals of this test, and none of a service: these use other connections of the same users.
    system.end_with_refusals().await;
    Ok(())
}

/// A consumer delivers to any subject: a record that names the host must not cancel the auction when it arrives as a
/// request. The reply of what a consumer delivers is no inbox.
#[tokio::test(flavor = "multi_thread")]
async fn delivery_of_a_consumer_is_not_taken_for_a_request() -> Result<()> {
    let system = TestSystem::start("rights-deliver").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    let client = Connection::of(&system, OPERATOR).await?.client;
    let ask = async |call: String, body: Value| -> Result<Value> {
        Ok(serde_json::from_slice(&client.request(call, body.to_string().into()).await?.payload)?)
    };
    let filter = format!("auction.{id}.log");
    // The queue group of the instances that serve the request.
    let group = "bid-processing";
    let config = json!({"name": "evil", "filter_subject": filter, "deliver_subject": "auctions.cancel", "deliver_group": group, "ack_policy": "none"});
    let body = json!({"stream_name": "AUCTION_LOG", "config": config});
    let created = ask(format!("$JS.API.CONSUMER.CREATE.AUCTION_LOG.evil.{filter}"), body).await?;
    ensure!(created["error"].is_null(), "{created}");
    eventually("a record is delivered", async || {
        let info = ask("$JS.API.CONSUMER.INFO.AUCTION_LOG.evil".to_owned(), json!({})).await?;
        Ok((info["delivered"]["consumer_seq"].as_u64() > Some(0)).then_some(()))
    })
    .await?;
    // Decided after the delivery, by the only instance.
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.status, 200);
    let kinds: Vec<Value> = system.log(&id).await?.iter().map(|record| record["type"].clone()).collect();
    ensure!(!kinds.contains(&json!("cancelled")), "{kinds:?}");
    system.end().await;
    Ok(())
}

async fn redis_says(
    server: &testkit::Redis,
    url: &str,
    command: &[&str],
) -> Result<std::result::Result<redis::Value, redis::RedisError>> {
    let mut connection = server.client_with(url)?.get_multiplexed_async_connection().await?;
    let mut asked = redis::cmd(command[0]);
    for argument in &command[1..] {
        asked.arg(*argument);
    }
    Ok(asked.query_async(&mut connection).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_login_does_on_redis_what_is_anothers() -> Result<()> {
    let system = TestSystem::start("rights-redis").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.status, 200);
    let key = |name: &str| format!("auction:{{{id}}}:{name}");
    let (state, chat, mute) = (key("state"), key("chat"), key("mute:anna"));
    let script = "return redis.call('HSET', KEYS[1], 'status', 'closed')";
    let undeclared = format!("return redis.call('HSET', '{state}', 'status', 'closed')");
    let attempts: [(&[&str], &[&str]); 17] = [
        (&["FLUSHALL"], &[]),
        (&["CONFIG", "GET", "dir"], &[]),
        (&["KEYS", "*"], &[]),
        (&["SCAN", "0"], &[]),
        (&["ACL", "LIST"], &[]),
        (&["REPLICAOF", "127.0.0.1", "1"], &[]),
        (&["SHUTDOWN", "NOSAVE"], &[]),
        (&["CLIENT", "KILL", "TYPE", "normal"], &[]),
        (&["SCRIPT", "FLUSH"], &[]),
        (&["SET", "other", "1"], &[]),
        (&["HGETALL", &state], &["bid-processing", "log-archive"]),
        (&["HGET", &state, "current_high_bid"], &["bid-processing", "log-archive"]),
        (&["EXPIRE", &state, "86400"], &["bid-processing"]),
        (&["EVAL", script, "1", &state], &["bid-processing"]),
        (&["EVAL", &undeclared, "0"], &["bid-processing"]),
        (&["HSET", &chat, "slow_mode_seconds", "9"], &["auction-management"]),
        (&["SET", &mute, "1"], &["websocket"]),
    ];
    let redis = &system.stack.servers.redis[0];
    for login in LOGINS.iter().filter(|login| login.redis.is_some()) {
        let url = system.stack.servers.redis_url_of(login.name).context("a login")?;
        ensure!(redis_says(redis, &url, &["TIME"]).await?.is_ok(), "{} cannot log in", login.name);
        for (command, allowed) in &attempts {
            if !allowed.contains(&login.name) {
                let error =
                    redis_says(redis, &url, command).await?.err().map(|error| error.to_string()).unwrap_or_default();
                let refused = ["NOPERM", "NoPerm", "permission", "can't run this command"];
                ensure!(refused.iter().any(|sign| error.contains(sign)), "{} {command:?}: {error}", login.name);
            }
        }
    }
    let wrong = system.stack.servers.redis_url().replace(&system.stack.servers.secrets.redis, "flash");
    ensure!(redis_says(redis, &wrong, &["TIME"]).await.is_err(), "logged in with a wrong password");
    assert_eq!(system.bid("ben", &id, &json!(6)).await?.status, 200);
    system.end_with_refusals().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_login_does_on_postgres_what_is_anothers() -> Result<()> {
    let system = TestSystem::start("rights-postgres").await?;
    let psql = programs()?.postgres.join("psql");
    let says = |url: &str, statement: &str| -> Result<(bool, String)> {
        let output = Command::new(&psql).args(["-X", "-q", "-d", url, "-c", statement]).output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let tables = [
        "users",
        "person_limits",
        "auctions",
        "auction_keys",
        "notification_outbox",
        "late_recipients",
        "mails",
        "_sqlx_migrations",
    ];
    let with_tables = |login: &&Login| !login.tables.is_empty();
    for login in LOGINS.iter().filter(with_tables) {
        let url = system.stack.servers.postgres_url_of(login.name).context("a login")?;
        for table in tables {
            let privileges = login.tables.iter().find(|(name, _)| *name == table).map_or(&[][..], |(_, verbs)| *verbs);
            for (verb, statement) in [
                ("SELECT", format!("SELECT FROM {table} LIMIT 1")),
                ("DELETE", format!("DELETE FROM {table} WHERE false")),
                ("TRUNCATE", format!("TRUNCATE {table}")),
                ("DROP", format!("DROP TABLE {table}")),
                ("ALTER", format!("ALTER TABLE {table} ADD COLUMN evil TEXT")),
            ] {
                let (worked, error) = says(&url, &statement)?;
                assert_eq!(worked, privileges.contains(&verb), "{}: {statement}: {error}", login.name);
                ensure!(worked || error.contains("permission denied") || error.contains("must be owner"), "{error}");
            }
        }
        for statement in [
            "CREATE TABLE evil (id INTEGER)",
            "CREATE ROLE evil",
            "SET ROLE flash",
            "COPY users TO PROGRAM 'true'",
            "SELECT pg_read_file('/etc/passwd')",
        ] {
            ensure!(!says(&url, statement)?.0, "{}: {statement}", login.name);
        }
    }
    let others = LOGINS.iter().filter(|login| login.tables.is_empty());
    for login in others {
        ensure!(system.stack.servers.postgres_url_of(login.name).is_none(), "{} has a login", login.name);
    }
    system.end().await;
    Ok(())
}

/// A service with another's login is not ready, and says what it was refused.
#[tokio::test(flavor = "multi_thread")]
async fn service_without_a_right_names_it() -> Result<()> {
    let mut system = TestSystem::start("rights-missing").await?;
    let url = system.stack.servers.nats_url_of("auction-notifications");
    let timer = system.stack.add_unready_instance_with(Name::Timer, &[("NATS_URL".to_owned(), url)])?;
    let ready = system.wait_at(&format!("{timer}/ready"), |ready| ready["refused"][0].is_string()).await?;
    let refused = ready["refused"].as_array().context("a list")?;
    ensure!(refused.iter().any(|refused| refused.as_str().is_some_and(|text| text.contains("timer"))), "{ready}");
    assert_eq!(ready["status"], "not_ready");
    let metrics = http::get(&format!("{timer}/metrics"), None).await?.text;
    let line = metrics.lines().find(|line| line.starts_with("flash_nats_refusals_total ")).context("a metric")?;
    ensure!(!line.ends_with(" 0"), "{line}");
    // The stack's own timer has its rights.
    let url = format!("{}/ready", system.stack.url(Name::Timer));
    assert_eq!(http::get(&url, None).await?.status, 200);
    system.end_with_refusals().await;
    Ok(())
}

/// A server that trusts JWTs, and a service with a credentials file: it logs in, its inbox is its own, and it notices
/// what it may not publish. The keys were made for this test.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_file_logs_in() -> Result<()> {
    let scratch = Scratch::new("rights-credentials")?;
    let (configuration, file) = (scratch.path().join("server.conf"), scratch.path().join("timer.creds"));
    std::fs::write(&configuration, include_str!("credentials/server.conf"))?;
    std::fs::write(&file, include_str!("credentials/timer.creds"))?;
    let port = free_port()?;
    let mut command = Command::new(&programs()?.nats_server);
    command.arg("-c").arg(&configuration).env("NATS_PORT", port.to_string());
    let log = scratch.path().join("nats.log");
    let mut server = Process::start("nats-server", &command, None, Signal::Terminate, &log)?;
    let credentials_file = Some(file.to_string_lossy().into_owned());
    let settings =
        bus::Settings { url: format!("nats://127.0.0.1:{port}"), credentials_file, ..bus::Settings::default() };
    let bus = eventually("the server lets the user in", async || {
        server.check()?;
        Ok(bus::Bus::connect(&settings, Name::Timer.text()).await.ok())
    })
    .await?;
    ensure!(bus.client.new_inbox().starts_with("_INBOX_timer."), "{}", bus.client.new_inbox());
    bus.client.publish("auction.1.timer", "{}".into()).await?;
    bus.client.publish("auction.1.log", "{}".into()).await?;
    // A request, so that its inbox is subscribed to.
    let asked = bus.client.request("auctions.open", "{}".into()).await;
    ensure!(asked.is_err(), "no instance answers");
    eventually("a refusal is noted", async || Ok((!bus.refused().is_empty()).then_some(()))).await?;
    assert_eq!(bus.refused(), ["Publish to \"auction.1.log\""]);
    server.kill();
    scratch.remove();
    Ok(())
}
