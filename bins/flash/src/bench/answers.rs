//! Answers to bids with their latency, and how far the load fell behind its own schedule.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use service::Stop;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::figures;

/// Microseconds of the longest time that a histogram distinguishes. Longer than every wait for an answer.
const LONGEST_US: u64 = 60_000_000;
/// Digits of a latency, and of a lag, which each of thousands of people counts.
const LATENCY_DIGITS: u8 = 3;
const LAG_DIGITS: u8 = 2;
/// Time after the scheduled one from which a request counts as late. Far above what a busy scheduler of the kernel takes.
const LATE: Duration = Duration::from_millis(100);
/// Share of late requests from which the load was the limit. A single pause of the machine must not spoil a run.
const MAX_LATE_PERCENT: f64 = 5.0;
/// Interval of the wake-ups by which [`Probe`] looks at itself.
const PROBE_EVERY: Duration = Duration::from_millis(10);

/// The answers whose latency is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    All,
    Accepted,
}

/// The answers that one person, or all of them, got.
pub struct Answers {
    counted: Counted,
    /// Numbers of answers by code.
    codes: BTreeMap<String, u64>,
    /// Microseconds.
    latency: Histogram<u64>,
}

/// `accepted`, or the code of the rejection, as `POST /bids` and `bid_result` spell it.
pub fn code_of(answer: &Value) -> &str {
    if answer["status"] == "accepted" { "accepted" } else { answer["code"].as_str().unwrap_or("unreadable") }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

impl Answers {
    pub fn new(counted: Counted) -> Result<Self> {
        let latency = Histogram::new_with_bounds(1, LONGEST_US, LATENCY_DIGITS)?;
        Ok(Self { counted, codes: BTreeMap::new(), latency })
    }

    /// Counts the answer to a bid, as `POST /bids` and `bid_result` spell it.
    pub fn note(&mut self, answer: &Value, took: Duration) {
        self.note_code(code_of(answer), took);
    }

    /// Counts an answer with this code; `accepted` is one.
    pub fn note_code(&mut self, code: &str, took: Duration) {
        *self.codes.entry(code.to_owned()).or_default() += 1;
        if self.counted == Counted::All || code == "accepted" {
            self.latency.saturating_record(micros(took));
        }
    }

    pub fn add(&mut self, other: &Self) -> Result<()> {
        for (code, count) in &other.codes {
            *self.codes.entry(code.clone()).or_default() += count;
        }
        Ok(self.latency.add(&other.latency)?)
    }

    pub const fn codes(&self) -> &BTreeMap<String, u64> {
        &self.codes
    }

    pub fn total(&self) -> u64 {
        self.codes.values().sum()
    }

    pub fn accepted(&self) -> u64 {
        self.codes.get("accepted").copied().unwrap_or_default()
    }

    /// Mean microseconds.
    pub fn mean_us(&self) -> f64 {
        self.latency.mean()
    }

    /// Milliseconds at this quantile.
    pub fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// How late the load was at its own schedule.
pub struct OwnLag {
    /// Microseconds.
    lag: Histogram<u64>,
    late: u64,
}

impl OwnLag {
    pub fn new() -> Result<Self> {
        Ok(Self { lag: Histogram::new_with_bounds(1, LONGEST_US, LAG_DIGITS)?, late: 0 })
    }

    /// Counts a request that is sent now.
    pub fn note(&mut self, scheduled: Instant) {
        let lag = scheduled.elapsed();
        self.lag.saturating_record(micros(lag));
        self.late += u64::from(lag > LATE);
    }

    pub fn add(&mut self, other: &Self) -> Result<()> {
        self.late += other.late;
        Ok(self.lag.add(&other.lag)?)
    }

    fn late_percent(&self) -> f64 {
        100.0 * self.late as f64 / self.lag.len().max(1) as f64
    }

    /// The lag as a benchmark reports it. Null if nothing was scheduled.
    pub fn report(&self) -> Value {
        if self.lag.is_empty() {
            return Value::Null;
        }
        let ms = |quantile: f64| self.lag.value_at_quantile(quantile) as f64 / 1000.0;
        let late = self.late_percent();
        json!({"p50": ms(0.5), "p99": ms(0.99), "max": ms(1.0), "late_percent": late,
            "was_the_limit": late > MAX_LATE_PERCENT})
    }
}

/// Prints the lag of the load.
pub fn print_lag(lag: &Value) {
    figures::rows("the load behind its own schedule", lag, "ms");
}

/// A sentence if the load was the limit: its figures then say nothing about the system.
pub fn limit(measured: &Value) -> Option<String> {
    let lag = &measured["own_lag_ms"];
    (lag["was_the_limit"] == true).then(|| {
        let (late, than) = (lag["late_percent"].as_f64().unwrap_or_default(), LATE.as_millis());
        format!("the load was the limit: {late:.0} % of it came more than {than} ms after its time")
    })
}

/// Measures, for loads without a schedule, how late this process wakes up for what it has planned.
pub struct Probe {
    stop: Stop,
    task: JoinHandle<Result<OwnLag>>,
}

impl Probe {
    pub fn start() -> Self {
        let stop = Stop::new();
        let until = stop.clone();
        let task = tokio::spawn(async move {
            let mut lag = OwnLag::new()?;
            while !until.is_cancelled() {
                let scheduled = Instant::now() + PROBE_EVERY;
                tokio::time::sleep_until(scheduled).await;
                lag.note(scheduled);
            }
            Ok(lag)
        });
        Self { stop, task }
    }

    pub async fn finish(self) -> Result<OwnLag> {
        self.stop.cancel();
        self.task.await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_with_one_late_request_in_ten_was_the_limit() {
        let mut lag = OwnLag::new().expect("bounds");
        assert_eq!(lag.report(), Value::Null);
        for nth in 0..20u32 {
            let late = if nth == 0 { LATE * 2 } else { Duration::ZERO };
            lag.note(Instant::now().checked_sub(late).expect("a machine that runs since then"));
        }
        assert_eq!(limit(&json!({"own_lag_ms": lag.report()})), None);
        lag.note(Instant::now().checked_sub(LATE * 2).expect("a machine that runs since then"));
        let sentence = limit(&json!({"own_lag_ms": lag.report()})).expect("a sentence");
        assert!(sentence.contains("10 %"), "{sentence}");
    }

    #[test]
    fn only_accepted_answers_have_a_latency_where_these_are_counted() {
        let refused = json!({"status": "rejected", "code": "bid_too_low"});
        for (counted, expected) in [(Counted::All, 10.0), (Counted::Accepted, 20.0)] {
            let mut answers = Answers::new(counted).expect("bounds");
            answers.note(&refused, Duration::from_millis(10));
            answers.note(&json!({"status": "accepted"}), Duration::from_millis(20));
            answers.note(&refused, Duration::from_millis(10));
            assert!((answers.ms(0.5) - expected).abs() < 0.1, "{}", answers.ms(0.5));
            assert_eq!((answers.total(), answers.accepted(), answers.codes()["bid_too_low"]), (3, 1, 2));
        }
    }
}
