//! Writes down what happens, as [`super::history`] reads it: clients while it happens, the books at the end.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use cloud::{History, OwnBid};
use domain::Amount;
use identity::development::DevelopmentUser;
use protocol::PublicBid;
use serde_json::{Value, json};
use testkit::http;

use crate::stack::Stack;

/// Microseconds since 1970 by this machine's clock.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A history in the making; shared by all who write.
#[derive(Debug, Default)]
pub struct Recorder {
    lines: Mutex<Vec<Value>>,
}

impl Recorder {
    fn add(&self, line: Value) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// A bid as it was sent, and what came back, if anything did.
    pub fn call(&self, user: &DevelopmentUser, bid: &Value, sent: u64, answer: Option<&Value>) {
        let cents = Amount::parse(bid["amount"].as_str().unwrap_or_default()).map_or(0, Amount::cents);
        let answered = answer.map(|_| now());
        self.add(json!({"kind": "call", "user_id": user.user_id.to_string(), "bid_id": bid["bid_id"], "cents": cents,
                        "auction_id": bid["auction_id"], "sent": sent, "answered": answered, "answer": answer}));
    }

    /// A frame as it came.
    pub fn frame(&self, connection: &str, user: &DevelopmentUser, frame: &Value, last_seq: Option<u64>) {
        self.add(json!({"kind": "frame", "connection": connection, "user_id": user.user_id.to_string(), "at": now(),
                        "event": frame["event"], "data": frame["data"], "last_seq": last_seq}));
    }

    /// What was done to which parts, and when it was over.
    pub fn fault(&self, what: &str, parts: &[&str], from: u64, to: u64) {
        self.add(json!({"kind": "fault", "what": what, "parts": parts, "from": from, "to": to}));
    }

    /// A text that nobody else may see.
    pub fn secret(&self, text: &str) {
        self.add(json!({"kind": "secret", "text": text}));
    }

    /// The whole with these books, as JSON lines.
    #[must_use]
    pub fn text(&self, books: &[Value]) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().chain(books).map(|line| line.to_string() + "\n").collect()
    }
}

/// What log, history, rows and mails say of these auctions now, as lines. `people`: everybody who may have
/// been written to.
///
/// # Errors
/// When one of them cannot be read.
pub async fn books(stack: &Stack, auctions: &[String], people: &[DevelopmentUser]) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    let nats = bus::Settings { url: stack.servers.nats_url(), credentials_file: None };
    let log = bus::Log::open(&bus::Bus::connect(&nats, "flash check").await?).await?;
    let store = store::Store::connect(&stack.servers.postgres_url()).await?;
    let aws = cloud::configuration(&crate::prepare::aws(&stack.servers)).await;
    let history = History::new(&aws, stack.prepared.bids_table);
    let mailbox = http::get(&format!("{}/moto-api/data.json", stack.servers.aws_endpoint()), None).await?.json;
    let addresses: HashMap<&str, &DevelopmentUser> =
        people.iter().map(|person| (person.email.as_str(), person)).collect();
    for auction in auctions {
        for (stream_seq, record) in log.stored(auction.parse()?).await? {
            let record: Value = serde_json::from_slice(&record)?;
            lines.push(json!({"kind": "record", "stream_seq": stream_seq, "record": record}));
        }
        let row = store.auction(auction.parse()?).await?.context("a row")?;
        lines.push(json!({"kind": "row", "row": {
            "auction_id": auction, "status": row.status, "outcome": row.outcome, "bid_count": row.bid_count,
            "winner_id": row.winner.as_ref().map(|winner| winner.user_id.to_string()),
            "winning_bid": decimal(row.winning_bid)?,
        }}));
        for mail in mailbox["ses"]["Message"].as_array().into_iter().flatten() {
            let (subject, to) = (mail["subject"].as_str(), mail["destinations"]["ToAddresses"][0].as_str());
            let (subject, to) = (subject.context("a subject")?, to.context("an address")?);
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
    // At once: for each page, however small, the emulator sorts all that it has.
    for OwnBid { auction_id, bid } in history.all().await? {
        let item = serde_json::to_value(PublicBid::from(&bid))?;
        lines.push(json!({"kind": "item", "auction_id": auction_id.to_string(), "item": item}));
    }
    Ok(lines)
}

/// An amount as the outside sees it.
fn decimal(amount: Option<Amount>) -> Result<Value> {
    Ok(amount.map(|amount| serde_json::from_str(&amount.to_string())).transpose()?.unwrap_or(Value::Null))
}
