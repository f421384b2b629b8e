//! The backend of a simulated timer: it follows the log and calls the instances of bid-processing; its ticks are
//! kept.

use std::sync::Arc;
use std::time::Duration;

use bid_processing::{Call, Command};
use bus::{LogError, Logged, RequestError};
use domain::{AuctionId, Millis};
use futures_util::stream;
use protocol::{CommittedState, Leased, TimerTick};
use timer::{ASK_TIMEOUT, Backend, BackendError, Records};
use tokio::time::{sleep, timeout};

use super::instances::{INSTANCES, Instances};
use super::network::{Endpoint, READ_TIMEOUT, lock};
use super::predecessor;

/// The backend of one timer.
#[derive(Clone)]
pub struct TimerBackend {
    /// The instances that it calls.
    pub instances: Arc<Instances>,
    /// Its number among the timers.
    pub nth: usize,
    /// Its connection to everything else.
    pub endpoint: Endpoint,
}

impl TimerBackend {
    /// Waits for the record at this position of the log.
    async fn record(&self, nth: usize) -> Result<Logged, LogError> {
        let grown = Arc::clone(&lock(&self.endpoint.outside).grown);
        loop {
            self.endpoint.while_frozen().await;
            let (is_lost, delay) = {
                let mut outside = lock(&self.endpoint.outside);
                let lost = outside.lost_in_thousand.unwrap_or(0);
                let is_lost = outside.random.u32(..1_000) < lost;
                (outside.log_is_down || is_lost, Duration::from_millis(outside.random.u64(0..10)))
            };
            if is_lost {
                sleep(READ_TIMEOUT).await;
                return Err(LogError::Read("the connection was lost".into()));
            }
            if timeout(READ_TIMEOUT, grown.until(|| lock(&self.endpoint.outside).log.len() > nth)).await.is_ok() {
                sleep(delay).await;
                return Ok(lock(&self.endpoint.outside).log[nth].clone());
            }
        }
    }

    /// Calls any instance, over NATS.
    async fn ask(&self, command: Command) -> Result<CommittedState, BackendError> {
        self.endpoint.while_frozen().await;
        let (is_down, nth) = {
            let mut outside = lock(&self.endpoint.outside);
            (outside.log_is_down, outside.random.usize(..INSTANCES))
        };
        let call = async {
            if is_down {
                std::future::pending().await
            } else {
                self.instances.call(nth, |reply| Call::Command(command, reply)).await
            }
        };
        let answer = timeout(ASK_TIMEOUT, call).await.ok().flatten();
        self.endpoint.while_frozen().await;
        let answer = answer.ok_or_else(|| RequestError::NoAnswer("no answer".into()))?;
        Ok(answer?)
    }
}

impl Backend for TimerBackend {
    async fn follow(&self) -> Result<Records, LogError> {
        // Begins with the last record; with the first if the auction does not exist yet.
        let first = lock(&self.endpoint.outside).log.len().saturating_sub(1);
        let backend = self.clone();
        let own = stream::unfold(first, move |nth| {
            let backend = backend.clone();
            async move { Some((backend.record(nth).await, nth + 1)) }
        });
        let before = stream::once(predecessor::ended(self.endpoint.clone()));
        Ok(Box::pin(stream::select(own, before)))
    }

    async fn open(&self, _: AuctionId) -> Result<Option<Millis>, BackendError> {
        Ok(self.ask(Command::Open).await?.opens_at.map(Millis))
    }

    async fn close(&self, _: AuctionId) -> Result<bool, BackendError> {
        Ok(self.ask(Command::Close(None)).await?.state.outcome.is_some())
    }

    async fn tick(&self, tick: &Leased<TimerTick>) -> Result<(), BackendError> {
        self.endpoint.while_frozen().await;
        lock(&self.endpoint.outside).ticks.push(tick.clone());
        Ok(())
    }

    fn token(&self) -> Option<u64> {
        lock(&self.endpoint.outside).elected.filter(|(nth, _)| *nth == self.nth).map(|(_, token)| token)
    }

    fn now(&self) -> Millis {
        self.endpoint.measured_now()
    }
}
