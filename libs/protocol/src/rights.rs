//! Rights of each login: its subjects, its calls to JetStream, its Redis commands and keys, its tables.
//!
//! The one table of it. The NATS users (`nats/users.conf`), the Redis users (`nomad/redis-users.conf`) and the roles of
//! PostgreSQL (`libs/store/roles.sql`) are written from it; `tests/rights.rs` holds these files against it. A service
//! that needs a new subject, command or statement gets the right here.
//!
//! **Invariants**
//! - Only bid-processing publishes `auction.*.log`. Only the server publishes `*.events` and `*.talk`.
//! - No service deletes, purges or changes a stream, or another's durable consumer.
//! - No service but bid-processing creates consumers on a stream that it writes: the server delivers a consumer's
//!   messages to any subject, whatever its creator may publish.
//! - A reply goes to the inbox of the login that asked; no other login may listen there.

mod files;
mod subjects;

use crate::subject::{
    ALL_EVENTS, ALL_LOGS, ALL_PRESENCE, ALL_TALK, AUCTIONS_BLOCK, AUCTIONS_CANCEL, AUCTIONS_CLOSE, AUCTIONS_CREATE,
    AUCTIONS_CREATE_FOLLOWER, AUCTIONS_CREATE_WITH_PREBIDS, AUCTIONS_CREATE_WITH_RESERVE, AUCTIONS_CREATE_WITH_RULES,
    AUCTIONS_OPEN, AUCTIONS_PAUSE, AUCTIONS_RECALL, AUCTIONS_RESUME, AUCTIONS_START, AUCTIONS_STATE, AUCTIONS_UNBLOCK,
    BIDS_MAXIMUM, BIDS_OWN, BIDS_PLACE, BIDS_PLACE_WITH_MAXIMUM, CHAT_STREAM, CHECKPOINT_STREAM, DEAD_LETTER_STREAM,
    EDGES_BIDS, HISTORY_REDRIVE, LOG_STREAM, PERSISTENCE_CONSUMER, RESULTS_CONSUMER, RESULTS_REDRIVE, USERS_LIMIT,
    USERS_LIMITED, USERS_LIMITS, USERS_NAMED, USERS_NAMES, USERS_SEEN, VIDEO_ON_AIR,
};

pub use files::{nats_users, redis_user, redis_users, sql_roles};

/// A path from the root of the repository, and the text of the file there.
pub type Written = (&'static str, fn() -> String);

/// The files that are written from the table.
pub const FILES: [Written; 3] =
    [("nats/users.conf", nats_users), ("nomad/redis-users.conf", redis_users), ("libs/store/roles.sql", sql_roles)];

/// One login, of the same name in NATS, Redis and PostgreSQL, and everything that it may do.
#[derive(Debug)]
pub struct Login {
    /// The name: that of the service or command.
    pub name: &'static str,
    /// Requests that it answers.
    pub serves: &'static [&'static str],
    /// Requests that it sends.
    pub asks: &'static [&'static str],
    /// Subjects that it publishes.
    pub publishes: &'static [&'static str],
    /// Subjects that it subscribes to.
    pub subscribes: &'static [&'static str],
    /// Its rights on each stream.
    pub streams: &'static [(&'static str, &'static [Right])],
    /// Its Redis commands and keys. None: no login to Redis.
    pub redis: Option<Redis>,
    /// Its privileges on each table. Empty: no login to PostgreSQL.
    pub tables: &'static [(&'static str, &'static [&'static str])],
}

