//! The part of an auction that the first version does not know, as it stands in requests between services and in records.

use domain::{Amount, Auction, AuctionId, Band, Follows, Ladder, Rules, Status, UserId};
use serde::{Deserialize, Serialize};

use crate::wire::{bands, optional_cents, optional_text, optional_texts};

/// The options of one auction. A plain auction has none, and its requests and records do not mention them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Options {
    /// The increment ladder, if it is more than one step for all prices.
    #[serde(with = "bands", default, skip_serializing_if = "Option::is_none")]
    pub increments: Option<Ladder>,
    /// Whether the leader may raise their own bid.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub allow_self_raise: bool,
    /// The price at which the auction ends at once.
    #[serde(rename = "buy_now_cents", with = "optional_cents", default, skip_serializing_if = "Option::is_none")]
    pub buy_now: Option<Amount>,
    /// Whether bids are kept until the opening while the auction is scheduled.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub allow_prebids: bool,
    /// The auction whose end opens this one.
    #[serde(with = "optional_text", default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<AuctionId>,
    /// Milliseconds from that end to the opening.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gap_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field by reference")]
const fn is_unset(flag: &bool) -> bool {
    !*flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field by reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Options {
    /// The options among the rules.
    #[must_use]
    pub fn of(rules: &Rules) -> Self {
        Self {
            increments: rules.increments.flat_step().is_none().then(|| rules.increments.clone()),
            allow_self_raise: rules.allow_self_raise,
            buy_now: rules.buy_now,
            allow_prebids: rules.allow_prebids,
            follows: rules.follows.map(|follows| follows.auction_id),
            gap_ms: rules.follows.map_or(0, |follows| follows.gap_ms),
        }
    }

    /// The auction that it follows and the gap, as the rules have them.
    #[must_use]
    pub fn follows(&self) -> Option<Follows> {
        self.follows.map(|auction_id| Follows { auction_id, gap_ms: self.gap_ms })
    }

    /// Whether no option is in use.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// One band of a ladder in the log.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredBand {
    from_cents: u64,
    step_cents: u64,
}

impl From<&Band> for StoredBand {
    fn from(band: &Band) -> Self {
        Self { from_cents: band.from_cents, step_cents: band.step.cents() }
    }
}

impl TryFrom<StoredBand> for Band {
    type Error = &'static str;

    fn try_from(stored: StoredBand) -> Result<Self, Self::Error> {
        let step = Amount::from_stored(stored.step_cents).ok_or("a step of 0 is none")?;
        Ok(Self { from_cents: stored.from_cents, step })
    }
}

/// Acts of the host on a running auction, as far as they still matter. Absent before the first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ByHost {
    /// Pauses so far.
    #[serde(default)]
    pub pauses: u32,
    /// While the auction is paused: milliseconds until the end once it is resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
    /// People whose bids are refused. None before the first is blocked.
    #[serde(with = "optional_texts", default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Vec<UserId>>,
}

impl ByHost {
    /// The same of an auction.
    #[must_use]
    pub fn of(auction: &Auction) -> Self {
        let Auction { pauses, remaining_ms, ref blocked, status, .. } = *auction;
        let remaining_ms = remaining_ms.filter(|_| status == Status::Paused);
        Self { pauses, remaining_ms, blocked: blocked.clone() }
    }

    /// Whether the host has done nothing.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this person's bids are refused.
    #[must_use]
    pub fn blocks(&self, user_id: UserId) -> bool {
        self.blocked.as_ref().is_some_and(|blocked| blocked.contains(&user_id))
    }
}
