//! What each socket was told (I12).

use std::collections::BTreeMap;

use serde_json::Value;

use super::Verdict;
use super::history::{Frame, History, cents};
use super::log::{Bid, Folded, State};

/// Bids in one `bid_update`. CONTRACT.md, Server events.
const MOST_BIDS: usize = 50;

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
                "timer_update" | "auction_started" | "auction_ended" | "auction_cancelled" => {
                    frame.data["seq"].as_u64()
                }
                _ => None,
            };
            let Some(seq) = seq else { continue };
            let rises = frame.event != "bid_update" || last.is_none_or(|last| seq > last);
            if last.is_some_and(|last| seq < last) || !rises {
                verdict.add("I12", format!("{connection}: seq {seq} after {last:?}"), [line, frame.line]);
            }
            if seq > folded.last_seq() {
                verdict.add(
                    "I12",
                    format!("{connection} was told of seq {seq}, which the log does not have"),
                    [frame.line],
                );
            }
            (last, line) = (Some(seq), frame.line);
        }
        // Whoever stayed has heard the last word.
        let stayed =
            !history.disconnected.contains(connection) && frames.iter().any(|frame| frame.event == "joined_auction");
        if stayed && last != Some(folded.last_seq()) {
            let says = format!("{connection} was last told of seq {last:?}, the log ends with {}", folded.last_seq());
            verdict.add("I12", says, [line]);
        }
    }
}

fn joined(frame: &Frame, folded: &Folded, verdict: &mut Verdict) -> Option<u64> {
    let seq = frame.data["seq"].as_u64()?;
    if let Some(state) = folded.states.get(&seq)
        && let Err(says) = same_state(&frame.data, state, "current_high_bid")
    {
        verdict.add("I12", format!("joined at seq {seq}: {says}"), [frame.line]);
    }
    if let (Some(last_seq), true) = (frame.last_seq, frame.data["recovered"] == true) {
        compare(frame, &frame.data["missed_bids"], &bids_between(folded, last_seq, seq), verdict);
    }
    Some(seq)
}

fn update(frame: &Frame, last: Option<u64>, folded: &Folded, verdict: &mut Verdict) -> Option<u64> {
    let (seq, previous) = (frame.data["seq"].as_u64()?, frame.data["previous_seq"].as_u64()?);
    if previous >= seq || last.is_some_and(|last| previous < last) {
        verdict.add(
            "I12",
            format!("a bid_update from {previous} to {seq}, and {last:?} was told before"),
            [frame.line],
        );
    }
    if let Some(state) = folded.states.get(&seq) {
        let you = state.leader().is_some_and(|leader| leader.0 == frame.user_id);
        if frame.data["you_are_winning"] != you {
            verdict.add(
                "I12",
                format!("seq {seq}: you_are_winning is {}", frame.data["you_are_winning"]),
                [frame.line],
            );
        }
        if let Err(says) = same_state(&frame.data, state, "high_bid") {
            verdict.add("I12", format!("seq {seq}: {says}"), [frame.line]);
        }
    }
    compare(frame, &frame.data["bids"], &bids_between(folded, previous, seq), verdict);
    Some(seq)
}

fn bids_between(folded: &Folded, after: u64, to: u64) -> Vec<&Bid> {
    folded.bids.iter().filter(|bid| bid.seq > after && bid.seq <= to).collect()
}

fn compare(frame: &Frame, told: &Value, bids: &[&Bid], verdict: &mut Verdict) {
    let most = if frame.event == "bid_update" { MOST_BIDS } else { usize::MAX };
    let bids = &bids[bids.len().saturating_sub(most)..];
    let told = told.as_array().map_or(&[][..], Vec::as_slice);
    let same = |bid: &Bid, told: &Value| {
        told["seq"] == bid.seq
            && told["bid_id"] == bid.bid_id
            && told["user_id"] == bid.user_id
            && told["username"] == bid.username
            && told["timestamp"] == bid.timestamp
            && cents(&told["amount"]) == Ok(Some(bid.cents))
    };
    if told.len() != bids.len() || !bids.iter().zip(told).all(|(bid, told)| same(bid, told)) {
        let says = format!("{} has {} bids where the log has {}, or others", frame.event, told.len(), bids.len());
        verdict.add("I12", says, [frame.line].into_iter().chain(bids.iter().map(|bid| bid.line)));
    }
}

fn same_state(said: &Value, state: &State, high_bid: &str) -> Result<(), String> {
    let leader = state.leader();
    let pairs = [
        (high_bid, cents(&said[high_bid]) == Ok(leader.map(|leader| leader.2))),
        ("high_bidder_id", said["high_bidder_id"].as_str() == leader.map(|leader| leader.0.as_str())),
        ("bid_count", said["bid_count"] == state.bid_count),
        ("minimum_bid", cents(&said["minimum_bid"]) == Ok(Some(state.minimum()))),
        ("end_time", said["end_time"] == state.end_time),
        ("extension_count", said["extension_count"] == state.extensions),
        ("status", said["status"] == state.status),
    ];
    match pairs.iter().find(|(_, same)| !same) {
        None => Ok(()),
        Some((field, _)) => Err(format!("{field} is {}", said[*field])),
    }
}
