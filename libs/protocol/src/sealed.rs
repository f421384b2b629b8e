//! The secret part of an auction's state, as it stands in the log: encrypted. Only bid-processing has the key.

use domain::{BidId, LatestPrebid, Sealed, Secrets};
use serde::{Deserialize, Serialize};

use crate::wire::{optional_text, text};

/// The secrets of an auction after a record. Absent while the auction has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecrets {
    /// The reserve, if the host has set one.
    #[serde(with = "optional_text", default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<Sealed>,
    /// The leader's maximum, if the leader has set one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<SealedMaximum>,
    /// The pre-bid that was kept last, while the auction is scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prebid: Option<SealedPrebid>,
    /// Accepted calls so far, which are not as many as the bids: a counter-bid is no call, and a changed maximum is no
    /// bid.
    pub answers: u64,
}

impl SealedSecrets {
    /// The call and the encrypted offer that a record of the type `maximum` sets. Before the opening it is a pre-bid.
    #[must_use]
    pub fn set_by(&self) -> Option<(BidId, &Sealed)> {
        let prebid = self.prebid.as_ref().map(|prebid| (prebid.bid_id, &prebid.value));
        prebid.or_else(|| self.maximum.as_ref().map(|maximum| (maximum.bid_id, &maximum.value)))
    }
}

/// A maximum, and the call that set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedMaximum {
    /// The call that set it.
    #[serde(with = "text")]
    pub bid_id: BidId,
    /// The maximum, encrypted for this call alone.
    #[serde(with = "text")]
    pub value: Sealed,
}

/// A pre-bid, the call that set it, and the name that its bidder has after the opening.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedPrebid {
    /// The call that set it.
    #[serde(with = "text")]
    pub bid_id: BidId,
    /// Public name of the bidder.
    pub username: String,
    /// The offer, encrypted for this call alone.
    #[serde(with = "text")]
    pub value: Sealed,
}

impl From<&LatestPrebid> for SealedPrebid {
    fn from(prebid: &LatestPrebid) -> Self {
        Self { bid_id: prebid.bid_id, username: prebid.username.clone(), value: prebid.sealed.clone() }
    }
}

impl From<&Secrets> for SealedSecrets {
    fn from(secrets: &Secrets) -> Self {
        let maximum = secrets.maximum.as_ref();
        Self {
            reserve: secrets.reserve.as_ref().map(|reserve| reserve.sealed.clone()),
            maximum: maximum.map(|maximum| SealedMaximum { bid_id: maximum.bid_id, value: maximum.sealed.clone() }),
            prebid: secrets.prebid.as_ref().map(Into::into),
            answers: secrets.answers,
        }
    }
}
