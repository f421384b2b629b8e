//! Goes on after the log has lost records: it came back from an older backup.

use bus::Logged;
use protocol::Mark;

use super::Committer;
use crate::backend::Backend;
use crate::tail::Tail;

impl<B: Backend> Committer<B> {
    /// Continues from the log's last record, also if the log has lost the records before the tail: the log is the truth,
    /// and Redis is rebuilt from it.
    pub(super) fn adopt(&mut self, last: Option<Logged>) {
        let Some(tail) = self.tail.as_ref() else { return };
        let found = last.as_ref().map_or((0, Mark::default()), |logged| (logged.stream_seq, logged.record.mark()));
        if found == (tail.stream_seq, tail.mark) {
            return;
        }
        if found.0 <= tail.stream_seq {
            tracing::error!(
                auction_id = %self.auction_id,
                known = tail.stream_seq,
                known_seq = tail.mark.seq,
                found = found.0,
                found_seq = found.1.seq,
                "the log has lost records of the auction: it goes on from the log's last one"
            );
            self.shared.forget(self.auction_id);
            while self.records.try_recv().is_ok() {}
        }
        self.tail = Some(Tail::at(last));
        self.confirmed_at = None;
        self.has_uncommitted = true;
    }

    /// Forgets the end of a log that is no longer there.
    pub(super) fn leave_replaced_log(&mut self) {
        let generation = self.shared.backend.generation();
        if std::mem::replace(&mut self.generation, generation) == generation {
            return;
        }
        // Records of the lost log that wait here may seem to follow the last one of the new log.
        while self.records.try_recv().is_ok() {}
        (self.tail, self.confirmed_at, self.has_uncommitted) = (None, None, true);
    }
}
