//! Every NATS subject, stream, consumer and bucket name. Nobody spells one by hand.

use domain::AuctionId;

/// The system of record.
pub const LOG_STREAM: &str = "AUCTION_LOG";
pub const CHAT_STREAM: &str = "AUCTION_CHAT";
pub const DEAD_LETTER_STREAM: &str = "AUCTION_DLQ";
pub const ALL_LOGS: &str = "auction.*.log";
pub const ALL_EVENTS: &str = "auction.*.events";
pub const ALL_PRESENCE: &str = "auction.*.presence";

pub const PERSISTENCE_CONSUMER: &str = "bid-persistence";
pub const RESULTS_CONSUMER: &str = "auction-results";

pub const LEASES_BUCKET: &str = "leases";
pub const TIMER_LEASE: &str = "timer";

/// The header that names the type of a record.
pub const RECORD_HEADER: &str = "Auction-Record";
/// The header that says why a message went to the dead letters.
pub const REASON_HEADER: &str = "Dead-Letter-Reason";

pub const BIDS_PLACE: &str = "bids.place";
pub const AUCTIONS_CREATE: &str = "auctions.create";
pub const AUCTIONS_OPEN: &str = "auctions.open";
pub const AUCTIONS_CLOSE: &str = "auctions.close";
pub const AUCTIONS_CANCEL: &str = "auctions.cancel";
pub const AUCTIONS_STATE: &str = "auctions.state";
/// Whether PostgreSQL knows that an auction is over which the log does not have (any more).
pub const AUCTIONS_RECALL: &str = "auctions.recall";
pub const BIDS_OWN: &str = "bids.own";
pub const USERS_SEEN: &str = "users.seen";

#[must_use]
pub fn log(auction_id: AuctionId) -> String {
    format!("auction.{auction_id}.log")
}

#[must_use]
pub fn events(auction_id: AuctionId) -> String {
    format!("auction.{auction_id}.events")
}

#[must_use]
pub fn timer(auction_id: AuctionId) -> String {
    format!("auction.{auction_id}.timer")
}

/// Chat as sent; kept in [`CHAT_STREAM`].
#[must_use]
pub fn chat(auction_id: AuctionId) -> String {
    format!("auction.{auction_id}.chat")
}

/// Chat as it was stored.
#[must_use]
pub fn talk(auction_id: AuctionId) -> String {
    format!("auction.{auction_id}.talk")
}

#[must_use]
pub fn presence(auction_id: AuctionId) -> String {
    format!("auction.{auction_id}.presence")
}

#[must_use]
pub fn dead_letter(consumer: &str) -> String {
    format!("dlq.{consumer}")
}

/// The auction that a subject `auction.<id>.…` is about.
#[must_use]
pub fn auction_of(subject: &str) -> Option<AuctionId> {
    subject.strip_prefix("auction.")?.split('.').next()?.parse().ok()
}
