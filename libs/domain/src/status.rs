//! Where an auction is in its life, and how it ended.

use crate::names;

/// Where an auction is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Created; its start has not come.
    Scheduled,
    /// Open for bids.
    Live,
    /// Closed to bids until the host resumes it. Its time is stopped.
    Paused,
    /// Over: its end passed, or the host closed it.
    Closed,
    /// Over: the host cancelled it.
    Cancelled,
}

names!(Status {
    Scheduled = "scheduled",
    Live = "live",
    Paused = "paused",
    Closed = "closed",
    Cancelled = "cancelled",
});

impl Status {
    /// True for the two final states: no fact follows a closed or cancelled auction.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Closed | Self::Cancelled)
    }
}

/// The result of an auction that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The leader won.
    Sold,
    /// Nothing was bid.
    Unsold,
    /// The host cancelled it; there is no winner, whatever was bid.
    Cancelled,
}

names!(Outcome { Sold = "sold", Unsold = "unsold", Cancelled = "cancelled" });

/// Why an auction closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Its end passed.
    Ended,
    /// The host closed it before its end.
    Host,
    /// A bid reached the buy-now price.
    BuyNow,
    /// It was cancelled because the log came back from a backup, which may lack its last bids.
    Restored,
}

names!(CloseReason { Ended = "ended", Host = "host", BuyNow = "buy_now", Restored = "restored" });
