//! The names of the table of users, read from auction-management and followed.

use std::time::Duration;

use domain::UserId;
use futures_util::StreamExt;
use protocol::{Failure, MAX_NAMES_IN_PAGE, NamesRequest, Person, Reply, subject};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{Bus, RequestError, request};

/// Time limit of one page.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Time that a starting service waits for the names, so that it knows them before its first request. It starts without
/// them if auction-management is away.
const START_WITHIN: Duration = Duration::from_secs(1);
/// Pause while no instance of auction-management runs. The question costs next to nothing.
const ABSENT_PAUSE: Duration = Duration::from_millis(20);
/// Pause after the first failed reading. It doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause. PostgreSQL may be away for hours.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Interval between two looks whether the connection has changed: then names may have been missed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pages of one reading: more names than any receiver keeps.
const MAX_PAGES: usize = 1_000;

#[derive(Debug, thiserror::Error)]
enum NamesError {
    #[error("failed to ask for names")]
    Request(#[from] RequestError),
    #[error("names were refused")]
    Refused(#[from] Failure),
    #[error("the table has too many names")]
    TooMany,
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
    let mut named = bus.client.subscribe(subject::USERS_NAMED).await?;
    let mut reader = Reader { bus: bus.clone(), learn, set_complete, read_over: None, pause: FIRST_PAUSE };
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
                message = named.next() => match message.map(|message| serde_json::from_slice(&message.payload)) {
                    Some(Ok(person)) => (reader.learn)(vec![person]),
                    Some(Err(error)) => tracing::warn!(error = %errors::chain(&error), "failed to read a name"),
                    None => return,
                },
                () = sleep_until(look_at) => look_at = Instant::now() + reader.look().await,
            }
        }
    })
}

struct Reader<L, C> {
    bus: Bus,
    learn: L,
    set_complete: C,
    /// The connection over which the table was read to its end.
    read_over: Option<u64>,
    pause: Duration,
}

impl<L: Fn(Vec<Person>) + Send + Sync, C: Fn(bool) + Send + Sync> Reader<L, C> {
    /// Reads the table if names may have been missed. Returns the time to the next look.
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
            Err(NamesError::Request(RequestError::NoResponder)) => ABSENT_PAUSE,
            Err(error) => {
                tracing::debug!(error = %errors::chain(&error), "failed to read names; will retry");
                let pause = self.pause;
                self.pause = (pause * 2).min(MAX_PAUSE);
                pause
            }
        }
    }

    async fn read_all(&self) -> Result<(), NamesError> {
        let mut after: Option<UserId> = None;
        for _ in 0..MAX_PAGES {
            let question = NamesRequest { after };
            let reply: Reply<Vec<Person>> = request(&self.bus, subject::USERS_NAMES, &question, TIMEOUT).await?;
            let people = reply.into_result()?;
            let is_last = people.len() < MAX_NAMES_IN_PAGE;
            after = people.last().map(|person| person.user_id);
            (self.learn)(people);
            if is_last {
                return Ok(());
            }
        }
        Err(NamesError::TooMany)
    }
}
