//! `server_time`: the clock of the auction's Redis, followed by measuring its offset every second.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use domain::Millis;

use crate::{Hotstate, HotstateError};

/// Interval between measurements. A clock that is set wrong is followed within a second.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// Longest round trip of a measurement that counts. A longer one is too inexact to replace the last measurement.
const MAX_ROUND_TRIP: Duration = Duration::from_millis(250);

/// The clock of Redis as this process knows it. Clones share the measured offset.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// By how much the clock of Redis is ahead of the local one.
    offset_ms: Arc<AtomicI64>,
}

impl Clock {
    /// Measures once.
    ///
    /// # Errors
    /// When Redis does not answer: a service must not start on a clock of its own.
    pub async fn start(hotstate: &Hotstate) -> Result<Self, HotstateError> {
        let clock = Self::default();
        clock.offset_ms.store(measure(hotstate).await?.0, Ordering::Relaxed);
        Ok(clock)
    }

    /// Measures until it is dropped. While Redis does not answer, the last offset stays.
    pub async fn follow(self, hotstate: Hotstate) {
        loop {
            tokio::time::sleep(MEASURE_EVERY).await;
            match measure(&hotstate).await {
                Ok((offset, round_trip)) if round_trip <= MAX_ROUND_TRIP => {
                    self.offset_ms.store(offset, Ordering::Relaxed);
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(error = %errors::chain(&error), "failed to read the clock of Redis"),
            }
        }
    }

    /// The current time by the clock of Redis.
    #[must_use]
    pub fn now(&self) -> Millis {
        Millis(local_now().saturating_add_signed(self.offset_ms.load(Ordering::Relaxed)))
    }
}

async fn measure(hotstate: &Hotstate) -> Result<(i64, Duration), HotstateError> {
    let asked = local_now();
    let started = std::time::Instant::now();
    let remote = hotstate.time().await?;
    let round_trip = started.elapsed();
    let half = u64::try_from(round_trip.as_millis() / 2).unwrap_or(0);
    Ok((remote.0.cast_signed() - (asked + half).cast_signed(), round_trip))
}

fn local_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
