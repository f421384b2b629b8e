//! The on-call drill: eight faults on a running deployment, watched by a real Prometheus with the files of
//! `nomad/observability`. Each fault raises its alarm within a minute, and no other. Takes a quarter of an hour.

mod prometheus;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::kv;
use flash::stack::Name;
use protocol::subject::{self, LEASES_BUCKET, LOG_STREAM, TIMER_LEASE};
use serde_json::json;
use testkit::dynamodb_stub::{Answer, DynamoDbStub};
use testkit::{LinkState, Proxy, Topology, eventually, http};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::aws_stub::{AwsStub, Mode};
use crate::drill::prometheus::Prometheus;
use crate::rolling::ingress::Ingress;
use crate::rolling::services;
use crate::test_system::{TestSystem, program};

/// Time in which the alarm of a fault must rise, and in which no other may.
const ALARM_WITHIN: Duration = Duration::from_secs(60);
/// Interval between two bids. A new Prometheus sees enough of them to compute rates.
const BID_EVERY: Duration = Duration::from_millis(100);
/// Bids in flight. More than come during an election of NATS.
const MAX_BIDS_IN_FLIGHT: usize = 200;
/// Delay of each direction between bid-processing and a slow Redis. A readiness check, which asks Redis once, still ends
/// before the ingress gives it up.
const SLOW: Duration = Duration::from_millis(300);
/// Interval between two writes of a foreign lease, of which several fit into the time that it lasts.
const CLAIM_EVERY: Duration = Duration::from_millis(200);
/// Fill level to which the bound of the log is lowered.
const FILL: f64 = 0.75;
/// Bytes that the log must have for that: bid-processing keeps a part of it for endings.
const LEAST_LOG_BYTES: u64 = 2 * 1024 * 1024;

/// A fault that the drill causes.
#[derive(Debug, Clone, Copy)]
enum Fault {
    RedisSlow,
    LogLeaderGone,
    DynamoDbThrottled,
    SesAway,
    IssuerHanging,
    TickerNotElected,
    LogThreeQuartersFull,
    AuctionHalted,
}

