//! The outbox of one auction: facts that Redis has decided and the log does not have yet.

use std::collections::HashMap;

use domain::{Head, Secrets, UserId};
use protocol::{Bid, Mark, RecordKind, Snapshot};
use redis::streams::StreamRangeReply;

use crate::HotstateError;
use crate::connection::Connection;
use crate::reply::{bid, number, snapshot, unreadable};
use crate::secrets::secrets;

/// Entries (script calls) read at once, and so merged into one record. A bound on the record's size.
const MAX_ENTRIES: usize = 64;

/// The facts of one script call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEntry {
    /// The type of the record that these facts become.
    pub kind: RecordKind,
    /// The head before its first fact.
    pub prev: Head,
    /// Where the chain stands after it.
    pub mark: Mark,
    /// When it was decided, by the clock of Redis.
    pub time: u64,
    /// The person who acted, if it was a person: the host.
    pub by: Option<UserId>,
    /// The person that the fact is about, if it is about one.
    pub user_id: Option<UserId>,
    /// The accepted bids, if the facts are bids.
    pub bids: Vec<Bid>,
    /// The public state after it.
    pub state: Snapshot,
    /// The secrets after it.
    pub secrets: Option<Secrets>,
}

pub(crate) async fn read(
    connection: &mut Connection,
    key: &str,
    committed: u64,
) -> Result<Vec<OutboxEntry>, HotstateError> {
    let mut pipe = redis::pipe();
    let after = format!("{}-0", committed + 1);
    pipe.cmd("XTRIM").arg(key).arg("MINID").arg(&after).ignore();
    pipe.xrange_count(key, "-", "+", MAX_ENTRIES);
    let (range,): (StreamRangeReply,) = pipe.query_async(connection).await?;
    range.ids.into_iter().map(|entry| read_entry(&entry.id, entry.map)).collect()
}

/// The entry that `place_bid.lua` appended, from its reply. None if it appended nothing.
pub(crate) fn appended(mark: Mark, parts: &[String]) -> Result<Option<OutboxEntry>, HotstateError> {
    let [prev, time, bids, state] = parts else {
        return if parts.is_empty() { Ok(None) } else { Err(unreadable("place_bid", "unknown form of an entry")) };
    };
    let (state, secrets) = read_state(state)?;
    Ok(Some(OutboxEntry {
        kind: RecordKind::Bids,
        prev: prev.parse().map_err(|_| unreadable("place_bid", format!("{prev:?} is no head")))?,
        mark,
        time: number(time)?,
        by: None,
        user_id: None,
        bids: read_bids(bids)?,
        state,
        secrets,
    }))
}

fn read_bids(text: &str) -> Result<Vec<Bid>, HotstateError> {
    let bids: Vec<Vec<String>> = serde_json::from_str(text).map_err(|error| unreadable("outbox", error))?;
    bids.iter().map(|fields| bid(fields)).collect()
}

fn read_state(text: &str) -> Result<(Snapshot, Option<Secrets>), HotstateError> {
    let flat: Vec<String> = serde_json::from_str(text).map_err(|error| unreadable("outbox", error))?;
    let fields = flat.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    Ok((snapshot(&fields)?, secrets(&fields)?))
}

fn read_entry(id: &str, map: HashMap<String, redis::Value>) -> Result<OutboxEntry, HotstateError> {
    let fields: HashMap<String, String> = map
        .into_iter()
        .map(|(name, value)| Ok((name, redis::from_redis_value(value)?)))
        .collect::<Result<_, redis::ParsingError>>()
        .map_err(|error| unreadable("outbox", error))?;
    let field =
        |name: &str| fields.get(name).map(String::as_str).ok_or_else(|| unreadable("outbox", format!("no {name}")));
    let head =
        |name: &str| field(name)?.parse::<Head>().map_err(|_| unreadable("outbox", format!("{name} is no head")));
    let person = |text: Option<&str>| {
        let text = text.filter(|text| !text.is_empty());
        text.map(|text| text.parse().map_err(|error| unreadable("outbox", error))).transpose()
    };
    let (state, secrets) = read_state(field("state")?)?;
    Ok(OutboxEntry {
        kind: field("type")?.parse().map_err(|error| unreadable("outbox", error))?,
        prev: head("prev")?,
        mark: Mark { seq: number(id.split('-').next().unwrap_or_default())?, head: head("head")? },
        time: number(field("time")?)?,
        by: person(Some(field("by")?))?,
        user_id: person(fields.get("user_id").map(String::as_str))?,
        bids: read_bids(field("bids")?)?,
        state,
        secrets,
    })
}
