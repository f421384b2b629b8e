//! The end of an auction's log, as its auctioneer knows it: the records that this instance has read or appended, and
//! after them hints, which it has only heard.
//!
//! A republished record is a hint, because anyone who may publish can send one. It is kept only if it continues the
//! chain, an append may be tried after it (the compare-and-set fails if it is not in the log), and nothing is answered,
//! cut or restored because of it before the stream has confirmed it.

use std::collections::{BTreeMap, VecDeque};

use bus::{LogError, Logged};
use domain::Head;
use protocol::{Mark, Record};

use crate::replay;

/// Marks kept. Far more than the calls that can be waiting for their record.
const MAX_MARKS: usize = 4096;
/// Hints kept. An auction without calls here confirms none, and the next call jumps to the last record anyway.
const MAX_HINTS: usize = 64;

/// The last record known to be in the log, the marks of the records before it that were read without a gap, and the
/// hints after it.
pub struct Tail {
    /// The stream sequence of the last record; 0 while there is none.
    pub stream_seq: u64,
    /// The mark of the last record; (0, genesis) while there is none.
    pub mark: Mark,
    /// The last record.
    pub last: Option<Record>,
    /// By seq: the head, and the stream sequence up to which the log's records are contained in it.
    marks: BTreeMap<u64, (Head, u64)>,
    /// Records that were heard and continue each other, oldest first.
    hints: VecDeque<Logged>,
}

/// Where the next record is to be appended, if the hints are true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct End {
    /// The stream sequence to expect; 0 while there is no record.
    pub stream_seq: u64,
    /// The mark to continue.
    pub mark: Mark,
}

/// Whether the log contains a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contains {
    /// Yes, and with it all of the auction's records up to this stream sequence.
    Yes {
        /// The stream sequence of the last contained record.
        stream_seq: u64,
    },
    /// No, and it never will: another fact has this seq.
    No,
    /// Not as far as the tail reaches.
    NotYet,
    /// Hints reach it. The log must be read to know.
    Heard,
    /// The log continues beyond it, and the records there were jumped.
    Unknown,
}

/// The verdict of the log's last record on the hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hints {
    /// The log ends with the last of them, or with the tail if there were none.
    True,
    /// The log does not have them.
    False,
    /// The log has continued since.
    Unknown,
}

/// How an observed record relates to the tail.
#[derive(Debug, PartialEq, Eq)]
pub enum Observed {
    /// The tail contains it already.
    Old,
    /// It continues the tail and is kept as a hint.
    Extended,
    /// It does not continue the tail: records in between are missing, or it is forged.
    Gap,
}

impl Tail {
    /// The tail that ends with the auction's last record, if it has any.
    pub fn at(last: Option<Logged>) -> Self {
        let genesis = Mark { seq: 0, head: Head::GENESIS };
        let mut tail =
            Self { stream_seq: 0, mark: genesis, last: None, marks: BTreeMap::new(), hints: VecDeque::new() };
        if let Some(logged) = last {
            tail.take(logged.stream_seq, logged.record);
        }
        tail
    }

    /// Whether the log, as far as it is known, contains a mark.
    pub fn contains(&self, mark: Mark) -> Contains {
        match self.marks.get(&mark.seq) {
            Some((head, stream_seq)) if *head == mark.head => Contains::Yes { stream_seq: *stream_seq },
            Some(_) => Contains::No,
            // Every record since the first mark was read, so the log has no mark at a seq between two of them.
            None if mark.seq <= self.mark.seq
                && self.marks.first_key_value().is_some_and(|(first, _)| *first < mark.seq) =>
            {
                Contains::No
            }
            None if mark.seq <= self.mark.seq => Contains::Unknown,
            None if mark.seq <= self.end().mark.seq => Contains::Heard,
            None => Contains::NotYet,
        }
    }

    /// Where the next record is to be appended, if the hints are true.
    pub fn end(&self) -> End {
        match self.hints.back() {
            Some(logged) => End { stream_seq: logged.stream_seq, mark: logged.record.mark() },
            None => End { stream_seq: self.stream_seq, mark: self.mark },
        }
    }

    /// Whether there are hints.
    pub fn has_hints(&self) -> bool {
        !self.hints.is_empty()
    }

    /// Takes a record that was heard, if it continues what is known.
    pub fn observe(&mut self, logged: Logged) -> Observed {
        let end = self.end();
        if logged.stream_seq <= end.stream_seq {
            return Observed::Old;
        }
        let is_readable = logged.record.computed_head().is_some();
        if self.hints.len() == MAX_HINTS || !is_readable || !logged.record.continues(end.mark) {
            return Observed::Gap;
        }
        self.hints.push_back(logged);
        Observed::Extended
    }

    /// Compares the hints with the log's last record, just read. If they end with it, all of them are in the log: each
    /// continues the one before. Otherwise they are dropped, and the records are to be read.
    pub fn confirm(&mut self, last: Option<&Logged>) -> Hints {
        let (end, has_hints) = (self.end(), self.has_hints());
        let found = last.map(|last| End { stream_seq: last.stream_seq, mark: last.record.mark() }).unwrap_or_default();
        match found {
            found if found == end => {
                self.accept_hints();
                Hints::True
            }
            found => {
                self.hints.clear();
                if has_hints && found.stream_seq <= end.stream_seq { Hints::False } else { Hints::Unknown }
            }
        }
    }

    /// Takes the hints as records: the log has them, because it ends with them or took an append after them.
    fn accept_hints(&mut self) {
        for logged in std::mem::take(&mut self.hints) {
            self.take(logged.stream_seq, logged.record);
        }
    }

