//! When bids are sent: each after the answer to the one before, or by a schedule that does not wait for answers.
//!
//! The schedule is kept by a thread. A sleeping task wakes up one to two milliseconds late, which is as long as a bid
//! takes; a sleeping thread is late by a tenth of that.

use std::future::pending;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

/// Unanswered bids of all people, and bids that are due and not sent. A rate that the system cannot follow ends the
/// benchmark instead of filling a queue.
pub const MAX_UNANSWERED: usize = 100_000;
/// The end of a benchmark that the system does not follow.
pub const CANNOT_FOLLOW: &str = "the system cannot follow this rate";

/// When one bidder sends bids.
pub enum Schedule {
    /// Each bid follows the answer to the one before.
    AfterAnswer,
    /// Each bid has its time, however long the answers take. The last time is not before the end.
    Times(mpsc::Receiver<Instant>),
}

impl Schedule {
    /// Waits until the next bid is due, and returns when that was. Without times it is due once the last bid is answered.
    ///
    /// # Errors
    /// When this bidder, or another one, is too far behind the schedule.
    pub async fn next(&mut self, is_answered: bool) -> Result<Instant> {
        match self {
            Self::AfterAnswer if is_answered => Ok(Instant::now()),
            Self::AfterAnswer => pending().await,
            Self::Times(times) => times.recv().await.context(CANNOT_FOLLOW),
        }
    }

    /// Whether each bid has its time.
    pub const fn has_times(&self) -> bool {
        matches!(self, Self::Times(_))
    }
}

/// Begins a schedule for each of these bidders. With a rate, in bids a second of all together, they are due by turns from
/// now on, until each has had a time that is not before `end`.
pub fn begin(bidders: usize, rate: Option<u64>, end: Instant) -> Result<Vec<Schedule>> {
    let Some(rate) = rate else { return Ok((0..bidders).map(|_| Schedule::AfterAnswer).collect()) };
    let begun = Instant::now();
    let due = move |nth: usize| begun + Duration::from_secs_f64(nth as f64 / rate.max(1) as f64);
    let most = (MAX_UNANSWERED / bidders.max(1)).max(1);
    let (senders, schedules): (Vec<_>, _) = (0..bidders)
        .map(|_| {
            let (sender, times) = mpsc::channel(most);
            (sender, Schedule::Times(times))
        })
        .unzip();
    thread::Builder::new().name("schedule".to_owned()).spawn(move || {
        let last = end + (due(bidders) - begun);
        for (nth, sender) in senders.iter().cycle().enumerate() {
            let at = due(nth);
            thread::sleep(at.saturating_duration_since(Instant::now()));
            // A bidder that is finished takes no more.
            if at > last || matches!(sender.try_send(at), Err(TrySendError::Full(_))) {
                return;
            }
        }
    })?;
    Ok(schedules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bidders_take_turns_until_each_has_got_the_end() {
        let (begun, end) = (Instant::now(), Instant::now() + Duration::from_millis(50));
        let mut all = Vec::new();
        for mut one in begin(3, Some(300), end).expect("a schedule") {
            assert!(one.has_times());
            let mut times = Vec::new();
            while times.last().is_none_or(|last| *last < end) {
                times.push(one.next(false).await.expect("a time"));
                assert!(times.last().is_some_and(|due| *due <= Instant::now()), "a time comes when it is due");
            }
            assert!(times.windows(2).all(|two| (two[1] - two[0]).as_micros().abs_diff(10_000) <= 1), "{times:?}");
            all.push(times[0]);
        }
        assert!(all.windows(2).all(|two| (two[1] - two[0]).as_micros().abs_diff(3_333) <= 1), "{all:?}");
        assert!(all[0] >= begun);
    }

    #[tokio::test]
    async fn bidder_too_far_behind_ends_the_schedule_of_all() {
        let end = Instant::now() + Duration::from_secs(5);
        let mut both = begin(2, Some(10_000_000), end).expect("a schedule");
        let mut taken = 0;
        while both[0].next(false).await.is_ok() {
            taken += 1;
        }
        assert!(Instant::now() < end, "it went on although the second has taken none");
        assert!(taken >= MAX_UNANSWERED / 2, "{taken}");
    }

    #[tokio::test]
    async fn without_a_schedule_a_bid_follows_an_answer() {
        let mut schedules = begin(1, None, Instant::now()).expect("no schedule");
        let waiting = tokio::time::timeout(Duration::from_millis(5), schedules[0].next(false)).await;
        assert!(waiting.is_err(), "the last bid has no answer yet");
        assert!(schedules[0].next(true).await.expect("a time") <= Instant::now());
    }
}
