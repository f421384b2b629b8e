//! `server_time`: the clock of the auction's Redis, kept by measuring its offset every second.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use domain::Millis;

use crate::{Hotstate, HotstateError};

const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// A measurement whose answer took longer says too little about the offset to replace the last one.
const MAX_ROUND_TRIP: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Default)]
pub struct Clock {
    offset_ms: Arc<AtomicI64>,
}

impl Clock {
    /// Measures once.
    ///
    /// # Errors
    /// When Redis does not answer: a service must not start on a clock nobody shares.
    pub async fn start(hotstate: &Hotstate) -> Result<Self, HotstateError> {
        let clock = Self::default();
        clock.offset_ms.store(measure(hotstate).await?.0, Ordering::Relaxed);
        Ok(clock)
    }

    /// Keeps measuring until dropped. While Redis is away the last offset stays.
    pub async fn follow(self, hotstate: Hotstate) {
        loop {
            tokio::time::sleep(MEASURE_EVERY).await;
            match measure(&hotstate).await {
                Ok((offset, round_trip)) if round_trip <= MAX_ROUND_TRIP => {
                    self.offset_ms.store(offset, Ordering::Relaxed);
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "the clock of Redis could not be read"),
            }
        }
    }

    /// Now, by the clock of Redis.
    #[must_use]
    pub fn now(&self) -> Millis {
        Millis(local_now().saturating_add_signed(self.offset_ms.load(Ordering::Relaxed)))
    }
}

async fn measure(hotstate: &Hotstate) -> Result<(i64, Duration), HotstateError> {
    let asked = local_now();
    let started = std::time::Instant::now();
    let there = hotstate.time().await?;
    let round_trip = started.elapsed();
    let half = u64::try_from(round_trip.as_millis() / 2).unwrap_or(0);
    Ok((there.0.cast_signed() - (asked + half).cast_signed(), round_trip))
}

fn local_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
