//! The rules that a host fixes when creating an auction.

use crate::names;
use crate::{Amount, UserId};

/// A point in time in milliseconds since 1970 (UTC), by the clock of the auction's Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// The point in time this number of milliseconds later.
    #[must_use]
    pub const fn plus(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// Milliseconds from `earlier` to `self`, 0 if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The effect of a late bid on the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AntiSnipeMode {
    /// A bid accepted with less than the window left moves the end on by the extension.
    Extend,
    /// The end never moves.
    Off,
}

names!(AntiSnipeMode { Extend = "extend", Off = "off" });

/// How late bids move the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AntiSnipe {
    /// Whether they move it at all.
    pub mode: AntiSnipeMode,
    /// Milliseconds before the end in which a bid is late.
    pub window_ms: u64,
    /// Milliseconds by which a late bid moves the end.
    pub extension_ms: u64,
    /// Extensions of one auction; 0 is no limit.
    pub max_extensions: u32,
}

impl AntiSnipe {
    /// The end after a bid accepted at `now`, if the bid moves it.
    #[must_use]
    pub fn moved_end(&self, now: Millis, end: Millis, extensions: u32) -> Option<Millis> {
        let inside = end.since(now) < self.window_ms;
        let capped = self.max_extensions != 0 && extensions >= self.max_extensions;
        let moves = self.mode == AntiSnipeMode::Extend && inside && !capped && self.extension_ms > 0;
        moves.then(|| end.plus(self.extension_ms))
    }
}

/// The person who owns the auction and may not bid in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The person.
    pub user_id: UserId,
    /// The name that others see.
    pub username: String,
}

/// The rules of one auction. They never change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The person who sells.
    pub host: Host,
    /// The lowest first bid.
    pub starting_bid: Amount,
    /// The least amount by which a bid must exceed the highest one.
    pub increment: Amount,
    /// Milliseconds from the opening to the end.
    pub duration_ms: u64,
    /// How late bids move the end.
    pub anti_snipe: AntiSnipe,
}
