//! Which hosts stream: IVS is asked for all live streams of the account at once, and the answer is published to the edges
//! and the other instances.
//!
//! An instance asks when no answer has been published for an interval, so that several instances ask no more often than
//! one. Two that ask at the same moment publish the same.

use std::time::{Duration, Instant};

use admission::OnAirAuctions;
use bus::Bus;
use cloud::{Video, VideoError};
use protocol::{MAX_ON_AIR, OnAir, subject};
use store::{Store, StoreError};

/// Part of an interval between two looks at the age of the last answer, and as much again at random: several instances
/// rarely ask at once, and not twice in a row.
const LOOK_PART: f64 = 0.25;
/// Intervals for which an answer is believed. One that is lost or late makes no viewer doubt the picture.
const VALID_FOR_INTERVALS: u32 = 4;
/// Longest pause after failures. An account without the right to ask is asked once a minute.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Asks IVS and publishes the answers.
pub struct Watch {
    pub video: Video,
    pub store: Store,
    pub bus: Bus,
    /// The last answer of any instance.
    pub on_air: OnAirAuctions,
    /// Time between two questions.
    pub interval: Duration,
}

/// Why it is not known which hosts stream.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("failed to read the auctions of channels")]
    Store(#[from] StoreError),
    #[error("failed to list live streams")]
    Video(#[from] VideoError),
}

impl Watch {
    /// Asks forever, while there are auctions with video.
    pub async fn run(self) {
        let (mut next, mut pause) = (Instant::now(), self.interval);
        loop {
            tokio::time::sleep(self.interval.mul_f64(LOOK_PART * (1.0 + fastrand::f64()))).await;
            let now = Instant::now();
            let is_known = self.on_air.age(now).is_some_and(|age| age < self.interval);
            if is_known || now < next {
                continue;
            }
            match self.ask().await {
                Ok(answer) => {
                    pause = self.interval;
                    if let Some(message) = answer {
                        self.publish(message).await;
                    }
                }
                Err(error) => {
                    // The log names the first of several failures.
                    if pause == self.interval {
                        tracing::warn!(error = %errors::chain(&error), "failed to find the hosts that stream");
                    }
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
            next = Instant::now() + pause;
        }
    }

    /// The running auctions whose hosts stream. None if no running auction has video.
    async fn ask(&self) -> Result<Option<OnAir>, WatchError> {
        if !self.store.has_channels().await? {
            return Ok(None);
        }
        let live = self.video.live().await?;
        let mut auctions = if live.is_empty() { Vec::new() } else { self.store.auctions_of_channels(&live).await? };
        auctions.truncate(MAX_ON_AIR);
        let valid_for = self.interval * VALID_FOR_INTERVALS;
        let valid_for_ms = u64::try_from(valid_for.as_millis()).unwrap_or(u64::MAX);
        Ok(Some(OnAir { auctions, valid_for_ms }))
    }

    async fn publish(&self, message: OnAir) {
        let payload = serde_json::to_vec(&message).unwrap_or_default();
        self.on_air.hear(message, Instant::now());
        if let Err(error) = self.bus.client.publish(subject::VIDEO_ON_AIR, payload.into()).await {
            tracing::debug!(error = %errors::chain(&error), "failed to publish the hosts that stream");
        }
    }
}
