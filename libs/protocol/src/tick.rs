//! What the timer sends.

use domain::{AuctionId, Status};
use serde::{Deserialize, Serialize};

use crate::wire::{Named, text};

/// Why a tick was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncType {
    /// The regular one.
    Tick,
    /// A late bid moved the end.
    Extended,
    /// The auction is over.
    Final,
}

/// `auction.<id>.timer`, and `timer_update` without the token. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerTick {
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// Of the last record.
    pub seq: u64,
    pub status: Named<Status>,
    pub server_time: u64,
    pub end_time: u64,
    pub time_remaining_ms: u64,
    pub time_remaining_seconds: u64,
    pub extension_count: u32,
    pub sync_type: SyncType,
}

/// A message from the holder of a lease: receivers drop a lower token than the highest seen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Leased<T> {
    pub token: u64,
    #[serde(flatten)]
    pub message: T,
}
