//! The messages of the timer.

use std::time::Duration;

use domain::{AuctionId, Status};
use serde::{Deserialize, Serialize};

#[cfg(feature = "schema")]
use crate::shapes;
use crate::wire::{Named, text};

/// Why a tick was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SyncType {
    /// The regular tick.
    Tick,
    /// A late bid moved the end.
    Extended,
    /// The host stopped the auction's time.
    Paused,
    /// The host let the auction go on.
    Resumed,
    /// The auction is over.
    Final,
}

/// `auction.<id>.timer`, and `timer_update` without the token. Times are milliseconds since 1970, by the clock of the
/// auction's Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "TimerUpdate"))]
pub struct TimerTick {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub auction_id: AuctionId,
    /// Sequence number of the auction's last fact.
    pub seq: u64,
    /// Where the auction is in its life.
    pub status: Named<Status>,
    /// The time of this tick.
    pub server_time: u64,
    /// End of the auction, with extensions; null while it is paused, or waits for another one to end.
    pub end_time: Option<u64>,
    /// Milliseconds until the end; they stay the same while the auction has none.
    pub time_remaining_ms: u64,
    /// Seconds until the end, rounded up.
    pub time_remaining_seconds: u64,
    /// Extensions so far.
    pub extension_count: u32,
    /// Why the tick was sent.
    pub sync_type: SyncType,
}

/// Lifetime of a lease that is not renewed. A successor of an instance that died is elected after it.
pub const LEASE: Duration = Duration::from_secs(2);

/// A message from the holder of a lease. Receivers drop a message whose token is lower than the highest one that they
/// have seen within the last [`LEASE`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Leased<T> {
    /// Fencing token of the lease: when it was won, in milliseconds since 1970.
    pub token: u64,
    /// The message itself.
    #[serde(flatten)]
    pub message: T,
}
