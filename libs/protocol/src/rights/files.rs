//! The table of rights in the words of each server.

use std::fmt::Write;

use super::{ADMIN, DURABLES, LOGINS, Login, OPERATOR, SYSTEM, inbox, nats_variable, redis_variable};
use crate::subject::{AUCTIONS_CANCEL, AUCTIONS_STATE, HISTORY_REDRIVE, LOG_STREAM, RESULTS_REDRIVE, USERS_LIMIT};

/// Where the files come from.
const ORIGIN: &str = "libs/protocol/src/rights.rs";

/// Calls of JetStream that only look. Consumers of its own are how the nats CLI reads a stream.
const LOOK: [&str; 19] = [
    "$SRV.>",
    ALL_STATUS,
    // The rights of the user itself.
    "$SYS.REQ.USER.INFO",
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.INFO.>",
    "$JS.API.STREAM.MSG.GET.>",
    "$JS.API.DIRECT.GET.>",
    "$JS.API.STREAM.SNAPSHOT.>",
    "$JS.SNAPSHOT.ACK.>",
    "$JS.API.CONSUMER.NAMES.>",
    "$JS.API.CONSUMER.LIST.>",
    "$JS.API.CONSUMER.INFO.>",
    // With the consumer's name in the subject; a request without it may name a durable one in its body.
    "$JS.API.CONSUMER.CREATE.*.*",
    "$JS.API.CONSUMER.CREATE.*.*.>",
    "$JS.API.CONSUMER.DELETE.>",
    "$JS.API.CONSUMER.MSG.NEXT.>",
    "$JS.FC.>",
];
/// Calls of JetStream that repair, and the requests of `flash-admin rebuild`, `restore`, `dlq redrive` and `limit`.
const REPAIR: [&str; 12] = [
    "$SRV.>",
    ALL_STATUS,
    "$SYS.REQ.USER.INFO",
    "$JS.API.>",
    "$JS.ACK.>",
    "$JS.SNAPSHOT.>",
    "$JS.FC.>",
    AUCTIONS_STATE,
    AUCTIONS_CANCEL,
    HISTORY_REDRIVE,
    RESULTS_REDRIVE,
    USERS_LIMIT,
];
/// The state of each service's instances.
const ALL_STATUS: &str = "status.*";

/// Commands of every Redis connection: to log in, to find the nodes of a cluster, to notice that one is away.
const CONNECTION: &str = "+auth +hello +ping +info +asking +readonly +cluster|slots";

/// Users of NATS. The passwords come from the environment of nats-server.
#[must_use]
pub fn nats_users() -> String {
    let mut text = format!(
        "# Users and rights, written from {ORIGIN}: change them there.\n\
         # Passwords come from the environment; one that is missing stops nats-server at its start.\n\n\
         authorization {{\n  \
         # Seconds for a client to log in. Enough for the services of a loaded machine that start together.\n  \
         timeout: 5\n  users: [\n"
    );
    for login in &LOGINS {
        let what = if login.is_a_service() { "The service" } else { "The command" };
        nats_user(
            &mut text,
            &format!("{what} {}.", login.name),
            login.name,
            [login.may_publish(), login.may_not_publish(), login.may_subscribe(), Vec::new()],
        );
    }
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    // Replies to the services stay theirs.
    let inboxes: Vec<String> = LOGINS.iter().map(|login| format!("{}.>", inbox(login.name))).collect();
    let about = "People who look: they read everything and back up; they change, acknowledge and publish nothing.";
    nats_user(&mut text, about, OPERATOR, [owned(&LOOK), durables(), owned(&[">"]), inboxes.clone()]);
    let about = "People and commands that repair: purge, restore, edit, reset, step down.";
    nats_user(&mut text, about, ADMIN, [owned(&REPAIR), Vec::new(), owned(&[">"]), inboxes]);
    text += &format!(
        "  ]\n}}\n\n# The system account: nats server report, ls, top.\n\
         accounts {{ $SYS: {{ users: [ {{ user: {SYSTEM}, password: ${} }} ] }} }}\n",
        nats_variable(SYSTEM)
    );
    text
}

