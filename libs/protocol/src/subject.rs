//! The names of every NATS subject, stream, consumer, bucket and header. No other file spells one.

use domain::AuctionId;

/// Stream of all auctions' logs: the system of record.
pub const LOG_STREAM: &str = "AUCTION_LOG";
/// Stream of all chats.
pub const CHAT_STREAM: &str = "AUCTION_CHAT";
/// Stream of checkpoints, from which long auctions are rebuilt.
pub const CHECKPOINT_STREAM: &str = "AUCTION_CHECKPOINTS";
/// Stream of messages that a consumer could not process.
pub const DEAD_LETTER_STREAM: &str = "AUCTION_DLQ";
/// Subjects of all logs.
pub const ALL_LOGS: &str = "auction.*.log";
/// Subjects of all accepted records.
pub const ALL_EVENTS: &str = "auction.*.events";
/// Subjects of all chats as stored.
pub const ALL_TALK: &str = "auction.*.talk";
/// Subjects of all participant counts.
pub const ALL_PRESENCE: &str = "auction.*.presence";

/// Durable consumer that copies bids into the history.
pub const PERSISTENCE_CONSUMER: &str = "bid-persistence";
/// Durable consumer that writes openings and results into PostgreSQL.
pub const RESULTS_CONSUMER: &str = "auction-results";

/// Key-value bucket of the leases.
pub const LEASES_BUCKET: &str = "leases";
/// Key of the timer's lease.
pub const TIMER_LEASE: &str = "timer";

/// Header that names the type of a record.
pub const RECORD_HEADER: &str = "Auction-Record";
/// Header with the reason why a message was parked as a dead letter.
pub const REASON_HEADER: &str = "Dead-Letter-Reason";

/// Header of a request that a service sends for a person: `Bearer ` and the person's token, which the receiver verifies.
pub const AUTHORIZATION_HEADER: &str = "Authorization";
/// Header with the stream sequence that a dead letter had in the log.
pub const SEQUENCE_HEADER: &str = "Dead-Letter-Sequence";
/// Metadata of the log's stream: when it was restored from a backup.
pub const RESTORED_METADATA: &str = "flash.restored-at";
/// Metadata of the log's stream while a restore is not finished: no bid is accepted, nothing opens or closes.
pub const RESTORING_METADATA: &str = "flash.restoring";

/// Request: place a bid.
pub const BIDS_PLACE: &str = "bids.place";
/// Request: place a bid with a maximum, which an earlier version would ignore.
pub const BIDS_PLACE_WITH_MAXIMUM: &str = "bids.place_with_maximum";
/// Request: a person's own maximum.
pub const BIDS_MAXIMUM: &str = "bids.maximum";
/// Request: create an auction.
pub const AUCTIONS_CREATE: &str = "auctions.create";
/// Request: create an auction with rules that the first version does not know, and would ignore.
pub const AUCTIONS_CREATE_WITH_RULES: &str = "auctions.create_with_rules";
/// Request: create an auction with a reserve, which an earlier version would ignore.
pub const AUCTIONS_CREATE_WITH_RESERVE: &str = "auctions.create_with_reserve";
/// Creates an auction that keeps pre-bids. The version before does not serve it, and would keep none.
pub const AUCTIONS_CREATE_WITH_PREBIDS: &str = "auctions.create_with_prebids";
/// Request: create an auction that follows another. The version before does not serve it, and would open it at once.
pub const AUCTIONS_CREATE_FOLLOWER: &str = "auctions.create_follower";
/// Request: open an auction that is due.
pub const AUCTIONS_OPEN: &str = "auctions.open";
/// Request: close an auction.
pub const AUCTIONS_CLOSE: &str = "auctions.close";
/// Request: cancel an auction.
pub const AUCTIONS_CANCEL: &str = "auctions.cancel";
/// Request: open a scheduled auction now.
pub const AUCTIONS_START: &str = "auctions.start";
/// Request: stop the time of an auction.
pub const AUCTIONS_PAUSE: &str = "auctions.pause";
/// Request: let a paused auction go on.
pub const AUCTIONS_RESUME: &str = "auctions.resume";
/// Request: refuse a person's bids.
pub const AUCTIONS_BLOCK: &str = "auctions.block";
/// Request: take a person's bids again.
pub const AUCTIONS_UNBLOCK: &str = "auctions.unblock";
/// Request: the committed state of an auction.
pub const AUCTIONS_STATE: &str = "auctions.state";
/// Request: whether PostgreSQL knows an auction as over. The log may have been purged of it.
pub const AUCTIONS_RECALL: &str = "auctions.recall";
/// Request: a page of one person's bids.
pub const BIDS_OWN: &str = "bids.own";
/// Request: store the claims of a person's token.
pub const USERS_SEEN: &str = "users.seen";
/// Request: a page of the names that the table of users has.
pub const USERS_NAMES: &str = "users.names";
/// A name that the table of users has given to a person, published once.
pub const USERS_NAMED: &str = "users.named";
/// Request: read or set what a person may lead with at once.
pub const USERS_LIMIT: &str = "users.limit";
/// Request: a page of the people with a limit of their own.
pub const USERS_LIMITS: &str = "users.limits";
/// The limit of a person has changed, published once.
pub const USERS_LIMITED: &str = "users.limited";

