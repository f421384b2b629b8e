//! A running stack: starts servers and services, replaces instances, stops everything in order.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use protocol::rights;
use serde_json::{Map, Value, json};
use service::Environment;
use testkit::tls::{Flaw, authority_of};
use testkit::{Servers, Topology, install};

use super::description;
use super::instance::{Instance, stop_all};
use super::issuer::{self, Issuer, JwksServer};
use super::prepare::{Prepared, prepare};
use super::services::Name;
use super::sign_in::SignIn;

/// The ports that the services listen on.
#[derive(Debug, Clone, Copy)]
pub enum Ports {
    /// N, N+1, …: see [`Name::port_offset`].
    Base(u16),
    /// Any free ports.
    Free,
}

/// How a stack is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory of its data and logs.
    pub directory: PathBuf,
    /// The directory of the installed tools, such as the Python environment.
    pub tools: PathBuf,
    /// The ports of the services.
    pub ports: Ports,
    /// Instances of a service, if not one.
    pub instances: BTreeMap<Name, usize>,
    /// The program (`flash`) that runs each service in a process of its own; without it all run in this process.
    pub processes: Option<PathBuf>,
    /// Numbers and durability of the servers.
    pub topology: Topology,
    /// Settings in addition to those that follow from the servers.
    pub settings: Vec<(String, String)>,
}

/// Origins of the development servers of pages, as the services allow them by default, by both names of this machine.
const DEVELOPMENT_ORIGINS: &str =
    "http://localhost:3000,http://localhost:5173,http://127.0.0.1:3000,http://127.0.0.1:5173";
/// Interval between two checks that every process still runs.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Attempts to restart a killed instance. A server that it needs may be down.
const RESTART_ATTEMPTS: u32 = 5;

/// Name of the certificate that the services of a stack with TLS show.
pub const LISTENER: &str = "listener";

/// A port that another process listens on.
#[derive(Debug, thiserror::Error)]
#[error("port {port} for {service} is taken; free it or choose others with --port-base")]
pub struct PortTaken {
    /// The port.
    pub port: u16,
    /// The service that was to listen on it.
    pub service: &'static str,
}

/// A running stack. Dropping it kills everything; [`Stack::stop`] ends it in order.
pub struct Stack {
    /// NATS, Redis, PostgreSQL and the AWS emulator.
    pub servers: Servers,
    /// Running instances of all services; the latest started comes last.
    pub instances: Vec<Instance>,
    /// Signs the tokens of its users.
    pub issuer: Issuer,
    /// Names and addresses of everything that was created before the services started.
    pub prepared: Prepared,
    /// Serves the keys that the services verify tokens with.
    pub keys: JwksServer,
    environment: Environment,
    options: Options,
}

impl Stack {
    /// Starts everything and waits until every service is ready. `say` is called before each long step.
    ///
    /// # Errors
    /// The first part that failed to start, and the reason. Everything that was started is stopped again.
    pub async fn start(options: Options, say: &(dyn Fn(&str) + Sync)) -> Result<Self> {
        let sockets = sockets(&options)?;
        let programs = install::ensure(&options.tools, say)?;
        std::fs::create_dir_all(&options.directory)?;
        say("starting nats-server, redis-server, PostgreSQL and the AWS emulator");
        let servers = Servers::start(&programs, &options.directory, options.topology).await?;
        let prepared = Box::pin(prepare(&servers)).await?;
        let key = issuer::development_key(&options.directory)?;
        let issuer = Issuer { issuer: prepared.issuer.clone(), client_id: prepared.client_id.clone(), key };
        let origins = page_origins(&sockets, servers.tls.is_some())?;
        let keys = JwksServer::start(&prepared.pool_keys, SignIn::new(issuer.clone(), origins.clone().into())).await?;
        let mut environment = environment(&servers, &prepared, &keys);
        one_origin(&mut environment, &sockets, servers.tls.is_some(), &origins)?;
        if let Some(tls) = &servers.tls {
            let listener = tls.authority.issue(LISTENER, Flaw::None)?;
            environment.set("TLS_CERT_FILE", listener.cert_file.display().to_string());
            environment.set("TLS_KEY_FILE", listener.key_file.display().to_string());
            environment.set("SERVICES_CA_FILE", tls.authority.ca_file.display().to_string());
        }
        for (name, value) in &options.settings {
            environment.set(name, value.clone());
        }
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
        for (setting, value) in self.logins(name.text()).iter().chain(&self.options.settings).chain(settings) {
            environment.set(setting, value.clone());
        }
        let logs = self.options.directory.join("logs");
        let processes = self.options.processes.as_deref().map(|program| (program, logs.as_path()));
        let mut instance = Instance::start(name, socket, &environment, processes)?;
        instance.settings = settings.to_vec();
        self.instances.push(instance);
        Ok(())
    }

