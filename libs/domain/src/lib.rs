//! The rules of an auction, and the words that the whole repository uses for its parts.
//!
//! **Owns** what a bid, a price, an end and a winner are, and the chain of heads that links every fact of an auction to
//! the one before it.
//!
//! **Never** does I/O, reads a clock, draws randomness, knows JSON, or calculates with floats: `now` is an argument,
//! money is whole cents, ids arrive parsed.
//!
//! **Invariants**
//! - The price only rises while an auction is live.
//! - `seq` counts every fact from `created` = 1, without gaps.
//! - [`Auction::place`] is the model of `lua/place_bid.lua`: a seeded random test (in `hotstate`)
//!   plays both against a real Redis and compares every reply, head by head.
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | lot | the thing that one auction sells; demos and tests use the word for the auction itself |
//! | hammer | the moment an auction closes and the winner is final |
//! | leader | the person with the highest accepted bid |
//! | late bid | a bid accepted in the anti-snipe window before the end; it may extend the auction |
//! | increment | the least amount by which a bid must exceed the highest one |
//! | ladder | the increments of one auction, by the height of the price, in bands |
//! | proxy bid | a bid with a maximum: the auction bids for the person, as little as it takes, up to the maximum |
//! | counter-bid | the bid that the leader's maximum makes at once against a rival's; its kind is `proxy` |
//! | reserve | the price below which the host does not sell, and which only the host knows |
//! | sealed | encrypted: the form in which a maximum or a reserve stands in the chain and the log ([`Sealed`]) |
//! | follower | an auction that opens by itself once another one, its predecessor, has ended ([`Follows`]) |
//! | plain | an auction without options, which every version of the scripts may decide ([`Rules::is_plain`]) |
//! | fact | one thing that happened to an auction: created, opened, a bid accepted, paused, a person blocked, closed, … |
//! | seq | the number of a fact within its auction, from 1, without gaps |
//! | chain, head | the head is a short hash over all facts so far: of the previous head and the newest fact ([`Head`]) |
//! | mark | (seq, head): the exact state that one script call left, and that its answers rest on |
//! | outbox | facts that Redis has decided and the log does not have yet; a Redis stream, one entry a script call |
//! | record | one message in the log: the facts of one or more script calls, and the public state after them |
//! | log | the JetStream stream `AUCTION_LOG`, the system of record; one subject an auction |
//! | tail | the end of an auction's log as one instance knows it |
//! | committed | contained in the log. Only committed facts are answered, broadcast or written elsewhere |
//! | auctioneer | the task that decides all calls for one auction in one instance of bid-processing |
//! | committer | the part of an auctioneer that appends the outbox to the log and finds out what is committed |
//! | edge | an instance of the websocket service: the process that clients are connected to |
//! | room | the task that serves one auction on one edge: follows its records and broadcasts to its members |
//! | lease, fencing token | a time-limited right of one instance, and the number by which receivers recognise an older holder |

#![warn(missing_docs)]
#![deny(clippy::float_arithmetic)]

mod auction;
mod bidding;
mod chain;
mod host;
mod ids;
mod ladder;
mod money;
mod name;
mod offer;
mod outage;
mod prebids;
mod rules;
mod status;

pub use auction::{Auction, Closing, Leader};
pub use bidding::{Accepted, BidRequest, Decision, Refusal};
pub use chain::{
    BidFact, BidKind, Head, blocked_fact, cancelled_fact, closed_fact, created_fact, maximum_fact, opened_fact,
    paused_fact, resumed_fact, started_fact, unblocked_fact,
};
pub use host::{Acted, HostAct, MAX_BLOCKED};
pub use ids::{AuctionId, BidId, IdError, UserId};
pub use ladder::{Band, Ladder, LadderError, Preset};
pub use money::{Amount, AmountError};
pub use name::{Names, UnknownName};
pub use offer::{LatestPrebid, Maximum, Offer, Reserve, Sealed, Secrets};
pub use outage::{LATE_CLOSING_MS, MAX_RECOVERIES};
pub use prebids::{MAX_PREBIDDERS, MAX_PREBIDS_OF_ONE, Prebid};
pub use rules::{AntiSnipe, AntiSnipeMode, Follows, Host, Millis, Rules};
pub use status::{CloseReason, Outcome, Status};
