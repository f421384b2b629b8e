//! What is done to the system, one fault at a time, each written into the history with its beginning and end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use identity::development::DevelopmentKey;
use protocol::subject;
use testkit::{Disk, Proxy, Signal, Way};

use crate::check::recorder::{Recorder, now};
use crate::dynamodb_stub::{Answer, DynamoDbStub};
use crate::issuer::Issuer;
use crate::stack::{Name, Stack};

/// A part that can be killed, or stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Service(Name),
    Redis,
    Nats,
    Postgres,
    /// The AWS emulator lives in memory: it can stand still, not die.
    Aws,
}

impl Part {
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

/// A way between the second instance of a service and a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    BidsToRedis,
    BidsToNats,
    EdgeToNats,
}

impl Hop {
    pub const ALL: [Self; 3] = [Self::BidsToRedis, Self::BidsToNats, Self::EdgeToNats];

    const fn service(self) -> Name {
        match self {
            Self::BidsToRedis | Self::BidsToNats => Name::BidProcessing,
            Self::EdgeToNats => Name::Websocket,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`, and a restart on the same data and address.
    Kill(Part),
    /// `kill -9` of every edge at once: whoever is connected is thrown off, and comes back.
    Edges,
    /// SIGSTOP for so long, then it goes on.
    Stop(Part, Duration),
    /// Ends in order and comes back, as in a deploy; now in one version, now in the other, if there is one.
    Deploy(Name),
    EmptyRedis,
    /// Redis comes back with its data of a moment ago.
    RollBackRedis,
    /// Redis refuses what needs memory.
    FullRedis(Duration),
    /// The requests arrive, the replies do not, and the connection is reset.
    CutReplies(Hop),
    /// Nothing moves for so long, then everything does.
    BlackHole(Hop, Duration),
    Reset(Hop),
    /// All that a bid does not need stands still at once.
    Narrow(Duration),
    /// `PostgreSQL`, the token issuer and auction-management are dead for so long, AWS does not answer.
    Dead(Duration),
    /// The issuer of tokens is away for so long; from then on it signs with a new key.
    Keys(Duration),
    /// A message that is no record, in the log of an auction that never was.
    Poison,
    /// Batches of bids get this answer for so long.
    DynamoDb(Answer, Duration),
    /// Of three nats-servers one takes no new clients, sends its own elsewhere, ends, and comes back.
    LameDuck,
    /// The log's leader hands over to another nats-server.
    StepDown,
    /// The disk of Redis, NATS and `PostgreSQL` is full for so long; then whoever ran into it starts again.
    FullDisk(Duration),
    /// The machine with Redis, NATS and PostgreSQL loses power: what they had not synced is gone.
    LosePower,
}

/// What breaks things, and counts what it broke.
pub struct Breaker<'a> {
    pub stack: &'a mut Stack,
    pub proxies: [Proxy; 3],
    pub recorder: &'a Recorder,
    /// What can lose power or run full, if anything.
    pub disk: Option<&'a Disk>,
    /// What the history is written through where it is to be throttled.
    pub dynamodb: DynamoDbStub,
    /// Whose tokens the load uses.
    pub issuer: &'a Mutex<Issuer>,
    /// The programs that services run: this one, and another version of it if there is one.
    pub programs: Vec<PathBuf>,
    pub scratch: PathBuf,
    /// Which of several.
    pub random: fastrand::Rng,
    /// How often what was done to what.
    pub done: BTreeMap<(&'static str, &'static str), u32>,
}

/// What bids can do without.
const NOT_NEEDED: [Part; 5] = [
    Part::Postgres,
    Part::Aws,
    Part::Service(Name::AuctionManagement),
    Part::Service(Name::BidPersistence),
    Part::Service(Name::AuctionNotifications),
];
/// Between a copy of Redis's data and the return to it.
const ROLL_BACK_BY: Duration = Duration::from_secs(1);
/// A cut takes effect with the next reply.
const CUT_WITHIN: Duration = Duration::from_secs(2);
/// nats-server waits 10 s, then closes a client a second.
const LAME_DUCK_ENDS_WITHIN: Duration = Duration::from_secs(90);

impl Breaker<'_> {
    /// Does one fault and waits until it is over.
    pub async fn break_one(&mut self, fault: Fault) -> Result<()> {
        let from = now();
        let name = format!("{fault:?}");
        let (what, parts) = self.do_it(fault).await.with_context(|| name.clone())?;
        self.recorder.fault(&name, &parts, from, now());
        for part in parts {
            *self.done.entry((what, part)).or_default() += 1;
        }
        Ok(())
    }

    async fn do_it(&mut self, fault: Fault) -> Result<(&'static str, Vec<&'static str>)> {
        Ok(match fault {
            Fault::Kill(part) => {
                self.kill(part).await?;
                ("killed", vec![part.name()])
            }
            Fault::Edges => {
                let edges = || self.stack.instances.iter().filter(|instance| instance.name == Name::Websocket);
                let count = edges().count();
                for edge in edges() {
                    edge.signal(Signal::Kill)?;
                }
                for _ in 0..count {
                    self.stack.kill_and_restart_instance(Name::Websocket, 0).await?;
                }
                ("killed", vec!["websocket"; count])
            }
            Fault::Stop(part, time) => {
                self.signal(part, Signal::Stop)?;
                tokio::time::sleep(time).await;
                self.signal(part, Signal::Continue)?;
                ("stood still", vec![part.name()])
            }
            Fault::Deploy(name) => {
                self.stack.run_from_now_on(self.random.choice(&self.programs).context("a program")?.clone());
                self.stack.restart_instance(name, 0).await?;
                ("deployed", vec![name.text()])
            }
            Fault::EmptyRedis => {
                self.redis(redis::cmd("FLUSHALL")).await?;
                ("emptied", vec!["redis"])
            }
            Fault::RollBackRedis => {
                let copy = self.scratch.join("redis-before");
                self.stack.servers.redis[0].copy(&copy)?;
                tokio::time::sleep(ROLL_BACK_BY).await;
                self.stack.servers.redis[0].roll_back(&copy).await?;
                std::fs::remove_dir_all(copy)?;
                ("rolled back", vec!["redis"])
            }
            Fault::FullRedis(time) => {
                self.redis(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1mb").clone()).await?;
                tokio::time::sleep(time).await;
                self.redis(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").clone()).await?;
                ("full", vec!["redis"])
            }
            Fault::CutReplies(hop) => {
                let proxy = self.proxy(hop);
                proxy.to_client(Way::CutAfter(0));
                let begun = tokio::time::Instant::now();
                while !proxy.is_passing() && begun.elapsed() < CUT_WITHIN {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                proxy.to_client(Way::Pass);
                ("cut", vec![hop.service().text()])
            }
            Fault::BlackHole(hop, time) => {
                self.proxy(hop).to_server(Way::BlackHole);
                self.proxy(hop).to_client(Way::BlackHole);
                tokio::time::sleep(time).await;
                self.proxy(hop).to_server(Way::Pass);
                self.proxy(hop).to_client(Way::Pass);
                ("cut", vec![hop.service().text()])
            }
            Fault::Reset(hop) => {
                self.proxy(hop).reset();
                ("cut", vec![hop.service().text()])
            }
            Fault::LosePower => {
                self.stack.servers.lose_power(self.disk.context("a disk")?).await?;
                ("lost power", vec!["redis", "nats", "postgres"])
            }
            Fault::Narrow(time) => {
                for part in NOT_NEEDED {
                    self.signal(part, Signal::Stop)?;
                }
                tokio::time::sleep(time).await;
                for part in NOT_NEEDED {
                    self.signal(part, Signal::Continue)?;
                }
                ("stood still", NOT_NEEDED.map(Part::name).to_vec())
            }
            Fault::Dead(time) => {
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
                ("dead", vec!["postgres", "aws", "issuer", management.name()])
            }
            Fault::Keys(time) => {
                self.stack.keys.stop().await;
                tokio::time::sleep(time).await;
                let key = DevelopmentKey::generate(&uuid::Uuid::new_v4().to_string())?;
                self.stack.keys.resume(Some(&key)).await?;
                self.issuer.lock().unwrap_or_else(PoisonError::into_inner).key = key;
                ("rotated", vec!["issuer"])
            }
            Fault::Poison => {
                let subject = subject::log(uuid::Uuid::new_v4().to_string().parse()?);
                let bus = self.bus().await?;
                bus.jetstream.publish(subject, "no record".into()).await?.await?;
                ("poisoned", vec!["log"])
            }
            Fault::DynamoDb(answer, time) => {
                let what = match &answer {
                    Answer::Part(_) => "in part",
                    Answer::FailAfterwards => "failed",
                    Answer::Throttle(_) | Answer::Pass => "throttled",
                };
                self.dynamodb.answer(answer);
                tokio::time::sleep(time).await;
                self.dynamodb.answer(Answer::Pass);
                (what, vec!["dynamodb"])
            }
            Fault::LameDuck => {
                let nth = self.random.usize(..self.stack.servers.nats.len());
                let process = &mut self.stack.servers.nats[nth].process;
                process.signal(Signal::LameDuck)?;
                process.ended(LAME_DUCK_ENDS_WITHIN).await?;
                self.stack.servers.restart_nats_server(nth).await?;
                ("drained", vec!["nats"])
            }
            Fault::StepDown => {
                let asked = format!("$JS.API.STREAM.LEADER.STEPDOWN.{}", subject::LOG_STREAM);
                self.bus().await?.client.request(asked, "".into()).await?;
                ("stepped down", vec!["nats"])
            }
            Fault::FullDisk(time) => {
                let disk = self.disk.context("a disk")?;
                disk.fill()?;
                tokio::time::sleep(time).await;
                disk.free()?;
                // Redis ends when it cannot write, nats-server shuts JetStream off until it is started again.
                self.stack.servers.restart_redis().await?;
                self.stack.servers.restart_postgres().await?;
                self.stack.servers.restart_nats().await?;
                ("disk full", vec!["redis", "nats", "postgres"])
            }
        })
    }

    async fn bus(&self) -> Result<bus::Bus> {
        let settings = bus::Settings { url: self.stack.servers.nats_url(), credentials_file: None };
        Ok(bus::Bus::connect(&settings, "flash chaos").await?)
    }

    const fn proxy(&self, hop: Hop) -> &Proxy {
        &self.proxies[hop as usize]
    }

    async fn redis(&self, command: redis::Cmd) -> Result<()> {
        let client = redis::Client::open(self.stack.servers.redis[0].url.as_str())?;
        Ok(command.query_async(&mut client.get_multiplexed_async_connection().await?).await?)
    }

    async fn kill(&mut self, part: Part) -> Result<()> {
        let servers = &mut self.stack.servers;
        match part {
            Part::Service(name) => {
                // The oldest: it comes back as the youngest, so all instances have their turn.
                self.stack.kill_and_restart_instance(name, 0).await
            }
            // In a cluster whatever stands first: masters and leaders move.
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
            Part::Aws => anyhow::bail!("the emulator's memory would be lost"),
        }
    }

    fn signal(&mut self, part: Part, signal: Signal) -> Result<()> {
        match part {
            Part::Service(name) => {
                let instance = self.stack.instances.iter().find(|instance| instance.name == name);
                instance.context("an instance")?.signal(signal)
            }
            Part::Redis => self.stack.servers.redis[0].process.signal(signal),
            Part::Nats => self.stack.servers.nats[0].process.signal(signal),
            // Its children do the work.
            Part::Postgres => self.stack.servers.postgres.signal_family(signal),
            Part::Aws => self.stack.servers.aws.signal(signal),
        }
    }
}
