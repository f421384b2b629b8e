//! The scenarios: which faults, in which order, with which pauses.

use std::time::Duration;

use testkit::Topology;
use testkit::dynamodb_stub::Answer;

use super::faults::{Fault, Hop, Part};
use crate::stack::Name;

/// A series of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Most of the other scenarios in turn, kills more often than any other fault
    All,
    /// kill -9 of each service and server, and its restart
    Kills,
    /// SIGSTOP of each service and server for 1 s
    Stops,
    /// SIGSTOP of each service and server for 10 s
    LongStops,
    /// SIGSTOP of each service and server for 60 s
    LongestStops,
    /// Connections that lose replies, stall or are reset
    Cuts,
    /// Redis emptied, emptied again while auctions are rebuilt, or rolled back by 1 s
    Redis,
    /// Redis out of memory
    Memory,
    /// Services stopped in order and started again
    Deploy,
    /// All parts that a bid does not need, frozen at once: `PostgreSQL`, AWS and three services
    Narrow,
    /// `PostgreSQL`, token issuer, auction-management and AWS down until every auction has closed without them
    Dead,
    /// The token issuer down, then back with a new key
    Keys,
    /// The token issuer accepts connections and answers nothing; every service must stay ready
    HangingIssuer,
    /// SES alone cut off
    Mail,
    /// The consumers of the log killed, with unreadable records in the log
    Consumers,
    /// `DynamoDB` throttles, leaves items unprocessed, or fails after it has written (a stub in front of the emulator)
    Throttle,
    /// Ten thousand watchers of one auction, one in a hundred not reading; all edges killed at once
    Crowd,
    /// Three nats-servers with R3: one killed or drained in lame duck mode, or the leader of the log moved
    Nats,
    /// NATS killed, with time for ticks to resume in the same rooms
    Ticks,
    /// Redis emptied, once or twice, under an auction of ten thousand records
    LongAuction,
    /// The log full, until every running auction has ended
    FullLog,
    /// A Redis Cluster of three masters with replicas, one of them killed
    Masters,
    /// Power loss of the machine with Redis, NATS and `PostgreSQL`: unsynced data is lost (needs root)
    PowerLoss,
    /// The disk of Redis, NATS and `PostgreSQL` full (needs root)
    FullDisk,
}

/// Time between two losses of Redis, so that the second hits the rebuild after the first: of a small auction, and of
/// one with ten thousand records.
const REBUILDING: Duration = Duration::from_millis(5);
const REBUILDING_LONG: Duration = Duration::from_millis(100);

/// Every part that can be killed or frozen.
const PARTS: [Part; 10] = [
    Part::Service(Name::BidProcessing),
    Part::Service(Name::Websocket),
    Part::Service(Name::Timer),
    Part::Service(Name::BidPersistence),
    Part::Service(Name::AuctionNotifications),
    Part::Service(Name::AuctionManagement),
    Part::Redis,
    Part::Nats,
    Part::Postgres,
    Part::Aws,
];

/// Chooses the next fault.
pub struct Schedule {
    random: fastrand::Rng,
    deck: Vec<Part>,
}

impl Schedule {
    /// The schedule of a seed.
    pub fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), deck: Vec::new() }
    }

    /// The next part that fits. Every part comes once before any is repeated.
    fn part(&mut self, fits: impl Fn(Part) -> bool) -> Part {
        loop {
            match self.deck.pop() {
                Some(part) if fits(part) => return part,
                Some(_) => {}
                None => {
                    self.deck = PARTS.to_vec();
                    self.random.shuffle(&mut self.deck);
                }
            }
        }
    }
}

impl Scenario {
    /// The servers that it needs.
    pub fn topology(self) -> Topology {
        let single = Topology::default();
        match self {
            Self::Nats => Topology { nats_servers: 3, ..single },
            Self::Masters => Topology { redis_masters: 3, ..single },
            _ => single,
        }
    }

    /// Whether hosts pause auctions: not where they may be kept from resuming them for long, nor where ticks are awaited,
    /// which a paused auction does not get.
    pub const fn hosts_may_pause(self) -> bool {
        !matches!(self, Self::LongStops | Self::LongestStops | Self::Dead | Self::FullLog | Self::Ticks)
    }