/// A right on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Reads its configuration and size.
    Info,
    /// Reads single messages from its leader.
    Get,
    /// Reads messages of the subjects that match from any of its servers, in one request.
    Direct(&'static str),
    /// Reads messages of the subjects that match through temporary pull consumers.
    Read(&'static str),
    /// Takes and acknowledges the messages of a durable consumer.
    Work(&'static str),
    /// Reads the state of a durable consumer.
    Watch(&'static str),
    /// Erases single messages.
    Erase,
    /// Purges subjects.
    Purge,
    /// Creates it if it is missing.
    Create,
    /// Creates it and updates it to its file.
    Declare,
    /// Creates, updates and restarts a durable consumer.
    DeclareConsumer(&'static str),
    /// Deletes it.
    Delete,
}

/// Redis commands beyond those of every connection, those of its scripts included, and patterns of keys.
#[derive(Debug)]
pub struct Redis {
    /// Commands, as an ACL names them.
    pub commands: &'static [&'static str],
    /// Patterns of the keys that it reads and writes.
    pub keys: &'static [&'static str],
    /// Patterns of the keys that it only reads.
    pub reads: &'static [&'static str],
}

/// Subjects of all ticks.
const ALL_TICKS: &str = "auction.*.timer";
/// Subjects of all chats as sent.
const ALL_CHAT: &str = "auction.*.chat";
/// Subjects of all checkpoints.
const ALL_CHECKPOINTS: &str = "auction.*.checkpoint";
/// Subjects on which an edge is asked for its address.
const ALL_EDGES: &str = "edges.locate.*";
/// The stream behind the bucket of leases, and its key.
const LEASES_STREAM: &str = "KV_leases";
const TIMER_LEASE_SUBJECT: &str = "$KV.leases.timer";
/// The durable consumers of the log.
pub const DURABLES: [&str; 2] = [PERSISTENCE_CONSUMER, RESULTS_CONSUMER];

/// Commands that run a script. The client loads it again when Redis has lost it.
const SCRIPTS: [&str; 3] = ["evalsha", "eval", "script|load"];
const READ_STATE: &[&str] = &["time", "multi", "exec", "hget", "hgetall", "lrange"];

const ALL: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];

