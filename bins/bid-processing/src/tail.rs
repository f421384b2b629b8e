//! What one auctioneer knows of the end of its auction's log.

use std::collections::BTreeMap;

use bus::Logged;
use domain::Head;
use protocol::{Mark, Record};

/// Marks kept: far more than the calls that can be waiting for their record.
const MAX_MARKS: usize = 4096;

/// The last record known, and the marks of the records before it that were seen one by one.
pub struct Tail {
    /// The stream sequence to expect when appending; 0 while there is no record.
    pub stream_seq: u64,
    pub mark: Mark,
    pub last: Option<Record>,
    marks: BTreeMap<u64, Head>,
}

/// Whether a record follows the tail.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Old,
    Extended,
    /// Records between the tail and this one are missing.
    Gap,
}

impl Tail {
    /// From the auction's last record, if it has any.
    pub fn at(last: Option<Logged>) -> Self {
        let genesis = Mark { seq: 0, head: Head::GENESIS };
        let mut tail = Self { stream_seq: 0, mark: genesis, last: None, marks: BTreeMap::new() };
        if let Some(logged) = last {
            tail.advance(logged.stream_seq, logged.record);
        }
        tail
    }

    /// Whether the log contains this mark: None when that cannot be told yet.
    pub fn contains(&self, mark: Mark) -> Option<bool> {
        match self.marks.get(&mark.seq) {
            Some(head) => Some(*head == mark.head),
            // Every record since the first mark was seen, so a seq in between is no mark of the log.
            None if mark.seq <= self.mark.seq && self.marks.first_key_value().is_some_and(|(first, _)| *first < mark.seq) => {
                Some(false)
            }
            None => None,
        }
    }

    pub fn hear(&mut self, logged: Logged) -> Heard {
        if logged.stream_seq <= self.stream_seq {
            return Heard::Old;
        }
        if logged.record.prev != self.mark.head {
            return Heard::Gap;
        }
        self.advance(logged.stream_seq, logged.record);
        Heard::Extended
    }

    pub fn advance(&mut self, stream_seq: u64, record: Record) {
        self.stream_seq = stream_seq;
        self.mark = record.mark();
        self.marks.extend(record.marks.iter().map(|mark| (mark.seq, mark.head)));
        while self.marks.len() > MAX_MARKS {
            self.marks.pop_first();
        }
        self.last = Some(record);
    }
}
