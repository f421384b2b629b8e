//! The secrets of bidders and hosts: the maximum of a proxy bid, and the reserve.
//!
//! The rules decide by the amounts. The chain and the log have them only in sealed form: a text that this crate carries
//! and never opens. No secret amount is in a `Debug` output, so that none gets into a log line.

use std::fmt;
use std::str::FromStr;

use crate::{Amount, BidId, IdError};

/// An encrypted value, as text. Part of the chain, and of the arguments of the scripts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sealed(String);

impl Sealed {
    /// Characters of the longest sealed value. One of this version has 75; a newer version may need more.
    const MAX_CHARACTERS: usize = 400;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Letters, digits, `-` and `_`: nothing that separates the fields of facts and arguments.
impl FromStr for Sealed {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let is_sealed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if text.is_empty() || text.len() > Self::MAX_CHARACTERS || !text.bytes().all(is_sealed) {
            return Err(IdError);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A bidder's offer.
#[derive(Clone, PartialEq, Eq)]
pub enum Offer {
    /// This amount.
    Exact(Amount),
    /// This amount; before the opening it is kept as a maximum, for which it is encrypted.
    Kept {
        /// The amount.
        amount: Amount,
        /// The same, encrypted.
        sealed: Sealed,
    },
    /// A proxy bid: the auction bids for the person, as little as it takes, up to a maximum.
    UpTo {
        /// The amount to bid at once; None for the least that is needed.
        amount: Option<Amount>,
        /// How far to go. Not below the amount.
        maximum: Amount,
        /// Both of them, encrypted.
        sealed: Sealed,
    },
}

impl Offer {
    /// The amount that is to be bid at once; None for the least that is needed.
    #[must_use]
    pub const fn amount(&self) -> Option<Amount> {
        match self {
            Self::Exact(amount) | Self::Kept { amount, .. } => Some(*amount),
            Self::UpTo { amount, .. } => *amount,
        }
    }

    /// The most that the bidder is ready to pay.
    #[must_use]
    pub const fn limit(&self) -> Amount {
        match self {
            Self::Exact(amount) | Self::Kept { amount, .. } => *amount,
            Self::UpTo { maximum, .. } => *maximum,
        }
    }

    /// The maximum, if it is a proxy bid.
    #[must_use]
    pub const fn maximum(&self) -> Option<Amount> {
        match self {
            Self::Exact(_) | Self::Kept { .. } => None,
            Self::UpTo { maximum, .. } => Some(*maximum),
        }
    }

    /// The encrypted form, if there is one.
    #[must_use]
    pub const fn sealed(&self) -> Option<&Sealed> {
        match self {
            Self::Exact(_) => None,
            Self::UpTo { sealed, .. } | Self::Kept { sealed, .. } => Some(sealed),
        }
    }

    /// The offer to an auction that is open: nothing is kept.
    pub(crate) fn at_once(self) -> Self {
        match self {
            Self::Kept { amount, .. } => Self::Exact(amount),
            offer => offer,
        }
    }

    /// Whether the same is offered. The encrypted forms of the same amounts differ.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.amount() == other.amount() && self.maximum() == other.maximum()
    }

    /// The offer with its amounts cut to the buy-now price, if there is one.
    #[must_use]
    pub fn capped(&self, buy_now: Option<Amount>) -> Self {
        let cut = |amount: Amount| buy_now.map_or(amount, |buy_now| amount.min(buy_now));
        match self {
            Self::Exact(amount) => Self::Exact(cut(*amount)),
            Self::Kept { amount, sealed } => Self::Kept { amount: cut(*amount), sealed: sealed.clone() },
            Self::UpTo { amount, maximum, sealed } => {
                Self::UpTo { amount: amount.map(&cut), maximum: cut(*maximum), sealed: sealed.clone() }
            }
        }
    }
}

impl From<Amount> for Offer {
    fn from(amount: Amount) -> Self {
        Self::Exact(amount)
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(amount) => f.debug_tuple("Exact").field(amount).finish(),
            Self::Kept { .. } => f.write_str("Kept(secret)"),
            Self::UpTo { .. } => f.write_str("UpTo(secret)"),
        }
    }
}

/// How far the auction bids for its leader.
#[derive(Clone, PartialEq, Eq)]
pub struct Maximum {
    /// The call that set it. Its encrypted form is bound to this id.
    pub bid_id: BidId,
    /// The most that is bid.
    pub amount: Amount,
    /// The same, encrypted.
    pub sealed: Sealed,
}

impl fmt::Debug for Maximum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maximum").field("bid_id", &self.bid_id).finish_non_exhaustive()
    }
}

/// The price below which the host does not sell.
#[derive(Clone, PartialEq, Eq)]
pub struct Reserve {
    /// The least price at which the auction sells.
    pub amount: Amount,
    /// The same, encrypted.
    pub sealed: Sealed,
}

impl fmt::Debug for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reserve(secret)")
    }
}

/// The pre-bid that was kept last, as the log needs it. Only while the auction is scheduled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatestPrebid {
    /// The call that set it.
    pub bid_id: BidId,
    /// The name of the bidder that others see after the opening.
    pub username: String,
    /// The offer, encrypted.
    pub sealed: Sealed,
}

/// The state of an auction that only the bidder or the host may see. Only an auction with a reserve or with pre-bids,
/// or that has had a maximum, has any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secrets {
    /// The reserve, if there is one.
    pub reserve: Option<Reserve>,
    /// The leader's maximum, if the leader has set one. It may be as low as the price, or lower after a raise.
    pub maximum: Option<Maximum>,
    /// The pre-bid that was kept last, while the auction is scheduled.
    pub prebid: Option<LatestPrebid>,
    /// Accepted calls so far. Not the same as the bids: a counter-bid is no call, and a changed maximum no bid.
    pub answers: u64,
}
