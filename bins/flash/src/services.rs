//! The services, in this process or each in its own.

use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use service::{Environment, Listen, Mistakes, Stop};
use testkit::{Process, Signal};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A service of this project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Name {
    AuctionManagement,
    Websocket,
    BidProcessing,
    Timer,
    BidPersistence,
    AuctionNotifications,
}

impl Name {
    pub const ALL: [Self; 6] = [
        Self::AuctionManagement,
        Self::Websocket,
        Self::BidProcessing,
        Self::Timer,
        Self::BidPersistence,
        Self::AuctionNotifications,
    ];

    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::AuctionManagement => auction_management::NAME,
            Self::Websocket => websocket::NAME,
            Self::BidProcessing => bid_processing::NAME,
            Self::Timer => timer::NAME,
            Self::BidPersistence => bid_persistence::NAME,
            Self::AuctionNotifications => auction_notifications::NAME,
        }
    }

    /// Distance of the service's port from the first one. CONTRACT.md, stack.json.
    #[must_use]
    pub const fn port_offset(self) -> u16 {
        match self {
            Self::AuctionManagement => 0,
            Self::Websocket => 1,
            Self::BidProcessing => 2,
            Self::Timer => 3,
            Self::BidPersistence => 1004,
            Self::AuctionNotifications => 1005,
        }
    }

    /// Services that the world talks to end first; those that finish its work end last.
    const fn ends_first(self) -> bool {
        matches!(self, Self::AuctionManagement | Self::Websocket | Self::Timer)
    }

    /// What its own binary does.
    pub fn main(self) -> ExitCode {
        match self {
            Self::AuctionManagement => {
                service::main(self.text(), auction_management::Config::read, auction_management::run)
            }
            Self::Websocket => service::main(self.text(), websocket::Config::read, websocket::run),
            Self::BidProcessing => service::main(self.text(), bid_processing::Config::read, bid_processing::run),
            Self::Timer => service::main(self.text(), timer::Config::read, timer::run),
            Self::BidPersistence => service::main(self.text(), bid_persistence::Config::read, bid_persistence::run),
            Self::AuctionNotifications => {
                service::main(self.text(), auction_notifications::Config::read, auction_notifications::run)
            }
        }
    }

    /// Reads its settings from here and forgets them: [`Environment::asked`] then names them.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn read_settings(self, environment: &Environment) -> Result<(), Mistakes> {
        match self {
            Self::AuctionManagement => auction_management::Config::read(environment).map(drop),
            Self::Websocket => websocket::Config::read(environment).map(drop),
            Self::BidProcessing => bid_processing::Config::read(environment).map(drop),
            Self::Timer => timer::Config::read(environment).map(drop),
            Self::BidPersistence => bid_persistence::Config::read(environment).map(drop),
            Self::AuctionNotifications => auction_notifications::Config::read(environment).map(drop),
        }
    }

    fn spawn(self, environment: &Environment, listen: Listen, stop: Stop) -> Result<JoinHandle<Result<()>>> {
        macro_rules! spawn {
            ($service:ident) => {{
                let mut config = $service::Config::read(environment)?;
                config.listen = listen;
                tokio::spawn($service::run(config, stop))
            }};
        }
        Ok(match self {
            Self::AuctionManagement => spawn!(auction_management),
            Self::Websocket => spawn!(websocket),
            Self::BidProcessing => spawn!(bid_processing),
            Self::Timer => spawn!(timer),
            Self::BidPersistence => spawn!(bid_persistence),
            Self::AuctionNotifications => spawn!(auction_notifications),
        })
    }
}

enum Runs {
    Here { stop: Stop, task: JoinHandle<Result<()>> },
    AsProcess(Box<Process>),
}

/// One running instance.
pub struct Instance {
    pub name: Name,
    pub url: String,
    /// Those that differ from the other instances'.
    pub settings: Vec<(String, String)>,
    runs: Runs,
}

const READY_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
/// For one half of the services to drain; with the servers' time still below the promised 10 s.
const DRAIN_PATIENCE: Duration = Duration::from_millis(3_500);

impl Instance {
    /// Starts an instance on a socket that is bound already: here, or as a process of its own, which runs
    /// the program given with the directory for its log.
    pub fn start(
        name: Name,
        listener: TcpListener,
        environment: &Environment,
        processes: Option<(&Path, &Path)>,
    ) -> Result<Self> {
        let address = listener.local_addr()?;
        let url = format!("http://{address}");
        let runs = match processes {
            None => {
                let stop = Stop::new();
                let task = name.spawn(environment, Listen::Bound(Arc::new(listener)), stop.clone())?;
                Runs::Here { stop, task }
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
                Runs::AsProcess(Box::new(Process::start(name.text(), &command, None, Signal::Terminate, &log)?))
            }
        };
        Ok(Self { name, url, settings: Vec::new(), runs })
    }

    /// Sends a signal to a process of its own.
    ///
    /// # Errors
    /// When it is gone, or runs in this process.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match &self.runs {
            Runs::Here { .. } => bail!("{} runs in this process", self.name.text()),
            Runs::AsProcess(process) => process.signal(signal),
        }
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        match &self.runs {
            Runs::Here { .. } => std::process::id(),
            Runs::AsProcess(process) => process.pid(),
        }
    }

    /// Fails if the instance has ended.
    pub async fn check(&mut self) -> Result<()> {
        match &mut self.runs {
            Runs::AsProcess(process) => process.check(),
            Runs::Here { task, .. } if task.is_finished() => {
                task.await?.with_context(|| self.name.text())?;
                bail!("{} ended", self.name.text())
            }
            Runs::Here { .. } => Ok(()),
        }
    }

    pub async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let url = format!("{}/ready", self.url);
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

    /// Kills a process of its own at once, or drops a service here where it stands.
    pub async fn kill(self) {
        match self.runs {
            Runs::Here { task, .. } => {
                task.abort();
                drop(task.await);
            }
            Runs::AsProcess(mut process) => process.kill(),
        }
    }

    /// Ends it as a deploy does. True if it drained in time, with success.
    pub async fn stop(self) -> bool {
        let name = self.name.text();
        match self.runs {
            Runs::Here { stop, task } => {
                stop.cancel();
                match tokio::time::timeout(DRAIN_PATIENCE, task).await {
                    Ok(Ok(Ok(()))) => return true,
                    Ok(Ok(Err(error))) => tracing::warn!(service = name, %error, "ended with an error"),
                    Ok(Err(error)) => tracing::warn!(service = name, %error, "panicked"),
                    Err(_) => tracing::warn!(service = name, "did not drain in time"),
                }
                false
            }
            Runs::AsProcess(mut process) => {
                let stopped = tokio::task::spawn_blocking(move || process.stop(Signal::Terminate, DRAIN_PATIENCE));
                let clean = stopped.await.unwrap_or(false);
                if !clean {
                    tracing::warn!(service = name, "did not end cleanly");
                }
                clean
            }
        }
    }
}

/// Ends all instances in order.
pub async fn stop_all(instances: Vec<Instance>) {
    let (first, last): (Vec<_>, Vec<_>) = instances.into_iter().partition(|instance| instance.name.ends_first());
    for half in [first, last] {
        let stops: Vec<_> = half.into_iter().map(|instance| tokio::spawn(instance.stop())).collect();
        for stop in stops {
            drop(stop.await);
        }
    }
}
