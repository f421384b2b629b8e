//! Injects one fault at a time and records its beginning and end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use identity::development::DevelopmentKey;
use protocol::subject;
use testkit::{Disk, LinkState, Proxy, Signal, http};
use tokio::time::Instant;

use crate::stack::Issuer;
use crate::stack::recorder::{Recorder, now};
use crate::stack::{Name, Stack, connections};
use testkit::dynamodb_stub::{Answer, DynamoDbStub};

/// A part of the system that can be killed or frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A service.
    Service(Name),
    /// Redis.
    Redis,
    /// NATS.
    Nats,
    /// PostgreSQL.
    Postgres,
    /// The AWS emulator. It keeps its data in memory, so it is frozen and never killed.
    Aws,
}

impl Part {
    /// Its name in the history.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service(name) => name.text(),
            Self::Redis => "redis",
            Self::Nats => "nats",
            Self::Postgres => "postgres",
            Self::Aws => "aws",
        }
    }
}

/// A connection between the second instance of a service and a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// bid-processing to Redis.
    BidsToRedis,
    /// bid-processing to NATS.
    BidsToNats,
    /// The edge to NATS.
    EdgeToNats,
}

impl Hop {
    /// Every hop, in the order of the proxies.
    pub const ALL: [Self; 3] = [Self::BidsToRedis, Self::BidsToNats, Self::EdgeToNats];

    const fn service(self) -> Name {
        match self {
            Self::BidsToRedis | Self::BidsToNats => Name::BidProcessing,
            Self::EdgeToNats => Name::Websocket,
        }
    }
}

/// A fault with its parts and its duration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`, and a restart on the same data and address.
    Kill(Part),
    /// `kill -9` of every edge at once: all clients lose their connection and reconnect.
    KillEdges,
    /// SIGSTOP, and SIGCONT after this time.
    Freeze(Part, Duration),
    /// A stop in order and a restart, as in a deployment; in a random version if there are two.
    Deploy(Name),
    /// Redis loses everything.
    EmptyRedis,
    /// Redis loses everything, and again after this time.
    EmptyRedisTwice(Duration),
    /// Redis restarts on a copy of its data from [`ROLL_BACK_BY`] ago.
    RollBackRedis,
    /// Redis rejects commands that need memory.
    FullRedis(Duration),
    /// Requests arrive, replies do not, and the connection is reset.
    CutReplies(Hop),
    /// No byte is delivered for this time; then all are.
    BlackHole(Hop, Duration),
    /// Connections are reset.
    Reset(Hop),
    /// Everything that a bid does not need is frozen at once.
    Narrow(Duration),
    /// `PostgreSQL`, the token issuer and auction-management are dead for this time, and AWS does not answer.
    Dead(Duration),
    /// The token issuer is down for this time and signs with a new key afterwards.
    RotateKeys(Duration),
    /// The token issuer accepts connections for this time and answers no request.
    HangIssuer(Duration),
    /// SES does not answer for this time; the rest of AWS does.
    CutSes(Duration),
    /// The log has little room left for this time.
    FillLog(Duration),
    /// A message that is not a record, in the log of an auction that does not exist.
    Poison,
    /// Batches of the history get this answer for this time.
    DynamoDb(Answer, Duration),
    /// One of three nats-servers drains in lame duck mode, ends and restarts.
    LameDuck,
    /// The leader of the log moves to another nats-server.
    StepDown,
    /// The disk of Redis, NATS and `PostgreSQL` is full for this time; then all three are restarted.
    FullDisk(Duration),
    /// The machine with Redis, NATS and `PostgreSQL` loses power: unsynced data is lost.
    LosePower,
}

/// Injects faults into a stack and counts them.
pub struct FaultInjector<'a> {
    /// The stack under test.
    pub stack: &'a mut Stack,
    /// The proxies of the second instances, in the order of [`Hop::ALL`].
    pub proxies: [Proxy; 3],
    /// Records the faults.
    pub recorder: &'a Recorder,
    /// The disk that can lose power or run full, if the scenario has one.
    pub disk: Option<&'a Disk>,
    /// The stub in front of AWS, if the scenario disturbs the history or the mails.
    pub dynamodb: DynamoDbStub,
    /// Signs the tokens of the load.
    pub issuer: &'a Mutex<Issuer>,
    /// The programs that deployments choose from: this one, and another version if one was given.
    pub programs: Vec<PathBuf>,
    /// A directory for copies of Redis data.
    pub scratch: PathBuf,
    /// Chooses among several servers.
    pub random: fastrand::Rng,
    /// Number of faults by kind and part.
    pub done: BTreeMap<(&'static str, &'static str), u32>,
}

