//! What each book says of an auction that has ended, held against the log.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use testkit::http;
use tokio::time::Instant;

use super::Running;
use crate::stack_file::{self, text};

/// For the consumers to write, the relay to send and the mails to go out.
const SETTLE_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(200);

pub struct Book {
    pub name: &'static str,
    pub says: String,
    pub agrees: bool,
}

/// Asks each book until it agrees with the log, or has had its time.
pub async fn compare(running: &Running, id: &str, title: &str, end: &Value) -> Result<Vec<Book>> {
    let log = Log::read(running, id).await?;
    let told = |value: &Value| value.as_str().map(str::to_owned);
    let frames = Book {
        name: "frames",
        says: format!("{} at {}", end["winner_username"], end["winning_bid"]),
        agrees: log.winner_id == told(&end["winner_id"]) && end["bid_count"].as_u64() == Some(log.bids()),
    };
    let mut books = vec![log.book(), frames];
    books.push(until(async || history(running, id, &log).await).await?);
    books.push(until(async || row(running, id, &log).await).await?);
    books.push(until(async || mails(running, title, &log).await).await?);
    Ok(books)
}

async fn until(look: impl AsyncFn() -> Result<Book>) -> Result<Book> {
    let deadline = Instant::now() + SETTLE_WITHIN;
    loop {
        let book = look().await?;
        if book.agrees || Instant::now() > deadline {
            return Ok(book);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The truth: what the log says, after checking that it is whole.
struct Log {
    bid_ids: Vec<String>,
    bidders: BTreeSet<String>,
    winner_id: Option<String>,
    winning_cents: Option<u64>,
    is_whole: bool,
}

impl Log {
    async fn read(running: &Running, id: &str) -> Result<Self> {
        let bus = bus::Bus::connect(&stack_file::operator(&running.stack)?, "flash demo").await?;
        let records = bus::Log::open(&bus).await?.all(id.parse()?).await?;
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
        let last = &records.last().context("the log has nothing of this auction")?.record;
        log.winner_id = last.state.winner_id.map(|winner| winner.to_string());
        log.winning_cents = last.state.winning_bid.map(domain::Amount::cents);
        log.is_whole = is_whole && last.state.outcome.is_some();
        Ok(log)
    }

    fn bids(&self) -> u64 {
        u64::try_from(self.bid_ids.len()).unwrap_or(u64::MAX)
    }

    fn book(&self) -> Book {
        let says = format!("{} bids of {} people, seq dense, chain whole", self.bid_ids.len(), self.bidders.len());
        Book { name: "log", says, agrees: self.is_whole }
    }
}

/// DynamoDB, through the service that reads it.
async fn history(running: &Running, id: &str, log: &Log) -> Result<Book> {
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
    Ok(Book { name: "DynamoDB", says: format!("{} bids", found.len()), agrees: found == log.bid_ids })
}

/// PostgreSQL itself.
async fn row(running: &Running, id: &str, log: &Log) -> Result<Book> {
    let store = store::Store::connect(&text(&running.stack["postgres"]["url"])?).await?;
    let row = store.auction(id.parse()?).await?.context("PostgreSQL has no such auction")?;
    store.close().await;
    let winner_id = row.winner.as_ref().map(|winner| winner.user_id.to_string());
    let (cents, is_closed) = (row.winning_bid.map(domain::Amount::cents), row.status == domain::Status::Closed);
    let price = row.winning_bid.map_or("nothing".to_owned(), |price| price.to_string());
    let winner = row.winner.map_or("nobody".to_owned(), |winner| winner.username);
    let agrees = is_closed && winner_id == log.winner_id && cents == log.winning_cents && row.bid_count == log.bids();
    Ok(Book {
        name: "PostgreSQL",
        says: format!("{}, {winner} at {price}, {} bids", row.status, row.bid_count),
        agrees,
    })
}

/// The emulator's SES: each bidder and the host once.
async fn mails(running: &Running, title: &str, log: &Log) -> Result<Book> {
    let data = http::get(&format!("{}/moto-api/data.json", text(&running.stack["aws"]["endpoint"])?), None).await?.json;
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
    Ok(Book { name: "mails", says: format!("{won} to the winner, {others} to others"), agrees })
}
