//! Messages between edges: the number of people who watch an auction, which each edge publishes and receivers add up, the
//! address of an edge, and the bids of people whose sockets are on several edges.

use std::collections::HashMap;

use domain::{Amount, AuctionId, UserId};
use serde::{Deserialize, Serialize};

use crate::wire::{cents, text};

/// `auction.<id>.presence`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeCount {
    /// The edge that counted; a new name for each process.
    pub edge: String,
    /// People connected to that edge.
    pub participant_count: u64,
}

/// The reply to `edges.locate.<edge>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeAddress {
    /// Host and port at which other edges reach this one.
    pub address: String,
    /// Whether it has TLS there.
    #[serde(default)]
    pub tls: bool,
}

/// `edges.bids`: the auctions that one edge knows a person to have bid in. Without any it asks the others for theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BidsOfPerson {
    /// The edge that sends.
    pub edge: String,
    /// The person.
    #[serde(with = "text")]
    pub user_id: UserId,
    /// The last bid of the person in each auction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bids: Vec<BidOfPerson>,
}

/// The last bid of a person in one auction, as an edge knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BidOfPerson {
    /// The auction.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// Sequence number of the bid in its auction.
    pub seq: u64,
    /// The price offered.
    #[serde(rename = "amount_cents", with = "cents")]
    pub amount: Amount,
    /// Whether the person has been notified that it was overtaken.
    pub is_notified: bool,
}

/// Milliseconds without a count after which an edge counts as empty. CONTRACT.md, Presence.
const SILENT_AFTER_MS: u64 = 3_000;

/// Edges counted. More than any fleet has; without a bound, forged counts would fill the memory.
const MAX_EDGES: usize = 256;
/// Longest name of an edge, in bytes. An edge names itself by a UUID.
const MAX_EDGE_BYTES: usize = 64;
/// People that one edge can report, more than it has connections for.
const MAX_PEOPLE_OF_EDGE: u64 = 1_000_000;

/// The recent counts of all edges.
#[derive(Debug, Default)]
pub struct Presence {
    edges: HashMap<String, (u64, u64)>,
}

impl Presence {
    /// Stores a count received at `now`, in milliseconds of any monotonic clock. A count that no edge sends is ignored.
    pub fn observe(&mut self, count: EdgeCount, now: u64) {
        let EdgeCount { edge, participant_count } = count;
        if participant_count == 0 {
            self.edges.remove(&edge);
        } else if edge.len() <= MAX_EDGE_BYTES
            && participant_count <= MAX_PEOPLE_OF_EDGE
            && (self.edges.len() < MAX_EDGES || self.edges.contains_key(&edge))
        {
            self.edges.insert(edge, (participant_count, now));
        }
    }

    /// Drops edges that have been silent for too long, and adds up the others.
    pub fn sum(&mut self, now: u64) -> u64 {
        self.edges.retain(|_, (_, observed)| now.saturating_sub(*observed) <= SILENT_AFTER_MS);
        self.edges.values().map(|(count, _)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_edge_is_dropped() {
        let mut presence = Presence::default();
        let count = |edge: &str, participant_count| EdgeCount { edge: edge.to_owned(), participant_count };
        presence.observe(count("a", 3), 0);
        presence.observe(count("b", 4), 2_000);
        presence.observe(count("a", 5), 1_000);
        assert_eq!(presence.sum(2_500), 9);
        assert_eq!(presence.sum(4_001), 4);
        presence.observe(count("b", 0), 4_002);
        assert_eq!(presence.sum(4_002), 0);
    }

    #[test]
    fn counts_that_no_edge_sends_are_ignored_and_all_are_bounded() {
        let mut presence = Presence::default();
        let count = |edge: String, participant_count| EdgeCount { edge, participant_count };
        presence.observe(count("a".to_owned(), u64::MAX), 0);
        presence.observe(count("x".repeat(MAX_EDGE_BYTES + 1), 1), 0);
        assert_eq!(presence.sum(0), 0);
        for number in 0..2 * MAX_EDGES {
            presence.observe(count(number.to_string(), MAX_PEOPLE_OF_EDGE), 0);
        }
        assert_eq!(presence.sum(0), MAX_PEOPLE_OF_EDGE * 256);
        assert_eq!(presence.sum(SILENT_AFTER_MS + 1), 0, "forged counts are gone after three seconds");
    }
}
