//! A recorded run, one JSON object on each line. Times `sent`, `answered`, `at`, `from`, `to` are microseconds
//! since 1970 by the clients' clock. Records, items and frames are those that the system itself writes.
//!
//! | `kind` | fields |
//! |---|---|
//! | `call` | `user_id, bid_id, auction_id, cents, max_cents?, sent, answered?, answer?` (the answer as the bidder got it; absent if none came) |
//! | `record` | `stream_seq, record` (also what `flash-admin log archive` writes) |
//! | `item` | `auction_id, item` (a bid of `GET /auctions/{id}/bids`) |
//! | `row` | `row` (`auction_id, status, outcome, winner_id, winning_bid, bid_count` of the auction object) |
//! | `frame` | `connection, user_id, at, event, data, last_seq?` (with `joined_auction`: the `last_seq` of the request); the event `disconnected` ends a connection |
//! | `mail` | `auction_id, user_id, mail` (`won`, `lost`, `hosted`) |
//! | `probe` | `service, at, status` (of `/ready`; 0 without an answer) |
//! | `fault` | `parts` (services and servers; `log space`: room in the log; `nats leader`: a cluster elects), `what`, `from, to` |
//! | `secret` | `text` (must occur in no other line) |

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

/// The kinds of lines that every complete history has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A bid that a client sent.
    Call,
    /// A record of the log.
    Record,
    /// A bid in the history table.
    Item,
    /// A database row of an auction.
    Row,
    /// A frame that a connection got.
    Frame,
    /// A mail that was sent.
    Mail,
}

impl Kind {
    /// Every kind, in the order of reports.
    pub const ALL: [Self; 6] = [Self::Call, Self::Record, Self::Item, Self::Row, Self::Frame, Self::Mail];

    /// The word in the field `kind`.
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

/// A word that names no kind of line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no kind of line is called {0:?}")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| UnknownKind(name.to_owned()))
    }
}

/// A bid as a client sent it, and the answer to it.
#[derive(Debug, Deserialize)]
pub struct Call {
    /// Number of the input line, from 0.
    #[serde(skip)]
    pub line: usize,
    /// The bidder.
    pub user_id: String,
    /// The id under which the client sent it.
    pub bid_id: String,
    /// The auction.
    pub auction_id: String,
    /// The amount; 0 if it was left out.
    pub cents: u64,
    /// The maximum of a proxy bid.
    #[serde(default)]
    pub max_cents: Option<u64>,
    /// When the client sent it, in microseconds since 1970.
    pub sent: u64,
    /// When the answer arrived; none without an answer.
    pub answered: Option<u64>,
    /// The answer as the client got it.
    pub answer: Option<Value>,
}

/// Codes of rejections that rest on no state of the auction: nothing was decided.
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
    /// The most that the caller is ready to pay.
    pub fn limit(&self) -> u64 {
        self.max_cents.unwrap_or(self.cents)
    }

    /// The code of a rejection.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.answer.as_ref()?["code"].as_str()
    }

    /// Whether the client cannot know if the bid was accepted.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.answer.is_none() || self.code() == Some("outcome_unknown")
    }

    /// Whether the bid was answered as accepted.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer["status"] == "accepted")
    }

    /// Whether the rules of the auction rejected the bid, for the state at the seq that the answer names.
    #[must_use]
    pub fn is_rejected_by_rules(&self) -> bool {
        self.code().is_some_and(|code| code != "outcome_unknown" && !UNDECIDED.contains(&code))
    }

    /// The seq that the answer names.
    #[must_use]
    pub fn seq(&self) -> Option<u64> {
        self.answer.as_ref()?["seq"].as_u64()
    }
}

/// A record of the log with its place in the stream.
#[derive(Debug, Deserialize)]
pub struct Logged {
    /// Number of the input line, from 0.
    #[serde(skip)]
    pub line: usize,
    /// Its sequence in the stream.
    pub stream_seq: u64,
    /// The record as stored.
    pub record: Value,
}

/// A bid in the history table.
#[derive(Debug, Deserialize)]
pub struct Item {
    /// Number of the input line, from 0.
    #[serde(skip)]
    pub line: usize,
    /// The auction.
    pub auction_id: String,
    /// The item, as `GET /auctions/{id}/bids` shows it.
    pub item: Value,
}

/// The database row of an auction.
#[derive(Debug, Deserialize)]
pub struct Row {
    /// Number of the input line, from 0.
    #[serde(skip)]
    pub line: usize,
    /// The columns that the checks need.
    pub row: Value,
}

/// A frame that one connection got.
#[derive(Debug, Deserialize)]
pub struct Frame {
    /// Number of the input line, from 0.
    #[serde(skip)]
    pub line: usize,
    /// The connection that got it.
    pub connection: String,
    /// The user of the connection.
    pub user_id: String,
    /// When it arrived, in microseconds since 1970.
    pub at: u64,
    /// The name of the event.
    pub event: String,
    /// Its data.
    #[serde(default)]
    pub data: Value,
    /// The `last_seq` of the join request that this frame answers.
    pub last_seq: Option<u64>,
}

/// A mail that was sent.
#[derive(Debug, Deserialize)]
pub struct Mail {
    /// Number of the input line, from 0.
    #[serde(skip)]
    pub line: usize,
    /// The auction that it is about.
    pub auction_id: String,
    /// The recipient.
    pub user_id: String,
    /// `won`, `lost` or `hosted`.
    pub mail: String,
}

