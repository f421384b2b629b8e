//! Sends ticks while this instance is elected.

use prometheus_client::metrics::counter::Counter;
use protocol::{Leased, Record, SyncType, TimerTick, time_remaining, whole_seconds};

use crate::backend::Backend;

/// Sends ticks and counts them.
#[derive(Clone)]
pub struct Ticker<B> {
    pub backend: B,
    pub sent: Counter,
}

impl<B: Backend> Ticker<B> {
    /// Sends a tick with the state of this record, if elected.
    pub async fn tick(&self, record: &Record, sync_type: SyncType) {
        let Some(token) = self.backend.token() else { return };
        let message = tick(record, self.backend.now().0, sync_type);
        match self.backend.tick(&Leased { token, message }).await {
            Ok(()) => _ = self.sent.inc(),
            Err(error) => tracing::debug!(error = %errors::chain(&error), "failed to send a tick"),
        }
    }
}

fn tick(record: &Record, server_time: u64, sync_type: SyncType) -> TimerTick {
    let remaining = time_remaining(&record.state, server_time);
    TimerTick {
        auction_id: record.auction_id,
        seq: record.seq,
        status: record.state.status.clone(),
        server_time,
        end_time: record.state.end_time,
        time_remaining_ms: remaining,
        time_remaining_seconds: whole_seconds(remaining),
        extension_count: record.state.extension_count,
        sync_type,
    }
}
