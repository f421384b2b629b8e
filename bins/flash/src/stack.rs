//! A whole system: servers, what they need, services. Used by `up` and by the tests alike.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use service::Environment;
use testkit::{Servers, Shape, install};

use crate::issuer::{self, Issuer, Keys};
use crate::prepare::{Prepared, prepare};
use crate::services::stop_all;
pub use crate::services::{Instance, Name};
use crate::stack_file;

/// Where the services listen.
#[derive(Debug, Clone, Copy)]
pub enum Ports {
    /// N, N+1, …: see [`Name::port_offset`].
    Base(u16),
    /// Wherever there is room.
    Free,
}

#[derive(Debug, Clone)]
pub struct Options {
    /// Data and logs.
    pub directory: PathBuf,
    /// The Python environment.
    pub tools: PathBuf,
    pub ports: Ports,
    pub instances: BTreeMap<Name, usize>,
    /// Each service in a process of its own, which runs this program (`flash`).
    pub processes: Option<PathBuf>,
    /// How many servers.
    pub shape: Shape,
    /// Settings beyond those that follow from the servers.
    pub settings: Vec<(String, String)>,
}

/// Attempts to bring a killed instance up again.
const RESTART_ATTEMPTS: u32 = 5;

/// A port that somebody else listens on.
#[derive(Debug, thiserror::Error)]
#[error("port {port} for {service} is taken; free it or choose others with --port-base")]
pub struct PortTaken {
    pub port: u16,
    pub service: &'static str,
}

pub struct Stack {
    pub servers: Servers,
    pub instances: Vec<Instance>,
    pub issuer: Issuer,
    pub prepared: Prepared,
    /// What tokens are verified with.
    pub keys: Keys,
    environment: Environment,
    options: Options,
}

impl Stack {
    /// Starts everything and waits until every service is ready. `say` is told of long steps.
    ///
    /// # Errors
    /// What could not be started, and why. Whatever was started is gone then.
    pub async fn start(options: Options, say: &(dyn Fn(&str) + Sync)) -> Result<Self> {
        let sockets = sockets(&options)?;
        let programs = install::ensure(&options.tools, say)?;
        std::fs::create_dir_all(&options.directory)?;
        say("starting nats-server, redis-server, PostgreSQL and the AWS emulator");
        let servers = Servers::start(&programs, &options.directory, options.shape).await?;
        let prepared = Box::pin(prepare(&servers)).await?;
        let key = issuer::development_key(&options.directory)?;
        let keys = Keys::serve(&prepared.pool_keys, &key).await?;
        let environment = environment(&servers, &prepared, &keys.url(), &options.settings);
        let issuer = Issuer { issuer: prepared.issuer.clone(), client_id: prepared.client_id.clone(), key };
        let mut stack = Self { servers, instances: Vec::new(), issuer, prepared, keys, environment, options };
        say("starting the services");
        for (name, socket) in sockets {
            stack.start_instance(name, socket, &[])?;
        }
        for instance in &mut stack.instances {
            instance.wait_ready().await?;
        }
        Ok(stack)
    }

    fn start_instance(&mut self, name: Name, socket: TcpListener, settings: &[(String, String)]) -> Result<()> {
        let mut environment = self.environment.clone();
        for (setting, value) in settings {
            environment.set(setting, value.clone());
        }
        let logs = self.options.directory.join("logs");
        let processes = self.options.processes.as_deref().map(|program| (program, logs.as_path()));
        let mut instance = Instance::start(name, socket, &environment, processes)?;
        instance.settings = settings.to_vec();
        self.instances.push(instance);
        Ok(())
    }

