//! What was written down, one JSON object a line. Times `sent`, `answered`, `at`, `from`, `to` are
//! microseconds since 1970 by the clients' clock; for records, items and frames see CONTRACT.md.
//!
//! | `kind` | fields |
//! |---|---|
//! | `call` | `user_id, bid_id, auction_id, cents, sent, answered?, answer?` (the answer as a bidder gets it; none: it never came) |
//! | `record` | `stream_seq, record` (also what `flash log archive` writes) |
//! | `item` | `auction_id, item` (a bid of `GET /auctions/{id}/bids`) |
//! | `row` | `row` (`auction_id, status, outcome, winner_id, winning_bid, bid_count` of the auction object) |
//! | `frame` | `connection, user_id, at, event, data, last_seq?` (of `joined_auction`: what was asked for); the event `disconnected` ends a connection |
//! | `mail` | `auction_id, user_id, mail` (`won`, `lost`, `hosted`) |
//! | `fault` | `parts` (services and servers), `what`, `from, to` |
//! | `secret` | `text` (must stand in no other line) |

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

/// The kinds of lines of which a whole history has some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    Call,
    Record,
    Item,
    Row,
    Frame,
    Mail,
}

impl Kind {
    pub const NEEDED: [Self; 6] = [Self::Call, Self::Record, Self::Item, Self::Row, Self::Frame, Self::Mail];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Record => "record",
            Self::Item => "item",
            Self::Row => "row",
            Self::Frame => "frame",
            Self::Mail => "mail",
        }
    }
}

#[derive(Debug, Deserialize)]
pub struct Call {
    #[serde(skip)]
    pub line: usize,
    pub user_id: String,
    pub bid_id: String,
    pub auction_id: String,
    pub cents: u64,
    pub sent: u64,
    pub answered: Option<u64>,
    pub answer: Option<Value>,
}

/// Refusals that rest on no state: nothing was decided.
const UNDECIDED: [&str; 9] = [
    "unavailable",
    "overloaded",
    "rate_limited",
    "invalid_request",
    "invalid_amount",
    "unauthenticated",
    "token_expired",
    "auction_not_found",
    "limit_exceeded",
];

impl Call {
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.answer.as_ref()?["code"].as_str()
    }

    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.answer.is_none() || self.code() == Some("outcome_unknown")
    }

    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer["status"] == "accepted")
    }

    /// Refused by the rules of the auction, for what stood at the seq that the answer names.
    #[must_use]
    pub fn is_ruled_out(&self) -> bool {
        self.code().is_some_and(|code| code != "outcome_unknown" && !UNDECIDED.contains(&code))
    }

    #[must_use]
    pub fn seq(&self) -> Option<u64> {
        self.answer.as_ref()?["seq"].as_u64()
    }
}

#[derive(Debug, Deserialize)]
pub struct Logged {
    #[serde(skip)]
    pub line: usize,
    pub stream_seq: u64,
    pub record: Value,
}

#[derive(Debug, Deserialize)]
pub struct Item {
    #[serde(skip)]
    pub line: usize,
    pub auction_id: String,
    pub item: Value,
}

#[derive(Debug, Deserialize)]
pub struct Row {
    #[serde(skip)]
    pub line: usize,
    pub row: Value,
}

#[derive(Debug, Deserialize)]
pub struct Frame {
    #[serde(skip)]
    pub line: usize,
    pub connection: String,
    pub user_id: String,
    pub at: u64,
    pub event: String,
    #[serde(default)]
    pub data: Value,
    pub last_seq: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub struct Mail {
    #[serde(skip)]
    pub line: usize,
    pub auction_id: String,
    pub user_id: String,
    pub mail: String,
}

#[derive(Debug, Deserialize)]
pub struct Fault {
    #[serde(skip)]
    pub line: usize,
    /// Which services and servers it hit: `redis`, `nats`, `bid-processing`, …
    pub parts: Vec<String>,
    pub from: u64,
    /// When it was over: restarted, going on, connected again.
    pub to: u64,
}

#[derive(Debug, Deserialize)]
pub struct Secret {
    #[serde(skip)]
    pub line: usize,
    pub text: String,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line {
    Call(Call),
    Record(Logged),
    Item(Item),
    Row(Row),
    Frame(Frame),
    Mail(Mail),
    Fault(Fault),
    Secret(Secret),
}

/// A whole run.
#[derive(Debug, Default)]
pub struct History {
    pub lines: Vec<String>,
    pub calls: Vec<Call>,
    /// In the order of the stream.
    pub records: Vec<Logged>,
    pub items: Vec<Item>,
    pub rows: Vec<Row>,
    /// In the order in which each connection got them.
    pub frames: Vec<Frame>,
    pub mails: Vec<Mail>,
    pub faults: Vec<Fault>,
    pub secrets: Vec<Secret>,
    /// Connections that ended before the run did.
    pub disconnected: BTreeSet<String>,
    /// Where the lines of each auction stand in the lists above.
    index: BTreeMap<String, Places>,
}

#[derive(Debug, Default)]
struct Places {
    calls: Vec<usize>,
    records: Vec<usize>,
    items: Vec<usize>,
    frames: Vec<usize>,
}

/// The places of those about one auction.
fn places<'a, T>(all: &'a [T], found: Option<&'a Vec<usize>>) -> impl DoubleEndedIterator<Item = &'a T> + Clone {
    found.map_or(&[][..], Vec::as_slice).iter().map(|place| &all[*place])
}

impl History {
    /// # Errors
    /// Which line cannot be read, and why.
    pub fn parse(text: &str) -> Result<Self> {
        let mut history = Self::default();
        for text in text.lines().filter(|line| !line.trim().is_empty()) {
            let line = history.lines.len();
            let parsed: Line =
                serde_json::from_str(text).with_context(|| format!("line {} cannot be read", line + 1))?;
            history.lines.push(text.to_owned());
            match parsed {
                Line::Call(call) => history.calls.push(Call { line, ..call }),
                Line::Record(record) => history.records.push(Logged { line, ..record }),
                Line::Item(item) => history.items.push(Item { line, ..item }),
                Line::Row(row) => history.rows.push(Row { line, ..row }),
                Line::Frame(frame) => history.frames.push(Frame { line, ..frame }),
                Line::Mail(mail) => history.mails.push(Mail { line, ..mail }),
                Line::Fault(fault) => history.faults.push(Fault { line, ..fault }),
                Line::Secret(secret) => history.secrets.push(Secret { line, ..secret }),
            }
        }
        history.records.sort_by_key(|logged| logged.stream_seq);
        let ended = history.frames.iter().filter(|frame| frame.event == "disconnected");
        history.disconnected = ended.map(|frame| frame.connection.clone()).collect();
        history.index();
        Ok(history)
    }