    /// Takes the auction's next record, read from the log. Hints are forgotten: they are read as well, or false.
    ///
    /// # Errors
    /// When it does not follow the last one.
    pub fn extend(&mut self, logged: Logged) -> Result<(), LogError> {
        replay::follows(self.mark, &logged)?;
        self.hints.clear();
        self.take(logged.stream_seq, logged.record);
        Ok(())
    }

    /// Takes the log's last record, without the records before it.
    ///
    /// # Errors
    /// When the log has lost records that the tail has.
    pub fn jump(&mut self, last: Option<Logged>) -> Result<(), LogError> {
        let found = last.as_ref().map_or(0, |logged| logged.stream_seq);
        if found < self.stream_seq {
            let detail = format!("the log ends with record {found} and lost this one");
            return Err(LogError::Record { stream_seq: self.stream_seq, detail });
        }
        if found > self.stream_seq {
            *self = Self::at(last);
        }
        Ok(())
    }

    /// Takes a record that was appended at the end, which proves the hints before it.
    pub fn advance(&mut self, stream_seq: u64, record: Record) {
        self.accept_hints();
        self.take(stream_seq, record);
    }

    fn take(&mut self, stream_seq: u64, record: Record) {
        self.stream_seq = stream_seq;
        self.mark = record.mark();
        for mark in &record.marks {
            // A mark inside a record: the rest of that record is not contained in it.
            let through = if mark.seq == record.seq { stream_seq } else { stream_seq - 1 };
            self.marks.insert(mark.seq, (mark.head, through));
        }
        while self.marks.len() > MAX_MARKS {
            self.marks.pop_first();
        }
        self.last = Some(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records of one auction, at the stream sequences 1, 2, ….
    fn stored() -> Vec<Logged> {
        let lines = include_str!("../../../libs/protocol/tests/stored/closed.jsonl").lines();
        let records = lines.map(|line| serde_json::from_str(line).expect("a record"));
        (1u64..)
            .zip(records)
            .map(|(at, record)| Logged { stream_seq: at, previous_stream_seq: None, record, trace: Default::default() })
            .collect()
    }

    /// A record that continues another, which anyone can compute, and that is not in the log.
    fn forged_after(before: &Logged) -> Logged {
        let mut forged = stored()[3].clone();
        forged.stream_seq = before.stream_seq + 1;
        forged.record.bids[0].username = "mallory".to_owned();
        forged.record = forged.record.placed_after(before.record.mark());
        forged
    }

    #[test]
    fn record_that_does_not_continue_is_no_hint() {
        let records = stored();
        let mut tail = Tail::at(Some(records[1].clone()));
        let mut forged = records[2].clone();
        forged.record.bids[0].username = "mallory".to_owned();
        assert_eq!(tail.observe(forged), Observed::Gap);
        assert_eq!(tail.observe(records[3].clone()), Observed::Gap, "a record was left out");
        assert_eq!(tail.observe(records[1].clone()), Observed::Old);
        assert_eq!(tail.end(), End { stream_seq: 2, mark: records[1].record.mark() });
    }

    #[test]
    fn hints_prove_nothing_until_the_log_ends_with_them() {
        let records = stored();
        let mut tail = Tail::at(Some(records[1].clone()));
        let mark = records[2].record.mark();
        assert_eq!(tail.contains(mark), Contains::NotYet);
        assert_eq!(tail.observe(records[2].clone()), Observed::Extended);
        assert_eq!(tail.observe(records[3].clone()), Observed::Extended);
        assert_eq!((tail.contains(mark), tail.mark), (Contains::Heard, records[1].record.mark()));
        assert_eq!(tail.confirm(Some(&records[3])), Hints::True);
        assert_eq!((tail.contains(mark), tail.mark), (Contains::Yes { stream_seq: 3 }, records[3].record.mark()));
        assert!(!tail.has_hints());
    }

    #[test]
    fn forged_hint_is_dropped_and_the_true_record_taken() {
        let records = stored();
        let mut tail = Tail::at(Some(records[1].clone()));
        let forged = forged_after(&records[1]);
        assert_eq!(tail.observe(forged.clone()), Observed::Extended, "it continues the chain");
        assert_eq!(tail.contains(forged.record.mark()), Contains::Heard);
        assert_eq!(tail.confirm(Some(&records[1])), Hints::False);
        assert_eq!(tail.end(), End { stream_seq: 2, mark: records[1].record.mark() });
        assert_eq!(tail.contains(forged.record.mark()), Contains::NotYet);

        assert_eq!(tail.observe(forged.clone()), Observed::Extended);
        assert_eq!(tail.confirm(Some(&records[2])), Hints::False, "another record is at its place");
        tail.extend(records[2].clone()).expect("the true record");
        assert_eq!(tail.contains(forged.record.mark()), Contains::No);
    }

    #[test]
    fn append_after_hints_proves_them() {
        let records = stored();
        let mut tail = Tail::at(Some(records[1].clone()));
        assert_eq!(tail.observe(records[2].clone()), Observed::Extended);
        tail.advance(4, records[3].record.clone());
        assert_eq!(tail.contains(records[2].record.mark()), Contains::Yes { stream_seq: 3 });
        assert_eq!(tail.end(), End { stream_seq: 4, mark: records[3].record.mark() });
    }

    #[test]
    fn hints_are_bounded() {
        let mut tail = Tail::at(Some(stored()[1].clone()));
        let mut last = stored()[1].clone();
        for _ in 0..MAX_HINTS {
            last = forged_after(&last);
            assert_eq!(tail.observe(last.clone()), Observed::Extended);
        }
        assert_eq!(tail.observe(forged_after(&last)), Observed::Gap);
    }
}
