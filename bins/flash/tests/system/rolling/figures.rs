//! The answers that clients got in one period, as figures.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// Ways to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// A bid by `POST /bids`.
    Http,
    /// A bid over `/ws`.
    WebSocket,
    /// A bid over Socket.IO that polls.
    Polling,
    /// A GET request to auction-management or the timer.
    Read,
}

/// A request of the schedule, and how it ended.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its way.
    pub channel: Channel,
    /// When it was to be sent.
    pub due: Instant,
    /// Time from then until its final answer.
    pub took: Duration,
    /// Answers that asked to repeat it, and over HTTP attempts without an answer.
    pub refused: u32,
    /// It had to wait for another socket.
    pub is_moved: bool,
    /// It got no final answer.
    pub failed: bool,
}

/// Figures of one period.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Requests that were due.
    pub requests: usize,
    /// Requests that were refused at first.
    pub refused: usize,
    /// Requests that got no final answer.
    pub failed: usize,
    /// Bids that had to wait for another socket. The latencies leave them out.
    pub moved: usize,
    /// Latencies of the others.
    pub p50: Duration,
    /// The same.
    pub p99: Duration,
    /// The slowest of the others.
    pub slowest: Option<(Channel, Duration)>,
    /// The slowest of the moved bids.
    pub slowest_moved: Duration,
}

impl Figures {
    /// The figures of these requests.
    pub fn of(samples: &[Sample]) -> Self {
        let count = |fits: fn(&Sample) -> bool| samples.iter().filter(|sample| fits(sample)).count();
        let mut stayed: Vec<&Sample> = samples.iter().filter(|sample| !sample.is_moved).collect();
        stayed.sort_by_key(|sample| sample.took);
        let at = |percent: usize| {
            stayed
                .get((stayed.len() * percent).div_ceil(100).saturating_sub(1))
                .map_or(Duration::ZERO, |sample| sample.took)
        };
        let moved = samples.iter().filter(|sample| sample.is_moved);
        Self {
            requests: samples.len(),
            refused: count(|sample| sample.refused > 0),
            failed: count(|sample| sample.failed),
            moved: count(|sample| sample.is_moved),
            p50: at(50),
            p99: at(99),
            slowest: stayed.last().map(|sample| (sample.channel, sample.took)),
            slowest_moved: moved.map(|sample| sample.took).max().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, refused, failed, moved, p50, p99, slowest, slowest_moved } = self;
        let (channel, slowest) =
            slowest.map_or(("none".to_owned(), Duration::ZERO), |(channel, took)| (format!("{channel:?}"), took));
        write!(
            f,
            "{requests} requests, {refused} refused at first, {failed} failed, p50 {p50:.1?}, p99 {p99:.1?}, \
             slowest {slowest:.1?} ({channel}); {moved} moved to another socket, slowest {slowest_moved:.1?}"
        )
    }
}
