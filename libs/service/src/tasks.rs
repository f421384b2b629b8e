//! The tasks of one service: all live until the stop, and a dead one fails the service.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::Stop;

/// From the stop to the end of every task; what is left then is dropped.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);

#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    #[error("the task {0} ended before it was asked to")]
    EndedEarly(&'static str),
    #[error("a task panicked")]
    Panicked(#[source] tokio::task::JoinError),
    #[error("{task} failed: {source}")]
    Failed { task: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
}

type Outcome = (&'static str, Result<(), Box<dyn std::error::Error + Send + Sync>>);

/// Runs tasks until the stop, then until they are through or the drain is over.
pub struct Tasks {
    set: JoinSet<Outcome>,
    stop: Stop,
}

impl Tasks {
    #[must_use]
    pub fn new(stop: &Stop) -> Self {
        Self { set: JoinSet::new(), stop: stop.clone() }
    }

    /// A task that finishes by itself once the stop is asked for.
    pub fn spawn<E>(&mut self, name: &'static str, task: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.set.spawn(async move { (name, task.await.map_err(Into::into)) });
    }

    /// A task that knows no stop: it is dropped when the stop is asked for.
    pub fn background(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.set.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => (name, Ok(())),
                () = task => (name, Err(Box::from("it has nothing left to do"))),
            }
        });
    }

    /// Waits for the stop, then for the tasks.
    ///
    /// # Errors
    /// When a task failed, panicked or ended before the stop: the others are asked to stop then.
    pub async fn run(mut self) -> Result<(), TaskError> {
        let first = tokio::select! {
            () = self.stop.cancelled() => Ok(()),
            Some(joined) = self.set.join_next() => match read(joined) {
                Err(error) => Err(error),
                // The stop may come while a task that has already heard of it ends.
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
            tracing::warn!("tasks were still running at the end of the drain");
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
        tasks.run().await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_dead_task_fails_the_service_and_stops_the_rest() {
        assert_eq!(
            outcome(async { Ok(()) }, Stop::new()).await.unwrap_err(),
            "the task task ended before it was asked to"
        );
        assert_eq!(outcome(async { Err("no".to_owned()) }, Stop::new()).await.unwrap_err(), "task failed: no");
        assert_eq!(outcome(async { panic!("as tested") }, Stop::new()).await.unwrap_err(), "a task panicked");
    }

    #[tokio::test]
    async fn a_stop_ends_all_tasks() {
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