/// Calls that take messages from a durable consumer, change or delete it.
fn durables() -> Vec<String> {
    let calls = |durable: &&str| {
        [
            format!("$JS.API.CONSUMER.CREATE.{LOG_STREAM}.{durable}"),
            format!("$JS.API.CONSUMER.CREATE.{LOG_STREAM}.{durable}.>"),
            format!("$JS.API.CONSUMER.DELETE.{LOG_STREAM}.{durable}"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{LOG_STREAM}.{durable}"),
        ]
    };
    // The old way to create a durable consumer.
    let old = "$JS.API.CONSUMER.DURABLE.CREATE.>".to_owned();
    DURABLES.iter().flat_map(calls).chain([old]).collect()
}

/// One user: subjects that it may publish and may not, may subscribe to and may not.
fn nats_user(text: &mut String, about: &str, name: &str, subjects: [Vec<String>; 4]) {
    let [may_publish, may_not_publish, may_subscribe, may_not_subscribe] = subjects;
    let side = |allowed: &[String], denied: &[String]| {
        let mut side = format!("{{\n          allow: {}\n", list(allowed));
        if !denied.is_empty() {
            side += &format!("          deny: {}\n", list(denied));
        }
        side + "        }"
    };
    let written = write!(
        text,
        "    # {about}\n    {{\n      user: {name}, password: ${}\n      permissions: {{\n        publish: {}\n        \
         subscribe: {}\n      }}\n    }}\n",
        nats_variable(name),
        side(&may_publish, &may_not_publish),
        side(&may_subscribe, &may_not_subscribe),
    );
    debug_assert!(written.is_ok(), "a String takes everything");
}

/// Subjects in brackets, one a line.
fn list(subjects: &[String]) -> String {
    let quoted: Vec<String> = subjects.iter().map(|subject| format!("            \"{subject}\"\n")).collect();
    format!("[\n{}          ]", quoted.concat())
}

/// Users of Redis, with variables in place of the passwords.
#[must_use]
pub fn redis_users() -> String {
    let mut text = format!(
        "# Users and rights, written from {ORIGIN}: change them there.\n\
         # nomad/redis-start.sh puts the passwords in place of the variables; one that is missing stops it. The user\n\
         # default, with the password of requirepass, keeps all rights: for people and replicas.\n"
    );
    for login in &LOGINS {
        text.extend(redis_user(login, &format!("${{{}:?}}", redis_variable(login.name))));
    }
    text
}

/// The line of redis.conf that defines a login's user. None: it has none.
#[must_use]
pub fn redis_user(login: &Login, password: &str) -> Option<String> {
    let redis = login.redis.as_ref()?;
    let mut line = format!("user {} on >{password} resetchannels", login.name);
    line.extend(redis.keys.iter().map(|pattern| format!(" ~{pattern}")));
    line.extend(redis.reads.iter().map(|pattern| format!(" %R~{pattern}")));
    line += &format!(" -@all {CONNECTION}");
    line.extend(redis.commands.iter().map(|command| format!(" +{command}")));
    Some(line + "\n")
}

/// Roles of PostgreSQL. Repeatable; run by the owner of the tables after the migrations.
#[must_use]
pub fn sql_roles() -> String {
    let mut text = format!(
        "-- Roles and their privileges, written from {ORIGIN}: change them there.\n\
         -- Run by `flash-admin migrate` after the migrations, as the owner of the tables. A login that may create no roles\n\
         -- leaves out those that are missing; a role that is made later gets its privileges from the next run.\n\
         DO $roles$\nDECLARE\n    may_create CONSTANT boolean := (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user);\nBEGIN\n    \
         -- One run at a time: they change the same rows of the catalogue.\n    \
         PERFORM pg_advisory_xact_lock(hashtext('flash roles'));\n"
    );
    for login in LOGINS.iter().filter(|login| !login.tables.is_empty()) {
        let role = login.role();
        text += &format!(
            "\n    IF may_create AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN\n        \
             CREATE ROLE {role} NOLOGIN;\n    END IF;\n    \
             IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN\n        \
             REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role};\n"
        );
        for (table, privileges) in login.tables {
            text += &format!("        GRANT {} ON {table} TO {role};\n", privileges.join(", "));
        }
        text += "    END IF;\n";
    }
    text + "END\n$roles$;\n"
}