/// Every login of a service or command.
pub const LOGINS: [Login; 8] = [
    Login {
        name: "auction-management",
        serves: &[AUCTIONS_RECALL, BIDS_OWN, USERS_SEEN, USERS_NAMES, USERS_LIMIT, USERS_LIMITS, RESULTS_REDRIVE],
        asks: &[
            AUCTIONS_CREATE,
            AUCTIONS_CREATE_WITH_RULES,
            AUCTIONS_CREATE_WITH_PREBIDS,
            AUCTIONS_CREATE_WITH_RESERVE,
            AUCTIONS_CREATE_FOLLOWER,
            AUCTIONS_START,
            AUCTIONS_PAUSE,
            AUCTIONS_RESUME,
            AUCTIONS_BLOCK,
            AUCTIONS_UNBLOCK,
            AUCTIONS_CLOSE,
            AUCTIONS_CANCEL,
            AUCTIONS_STATE,
            BIDS_MAXIMUM,
        ],
        // The chat: its slow mode.
        publishes: &["dlq.auction-results", ALL_CHAT, USERS_NAMED, USERS_LIMITED, VIDEO_ON_AIR],
        subscribes: &[ALL_EVENTS, ALL_TALK, VIDEO_ON_AIR],
        streams: &[
            (LOG_STREAM, &[Right::Info, Right::Get, Right::Read(ALL_LOGS), Right::Work(RESULTS_CONSUMER)]),
            (CHAT_STREAM, &[Right::Get, Right::Direct(ALL_CHAT)]),
            // Whether a letter that was stored twice is still there.
            (DEAD_LETTER_STREAM, &[Right::Get]),
        ],
        redis: Some(Redis {
            commands: &["time", "multi", "exec", "hset", "expire"],
            keys: &["auction:{*}:chat"],
            reads: &[],
        }),
        tables: &[
            ("users", &["SELECT", "INSERT", "UPDATE"]),
            ("person_limits", ALL),
            ("auctions", ALL),
            ("auction_keys", ALL),
            ("notification_outbox", &["SELECT", "INSERT", "UPDATE"]),
            ("late_recipients", ALL),
        ],
    },
    Login {
        name: "websocket",
        serves: &[ALL_EDGES],
        asks: &[
            BIDS_PLACE,
            BIDS_PLACE_WITH_MAXIMUM,
            BIDS_MAXIMUM,
            BIDS_OWN,
            AUCTIONS_STATE,
            USERS_SEEN,
            USERS_NAMES,
            ALL_EDGES,
        ],
        publishes: &[ALL_CHAT, ALL_PRESENCE, EDGES_BIDS],
        subscribes: &[ALL_EVENTS, ALL_TICKS, ALL_TALK, ALL_PRESENCE, USERS_NAMED, EDGES_BIDS, VIDEO_ON_AIR],
        streams: &[
            (LOG_STREAM, &[Right::Info, Right::Get, Right::Read(ALL_LOGS)]),
            (CHAT_STREAM, &[Right::Get, Right::Direct(ALL_CHAT), Right::Erase]),
            (LEASES_STREAM, &[Right::Info, Right::Direct(TIMER_LEASE_SUBJECT)]),
        ],
        redis: Some(Redis {
            commands: &[
                "time", SCRIPTS[0], SCRIPTS[1], SCRIPTS[2], "pttl", "exists", "get", "hget", "set", "incr", "pexpire",
                "del",
            ],
            keys: &[
                "auction:{*}:chat",
                "auction:{*}:mute:*",
                "auction:{*}:spoke:*",
                "auction:{*}:lately:*",
                "auction:{*}:said",
                "auction:{*}:host_said",
            ],
            reads: &[],
        }),
        tables: &[],
    },
    Login {
        name: "bid-processing",
        serves: &[
            BIDS_PLACE,
            BIDS_PLACE_WITH_MAXIMUM,
            BIDS_MAXIMUM,
            AUCTIONS_CREATE,
            AUCTIONS_CREATE_WITH_RULES,
            AUCTIONS_CREATE_WITH_PREBIDS,
            AUCTIONS_CREATE_WITH_RESERVE,
            AUCTIONS_CREATE_FOLLOWER,
            AUCTIONS_OPEN,
            AUCTIONS_START,
            AUCTIONS_PAUSE,
            AUCTIONS_RESUME,
            AUCTIONS_BLOCK,
            AUCTIONS_UNBLOCK,
            AUCTIONS_CLOSE,
            AUCTIONS_CANCEL,
            AUCTIONS_STATE,
        ],
        asks: &[AUCTIONS_RECALL, BIDS_OWN, USERS_SEEN, USERS_NAMES, USERS_LIMITS],
        publishes: &[ALL_LOGS, ALL_CHECKPOINTS],
        subscribes: &[ALL_EVENTS, ALL_PRESENCE, USERS_NAMED, USERS_LIMITED],
        streams: &[
            (LOG_STREAM, &[Right::Info, Right::Get, Right::Read(ALL_LOGS)]),
            (CHECKPOINT_STREAM, &[Right::Get, Right::Read(ALL_CHECKPOINTS)]),
        ],
        redis: Some(Redis {
            commands: &[
                "time",
                SCRIPTS[0],
                SCRIPTS[1],
                SCRIPTS[2],
                "multi",
                "exec",
                "hget",
                "hmget",
                "hmset",
                "hgetall",
                "hset",
                "hdel",
                "hlen",
                "expire",
                "persist",
                "exists",
                "del",
                "unlink",
                "rename",
                "zadd",
                "lpush",
                "rpush",
                "ltrim",
                "lrange",
                "xadd",
                "xtrim",
                "xrange",
                "xrevrange",
            ],
            keys: &[
                "auction:{*}:state",
                "auction:{*}:top_bids",
                "auction:{*}:bids",
                "auction:{*}:bids:*",
                "auction:{*}:outbox",
                "auction:{*}:recent",
                "auction:{*}:prebids",
            ],
            reads: &["auction:{*}:chat"],
        }),
        tables: &[],
    },
    Login {
        name: "timer",
        serves: &[],
        asks: &[AUCTIONS_OPEN, AUCTIONS_CLOSE, AUCTIONS_STATE],
        publishes: &[ALL_TICKS, TIMER_LEASE_SUBJECT],
        subscribes: &[],
        streams: &[
            (LOG_STREAM, &[Right::Info, Right::Read(ALL_LOGS)]),
            (LEASES_STREAM, &[Right::Info, Right::Direct(TIMER_LEASE_SUBJECT), Right::Create]),
        ],
        redis: Some(Redis { commands: &["time"], keys: &[], reads: &[] }),
        tables: &[],
    },
    Login {
        name: "bid-persistence",
        serves: &[HISTORY_REDRIVE],
        asks: &[],
        publishes: &["dlq.bid-persistence"],
        subscribes: &[],
        streams: &[
            (LOG_STREAM, &[Right::Info, Right::Get, Right::Work(PERSISTENCE_CONSUMER)]),
            (DEAD_LETTER_STREAM, &[Right::Get]),
        ],
        redis: None,
        tables: &[],
    },
    Login {
        name: "auction-notifications",
        serves: &[],
        asks: &[],
        publishes: &[],
        subscribes: &[],
        streams: &[],
        redis: None,
        tables: &[("mails", ALL)],
    },
    Login {
        name: "migrate",
        serves: &[],
        asks: &[],
        publishes: &[],
        subscribes: &[],
        streams: &[
            (
                LOG_STREAM,
                &[
                    Right::Declare,
                    Right::DeclareConsumer(PERSISTENCE_CONSUMER),
                    Right::DeclareConsumer(RESULTS_CONSUMER),
                ],
            ),
            (CHAT_STREAM, &[Right::Declare]),
            (CHECKPOINT_STREAM, &[Right::Declare]),
            (DEAD_LETTER_STREAM, &[Right::Declare]),
            (LEASES_STREAM, &[Right::Declare, Right::Delete]),
        ],
        redis: None,
        // It owns the tables: PostgreSQL's own login of the deployment.
        tables: &[],
    },
    Login {
        name: "log-archive",
        serves: &[],
        asks: &[],
        publishes: &[],
        subscribes: &[],
        streams: &[(
            LOG_STREAM,
            &[
                Right::Info,
                Right::Read(ALL_LOGS),
                Right::Watch(PERSISTENCE_CONSUMER),
                Right::Watch(RESULTS_CONSUMER),
                Right::Purge,
            ],
        )],
        redis: Some(Redis {
            commands: READ_STATE,
            keys: &[],
            reads: &["auction:{*}:state", "auction:{*}:recent", "auction:{*}:chat"],
        }),
        tables: &[],
    },
];