/// Parts that a bid does not need.
const NOT_NEEDED: [Part; 5] = [
    Part::Postgres,
    Part::Aws,
    Part::Service(Name::AuctionManagement),
    Part::Service(Name::BidPersistence),
    Part::Service(Name::AuctionNotifications),
];
/// Time between a copy of the data of Redis and the rollback to it.
const ROLL_BACK_BY: Duration = Duration::from_secs(1);
/// Services that verify tokens.
const VERIFY_TOKENS: [Name; 3] = [Name::AuctionManagement, Name::BidProcessing, Name::Websocket];
/// Interval between two probes of each of them.
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// Bytes that the full log still takes. Bids use half of it; the other half is kept for auctions to end in.
const LOG_ROOM_BYTES: i64 = 750_000;
/// Time until bid-processing has measured the log again, and accepts bids.
const LOG_MEASURED_WITHIN: Duration = Duration::from_millis(2_500);
/// Time for the next reply, with which a cut takes effect.
const CUT_WITHIN: Duration = Duration::from_secs(2);
/// Time for a lame duck to end. nats-server waits 10 s, then closes one client per second.
const LAME_DUCK_ENDS_WITHIN: Duration = Duration::from_secs(90);

/// The kind of an injected fault, and the parts that it hit.
type Hit = (&'static str, Vec<&'static str>);

