//! Outages over the end of an auction.
//!
//! A closing needs what a bid needs, and is asked for the moment the end has passed. One that comes late therefore shows
//! that bids could not be decided before the end either. Such an auction is not closed: it goes on, with as much time as
//! its late bids would have had. An auction whose end no bid can move promises an end by the clock, and keeps it.

use crate::chain::resumed_fact;
use crate::{Auction, Millis, Status};

/// Milliseconds after the end from which a closing is late. Usual delays are shorter: a rebuild in Redis, or the restart of
/// a killed service.
pub const LATE_CLOSING_MS: u64 = 2_000;

/// Times that one auction is given more time. A system that fails again and again must not keep it open for ever.
pub const MAX_RECOVERIES: u32 = 3;

impl Auction {
    /// Lets a live auction go on whose closing is late. False if it is to be closed, or is not due.
    pub fn recover(&mut self, time: Millis) -> bool {
        let now = self.not_before(time);
        let late_ms = self.rules.anti_snipe.late_ms();
        let is_late = now > self.end_time.plus(LATE_CLOSING_MS);
        let is_possible = late_ms > 0 && self.recoveries < MAX_RECOVERIES;
        if self.status != Status::Live || self.is_bought() || !is_late || !is_possible {
            return false;
        }
        self.last_now = now;
        self.end_time = now.plus(late_ms);
        self.recoveries += 1;
        self.record(|seq, auction| resumed_fact(seq, now, None, auction.end_time));
        true
    }
}