    fn index(&mut self) {
        let Self { calls, records, items, frames, index, .. } = self;
        let mut of = |auction: Option<&str>, put: &mut dyn FnMut(&mut Places)| {
            auction.into_iter().for_each(|auction| put(index.entry(auction.to_owned()).or_default()));
        };
        for (at, call) in calls.iter().enumerate() {
            of(Some(&call.auction_id), &mut |places| places.calls.push(at));
        }
        for (at, logged) in records.iter().enumerate() {
            of(logged.record["auction_id"].as_str(), &mut |places| places.records.push(at));
        }
        for (at, item) in items.iter().enumerate() {
            of(Some(&item.auction_id), &mut |places| places.items.push(at));
        }
        for (at, frame) in frames.iter().enumerate() {
            of(frame.data["auction_id"].as_str(), &mut |places| places.frames.push(at));
        }
    }

    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Call => self.calls.len(),
            Kind::Record => self.records.len(),
            Kind::Item => self.items.len(),
            Kind::Row => self.rows.len(),
            Kind::Frame => self.frames.len(),
            Kind::Mail => self.mails.len(),
        }
    }

    /// Every auction that is spoken of.
    pub fn auctions(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    pub fn calls_of(&self, auction: &str) -> impl DoubleEndedIterator<Item = &Call> + Clone {
        places(&self.calls, self.index.get(auction).map(|places| &places.calls))
    }

    pub fn records_of(&self, auction: &str) -> impl DoubleEndedIterator<Item = &Logged> + Clone {
        places(&self.records, self.index.get(auction).map(|places| &places.records))
    }

    pub fn items_of(&self, auction: &str) -> impl DoubleEndedIterator<Item = &Item> + Clone {
        places(&self.items, self.index.get(auction).map(|places| &places.items))
    }

    pub fn frames_of(&self, auction: &str) -> impl DoubleEndedIterator<Item = &Frame> + Clone {
        places(&self.frames, self.index.get(auction).map(|places| &places.frames))
    }

    /// The latest moment that anything here speaks of, in microseconds.
    #[must_use]
    pub fn end(&self) -> u64 {
        let calls = self.calls.iter().map(|call| call.answered.unwrap_or(call.sent));
        calls.chain(self.frames.iter().map(|frame| frame.at)).max().unwrap_or(0)
    }

    /// The faults that hit one of these parts.
    pub fn faults_of(&self, parts: &[&str]) -> impl Iterator<Item = &Fault> + Clone {
        self.faults.iter().filter(move |fault| fault.parts.iter().any(|part| parts.contains(&part.as_str())))
    }

    /// Whether a fault of one of these parts covers a moment of `from..to`, or ended less than `after`
    /// before it. Microseconds.
    #[must_use]
    pub fn excused(&self, parts: &[&str], from: u64, to: u64, after: u64) -> bool {
        self.faults_of(parts).any(|fault| fault.from <= to && fault.to + after >= from)
    }
}

/// Money that a person reads, as cents. None for null, an error text for what is no amount.
///
/// # Errors
/// What is wrong with it.
pub fn cents(value: &Value) -> Result<Option<u64>, String> {
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => {
            let text = number.to_string();
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
            let digits = format!("{whole}{fraction:0<2}");
            if fraction.len() > 2 && fraction.trim_end_matches('0').len() > 2 {
                return Err(format!("{text} has more than two decimals"));
            }
            digits[..whole.len() + 2].parse().map(Some).map_err(|_| format!("{text} is no amount"))
        }
        other => Err(format!("{other} is no amount")),
    }
}
