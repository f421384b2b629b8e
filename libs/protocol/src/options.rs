//! Rules that the first version does not know, as they stand in requests between services and in records.

use domain::{Amount, Band, Ladder, Rules};
use serde::{Deserialize, Serialize};

use crate::wire::{bands, optional_cents};

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
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field by reference")]
const fn is_unset(flag: &bool) -> bool {
    !*flag
}

impl Options {
    /// The options among the rules.
    #[must_use]
    pub fn of(rules: &Rules) -> Self {
        Self {
            increments: rules.increments.flat_step().is_none().then(|| rules.increments.clone()),
            allow_self_raise: rules.allow_self_raise,
            buy_now: rules.buy_now,
        }
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