    /// The settings of a service's own logins to the servers.
    fn logins(&self, name: &str) -> [(String, String); 3] {
        let servers = &self.servers;
        [
            ("NATS_URL", servers.nats_url_of(name)),
            ("REDIS_URL", servers.redis_url_of(name).unwrap_or_default()),
            ("DATABASE_URL", servers.postgres_url_of(name).unwrap_or_default()),
        ]
        .map(|(setting, value)| (setting.to_owned(), value))
    }

    /// Starts one more instance of a service on a free port and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_instance(&mut self, name: Name) -> Result<()> {
        self.add_instance_with(name, &[]).await
    }

    /// As [`Stack::add_instance`], with settings that differ from those of the other instances.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_instance_with(&mut self, name: Name, settings: &[(&str, String)]) -> Result<()> {
        let settings: Vec<_> = settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let settings = settings.as_slice();
        self.start_instance(name, testkit::free_listener()?, settings)?;
        self.instances.last_mut().context("no instance was started")?.wait_ready().await
    }

    /// Starts one more instance that cannot become ready; returns its address.
    ///
    /// # Errors
    /// When it does not start.
    pub fn add_unready_instance(&mut self, name: Name) -> Result<String> {
        self.add_unready_instance_with(name, &[])
    }

    /// The same with settings that differ from those of the other instances.
    ///
    /// # Errors
    /// When it does not start.
    pub fn add_unready_instance_with(&mut self, name: Name, settings: &[(String, String)]) -> Result<String> {
        self.start_instance(name, testkit::free_listener()?, settings)?;
        Ok(self.instances.last().context("no instance was started")?.url.clone())
    }

    /// Runs this program, another version, in every instance that is started from now on.
    pub fn use_program(&mut self, program: PathBuf) {
        self.options.processes = Some(program);
    }

    /// Kills the `nth` instance of a service.
    ///
    /// # Errors
    /// When there is no such instance.
    pub async fn kill_instance(&mut self, name: Name, nth: usize) -> Result<()> {
        self.take_instance(name, nth)?.kill().await;
        Ok(())
    }

    /// Stops the `nth` instance of a service as a deployment does.
    ///
    /// # Errors
    /// When there is no such instance, or it does not stop cleanly in time.
    pub async fn stop_instance(&mut self, name: Name, nth: usize) -> Result<()> {
        ensure!(self.take_instance(name, nth)?.stop().await, "{} did not stop cleanly", name.text());
        Ok(())
    }

    /// Stops the `nth` instance of a service as a deployment does, and starts a new one on its address. Returns
    /// the time that the stop took.
    ///
    /// # Errors
    /// When there is no such instance, it does not stop cleanly in time, or the new one does not start.
    pub async fn restart_instance(&mut self, name: Name, nth: usize) -> Result<Duration> {
        let instance = self.take_instance(name, nth)?;
        let (address, asked) = (authority_of(&instance.url).to_owned(), Instant::now());
        let settings = instance.settings.clone();
        ensure!(instance.stop().await, "{} did not stop cleanly within {:?}", name.text(), asked.elapsed());
        let took = asked.elapsed();
        self.start_instance(name, TcpListener::bind(&address)?, &settings)?;
        self.instances.last_mut().context("no instance was started")?.wait_ready().await?;
        Ok(took)
    }

    /// Kills the `nth` instance of a service and starts a new one on its address, as a scheduler does. Repeats the
    /// start if it fails because a server is down.
    ///
    /// # Errors
    /// When there is no such instance, or no attempt succeeds.
    pub async fn kill_and_restart_instance(&mut self, name: Name, nth: usize) -> Result<()> {
        let mut instance = self.take_instance(name, nth)?;
        for _ in 0..RESTART_ATTEMPTS {
            let (address, settings) = (authority_of(&instance.url).to_owned(), instance.settings.clone());
            instance.kill().await;
            // The tasks of a service in this process, one of which listens, are dropped a moment after it.
            let free = async || Ok(TcpListener::bind(&address).ok());
            let listener = testkit::eventually("the address of the killed instance is free", free).await?;
            self.start_instance(name, listener, &settings)?;
            if self.instances.last_mut().context("no instance was started")?.wait_ready().await.is_ok() {
                return Ok(());
            }
            instance = self.instances.pop().context("no instance was started")?;
        }
        anyhow::bail!("{} does not start", name.text())
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

    /// The address of the web page.
    #[must_use]
    pub fn page_url(&self) -> String {
        format!("{}/", self.url(Name::Websocket))
    }

    /// Writes `stack.json`, which describes this stack to scripts and to other commands.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_file(&self) -> Result<()> {
        description::write(&self.options.directory, &self.description())
    }

    /// The content of `stack.json`.
    #[must_use]
    pub fn description(&self) -> Value {
        let servers = &self.servers;
        let mut services = Map::new();
        for name in Name::ALL {
            // The first instance stands for the service.
            if let Some(instance) = self.instances.iter().find(|instance| instance.name == name) {
                services.insert(name.text().to_owned(), json!({"url": instance.url, "pid": instance.pid()}));
            }
        }
        let (access_key_id, secret_access_key) = servers.aws_credentials();
        json!({
            "services": services,
            "nats": {
                "url": format!("{}://127.0.0.1:{}", servers.nats_scheme(), servers.nats[0].port),
                "monitor": format!("http://127.0.0.1:{}", servers.nats[0].monitor_port),
                "user": rights::OPERATOR,
                "password": servers.secrets.nats[rights::OPERATOR],
                "admin": {"user": rights::ADMIN, "password": servers.secrets.nats[rights::ADMIN]},
                "system": {"user": rights::SYSTEM, "password": servers.secrets.nats[rights::SYSTEM]},
                "pid": servers.nats[0].process.pid(),
            },
            "redis": {"url": servers.redis_url(), "pid": servers.redis[0].process.pid()},
            "postgres": {"url": servers.postgres_url(), "pid": servers.postgres.pid()},
            "aws": {
                "endpoint": servers.aws_endpoint(),
                "region": servers.aws_region(),
                "access_key_id": access_key_id,
                "secret_access_key": secret_access_key,
                "pid": servers.aws.pid(),
            },
            "bids_table": self.prepared.bids_table,
            "notification_queue_url": self.prepared.notification_queue_url,
            "cognito": {"user_pool_id": self.prepared.user_pool_id, "client_id": self.prepared.client_id},
            "issuer": self.issuer.issuer,
            "tls": servers.tls_settings().into_iter().collect::<BTreeMap<_, _>>(),
            "page": self.page_url(),
            "sign_in": self.keys.sign_in_url(),
            "flash_pid": std::process::id(),
        })
    }

    /// Waits until a service or a server ends by itself; returns the reason.
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
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }

    /// Stops everything in order: the services, then the servers.
    pub async fn stop(mut self) {
        stop_all(self.instances).await;
        self.keys.stop().await;
        let servers = self.servers;
        if let Err(error) = tokio::task::spawn_blocking(move || servers.stop()).await {
            tracing::warn!(error = %errors::chain(&error), "failed to stop the servers in order");
        }
        description::remove(&self.options.directory);
    }
}

