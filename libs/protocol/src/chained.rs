//! Whether a record continues the chain: computed from its own facts, so that a reader need not believe what it states.
//!
//! The chain is no signature: any client that has read the log can compute a record that continues it. It
//! distinguishes two histories; which of them is the auction's, only the stream says. ARCHITECTURE.md, Forged messages.

use std::cmp::Ordering;

use domain::{
    Closing, Head, Leader, Millis, Outcome, UserId, blocked_fact, cancelled_fact, closed_fact, created_fact,
    maximum_fact, opened_fact, paused_fact, resumed_fact, started_fact, unblocked_fact,
};

use crate::{Mark, Record, RecordKind};

impl Record {
    /// The head after the record's facts, computed from them and `prev`: one SHA-1 of some hundred bytes a fact, less
    /// than a microsecond each. None if the record holds something that only a newer version knows.
    #[must_use]
    pub fn computed_head(&self) -> Option<Head> {
        if self.kind == RecordKind::Bids {
            let is_known = self.bids.iter().all(|bid| bid.kind.known().is_some());
            let after = self.bids.iter().fold(self.prev, |head, bid| head.next(&bid.fact().text()));
            return is_known.then_some(after);
        }
        Some(self.prev.next(&self.fact_text()?))
    }

    /// The text of the only fact of a record that has no bids. None for one with bids, and if the record holds something
    /// that only a newer version knows.
    pub(crate) fn fact_text(&self) -> Option<String> {
        let state = &self.state;
        Some(match self.kind.known()? {
            RecordKind::Bids => return None,
            RecordKind::Created => {
                let reserve = self.sealed.as_ref().and_then(|sealed| sealed.reserve.as_ref());
                created_fact(self.auction_id, &state.rules()?, reserve, Millis(state.starts_at), Millis(self.time))
            }
            RecordKind::Opened => match self.by {
                Some(by) => started_fact(self.seq, Millis(self.time), Millis(state.end_time), by),
                None => opened_fact(self.seq, Millis(self.time), Millis(state.end_time)),
            },
            RecordKind::Maximum => {
                let (bid_id, sealed) = self.sealed.as_ref()?.set_by()?;
                maximum_fact(self.seq, Millis(self.time), self.by?, bid_id, sealed.as_str())
            }
            RecordKind::Paused => paused_fact(self.seq, Millis(self.time), self.by?, state.by_host.remaining_ms?),
            RecordKind::Resumed => resumed_fact(self.seq, Millis(self.time), self.by, Millis(state.end_time)),
            RecordKind::Blocked => blocked_fact(self.seq, Millis(self.time), self.by?, self.user_id?),
            RecordKind::Unblocked => unblocked_fact(self.seq, Millis(self.time), self.by?, self.user_id?),
            RecordKind::Closed => {
                let reason = state.reason.as_ref()?.known()?;
                let winner = match state.outcome.as_ref()?.known()? {
                    Outcome::Sold => Some(self.winner()?),
                    _ => None,
                };
                closed_fact(self.seq, &Closing { time: Millis(self.time), reason, by: self.by, winner })
            }
            RecordKind::Cancelled => cancelled_fact(self.seq, Millis(self.time), self.by?),
        })
    }

    fn winner(&self) -> Option<Leader> {
        let state = &self.state;
        let (user_id, amount): (UserId, _) = (state.winner_id?, state.winning_bid?);
        Some(Leader { user_id, username: state.winner_username.clone()?, amount })
    }

