//! The part of an auction's state that only the bidder or the host may see.

use std::collections::HashMap;

use domain::{LatestPrebid, Maximum, Reserve, Secrets};

use crate::HotstateError;
use crate::reply::{WITH_SECRETS, cents, field, filled, number, parsed};

/// The secrets, from the fields of the hash. None if the auction has none.
pub(crate) fn secrets(state: &HashMap<String, String>) -> Result<Option<Secrets>, HotstateError> {
    if state.get("rules").is_none_or(|rules| rules != WITH_SECRETS) {
        return Ok(None);
    }
    let optional = |name: &str| state.get(name).and_then(|text| filled(text));
    let reserve = match optional("reserve_cents") {
        Some(amount) => Some(Reserve { amount: cents(amount)?, sealed: parsed(field(state, "reserve_sealed")?)? }),
        None => None,
    };
    let maximum = match optional("maximum_cents") {
        Some(amount) => Some(Maximum {
            bid_id: parsed(field(state, "maximum_bid_id")?)?,
            amount: cents(amount)?,
            sealed: parsed(field(state, "maximum_sealed")?)?,
        }),
        None => None,
    };
    let prebid = match optional("prebid_bid_id") {
        Some(bid_id) => Some(LatestPrebid {
            bid_id: parsed(bid_id)?,
            username: field(state, "prebid_username")?.to_owned(),
            sealed: parsed(field(state, "prebid_sealed")?)?,
        }),
        None => None,
    };
    Ok(Some(Secrets { reserve, maximum, prebid, answers: number(field(state, "answers")?)? }))
}
