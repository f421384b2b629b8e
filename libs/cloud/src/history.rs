//! `bids_history`: every bid of every auction, for ever (or until its `ttl_expiry`).

use std::collections::HashMap;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{DisplayErrorContext, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, PutRequest, ScalarAttributeType, WriteRequest,
};
use domain::{Amount, AuctionId};
use protocol::Bid;

/// What `BatchWriteItem` takes at most.
pub const MAX_BATCH_ITEMS: usize = 25;
/// Attempts at items that DynamoDB leaves unprocessed, and the first of the doubling pauses between.
const UNPROCESSED_ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const USER_INDEX: &str = "user_id-timestamp-index";

#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("DynamoDB did not do it: {0}")]
    Call(String),
    #[error("{0} items stayed unprocessed")]
    Unprocessed(usize),
    #[error("an item cannot be read: {0}")]
    Item(String),
}

impl HistoryError {
    fn call<E: std::error::Error + Send + Sync + 'static, R: std::fmt::Debug + Send + Sync + 'static>(
        error: &SdkError<E, R>,
    ) -> Self {
        Self::Call(DisplayErrorContext(error).to_string())
    }
}

/// Part of an auction's history, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub bids: Vec<Bid>,
    /// Where the next page begins, if there may be one.
    pub next_before_seq: Option<u64>,
}

#[derive(Clone)]
pub struct History {
    client: Client,
    table: String,
}

impl History {
    #[must_use]
    pub fn new(config: &SdkConfig, table: &str) -> Self {
        Self { client: Client::new(config), table: table.to_owned() }
    }

    /// Makes the table if it is missing. True if it was.
    ///
    /// # Errors
    /// When DynamoDB refuses.
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
        let key = |hash: &str, range: &str| -> Result<Vec<_>, aws_sdk_dynamodb::error::BuildError> {
            let element = |name, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
            Ok(vec![element(hash, KeyType::Hash)?, element(range, KeyType::Range)?])
        };
        let build = |error: aws_sdk_dynamodb::error::BuildError| HistoryError::Call(error.to_string());
        let by_user = GlobalSecondaryIndex::builder()
            .index_name(USER_INDEX)
            .set_key_schema(Some(key("user_id", "timestamp").map_err(build)?))
            .projection(Projection::builder().projection_type(ProjectionType::All).build())
            .build()
            .map_err(build)?;
        let created = self
            .client
            .create_table()
            .table_name(&self.table)
            .set_attribute_definitions(Some(definitions.collect::<Result<_, _>>().map_err(build)?))
            .set_key_schema(Some(key("auction_id", "seq").map_err(build)?))
            .global_secondary_indexes(by_user)
            .billing_mode(BillingMode::PayPerRequest)
            .send()
            .await;
        match created {
            Ok(_) => Ok(true),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_in_use_exception()) => {
                Ok(false)
            }
            Err(error) => Err(HistoryError::call(&error)),
        }
    }

    /// Whether the table answers.
    pub async fn is_reachable(&self) -> bool {
        self.client.describe_table().table_name(&self.table).send().await.is_ok()
    }

    /// Writes at most [`MAX_BATCH_ITEMS`] bids of one auction, no seq twice. Ok only when every one is written.
    ///
    /// # Errors
    /// When any may not be written: send them all again.
    pub async fn write(&self, auction_id: AuctionId, bids: &[Bid]) -> Result<(), HistoryError> {
        let mut requests = bids.iter().map(|bid| write_request(auction_id, bid)).collect::<Result<Vec<_>, _>>()?;
        let mut pause = FIRST_PAUSE;
        for _ in 0..UNPROCESSED_ATTEMPTS {
            let sent = self.client.batch_write_item().request_items(&self.table, requests).send().await;
            let left = sent.map_err(|error| HistoryError::call(&error))?.unprocessed_items.unwrap_or_default();
            requests = left.into_values().flatten().collect();
            if requests.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(HistoryError::Unprocessed(requests.len()))
    }

    /// Bids of one auction, newest first, below `before_seq` if given.
    ///
    /// # Errors
    /// When DynamoDB does not answer or an item cannot be read.
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
        let found = query.send().await.map_err(|error| HistoryError::call(&error))?;
        let bids = found.items().iter().map(read_item).collect::<Result<Vec<_>, _>>()?;
        let next_before_seq = found.last_evaluated_key.as_ref().and_then(|_| bids.last()).map(|bid| bid.seq);
        Ok(Page { bids, next_before_seq })
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
        .item("kind", AttributeValue::S(bid.kind.clone()))
        .build()
        .map_err(|error| HistoryError::Item(error.to_string()))?;
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
        kind: text("kind")?.clone(),
    })
}

/// DynamoDB gives numbers back without trailing zeros: `5000`, `12.5`.
fn amount(text: &str) -> Option<Amount> {
    Amount::parse(text).ok()
}

#[cfg(test)]
mod tests {
    use super::amount;

    #[test]
    fn numbers_come_back_without_trailing_zeros() {
        for (text, cents) in [("5000", 500_000), ("12.5", 1_250), ("12.50", 1_250), ("0.01", 1)] {
            assert_eq!(amount(text).map(domain::Amount::cents), Some(cents), "{text}");
        }
    }
}
