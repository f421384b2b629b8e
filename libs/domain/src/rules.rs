//! The rules that a host fixes when creating an auction.

use crate::names;
use crate::{Amount, AuctionId, Ladder, Reserve, UserId};

/// A point in time in milliseconds since 1970 (UTC), by the clock of the auction's Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// Stands for the start of an auction that waits for another one to end: 2100-01-01, which no start that a host
    /// gives can be. A time and not nothing, so that versions that know no sequences can read the auction's records,
    /// and take it for one whose start and end are far away.
    pub const NOT_YET: Self = Self(4_102_444_800_000);

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
    /// A bid accepted with less than the extension left moves the end to the extension after the bid.
    Reset,
    /// The end never moves.
    Off,
}

names!(AntiSnipeMode { Extend = "extend", Reset = "reset", Off = "off" });

/// How late bids move the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AntiSnipe {
    /// Whether they move it at all.
    pub mode: AntiSnipeMode,
    /// Milliseconds before the end in which a bid is late. Without meaning for [`AntiSnipeMode::Reset`].
    pub window_ms: u64,
    /// Milliseconds by which a late bid moves the end, or that it leaves.
    pub extension_ms: u64,
    /// Moves of the end of one auction; 0 is no limit.
    pub max_extensions: u32,
}

impl AntiSnipe {
    /// Milliseconds before the end in which a bid may move it; 0 if none ever does.
    #[must_use]
    pub const fn late_ms(&self) -> u64 {
        match self.mode {
            AntiSnipeMode::Extend => self.window_ms,
            AntiSnipeMode::Reset => self.extension_ms,
            AntiSnipeMode::Off => 0,
        }
    }

    /// The end after a bid accepted at `now`, if the bid moves it: never back, and not beyond the most extensions.
    #[must_use]
    pub fn moved_end(&self, now: Millis, end: Millis, extensions: u32) -> Option<Millis> {
        if self.max_extensions != 0 && extensions >= self.max_extensions {
            return None;
        }
        let moved = match self.mode {
            AntiSnipeMode::Extend if end.since(now) < self.window_ms => end.plus(self.extension_ms),
            AntiSnipeMode::Reset => now.plus(self.extension_ms),
            AntiSnipeMode::Extend | AntiSnipeMode::Off => end,
        };
        (moved > end).then_some(moved)
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

/// The auction that must have ended before this one opens. It existed before this one and is never exchanged, so that
/// auctions cannot wait for each other in a circle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follows {
    /// The auction that goes before.
    pub auction_id: AuctionId,
    /// Milliseconds from its end to the opening of this one.
    pub gap_ms: u64,
}

impl Follows {
    /// Seconds from the end of the other auction to the opening of this one.
    #[must_use]
    pub const fn gap_seconds(self) -> u64 {
        self.gap_ms / 1000
    }
}

/// The rules of one auction. They never change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The person who sells.
    pub host: Host,
    /// The lowest first bid.
    pub starting_bid: Amount,
    /// The least amount by which a bid must exceed the highest one, by the height of that one.
    pub increments: Ladder,
    /// Milliseconds from the opening to the end.
    pub duration_ms: u64,
    /// How late bids move the end.
    pub anti_snipe: AntiSnipe,
    /// Whether the leader may raise their own bid.
    pub allow_self_raise: bool,
    /// The price at which an auction is over at once: no bid goes beyond it.
    pub buy_now: Option<Amount>,
    /// The price below which the auction does not sell, which only the host knows.
    pub reserve: Option<Reserve>,
    /// Whether bids are kept until the opening while the auction is scheduled.
    pub allow_prebids: bool,
    /// The auction whose end opens this one.
    pub follows: Option<Follows>,
}

impl Rules {
    /// Whether the first version of the scripts knows all of these rules: one step, and no option. Such an auction has
    /// the same state, facts and records in every version, so that instances of both versions may decide it.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.increments.flat_step().is_some()
            && self.anti_snipe.mode != AntiSnipeMode::Reset
            && !self.allow_self_raise
            && self.buy_now.is_none()
            && self.reserve.is_none()
            && !self.allow_prebids
            && self.follows.is_none()
    }

    /// The amount, cut to the buy-now price.
    #[must_use]
    pub fn capped(&self, amount: Amount) -> Amount {
        self.buy_now.map_or(amount, |buy_now| amount.min(buy_now))
    }

    /// Whether a bid of this amount buys.
    #[must_use]
    pub fn buys(&self, amount: Amount) -> bool {
        self.buy_now.is_some_and(|buy_now| amount >= buy_now)
    }
}