    /// Whether the record's head is the one that its facts produce. A record of a newer version counts as whole: only
    /// that version knows.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.computed_head().is_none_or(|head| head == self.head)
    }

    /// Whether the record comes directly after `before` in its auction: its facts are the next ones, on the head
    /// before them, and lead to the head that it states.
    #[must_use]
    pub fn continues(&self, before: Mark) -> bool {
        let is_dense = self.bids.iter().zip(before.seq + 1..).all(|(bid, seq)| bid.seq == seq);
        let is_next = self.prev == before.head && before.seq.checked_add(self.facts()) == Some(self.seq);
        let is_marked = self.marks.last() == Some(&self.mark());
        is_next && is_dense && is_marked && self.is_whole()
    }

    /// The record with its facts placed after `before`: renumbered, with one mark, and with the head that they produce.
    /// For records that are made by hand, in tests and tools.
    #[must_use]
    pub fn placed_after(mut self, before: Mark) -> Self {
        (self.seq, self.prev) = (before.seq + self.facts(), before.head);
        for (bid, seq) in self.bids.iter_mut().zip(before.seq + 1..) {
            bid.seq = seq;
        }
        self.head = self.computed_head().unwrap_or(self.head);
        self.marks = vec![self.mark()];
        self
    }

    /// Whether the record can be a later one of the auction than `known`: it continues it, or `known` is inside it, or
    /// records in between were left out. After such a jump nothing but the record itself can be checked.
    #[must_use]
    pub fn may_follow(&self, known: Mark) -> bool {
        let Some(before) = self.seq.checked_sub(self.facts()) else { return false };
        match before.cmp(&known.seq) {
            Ordering::Equal => self.continues(known),
            Ordering::Less => self.seq > known.seq && self.marks.contains(&known) && self.is_whole(),
            Ordering::Greater => self.is_whole(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Named;

    fn stored() -> Vec<Record> {
        let files = [
            include_str!("../tests/stored/closed.jsonl"),
            include_str!("../tests/stored/cancelled.jsonl"),
            include_str!("../tests/stored/live.jsonl"),
        ];
        files.iter().flat_map(|text| text.lines()).map(|line| serde_json::from_str(line).expect("a record")).collect()
    }

    #[test]
    fn stored_records_continue_each_other() {
        let mut before = Mark::default();
        for record in stored() {
            before = if record.kind == RecordKind::Created { Mark::default() } else { before };
            assert_eq!(record.computed_head(), Some(record.head), "{} {}", record.kind, record.seq);
            assert!(record.continues(before), "{} {}", record.kind, record.seq);
            before = record.mark();
        }
    }

    #[test]
    fn altered_record_does_not_continue() {
        type Change = (&'static str, usize, fn(&mut Record));
        let changes: [Change; 11] = [
            ("head", 2, |record| record.head = Head::GENESIS),
            ("prev", 2, |record| record.prev = Head::GENESIS),
            ("seq", 2, |record| record.seq += 1),
            ("a seq that overflows", 2, |record| record.seq = u64::MAX),
            ("bidder", 2, |record| record.bids[0].user_id = record.bids[1].user_id),
            ("name", 2, |record| record.bids[0].username.push('x')),
            ("a bid left out", 2, |record| drop(record.bids.pop())),
            ("no bids", 2, |record| record.bids.clear()),
            ("end", 1, |record| record.state.end_time += 1),
            ("winner", 4, |record| record.state.winner_id = Some(record.state.host_user_id)),
            ("price", 4, |record| record.state.winning_bid = Some(record.state.starting_bid)),
        ];
        let records = stored();
        for (name, nth, change) in changes {
            let mut altered = records[nth].clone();
            change(&mut altered);
            assert!(!altered.continues(records[nth - 1].mark()), "{name}");
        }
        assert!(!records[2].continues(records[0].mark()), "a record was left out");
        assert!(!records[2].continues(records[2].mark()), "it was taken before");
    }

    #[test]
    fn later_record_follows_directly_from_inside_or_after_a_jump() {
        let records = stored();
        for pair in records[..5].windows(2) {
            assert!(pair[1].may_follow(pair[0].mark()), "{}", pair[1].seq);
            assert!(!pair[0].may_follow(pair[1].mark()), "{} is older", pair[0].seq);
        }
        assert!(records[3].may_follow(records[0].mark()), "records in between were left out");
        let head = records[2].prev.next(&records[2].bids[0].fact().text());
        let inside = Mark { seq: records[2].bids[0].seq, head };
        let mut alone = records[2].clone();
        alone.marks.retain(|mark| *mark != inside);
        assert!(!alone.may_follow(inside), "it has no such mark");
        alone.marks.insert(0, inside);
        assert!(alone.may_follow(inside), "the state was taken inside the record");
    }

    #[test]
    fn forged_closing_record_follows_nothing() {
        let records = stored();
        let before = records[3].mark();
        let mut forged = records[4].clone();
        forged.state.winner_id = Some(forged.state.host_user_id);
        assert!(!forged.may_follow(before), "its head is that of other facts");
        forged.head = forged.computed_head().expect("a known kind");
        forged.marks = vec![forged.mark()];
        assert!(forged.may_follow(before), "any reader of the log can compute one");
        forged.prev = records[0].head;
        assert!(!forged.may_follow(before), "it continues another record");
        forged.seq += 5;
        assert!(!forged.may_follow(before), "after a jump its own head still counts");
    }

    #[test]
    fn record_of_a_newer_version_is_left_to_that_version() {
        let mut records = stored();
        records[2].kind = Named::read("bundle");
        assert_eq!(records[2].computed_head(), None);
        assert!(records[2].continues(records[1].mark()), "seq and prev still count");
    }
}
