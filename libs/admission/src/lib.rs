//! Who may bid at all, decided from memory: the checks that need neither Redis nor the log.
//!
//! **Owns** committed prices ([`CommittedPrices`]), so that a bid below one is rejected at once, and the limits of one
//! process ([`Limits`], [`Allowance`]): bids in flight, and bids a second of one person. bid-processing and the edges
//! use the same ones.
//!
//! **Never** accepts a bid, and never rejects one for another reason than these.
//!
//! **Invariants**
//! - A price comes from a committed record, never from the answer of a script, which may yet be lost.
//! - A rejection from a price is `bid_too_low`, and given only where nothing that is checked before the amount applies.
//! - Memory is bounded: in people, in bids in flight, and in remembered bid ids of one auction.

mod limits;
mod prices;

pub use limits::{Allowance, DEFAULT_BIDS_PER_SECOND, InFlight, Limits, Rate};
pub use prices::{CommittedPrices, Connection};
