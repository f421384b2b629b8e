//! The chain of heads: a short hash over every fact and the head before it.
//!
//! `head = first 16 hex digits of SHA-1(previous head, line feed, text of the fact)`. SHA-1 because
//! Redis offers it to scripts (`redis.sha1hex`); 64 bits because the chain only distinguishes two histories, it is not
//! a signature. The text of a fact is its fields, one a line, in a fixed order. The record holds all of them, so the
//! chain can be recomputed from the log alone.

use std::fmt;
use std::str::FromStr;

use sha1::{Digest, Sha1};

use crate::names;
use crate::{Amount, AuctionId, BidId, Closing, Follows, IdError, Millis, Rules, Sealed, UserId};

/// The state of the chain after a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Head([u8; 8]);

impl Head {
    /// The head before the first fact.
    pub const GENESIS: Self = Self([0; 8]);

    /// The head after `fact`, the text of the next fact.
    #[must_use]
    pub fn next(self, fact: &str) -> Self {
        let digest = Sha1::new().chain_update(self.to_string()).chain_update("\n").chain_update(fact).finalize();
        let mut head = [0; 8];
        head.copy_from_slice(&digest[..8]);
        Self(head)
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl FromStr for Head {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != 16 || text.starts_with('+') {
            return Err(IdError);
        }
        u64::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| IdError)
    }
}

/// How a bid came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BidKind {
    /// A person placed it.
    Bid,
    /// The leader's maximum answered a rival's bid.
    Proxy,
    /// Kept from before the opening, and bid at the opening.
    Prebid,
}

names!(BidKind { Bid = "bid", Proxy = "proxy", Prebid = "prebid" });

/// One accepted bid as a fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BidFact {
    /// The number of this fact within the auction.
    pub seq: u64,
    /// Which bid.
    pub bid_id: BidId,
    /// The bidder.
    pub user_id: UserId,
    /// The name that others see.
    pub username: String,
    /// The amount bid.
    pub amount: Amount,
    /// When it was accepted.
    pub timestamp: Millis,
    /// How it came about.
    pub kind: BidKind,
    /// The encrypted offer, if it has a maximum.
    pub sealed: Option<Sealed>,
}

impl BidFact {
    /// The text that the chain hashes.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { seq, bid_id, user_id, username, amount, timestamp, kind, sealed } = self;
        let text = format!("{seq}\n{kind}\n{bid_id}\n{user_id}\n{username}\n{}\n{}", amount.cents(), timestamp.0);
        match sealed {
            Some(sealed) => format!("{text}\n{sealed}"),
            None => text,
        }
    }
}

/// The text of the fact that an auction was created at `time`. Each option of the rules that is in use adds a line. The
/// reserve counts only in its encrypted form, so that a reader who cannot decrypt it can check the chain.
#[must_use]
pub fn created_fact(
    auction_id: AuctionId,
    rules: &Rules,
    reserve: Option<&Sealed>,
    starts_at: Millis,
    time: Millis,
) -> String {
    let snipe = &rules.anti_snipe;
    let mut text = format!(
        "1\ncreated\n{}\n{auction_id}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}",
        time.0,
        rules.host.user_id,
        rules.host.username,
        rules.starting_bid.cents(),
        rules.increments,
        rules.duration_ms,
        snipe.mode.name(),
        snipe.window_ms,
        snipe.extension_ms,
        snipe.max_extensions,
        starts_at.0,
    );
    if rules.allow_self_raise {
        text.push_str("\nself_raise");
    }
    if let Some(buy_now) = rules.buy_now {
        text.push_str(&format!("\nbuy_now {}", buy_now.cents()));
    }
    if let Some(reserve) = reserve {
        text.push_str(&format!("\nreserve {reserve}"));
    }
    if rules.allow_prebids {
        text.push_str("\nprebids");
    }
    if let Some(Follows { auction_id, gap_ms }) = rules.follows {
        text.push_str(&format!("\nfollows {auction_id} {gap_ms}"));
    }
    text
}

/// The text of the fact that an auction was opened.
#[must_use]
pub fn opened_fact(seq: u64, time: Millis, end_time: Millis) -> String {
    format!("{seq}\nopened\n{}\n{}", time.0, end_time.0)
}

/// The text of the fact that the host opened an auction.
#[must_use]
pub fn started_fact(seq: u64, time: Millis, end_time: Millis, by: UserId) -> String {
    format!("{}\n{by}", opened_fact(seq, time, end_time))
}

/// The text of the fact that the leader changed the maximum by the call `bid_id`, or that it is kept as a pre-bid.
#[must_use]
pub fn maximum_fact(seq: u64, time: Millis, by: UserId, bid_id: BidId, sealed: &str) -> String {
    format!("{seq}\nmaximum\n{}\n{by}\n{bid_id}\n{sealed}", time.0)
}

/// The text of the fact that the host paused an auction with so many milliseconds left.
#[must_use]
pub fn paused_fact(seq: u64, time: Millis, by: UserId, left_ms: u64) -> String {
    format!("{seq}\npaused\n{}\n{by}\n{left_ms}", time.0)
}

/// The text of the fact that an auction goes on: after a pause, by its host, or after an outage over its end.
#[must_use]
pub fn resumed_fact(seq: u64, time: Millis, by: Option<UserId>, end_time: Millis) -> String {
    let by = by.map(|user_id| user_id.to_string()).unwrap_or_default();
    format!("{seq}\nresumed\n{}\n{by}\n{}", time.0, end_time.0)
}

/// The text of the fact that the host blocked a person.
#[must_use]
pub fn blocked_fact(seq: u64, time: Millis, by: UserId, user_id: UserId) -> String {
    format!("{seq}\nblocked\n{}\n{by}\n{user_id}", time.0)
}

/// The text of the fact that the host unblocked a person.
#[must_use]
pub fn unblocked_fact(seq: u64, time: Millis, by: UserId, user_id: UserId) -> String {
    format!("{seq}\nunblocked\n{}\n{by}\n{user_id}", time.0)
}

/// The text of the fact that an auction was closed.
#[must_use]
pub fn closed_fact(seq: u64, closing: &Closing) -> String {
    let (winner, amount) = match &closing.winner {
        Some(leader) => (leader.user_id.to_string(), leader.amount.cents().to_string()),
        None => (String::new(), String::new()),
    };
    let by = closing.by.map(|user_id| user_id.to_string()).unwrap_or_default();
    let (reason, outcome) = (closing.reason, closing.outcome());
    format!("{seq}\nclosed\n{}\n{reason}\n{by}\n{outcome}\n{winner}\n{amount}", closing.time.0)
}

/// The text of the fact that the host cancelled an auction.
#[must_use]
pub fn cancelled_fact(seq: u64, time: Millis, by: UserId) -> String {
    format!("{seq}\ncancelled\n{}\n{by}", time.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_depends_on_every_byte_before_it() {
        let first = Head::GENESIS.next("a");
        assert_eq!(first.to_string().parse(), Ok(first));
        // SHA-1("0000000000000000\na") by `printf '0000000000000000\na' | sha1sum`.
        assert_eq!(first.to_string(), "4c8df2d00fde7a5b");
        assert_ne!(first.next("b"), Head::GENESIS.next("b"));
        assert_ne!(first.next("b"), first.next("c"));
        assert!("+123456789abcdef".parse::<Head>().is_err());
    }
}
