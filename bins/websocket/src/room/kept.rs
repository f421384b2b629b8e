//! The newest bids of a room, for clients that join with `last_seq`.

use std::collections::VecDeque;

use protocol::{Bid, CommittedState};

use crate::room::earlier::EarlierBids;

/// Bids kept for clients that join with `last_seq`. CONTRACT.md, Resuming.
pub const MAX_KEPT_BIDS: usize = 1000;

/// Every bid after a seq, oldest first, at most [`MAX_KEPT_BIDS`].
pub struct KeptBids {
    bids: VecDeque<Bid>,
    from: u64,
}

impl KeptBids {
    /// The bids that a state contains.
    pub fn of(committed: &CommittedState) -> Self {
        let mut bids: VecDeque<Bid> = committed.recent_bids.iter().rev().cloned().collect();
        // The state contains the newest bids without gaps, so every bid after the oldest of these is known.
        let from = match bids.front() {
            Some(_) if u64::try_from(bids.len()) == Ok(committed.state.bid_count) => 0,
            Some(oldest) => oldest.seq,
            None if committed.state.bid_count == 0 => 0,
            None => committed.seq,
        };
        bids.retain(|bid| bid.seq > from);
        Self { bids, from }
    }

    /// The seq after which every bid is kept.
    pub const fn from(&self) -> u64 {
        self.from
    }

    /// Whether no earlier bid can be added: there is none, or no room for one.
    pub fn is_full(&self) -> bool {
        self.from == 0 || self.bids.len() >= MAX_KEPT_BIDS
    }

    /// The kept bids after `seq`, oldest first.
    pub fn newer_than(&self, seq: u64) -> impl DoubleEndedIterator<Item = &Bid> + Clone {
        let first = self.bids.partition_point(|bid| bid.seq <= seq);
        self.bids.range(first..)
    }

    /// Every bid after `seq`, oldest first. None if not all of them are kept.
    pub fn all_after(&self, seq: u64) -> Option<impl DoubleEndedIterator<Item = &Bid> + Clone> {
        (seq >= self.from).then(|| self.newer_than(seq))
    }

    /// Adds the bids that follow the last one.
    pub fn extend(&mut self, bids: impl Iterator<Item = Bid>) {
        self.bids.extend(bids);
        while self.bids.len() > MAX_KEPT_BIDS {
            self.from = self.bids.pop_front().map_or(self.from, |bid| bid.seq);
        }
    }

    /// Forgets all bids, because some between them and those after `seq` are not known.
    pub fn restart_from(&mut self, seq: u64) {
        self.bids.clear();
        self.from = seq;
    }

    /// Forgets the bids after `seq`.
    pub fn forget_after(&mut self, seq: u64) {
        self.bids.truncate(self.bids.partition_point(|bid| bid.seq <= seq));
        self.from = self.from.min(seq);
    }

    /// Adds bids from before the first one, the newest of them if there is no room for all. Changes nothing if there
    /// is a gap in between, because bids were dropped since the reading began.
    pub fn prepend(&mut self, earlier: EarlierBids) {
        if earlier.to < self.from {
            return;
        }
        for bid in earlier.bids.into_iter().rev() {
            if bid.seq > self.from {
                continue;
            }
            if self.bids.len() == MAX_KEPT_BIDS {
                self.from = bid.seq;
                return;
            }
            self.bids.push_front(bid);
        }
        self.from = self.from.min(earlier.from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::testing::{bid, committed};

    fn seqs<'a>(bids: Option<impl Iterator<Item = &'a Bid>>) -> Option<Vec<u64>> {
        bids.map(|bids| bids.map(|bid| bid.seq).collect())
    }

    fn earlier(from: u64, to: u64) -> EarlierBids {
        EarlierBids { from, to, bids: (from + 1..=to).map(bid).collect() }
    }

    #[test]
    fn state_with_all_bids_keeps_every_bid() {
        let kept = KeptBids::of(&committed(5, 3));
        assert_eq!(seqs(kept.all_after(0)), Some(vec![3, 4, 5]));
        assert_eq!(seqs(kept.all_after(4)), Some(vec![5]));
        assert!(KeptBids::of(&committed(2, 0)).is_full(), "there are no bids to read");
    }

    #[test]
    fn state_with_the_newest_bids_does_not_pretend_to_have_the_oldest() {
        let kept = KeptBids::of(&committed(102, 100));
        assert_eq!(kept.from(), 83);
        assert_eq!(seqs(kept.all_after(82)), None);
        assert_eq!(seqs(kept.all_after(100)), Some(vec![101, 102]));
    }

    #[test]
    fn earlier_bids_close_the_gap_and_only_the_newest_thousand_stay() {
        let mut kept = KeptBids::of(&committed(3_002, 3_000));
        kept.prepend(earlier(2_900, 2_983));
        assert_eq!(seqs(kept.all_after(2_900)), Some((2_901..=3_002).collect()));
        assert_eq!(seqs(kept.all_after(2_899)), None);
        // It overlaps what is kept, and has more than fits.
        kept.prepend(earlier(1_500, 2_950));
        assert_eq!(kept.from(), 2_002);
        assert_eq!(seqs(kept.all_after(2_002)), Some((2_003..=3_002).collect()));
        assert!(kept.is_full());
    }

    #[test]
    fn bids_read_before_a_jump_are_not_joined_to_those_after_it() {
        let mut kept = KeptBids::of(&committed(102, 100));
        kept.restart_from(500);
        kept.extend((501..=502).map(bid));
        kept.prepend(earlier(0, 83));
        assert_eq!((kept.from(), seqs(kept.all_after(83))), (500, None));
        assert_eq!(seqs(kept.all_after(500)), Some(vec![501, 502]));
    }

    #[test]
    fn bids_after_a_seq_are_forgotten() {
        let mut kept = KeptBids::of(&committed(2, 0));
        kept.extend((3..=9).map(bid));
        kept.forget_after(5);
        assert_eq!(seqs(kept.all_after(2)), Some(vec![3, 4, 5]));
        kept.extend((6..=7).map(bid));
        assert_eq!(seqs(kept.all_after(5)), Some(vec![6, 7]));
        kept.restart_from(20);
        kept.forget_after(10);
        assert_eq!((kept.from(), kept.newer_than(0).next().is_none()), (10, true));
    }

    #[test]
    fn newer_bids_push_out_the_oldest() {
        let mut kept = KeptBids::of(&committed(2, 0));
        kept.extend((3..=1_500).map(bid));
        assert_eq!(kept.from(), 500);
        assert_eq!(seqs(kept.all_after(500)).map(|bids| bids.len()), Some(MAX_KEPT_BIDS));
        assert_eq!(seqs(kept.all_after(499)), None);
    }
}
