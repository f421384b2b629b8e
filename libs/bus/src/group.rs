//! Group commit: records of many auctions share one synced write.
//!
//! The stream syncs each message, one after the other, and so takes some thousand a second whatever is in flight. A
//! batch is synced once, but the server makes a store of its own for it, which takes as long as [`MIN_BATCH`] messages.
//! Records that arrive while [`MAX_UNDER_WAY`] appends are under way wait, and go together as soon as one of these is
//! done, as a batch if they are enough for one; a quiet log therefore sees single appends, without a wait. Each record
//! keeps the compare-and-set of its own subject. One that is not expected there refuses its whole batch, and then every
//! record is appended by itself, so that each caller learns the outcome of its own.
//!
//! An append whose acknowledgement is lost holds up no other auction: after [`YIELD_AFTER`] it counts as under way no
//! longer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::Log;
use crate::append::{AppendError, BatchError, Unsent};

/// Appends and batches that are under way at once: while one is synced, the next is on its way.
const MAX_UNDER_WAY: usize = 2;
/// Fewest records of a batch. On nats-server 2.12, synced, a batch took 3.2 ms and 0.03 ms for each of its records of
/// 1.4 KB; appends that did not wait for each other took 0.26 ms each.
const MIN_BATCH: usize = 12;
/// Most records of a batch. The server takes 1,000; fewer keep the wait of the last one short.
const MAX_BATCH: usize = 128;
/// Time after which an append no longer keeps others waiting. Ten times that of a large batch on a busy machine.
const YIELD_AFTER: Duration = Duration::from_millis(50);

/// Writes to the stream: the log, or in tests a stand-in with given answers.
pub(crate) trait Writer: Clone + Send + Sync + 'static {
    /// The appends of this process.
    fn group(&self) -> &Group;

    /// See [`Log::append_one`].
    fn append_one(&self, unsent: Unsent) -> impl Future<Output = Result<u64, AppendError>> + Send;

    /// See [`Log::append_batch`].
    fn append_batch(&self, batch: &[Unsent]) -> impl Future<Output = Result<u64, BatchError>> + Send;
}

impl Writer for Log {
    fn group(&self) -> &Group {
        &self.group
    }

    async fn append_one(&self, unsent: Unsent) -> Result<u64, AppendError> {
        Self::append_one(self, unsent).await
    }

    async fn append_batch(&self, batch: &[Unsent]) -> Result<u64, BatchError> {
        Self::append_batch(self, batch).await
    }
}

/// A record that waits for its batch. There are at most as many as auctions are decided in this process, because each
/// waits for its last append.
struct Waiting {
    unsent: Unsent,
    answer: oneshot::Sender<Result<u64, AppendError>>,
}

#[derive(Default)]
struct State {
    under_way: usize,
    waiting: VecDeque<Waiting>,
}

/// The appends of one process.
#[derive(Default)]
pub(crate) struct Group(Mutex<State>);

impl Group {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the appends under way. Dropped, it takes what waits with it, in a task of its own: a caller may give up
/// in the middle of an append.
struct Turn<W: Writer> {
    log: W,
    is_over: bool,
}

impl<W: Writer> Turn<W> {
    /// The next records to append. None ends the turn.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        let mut state = self.log.group().state();
        // A record whose caller has given up is not sent: no call waits for its outcome.
        state.waiting.retain(|waiting| !waiting.answer.is_closed());
        if state.waiting.is_empty() {
            state.under_way -= 1;
            self.is_over = true;
            return None;
        }
        let count = state.waiting.len().min(MAX_BATCH);
        Some(state.waiting.drain(..count).collect())
    }

    async fn take_all(mut self) {
        while let Some(batch) = self.next() {
            let appending = tokio::spawn(append_together(self.log.clone(), batch));
            // A slow batch goes on by itself. If it panics, its callers learn that the outcome is unknown.
            drop(timeout(YIELD_AFTER, appending).await);
        }
    }
}

impl<W: Writer> Drop for Turn<W> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut state = self.log.group().state();
        // Without a runtime the process ends.
        let runtime = tokio::runtime::Handle::try_current().ok().filter(|_| !state.waiting.is_empty());
        match runtime {
            Some(runtime) => {
                let next = Self { log: self.log.clone(), is_over: false };
                drop(runtime.spawn(next.take_all()));
            }
            None => state.under_way -= 1,
        }
    }
}

/// Appends a record: at once if little is under way, otherwise together with others that wait.
pub(crate) async fn append<W: Writer>(log: &W, unsent: Unsent) -> Result<u64, AppendError> {
    let waiting = {
        let mut state = log.group().state();
        if state.under_way < MAX_UNDER_WAY {
            state.under_way += 1;
            Err(unsent)
        } else {
            let (answer, answered) = oneshot::channel();
            state.waiting.push_back(Waiting { unsent, answer });
            Ok(answered)
        }
    };
    match waiting {
        Err(unsent) => {
            let turn = Turn { log: log.clone(), is_over: false };
            let mut appending = std::pin::pin!(log.append_one(unsent));
            if let Ok(appended) = timeout(YIELD_AFTER, &mut appending).await {
                return appended;
            }
            drop(turn);
            appending.await
        }
        Ok(answered) => answered.await.unwrap_or_else(|closed| Err(AppendError::Unknown(closed.into()))),
    }
}

/// Appends these records in one batch, or each by itself if they are few or the log refuses the batch. A caller that has
/// given up takes no answer.
async fn append_together(log: impl Writer, batch: Vec<Waiting>) {
    let (unsent, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|waiting| (waiting.unsent, waiting.answer)).unzip();
    if unsent.len() >= MIN_BATCH {
        match log.append_batch(&unsent).await {
            Ok(last) => {
                let first = last + 1 - unsent.len() as u64;
                for (answer, stream_seq) in answers.into_iter().zip(first..) {
                    let _ = answer.send(Ok(stream_seq));
                }
                return;
            }
            Err(error @ BatchError::Refused { .. }) => {
                tracing::debug!(records = unsent.len(), error = %errors::chain(&error), "will append one by one");
            }
            Err(error @ BatchError::Unknown(_)) => {
                let error = Arc::new(error);
                for answer in answers {
                    let _ = answer.send(Err(AppendError::Unknown(Arc::clone(&error).into())));
                }
                return;
            }
        }
    }
    join_all(unsent.into_iter().zip(answers).map(async |(unsent, answer)| {
        let _ = answer.send(log.append_one(unsent).await);
    }))
    .await;
}

#[cfg(test)]
mod tests;
