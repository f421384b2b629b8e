//! Sends ticks while this instance is elected.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use protocol::{Leased, Record, SyncType, TimerTick, time_remaining, whole_seconds};
use service::Latency;

use crate::backend::Backend;

/// Metrics of the schedule and its ticks.
#[derive(Clone, Default)]
pub struct Metrics {
    /// Ticks sent.
    pub sent: Counter,
    /// Time from the end of an auction to its closing.
    pub close_lag: Latency,
}

impl Metrics {
    /// Metrics that `/metrics` shows.
    pub fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("ticks_sent", "Timer ticks sent while this instance held the lease", metrics.sent.clone());
        let close_lag = "Time from the end of an auction to its closing, unless its host closed it";
        metrics.close_lag.register(registry, "close_lag_seconds", close_lag);
        metrics
    }
}

/// Sends ticks and counts them.
#[derive(Clone)]
pub struct Ticker<B> {
    pub backend: B,
    pub metrics: Metrics,
}

impl<B: Backend> Ticker<B> {
    /// Sends a tick with the state of this record, if elected.
    pub async fn tick(&self, record: &Record, sync_type: SyncType) {
        let Some(token) = self.backend.token() else { return };
        let message = tick(record, self.backend.now().0, sync_type);
        match self.backend.tick(&Leased { token, message }).await {
            Ok(()) => _ = self.metrics.sent.inc(),
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
        end_time: record.state.shown_end(),
        time_remaining_ms: remaining,
        time_remaining_seconds: whole_seconds(remaining),
        extension_count: record.state.extension_count,
        sync_type,
    }
}
