//! A running instance of a service, in this process or in one of its own.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use service::{Environment, Listen, Stop};
use testkit::{Process, Signal};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::services::Name;

enum Running {
    InThisProcess { stop: Stop, task: JoinHandle<Result<()>> },
    AsProcess(Box<Process>),
}

/// One running instance of a service.
pub struct Instance {
    /// The service.
    pub name: Name,
    /// Its address.
    pub url: String,
    /// Where it serves `/ready` and `/metrics`: its own address, unless `OPERATIONS_ADDRESS` moves them.
    pub operations: String,
    /// Settings that differ from those of the other instances.
    pub settings: Vec<(String, String)>,
    running: Running,
}

/// Time from the start of an instance until it must be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// Interval between two checks of its readiness.
const POLL: Duration = Duration::from_millis(20);
/// Time that one half of the services get to drain. Both halves and the servers together stay below the 10 s
/// that Ctrl-C promises.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(3_500);

impl Instance {
    /// Starts an instance on a socket that is bound already: in this process, or in one of its own if a program
    /// and a directory for its log are given.
    pub fn start(
        name: Name,
        listener: TcpListener,
        environment: &Environment,
        processes: Option<(&Path, &Path)>,
    ) -> Result<Self> {
        let address = listener.local_addr()?;
        let has_certificate = environment.iter().any(|(name, value)| name == "TLS_CERT_FILE" && !value.is_empty());
        let url = format!("{}://{address}", if has_certificate { "https" } else { "http" });
        let apart = environment.iter().find(|(name, value)| *name == "OPERATIONS_ADDRESS" && !value.is_empty());
        let operations = apart.map_or_else(|| url.clone(), |(_, address)| format!("http://{address}"));
        let running = match processes {
            None => {
                let stop = Stop::new();
                let task = name.spawn(environment, Listen::Bound(Arc::new(listener)), stop.clone())?;
                Running::InThisProcess { stop, task }
            }
            Some((program, logs)) => {
                drop(listener);
                let mut command = std::process::Command::new(program);
                command
                    .arg("service")
                    .arg(name.text())
                    .envs(environment.iter())
                    .env("LISTEN_ADDRESS", address.to_string());
                let log = logs.join(format!("{}-{}.log", name.text(), address.port()));
                Running::AsProcess(Box::new(Process::start(name.text(), &command, None, Signal::Terminate, &log)?))
            }
        };
        Ok(Self { name, url, operations, settings: Vec::new(), running })
    }

    /// Sends a signal to its process.
    ///
    /// # Errors
    /// When the process has ended, or the instance runs in this process.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match &self.running {
            Running::InThisProcess { .. } => bail!("{} runs in this process", self.name.text()),
            Running::AsProcess(process) => process.signal(signal),
        }
    }

    /// The id of the process that it runs in.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match &self.running {
            Running::InThisProcess { .. } => std::process::id(),
            Running::AsProcess(process) => process.pid(),
        }
    }

    /// Fails if the instance has ended.
    pub async fn check(&mut self) -> Result<()> {
        match &mut self.running {
            Running::AsProcess(process) => process.check(),
            Running::InThisProcess { task, .. } if task.is_finished() => {
                task.await?.with_context(|| self.name.text())?;
                bail!("{} ended by itself", self.name.text())
            }
            Running::InThisProcess { .. } => Ok(()),
        }
    }

    /// Waits until it is ready.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let url = format!("{}/ready", self.operations);
        loop {
            self.check().await?;
            match testkit::http::get(&url, None).await {
                Ok(reply) if reply.status == 200 => return Ok(()),
                Ok(reply) if Instant::now() > deadline => bail!("{} is not ready: {}", self.name.text(), reply.text),
                Err(error) if Instant::now() > deadline => return Err(error),
                Ok(_) | Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Kills its process, or drops the service in the middle of its work if it runs in this one.
    pub async fn kill(self) {
        match self.running {
            Running::InThisProcess { task, .. } => {
                task.abort();
                drop(task.await);
            }
            Running::AsProcess(mut process) => process.kill(),
        }
    }

    /// Stops it as a deployment does. True if it drained in time and succeeded.
    pub async fn stop(self) -> bool {
        self.stop_within(DRAIN_TIMEOUT).await
    }

    /// As [`Instance::stop`]. After `patience` it is killed.
    pub async fn stop_within(self, patience: Duration) -> bool {
        let name = self.name.text();
        match self.running {
            Running::InThisProcess { stop, task } => {
                stop.cancel();
                match tokio::time::timeout(patience, task).await {
                    Ok(Ok(Ok(()))) => return true,
                    Ok(Ok(Err(error))) => tracing::warn!(
                        service = name,
                        error = format!("{error:#}"),
                        "the service failed while it stopped"
                    ),
                    Ok(Err(error)) => {
                        tracing::warn!(service = name, error = %errors::chain(&error), "the service panicked")
                    }
                    Err(_) => tracing::warn!(service = name, "the service did not drain in time"),
                }
                false
            }
            Running::AsProcess(mut process) => {
                let stopped = tokio::task::spawn_blocking(move || process.stop(Signal::Terminate, patience));
                let clean = stopped.await.unwrap_or(false);
                if !clean {
                    tracing::warn!(service = name, "the process did not stop cleanly");
                }
                clean
            }
        }
    }
}

/// Stops all instances in order.
pub async fn stop_all(instances: Vec<Instance>) {
    let (first, last): (Vec<_>, Vec<_>) = instances.into_iter().partition(|instance| instance.name.ends_first());
    for half in [first, last] {
        let stops: Vec<_> = half.into_iter().map(|instance| tokio::spawn(instance.stop())).collect();
        for stop in stops {
            drop(stop.await);
        }
    }
}
