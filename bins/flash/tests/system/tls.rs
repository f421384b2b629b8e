//! Everything over TLS: a bid, certificates that are refused, a renewed certificate, settings without TLS.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use flash::stack::{LISTENER, Name, connections};
use serde_json::json;
use testkit::scratch::{Scratch, programs};
use testkit::tls::{self, Authority, Flaw};
use testkit::{Servers, Signal, Topology, http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_tungstenite::MaybeTlsStream;

use crate::test_system::{TestSystem, program};

/// Time for a server or a listener to use another certificate.
const RENEWED_WITHIN: Duration = Duration::from_secs(15);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

async fn start(test: &str) -> Result<TestSystem> {
    TestSystem::start_with(test, |options| options.topology.tls = true).await
}

/// The certificate that a listener shows.
async fn shown(url: &str) -> Result<Vec<u8>> {
    let MaybeTlsStream::Rustls(stream) = tls::connect(url).await? else { bail!("{url} has no TLS") };
    let chain = stream.get_ref().1.peer_certificates().context("a certificate")?;
    Ok(chain.first().context("a certificate")?.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn bid_goes_over_wss_and_https_alone() -> Result<()> {
    let mut system = start("tls").await?;
    let edge = system.stack.url(Name::Websocket).to_owned();
    ensure!(edge.starts_with("https://"), "{edge}");
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    let mut watcher = system.socket("ben").await?;
    watcher.ask("join_auction", json!({"auction_id": id})).await?;
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.status, 200);
    assert_eq!(watcher.event("bid_update").await?["data"]["high_bid"], json!(5.0));
    let placed = watcher.ask("place_bid", json!({"auction_id": id, "amount": "7.00"})).await?;
    assert_eq!(placed["data"]["seq"], json!(4), "{placed}");
    system.history(&id, 2).await?;

    // The edge reaches the owner of a path and another edge over TLS as well.
    let shown = http::get(&format!("{edge}/api/auctions/{id}"), None).await?;
    assert_eq!((shown.status, &shown.json["bid_count"]), (200, &json!(2)), "{}", shown.text);
    let opened = http::get(&format!("{edge}/socket.io/?EIO=4&transport=polling"), None).await?;
    let open: serde_json::Value = serde_json::from_str(opened.text.strip_prefix('0').context("an open packet")?)?;
    let sid = open["sid"].as_str().context("a sid")?;
    system.stack.add_instance(Name::Websocket).await?;
    let other = system.stack.urls(Name::Websocket)[1];
    let connect = format!("40{}", json!({"token": system.token("anna")?}));
    let posted =
        http::post_raw(&format!("{other}/socket.io/?EIO=4&transport=polling&sid={sid}"), None, connect).await?;
    assert_eq!(posted.text, "ok", "{}", posted.status);

    // Nothing answers without TLS: no listener, and none of the servers.
    for name in Name::ALL {
        let mut plain = tokio::net::TcpStream::connect(tls::authority_of(system.stack.url(name))).await?;
        plain.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let mut reply = Vec::new();
        drop(plain.read_to_end(&mut reply).await);
        ensure!(!String::from_utf8_lossy(&reply).contains("HTTP/"), "{} answers without TLS", name.text());
    }
    let servers = &system.stack.servers;
    let nats = bus::Settings { url: servers.nats_url().replace("tls://", "nats://"), ..bus::Settings::default() };
    ensure!(bus::Bus::connect(&nats, "test").await.is_err(), "NATS lets a client in that shows no certificate");
    let database = servers.postgres_url().replace("sslmode=verify-full", "sslmode=disable");
    ensure!(store::Store::connect(&database).await.is_err(), "PostgreSQL lets a client in without TLS");
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificate_is_shown_without_a_restart() -> Result<()> {
    let system = start("renewal").await?;
    let edge = system.stack.url(Name::Websocket).to_owned();
    let mut old = system.socket("anna").await?;
    let first = shown(&edge).await?;
    let authority = &system.stack.servers.tls.as_ref().context("certificates")?.authority;
    authority.issue(LISTENER, Flaw::None)?;
    for name in Name::ALL {
        let url = system.stack.url(name);
        let deadline = Instant::now() + RENEWED_WITHIN;
        while shown(url).await? == first {
            ensure!(Instant::now() < deadline, "{} shows the old certificate", name.text());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    // The old connection lives on, and new ones are made.
    assert_eq!(old.ask("ping", json!({})).await?["event"], "pong");
    system.socket("ben").await?;
    let metrics = http::get(&format!("{edge}/metrics"), None).await?.text;
    ensure!(metrics.contains("\nflash_tls_certificate_expiry_timestamp_seconds "), "{metrics}");
    system.end().await;
    Ok(())
}

/// Tries to connect to NATS, Redis and PostgreSQL with TLS, trusting this authority; returns the error of each.
async fn errors_of(servers: &Servers, ca_file: &Path, client: &bus::Tls) -> [String; 3] {
    let ca_file = ca_file.display().to_string();
    let url = servers.nats_url();
    let tls = bus::Tls { ca_file: Some(ca_file.clone()), client: client.client.clone() };
    let nats = bus::Settings { url, tls, ..bus::Settings::default() };
    let urls = format!("rediss://:{}@127.0.0.1:{}", servers.secrets.redis, servers.redis[0].port);
    let redis = hotstate::Settings { urls, ca_file: Some(ca_file.clone()) };
    let database = format!(
        "postgres://flash:{}@127.0.0.1:{}/postgres?sslmode=verify-full&sslrootcert={ca_file}",
        servers.secrets.postgres, servers.postgres_port
    );
    let (nats, redis, postgres) = tokio::join!(
        bus::Bus::connect(&nats, "test"),
        hotstate::Hotstate::connect(&redis),
        store::Store::connect(&database)
    );
    let text = |error: Option<&(dyn std::error::Error + 'static)>| {
        error.map_or_else(|| "connected".to_owned(), |error| errors::chain(error).to_string())
    };
    let (nats, redis, postgres) = (nats.err(), redis.err(), postgres.err());
    [
        text(nats.as_ref().map(|error| error as _)),
        text(redis.as_ref().map(|error| error as _)),
        text(postgres.as_ref().map(|error| error as _)),
    ]
}

/// The beginning of each error: it names the server.
const NAMED: [&str; 3] = [
    "failed to connect to NATS with TLS: ",
    "failed to connect to Redis with TLS: ",
    "failed to connect to PostgreSQL: ",
];

/// Gives all three servers certificates with this flaw.
async fn show(servers: &mut Servers, flaw: Flaw, redis: &mut redis::aio::MultiplexedConnection) -> Result<()> {
    let tls = servers.tls.as_ref().context("certificates")?;
    tls.authority.issue("nats", flaw)?;
    servers.nats[0].process.signal(Signal::Hangup)?;
    let files = tls.authority.issue("redis", flaw)?;
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("tls-cert-file").arg(files.cert_file.display().to_string());
    set.arg("tls-key-file").arg(files.key_file.display().to_string());
    set.query_async::<()>(redis).await?;
    let files = tls.authority.issue("postgres", flaw)?;
    // Their owner and rights stay.
    std::fs::write(&tls.postgres.key_file, std::fs::read(files.key_file)?)?;
    std::fs::write(&tls.postgres.cert_file, std::fs::read(files.cert_file)?)?;
    servers.postgres.signal(Signal::Hangup)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_certificates_are_refused_with_their_reason() -> Result<()> {
    let scratch = Scratch::new("certificates")?;
    let topology = Topology { tls: true, ..Topology::default() };
    let mut servers = Servers::start(&programs()?, &scratch.path().join("tls"), topology).await?;
    let client = connections::tls(&servers);
    let ca_file = servers.tls.as_ref().context("certificates")?.authority.ca_file.clone();
    let mut redis = servers.redis[0].client()?.get_multiplexed_async_connection().await?;
    assert_eq!(errors_of(&servers, &ca_file, &client).await, ["connected"; 3]);

    let stranger = Authority::of(&scratch.path().join("stranger"))?;
    for error in errors_of(&servers, &stranger.ca_file, &client).await.iter().zip(NAMED) {
        // An authority of another name, or of the same name with another key.
        let is_named = ["UnknownIssuer", "BadSignature"].iter().any(|reason| error.0.contains(reason));
        ensure!(error.0.starts_with(error.1) && is_named, "{error:?}");
    }
    // NATS asks its clients for a certificate as well.
    let [unknown, _, _] = errors_of(&servers, &ca_file, &bus::Tls::default()).await;
    ensure!(unknown.starts_with(NAMED[0]), "{unknown}");

    for (flaw, reason) in [(Flaw::Expired, "expired"), (Flaw::OtherName, "not valid for name")] {
        show(&mut servers, flaw, &mut redis).await?;
        let deadline = Instant::now() + RENEWED_WITHIN;
        loop {
            let found = errors_of(&servers, &ca_file, &client).await;
            let is_named = |(error, named): (&String, &str)| {
                error.starts_with(named) && error.to_ascii_lowercase().contains(reason)
            };
            if found.iter().zip(NAMED).all(is_named) {
                break;
            }
            // A server uses its new certificate a moment after the signal.
            ensure!(Instant::now() < deadline, "{flaw:?}: {found:#?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    tokio::task::spawn_blocking(move || servers.stop()).await?;
    scratch.remove();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn server_without_tls_is_refused() -> Result<()> {
    let scratch = Scratch::new("plaintext")?;
    let authority = Authority::of(&scratch.path().join("authority"))?;
    let topology = Topology { tls: false, ..Topology::default() };
    let servers = Servers::start(&programs()?, &scratch.path().join("plain"), topology).await?;
    let found = errors_of(&servers, &authority.ca_file, &bus::Tls::default()).await;
    for (error, named) in found.iter().zip(NAMED) {
        ensure!(error.starts_with(named), "{error}");
    }
    ensure!(found[2].contains("server does not support TLS"), "{}", found[2]);
    tokio::task::spawn_blocking(move || servers.stop()).await?;
    scratch.remove();
    Ok(())
}

/// Three nats-servers whose routes are encrypted, and a Redis Cluster whose bus is.
#[tokio::test(flavor = "multi_thread")]
async fn clusters_form_and_serve_over_tls() -> Result<()> {
    let scratch = Scratch::new("tls-clusters")?;
    let topology = Topology { nats_servers: 3, redis_masters: 3, tls: true, ..Topology::default() };
    let servers = Servers::start(&programs()?, scratch.path(), topology).await?;
    let bus = bus::Bus::connect(&connections::nats(&servers), "test").await?;
    let bucket = async_nats::jetstream::kv::Config { bucket: "tls".to_owned(), num_replicas: 3, ..Default::default() };
    bus.jetstream.create_key_value(bucket).await?.put("key", "value".into()).await?;
    let hotstate = hotstate::Hotstate::connect(&connections::redis(&servers)).await?;
    hotstate.time().await?;
    tokio::task::spawn_blocking(move || servers.stop()).await?;
    scratch.remove();
    Ok(())
}

/// Settings that lead to another machine without TLS end the program before it reaches anything.
#[test]
fn plaintext_to_another_machine_ends_the_program() -> Result<()> {
    let timer = |settings: &[(&str, &str)]| {
        Command::new(program()).args(["service", "timer"]).env_clear().envs(settings.iter().copied()).output()
    };
    let plain =
        [("NATS_URL", "nats://services:secret@192.0.2.5:4222"), ("REDIS_URL", "redis://:secret@192.0.2.4:6379")];
    let refused = timer(&plain)?;
    let text = String::from_utf8(refused.stderr)?;
    assert_eq!(refused.status.code(), Some(64), "{text}");
    for name in ["NATS_URL", "REDIS_URL"] {
        ensure!(text.contains(&format!("{name} leads to another machine without TLS")), "{text}");
    }
    ensure!(!text.contains("secret"), "{text}");
    let half = timer(&[("NATS_URL", "tls://192.0.2.5"), ("REDIS_URL", "rediss://192.0.2.4"), ("TLS_CERT_FILE", "x")])?;
    let text = String::from_utf8(half.stderr)?;
    ensure!(half.status.code() == Some(64) && text.contains("TLS_CERT_FILE and TLS_KEY_FILE must be set"), "{text}");
    Ok(())
}
