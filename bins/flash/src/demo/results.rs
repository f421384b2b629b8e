//! Compares the stored results of an ended auction with the log.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use testkit::http;
use tokio::time::Instant;

use super::running::Running;
use crate::stack::description::{self, text};

/// Time for the consumers to write, the relay to send and the mails to be sent.
const SETTLE_WITHIN: Duration = Duration::from_secs(20);
/// Interval between two reads of a result.
const POLL: Duration = Duration::from_millis(200);

/// One stored result.
pub struct StoredResult {
    /// Where it is stored.
    pub name: &'static str,
    /// The stored result in a few words.
    pub summary: String,
    /// Whether it agrees with the log.
    pub agrees: bool,
}

/// Reads each result until it agrees with the log, or its time is over.
pub async fn compare(running: &Running, id: &str, title: &str, end: &Value) -> Result<Vec<StoredResult>> {
    let log = Log::read(running, id).await?;
    let text_of = |value: &Value| value.as_str().map(str::to_owned);
    let frames = StoredResult {
        name: "frames",
        summary: format!("{} at {}", end["winner_username"], end["winning_bid"]),
        agrees: log.winner_id == text_of(&end["winner_id"]) && end["bid_count"].as_u64() == Some(log.bids()),
    };
    let mut results = vec![log.result(), frames];
    results.push(until(async || history(running, id, &log).await).await?);
    results.push(until(async || row(running, id, &log).await).await?);
    results.push(until(async || mails(running, title, &log).await).await?);
    Ok(results)
}

/// Reads a result until it agrees, or its time is over.
async fn until(read: impl AsyncFn() -> Result<StoredResult>) -> Result<StoredResult> {
    let deadline = Instant::now() + SETTLE_WITHIN;
    loop {
        let result = read().await?;
        if result.agrees || Instant::now() > deadline {
            return Ok(result);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The result by the log, which is the truth, and whether the log is complete.
struct Log {
    bid_ids: Vec<String>,
    bidders: BTreeSet<String>,
    winner_id: Option<String>,
    winning_cents: Option<u64>,
    is_whole: bool,
}

impl Log {
    async fn read(running: &Running, id: &str) -> Result<Self> {
        let bus = bus::Bus::connect(&description::operator(&running.stack)?, "flash demo").await?;
        let records = bus::Log::open(&bus).await?.records(id.parse()?, 0).await?.collect().await?;
        let (mut head, mut seq, mut is_whole) = (domain::Head::GENESIS, 0, true);
        let mut log =
            Self { bid_ids: Vec::new(), bidders: BTreeSet::new(), winner_id: None, winning_cents: None, is_whole };
        for logged in &records {
            let record = &logged.record;
            seq += u64::try_from(record.bids.len().max(1))?;
            is_whole &= record.prev == head && record.seq == seq;
            head = record.head;
            log.bid_ids.extend(record.bids.iter().map(|bid| bid.bid_id.to_string()));
            log.bidders.extend(record.bids.iter().map(|bid| bid.user_id.to_string()));
        }
        let last = &records.last().context("the log has no record of this auction")?.record;
        log.winner_id = last.state.winner_id.map(|winner| winner.to_string());
        log.winning_cents = last.state.winning_bid.map(domain::Amount::cents);
        log.is_whole = is_whole && last.state.outcome.is_some();
        Ok(log)
    }

    fn bids(&self) -> u64 {
        u64::try_from(self.bid_ids.len()).unwrap_or(u64::MAX)
    }

    fn result(&self) -> StoredResult {
        let summary =
            format!("{} bids of {} bidders, seq dense, chain complete", self.bid_ids.len(), self.bidders.len());
        StoredResult { name: "log", summary, agrees: self.is_whole }
    }
}

/// The history in DynamoDB, read through auction-management.
async fn history(running: &Running, id: &str, log: &Log) -> Result<StoredResult> {
    let (mut found, mut before) = (Vec::new(), String::new());
    loop {
        let url = format!("{}/auctions/{id}/bids?limit=100{before}", running.management);
        let page = http::get(&url, None).await?.json;
        let ids =
            page["bids"].as_array().into_iter().flatten().filter_map(|bid| bid["bid_id"].as_str().map(str::to_owned));
        found.extend(ids);
        match page["next_before_seq"].as_u64() {
            Some(seq) => before = format!("&before_seq={seq}"),
            None => break,
        }
    }
    found.reverse();
    Ok(StoredResult { name: "DynamoDB", summary: format!("{} bids", found.len()), agrees: found == log.bid_ids })
}

/// The row in PostgreSQL.
async fn row(running: &Running, id: &str, log: &Log) -> Result<StoredResult> {
    let store = store::Store::connect(&text(&running.stack["postgres"]["url"])?).await?;
    let row = store.auction(id.parse()?).await?.context("PostgreSQL has no such auction")?;
    store.close().await;
    let winner_id = row.winner.as_ref().map(|winner| winner.user_id.to_string());
    let (cents, is_closed) = (row.winning_bid.map(domain::Amount::cents), row.status == domain::Status::Closed);
    let price = row.winning_bid.map_or("no price".to_owned(), |price| price.to_string());
    let winner = row.winner.map_or("no winner".to_owned(), |winner| winner.username);
    let agrees = is_closed && winner_id == log.winner_id && cents == log.winning_cents && row.bid_count == log.bids();
    Ok(StoredResult {
        name: "PostgreSQL",
        summary: format!("{}, {winner} at {price}, {} bids", row.status, row.bid_count),
        agrees,
    })
}

/// The mails in the emulator of SES: one to each bidder and to the host.
async fn mails(running: &Running, title: &str, log: &Log) -> Result<StoredResult> {
    let data = http::emulator_state(&text(&running.stack["aws"]["endpoint"])?).await?;
    let (mut won, mut others) = (0, 0);
    let mut recipients = BTreeSet::new();
    for mail in data["ses"]["Message"].as_array().into_iter().flatten() {
        let subject = mail["subject"].as_str().unwrap_or_default();
        if !subject.ends_with(title) {
            continue;
        }
        recipients.insert(mail["destinations"]["ToAddresses"][0].to_string());
        if subject.starts_with("You won") { won += 1 } else { others += 1 }
    }
    let expected = log.bidders.len() + 1;
    let agrees =
        won == usize::from(log.winner_id.is_some()) && won + others == expected && recipients.len() == expected;
    Ok(StoredResult { name: "mails", summary: format!("{won} to the winner, {others} to others"), agrees })
}
