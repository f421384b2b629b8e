//! The table of the history: every bid of every auction, for ever (or until its `ttl_expiry`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, PutRequest, ScalarAttributeType, WriteRequest,
};
use domain::{Amount, AuctionId, UserId};
use errors::BoxError;
use protocol::Bid;

/// Items in one `BatchWriteItem` call. A limit of DynamoDB.
pub const MAX_BATCH_ITEMS: usize = 25;
/// Consecutive attempts that may leave every item unprocessed. Progress resets the count: a throttled table is slow,
/// not broken.
const UNPROCESSED_ATTEMPTS: u32 = 6;
/// Pause after the first attempt that leaves items unprocessed. It doubles with each attempt until there is progress.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The attributes of an item, with their types.
const ATTRIBUTES: [(&str, ScalarAttributeType); 8] = [
    ("auction_id", ScalarAttributeType::S),
    ("seq", ScalarAttributeType::N),
    ("bid_id", ScalarAttributeType::S),
    ("user_id", ScalarAttributeType::S),
    ("username", ScalarAttributeType::S),
    ("amount", ScalarAttributeType::N),
    ("timestamp", ScalarAttributeType::N),
    ("kind", ScalarAttributeType::S),
];
/// The index by user, newest last.
const USER_INDEX: &str = "user_id-timestamp-index";