    /// Starts one more instance of a service on a free port and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_instance(&mut self, name: Name) -> Result<()> {
        self.add_instance_with(name, &[]).await
    }

    /// As [`Stack::add_instance`], with settings that differ from the others'.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_instance_with(&mut self, name: Name, settings: &[(&str, String)]) -> Result<()> {
        let settings: Vec<_> = settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let settings = settings.as_slice();
        self.start_instance(name, TcpListener::bind(("127.0.0.1", 0))?, settings)?;
        self.instances.last_mut().context("it was just added")?.wait_ready().await
    }

    /// Starts one more instance that cannot become ready; returns its address.
    ///
    /// # Errors
    /// When it does not start.
    pub fn add_unready_instance(&mut self, name: Name) -> Result<String> {
        self.start_instance(name, TcpListener::bind(("127.0.0.1", 0))?, &[])?;
        Ok(self.instances.last().context("it was just added")?.url.clone())
    }

    /// From now on instances run this program: another version.
    pub fn run_from_now_on(&mut self, program: PathBuf) {
        self.options.processes = Some(program);
    }

    /// Kills the `nth` instance of a service where it stands.
    ///
    /// # Errors
    /// When there is none.
    pub async fn kill_instance(&mut self, name: Name, nth: usize) -> Result<()> {
        self.take_instance(name, nth)?.kill().await;
        Ok(())
    }

    /// Stops the `nth` instance of a service as a deploy does, and starts a new one under its address.
    /// Returns how long the stop took.
    ///
    /// # Errors
    /// When there is none, it did not end cleanly in time, or the new one does not start.
    pub async fn restart_instance(&mut self, name: Name, nth: usize) -> Result<Duration> {
        let instance = self.take_instance(name, nth)?;
        let (address, asked) = (instance.url.trim_start_matches("http://").to_owned(), Instant::now());
        let settings = instance.settings.clone();
        ensure!(instance.stop().await, "{} did not end cleanly within {:?}", name.text(), asked.elapsed());
        let took = asked.elapsed();
        self.start_instance(name, TcpListener::bind(&address)?, &settings)?;
        self.instances.last_mut().context("it was just added")?.wait_ready().await?;
        Ok(took)
    }

    /// Kills the `nth` instance of a service and starts a new one under its address, as a scheduler does:
    /// again if it does not come up, because something that it needs is away.
    ///
    /// # Errors
    /// When there is none, or it does not come up in any attempt.
    pub async fn kill_and_restart_instance(&mut self, name: Name, nth: usize) -> Result<()> {
        let mut instance = self.take_instance(name, nth)?;
        for _ in 0..RESTART_ATTEMPTS {
            let (address, settings) =
                (instance.url.trim_start_matches("http://").to_owned(), instance.settings.clone());
            instance.kill().await;
            self.start_instance(name, TcpListener::bind(&address)?, &settings)?;
            if self.instances.last_mut().context("it was just added")?.wait_ready().await.is_ok() {
                return Ok(());
            }
            instance = self.instances.pop().context("it was just added")?;
        }
        anyhow::bail!("{} does not come up", name.text())
    }

    fn take_instance(&mut self, name: Name, nth: usize) -> Result<Instance> {
        let index = self.instances.iter().enumerate().filter(|(_, instance)| instance.name == name).nth(nth);
        let (index, _) = index.context("there is no such instance")?;
        Ok(self.instances.remove(index))
    }

    /// The address of the first instance of a service.
    ///
    /// # Panics
    /// Never: a stack has every service.
    #[must_use]
    pub fn url(&self, name: Name) -> &str {
        self.urls(name)[0]
    }

    /// The addresses of all instances of a service.
    #[must_use]
    pub fn urls(&self, name: Name) -> Vec<&str> {
        self.instances.iter().filter(|instance| instance.name == name).map(|instance| instance.url.as_str()).collect()
    }

    /// Writes `stack.json`, which tells scripts about this stack.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_file(&self) -> Result<()> {
        stack_file::write(&self.options.directory, &stack_file::describe(self))
    }

    /// Returns when one of the services has ended by itself.
    pub async fn watch(&mut self) -> anyhow::Error {
        loop {
            for instance in &mut self.instances {
                if let Err(error) = instance.check().await {
                    return error;
                }
            }
            for server in self.servers.processes() {
                if let Err(error) = server.check() {
                    return error;
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Ends everything in order: services first, then servers.
    pub async fn stop(mut self) {
        stop_all(self.instances).await;
        self.keys.stop().await;
        let servers = self.servers;
        if let Err(error) = tokio::task::spawn_blocking(move || servers.stop()).await {
            tracing::warn!(%error, "the servers could not be stopped in order");
        }
        stack_file::remove(&self.options.directory);
    }
}

/// All sockets, before anything is started: a taken port is the commonest mistake.
fn sockets(options: &Options) -> Result<Vec<(Name, TcpListener)>> {
    let mut sockets = Vec::new();
    for name in Name::ALL {
        for nth in 0..options.instances.get(&name).copied().unwrap_or(1) {
            // The first instance has the port that is written everywhere; the others any.
            let port = match options.ports {
                Ports::Base(base) if nth == 0 => base + name.port_offset(),
                Ports::Base(_) | Ports::Free => 0,
            };
            let socket =
                TcpListener::bind(("127.0.0.1", port)).map_err(|_| PortTaken { port, service: name.text() })?;
            sockets.push((name, socket));
        }
    }
    Ok(sockets)
}

fn environment(servers: &Servers, prepared: &Prepared, jwks_url: &str, settings: &[(String, String)]) -> Environment {
    let (key_id, secret) = servers.aws_credentials();
    let mut environment = Environment::of_process();
    for (name, value) in [
        ("DATABASE_URL", servers.postgres_url().as_str()),
        ("REDIS_URL", &servers.redis_url()),
        ("NATS_URL", &servers.nats_url()),
        ("NATS_CREDS", ""),
        ("AWS_REGION", servers.aws_region()),
        ("AWS_ENDPOINT_URL", &servers.aws_endpoint()),
        ("AWS_ACCESS_KEY_ID", key_id),
        ("AWS_SECRET_ACCESS_KEY", secret),
        ("COGNITO_REGION", servers.aws_region()),
        ("COGNITO_USER_POOL_ID", &prepared.user_pool_id),
        ("COGNITO_APP_CLIENT_ID", &prepared.client_id),
        ("COGNITO_ISSUER", &prepared.issuer),
        ("JWKS_URL", jwks_url),
        ("SQS_NOTIFICATION_QUEUE_URL", &prepared.notification_queue_url),
        ("DYNAMODB_BIDS_TABLE", prepared.bids_table),
        ("NOTIFY_FROM_EMAIL", prepared.from_email),
    ] {
        environment.set(name, value);
    }
    for (name, value) in settings {
        environment.set(name, value.clone());
    }
    environment
}
