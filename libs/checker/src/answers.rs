//! The answers that bidders got: durable (I1), no phantom (I2), real time (I5), just refusals (I6),
//! idempotent (I7).

use std::collections::BTreeMap;

use crate::fields::Bid;
use crate::history::{Call, History, cents};
use crate::invariant::Invariant;
use crate::log::Folded;
use crate::prebids;
use crate::state::State;
use crate::verdict::{Demands, Verdict};

/// The calls of each bid id.
pub type CallsById<'a> = BTreeMap<&'a str, Vec<&'a Call>>;

pub fn check(history: &History, auction: &str, folded: &Folded, demands: &Demands, verdict: &mut Verdict) {
    let mut logged: BTreeMap<&str, &Bid> = BTreeMap::new();
    for bid in &folded.bids {
        logged.entry(&bid.bid_id).or_insert(bid);
    }
    let mut by_id = CallsById::new();
    for call in history.calls_of(auction) {
        by_id.entry(&call.bid_id).or_default().push(call);
    }
    for calls in by_id.values() {
        durable(calls, &logged, folded, verdict);
        idempotent(calls, verdict);
    }
    for bid in &folded.bids {
        no_phantom(bid, by_id.get(bid.bid_id.as_str()).map_or(&[], Vec::as_slice), verdict);
    }
    real_time(by_id.values(), verdict);
    prebids::check(folded, &by_id, verdict);
    just_refusals(history, auction, folded, &by_id, demands, verdict);
}

/// I1: every accepted answer is in the log exactly once, with the same seq, user and cents.
fn durable(calls: &[&Call], logged: &BTreeMap<&str, &Bid>, folded: &Folded, verdict: &mut Verdict) {
    // A bid beyond the buy-now price is one at that price.
    let buy_now = folded.states.values().next().and_then(|state| state.buy_now);
    for call in calls.iter().filter(|call| call.is_accepted()) {
        match logged.get(call.bid_id.as_str()) {
            // A leader's call that changed the maximum alone, or a pre-bid, which may be an amount alone.
            None if folded.changes.iter().any(|change| {
                let is_prebid = folded.states.get(&change.seq).is_some_and(|state| state.status == "scheduled");
                (call.max_cents.is_some() || is_prebid)
                    && change.bid_id == call.bid_id
                    && change.user_id == call.user_id
                    && call.seq() == Some(change.seq)
            }) => {}
            None => verdict.add(
                Invariant::Durable,
                format!("bid {} was accepted and is not in the log", call.bid_id),
                [call.line],
            ),
            Some(bid) => {
                let answered = call.answer.as_ref().map(|answer| cents(&answer["amount"]));
                let same = call.seq() == Some(bid.seq)
                    && call.user_id == bid.user_id
                    && (offers(call, buy_now).contains(&bid.cents) || bids_the_reserve(call, bid, folded))
                    && answered == Some(Ok(Some(bid.cents)));
                if !same {
                    verdict.add(
                        Invariant::Durable,
                        format!(
                            "bid {} differs in the log: {:?} cents were called and {} logged, seq {:?} answered and {} logged",
                            call.bid_id,
                            offers(call, buy_now),
                            bid.cents,
                            call.seq(),
                            bid.seq
                        ),
                        [call.line, bid.line],
                    );
                }
            }
        }
    }
}

/// The amounts that a call may bid: its own one, or with a maximum any up to it.
fn offers(call: &Call, buy_now: Option<u64>) -> std::ops::RangeInclusive<u64> {
    let cut = |cents: u64| buy_now.map_or(cents, |buy_now| cents.min(buy_now));
    cut(call.cents)..=cut(call.limit())
}

/// Whether a leader's new maximum has reached the reserve: the reserve is bid then, whatever amount came with the maximum.
fn bids_the_reserve(call: &Call, bid: &Bid, folded: &Folded) -> bool {
    let before = bid.seq.checked_sub(1).and_then(|seq| folded.states.get(&seq));
    let is_of_leader = before.is_some_and(|before| {
        before.reserve_met == Some(false) && before.leader().is_some_and(|leader| leader.0 == bid.user_id)
    });
    is_of_leader && call.max_cents.is_some() && bid.cents <= call.limit()
}