/// Why the history could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// DynamoDB did not answer, or answered with an error.
    #[error("DynamoDB request failed")]
    Call(#[source] BoxError),
    /// DynamoDB refused what the request holds: sent again it is refused again.
    #[error("DynamoDB rejected the request")]
    Rejected(#[source] BoxError),
    /// A request lacks a field: a bug in this crate.
    #[error("failed to build a DynamoDB request")]
    Build(#[from] BuildError),
    /// DynamoDB left items unprocessed in every attempt, usually because it throttles.
    #[error("DynamoDB left items unprocessed")]
    Unprocessed,
    /// A stored item, or the position of a page, is not of the expected form.
    #[error("invalid item: {0}")]
    Item(String),
}

impl HistoryError {
    fn call(error: impl Into<BoxError>) -> Self {
        Self::Call(error.into())
    }

    fn write(error: impl ProvideErrorMetadata + Into<BoxError>) -> Self {
        if error.code().is_some_and(|code| REJECTIONS.contains(&code)) {
            Self::Rejected(error.into())
        } else {
            Self::Call(error.into())
        }
    }
}

/// Codes with which DynamoDB refuses a batch for what one of its items holds. (Others, such as that of a missing table,
/// are for the operator to remove.)
const REJECTIONS: [&str; 2] = ["ValidationException", "SerializationException"];

/// Bids of a batch that may not have been written. The others have been.
#[derive(Debug, thiserror::Error)]
#[error("{} bids may not have been written, {} can never be", seqs.len(), rejected.len())]
pub struct Unwritten {
    /// Seqs of bids to write again.
    pub seqs: BTreeSet<u64>,
    /// Seqs of bids that DynamoDB rejects by themselves, from a table that takes others.
    pub rejected: BTreeMap<u64, HistoryError>,
    /// Why the batch was not written as it is.
    pub source: HistoryError,
}

/// Part of an auction's history, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The bids, newest first.
    pub bids: Vec<Bid>,
    /// Upper bound of the next page, if there may be one.
    pub next_before_seq: Option<u64>,
}

/// The history of bids in DynamoDB. A cheap handle; clones share the client.
#[derive(Clone)]
pub struct History {
    client: Client,
    table: String,
}

impl History {
    /// A client for `table`. Sends nothing.
    #[must_use]
    pub fn new(config: &SdkConfig, table: &str) -> Self {
        Self { client: Client::new(config), table: table.to_owned() }
    }

    /// Creates the table if it is missing. True if it was.
    ///
    /// # Errors
    /// When DynamoDB rejects the request or does not answer.
    pub async fn ensure_table(&self) -> Result<bool, HistoryError> {
        let definitions = [
            ("auction_id", ScalarAttributeType::S),
            ("seq", ScalarAttributeType::N),
            ("user_id", ScalarAttributeType::S),
            ("timestamp", ScalarAttributeType::N),
        ];
        let definitions = definitions
            .into_iter()
            .map(|(name, kind)| AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build());
        let key = |hash: &str, range: &str| -> Result<Vec<_>, BuildError> {
            let element = |name, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
            Ok(vec![element(hash, KeyType::Hash)?, element(range, KeyType::Range)?])
        };
        let by_user = GlobalSecondaryIndex::builder()
            .index_name(USER_INDEX)
            .set_key_schema(Some(key("user_id", "timestamp")?))
            .projection(Projection::builder().projection_type(ProjectionType::All).build())
            .build()?;
        let created = self
            .client
            .create_table()
            .table_name(&self.table)
            .set_attribute_definitions(Some(definitions.collect::<Result<_, _>>()?))
            .set_key_schema(Some(key("auction_id", "seq")?))
            .global_secondary_indexes(by_user)
            .billing_mode(BillingMode::PayPerRequest)
            .send()
            .await;
        match created {
            Ok(_) => Ok(true),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_in_use_exception()) => {
                Ok(false)
            }
            Err(error) => Err(HistoryError::call(error)),
        }
    }

    /// Whether DynamoDB answers for the table.
    pub async fn is_reachable(&self) -> bool {
        self.client.describe_table().table_name(&self.table).send().await.is_ok()
    }

    /// Writes at most [`MAX_BATCH_ITEMS`] bids of one auction, no seq twice. Ok only when every one is written.
    /// Repeatable. DynamoDB rejects a batch for one bad item: then each bid is written by itself.
    ///
    /// # Errors
    /// The bids that may not have been written, and why.
    pub async fn write(&self, auction_id: AuctionId, bids: &[Bid]) -> Result<(), Unwritten> {
        let mut left: Vec<&Bid> = bids.iter().collect();
        let unwritten = |left: &[&Bid], source: HistoryError| {
            let seqs = left.iter().map(|bid| bid.seq).collect();
            Err(Unwritten { seqs, rejected: BTreeMap::new(), source })
        };
        let mut attempts = 0;
        let mut pause = FIRST_PAUSE;
        while attempts < UNPROCESSED_ATTEMPTS {
            let before = left.len();
            match self.write_once(auction_id, &left).await {
                Ok(unprocessed) => left.retain(|bid| unprocessed.contains(&bid.seq)),
                Err(error @ HistoryError::Rejected(_)) if self.takes_bids().await => {
                    return Err(self.write_each(auction_id, &left, error).await);
                }
                Err(error) => return unwritten(&left, error),
            }
            if left.is_empty() {
                return Ok(());
            }
            if left.len() < before {
                attempts = 0;
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            attempts += 1;
            pause *= 2;
        }
        unwritten(&left, HistoryError::Unprocessed)
    }

    /// Writes each bid of a rejected batch by itself, so that only the bad ones are left out.
    async fn write_each(&self, auction_id: AuctionId, bids: &[&Bid], source: HistoryError) -> Unwritten {
        let mut failed = Unwritten { seqs: BTreeSet::new(), rejected: BTreeMap::new(), source };
        for bid in bids {
            match self.write_once(auction_id, &[bid]).await {
                Ok(unprocessed) => failed.seqs.extend(unprocessed),
                Err(error @ HistoryError::Rejected(_)) => {
                    failed.rejected.insert(bid.seq, error);
                }
                Err(_) => {
                    failed.seqs.insert(bid.seq);
                }
            }
        }
        failed
    }

    /// Whether the table's keys and indexes fit the items that are written. If they do not, every item is rejected, and
    /// the fault is the table's.
    async fn takes_bids(&self) -> bool {
        let described = self.client.describe_table().table_name(&self.table).send().await;
        let Some(table) = described.ok().and_then(|described| described.table) else { return false };
        let has_keys = table.key_schema().iter().map(|key| key.attribute_name()).eq(["auction_id", "seq"]);
        has_keys
            && table.attribute_definitions().iter().all(|defined| {
                let written = ATTRIBUTES.iter().find(|(name, _)| *name == defined.attribute_name);
                written.is_none_or(|(_, kind)| *kind == defined.attribute_type)
            })
    }

    /// Returns the seqs that DynamoDB left unprocessed.
    async fn write_once(&self, auction_id: AuctionId, bids: &[&Bid]) -> Result<BTreeSet<u64>, HistoryError> {
        let requests = bids.iter().map(|bid| write_request(auction_id, bid)).collect::<Result<Vec<_>, _>>()?;
        let sent = self.client.batch_write_item().request_items(&self.table, requests).send().await;
        let left = sent.map_err(HistoryError::write)?.unprocessed_items.unwrap_or_default();
        let puts = left.into_values().flatten().filter_map(|request| request.put_request);
        puts.map(|put| Ok(read_item(&put.item)?.seq)).collect()
    }

    /// At most `limit` bids of one auction, newest first, with seqs below `before_seq` if given.
    ///
    /// # Errors
    /// When DynamoDB does not answer or an item is invalid.
    pub async fn page(&self, auction_id: AuctionId, limit: u64, before_seq: Option<u64>) -> Result<Page, HistoryError> {
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("auction_id = :auction AND seq < :before")
            .expression_attribute_values(":auction", AttributeValue::S(auction_id.to_string()))
            .expression_attribute_values(
                ":before",
                AttributeValue::N(before_seq.unwrap_or(i64::MAX.cast_unsigned()).to_string()),
            )
            .scan_index_forward(false)
            .limit(i32::try_from(limit).unwrap_or(i32::MAX));
        let found = query.send().await.map_err(HistoryError::call)?;
        let bids = found.items().iter().map(read_item).collect::<Result<Vec<_>, _>>()?;
        let next_before_seq = found.last_evaluated_key.as_ref().and_then(|_| bids.last()).map(|bid| bid.seq);
        Ok(Page { bids, next_before_seq })
    }
}

/// A user's bid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnBid {
    /// The auction it was placed in.
    pub auction_id: AuctionId,
    /// The bid.
    pub bid: Bid,
}

