//! What one auctioneer knows of the end of its auction's log.

use std::collections::BTreeMap;

use bus::{LogError, Logged};
use domain::Head;
use protocol::{Mark, Record};

use crate::rebuild;

/// Marks kept: far more than the calls that can be waiting for their record.
const MAX_MARKS: usize = 4096;

/// The last record known, and the marks of the records before it that were seen one by one.
pub struct Tail {
    /// The stream sequence to expect when appending; 0 while there is no record.
    pub stream_seq: u64,
    pub mark: Mark,
    pub last: Option<Record>,
    /// By seq: the head, and the stream sequence up to which the log's records are contained in it.
    marks: BTreeMap<u64, (Head, u64)>,
}

/// Whether the log contains a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contains {
    /// Yes, and with it all of the auction's records up to this stream sequence.
    Yes {
        stream_seq: u64,
    },
    /// No, and it never will.
    No,
    NotYet,
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

    pub fn contains(&self, mark: Mark) -> Contains {
        match self.marks.get(&mark.seq) {
            Some((head, stream_seq)) if *head == mark.head => Contains::Yes { stream_seq: *stream_seq },
            Some(_) => Contains::No,
            // Every record since the first mark was seen, so a seq in between is no mark of the log.
            None if mark.seq <= self.mark.seq
                && self.marks.first_key_value().is_some_and(|(first, _)| *first < mark.seq) =>
            {
                Contains::No
            }
            None => Contains::NotYet,
        }
    }

    pub fn hear(&mut self, logged: Logged) -> Heard {
        if logged.stream_seq <= self.stream_seq {
            return Heard::Old;
        }
        // What does not follow is found again, and named, when the log is read.
        if self.extend(logged).is_ok() { Heard::Extended } else { Heard::Gap }
    }

    /// Takes the auction's next record.
    ///
    /// # Errors
    /// When it does not follow the last one.
    pub fn extend(&mut self, logged: Logged) -> Result<(), LogError> {
        rebuild::follows(self.mark, &logged)?;
        self.advance(logged.stream_seq, logged.record);
        Ok(())
    }

    pub fn advance(&mut self, stream_seq: u64, record: Record) {
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
