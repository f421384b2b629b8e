//! The table of rights: its invariants, and the files that are written from it. `UPDATE_RIGHTS=1` writes the files.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;

use protocol::rights::{ADMIN, FILES, LOGINS, OPERATOR, SYSTEM, inbox, login, nats_variable, redis_variable};

#[test]
fn files_are_those_of_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (name, expected) in FILES {
        let (file, expected) = (root.join(name), expected());
        if std::env::var_os("UPDATE_RIGHTS").is_some() {
            std::fs::write(&file, &expected).unwrap();
        }
        let stored = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(stored == expected, "{name} differs from the table; UPDATE_RIGHTS=1 writes it again");
    }
}

/// Compose and Nomad give each server the password of each of its users.
#[test]
fn deployments_set_the_password_of_each_login() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let people = [OPERATOR, ADMIN, SYSTEM];
    let nats: Vec<String> = LOGINS.iter().map(|login| login.name).chain(people).map(nats_variable).collect();
    let with_redis = LOGINS.iter().filter(|login| login.redis.is_some());
    let redis: Vec<String> = with_redis.map(|login| redis_variable(login.name)).collect();
    for (file, variables) in [
        ("docker-compose.yml", [nats.clone(), redis.clone()].concat()),
        ("nomad/nats.nomad.hcl", nats.clone()),
        ("nomad/nats-cluster.nomad.hcl", nats),
        ("nomad/redis.nomad.hcl", redis),
    ] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        for variable in variables {
            assert!(
                text.contains(&format!(" {variable}=")) || text.contains(&format!(" {variable}: ")),
                "{file}: {variable}"
            );
        }
    }
}

/// The logins that may publish a subject.
fn publishers(subject: &str) -> BTreeSet<&'static str> {
    LOGINS.iter().filter(|login| login.publishes_to(subject)).map(|login| login.name).collect()
}

#[test]
fn each_subject_has_the_publishers_that_it_must_have() {
    let id = "3a3ea00c-fc35-332c-ac92-3c27f0e27cd5";
    for (subject, expected) in [
        (format!("auction.{id}.log"), &["bid-processing"][..]),
        (format!("auction.{id}.events"), &[]),
        (format!("auction.{id}.talk"), &[]),
        (format!("auction.{id}.timer"), &["timer"]),
        (format!("auction.{id}.chat"), &["auction-management", "websocket"]),
        (format!("auction.{id}.presence"), &["websocket"]),
        (format!("auction.{id}.checkpoint"), &["bid-processing"]),
        ("bids.place".to_owned(), &["websocket"]),
        ("video.on_air".to_owned(), &["auction-management"]),
        ("auctions.cancel".to_owned(), &["auction-management"]),
        ("auctions.create".to_owned(), &["auction-management"]),
        ("auctions.create_with_rules".to_owned(), &["auction-management"]),
        ("auctions.create_follower".to_owned(), &["auction-management"]),
        ("auctions.pause".to_owned(), &["auction-management"]),
        ("auctions.block".to_owned(), &["auction-management"]),
        ("auctions.close".to_owned(), &["auction-management", "timer"]),
        ("dlq.bid-persistence".to_owned(), &["bid-persistence"]),
        ("$KV.leases.timer".to_owned(), &["timer"]),
        ("$JS.API.STREAM.DELETE.AUCTION_LOG".to_owned(), &[]),
        ("$JS.API.STREAM.UPDATE.AUCTION_LOG".to_owned(), &["migrate"]),
        ("$JS.API.STREAM.PURGE.AUCTION_LOG".to_owned(), &["log-archive"]),
        ("$JS.API.STREAM.CREATE.EVIL".to_owned(), &[]),
        ("$JS.API.STREAM.MSG.DELETE.AUCTION_CHAT".to_owned(), &["websocket"]),
        ("$JS.API.STREAM.MSG.DELETE.AUCTION_LOG".to_owned(), &[]),
        ("$JS.API.CONSUMER.CREATE.AUCTION_LOG".to_owned(), &[]),
        (format!("$JS.API.CONSUMER.CREATE.AUCTION_LOG.bid-persistence.auction.{id}.log"), &["migrate"]),
        ("$JS.API.CONSUMER.DELETE.AUCTION_LOG.auction-results".to_owned(), &["migrate"]),
        ("$JS.API.CONSUMER.MSG.NEXT.AUCTION_LOG.bid-persistence".to_owned(), &["bid-persistence"]),
        ("$JS.API.CONSUMER.MSG.NEXT.AUCTION_LOG.auction-results".to_owned(), &["auction-management"]),
        ("$JS.ACK.AUCTION_LOG.bid-persistence.1.2.3.4.5".to_owned(), &["bid-persistence"]),
        ("$JS.ACK._.hash.AUCTION_LOG.auction-results.1.2.3.4.5".to_owned(), &["auction-management"]),
        // The answers to an edge: bid-processing serves its bids, auction-management the people it has seen,
        // another edge its address.
        (format!("{}.a.b", inbox("websocket")), &["auction-management", "bid-processing", "websocket"]),
        (format!("{}.a.b", inbox("timer")), &["bid-processing"]),
        (format!("{}.a.b", inbox("bid-persistence")), &[]),
    ] {
        assert_eq!(publishers(&subject), expected.iter().copied().collect(), "{subject}");
    }
}

#[test]
fn each_login_listens_to_its_own_inbox_alone() {
    for listener in &LOGINS {
        for other in &LOGINS {
            let subject = format!("{}.a.b", inbox(other.name));
            let may = listener.subscribes_to(&subject);
            assert_eq!(may, listener.name == other.name, "{} and the inbox of {}", listener.name, other.name);
        }
        assert!(!listener.subscribes_to("auction.1.log"), "{}", listener.name);
    }
}

/// A consumer delivers to any subject, and so lets the creator of a stream's messages publish anywhere.
#[test]
fn no_login_writes_a_stream_and_creates_consumers_on_it() {
    for (stream, subject) in
        [("AUCTION_LOG", "auction.1.log"), ("AUCTION_CHAT", "auction.1.chat"), ("AUCTION_DLQ", "dlq.bid-persistence")]
    {
        let create = format!("$JS.API.CONSUMER.CREATE.{stream}.any.{subject}");
        let both: Vec<_> = publishers(&create).intersection(&publishers(subject)).copied().collect();
        // bid-processing decides everything already.
        let expected = if stream == "AUCTION_LOG" { &["bid-processing"][..] } else { &[] };
        assert_eq!(both, expected, "{stream}");
    }
}

#[test]
fn logins_to_redis_have_no_dangerous_command() {
    for one in &LOGINS {
        for command in one.redis.iter().flat_map(|redis| redis.commands) {
            assert!(!command.contains(['@', '*']), "{} has {command}", one.name);
            for dangerous in ["flush", "config", "keys", "replicaof", "debug", "migrate", "acl", "shutdown"] {
                assert!(!command.starts_with(dangerous), "{} has {command}", one.name);
            }
        }
    }
    assert_eq!(login("timer").unwrap().redis.as_ref().unwrap().commands, ["time"]);
}