/// Start of a page of a user's bids: before this time or, with an item, right after that item. Several bids may have
/// the same time, so a page that ends among them needs the item. As text: `<timestamp>` or
/// `<timestamp>.<auction_id>.<seq>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// Milliseconds since 1970.
    pub timestamp: u64,
    /// The auction and seq of the last item of the previous page.
    pub item: Option<(AuctionId, u64)>,
}

impl fmt::Display for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.item {
            Some((auction_id, seq)) => write!(f, "{}.{auction_id}.{seq}", self.timestamp),
            None => write!(f, "{}", self.timestamp),
        }
    }
}

impl FromStr for Before {
    type Err = HistoryError;

    fn from_str(text: &str) -> Result<Self, HistoryError> {
        let bad = || HistoryError::Item("the start of a page has another form".to_owned());
        let number =
            |text: &str| text.parse().ok().filter(|number| *number <= i64::MAX.cast_unsigned()).ok_or_else(bad);
        match text.split('.').collect::<Vec<_>>()[..] {
            [timestamp] => Ok(Self { timestamp: number(timestamp)?, item: None }),
            [timestamp, auction_id, seq] => {
                let auction_id = auction_id.parse().map_err(|_| bad())?;
                Ok(Self { timestamp: number(timestamp)?, item: Some((auction_id, number(seq)?)) })
            }
            _ => Err(bad()),
        }
    }
}

impl History {
    /// At most `limit` of a user's bids in all auctions, newest first, and the start of the next page if there may be
    /// one.
    ///
    /// # Errors
    /// When DynamoDB does not answer or an item is invalid.
    pub async fn of_person(
        &self,
        user_id: UserId,
        limit: u64,
        before: Option<Before>,
    ) -> Result<(Vec<OwnBid>, Option<Before>), HistoryError> {
        let number = |number: u64| AttributeValue::N(number.to_string());
        let (user, condition) = (AttributeValue::S(user_id.to_string()), "user_id = :user AND #time < :before");
        let mut query = self.client.query().table_name(&self.table).index_name(USER_INDEX).scan_index_forward(false);
        query = match before {
            Some(Before { timestamp, item: Some((auction_id, seq)) }) => query
                .key_condition_expression("user_id = :user")
                .exclusive_start_key("user_id", user.clone())
                .exclusive_start_key("timestamp", number(timestamp))
                .exclusive_start_key("auction_id", AttributeValue::S(auction_id.to_string()))
                .exclusive_start_key("seq", number(seq)),
            before => query
                .key_condition_expression(condition)
                .expression_attribute_names("#time", "timestamp")
                .expression_attribute_values(
                    ":before",
                    number(before.map_or(i64::MAX.cast_unsigned(), |before| before.timestamp)),
                ),
        };
        let query = query.expression_attribute_values(":user", user).limit(i32::try_from(limit).unwrap_or(i32::MAX));
        let found = query.send().await.map_err(HistoryError::call)?;
        let bids = found.items().iter().map(OwnBid::read).collect::<Result<Vec<_>, _>>()?;
        let next = found
            .last_evaluated_key
            .as_ref()
            .and_then(|_| bids.last())
            .map(|last| Before { timestamp: last.bid.timestamp, item: Some((last.auction_id, last.bid.seq)) });
        Ok((bids, next))
    }

