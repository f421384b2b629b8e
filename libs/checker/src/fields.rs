//! Parts of a record.

use serde_json::Value;

/// An accepted bid in the log.
#[derive(Debug, Clone)]
pub struct Bid {
    pub line: usize,
    pub seq: u64,
    pub bid_id: String,
    pub user_id: String,
    pub username: String,
    pub cents: u64,
    pub timestamp: u64,
    pub kind: String,
    /// The encrypted offer, if it has a maximum.
    pub sealed: Option<String>,
}

/// A text field; empty if it is absent.
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// A whole number; 0 if it is absent.
pub fn whole(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or(0)
}

/// A bid of a record; none if a field is missing.
pub fn read_bid(line: usize, bid: &Value) -> Option<Bid> {
    Some(Bid {
        line,
        seq: bid["seq"].as_u64()?,
        bid_id: bid["bid_id"].as_str()?.to_owned(),
        user_id: bid["user_id"].as_str()?.to_owned(),
        username: bid["username"].as_str()?.to_owned(),
        cents: bid["amount_cents"].as_u64()?,
        timestamp: bid["timestamp"].as_u64()?,
        kind: bid["kind"].as_str()?.to_owned(),
        sealed: bid["sealed"].as_str().map(str::to_owned),
    })
}
