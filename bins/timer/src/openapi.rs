//! The description of the HTTP routes, from which `openapi.json` is written.

use protocol::Code;
use protocol::api::{Operation, Reply, Service};

/// The HTTP API of the timer.
pub const SERVICE: Service = Service { name: "timer", about: "The only source of time.", operations: OPERATIONS };

const OPERATIONS: &[Operation] = &[
    Operation::new("GET", "/auctions/{id}/timer", "getAuctionTimer", "The time left")
        .replies(&[Reply::json(200, "The time left", "Timer")])
        .errors(&[Code::AuctionClosed, Code::Overloaded, Code::OutcomeUnknown]),
    Operation::new("GET", "/time", "getTime", "The time by which auctions run")
        .replies(&[Reply::json(200, "The time", "Time")]),
];
