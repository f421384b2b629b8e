//! The description of the HTTP routes, from which `openapi.json` is written.

use protocol::Code;
use protocol::api::{BEFORE, LIMIT, Operation, Parameter, Reply, Service};

/// The HTTP API of bid-processing.
pub const SERVICE: Service =
    Service { name: "bid-processing", about: "Every decision about a bid.", operations: OPERATIONS };

const OPERATIONS: &[Operation] = &[
    place("/bids", "placeBid"),
    place("/internal/bids", "placeBidInternally"),
    Operation::new("GET", "/bids", "listOwnBids", "The caller's bids, newest first")
        .token()
        .parameters(&[LIMIT, BEFORE])
        .replies(&[Reply::json(200, "A page of bids", "OwnBidPage")])
        .errors(&[Code::InvalidRequest]),
];

const KEY: &[Parameter] = &[Parameter::header("Idempotency-Key", "The bid_id of a body that has none")];
const ACCEPTED: &[Reply] = &[Reply::json(200, "The bid was accepted", "Accepted")];
const REJECTED: &[Code] = &[
    Code::InvalidAmount,
    Code::HostCannotBid,
    Code::LimitExceeded,
    Code::AuctionNotFound,
    Code::BidTooLow,
    Code::AlreadyLeading,
    Code::AuctionNotStarted,
    Code::AuctionPaused,
    Code::AuctionClosed,
    Code::BidIdReused,
    Code::RateLimited,
    Code::Overloaded,
    Code::OutcomeUnknown,
];

const fn place(path: &'static str, id: &'static str) -> Operation {
    Operation::new("POST", path, id, "Place a bid. With a bid_id it may be sent again: it is one bid with one answer")
        .token()
        .parameters(KEY)
        .body("PlaceBid")
        .replies(ACCEPTED)
        .errors(REJECTED)
        .error_body("Refused")
}
