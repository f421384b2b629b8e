//! The world of a timer: it follows the log, asks the instances of this run, and its ticks are written down.

use std::sync::Arc;
use std::time::Duration;

use bid_processing::{Call, StandingReply};
use bus::{LogError, Logged, RequestError};
use domain::{AuctionId, Millis};
use futures_util::stream;
use protocol::{Leased, TimerTick};
use timer::{ASK_TIMEOUT, Backend, BackendError, Records};
use tokio::time::{sleep, timeout};

use super::run::{INSTANCES, Run};
use super::world::{READ_TIMEOUT, Seen, lock};

#[derive(Clone)]
pub struct Clocked {
    pub run: Arc<Run>,
    pub nth: usize,
    pub seen: Seen,
}

impl Clocked {
    /// The record with this number, once there is one.
    async fn record(&self, nth: usize) -> Result<Logged, LogError> {
        let grown = Arc::clone(&lock(&self.seen.outside).grown);
        loop {
            self.seen.stand_still().await;
            let (away, late) = {
                let mut outside = lock(&self.seen.outside);
                let breaks = outside.lost_in_thousand.unwrap_or(0);
                let broken = outside.random.u32(..1_000) < breaks;
                (outside.log_is_away || broken, Duration::from_millis(outside.random.u64(0..10)))
            };
            if away {
                sleep(READ_TIMEOUT).await;
                return Err(LogError::Read("the connection was lost".into()));
            }
            if timeout(READ_TIMEOUT, grown.until(|| lock(&self.seen.outside).log.len() > nth)).await.is_ok() {
                sleep(late).await;
                return Ok(lock(&self.seen.outside).log[nth].clone());
            }
        }
    }

    /// Asks any instance, over NATS.
    async fn ask(&self, call: fn(StandingReply) -> Call) -> Result<(), BackendError> {
        self.seen.stand_still().await;
        let (away, nth) = {
            let mut outside = lock(&self.seen.outside);
            (outside.log_is_away, outside.random.usize(..INSTANCES))
        };
        let asked = async { if away { std::future::pending().await } else { self.run.ask(nth, call).await } };
        let answer = timeout(ASK_TIMEOUT, asked).await.ok().flatten();
        self.seen.stand_still().await;
        let answer = answer.ok_or_else(|| RequestError::NoAnswer("no answer".into()))?;
        Ok(answer.map(drop)?)
    }
}

impl Backend for Clocked {
    async fn follow(&self) -> Result<Records, LogError> {
        // The last record first; of an auction that is not there yet, the first.
        let first = lock(&self.seen.outside).log.len().saturating_sub(1);
        let world = self.clone();
        Ok(Box::pin(stream::unfold(first, move |nth| {
            let world = world.clone();
            async move { Some((world.record(nth).await, nth + 1)) }
        })))
    }

    async fn open(&self, _: AuctionId) -> Result<(), BackendError> {
        self.ask(Call::Open).await
    }

    async fn close(&self, _: AuctionId) -> Result<(), BackendError> {
        self.ask(|reply| Call::Close(None, reply)).await
    }

    async fn tick(&self, tick: &Leased<TimerTick>) -> Result<(), BackendError> {
        self.seen.stand_still().await;
        lock(&self.seen.outside).ticks.push(tick.clone());
        Ok(())
    }

    fn token(&self) -> Option<u64> {
        lock(&self.seen.outside).elected.filter(|(nth, _)| *nth == self.nth).map(|(_, token)| token)
    }

    fn now(&self) -> Millis {
        self.seen.measured_now()
    }
}