/// Request: write the bids of one record into the history again.
pub const HISTORY_REDRIVE: &str = "history.redrive";
/// Request: write the result in one record into PostgreSQL again.
pub const RESULTS_REDRIVE: &str = "results.redrive";

/// Request: what an instance of a service knows about itself, as in `nats micro stats`.
#[must_use]
pub fn status(service: &str) -> String {
    format!("status.{service}")
}

/// The request that puts a record of the log back to one of its consumers. None for a consumer without one.
#[must_use]
pub fn redrive(consumer: &str) -> Option<&'static str> {
    match consumer {
        PERSISTENCE_CONSUMER => Some(HISTORY_REDRIVE),
        RESULTS_CONSUMER => Some(RESULTS_REDRIVE),
        _ => None,
    }
}

/// The auction's log, in [`LOG_STREAM`].
#[must_use]
pub fn log(auction_id: AuctionId) -> String {
    format!("auction.{auction_id}.log")
}

/// The auction's records, published once they are in the log.
#[must_use]
pub fn events(auction_id: AuctionId) -> String {
    format!("auction.{auction_id}.events")
}

/// The auction's ticks.
#[must_use]
pub fn timer(auction_id: AuctionId) -> String {
    format!("auction.{auction_id}.timer")
}

/// The auction's chat as sent, in [`CHAT_STREAM`].
#[must_use]
pub fn chat(auction_id: AuctionId) -> String {
    format!("auction.{auction_id}.chat")
}

/// The auction's chat as stored: the stream publishes each message here again.
#[must_use]
pub fn talk(auction_id: AuctionId) -> String {
    format!("auction.{auction_id}.talk")
}

/// The auction's checkpoints, in [`CHECKPOINT_STREAM`].
#[must_use]
pub fn checkpoint(auction_id: AuctionId) -> String {
    format!("auction.{auction_id}.checkpoint")
}

/// The edges' counts of people who watch the auction.
#[must_use]
pub fn presence(auction_id: AuctionId) -> String {
    format!("auction.{auction_id}.presence")
}

/// Request to one edge: where the other edges reach it.
#[must_use]
pub fn edges_locate(edge: &str) -> String {
    format!("edges.locate.{edge}")
}

/// Bids of people whose sockets may be on several edges, and questions for them, from each edge to the others.
pub const EDGES_BIDS: &str = "edges.bids";

/// The auctions whose hosts stream, from auction-management to edges and its other instances.
pub const VIDEO_ON_AIR: &str = "video.on_air";

/// Dead letters of a consumer, in [`DEAD_LETTER_STREAM`].
#[must_use]
pub fn dead_letter(consumer: &str) -> String {
    format!("dlq.{consumer}")
}

/// Request to JetStream: messages of a stream, from any server that has it.
#[must_use]
pub fn direct_get(stream: &str) -> String {
    format!("$JS.API.DIRECT.GET.{stream}")
}

/// The auction named by a subject `auction.<id>.…`.
#[must_use]
pub fn auction_of(subject: &str) -> Option<AuctionId> {
    subject.strip_prefix("auction.")?.split('.').next()?.parse().ok()
}