/// I2: every logged bid belongs to a call that was accepted or whose outcome is unknown.
fn no_phantom(bid: &Bid, calls: &[&Call], verdict: &mut Verdict) {
    // A counter-bid is the system's, as the bid of a pre-bid is: that it answers a bid, the log shows.
    let is_counter = (bid.kind == "proxy" || bid.kind == "prebid") && calls.is_empty();
    if is_counter || calls.iter().any(|call| (call.is_accepted() || call.is_unknown()) && call.user_id == bid.user_id) {
        return;
    }
    let message = match calls.is_empty() {
        true => format!("bid {} is in the log and no client placed it", bid.bid_id),
        false => format!("bid {} is in the log and every attempt was rejected", bid.bid_id),
    };
    verdict.add(Invariant::NoPhantom, message, [bid.line].into_iter().chain(calls.iter().map(|call| call.line)));
}

/// I7: all accepted answers to one id are equal, and no rejection follows an acceptance.
fn idempotent(calls: &[&Call], verdict: &mut Verdict) {
    let Some(first) =
        calls.iter().filter(|call| call.is_accepted()).min_by_key(|call| call.answered.unwrap_or(u64::MAX))
    else {
        return;
    };
    for call in calls {
        let same_content =
            call.user_id == first.user_id && call.cents == first.cents && call.max_cents == first.max_cents;
        if call.is_accepted() && call.answer != first.answer {
            verdict.add(
                Invariant::Idempotent,
                format!("bid {} has two different answers", call.bid_id),
                [first.line, call.line],
            );
        }
        let after = first.answered.is_some_and(|answered| answered < call.sent);
        if same_content && after && call.is_rejected_by_rules() {
            verdict.add(
                Invariant::Idempotent,
                format!("bid {} was rejected after it had been accepted", call.bid_id),
                [first.line, call.line],
            );
        }
    }
}

/// I5: a bid that was answered before another was sent has the lower seq.
fn real_time<'a>(ids: impl Iterator<Item = &'a Vec<&'a Call>>, verdict: &mut Verdict) {
    // One bid is one event: it begins when the bid is first sent and ends with its first acceptance.
    let mut bids: Vec<(u64, u64, u64, usize)> = Vec::new();
    for calls in ids {
        let accepted = calls.iter().filter(|call| call.is_accepted());
        let Some(first) = accepted.min_by_key(|call| call.answered.unwrap_or(u64::MAX)) else { continue };
        let sent = calls.iter().map(|call| call.sent).min().unwrap_or(first.sent);
        if let (Some(answered), Some(seq)) = (first.answered, first.seq()) {
            bids.push((sent, answered, seq, first.line));
        }
    }
    let mut by_answer = bids.clone();
    by_answer.sort_by_key(|(_, answered, ..)| *answered);
    bids.sort_by_key(|(sent, ..)| *sent);
    let (mut earlier, mut highest): (_, Option<(u64, usize)>) = (by_answer.iter().peekable(), None);
    for (sent, _, seq, line) in bids {
        while let Some((_, _, before, at)) = earlier.next_if(|(_, answered, ..)| *answered < sent) {
            if highest.is_none_or(|(highest, _)| *before > highest) {
                highest = Some((*before, *at));
            }
        }
        if let Some((before, at)) = highest
            && before > seq
        {
            verdict.add(
                Invariant::RealTime,
                format!("seq {seq} was sent after seq {before} had been answered"),
                [at, line],
            );
        }
    }
}