    /// Every bid of the table, in no order. Scans it all: only for checking a test system.
    ///
    /// # Errors
    /// When DynamoDB does not answer or an item is invalid.
    pub async fn all(&self) -> Result<Vec<OwnBid>, HistoryError> {
        let (mut bids, mut pages) = (Vec::new(), self.client.scan().table_name(&self.table).into_paginator().send());
        while let Some(page) = pages.next().await {
            let page = page.map_err(HistoryError::call)?;
            for item in page.items() {
                bids.push(OwnBid::read(item)?);
            }
        }
        Ok(bids)
    }
}

impl OwnBid {
    fn read(item: &HashMap<String, AttributeValue>) -> Result<Self, HistoryError> {
        let bad = || HistoryError::Item("auction_id is missing or of another type".to_owned());
        let auction_id = item.get("auction_id").and_then(|value| value.as_s().ok()).ok_or_else(bad)?;
        Ok(Self { auction_id: auction_id.parse().map_err(|_| bad())?, bid: read_item(item)? })
    }
}

fn write_request(auction_id: AuctionId, bid: &Bid) -> Result<WriteRequest, HistoryError> {
    let put = PutRequest::builder()
        .item("auction_id", AttributeValue::S(auction_id.to_string()))
        .item("seq", AttributeValue::N(bid.seq.to_string()))
        .item("bid_id", AttributeValue::S(bid.bid_id.to_string()))
        .item("user_id", AttributeValue::S(bid.user_id.to_string()))
        .item("username", AttributeValue::S(bid.username.clone()))
        .item("amount", AttributeValue::N(bid.amount.to_string()))
        .item("timestamp", AttributeValue::N(bid.timestamp.to_string()))
        .item("kind", AttributeValue::S(bid.kind.to_string()))
        .build()?;
    Ok(WriteRequest::builder().put_request(put).build())
}

fn read_item(item: &HashMap<String, AttributeValue>) -> Result<Bid, HistoryError> {
    let bad = |name: &str| HistoryError::Item(format!("{name} is missing or of another type"));
    let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).ok_or_else(|| bad(name));
    let number = |name: &str| item.get(name).and_then(|value| value.as_n().ok()).ok_or_else(|| bad(name));
    let whole = |name: &str| number(name)?.parse::<u64>().map_err(|_| bad(name));
    Ok(Bid {
        seq: whole("seq")?,
        bid_id: text("bid_id")?.parse().map_err(|_| bad("bid_id"))?,
        user_id: text("user_id")?.parse().map_err(|_| bad("user_id"))?,
        username: text("username")?.clone(),
        amount: amount(number("amount")?).ok_or_else(|| bad("amount"))?,
        timestamp: whole("timestamp")?,
        kind: protocol::wire::Named::read(text("kind")?),
        // The history has no secrets.
        sealed: None,
    })
}

/// DynamoDB returns numbers without trailing zeros: `5000`, `12.5`.
fn amount(text: &str) -> Option<Amount> {
    Amount::parse(text).ok()
}

#[cfg(test)]
mod tests {
    use super::amount;

    #[test]
    fn numbers_without_trailing_zeros_are_amounts() {
        for (text, cents) in [("5000", 500_000), ("12.5", 1_250), ("12.50", 1_250), ("0.01", 1)] {
            assert_eq!(amount(text).map(domain::Amount::cents), Some(cents), "{text}");
        }
    }
}