/// Binds all sockets before anything is started: a taken port is the most common mistake.
fn sockets(options: &Options) -> Result<Vec<(Name, TcpListener)>> {
    let mut sockets = Vec::new();
    for name in Name::ALL {
        for nth in 0..options.instances.get(&name).copied().unwrap_or(1) {
            // The first instance gets the documented port, the others any free one.
            let socket = match options.ports {
                Ports::Base(base) if nth == 0 => {
                    let port = base + name.port_offset();
                    TcpListener::bind(("127.0.0.1", port)).map_err(|_| PortTaken { port, service: name.text() })?
                }
                Ports::Base(_) => TcpListener::bind(("127.0.0.1", 0))?,
                Ports::Free => testkit::free_listener()?,
            };
            sockets.push((name, socket));
        }
    }
    Ok(sockets)
}

/// The scheme of the services' addresses.
const fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

/// The origins of the web page at every edge, by both names of this machine.
fn page_origins(sockets: &[(Name, TcpListener)], tls: bool) -> Result<Vec<String>> {
    let (mut origins, scheme) = (Vec::new(), scheme(tls));
    for (_, socket) in sockets.iter().filter(|(name, _)| *name == Name::Websocket) {
        let port = socket.local_addr()?.port();
        origins.extend(["127.0.0.1", "localhost"].map(|host| format!("{scheme}://{host}:{port}")));
    }
    Ok(origins)
}