/// The NATS user of people who look.
pub const OPERATOR: &str = "operator";
/// The NATS user of people and of the commands of `flash-admin` that repair.
pub const ADMIN: &str = "admin";
/// The NATS user of the system account, which answers `nats server report`.
pub const SYSTEM: &str = "system";
/// Prefix of people's inboxes, which is that of the nats CLI.
const PEOPLE_INBOX: &str = "_INBOX";

/// The login of this name.
#[must_use]
pub fn login(name: &str) -> Option<&'static Login> {
    const { &LOGINS }.iter().find(|login| login.name == name)
}

/// Prefix of a NATS user's inboxes: its own for a service or command, the usual one for people.
#[must_use]
pub fn inbox(user: &str) -> String {
    login(user).map_or_else(|| PEOPLE_INBOX.to_owned(), |login| format!("{PEOPLE_INBOX}_{}", login.name))
}

/// Whether a subject is an inbox.
#[must_use]
pub fn is_inbox(subject: &str) -> bool {
    subject.starts_with(PEOPLE_INBOX)
}

/// The variable with the password of a NATS user, in the environment of nats-server.
#[must_use]
pub fn nats_variable(user: &str) -> String {
    format!("NATS_{}_PASSWORD", variable(user))
}

/// The variable with the password of a Redis user, in the environment of `nomad/redis-start.sh`.
#[must_use]
pub fn redis_variable(user: &str) -> String {
    format!("REDIS_{}_PASSWORD", variable(user))
}

fn variable(user: &str) -> String {
    user.replace('-', "_").to_uppercase()
}