/// A fault, the alarm that must rise, and those that may rise besides.
type Case = (Fault, &'static str, &'static [&'static str]);

const DRILL: [Case; 8] = [
    (Fault::RedisSlow, "FlashBidsSlow", &[]),
    (Fault::DynamoDbThrottled, "FlashHistoryWritesFail", &[]),
    // The connection breaks after the mail was sent to SES, so that it may have arrived.
    (Fault::SesAway, "FlashMailsPostponed", &["FlashMailsResent"]),
    (Fault::IssuerHanging, "FlashIssuerNotAnswering", &[]),
    (Fault::TickerNotElected, "FlashTickerNotElected", &[]),
    (Fault::LogThreeQuartersFull, "FlashLogFilling", &[]),
    (Fault::LogLeaderGone, "FlashLogReplicaAway", &[]),
    (Fault::AuctionHalted, "FlashAuctionHalted", &[]),
];

/// The deployment, and what stands between its parts.
struct Deployment {
    system: TestSystem,
    /// Between bid-processing and Redis.
    redis: Proxy,
    /// In front of the history.
    dynamodb: DynamoDbStub,
    /// In front of the mails.
    ses: AwsStub,
    /// Keeps a foreign lease.
    claiming: Option<AbortHandle>,
    /// The server that was killed, and the bound of the log before it was lowered.
    killed: Option<usize>,
    bound: i64,
}

impl Deployment {
    async fn start() -> Result<Self> {
        let mut system = TestSystem::start_with("drill", |options| {
            options.processes = Some(program());
            options.topology = Topology { nats_servers: 3, tls: false, ..Topology::default() };
            // As in the jobs: the ingress leads /api to the services itself.
            let unset = ["AUCTION_MANAGEMENT_URL", "BID_PROCESSING_URL", "TIMER_URL"];
            options.settings = unset.map(|setting| (setting.to_owned(), String::new())).to_vec();
        })
        .await?;
        let servers = &system.stack.servers;
        let port = servers.redis[0].port;
        let redis = Proxy::start(port).await?;
        let login = servers.redis_url_of(Name::BidProcessing.text()).context("a login")?;
        let redis_url = login.replace(&port.to_string(), &redis.port.to_string());
        let dynamodb = DynamoDbStub::start(&servers.aws_endpoint()).await?;
        let (ses, ses_url) = AwsStub::start(&system, Mode::Pass).await?;
        let behind = [
            (Name::BidProcessing, "REDIS_URL", redis_url),
            (Name::BidPersistence, "AWS_ENDPOINT_URL", dynamodb.endpoint.clone()),
            (Name::AuctionNotifications, "AWS_ENDPOINT_URL", ses_url),
        ];
        for (name, setting, value) in behind {
            system.stack.add_instance_with(name, &[(setting, value)]).await?;
            system.stack.stop_instance(name, 0).await?;
        }
        let bound = log_config(&system).await?.max_bytes;
        Ok(Self { system, redis, dynamodb, ses, claiming: None, killed: None, bound })
    }

    async fn cause(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::RedisSlow => {
                self.redis.to_server(LinkState::Delay(SLOW));
                self.redis.to_client(LinkState::Delay(SLOW));
            }
            Fault::LogLeaderGone => {
                let leader = self.system.log_leader(&self.system.bus().await?).await?;
                self.system.stack.servers.nats[leader].process.kill();
                self.killed = Some(leader);
            }
            Fault::DynamoDbThrottled => self.dynamodb.answer(Answer::Throttle(None)),
            Fault::SesAway => {
                self.ses.set(Mode::ResetMails);
                let id = lot(&self.system).await?;
                let close = self.system.management(&format!("/auctions/{id}/close"));
                let closed = http::post(&close, Some(&self.system.token("host")?), &json!({})).await?;
                ensure!(closed.status == 200, "{}", closed.text);
            }
            Fault::IssuerHanging => self.system.stack.keys.hang().await?,
            Fault::TickerNotElected => self.claiming = Some(claim(&self.system).await?),
            Fault::LogThreeQuartersFull => {
                let used = eventually("the log is large enough", async || {
                    Ok(Some(log_bytes(&self.system).await?).filter(|used| *used >= LEAST_LOG_BYTES))
                });
                #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "some megabytes")]
                let bound = (used.await? as f64 / FILL) as i64;
                self.bound_log(bound).await?;
            }
            Fault::AuctionHalted => {
                let id = lot(&self.system).await?;
                let message = json!({"v": 1, "note": "no record"}).to_string();
                let jetstream = self.system.bus().await?.jetstream;
                jetstream.publish(subject::log(id.parse()?), message.into()).await?.await?;
                let refused = self.system.bid("anna", &id, &json!(2)).await?;
                ensure!(refused.status == 503, "{}", refused.text);
            }
        }
        Ok(())
    }

    async fn repair(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::RedisSlow => {
                self.redis.to_server(LinkState::Pass);
                self.redis.to_client(LinkState::Pass);
            }
            Fault::LogLeaderGone => {
                let killed = self.killed.take().context("a killed server")?;
                self.system.stack.servers.restart_nats_server(killed).await?;
            }
            Fault::DynamoDbThrottled => self.dynamodb.answer(Answer::Pass),
            Fault::SesAway => self.ses.set(Mode::Pass),
            Fault::IssuerHanging => self.system.stack.keys.resume(None).await?,
            Fault::TickerNotElected => self.claiming.take().context("a claim")?.abort(),
            Fault::LogThreeQuartersFull => self.bound_log(self.bound).await?,
            // An operator repairs it from a backup.
            Fault::AuctionHalted => {}
        }
        Ok(())
    }

    async fn bound_log(&self, max_bytes: i64) -> Result<()> {
        let config = async_nats::jetstream::stream::Config { max_bytes, ..log_config(&self.system).await? };
        self.system.bus().await?.jetstream.update_stream(&config).await?;
        Ok(())
    }
}

async fn log_config(system: &TestSystem) -> Result<async_nats::jetstream::stream::Config> {
    Ok(system.bus().await?.jetstream.get_stream(LOG_STREAM).await?.cached_info().config.clone())
}