/// Lets every edge forward requests to the first instance of each service, and its page call the others directly.
fn one_origin(
    environment: &mut Environment,
    sockets: &[(Name, TcpListener)],
    tls: bool,
    origins: &[String],
) -> Result<()> {
    let scheme = if tls { "https" } else { "http" };
    let owners = [
        (Name::AuctionManagement, "AUCTION_MANAGEMENT_URL"),
        (Name::BidProcessing, "BID_PROCESSING_URL"),
        (Name::Timer, "TIMER_URL"),
    ];
    for (owner, setting) in owners {
        if let Some((_, socket)) = sockets.iter().find(|(name, _)| *name == owner) {
            environment.set(setting, format!("{scheme}://{}", socket.local_addr()?));
        }
    }
    let given = environment.iter().find(|(name, _)| *name == "CORS_ORIGINS").map(|(_, given)| given.to_owned());
    let given = given.filter(|given| !given.is_empty()).unwrap_or_else(|| DEVELOPMENT_ORIGINS.to_owned());
    environment.set("CORS_ORIGINS", format!("{given},{}", origins.join(",")));
    Ok(())
}

/// The settings that all services of this stack share.
fn environment(servers: &Servers, prepared: &Prepared, keys: &JwksServer) -> Environment {
    let (key_id, secret) = servers.aws_credentials();
    let mut environment = Environment::of_process();
    for (name, value) in [
        ("NATS_CREDS", ""),
        ("AWS_REGION", servers.aws_region()),
        ("AWS_ENDPOINT_URL", &servers.aws_endpoint()),
        ("AWS_ACCESS_KEY_ID", key_id),
        ("AWS_SECRET_ACCESS_KEY", secret),
        ("COGNITO_REGION", servers.aws_region()),
        ("COGNITO_USER_POOL_ID", &prepared.user_pool_id),
        ("COGNITO_APP_CLIENT_ID", &prepared.client_id),
        ("COGNITO_ISSUER", &prepared.issuer),
        ("COGNITO_HOSTED_UI_URL", &keys.sign_in_url()),
        ("JWKS_URL", &keys.url()),
        ("SQS_NOTIFICATION_QUEUE_URL", &prepared.notification_queue_url),
        ("DYNAMODB_BIDS_TABLE", prepared.bids_table),
        ("UPLOADS_BUCKET", prepared.photo_bucket),
        ("UPLOADS_ORIGIN", &servers.aws_endpoint()),
        ("NOTIFY_FROM_EMAIL", prepared.from_email),
        // The emulator has channels and no streams.
        ("STREAM_STATE_INTERVAL_SECONDS", "0"),
        ("LOG_SECRET_KEY", &servers.secrets.log_key),
    ] {
        environment.set(name, value);
    }
    let files = ["NATS_CA_FILE", "NATS_CERT_FILE", "NATS_KEY_FILE", "REDIS_CA_FILE", "TLS_CERT_FILE", "TLS_KEY_FILE"];
    for name in files.into_iter().chain(["SERVICES_CA_FILE", "SERVICES_TLS_NAME"]) {
        environment.set(name, "");
    }
    for (name, value) in servers.tls_settings() {
        environment.set(name, value);
    }
    environment
}
