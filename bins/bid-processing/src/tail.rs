//! The end of an auction's log, as its auctioneer knows it.

use std::collections::BTreeMap;

use bus::{LogError, Logged};
use domain::Head;
use protocol::{Mark, Record};

use crate::replay;

/// Marks kept. Far more than the calls that can be waiting for their record.
const MAX_MARKS: usize = 4096;

/// The last known record, and the marks of the records before it that were read without a gap.
pub struct Tail {
    /// The stream sequence to expect when appending; 0 while there is no record.
    pub stream_seq: u64,
    /// The mark of the last record; (0, genesis) while there is none.
    pub mark: Mark,
    /// The last record.
    pub last: Option<Record>,
    /// By seq: the head, and the stream sequence up to which the log's records are contained in it.
    marks: BTreeMap<u64, (Head, u64)>,
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
    /// The log continues beyond it, and the records there were jumped.
    Unknown,
}

/// How an observed record relates to the tail.
#[derive(Debug, PartialEq, Eq)]
pub enum Observed {
    /// The tail contains it already.
    Old,
    /// It followed the tail and is now its end.
    Extended,
    /// Records between the tail and this one are missing.
    Gap,
}

impl Tail {
    /// The tail that ends with the auction's last record, if it has any.
    pub fn at(last: Option<Logged>) -> Self {
        let genesis = Mark { seq: 0, head: Head::GENESIS };
        let mut tail = Self { stream_seq: 0, mark: genesis, last: None, marks: BTreeMap::new() };
        if let Some(logged) = last {
            tail.advance(logged.stream_seq, logged.record);
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
            None => Contains::NotYet,
        }
    }

    /// Takes a record that the server republished, if it follows.
    pub fn observe(&mut self, logged: Logged) -> Observed {
        if logged.stream_seq <= self.stream_seq {
            return Observed::Old;
        }
        // A record that does not follow is found again when the log is read, and reported there.
        if self.extend(logged).is_ok() { Observed::Extended } else { Observed::Gap }
    }

    /// Takes the auction's next record.
    ///
    /// # Errors
    /// When it does not follow the last one.
    pub fn extend(&mut self, logged: Logged) -> Result<(), LogError> {
        replay::follows(self.mark, &logged)?;
        self.advance(logged.stream_seq, logged.record);
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

    /// Takes a record that is known to follow.
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
