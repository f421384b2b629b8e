//! Records a run in the format that [`checker::history`] reads: calls, frames and faults while they happen, the
//! stored results at the end.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use cloud::{History, OwnBid};
use domain::Amount;
use identity::development::DevelopmentUser;
use protocol::{Naming, PublicBid};
use serde_json::{Value, json};
use testkit::http;

use super::running::Stack;
use super::{connections, prepare};

/// Microseconds since 1970 by this machine's clock.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A history that grows; all clients of a run share it.
#[derive(Debug, Default)]
pub struct Recorder {
    lines: Mutex<Vec<Value>>,
}

impl Recorder {
    fn add(&self, line: Value) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// Records a bid that was sent, and its answer if one came.
    pub fn call(&self, user: &DevelopmentUser, bid: &Value, sent: u64, answer: Option<&Value>) {
        let cents = |field: &str| Amount::parse(bid[field].as_str()?).ok().map(Amount::cents);
        let answered = answer.map(|_| now());
        self.add(json!({"kind": "call", "user_id": user.user_id.to_string(), "bid_id": bid["bid_id"],
                        "cents": cents("amount").unwrap_or(0), "max_cents": cents("max_amount"), "auction_id": bid["auction_id"], "sent": sent, "answered": answered, "answer": answer}));
    }

    /// Records a frame that a connection got.
    pub fn frame(&self, connection: &str, user: &DevelopmentUser, frame: &Value, last_seq: Option<u64>) {
        self.add(json!({"kind": "frame", "connection": connection, "user_id": user.user_id.to_string(), "at": now(),
                        "event": frame["event"], "data": frame["data"], "last_seq": last_seq}));
    }

    /// Records a fault: what it was, the parts that it hit, its beginning and end in microseconds.
    pub fn fault(&self, what: &str, parts: &[&str], from: u64, to: u64) {
        self.add(json!({"kind": "fault", "what": what, "parts": parts, "from": from, "to": to}));
    }

    /// Records the status of a service's answer to `GET /ready`; 0 without an answer.
    pub fn probe(&self, service: &str, status: u16) {
        self.add(json!({"kind": "probe", "service": service, "at": now(), "status": status}));
    }

    /// Records a text that must occur nowhere else.
    pub fn secret(&self, text: &str) {
        self.add(json!({"kind": "secret", "text": text}));
    }

    /// The whole history with these stored results, as JSON lines.
    #[must_use]
    pub fn text(&self, results: &[Value]) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().chain(results).map(|line| line.to_string() + "\n").collect()
    }
}

/// The records, history items, rows and mails of these auctions as they are now. `people` are all users that may
/// have got a mail.
///
/// # Errors
/// When one of them cannot be read.
pub async fn books(stack: &Stack, auctions: &[String], people: &[DevelopmentUser]) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    let nats = connections::nats(&stack.servers);
    let log = bus::Log::open(&bus::Bus::connect(&nats, "flash check").await?).await?;
    let store = store::Store::connect(&stack.servers.postgres_url()).await?;
    let aws = cloud::configuration(&prepare::aws(&stack.servers)).await;
    let history = History::new(&aws, stack.prepared.bids_table);
    let mailbox = http::emulator_state(&stack.servers.aws_endpoint()).await?;
    let addresses: HashMap<&str, &DevelopmentUser> =
        people.iter().map(|person| (person.email.as_str(), person)).collect();
    for auction in auctions {
        for (stream_seq, record) in log.stored(auction.parse()?, 0).await?.collect().await? {
            let record: Value = serde_json::from_slice(&record)?;
            lines.push(json!({"kind": "record", "stream_seq": stream_seq, "record": record}));
        }
        let row = store.auction(auction.parse()?).await?.context("the auction has no row")?;
        lines.push(json!({"kind": "row", "row": {
            "auction_id": auction, "status": row.status, "outcome": row.outcome, "bid_count": row.bid_count,
            "winner_id": row.winner.as_ref().map(|winner| winner.user_id.to_string()),
            "winning_bid": decimal(row.winning_bid)?,
        }}));
        for mail in mailbox["ses"]["Message"].as_array().into_iter().flatten() {
            let (subject, to) = (mail["subject"].as_str(), mail["destinations"]["ToAddresses"][0].as_str());
            let (subject, to) =
                (subject.context("a mail without a subject")?, to.context("a mail without an address")?);
            if let Some(subject) = subject.strip_suffix(row.title.as_str()) {
                let kind = match subject {
                    "You won: " => "won",
                    "Sold: " => "hosted",
                    _ if addresses.get(to).is_some_and(|person| person.user_id == row.host.user_id) => "hosted",
                    _ => "lost",
                };
                let user_id = addresses.get(to).map(|person| person.user_id.to_string());
                lines.push(json!({"kind": "mail", "auction_id": auction, "user_id": user_id, "mail": kind}));
            }
        }
    }
    store.close().await;
    // All auctions in one scan: for every page, however small, the emulator sorts the whole table.
    for OwnBid { auction_id, bid } in history.all().await? {
        let item = serde_json::to_value(PublicBid::new(&bid, Naming::Names))?;
        lines.push(json!({"kind": "item", "auction_id": auction_id.to_string(), "item": item}));
    }
    Ok(lines)
}

/// An amount as the API shows it.
fn decimal(amount: Option<Amount>) -> Result<Value> {
    Ok(amount.map(|amount| serde_json::from_str(&amount.to_string())).transpose()?.unwrap_or(Value::Null))
}
