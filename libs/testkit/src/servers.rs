//! The servers of one stack.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

use crate::disk::Disk;
use crate::install::Programs;
use crate::nats::Nats;
use crate::postgres::{Place, TLS_RULES};
use crate::process::{Process, Signal, free_port};
use crate::redis::Redis;
use crate::settings::{DEVELOPER, POLL, START_TIMEOUT, Secrets, Topology};
use crate::tls::{Authority, Certified, Flaw};

const REGION: &str = "us-east-1";
/// Time that each server gets to end by itself. All four together stay below the 10 s that Ctrl-C promises.
const STOP_TIMEOUT: Duration = Duration::from_millis(1500);

/// Running servers. Dropping them kills them; [`Servers::stop`] ends them in order.
pub struct Servers {
    /// One nats-server, or those of a cluster.
    pub nats: Vec<Nats>,
    /// One Redis, or the masters of a cluster followed by a replica of each.
    pub redis: Vec<Redis>,
    /// PostgreSQL.
    pub postgres: Process,
    /// The AWS emulator.
    pub aws: Process,
    /// Passwords of the servers.
    pub secrets: Secrets,
    /// The port of PostgreSQL.
    pub postgres_port: u16,
    /// The port of the AWS emulator.
    pub aws_port: u16,
    /// The directory of PostgreSQL's data.
    pub postgres_data: PathBuf,
    /// The certificates of a stack with TLS.
    pub tls: Option<ServersTls>,
    directory: PathBuf,
    programs: Programs,
}

/// The certificates of a stack with TLS.
pub struct ServersTls {
    /// Signs all of them.
    pub authority: Authority,
    /// The certificate of the services for NATS.
    pub client: Certified,
    /// The certificate of PostgreSQL.
    pub postgres: Certified,
}