/// I6: each rejection is right for the state at the seq that it names, and that state is not older than what
/// was answered before the call. A bid that is too low both at an older seq and at the newest is rejected
/// justly: the price only rises, and an instance that rejects by committed prices learns of a record moments
/// after the bidder got the answer.
fn just_refusals(
    history: &History,
    auction: &str,
    folded: &Folded,
    by_id: &CallsById<'_>,
    demands: &Demands,
    verdict: &mut Verdict,
) {
    if !folded.is_whole {
        return;
    }
    let mut by_answer: Vec<(u64, u64, usize)> =
        history.calls_of(auction).filter_map(|call| Some((call.answered?, call.seq()?, call.line))).collect();
    by_answer.sort_unstable();
    let mut rejected: Vec<&Call> = history.calls_of(auction).filter(|call| call.is_rejected_by_rules()).collect();
    rejected.sort_by_key(|call| call.sent);
    let (mut earlier, mut newest): (_, (u64, usize)) = (by_answer.iter().peekable(), (0, 0));
    for call in rejected {
        while let Some((_, seq, line)) = earlier.next_if(|(answered, ..)| *answered < call.sent) {
            newest = newest.max((*seq, *line));
        }
        let code = call.code().unwrap_or_default();
        let Some(seq) = call.seq() else {
            verdict.add(Invariant::JustRefusals, format!("a rejection with {code} names no seq"), [call.line]);
            continue;
        };
        let Some(state) = folded.states.get(&seq) else {
            verdict.add(
                Invariant::JustRefusals,
                format!("a rejection names seq {seq}, which the log does not have"),
                [call.line],
            );
            continue;
        };
        let others = by_id.get(call.bid_id.as_str()).map_or(&[][..], Vec::as_slice);
        if let Err(reason) = is_right(call, code, state, others, demands.clocks_apart_us) {
            verdict.add(Invariant::JustRefusals, format!("{code} at seq {seq}: {reason}"), [call.line]);
        }
        if seq < newest.0 {
            let is_still_too_low = code == "bid_too_low"
                && folded.states.get(&newest.0).is_some_and(|state| call.limit() < state.minimum());
            if !is_still_too_low {
                verdict.add(
                    Invariant::JustRefusals,
                    format!("{code} rests on seq {seq}, although seq {} was answered before the call", newest.0),
                    [newest.1, call.line],
                );
            }
        }
    }
}

/// Whether this rejection is right for this state.
///
/// # Errors
/// The reason why it is not.
fn is_right(call: &Call, code: &str, state: &State, others: &[&Call], clocks_apart_us: u64) -> Result<(), String> {
    let end = state.end_time * 1000;
    let may_be_late = call.answered.is_none_or(|answered| answered + clocks_apart_us >= end);
    let must_be_late = call.sent > end + clocks_apart_us;
    let leader = state.leader();
    let answered = |field: &str| call.answer.as_ref().map_or(Ok(None), |answer| cents(&answer[field]));
    if code != "bid_id_reused" && answered("minimum_bid") != Ok(Some(state.minimum())) {
        return Err(format!("the minimum was {} cents", state.minimum()));
    }
    if code != "bid_id_reused" && answered("current_high_bid") != Ok(leader.map(|leader| leader.2)) {
        return Err(format!("the highest bid was {leader:?}"));
    }
    let needs_live = |holds: bool, otherwise: &str| match () {
        () if state.keeps_prebids() && holds => Ok(()),
        () if state.status != "live" => Err(format!("the auction was {}", state.status)),
        () if must_be_late => Err("the end had passed".to_owned()),
        () if !holds => Err(otherwise.to_owned()),
        () => Ok(()),
    };
    match code {
        "auction_closed" if state.is_over() || state.is_bought() => Ok(()),
        "auction_closed" if state.status == "live" && may_be_late => Ok(()),
        "auction_closed" => Err(format!("the auction was {} until {end} us", state.status)),
        "auction_not_started" if state.status == "scheduled" && !state.keeps_prebids() => Ok(()),
        "auction_paused" if state.status == "paused" => Ok(()),
        "host_cannot_bid" => needs_live(call.user_id == state.host, "the caller was not the host"),
        "bidder_blocked" => needs_live(state.is_blocked(&call.user_id), "the caller was not blocked"),
        "bid_too_low" | "already_leading" if state.is_blocked(&call.user_id) => {
            Err("the caller was blocked".to_owned())
        }
        "already_leading" => needs_live(
            call.max_cents.is_none() && !state.self_raise && leader.is_some_and(|leader| leader.0 == call.user_id),
            "the caller was not leading",
        ),
        "bid_too_low" if call.user_id == state.host => Err("the caller was the host".to_owned()),
        "bid_too_low" => match leader.filter(|leader| leader.0 == call.user_id) {
            Some((_, _, price)) if call.max_cents.is_some() => {
                needs_live(call.limit() < *price, "the maximum was not below the price")
            }
            Some(_) if !state.self_raise => Err("the caller was leading".to_owned()),
            _ => needs_live(call.limit() < state.minimum(), "the bid was high enough"),
        },
        "bid_id_reused" => {
            let other = |other: &&&Call| {
                (other.cents, other.max_cents) != (call.cents, call.max_cents) || other.user_id != call.user_id
            };
            others.iter().find(other).map(|_| ()).ok_or_else(|| "the id was used for nothing else".to_owned())
        }
        _ => Err(format!("the auction was {}", state.status)),
    }
}
