//! The stored results once all consumers have drained: one winner (I9), the history (I10), mails (I11).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::fields::text;
use crate::history::{History, Kind, cents};
use crate::invariant::Invariant;
use crate::log::Folded;
use crate::verdict::{Demands, Verdict};

pub fn check(history: &History, auction: &str, folded: &Folded, demands: &Demands, verdict: &mut Verdict) {
    if !demands.without.contains(&Kind::Item) {
        items(history, auction, folded, verdict);
    }
    let Some((line, record)) = folded.closing.as_ref().filter(|_| folded.is_whole) else { return };
    if !demands.without.contains(&Kind::Row) {
        row(history, auction, *line, record, verdict);
    }
    end_frames(history, auction, *line, record, verdict);
    if !demands.without.contains(&Kind::Mail) && record["type"] == "closed" {
        mails(history, auction, folded, *line, record, verdict);
    }
}

/// I10: the history in DynamoDB equals the log, item for item.
fn items(history: &History, auction: &str, folded: &Folded, verdict: &mut Verdict) {
    let mut found: BTreeMap<u64, (usize, &Value)> = BTreeMap::new();
    for item in history.items_of(auction) {
        let seq = item.item["seq"].as_u64().unwrap_or(0);
        if let Some((before, _)) = found.insert(seq, (item.line, &item.item)) {
            verdict.add(
                Invariant::History,
                format!("{auction}: seq {seq} is in the history twice"),
                [before, item.line],
            );
        }
    }
    for bid in &folded.bids {
        let Some((line, item)) = found.remove(&bid.seq) else {
            verdict.add(
                Invariant::History,
                format!("{auction}: bid seq {} is not in the history", bid.seq),
                [bid.line],
            );
            continue;
        };
        let same = item["bid_id"] == bid.bid_id
            && item["user_id"] == bid.user_id
            && item["username"] == bid.username
            && item["timestamp"] == bid.timestamp
            && cents(&item["amount"]) == Ok(Some(bid.cents));
        if !same {
            verdict.add(
                Invariant::History,
                format!("{auction}: seq {} is another bid in the history", bid.seq),
                [bid.line, line],
            );
        }
    }
    for (seq, (line, _)) in found {
        verdict.add(
            Invariant::History,
            format!("{auction}: the history has seq {seq} and the log has no such bid"),
            [line],
        );
    }
}

/// I9: the database row names the winner of the log.
fn row(history: &History, auction: &str, line: usize, record: &Value, verdict: &mut Verdict) {
    let rows: Vec<_> = history.rows.iter().filter(|row| row.row["auction_id"] == auction).collect();
    let [row] = rows.as_slice() else {
        return verdict.add(Invariant::OneWinner, format!("{auction} has {} rows", rows.len()), [line]);
    };
    let (stored, state) = (&row.row, &record["state"]);
    let same = stored["status"] == state["status"]
        && stored["outcome"] == state["outcome"]
        && stored["winner_id"] == state["winner_id"]
        && cents(&stored["winning_bid"]) == Ok(state["winning_bid_cents"].as_u64())
        && stored["bid_count"] == state["bid_count"];
    if !same {
        verdict.add(
            Invariant::OneWinner,
            format!("{auction}: the row differs from the closing record"),
            [line, row.line],
        );
    }
}

/// I9: every connection got the same winner, and only the winner's connections say `you_won`.
fn end_frames(history: &History, auction: &str, line: usize, record: &Value, verdict: &mut Verdict) {
    let state = &record["state"];
    let frames = history.frames_of(auction).filter(|frame| frame.event == "auction_ended");
    for frame in frames {
        let data = &frame.data;
        let same = data["outcome"] == state["outcome"]
            && data["winner_id"] == state["winner_id"]
            && cents(&data["winning_bid"]) == Ok(state["winning_bid_cents"].as_u64())
            && data["you_won"] == json!(state["winner_id"] == json!(frame.user_id));
        if !same {
            verdict.add(
                Invariant::OneWinner,
                format!("{auction}: a frame shows another end than the log"),
                [line, frame.line],
            );
        }
    }
}

/// I11: one mail for each person and kind. More are allowed only if a fault could have fallen between the
/// answer of SES and the row that records it.
fn mails(history: &History, auction: &str, folded: &Folded, line: usize, record: &Value, verdict: &mut Verdict) {
    let winner = text(&record["state"], "winner_id");
    let bidders: BTreeSet<&str> = folded.bids.iter().map(|bid| bid.user_id.as_str()).collect();
    let mut due: BTreeSet<(&str, &str)> =
        bidders.iter().map(|user| (*user, if *user == winner { "won" } else { "lost" })).collect();
    due.insert((text(&record["state"], "host_user_id"), "hosted"));
    let mut sent: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for mail in history.mails.iter().filter(|mail| mail.auction_id == auction) {
        sent.entry((&mail.user_id, &mail.mail)).or_default().push(mail.line);
    }
    for (user, kind) in &due {
        if !sent.contains_key(&(*user, *kind)) {
            verdict.add(Invariant::Notified, format!("{auction}: {user} got no mail ({kind})"), [line]);
        }
    }
    let may_repeat = history.faults.iter().any(|fault| {
        fault.parts.iter().any(|part| ["auction-notifications", "aws", "postgres"].contains(&part.as_str()))
    });
    for ((user, kind), lines) in sent {
        if !due.contains(&(user, kind)) {
            verdict.add(
                if kind == "won" { Invariant::OneWinner } else { Invariant::Notified },
                format!("{auction}: {user} got a mail of kind {kind}, which was not due"),
                lines,
            );
        } else if lines.len() > 1 && may_repeat {
            verdict.notes.push(format!("{auction}: {user} got {} mails of kind {kind}, across a fault", lines.len()));
        } else if lines.len() > 1 {
            verdict.add(Invariant::Notified, format!("{auction}: {user} got the mail twice ({kind})"), lines);
        }
    }
}
