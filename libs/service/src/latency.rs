//! Histograms of durations, with one set of buckets for all services, so that hops can be compared and subtracted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Upper bound of the first bucket, in seconds: a hop on one machine takes less than a millisecond.
const FIRST_BUCKET: f64 = 0.000_125;
/// Number of buckets, each twice as wide as the one before. The last one ends at 4 s, when every call is given up.
const BUCKETS: u16 = 16;

/// How long something took, each time.
#[derive(Debug, Clone)]
pub struct Latency(Histogram);

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(FIRST_BUCKET, 2.0, BUCKETS)))
    }
}

impl Latency {
    /// Lets `/metrics` show it. The name ends in `_seconds`.
    pub fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.0.clone());
    }

    /// Adds one duration.
    pub fn record(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }

    /// Adds the time between two moments in milliseconds since 1970. Clocks that differ a little may give an end before
    /// the beginning: that counts as no time.
    pub fn record_between(&self, begin_ms: u64, end_ms: u64) {
        self.record(Duration::from_millis(end_ms.saturating_sub(begin_ms)));
    }

    /// Adds the time since a moment in milliseconds since 1970, by the clock of this machine.
    pub fn record_since(&self, begin_ms: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.record(now.saturating_sub(Duration::from_millis(begin_ms)));
    }
}