impl Servers {
    /// Starts all servers with their data in `directory` and waits until each answers.
    ///
    /// # Errors
    /// When one fails to start or does not answer; with the end of its log.
    pub async fn start(programs: &Programs, directory: &Path, topology: Topology) -> Result<Self> {
        let logs = directory.join("logs");
        fs::create_dir_all(&logs)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o711))?;
        let secrets = Secrets::of(directory)?;
        let authority = topology.tls.then(|| Authority::of(&directory.join("certificates"))).transpose()?;
        let place = Place::choose(&directory.join("postgres"))?;
        let (postgres_port, aws_port) = (free_port()?, free_port()?);

        // The first start of PostgreSQL takes longest; the other servers start at the same time.
        let aws = start_aws(programs, directory, aws_port)?;
        let nats = Nats::start(programs, directory, &secrets, topology, authority.as_ref())?;
        let redis = Redis::start(programs, directory, &secrets, topology, authority.as_ref())?;
        let (programs_for_init, password) = (programs.clone(), secrets.postgres.clone());
        let place =
            tokio::task::spawn_blocking(move || place.initialize(&programs_for_init, &password).map(|()| place))
                .await??;
        let tls = match authority {
            Some(authority) => {
                let (client, postgres) = (authority.issue("service", Flaw::None)?, place.secure(&authority)?);
                Some(ServersTls { authority, client, postgres })
            }
            None => None,
        };
        let postgres = start_postgres(programs, directory, &place, postgres_port, tls.as_ref())?;
        let mut servers = Self {
            nats,
            redis,
            postgres,
            aws,
            secrets,
            postgres_port,
            aws_port,
            postgres_data: place.directory,
            tls,
            directory: directory.to_owned(),
            programs: programs.clone(),
        };
        servers.wait().await?;
        if topology.redis_masters > 1 {
            Redis::join(&servers.redis, &servers.secrets).await?;
        }
        Ok(servers)
    }

    /// The processes of all servers.
    pub fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        let nats = self.nats.iter_mut().map(|nats| &mut nats.process);
        let redis = self.redis.iter_mut().map(|redis| &mut redis.process);
        nats.chain(redis).chain([&mut self.postgres, &mut self.aws])
    }

    /// Waits until every server answers a request.
    async fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            for process in self.processes() {
                process.check()?;
            }
            let (nats, mut redis) = (Nats::all_answer(&self.nats).await, true);
            for server in &self.redis {
                redis &= server.answers().await;
            }
            let (postgres, aws) = (self.postgres_answers().await, self.aws_answers().await);
            if nats && redis && postgres && aws {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("not all servers answer: nats {nats}, redis {redis}, postgres {postgres}, aws {aws}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn postgres_answers(&self) -> bool {
        store::Store::connect(&self.postgres_url()).await.is_ok()
    }

    async fn aws_answers(&self) -> bool {
        crate::http::get(&format!("{}/moto-api/", self.aws_endpoint()), None)
            .await
            .is_ok_and(|reply| reply.status == 200)
    }

    /// Addresses of all nats-servers, separated by commas, with a login of tests that may do everything.
    #[must_use]
    pub fn nats_url(&self) -> String {
        self.nats_url_of(DEVELOPER)
    }

    /// The same with the login of this NATS user.
    #[must_use]
    pub fn nats_url_of(&self, user: &str) -> String {
        let password = self.secrets.nats.get(user).map_or("", String::as_str);
        let scheme = self.nats_scheme();
        let url = |nats: &Nats| format!("{scheme}://{user}:{password}@127.0.0.1:{}", nats.port);
        self.nats.iter().map(url).collect::<Vec<_>>().join(",")
    }

    /// The scheme of addresses of NATS.
    #[must_use]
    pub const fn nats_scheme(&self) -> &'static str {
        if self.tls.is_some() { "tls" } else { "nats" }
    }

    /// Settings with which a program trusts these servers and shows its certificate. Empty without TLS.
    #[must_use]
    pub fn tls_settings(&self) -> Vec<(&'static str, String)> {
        let Some(tls) = &self.tls else { return Vec::new() };
        let files = [
            ("NATS_CA_FILE", &tls.authority.ca_file),
            ("NATS_CERT_FILE", &tls.client.cert_file),
            ("NATS_KEY_FILE", &tls.client.key_file),
            ("REDIS_CA_FILE", &tls.authority.ca_file),
        ];
        files.into_iter().map(|(name, file)| (name, file.display().to_string())).collect()
    }

    /// Addresses of all Redis servers, separated by commas, with the login that may do everything.
    #[must_use]
    pub fn redis_url(&self) -> String {
        self.redis.iter().map(|redis| redis.url.clone()).collect::<Vec<_>>().join(",")
    }

    /// The same with the login of a service or command. None: it has none.
    #[must_use]
    pub fn redis_url_of(&self, user: &str) -> Option<String> {
        let password = self.secrets.redis_users.get(user)?;
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        let url = |redis: &Redis| format!("{scheme}://{user}:{password}@127.0.0.1:{}", redis.port);
        Some(self.redis.iter().map(url).collect::<Vec<_>>().join(","))
    }

    /// The address of PostgreSQL with the login that owns the tables.
    #[must_use]
    pub fn postgres_url(&self) -> String {
        self.postgres_with("flash", &self.secrets.postgres)
    }

    /// The same with the login of a service. None: it has none.
    #[must_use]
    pub fn postgres_url_of(&self, user: &str) -> Option<String> {
        self.secrets.postgres_users.get(user).map(|password| self.postgres_with(user, password))
    }

    fn postgres_with(&self, user: &str, password: &str) -> String {
        let url = format!("postgres://{user}:{password}@127.0.0.1:{}/postgres", self.postgres_port);
        match &self.tls {
            Some(tls) => format!("{url}?sslmode=verify-full&sslrootcert={}", tls.authority.ca_file.display()),
            None => url,
        }
    }

    /// Requests of services and commands that NATS and Redis refused, because their logins lack the right.
    ///
    /// # Errors
    /// When the log of NATS cannot be read.
    pub async fn refusals(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for nats in &self.nats {
            found.extend(nats.refusals()?);
        }
        for redis in &self.redis {
            // A test may have killed it.
            found.extend(redis.refusals().await.unwrap_or_default());
        }
        Ok(found)
    }

    /// The address of the AWS emulator.
    #[must_use]
    pub fn aws_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.aws_port)
    }

    /// The region of the AWS emulator.
    #[must_use]
    pub const fn aws_region(&self) -> &'static str {
        REGION
    }

    /// Key id and secret. The emulator accepts any.
    #[must_use]
    pub const fn aws_credentials(&self) -> (&'static str, &'static str) {
        ("flash", "flash")
    }

    /// Kills Redis and starts it again on the same data and port.
    ///
    /// # Errors
    /// When it does not answer again.
    pub async fn restart_redis(&mut self) -> Result<()> {
        for redis in &mut self.redis {
            redis.restart().await?;
        }
        Ok(())
    }

    /// Kills NATS and starts it again on the same data and ports.
    ///
    /// # Errors
    /// When it does not answer again.
    pub async fn restart_nats(&mut self) -> Result<()> {
        for nats in &mut self.nats {
            nats.restart()?;
        }
        self.wait().await
    }

    /// Starts the `nth` nats-server again on the same data and ports, after it was killed.
    ///
    /// # Errors
    /// When it does not answer again.
    pub async fn restart_nats_server(&mut self, nth: usize) -> Result<()> {
        self.nats[nth].restart()?;
        self.wait().await
    }

    /// Simulates a power loss of the machine with Redis, NATS and PostgreSQL, which share one disk: unsynced data is
    /// lost. Then starts all three again.
    ///
    /// # Errors
    /// When one of them does not answer again.
    pub async fn lose_power(&mut self, disk: &Disk) -> Result<()> {
        // All servers are frozen, so that nothing is written while the disk is copied.
        for process in self.processes() {
            process.signal(Signal::Stop)?;
        }
        let copy = disk.copy_synced();
        let servers = self.nats.iter_mut().map(|nats| &mut nats.process);
        let servers = servers.chain(self.redis.iter_mut().map(|redis| &mut redis.process));
        servers.chain([&mut self.postgres]).for_each(Process::kill);
        // AWS is on another machine and keeps its power.
        self.aws.signal(Signal::Continue)?;
        disk.lose_power(&copy?)?;
        self.restart_redis().await?;
        self.restart_postgres().await?;
        self.restart_nats().await
    }

    /// Starts PostgreSQL again on the same data and port, after it was killed.
    ///
    /// # Errors
    /// When it does not answer again.
    pub async fn restart_postgres(&mut self) -> Result<()> {
        self.postgres.kill();
        let place = Place::choose(&self.directory.join("postgres"))?;
        let start = || start_postgres(&self.programs, &self.directory, &place, self.postgres_port, self.tls.as_ref());
        self.postgres = start()?;
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.postgres_answers().await {
            if let Err(error) = self.postgres.check() {
                // It refuses to start while children of its dead predecessor still run.
                anyhow::ensure!(Instant::now() < deadline, error);
                self.postgres = start()?;
            }
            anyhow::ensure!(Instant::now() < deadline, "PostgreSQL does not answer");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Stops all servers in order. Blocks.
    pub fn stop(mut self) {
        let nats = self.nats.iter_mut().map(|nats| (&mut nats.process, Signal::Terminate));
        let redis = self.redis.iter_mut().map(|redis| (&mut redis.process, Signal::Terminate));
        let first = [(&mut self.aws, Signal::Terminate), (&mut self.postgres, Signal::Interrupt)];
        for (server, signal) in first.into_iter().chain(nats).chain(redis) {
            if !server.stop(signal, STOP_TIMEOUT) {
                tracing::debug!(server = server.name, "the server did not stop cleanly");
            }
        }
    }
}

fn start_postgres(
    programs: &Programs,
    directory: &Path,
    place: &Place,
    port: u16,
    tls: Option<&ServersTls>,
) -> Result<Process> {
    let mut command = Command::new(programs.postgres.join("postgres"));
    command.current_dir("/").arg("-D").arg(&place.directory).args(["-p", &port.to_string()]).args([
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "unix_socket_directories=",
        "-c",
        "fsync=on",
        "-c",
        "max_connections=60",
    ]);
    if let Some(ServersTls { postgres, .. }) = tls {
        for (setting, file) in [
            ("ssl_cert_file", &postgres.cert_file),
            ("ssl_key_file", &postgres.key_file),
            ("hba_file", &place.directory.join(TLS_RULES)),
        ] {
            command.arg("-c").arg(format!("{setting}={}", file.display()));
        }
        command.args(["-c", "ssl=on"]);
    }
    Process::start("postgres", &command, place.user, Signal::Interrupt, &directory.join("logs/postgres.log"))
}

fn start_aws(programs: &Programs, directory: &Path, port: u16) -> Result<Process> {
    let mut command = Command::new(&programs.moto_server);
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).env("AWS_DEFAULT_REGION", REGION);
    Process::start("moto_server", &command, None, Signal::Kill, &directory.join("logs/aws.log"))
}
