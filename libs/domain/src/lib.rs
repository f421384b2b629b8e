//! The rules of an auction.
//!
//! **Owns** what a bid, a price, an end and a winner are, and the chain of heads that ties every
//! fact of an auction to the one before it.
//!
//! **Never** does I/O, reads a clock, draws randomness, knows JSON, or uses a float: `now` is an
//! argument, money is whole cents, ids arrive parsed.
//!
//! **Invariants**
//! - The price only rises while an auction lives.
//! - `seq` counts every fact from `created` = 1, without gaps.
//! - [`Auction::place`] is the model of `lua/place_bid.lua`: a seeded random test (in `hotstate`)
//!   plays both against a real Redis and compares every reply, head by head.

mod auction;
mod chain;
mod ids;
mod money;
mod name;
mod rules;

pub use auction::{Accepted, Auction, BidRequest, CloseReason, Closing, Decision, Leader, Outcome, Refusal, Status};
pub use chain::{BidFact, BidKind, Head, cancelled_fact, closed_fact, created_fact, opened_fact};
pub use ids::{AuctionId, BidId, IdError, UserId};
pub use money::{Amount, AmountError};
pub use name::UnknownName;
pub use rules::{AntiSnipe, AntiSnipeMode, Host, Millis, Rules};