impl FaultInjector<'_> {
    /// Injects one fault, waits until it is over and records it.
    pub async fn inject(&mut self, fault: Fault) -> Result<()> {
        let from = now();
        let name = format!("{fault:?}");
        let (kind, mut parts) = self.apply(fault).await.with_context(|| name.clone())?;
        for part in &parts {
            *self.done.entry((kind, *part)).or_default() += 1;
        }
        if parts.contains(&"nats") && self.stack.servers.nats.len() > 1 {
            parts.push("nats leader");
        }
        self.recorder.fault(&name, &parts, from, now());
        Ok(())
    }

    /// Injects one fault and waits until it is over; returns its kind and the parts that it hit.
    async fn apply(&mut self, fault: Fault) -> Result<Hit> {
        match fault {
            Fault::Kill(part) => {
                self.kill(part).await?;
                Ok(("killed", vec![part.name()]))
            }
            Fault::KillEdges => self.kill_edges().await,
            Fault::Freeze(part, time) => {
                self.signal(part, Signal::Stop)?;
                tokio::time::sleep(time).await;
                self.signal(part, Signal::Continue)?;
                Ok(("frozen", vec![part.name()]))
            }
            Fault::Deploy(name) => {
                self.stack.use_program(self.random.choice(&self.programs).context("no program")?.clone());
                self.stack.restart_instance(name, 0).await?;
                Ok(("deployed", vec![name.text()]))
            }
            Fault::EmptyRedis => {
                self.redis(redis::cmd("FLUSHALL")).await?;
                Ok(("emptied", vec!["redis"]))
            }
            Fault::EmptyRedisTwice(pause) => {
                self.redis(redis::cmd("FLUSHALL")).await?;
                tokio::time::sleep(pause).await;
                self.redis(redis::cmd("FLUSHALL")).await?;
                Ok(("emptied 2x", vec!["redis"]))
            }
            Fault::RollBackRedis => self.roll_back_redis().await,
            Fault::FullRedis(time) => self.fill_redis(time).await,
            Fault::CutReplies(hop) => self.cut_replies(hop).await,
            Fault::BlackHole(hop, time) => self.black_hole(hop, time).await,
            Fault::Reset(hop) => {
                self.proxy(hop).reset();
                Ok(("cut", vec![hop.service().text()]))
            }
            Fault::LosePower => {
                self.stack.servers.lose_power(self.disk.context("the scenario has no disk")?).await?;
                Ok(("lost power", vec!["redis", "nats", "postgres"]))
            }
            Fault::Narrow(time) => self.freeze_what_a_bid_does_not_need(time).await,
            Fault::Dead(time) => self.kill_what_a_bid_does_not_need(time).await,
            Fault::RotateKeys(time) => self.rotate_keys(time).await,
            Fault::HangIssuer(time) => self.hang_issuer(time).await,
            Fault::CutSes(time) => {
                self.dynamodb.cut_ses(true);
                tokio::time::sleep(time).await;
                self.dynamodb.cut_ses(false);
                Ok(("cut", vec!["ses"]))
            }
            Fault::FillLog(time) => self.fill_log(time).await,
            Fault::Poison => {
                let subject = subject::log(uuid::Uuid::new_v4().to_string().parse()?);
                let bus = self.bus().await?;
                bus.jetstream.publish(subject, "not a record".into()).await?.await?;
                Ok(("poisoned", vec!["log"]))
            }
            Fault::DynamoDb(answer, time) => Ok(self.disturb_dynamodb(answer, time).await),
            Fault::LameDuck => self.drain_nats().await,
            Fault::StepDown => {
                let asked = format!("$JS.API.STREAM.LEADER.STEPDOWN.{}", subject::LOG_STREAM);
                self.bus().await?.client.request(asked, "".into()).await?;
                Ok(("stepped down", vec!["nats"]))
            }
            Fault::FullDisk(time) => self.fill_disk(time).await,
        }
    }

    async fn kill_edges(&mut self) -> Result<Hit> {
        let edges = || self.stack.instances.iter().filter(|instance| instance.name == Name::Websocket);
        let count = edges().count();
        for edge in edges() {
            edge.signal(Signal::Kill)?;
        }
        for _ in 0..count {
            self.stack.kill_and_restart_instance(Name::Websocket, 0).await?;
        }
        Ok(("killed", vec!["websocket"; count]))
    }

    async fn fill_redis(&self, time: Duration) -> Result<Hit> {
        let bound = |bytes: &str| redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).clone();
        self.redis(bound("1mb")).await?;
        tokio::time::sleep(time).await;
        self.redis(bound(testkit::REDIS_MAXMEMORY)).await?;
        Ok(("full", vec!["redis"]))
    }

    async fn roll_back_redis(&mut self) -> Result<Hit> {
        let copy = self.scratch.join("redis-before");
        self.stack.servers.redis[0].copy(&copy)?;
        tokio::time::sleep(ROLL_BACK_BY).await;
        self.stack.servers.redis[0].roll_back(&copy).await?;
        std::fs::remove_dir_all(copy)?;
        Ok(("rolled back", vec!["redis"]))
    }

    async fn cut_replies(&self, hop: Hop) -> Result<Hit> {
        let proxy = self.proxy(hop);
        proxy.to_client(LinkState::CutAfter(0));
        let begun = Instant::now();
        while !proxy.is_passing() && begun.elapsed() < CUT_WITHIN {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        proxy.to_client(LinkState::Pass);
        Ok(("cut", vec![hop.service().text()]))
    }

    async fn black_hole(&self, hop: Hop, time: Duration) -> Result<Hit> {
        self.proxy(hop).to_server(LinkState::BlackHole);
        self.proxy(hop).to_client(LinkState::BlackHole);
        tokio::time::sleep(time).await;
        self.proxy(hop).to_server(LinkState::Pass);
        self.proxy(hop).to_client(LinkState::Pass);
        Ok(("cut", vec![hop.service().text()]))
    }

    async fn freeze_what_a_bid_does_not_need(&mut self, time: Duration) -> Result<Hit> {
        for part in NOT_NEEDED {
            self.signal(part, Signal::Stop)?;
        }
        tokio::time::sleep(time).await;
        for part in NOT_NEEDED {
            self.signal(part, Signal::Continue)?;
        }
        Ok(("frozen", NOT_NEEDED.map(Part::name).to_vec()))
    }

    async fn kill_what_a_bid_does_not_need(&mut self, time: Duration) -> Result<Hit> {
        let management = Part::Service(Name::AuctionManagement);
        self.stack.servers.postgres.kill();
        self.signal(Part::Aws, Signal::Stop)?;
        self.stack.keys.stop().await;
        self.signal(management, Signal::Kill)?;
        tokio::time::sleep(time).await;
        self.stack.servers.restart_postgres().await?;
        self.signal(Part::Aws, Signal::Continue)?;
        self.stack.keys.resume(None).await?;
        self.kill(management).await?;
        Ok(("dead", vec!["postgres", "aws", "issuer", management.name()]))
    }

    async fn rotate_keys(&mut self, time: Duration) -> Result<Hit> {
        self.stack.keys.stop().await;
        tokio::time::sleep(time).await;
        let key = DevelopmentKey::generate(&uuid::Uuid::new_v4().to_string())?;
        self.stack.keys.resume(Some(&key)).await?;
        self.issuer.lock().unwrap_or_else(PoisonError::into_inner).key = key;
        Ok(("rotated", vec!["issuer"]))
    }

    /// Probes the services that need keys while the issuer hangs: the checker demands that they stay ready.
    async fn hang_issuer(&mut self, time: Duration) -> Result<Hit> {
        self.stack.keys.hang().await?;
        let until = Instant::now() + time;
        while Instant::now() < until {
            for instance in self.stack.instances.iter().filter(|instance| VERIFY_TOKENS.contains(&instance.name)) {
                let reply = http::get(&format!("{}/ready", instance.url), None).await;
                self.recorder.probe(instance.name.text(), reply.map_or(0, |reply| reply.status));
            }
            tokio::time::sleep(PROBE_EVERY).await;
        }
        self.stack.keys.resume(None).await?;
        Ok(("hung", vec!["issuer"]))
    }

    async fn fill_log(&self, time: Duration) -> Result<Hit> {
        let jetstream = self.bus().await?.jetstream;
        let log = jetstream.get_stream(subject::LOG_STREAM).await?.cached_info().clone();
        let mut bounded = log.config.clone();
        bounded.max_bytes = i64::try_from(log.state.bytes)? + LOG_ROOM_BYTES;
        jetstream.update_stream(&bounded).await?;
        tokio::time::sleep(time).await;
        jetstream.update_stream(&log.config).await?;
        tokio::time::sleep(LOG_MEASURED_WITHIN).await;
        Ok(("full", vec!["log space"]))
    }

    async fn disturb_dynamodb(&self, answer: Answer, time: Duration) -> Hit {
        let kind = match &answer {
            Answer::Part(_) => "in part",
            Answer::FailAfterwards => "failed",
            Answer::Throttle(_) | Answer::Reject(_) | Answer::Pass => "throttled",
        };
        self.dynamodb.answer(answer);
        tokio::time::sleep(time).await;
        self.dynamodb.answer(Answer::Pass);
        (kind, vec!["dynamodb"])
    }

    async fn drain_nats(&mut self) -> Result<Hit> {
        let nth = self.random.usize(..self.stack.servers.nats.len());
        let process = &mut self.stack.servers.nats[nth].process;
        process.signal(Signal::LameDuck)?;
        process.ended(LAME_DUCK_ENDS_WITHIN).await?;
        self.stack.servers.restart_nats_server(nth).await?;
        Ok(("drained", vec!["nats"]))
    }

    async fn fill_disk(&mut self, time: Duration) -> Result<Hit> {
        let disk = self.disk.context("the scenario has no disk")?;
        disk.fill()?;
        tokio::time::sleep(time).await;
        disk.free()?;
        // Redis ends when it cannot write; nats-server disables JetStream until it is restarted.
        self.stack.servers.restart_redis().await?;
        self.stack.servers.restart_postgres().await?;
        self.stack.servers.restart_nats().await?;
        Ok(("disk full", vec!["redis", "nats", "postgres"]))
    }

    async fn bus(&self) -> Result<bus::Bus> {
        Ok(bus::Bus::connect(&connections::nats(&self.stack.servers), "flash chaos").await?)
    }

    const fn proxy(&self, hop: Hop) -> &Proxy {
        &self.proxies[hop as usize]
    }

    async fn redis(&self, command: redis::Cmd) -> Result<()> {
        let client = self.stack.servers.redis[0].client()?;
        Ok(command.query_async(&mut client.get_multiplexed_async_connection().await?).await?)
    }

    async fn kill(&mut self, part: Part) -> Result<()> {
        let servers = &mut self.stack.servers;
        match part {
            Part::Service(name) => {
                // The oldest instance. It restarts as the youngest, so that all instances are killed by turns.
                self.stack.kill_and_restart_instance(name, 0).await
            }
            // A random server of a cluster: masters and leaders move.
            Part::Redis if servers.redis.len() > 1 => {
                let nth = self.random.usize(..servers.redis.len());
                servers.redis[nth].restart().await
            }
            Part::Nats if servers.nats.len() > 1 => {
                let nth = self.random.usize(..servers.nats.len());
                servers.restart_nats_server(nth).await
            }
            Part::Redis => servers.restart_redis().await,
            Part::Nats => servers.restart_nats().await,
            Part::Postgres => servers.restart_postgres().await,
            Part::Aws => anyhow::bail!("the AWS emulator would lose its data"),
        }
    }

    fn signal(&mut self, part: Part, signal: Signal) -> Result<()> {
        match part {
            Part::Service(name) => {
                let instance = self.stack.instances.iter().find(|instance| instance.name == name);
                instance.context("no such instance")?.signal(signal)
            }
            Part::Redis => self.stack.servers.redis[0].process.signal(signal),
            Part::Nats => self.stack.servers.nats[0].process.signal(signal),
            // Its child processes do the work.
            Part::Postgres => self.stack.servers.postgres.signal_family(signal),
            Part::Aws => self.stack.servers.aws.signal(signal),
        }
    }
}