/// An answer of a service to `GET /ready`.
#[derive(Debug, Deserialize)]
pub struct Probe {
    /// Number of the input line, from 0.
    #[serde(skip)]
    pub line: usize,
    /// The service that was asked.
    pub service: String,
    /// When it answered, in microseconds since 1970.
    pub at: u64,
    /// Status of the answer; 0 without an answer.
    pub status: u16,
}

/// An injected fault.
#[derive(Debug, Deserialize)]
pub struct Fault {
    /// Number of the input line, from 0.
    #[serde(skip)]
    pub line: usize,
    /// The services and servers that it hit: `redis`, `nats`, `bid-processing`, …
    pub parts: Vec<String>,
    /// When it began, in microseconds since 1970.
    pub from: u64,
    /// The end of the fault: restarted, resumed, reconnected.
    pub to: u64,
}

/// A text that must occur in no other line.
#[derive(Debug, Deserialize)]
pub struct Secret {
    /// Number of the input line, from 0.
    #[serde(skip)]
    pub line: usize,
    /// The text.
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
    Probe(Probe),
    Fault(Fault),
    Secret(Secret),
}

/// A complete run.
#[derive(Debug, Default)]
pub struct History {
    /// The input, line by line.
    pub lines: Vec<String>,
    /// Every bid that a client sent.
    pub calls: Vec<Call>,
    /// In the order of the stream.
    pub records: Vec<Logged>,
    /// Every item of the history table.
    pub items: Vec<Item>,
    /// Every row of an auction.
    pub rows: Vec<Row>,
    /// In the order in which each connection got them.
    pub frames: Vec<Frame>,
    /// Every mail.
    pub mails: Vec<Mail>,
    /// Every probe of a service.
    pub probes: Vec<Probe>,
    /// Every injected fault.
    pub faults: Vec<Fault>,
    /// Every secret.
    pub secrets: Vec<Secret>,
    /// Connections that ended before the run did.
    pub disconnected: BTreeSet<String>,
    /// Positions of each auction's lines in the lists above.
    index: BTreeMap<String, Places>,
}

#[derive(Debug, Default)]
struct Places {
    calls: Vec<usize>,
    records: Vec<usize>,
    items: Vec<usize>,
    frames: Vec<usize>,
}

/// The elements at the positions of one auction.
fn places<'a, T>(all: &'a [T], found: Option<&'a Vec<usize>>) -> impl DoubleEndedIterator<Item = &'a T> + Clone {
    found.map_or(&[][..], Vec::as_slice).iter().map(|place| &all[*place])
}

impl History {
    /// Reads JSON lines.
    ///
    /// # Errors
    /// The first line that cannot be parsed, and the reason.
    pub fn parse(text: &str) -> Result<Self> {
        let mut history = Self::default();
        for text in text.lines().filter(|line| !line.trim().is_empty()) {
            let line = history.lines.len();
            let parsed: Line =
                serde_json::from_str(text).with_context(|| format!("failed to parse line {}", line + 1))?;
            history.lines.push(text.to_owned());
            match parsed {
                Line::Call(call) => history.calls.push(Call { line, ..call }),
                Line::Record(record) => history.records.push(Logged { line, ..record }),
                Line::Item(item) => history.items.push(Item { line, ..item }),
                Line::Row(row) => history.rows.push(Row { line, ..row }),
                Line::Frame(frame) => history.frames.push(Frame { line, ..frame }),
                Line::Mail(mail) => history.mails.push(Mail { line, ..mail }),
                Line::Probe(probe) => history.probes.push(Probe { line, ..probe }),
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

    /// Lines of one kind.
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

    /// Every auction that a line names.
    pub fn auctions(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// Bids placed in one auction.
    pub fn calls_of(&self, auction: &str) -> impl DoubleEndedIterator<Item = &Call> + Clone {
        places(&self.calls, self.index.get(auction).map(|places| &places.calls))
    }

    /// Records of one auction, in the order of the stream.
    pub fn records_of(&self, auction: &str) -> impl DoubleEndedIterator<Item = &Logged> + Clone {
        places(&self.records, self.index.get(auction).map(|places| &places.records))
    }

    /// Items of the history table of one auction.
    pub fn items_of(&self, auction: &str) -> impl DoubleEndedIterator<Item = &Item> + Clone {
        places(&self.items, self.index.get(auction).map(|places| &places.items))
    }

    /// Frames about one auction.
    pub fn frames_of(&self, auction: &str) -> impl DoubleEndedIterator<Item = &Frame> + Clone {
        places(&self.frames, self.index.get(auction).map(|places| &places.frames))
    }

    /// The time of the last call or frame, in microseconds.
    #[must_use]
    pub fn end(&self) -> u64 {
        let calls = self.calls.iter().map(|call| call.answered.unwrap_or(call.sent));
        calls.chain(self.frames.iter().map(|frame| frame.at)).max().unwrap_or(0)
    }

    /// Faults that hit at least one of these parts.
    pub fn faults_of(&self, parts: &[&str]) -> impl Iterator<Item = &Fault> + Clone {
        self.faults.iter().filter(move |fault| fault.parts.iter().any(|part| parts.contains(&part.as_str())))
    }

    /// Whether a fault of one of these parts overlaps `from..to`, or ended less than `after` before `from`.
    /// All in microseconds.
    #[must_use]
    pub fn excused(&self, parts: &[&str], from: u64, to: u64, after: u64) -> bool {
        self.faults_of(parts).any(|fault| fault.from <= to && fault.to + after >= from)
    }
}

/// A decimal amount of an answer or frame as cents; None for null.
///
/// # Errors
/// The reason why the value is not an amount.
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
            digits[..whole.len() + 2].parse().map(Some).map_err(|_| format!("{text} is not an amount"))
        }
        other => Err(format!("{other} is not an amount")),
    }
}
