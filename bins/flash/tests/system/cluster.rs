//! Three nats-servers or three masters of a Redis Cluster, of which one dies.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flash::stack::Name;
use futures_util::future::try_join_all;
use protocol::subject::LOG_STREAM;
use serde_json::json;
use testkit::Topology;

use crate::faults::{Load, assert_log_agrees};
use crate::test_system::{TestSystem, program};

/// I15: time without accepted bids after a fault.
const BACK_WITHIN: Duration = Duration::from_secs(5);

impl TestSystem {
    async fn clustered(test: &str, topology: Topology) -> Result<Self> {
        Self::start_with(test, |options| {
            options.topology = topology;
            options.instances = BTreeMap::from([(Name::BidProcessing, 2)]);
            options.processes = Some(program());
        })
        .await
    }

    /// Waits until every instance of bid-processing shows so many replicas of the log that are away.
    async fn replicas_away(&self, expected: u64) -> Result<()> {
        testkit::eventually("the replicas that are away", async || {
            let away = self.metric::<u64>(Name::BidProcessing, "flash_log_replicas_away").await?;
            Ok(away.iter().all(|away| *away == expected).then_some(()))
        })
        .await
    }

    /// Waits until a nats-server leads the log and returns its number. Without a leader no server answers.
    pub async fn log_leader(&self, bus: &bus::Bus) -> Result<usize> {
        loop {
            let info =
                async { bus.jetstream.get_stream(LOG_STREAM).await?.get_info().await.map_err(anyhow::Error::from) };
            if let Ok(Ok(info)) = tokio::time::timeout(Duration::from_millis(200), info).await
                && let Some(leader) = info.cluster.and_then(|cluster| cluster.leader)
            {
                return self
                    .stack
                    .servers
                    .nats
                    .iter()
                    .position(|nats| nats.name == leader)
                    .context("the leader is none of the three servers");
            }
        }
    }
}

/// Time for nats-server to elect a new leader of a stream: 4 to 9 s after the last message of the old one
/// (`raft.go`, not configurable). Bids wait for it.
const ELECTED_WITHIN: Duration = Duration::from_secs(10);
/// Time for a Redis Cluster to replace a master: the other masters consider it dead after the node timeout (1 s
/// here) and then elect its replica.
const FAILED_OVER_WITHIN: Duration = Duration::from_secs(2);

/// Bids that a leader has acknowledged are also on two other disks.
#[tokio::test(flavor = "multi_thread")]
async fn killed_log_leader_loses_no_bids() -> Result<()> {
    let mut system = TestSystem::clustered("leader", Topology { nats_servers: 3, ..Topology::default() }).await?;
    let id = system.auction(&json!({"title": "Ring", "duration": 600, "starting_bid": 1})).await?;
    let load = Load::start(&system, &id, 8)?;
    for _ in 0..2 {
        load.accepted(30).await?;
        let bus = system.bus().await?;
        let leader = system.log_leader(&bus).await?;
        system.stack.servers.nats[leader].process.kill();
        let killed = Instant::now();
        let elected = async {
            while system.log_leader(&bus).await? == leader {}
            anyhow::Ok(killed.elapsed())
        };
        let back = async {
            load.accepted(1).await?;
            anyhow::Ok(killed.elapsed())
        };
        let (elected, back) = tokio::try_join!(elected, back)?;
        println!("new leader after {elected:?}, next accepted bid after {back:?}");
        assert!(elected < ELECTED_WITHIN, "a new leader after {elected:?}");
        assert!(back < elected + BACK_WITHIN, "a new leader after {elected:?}, the next accepted bid after {back:?}");
        load.accepted(30).await?;
        system.replicas_away(1).await?;
        system.stack.servers.restart_nats_server(leader).await?;
        system.replicas_away(0).await?;
    }
    let answers = load.finish().await?;
    let accepted = assert_log_agrees(&system, &id, &answers).await?;
    assert!(accepted > 100, "only {accepted} bids were accepted, too few for a proof");
    system.history(&id, system.checked_bids(&id).await?.len()).await?;
    system.end().await;
    Ok(())
}

/// Every master has auctions. One master dies, and its replica, which may lack the last decisions, takes over.
#[tokio::test(flavor = "multi_thread")]
async fn killed_redis_master_loses_no_bids() -> Result<()> {
    let mut system = TestSystem::clustered("masters", Topology { redis_masters: 3, ..Topology::default() }).await?;
    let mut auctions = Vec::new();
    for lot in 0..9 {
        let lot = json!({"title": format!("Lot {lot}"), "duration": 600, "starting_bid": 1});
        auctions.push(system.auction(&lot).await?);
    }
    let loads: Vec<Load> = auctions.iter().map(|id| Load::start(&system, id, 2)).collect::<Result<_>>()?;
    let all_accept = async |bids| try_join_all(loads.iter().map(|load| load.accepted(bids))).await;
    all_accept(20).await?;
    system.stack.servers.redis[0].process.kill();
    let killed = Instant::now();
    all_accept(1).await?;
    let back = killed.elapsed();
    println!("all auctions accepted bids again {back:?} after a master died");
    assert!(back < FAILED_OVER_WITHIN + BACK_WITHIN, "all auctions accepted bids again after {back:?}");
    all_accept(20).await?;
    let answers = try_join_all(loads.into_iter().map(Load::finish)).await?;
    for (id, answers) in auctions.iter().zip(answers) {
        let accepted = assert_log_agrees(&system, id, &answers).await?;
        assert!(accepted >= 40, "only {accepted} bids were accepted, too few for a proof");
        system.history(id, system.checked_bids(id).await?.len()).await?;
    }
    system.end().await;
    Ok(())
}
