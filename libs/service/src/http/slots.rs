//! The HTTP connections of one listener: how many there may be, and which one gives way when all slots are taken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Connections beyond the limit, while no connection can be closed in their favour: they get `/health`, `/ready` and
/// `/metrics`, or one rejection. Enough for the checks of an orchestrator behind a crowd.
const RESERVED: usize = 64;
/// Time for a connection that gives way to free its slot. Its task only has to be scheduled.
const GIVES_WAY_WITHIN: Duration = Duration::from_millis(100);

/// Connections that no handler works for now, the longest first.
#[derive(Default)]
struct Idle {
    next: u64,
    connections: BTreeMap<u64, Arc<Notify>>,
}

/// The slots of one listener.
pub(super) struct Slots {
    regular: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
    idle: Arc<Mutex<Idle>>,
}

/// The slot of one connection. Dropping it frees the slot.
pub(super) struct Slot {
    /// Whether the connection is beyond the limit.
    pub is_reserved: bool,
    _permit: OwnedSemaphorePermit,
    idle: Arc<Mutex<Idle>>,
    /// The place among the idle connections; None while a handler works for this one.
    place: Mutex<Option<u64>>,
    gives_way: Arc<Notify>,
}

impl Slots {
    pub(super) fn new(max_connections: usize) -> Self {
        Self {
            regular: Arc::new(Semaphore::new(max_connections)),
            reserved: Arc::new(Semaphore::new(RESERVED)),
            idle: Arc::default(),
        }
    }

    /// Waits for a slot. If all are taken, the connection that has been idle for longest gives way.
    pub(super) async fn take(&self) -> Slot {
        if let Ok(permit) = Arc::clone(&self.regular).try_acquire_owned() {
            return self.slot(permit, false);
        }
        let regular = Arc::clone(&self.regular).acquire_owned();
        if self.give_way()
            && let Ok(Ok(permit)) = tokio::time::timeout(GIVES_WAY_WITHIN, regular).await
        {
            return self.slot(permit, false);
        }
        let (permit, is_reserved) = tokio::select! {
            biased;
            permit = Arc::clone(&self.regular).acquire_owned() => (permit, false),
            permit = Arc::clone(&self.reserved).acquire_owned() => (permit, true),
        };
        match permit {
            Ok(permit) => self.slot(permit, is_reserved),
            // The semaphores are never closed.
            Err(_) => std::future::pending().await,
        }
    }

    fn slot(&self, permit: OwnedSemaphorePermit, is_reserved: bool) -> Slot {
        let slot = Slot {
            is_reserved,
            _permit: permit,
            idle: Arc::clone(&self.idle),
            place: Mutex::default(),
            gives_way: Arc::default(),
        };
        slot.idle();
        slot
    }

    /// Asks the connection that has been idle for longest to close. False if none is idle.
    fn give_way(&self) -> bool {
        let oldest = lock(&self.idle).connections.pop_first();
        oldest.is_some_and(|(_, connection)| {
            connection.notify_one();
            true
        })
    }
}

impl Slot {
    /// No handler works for this connection from now on.
    pub(super) fn idle(&self) {
        self.busy();
        let mut place = lock(&self.place);
        let mut idle = lock(&self.idle);
        idle.next += 1;
        let next = idle.next;
        idle.connections.insert(next, Arc::clone(&self.gives_way));
        *place = Some(next);
    }

    /// A handler begins to work for this connection.
    pub(super) fn busy(&self) {
        let place = lock(&self.place).take();
        if let Some(place) = place {
            lock(&self.idle).connections.remove(&place);
        }
    }

    /// Completes when this connection must give way.
    pub(super) async fn gives_way(&self) {
        self.gives_way.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.busy();
    }
}

/// A poisoned lock is still used: each change under it is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn longest_idle_connection_gives_way() {
        let slots = Slots::new(2);
        let (first, second) = (slots.take().await, slots.take().await);
        // The first is younger among the idle now.
        first.busy();
        first.idle();
        let third = tokio::join!(slots.take(), async {
            second.gives_way().await;
            drop(second);
        });
        assert!(!third.0.is_reserved);
        assert!(first.gives_way().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn connection_at_work_keeps_its_slot_and_the_next_is_reserved() {
        let slots = Slots::new(1);
        let first = slots.take().await;
        first.busy();
        assert!(slots.take().await.is_reserved);
        assert!(first.gives_way().now_or_never().is_none());
        drop(first);
        assert!(!slots.take().await.is_reserved);
    }
}
