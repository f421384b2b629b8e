//! The tasks of one service: all run until the stop, and one that ends earlier fails the service.

use std::time::Duration;

use errors::BoxError;
use tokio::task::JoinSet;

use crate::Stop;

/// Time limit from the stop to the end of every task. Tasks that still run then are dropped.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);

/// Why a service failed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A task returned although the service was not asked to stop.
    #[error("the task {0:?} ended before the stop")]
    EndedEarly(&'static str),
    /// A task panicked.
    #[error("a task panicked")]
    Panicked(#[source] tokio::task::JoinError),
    /// A task returned an error.
    #[error("the task {task:?} failed")]
    Failed {
        /// The task's name.
        task: &'static str,
        /// Its error.
        source: BoxError,
    },
}

type Outcome = (&'static str, Result<(), BoxError>);

/// Runs tasks until the stop, then until they have ended or the drain is over.
pub struct Tasks {
    set: JoinSet<Outcome>,
    stop: Stop,
}

impl Tasks {
    /// An empty set of tasks.
    #[must_use]
    pub fn new(stop: &Stop) -> Self {
        Self { set: JoinSet::new(), stop: stop.clone() }
    }

    /// Adds a task that finishes by itself after the stop.
    pub fn spawn<E>(&mut self, name: &'static str, task: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Into<BoxError>,
    {
        self.set.spawn(async move { (name, task.await.map_err(Into::into)) });
    }

    /// Adds a task that does not observe the stop: it is dropped then.
    pub fn background(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.set.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => (name, Ok(())),
                () = task => (name, Err(Box::from("it returned before the stop"))),
            }
        });
    }

    /// Waits for the stop, then for the tasks.
    ///
    /// # Errors
    /// When a task failed, panicked or ended before the stop. The others are stopped then.
    pub async fn run(mut self) -> Result<(), TaskError> {
        let first = tokio::select! {
            () = self.stop.cancelled() => Ok(()),
            Some(joined) = self.set.join_next() => match read(joined) {
                Err(error) => Err(error),
                // A task that observed the stop may end before this select does.
                Ok(_) if self.stop.is_cancelled() => Ok(()),
                Ok(task) => Err(TaskError::EndedEarly(task)),
            },
        };
        self.stop.cancel();
        let drained = tokio::time::timeout(DRAIN_TIMEOUT, async {
            let mut result = first;
            while let Some(joined) = self.set.join_next().await {
                result = result.and(read(joined).map(|_| ()));
            }
            result
        });
        drained.await.unwrap_or_else(|_| {
            tracing::warn!("dropped tasks that were still running at the end of the drain");
            Ok(())
        })
    }
}

fn read(joined: Result<Outcome, tokio::task::JoinError>) -> Result<&'static str, TaskError> {
    match joined {
        Ok((task, Ok(()))) => Ok(task),
        Ok((task, Err(source))) => Err(TaskError::Failed { task, source }),
        Err(error) => Err(TaskError::Panicked(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn outcome(
        task: impl Future<Output = Result<(), String>> + Send + 'static,
        stop: Stop,
    ) -> Result<(), String> {
        let mut tasks = Tasks::new(&stop);
        let other = stop.clone();
        tasks.spawn("other", async move {
            other.cancelled().await;
            Ok::<_, String>(())
        });
        tasks.spawn("task", task);
        tasks.run().await.map_err(|error| errors::chain(&error).to_string())
    }

    #[tokio::test]
    async fn ended_task_fails_the_service_and_stops_the_others() {
        assert_eq!(
            outcome(async { Ok(()) }, Stop::new()).await.unwrap_err(),
            "the task \"task\" ended before the stop"
        );
        assert_eq!(
            outcome(async { Err("no".to_owned()) }, Stop::new()).await.unwrap_err(),
            "the task \"task\" failed: no"
        );
        let panicked = outcome(async { panic!("as tested") }, Stop::new()).await.unwrap_err();
        assert!(panicked.starts_with("a task panicked: "), "{panicked}");
    }

    #[tokio::test]
    async fn stop_ends_all_tasks() {
        let stop = Stop::new();
        stop.cancel();
        let task = stop.clone();
        assert_eq!(
            outcome(
                async move {
                    task.cancelled().await;
                    Ok(())
                },
                stop
            )
            .await,
            Ok(())
        );
    }
}
