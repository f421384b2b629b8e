//! Maximums and the reserve, as far as the log shows them: their amounts stand in it only encrypted.

use serde_json::Value;

use crate::fields::{Bid, text};
use crate::state::State;

/// A change of a leader's maximum.
#[derive(Debug, Clone)]
pub struct Change {
    pub seq: u64,
    pub bid_id: String,
    pub user_id: String,
}

/// Why a counter-bid is not one, given the state after the bid that it follows and the leader before that.
pub fn wrong_counter(bid: &Bid, state: &State, led: Option<&str>, follows_bid: bool) -> Option<String> {
    let answered = state.leader().map_or(0, |(_, _, cents)| *cents);
    match () {
        () if !follows_bid => Some("it answers no bid in its record".to_owned()),
        () if led != Some(bid.user_id.as_str()) => Some("its bidder was not leading".to_owned()),
        () if state.is_blocked(&bid.user_id) => Some("its bidder is blocked".to_owned()),
        () if bid.cents < answered => Some(format!("it offers {} cents against {answered}", bid.cents)),
        () if bid.cents > state.capped(bid.cents) => Some("it exceeds the buy-now price".to_owned()),
        () => None,
    }
}

/// The text of the fact that a leader changed the maximum, and who did.
///
/// # Errors
/// The reason why it is not allowed.
pub fn change(record: &Value, state: &State, seq: u64, time: u64) -> Result<(String, Change), String> {
    let (by, maximum) = (text(record, "by"), &record["sealed"]["maximum"]);
    let leads = state.leader().is_some_and(|(leader, ..)| leader == by);
    if state.status != "live" || time >= state.end_time || state.is_bought() {
        return Err(format!("a maximum is changed in an auction that is {} until {}", state.status, state.end_time));
    }
    if !leads || state.is_blocked(by) {
        return Err("a maximum is changed by a person who does not lead, or is blocked".to_owned());
    }
    let (bid_id, value) = (text(maximum, "bid_id"), text(maximum, "value"));
    let change = Change { seq, bid_id: bid_id.to_owned(), user_id: by.to_owned() };
    Ok((format!("{seq}\nmaximum\n{time}\n{by}\n{bid_id}\n{value}"), change))
}

/// Whether a record may say this about the reserve after the one before it: always or never, and once met, met.
pub fn reserve_follows(state: &State, recorded: &Value) -> bool {
    match (state.reserve_met, recorded.as_bool()) {
        (None, None) => recorded.is_null(),
        (Some(before), Some(met)) => met >= before && (!met || state.leader().is_some()),
        _ => false,
    }
}
