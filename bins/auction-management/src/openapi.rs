//! The description of the routes in `routes.rs`, from which `openapi.json` is written.

use protocol::Code;
use protocol::api::{BEFORE, Kind, LIMIT, Operation, Parameter, Reply, Service};

/// The HTTP API of auction-management.
pub const SERVICE: Service =
    Service { name: "auction-management", about: "Auctions, people, results.", operations: OPERATIONS };

/// Errors of an answer that bid-processing gives.
const ASKED: &[Code] = &[Code::AuctionClosed, Code::Unavailable, Code::Overloaded, Code::OutcomeUnknown];
/// Errors of an action by which the host changes an auction.
const HOST: &[Code] =
    &[Code::NotHost, Code::WrongState, Code::AuctionClosed, Code::Unavailable, Code::Overloaded, Code::OutcomeUnknown];

/// Errors of blocking and unblocking.
const BLOCK: &[Code] = &[
    Code::NotHost,
    Code::WrongState,
    Code::AuctionClosed,
    Code::LimitExceeded,
    Code::Unavailable,
    Code::Overloaded,
    Code::OutcomeUnknown,
];
/// `status` of a list.
const STATUSES: Parameter = Parameter::query("status", Kind::Statuses, "Only auctions with one of these statuses");

const OPERATIONS: &[Operation] = &[
    Operation::new("POST", "/auctions", "createAuction", "Create an auction; it is live at once, or at its start")
        .token()
        .parameters(&[Parameter::header(
            "Idempotency-Key",
            "1 to 200 characters. The same key of the same person is the same request",
        )])
        .body("CreateAuction")
        .replies(&[Reply::json(201, "The auction, with the credentials for streaming", "HostsAuction")])
        .errors(&[
            Code::InvalidAmount,
            Code::LimitExceeded,
            Code::AuctionClosed,
            Code::RateLimited,
            Code::VideoQuota,
            Code::Unavailable,
            Code::Overloaded,
            Code::OutcomeUnknown,
        ]),
    Operation::new("GET", "/auctions", "listAuctions", "Auctions, by default the newest first")
        .optional_token()
        .parameters(&[
            STATUSES,
            Parameter::query("category", Kind::Text, "Only auctions of this category"),
            Parameter::query("host", Kind::Id, "Only auctions of this host"),
            Parameter::query("q", Kind::Text, "Only auctions with words that begin so, at most 200 characters"),
            Parameter::query(
                "sort",
                Kind::OneOf(&["newest", "ending", "price"]),
                "The newest, the next to end, or the cheapest first; prices and ends as PostgreSQL has them, within a \
                 page the live ones",
            ),
            LIMIT,
            Parameter::query("offset", Kind::Whole(0, Some(1_000_000_000)), "Auctions to skip"),
        ])
        .replies(&[Reply::json(200, "A page of auctions", "AuctionPage")])
        .errors(&[Code::InvalidRequest, Code::Unavailable]),
    Operation::new("GET", "/auctions/categories", "listCategories", "The categories in use, the most used first")
        .parameters(&[STATUSES])
        .replies(&[Reply::json(200, "The categories", "CategoryList")])
        .errors(&[Code::InvalidRequest, Code::Unavailable]),
    Operation::new("GET", "/auctions/{id}", "getAuction", "One auction").optional_token().replies(&[Reply::json(
        200,
        "The auction",
        "Auction",
    )]),
    Operation::new(
        "GET",
        "/auctions/{id}/state",
        "getAuctionState",
        "The live state; with a token it says whether the caller is winning",
    )
    .optional_token()
    .replies(&[Reply::json(200, "The live state", "LiveState")])
    .errors(ASKED),
    Operation::new("GET", "/auctions/{id}/bids", "listAuctionBids", "The history, newest first")
        .optional_token()
        .parameters(&[
            LIMIT,
            Parameter::query("before_seq", Kind::Whole(0, None), "next_before_seq of the page before"),
        ])
        .replies(&[Reply::json(200, "A page of bids", "BidPage")]),
    Operation::new(
        "GET",
        "/auctions/{id}/facts",
        "listAuctionFacts",
        "The facts of an auction that is over, oldest first; where aliases are shown, for its host",
    )
    .optional_token()
    .parameters(&[Parameter::query("after", Kind::Text, "next_after of the page before")])
    .replies(&[Reply::json(200, "A page of facts", "FactPage")])
    .errors(&[Code::InvalidRequest, Code::NotHost, Code::WrongState, Code::Unavailable, Code::Overloaded]),
    Operation::new("GET", "/auctions/{id}/timer", "getAuctionTimer", "The time left")
        .replies(&[Reply::json(200, "The time left", "Timer")])
        .errors(ASKED),
    Operation::new("POST", "/auctions/{id}/close", "closeAuction", "End the auction now; for its host")
        .token()
        .replies(&[Reply::json(200, "The closed auction", "Auction")])
        .errors(HOST),
    Operation::new("POST", "/auctions/{id}/cancel", "cancelAuction", "Cancel the auction: no bid wins; for its host")
        .token()
        .replies(&[Reply::json(200, "The cancelled auction", "Auction")])
        .errors(HOST),
    Operation::new("POST", "/auctions/{id}/start", "startAuction", "Open a scheduled auction now; for its host")
        .token()
        .replies(&[Reply::json(200, "The auction", "Auction")])
        .errors(HOST),
    Operation::new("POST", "/auctions/{id}/pause", "pauseAuction", "Stop the auction's time; for its host")
        .token()
        .replies(&[Reply::json(200, "The paused auction", "Auction")])
        .errors(HOST),
    Operation::new("POST", "/auctions/{id}/resume", "resumeAuction", "Let the auction go on; for its host")
        .token()
        .replies(&[Reply::json(200, "The auction", "Auction")])
        .errors(HOST),
    Operation::new("POST", "/auctions/{id}/block", "blockBidder", "Refuse a person's bids from now on; for its host")
        .token()
        .body("BlockBidder")
        .replies(&[Reply::json(200, "The auction", "Auction")])
        .errors(BLOCK),
    Operation::new("POST", "/auctions/{id}/unblock", "unblockBidder", "Take a person's bids again; for its host")
        .token()
        .body("BlockBidder")
        .replies(&[Reply::json(200, "The auction", "Auction")])
        .errors(BLOCK),
    Operation::new(
        "POST",
        "/auctions/{id}/chat",
        "setSlowMode",
        "Set how often each person may write in the chat; for the host",
    )
    .token()
    .body("SetSlowMode")
    .replies(&[Reply::json(200, "The auction", "Auction")])
    .errors(&[Code::NotHost, Code::OutcomeUnknown]),
    Operation::new(
        "GET",
        "/auctions/{id}/stream",
        "getStream",
        "Where to stream to, and whether video arrives; for the host",
    )
    .token()
    .replies(&[Reply::json(200, "The video channel", "Stream")])
    .errors(&[Code::NotHost, Code::WrongState]),
    Operation::new("GET", "/users/me", "getProfile", "The caller's profile").token().replies(&[Reply::json(
        200,
        "The profile",
        "Profile",
    )]),
    Operation::new("PUT", "/users/me", "changeProfile", "Change the caller's profile; empty text clears a field")
        .token()
        .body("ChangeProfile")
        .replies(&[Reply::json(200, "The profile after the change", "Profile")])
        .errors(&[Code::OutcomeUnknown]),
    Operation::new("POST", "/uploads", "askUpload", "An address to which one photo is sent by PUT")
        .token()
        .body("AskUpload")
        .replies(&[Reply::json(200, "Where to send the photo, and where it is found then", "Upload")])
        .errors(&[Code::NotFound, Code::RateLimited]),
    Operation::new("GET", "/bids", "listOwnBids", "The caller's bids, newest first")
        .token()
        .parameters(&[LIMIT, BEFORE])
        .replies(&[Reply::json(200, "A page of bids", "OwnBidPage")])
        .errors(&[Code::InvalidRequest]),
    Operation::new("GET", "/time", "getTime", "The time by which auctions run")
        .replies(&[Reply::json(200, "The time", "Time")]),
];
