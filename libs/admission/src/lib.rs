//! Checks of a call that need neither Redis nor the log: committed prices, ids that do not exist, and limits of one
//! process.
//!
//! **Owns** committed prices ([`CommittedPrices`]), so that a bid below one is rejected at once, and the limits of one
//! process ([`Limits`], [`Allowance`]): bids in flight, and bids a second of one person. Accepted bids of a person are
//! counted over all processes ([`AcceptedBids`]). Ids that do not exist are remembered for seconds
//! ([`UnknownAuctions`]), and the names under which people are shown are copied from the table of users
//! ([`ShownNames`]). The standing leads of a person are summed over all auctions, and limited ([`StandingLeads`]).
//! bid-processing and the edges use the same code. Edges and auction-management show which hosts stream
//! ([`OnAirAuctions`]).
//!
//! **Never** accepts a bid, and never rejects one for any other reason.
//!
//! **Invariants**
//! - A price comes from a committed record, never from the answer of a script, which may yet be lost.
//! - A rejection from a price is `bid_too_low`, and is given only where no check that precedes the amount can apply.
//! - Memory is bounded: people, bids in flight, remembered bid ids of one auction, unknown auctions, names, and people
//!   with a limit of their own. Leads are as many as running auctions, which creation bounds.

#![warn(missing_docs)]

mod accepted;
mod limits;
mod names;
mod on_air;
mod prices;
mod standing;
mod unknown;

pub use accepted::{AcceptedBids, DEFAULT_BIDS_PER_DAY};
pub use limits::{Allowance, DEFAULT_BIDS_PER_SECOND, InFlight, Limits, Rate};
pub use names::ShownNames;
pub use on_air::OnAirAuctions;
pub use prices::{CommittedPrices, Connection};
pub use standing::{DEFAULT_PERSON_LIMIT_CENTS, Exceeded, StandingLeads};
pub use unknown::UnknownAuctions;