    /// The next fault.
    pub fn next(self, schedule: &mut Schedule) -> Fault {
        let second = Duration::from_secs(1);
        match self {
            Self::All => {
                let kinds = [
                    Self::Kills,
                    Self::Kills,
                    Self::Kills,
                    Self::Kills,
                    Self::Kills,
                    Self::Kills,
                    Self::Kills,
                    Self::Kills,
                    Self::Stops,
                    Self::Cuts,
                    Self::Redis,
                    Self::Deploy,
                    Self::Narrow,
                    Self::Memory,
                ];
                kinds[schedule.random.usize(..kinds.len())].next(schedule)
            }
            Self::Kills => Fault::Kill(schedule.part(|part| part != Part::Aws)),
            Self::Stops => Fault::Freeze(schedule.part(|_| true), second),
            Self::LongStops => Fault::Freeze(schedule.part(|_| true), 10 * second),
            Self::LongestStops => Fault::Freeze(schedule.part(|_| true), 60 * second),
            Self::Cuts => {
                let hop = schedule.random.choice(Hop::ALL).unwrap_or(Hop::BidsToNats);
                match schedule.random.u8(..4) {
                    0 => Fault::BlackHole(hop, second),
                    1 => Fault::Reset(hop),
                    _ => Fault::CutReplies(hop),
                }
            }
            Self::Redis if schedule.random.bool() => Fault::RollBackRedis,
            Self::Redis | Self::LongAuction if schedule.random.bool() => Fault::EmptyRedis,
            Self::Redis => Fault::EmptyRedisTwice(REBUILDING),
            Self::LongAuction => Fault::EmptyRedisTwice(REBUILDING_LONG),
            Self::Memory => Fault::FullRedis(second),
            Self::Deploy => Fault::Deploy(schedule.random.choice(Name::ALL).unwrap_or(Name::Timer)),
            Self::Narrow => Fault::Narrow(3 * second),
            Self::Dead => Fault::Dead(30 * second),
            Self::Keys => Fault::RotateKeys(5 * second),
            Self::HangingIssuer => Fault::HangIssuer(20 * second),
            Self::Mail => Fault::CutSes(5 * second),
            Self::Ticks => Fault::Kill(Part::Nats),
            // Longer than an auction with all its extensions runs.
            Self::FullLog => Fault::FillLog(32 * second),
            Self::Consumers => match schedule.random.u8(..3) {
                0 => Fault::Kill(Part::Service(Name::BidPersistence)),
                1 => Fault::Kill(Part::Service(Name::AuctionNotifications)),
                _ => Fault::Poison,
            },
            Self::Nats => match schedule.random.u8(..3) {
                0 => Fault::Kill(Part::Nats),
                1 => Fault::LameDuck,
                _ => Fault::StepDown,
            },
            Self::Throttle => Fault::DynamoDb(
                match schedule.random.u8(..3) {
                    0 => Answer::Throttle(None),
                    1 => Answer::Part(2),
                    _ => Answer::FailAfterwards,
                },
                3 * second,
            ),
            Self::Crowd => Fault::KillEdges,
            Self::Masters => Fault::Kill(Part::Redis),
            Self::PowerLoss => Fault::LosePower,
            Self::FullDisk => Fault::FullDisk(2 * second),
        }
    }

    /// Pause before the next fault, long enough that most faults hit a system that has recovered.
    pub fn pause(self, schedule: &mut Schedule) -> Duration {
        match self {
            // The election of a leader takes 4 to 9 s.
            Self::Nats => Duration::from_secs(12),
            // All watchers have reconnected after this time.
            Self::Crowd => Duration::from_secs(15),
            // New auctions are running before everything is down again.
            Self::Dead => Duration::from_secs(8),
            // A mail with an unknown outcome is sent again after 31 s, at most four times. One try in five meets a cut.
            Self::Mail => Duration::from_secs(20),
            // Auctions have bids, and a log larger than the room that is left to it.
            Self::FullLog => Duration::from_secs(12),
            // Longer than bids and ticks may take to resume.
            Self::Ticks | Self::LongAuction => Duration::from_secs(7),
            // The services fetch unknown keys once a minute.
            Self::Keys => Duration::from_secs(61),
            Self::Masters | Self::LongStops | Self::LongestStops | Self::PowerLoss | Self::FullDisk => {
                Duration::from_secs(6)
            }
            _ => Duration::from_millis(schedule.random.u64(300..1_000)),
        }
    }
}
