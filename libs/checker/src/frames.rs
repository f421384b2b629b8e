//! The frames that each connection got: sockets (I12).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::fields::Bid;
use crate::history::{Frame, History, cents};
use crate::invariant::Invariant;
use crate::log::Folded;
use crate::state::State;
use crate::verdict::Verdict;

/// Bids in one `bid_update`. An update that covers more carries the newest.
const MAX_BIDS: usize = 50;

pub fn check(history: &History, auction: &str, folded: &Folded, verdict: &mut Verdict) {
    if !folded.is_whole {
        return;
    }
    let mut connections: BTreeMap<&str, Vec<&Frame>> = BTreeMap::new();
    for frame in history.frames_of(auction) {
        connections.entry(&frame.connection).or_default().push(frame);
    }
    for (connection, frames) in connections {
        let (mut last, mut line): (Option<u64>, usize) = (None, 0);
        for frame in &frames {
            let seq = match frame.event.as_str() {
                "joined_auction" => joined(frame, folded, verdict),
                "bid_update" => update(frame, last, folded, verdict),
                "timer_update" | "auction_started" | "auction_paused" | "auction_resumed" | "auction_ended"
                | "auction_cancelled" => frame.data["seq"].as_u64(),
                _ => None,
            };
            let Some(seq) = seq else { continue };
            let rises = frame.event != "bid_update" || last.is_none_or(|last| seq > last);
            if last.is_some_and(|last| seq < last) || !rises {
                verdict.add(Invariant::Sockets, format!("{connection}: seq {seq} after {last:?}"), [line, frame.line]);
            }
            if seq > folded.last_seq() {
                verdict.add(
                    Invariant::Sockets,
                    format!("{connection} got seq {seq}, which the log does not have"),
                    [frame.line],
                );
            }
            (last, line) = (Some(seq), frame.line);
        }
        // A connection that lasted to the end of the run has got the last record.
        let stayed =
            !history.disconnected.contains(connection) && frames.iter().any(|frame| frame.event == "joined_auction");
        if stayed && last != Some(folded.last_seq()) {
            let message =
                format!("the last frame of {connection} has seq {last:?}, the log ends with {}", folded.last_seq());
            verdict.add(Invariant::Sockets, message, [line]);
        }
    }
}

/// Judges the answer to a join; returns its seq.
fn joined(frame: &Frame, folded: &Folded, verdict: &mut Verdict) -> Option<u64> {
    let seq = frame.data["seq"].as_u64()?;
    if let Some(state) = folded.states.get(&seq)
        && let Err(difference) = same_state(&frame.data, state, "current_high_bid")
    {
        verdict.add(Invariant::Sockets, format!("joined at seq {seq}: {difference}"), [frame.line]);
    }
    if let (Some(last_seq), true) = (frame.last_seq, frame.data["recovered"] == true) {
        compare(frame, &frame.data["missed_bids"], &bids_between(folded, last_seq, seq), verdict);
    }
    Some(seq)
}

/// Judges a `bid_update`; returns its seq.
fn update(frame: &Frame, last: Option<u64>, folded: &Folded, verdict: &mut Verdict) -> Option<u64> {
    let (seq, previous) = (frame.data["seq"].as_u64()?, frame.data["previous_seq"].as_u64()?);
    if previous >= seq || last.is_some_and(|last| previous < last) {
        verdict.add(
            Invariant::Sockets,
            format!("a bid_update from {previous} to {seq} follows a frame with seq {last:?}"),
            [frame.line],
        );
    }
    if let Some(state) = folded.states.get(&seq) {
        let you = state.leader().is_some_and(|leader| leader.0 == frame.user_id);
        if frame.data["you_are_winning"] != you {
            verdict.add(
                Invariant::Sockets,
                format!("seq {seq}: you_are_winning is {}", frame.data["you_are_winning"]),
                [frame.line],
            );
        }
        if let Err(difference) = same_state(&frame.data, state, "high_bid") {
            verdict.add(Invariant::Sockets, format!("seq {seq}: {difference}"), [frame.line]);
        }
    }
    compare(frame, &frame.data["bids"], &bids_between(folded, previous, seq), verdict);
    Some(seq)
}

fn bids_between(folded: &Folded, after: u64, to: u64) -> Vec<&Bid> {
    folded.bids.iter().filter(|bid| bid.seq > after && bid.seq <= to).collect()
}

/// The bids that a frame shows are those of the log.
fn compare(frame: &Frame, shown: &Value, bids: &[&Bid], verdict: &mut Verdict) {
    let max = if frame.event == "bid_update" { MAX_BIDS } else { usize::MAX };
    let bids = &bids[bids.len().saturating_sub(max)..];
    let shown = shown.as_array().map_or(&[][..], Vec::as_slice);
    let same = |bid: &Bid, shown: &Value| {
        shown["seq"] == bid.seq
            && shown["bid_id"] == bid.bid_id
            && shown["user_id"] == bid.user_id
            && shown["username"] == bid.username
            && shown["timestamp"] == bid.timestamp
            && cents(&shown["amount"]) == Ok(Some(bid.cents))
    };
    if shown.len() != bids.len() || !bids.iter().zip(shown).all(|(bid, shown)| same(bid, shown)) {
        let message =
            format!("{} shows {} bids that differ from the {} of the log", frame.event, shown.len(), bids.len());
        verdict.add(Invariant::Sockets, message, [frame.line].into_iter().chain(bids.iter().map(|bid| bid.line)));
    }
}

/// Whether a frame shows this state.
///
/// # Errors
/// The field that differs.
fn same_state(shown: &Value, state: &State, high_bid: &str) -> Result<(), String> {
    let leader = state.leader();
    let pairs = [
        (high_bid, cents(&shown[high_bid]) == Ok(leader.map(|leader| leader.2))),
        ("high_bidder_id", shown["high_bidder_id"].as_str() == leader.map(|leader| leader.0.as_str())),
        ("bid_count", shown["bid_count"] == state.bid_count),
        ("minimum_bid", cents(&shown["minimum_bid"]) == Ok(Some(state.minimum()))),
        ("end_time", shown["end_time"].as_u64() == state.shown_end()),
        ("extension_count", shown["extension_count"] == state.extensions),
        ("status", shown["status"] == state.status),
    ];
    match pairs.iter().find(|(_, same)| !same) {
        None => Ok(()),
        Some((field, _)) => Err(format!("{field} is {}", shown[*field])),
    }
}
