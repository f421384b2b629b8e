//! The rules of the auctions in a run, and a host who uses what a host may do. A third of the auctions is plain, as they
//! were before there were rules; the others have a random part of all rules.

use std::sync::Arc;
use std::time::Duration;

use domain::Amount;
use identity::development::DevelopmentUser;
use serde_json::{Map, Value, json};
use testkit::http;
use tokio::time::{Instant, sleep, timeout};

use super::load::{ANSWER_TIMEOUT, Load, Lot};

/// One auction in this many is plain.
const PLAIN_EVERY: u8 = 3;
/// Cents of a buy-now price: reached by some auctions at once, by some late, by some never.
const BUY_NOW_CENTS: std::ops::Range<u64> = 1_000..100_000;
/// Highest cents of a reserve, which most auctions reach.
const MAX_RESERVE_CENTS: u64 = 10_000;
/// One bid in this many has a maximum, where bids may, and cents that a maximum is above the amount.
const MAXIMUM_EVERY: u8 = 3;
const MAXIMUM_ABOVE_CENTS: std::ops::Range<u64> = 0..3_000;
/// Pause between two acts of a host.
const HOST_THINKS_MS: std::ops::Range<u64> = 500..3_000;
/// Time for which an auction is paused, if nothing fails.
const PAUSED_MS: std::ops::Range<u64> = 100..1_000;
/// One act in this many ends the auction, by a close or a cancellation.
const END_EVERY: u8 = 20;

/// The rules of one auction.
#[derive(Debug, Clone, Default)]
pub struct LotRules {
    /// Fields of its creation beyond those of every auction.
    pub fields: Map<String, Value>,
    /// The mode of its extensions. None: `extend`.
    pub anti_snipe_mode: Option<&'static str>,
    /// Whether some bids have a maximum.
    pub has_maximums: bool,
    /// Whether its host pauses it, blocks people and may end it.
    pub is_moderated: bool,
}

impl LotRules {
    /// None, or a random part of all. A host who cannot act for a long time must not `may_pause`.
    pub fn random(may_pause: bool) -> Self {
        if fastrand::u8(..PLAIN_EVERY) == 0 {
            return Self::default();
        }
        let mut fields = Map::new();
        if fastrand::bool() {
            fields.insert("increments".to_owned(), json!(if fastrand::bool() { "flash" } else { "classic" }));
        }
        if fastrand::bool() {
            fields.insert("allow_self_raise".to_owned(), json!(true));
        }
        let buy_now = fastrand::bool().then(|| fastrand::u64(BUY_NOW_CENTS));
        if let Some(buy_now) = buy_now {
            fields.insert("buy_now_price".to_owned(), money(buy_now));
        }
        if fastrand::bool() {
            let most = buy_now.map_or(MAX_RESERVE_CENTS, |buy_now| buy_now.min(MAX_RESERVE_CENTS));
            fields.insert("reserve_price".to_owned(), money(fastrand::u64(100..=most)));
        }
        Self {
            fields,
            anti_snipe_mode: [None, Some("reset"), Some("off")][fastrand::usize(..3)],
            has_maximums: fastrand::bool(),
            is_moderated: may_pause && fastrand::bool(),
        }
    }

    /// Gives some bids a maximum, and some of these no amount.
    pub fn complete(&self, bid: &mut Value, cents: u64) {
        if self.has_maximums && fastrand::u8(..MAXIMUM_EVERY) == 0 {
            bid["max_amount"] = money(cents + fastrand::u64(MAXIMUM_ABOVE_CENTS));
            if let Some(fields) = bid.as_object_mut().filter(|_| fastrand::bool()) {
                fields.remove("amount");
            }
        }
    }
}

/// Cents as a decimal text, which an amount may be.
fn money(cents: u64) -> Value {
    json!(Amount::from_stored(cents).map(|amount| amount.to_string()))
}

impl Load {
    /// The host of one auction: pauses and resumes it, blocks and unblocks its bidders, and seldom ends it. After `time` it
    /// only resumes, again and again: a pause whose outcome is unknown may take effect late.
    pub(super) async fn moderate(self: Arc<Self>, lot: Arc<Lot>, bidders: Vec<DevelopmentUser>, time: Duration) {
        let until = Instant::now() + time;
        let someone = || json!({"user_id": bidders[fastrand::usize(..bidders.len())].user_id.to_string()});
        while Instant::now() < until {
            sleep(Duration::from_millis(fastrand::u64(HOST_THINKS_MS))).await;
            if fastrand::u8(..END_EVERY) == 0 {
                self.act(&lot, if fastrand::bool() { "close" } else { "cancel" }, &json!({})).await;
                break;
            }
            match fastrand::u8(..4) {
                0 => self.act(&lot, "block", &someone()).await,
                1 => self.act(&lot, "unblock", &someone()).await,
                _ => {
                    self.act(&lot, "pause", &json!({})).await;
                    sleep(Duration::from_millis(fastrand::u64(PAUSED_MS))).await;
                    self.act(&lot, "resume", &json!({})).await;
                }
            }
        }
        loop {
            self.act(&lot, "resume", &json!({})).await;
            sleep(Duration::from_millis(HOST_THINKS_MS.start)).await;
        }
    }

    /// Sends one act, whatever becomes of it: the log says what took effect.
    async fn act(&self, lot: &Lot, act: &str, body: &Value) {
        let Ok(token) = self.token(&Self::host()) else { return };
        let url = format!("{}/auctions/{}/{act}", self.addresses.management, lot.id);
        drop(timeout(ANSWER_TIMEOUT, http::post(&url, Some(&token), body)).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_rules_are_ones_that_a_creation_accepts() {
        let mut plain = 0;
        for _ in 0..1_000 {
            let rules = LotRules::random(true);
            plain += usize::from(rules.fields.is_empty() && rules.anti_snipe_mode.is_none() && !rules.has_maximums);
            let mut auction = json!({"title": "Lamp", "duration": 10, "starting_bid": 1});
            auction.as_object_mut().expect("an object").extend(rules.fields.clone());
            let read = protocol::parse_auction_create(auction.to_string().as_bytes(), None);
            read.unwrap_or_else(|failure| panic!("{rules:?}: {}", failure.error));
            let mut bid = json!({"auction_id": "0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e11", "amount": "1.00"});
            rules.complete(&mut bid, 100);
            assert!(bid["amount"].is_string() || bid["max_amount"].is_string(), "{bid}");
        }
        assert!((250..600).contains(&plain), "{plain} of 1,000 are plain");
    }
}
