//! Tables of people that auction-management owns, read from it in pages and followed: names, and limits.

use std::time::Duration;

use domain::UserId;
use futures_util::StreamExt;
use protocol::{Failure, MAX_LIMITS_IN_PAGE, MAX_NAMES_IN_PAGE, NamesRequest, Person, PersonLimit, Reply, subject};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{Bus, RequestError, request};

/// Time limit of one page.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Time that a starting service waits for a table, so that it knows it before its first request. It starts without
/// it if auction-management is away.
const START_WITHIN: Duration = Duration::from_secs(1);
/// Pause while no instance of auction-management runs. The question costs next to nothing.
const ABSENT_PAUSE: Duration = Duration::from_millis(20);
/// Pause after the first failed reading. It doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause. PostgreSQL may be away for hours.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Interval between two looks whether the connection has changed: then changes may have been missed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pages of one reading: more rows than any receiver keeps.
const MAX_PAGES: usize = 1_000;

#[derive(Debug, thiserror::Error)]
enum TableError {
    #[error("failed to ask for a page")]
    Request(#[from] RequestError),
    #[error("a page was refused")]
    Refused(#[from] Failure),
    #[error("the table has too many rows")]
    TooMany,
}

/// A table of people: the request for a page of it, the subject of its changes, and the size of a page.
struct Table<T> {
    pages: &'static str,
    changes: &'static str,
    max_rows_in_page: usize,
    person: fn(&T) -> UserId,
}

/// Reports names to `learn`: each as it is given, and all of them after each connection. `set_complete` gets true once
/// all have been reported, and false when some may have been missed. Returns when all have been reported, or after a
/// second; the future goes on for ever.
///
/// # Errors
/// When NATS rejects the subscription.
pub async fn follow_names(
    bus: &Bus,
    learn: impl Fn(Vec<Person>) + Send + Sync + 'static,
    set_complete: impl Fn(bool) + Send + Sync + 'static,
) -> Result<impl Future<Output = ()> + Send + 'static, async_nats::SubscribeError> {
    let table = Table {
        pages: subject::USERS_NAMES,
        changes: subject::USERS_NAMED,
        max_rows_in_page: MAX_NAMES_IN_PAGE,
        person: |named: &Person| named.user_id,
    };
    follow(bus, table, learn, set_complete).await
}

/// Reports the limits of people who have one of their own, and each change, as [`follow_names`] does names. A person who
/// is not reported between false and true has none.
///
/// # Errors
/// When NATS rejects the subscription.
pub async fn follow_limits(
    bus: &Bus,
    learn: impl Fn(Vec<PersonLimit>) + Send + Sync + 'static,
    set_complete: impl Fn(bool) + Send + Sync + 'static,
) -> Result<impl Future<Output = ()> + Send + 'static, async_nats::SubscribeError> {
    let table = Table {
        pages: subject::USERS_LIMITS,
        changes: subject::USERS_LIMITED,
        max_rows_in_page: MAX_LIMITS_IN_PAGE,
        person: |limit: &PersonLimit| limit.user_id,
    };
    follow(bus, table, learn, set_complete).await
}

async fn follow<T: DeserializeOwned + Send + 'static>(
    bus: &Bus,
    table: Table<T>,
    learn: impl Fn(Vec<T>) + Send + Sync + 'static,
    set_complete: impl Fn(bool) + Send + Sync + 'static,
) -> Result<impl Future<Output = ()> + Send + 'static, async_nats::SubscribeError> {
    let mut changes = bus.client.subscribe(table.changes).await?;
    let mut reader = Reader { bus: bus.clone(), table, learn, set_complete, read_over: None, pause: FIRST_PAUSE };
    let first = async {
        while reader.read_over.is_none() {
            let pause = reader.look().await;
            sleep(pause).await;
        }
    };
    // The rest is read in the background.
    drop(timeout(START_WITHIN, first).await);
    Ok(async move {
        let mut look_at = Instant::now();
        loop {
            tokio::select! {
                message = changes.next() => match message.map(|message| serde_json::from_slice(&message.payload)) {
                    Some(Ok(changed)) => (reader.learn)(vec![changed]),
                    Some(Err(error)) => {
                        let subject = reader.table.changes;
                        tracing::warn!(subject, error = %errors::chain(&error), "failed to read a change of a table");
                    }
                    None => return,
                },
                () = sleep_until(look_at) => look_at = Instant::now() + reader.look().await,
            }
        }
    })
}

struct Reader<T, L, C> {
    bus: Bus,
    table: Table<T>,
    learn: L,
    set_complete: C,
    /// The connection over which the table was read to its end.
    read_over: Option<u64>,
    pause: Duration,
}

impl<T: DeserializeOwned, L: Fn(Vec<T>) + Send + Sync, C: Fn(bool) + Send + Sync> Reader<T, L, C> {
    /// Reads the table if changes may have been missed. Returns the time to the next look.
    async fn look(&mut self) -> Duration {
        let connection = self.bus.connection();
        if connection.is_some() && connection == self.read_over {
            return LOOK_EVERY;
        }
        (self.set_complete)(false);
        match self.read_all().await {
            Ok(()) => {
                (self.set_complete)(true);
                (self.read_over, self.pause) = (connection, FIRST_PAUSE);
                Duration::ZERO
            }
            Err(TableError::Request(RequestError::NoResponder)) => ABSENT_PAUSE,
            Err(error) => {
                let subject = self.table.pages;
                tracing::debug!(subject, error = %errors::chain(&error), "failed to read a table; will retry");
                let pause = self.pause;
                self.pause = (pause * 2).min(MAX_PAUSE);
                pause
            }
        }
    }

    async fn read_all(&self) -> Result<(), TableError> {
        let mut after: Option<UserId> = None;
        for _ in 0..MAX_PAGES {
            let question = NamesRequest { after };
            let reply: Reply<Vec<T>> = request(&self.bus, self.table.pages, &question, TIMEOUT).await?;
            let rows = reply.into_result()?;
            let is_last = rows.len() < self.table.max_rows_in_page;
            after = rows.last().map(self.table.person);
            (self.learn)(rows);
            if is_last {
                return Ok(());
            }
        }
        Err(TableError::TooMany)
    }
}