async fn log_bytes(system: &TestSystem) -> Result<u64> {
    Ok(system.bus().await?.jetstream.get_stream(LOG_STREAM).await?.cached_info().state.bytes)
}

async fn lot(system: &TestSystem) -> Result<String> {
    let lot = json!({"title": "Harp", "duration": 3_600, "starting_bid": 1, "video": false,
                     "allow_self_raise": true});
    system.auction(&lot).await
}

/// Writes the lease of the ticker again and again, as another program with the timer's login could.
async fn claim(system: &TestSystem) -> Result<AbortHandle> {
    let leases: kv::Store = system.bus().await?.jetstream.get_key_value(LEASES_BUCKET).await?;
    let mut again = interval(CLAIM_EVERY);
    Ok(tokio::spawn(async move {
        loop {
            again.tick().await;
            if let Err(error) = leases.put(TIMER_LEASE, "taken".into()).await {
                eprintln!("the lease was not taken: {error}");
            }
        }
    })
    .abort_handle())
}

/// Bids by several people at a steady rate, however long the answers take.
async fn bid_steadily(bids: String, tokens: Vec<String>, id: Arc<str>) {
    let (mut flight, mut every) = (JoinSet::new(), interval(BID_EVERY));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for (amount, token) in (1..).zip(tokens.iter().cycle()) {
        every.tick().await;
        while flight.try_join_next().is_some() {}
        if flight.len() < MAX_BIDS_IN_FLIGHT {
            let (bids, token, bid) = (bids.clone(), token.clone(), json!({"auction_id": &*id, "amount": amount}));
            // An answer to a bid of the drill may be anything: the alarms are what is tested.
            flight.spawn(async move { http::post(&bids, Some(&token), &bid).await.is_ok() });
        }
    }
}

/// One fault before a Prometheus of its own, which knows nothing of the faults before. Returns how long the alarm took.
async fn drill(deployment: &mut Deployment, ingress: &Ingress, case: &Case) -> Result<Duration> {
    let (fault, alarm, besides) = *case;
    let watch = Prometheus::start(deployment.system.path(), &format!("{fault:?}"), &deployment.system.stack, ingress)?;
    watch.has_seen_enough().await?;
    let before = watch.firing().await?;
    ensure!(before.is_empty(), "before the fault: {before:?}");
    deployment.cause(fault).await.with_context(|| format!("{fault:?}"))?;
    let (since, mut rose) = (Instant::now(), None);
    let allowed: BTreeSet<String> = besides.iter().chain([&alarm]).map(|alarm| (*alarm).to_owned()).collect();
    while since.elapsed() < ALARM_WITHIN {
        let firing = watch.firing().await?;
        let other: Vec<_> = firing.difference(&allowed).collect();
        ensure!(other.is_empty(), "{fault:?} raised {other:?} after {:?}", since.elapsed());
        if rose.is_none() && firing.contains(alarm) {
            rose = Some(since.elapsed());
        }
        sleep(Duration::from_millis(500)).await;
    }
    let rose = rose.with_context(|| format!("{fault:?} did not raise {alarm} within {ALARM_WITHIN:?}"))?;
    deployment.repair(fault).await.with_context(|| format!("{fault:?}"))?;
    watch.stop().await?;
    Ok(rose)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_raises_its_alarm_and_no_other() -> Result<()> {
    let mut deployment = Deployment::start().await?;
    let ingress = Ingress::start(deployment.system.path(), &services(&deployment.system.stack)).await?;
    let id: Arc<str> = lot(&deployment.system).await?.into();
    let tokens =
        ["anna", "ben", "cleo"].map(|name| deployment.system.token(name)).into_iter().collect::<Result<_>>()?;
    let bids = deployment.system.stack.url(Name::BidProcessing).to_owned() + "/bids";
    let load = tokio::spawn(bid_steadily(bids, tokens, Arc::clone(&id)));
    for case in &DRILL {
        let rose = drill(&mut deployment, &ingress, case).await?;
        eprintln!("{:?}: {} after {rose:.1?}", case.0, case.1);
    }
    load.abort();
    ensure!(deployment.system.checked_bids(&id).await?.len() > 1_000, "too few bids for rates");
    ingress.stop().await?;
    deployment.system.end().await;
    Ok(())
}
