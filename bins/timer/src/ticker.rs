//! Sending ticks, while this instance is elected.

use bus::{Bus, Lease};
use hotstate::Clock;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use protocol::{Leased, Record, SyncType, TimerTick, subject, time_remaining, whole_seconds};
use tokio::sync::watch;

pub struct Ticker {
    bus: Bus,
    clock: Clock,
    held: watch::Receiver<Option<Lease>>,
    sent: Counter,
}

impl Ticker {
    pub fn new(bus: Bus, clock: Clock, held: watch::Receiver<Option<Lease>>, registry: &mut Registry) -> Self {
        let sent = Counter::default();
        registry.register("ticks_sent", "Ticks sent while elected", sent.clone());
        Self { bus, clock, held, sent }
    }

    /// Sends a tick as of this record, if elected. Lost ticks are not repeated: the next one says the same.
    pub async fn tick(&self, record: &Record, sync_type: SyncType) {
        let Some(token) = self.held.borrow().and_then(Lease::token_now) else { return };
        let message = Leased { token, message: tick(record, self.clock.now().0, sync_type) };
        let payload = match serde_json::to_vec(&message) {
            Ok(payload) => payload,
            Err(error) => return tracing::error!(%error, "a tick cannot be written"),
        };
        match self.bus.client.publish(subject::timer(record.auction_id), payload.into()).await {
            Ok(()) => _ = self.sent.inc(),
            Err(error) => tracing::debug!(%error, "a tick could not be sent"),
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
