//! Bids as the clients of the benchmark, the demo, chaos and the tests send them. Each of these keeps its own rules for
//! the next amount and for a bid whose outcome is unknown, because the rules are what it measures or tests.

use domain::Amount;
use serde_json::{Value, json};

/// A bid under a new id: the body of `POST /bids`, and the data of `place_bid`. It may be repeated as it is while its
/// outcome is unknown.
///
/// # Panics
/// When no amount has this many cents.
#[must_use]
pub fn new_bid(auction_id: &str, cents: u64) -> Value {
    let amount = Amount::from_cents(cents).expect("cents of an amount").to_string();
    json!({"auction_id": auction_id, "amount": amount, "bid_id": uuid::Uuid::new_v4().to_string()})
}

/// `minimum_bid` of an answer, a joined auction or an update, in cents. None if it has none.
#[must_use]
pub fn minimum_bid(data: &Value) -> Option<u64> {
    Amount::parse(&data["minimum_bid"].to_string()).ok().map(Amount::cents)
}
