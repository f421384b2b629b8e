//! Ticks resume after the loss of the election's state.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::{kv, stream};
use flash::stack::Name;
use protocol::LEASE;
use protocol::subject::LEASES_BUCKET;
use serde_json::{Value, json};
use testkit::Signal;
use testkit::http;
use testkit::socket::Socket;

use crate::test_system::TestSystem;

/// Time from the loss of the election's state to a tick of a newly elected instance, at most.
const RESUMED_WITHIN: Duration = Duration::from_secs(5);

/// Joins an auction that runs for long, and waits for its first tick.
async fn joined(system: &TestSystem) -> Result<Socket> {
    let id = system.auction(&json!({"title": "Clock", "duration": 600, "starting_bid": 1})).await?;
    let mut socket = system.socket("watcher").await?;
    socket.ask("join_auction", json!({"auction_id": id})).await?;
    socket.event("timer_update").await?;
    Ok(socket)
}

/// The time by which ticks are stamped.
async fn server_time(system: &TestSystem) -> Result<u64> {
    let reply = http::get(&format!("{}/time", system.stack.url(Name::Timer)), None).await?;
    reply.json["server_time"].as_u64().context("a time")
}

/// Waits on the same socket for a tick that was sent after every lease won before `lost_at` has run out.
async fn ticks_resume(system: &TestSystem, socket: &mut Socket, lost_at: u64) -> Result<()> {
    let earlier_leases_end = lost_at + u64::try_from(LEASE.as_millis())?;
    let is_new = |frame: &Value| {
        frame["event"] == "timer_update"
            && frame["data"]["server_time"].as_u64().is_some_and(|time| time > earlier_leases_end)
    };
    tokio::time::timeout(RESUMED_WITHIN, socket.until(is_new)).await.context("no tick in time")??;

    let timer = system.stack.url(Name::Timer);
    let ready = http::get(&format!("{timer}/ready"), None).await?;
    ensure!(ready.status == 200 && ready.json["dependencies"]["ticker"] == "up", "{}", ready.text);
    let metrics = http::get(&format!("{timer}/metrics"), None).await?.text;
    ensure!(metrics.contains("flash_timer_elected 1\n"), "{metrics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ticks_resume_after_nats_restarts() -> Result<()> {
    let mut system = TestSystem::start("ticks-restart").await?;
    let mut socket = joined(&system).await?;
    let lost_at = server_time(&system).await?;
    system.stack.servers.restart_nats().await?;
    ticks_resume(&system, &mut socket, lost_at).await?;
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ticks_resume_after_the_leases_bucket_is_deleted() -> Result<()> {
    let system = TestSystem::start("ticks-bucket").await?;
    let mut socket = joined(&system).await?;
    system.bus().await?.jetstream.delete_key_value(LEASES_BUCKET).await?;
    let lost_at = server_time(&system).await?;
    ticks_resume(&system, &mut socket, lost_at).await?;
    system.end().await;
    Ok(())
}

/// The bucket of an earlier version, which a restart of nats-server loses.
#[tokio::test(flavor = "multi_thread")]
async fn declaring_replaces_a_leases_bucket_in_memory() -> Result<()> {
    // Separate processes: the timer is frozen, so that it does not create the bucket first.
    let system = TestSystem::with("ticks-memory", Vec::new(), true).await?;
    let mut socket = joined(&system).await?;
    let bus = system.bus().await?;
    let timer = system.stack.instances.iter().find(|instance| instance.name == Name::Timer).context("one")?;
    timer.signal(Signal::Stop)?;
    bus.jetstream.delete_key_value(LEASES_BUCKET).await?;
    let bucket = LEASES_BUCKET.to_owned();
    let memory = kv::Config { bucket, max_age: LEASE, storage: stream::StorageType::Memory, ..Default::default() };
    bus.jetstream.create_key_value(memory).await?;
    bus::declare(&bus.jetstream, 1).await.map_err(anyhow::Error::from_boxed)?;
    let replaced = bus.jetstream.get_stream(format!("KV_{LEASES_BUCKET}")).await?;
    assert_eq!(replaced.cached_info().config.storage, stream::StorageType::File);
    timer.signal(Signal::Continue)?;
    let lost_at = server_time(&system).await?;
    ticks_resume(&system, &mut socket, lost_at).await?;
    system.end().await;
    Ok(())
}
