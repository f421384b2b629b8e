//! Pre-bids: kept in encrypted form while an auction is scheduled, and bid at its opening.

use serde_json::Value;

use crate::answers::CallsById;
use crate::fields::{Bid, text};
use crate::invariant::Invariant;
use crate::log::Folded;
use crate::proxy::Change;
use crate::state::{Kept, State};
use crate::verdict::Verdict;

/// People whose pre-bids an auction keeps, and pre-bids of one person.
const MAX_PEOPLE: usize = 400;
const MAX_OF_ONE: u32 = 10;

/// The bids that an auction made at its opening, and the pre-bids that it had kept.
#[derive(Debug, Clone)]
pub struct Opening {
    pub line: usize,
    /// The pre-bids that counted, in the order in which they were set.
    kept: Vec<Kept>,
    winner: String,
    price: u64,
    /// The state afterwards.
    state: State,
}

/// Notes a pre-bid in the state. Returns the text of its fact, and who set it.
///
/// # Errors
/// The reason why it is not allowed.
pub fn keep(record: &Value, state: &mut State, seq: u64, time: u64) -> Result<(String, Change), String> {
    let (by, prebid) = (text(record, "by"), &record["sealed"]["prebid"]);
    if !state.keeps_prebids() {
        return Err(format!("a bid is kept in an auction that is {}", state.status));
    }
    if by == state.host || state.is_blocked(by) {
        return Err("the bid of the host, or of a person who is blocked, is kept".to_owned());
    }
    let set = state.kept.iter().find(|kept| kept.user_id == by).map_or(0, |kept| kept.set) + 1;
    state.kept.retain(|kept| kept.user_id != by);
    let (bid_id, username, value) = (text(prebid, "bid_id"), text(prebid, "username"), text(prebid, "value"));
    let (user_id, username) = (by.to_owned(), username.to_owned());
    state.kept.push(Kept { bid_id: bid_id.to_owned(), user_id, username, set });
    if set > MAX_OF_ONE || state.kept.len() > MAX_PEOPLE {
        return Err("more bids are kept than an auction keeps".to_owned());
    }
    let change = Change { seq, bid_id: bid_id.to_owned(), user_id: by.to_owned() };
    Ok((format!("{seq}\nmaximum\n{time}\n{by}\n{bid_id}\n{value}"), change))
}

/// Takes what is kept out of the state, to compare it with the bids of an opening.
///
/// # Errors
/// The reason why these are not the bids of an opening.
pub fn open(state: &mut State, bids: &[Bid]) -> Result<Vec<Kept>, String> {
    if !state.keeps_prebids() {
        return Err(format!("pre-bids are bid in an auction that is {}", state.status));
    }
    let kept = std::mem::take(&mut state.kept);
    let kept: Vec<Kept> = kept.into_iter().filter(|kept| !state.is_blocked(&kept.user_id)).collect();
    let Some((highest, others)) = bids.split_last() else { return Err("there are none".to_owned()) };
    let named = |bids: &[Bid]| bids.iter().map(|bid| (bid.user_id.clone(), bid.username.clone())).collect::<Vec<_>>();
    let expected = kept.iter().filter(|kept| kept.user_id != highest.user_id);
    let expected: Vec<_> = expected.map(|kept| (kept.user_id.clone(), kept.username.clone())).collect();
    let has_highest = kept.iter().any(|kept| kept.user_id == highest.user_id && kept.username == highest.username);
    match () {
        () if named(others) != expected || !has_highest => Err("they are not those that were kept".to_owned()),
        () if bids.iter().any(|bid| bid.kind != "prebid" || bid.sealed.is_some()) => {
            Err("a bid of another kind is among the pre-bids".to_owned())
        }
        () if others.iter().any(|bid| bid.cents != state.starting_bid) => {
            Err("another pre-bid than the highest is not at the starting price".to_owned())
        }
        () if highest.cents < state.starting_bid || highest.cents > state.capped(highest.cents) => {
            Err(format!("the price of {} cents is below the start or beyond the buy-now price", highest.cents))
        }
        () => Ok(kept),
    }
}

impl Opening {
    /// The opening that these bids belong to, given the state after them.
    pub fn new(line: usize, kept: Vec<Kept>, state: &State) -> Self {
        let (winner, price) = state.leader().map(|(user_id, _, cents)| (user_id.clone(), *cents)).unwrap_or_default();
        Self { line, kept, winner, price, state: state.clone() }
    }

    /// Whether leader and price are those that the calls of the bidders lead to.
    fn is_right(&self, by_id: &CallsById<'_>) -> Result<(), String> {
        let state = &self.state;
        let limit = |kept: &Kept| {
            let call = by_id.get(kept.bid_id.as_str())?.iter().find(|call| call.user_id == kept.user_id)?;
            Some(state.capped(call.limit()))
        };
        let Some(limits) = self.kept.iter().map(limit).collect::<Option<Vec<_>>>() else {
            return Err("no client placed one of them".to_owned());
        };
        let limits: Vec<_> = limits.into_iter().zip(self.kept.iter().map(|kept| kept.user_id.as_str())).collect();
        let highest = limits.iter().map(|(limit, _)| *limit).max().unwrap_or(0);
        let winner = limits.iter().find(|(limit, _)| *limit == highest).map_or("", |(_, user_id)| user_id);
        let second = limits.iter().filter(|(_, user_id)| *user_id != winner).map(|(limit, _)| *limit).max();
        let price = second.map_or(0, |second| highest.min(second + state.step(second))).max(state.starting_bid);
        // The reserve is secret: a price that meets it may be the reserve itself.
        let is_price = match state.reserve_met {
            Some(true) => (price..=highest).contains(&self.price),
            _ => self.price == price,
        };
        if winner != self.winner || !is_price {
            return Err(format!("{} leads at {} cents instead of {winner} at {price}", self.winner, self.price));
        }
        Ok(())
    }
}

/// I4: the opening of an auction is the one that its pre-bids lead to.
pub fn check(folded: &Folded, by_id: &CallsById<'_>, verdict: &mut Verdict) {
    if let Some(opening) = folded.opening.as_ref().filter(|_| folded.is_whole)
        && let Err(reason) = opening.is_right(by_id)
    {
        verdict.add(Invariant::Legal, format!("pre-bids: {reason}"), [opening.line]);
    }
}

#[cfg(test)]
mod tests;
