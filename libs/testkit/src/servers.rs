//! The four servers of one stack.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::install::Programs;
use crate::postgres::Place;
use crate::process::{Process, Signal, free_port, run_quietly};

const REGION: &str = "us-east-1";
/// A server that does not answer within this has a problem that waiting does not solve.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(25);
/// For each server to end by itself; all four together stay below what Ctrl-C promises.
const STOP_PATIENCE: Duration = Duration::from_millis(1500);

/// Passwords of a stack's servers, drawn once and kept with its data.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secrets {
    pub nats_services: String,
    pub nats_operator: String,
    pub redis: String,
    pub postgres: String,
}

impl Secrets {
    /// Those in `directory`, drawn anew if there are none.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn of(directory: &Path) -> Result<Self> {
        let file = directory.join("secrets.json");
        if let Ok(text) = fs::read(&file) {
            return serde_json::from_slice(&text).with_context(|| format!("{} is damaged", file.display()));
        }
        // Letters only: nats-server would read a leading digit in a variable as a number.
        let draw =
            || uuid::Uuid::new_v4().simple().to_string().bytes().map(|b| char::from(b'g' + b % 16)).collect::<String>();
        let secrets = Self { nats_services: draw(), nats_operator: draw(), redis: draw(), postgres: draw() };
        write_private(&file, &serde_json::to_vec_pretty(&secrets)?)?;
        Ok(secrets)
    }
}

/// Writes a file that only its owner may read, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(file: &Path, bytes: &[u8]) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, bytes)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    Ok(fs::rename(new, file)?)
}

/// Running servers. Dropping them kills them; [`Servers::stop`] ends them in order.
pub struct Servers {
    pub nats: Process,
    pub redis: Process,
    pub postgres: Process,
    pub aws: Process,
    pub secrets: Secrets,
    pub nats_port: u16,
    pub nats_monitor_port: u16,
    pub redis_port: u16,
    pub postgres_port: u16,
    pub aws_port: u16,
    /// Where PostgreSQL's data lies.
    pub postgres_data: PathBuf,
    directory: PathBuf,
    programs: Programs,
}

impl Servers {
    /// Starts all four with their data in `directory` and waits until each answers.
    ///
    /// # Errors
    /// When one cannot be started or does not answer; with the end of its log.
    pub async fn start(programs: &Programs, directory: &Path) -> Result<Self> {
        let logs = directory.join("logs");
        fs::create_dir_all(&logs)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o711))?;
        let secrets = Secrets::of(directory)?;
        let place = Place::choose(&directory.join("postgres"))?;
        let (nats_port, nats_monitor_port, redis_port) = (free_port()?, free_port()?, free_port()?);
        let (postgres_port, aws_port) = (free_port()?, free_port()?);

        // PostgreSQL's first start takes longest; the others start meanwhile.
        let aws = start_aws(programs, directory, aws_port)?;
        let nats = start_nats(programs, directory, &secrets, nats_port, nats_monitor_port)?;
        let redis = start_redis(programs, directory, &secrets, redis_port)?;
        let (programs_for_init, password) = (programs.clone(), secrets.postgres.clone());
        let place =
            tokio::task::spawn_blocking(move || place.initialize(&programs_for_init, &password).map(|()| place))
                .await??;
        let postgres = start_postgres(programs, directory, &place, postgres_port)?;
        let mut servers = Self {
            nats,
            redis,
            postgres,
            aws,
            secrets,
            nats_port,
            nats_monitor_port,
            redis_port,
            postgres_port,
            aws_port,
            postgres_data: place.directory,
            directory: directory.to_owned(),
            programs: programs.clone(),
        };
        servers.wait().await?;
        Ok(servers)
    }

    /// Waits until each really answers.
    async fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            for process in [&mut self.nats, &mut self.redis, &mut self.postgres, &mut self.aws] {
                process.check()?;
            }
            let (nats, redis, postgres, aws) = (
                self.nats_answers().await,
                redis_answers(&self.redis_url()).await,
                self.postgres_answers().await,
                self.aws_answers().await,
            );
            if nats && redis && postgres && aws {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("not all servers answer: nats {nats}, redis {redis}, postgres {postgres}, aws {aws}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn nats_answers(&self) -> bool {
        let url = format!("http://127.0.0.1:{}/healthz?js-enabled-only=true", self.nats_monitor_port);
        crate::http::get(&url, None).await.is_ok_and(|reply| reply.status == 200)
    }

    async fn postgres_answers(&self) -> bool {
        store::Store::connect(&self.postgres_url()).await.is_ok()
    }

    async fn aws_answers(&self) -> bool {
        crate::http::get(&format!("{}/moto-api/", self.aws_endpoint()), None)
            .await
            .is_ok_and(|reply| reply.status == 200)
    }

    #[must_use]
    pub fn nats_url(&self) -> String {
        format!("nats://services:{}@127.0.0.1:{}", self.secrets.nats_services, self.nats_port)
    }

    #[must_use]
    pub fn redis_url(&self) -> String {
        format!("redis://:{}@127.0.0.1:{}", self.secrets.redis, self.redis_port)
    }

    #[must_use]
    pub fn postgres_url(&self) -> String {
        format!("postgres://flash:{}@127.0.0.1:{}/postgres", self.secrets.postgres, self.postgres_port)
    }

    #[must_use]
    pub fn aws_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.aws_port)
    }

    #[must_use]
    pub const fn aws_region(&self) -> &'static str {
        REGION
    }

    /// The emulator takes any.
    #[must_use]
    pub const fn aws_credentials(&self) -> (&'static str, &'static str) {
        ("flash", "flash")
    }

    /// Kills Redis and starts it again on the same data and port.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart_redis(&mut self) -> Result<()> {
        self.redis.kill();
        self.redis = start_redis(&self.programs, &self.directory, &self.secrets, self.redis_port)?;
        self.wait().await
    }

    /// Copies Redis's append-only file as it is on the disk now, for [`Servers::roll_back_redis`].
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copy_redis(&self, copy: &Path) -> Result<()> {
        run_quietly(Command::new("cp").arg("-r").arg(self.directory.join("redis/appendonlydir")).arg(copy))
    }

    /// Kills Redis and starts it on a copy of its data from earlier: what it has decided since is gone.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn roll_back_redis(&mut self, copy: &Path) -> Result<()> {
        self.redis.kill();
        let data = self.directory.join("redis/appendonlydir");
        fs::remove_dir_all(&data)?;
        run_quietly(Command::new("cp").arg("-r").arg(copy).arg(&data))?;
        self.restart_redis().await
    }

    /// Kills NATS and starts it again on the same data and ports.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart_nats(&mut self) -> Result<()> {
        self.nats.kill();
        self.nats = start_nats(&self.programs, &self.directory, &self.secrets, self.nats_port, self.nats_monitor_port)?;
        self.wait().await
    }

    /// Starts PostgreSQL again on the same data and port, after it was killed.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart_postgres(&mut self) -> Result<()> {
        self.postgres.kill();
        let place = Place::choose(&self.directory.join("postgres"))?;
        self.postgres = start_postgres(&self.programs, &self.directory, &place, self.postgres_port)?;
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.postgres_answers().await {
            self.postgres.check()?;
            anyhow::ensure!(Instant::now() < deadline, "PostgreSQL does not answer");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Ends all four in order: first what depends on nothing else being there. Blocks.
    pub fn stop(mut self) {
        for (server, signal) in [
            (&mut self.aws, Signal::Terminate),
            (&mut self.postgres, Signal::Interrupt),
            (&mut self.nats, Signal::Terminate),
            (&mut self.redis, Signal::Terminate),
        ] {
            if !server.stop(signal, STOP_PATIENCE) {
                tracing::debug!(server = server.name, "did not end with success");
            }
        }
    }
}

/// A Redis of its own, for tests that need nothing else.
pub struct Redis {
    pub url: String,
    _process: Process,
}

impl Redis {
    /// Starts it with its data in `directory` and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be started or does not answer.
    pub async fn start(programs: &Programs, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory.join("logs"))?;
        let (secrets, port) = (Secrets::of(directory)?, free_port()?);
        let mut process = start_redis(programs, directory, &secrets, port)?;
        let url = format!("redis://:{}@127.0.0.1:{port}", secrets.redis);
        let deadline = Instant::now() + START_TIMEOUT;
        while !redis_answers(&url).await {
            process.check()?;
            anyhow::ensure!(Instant::now() < deadline, "Redis does not answer");
            tokio::time::sleep(POLL).await;
        }
        Ok(Self { url, _process: process })
    }
}

async fn redis_answers(url: &str) -> bool {
    let Ok(client) = redis::Client::open(url) else { return false };
    let Ok(mut connection) = client.get_multiplexed_async_connection().await else { return false };
    redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
}

fn start_nats(
    programs: &Programs,
    directory: &Path,
    secrets: &Secrets,
    port: u16,
    monitor_port: u16,
) -> Result<Process> {
    let config = directory.join("nats-server.conf");
    fs::write(&config, include_str!("../../../nats/nats-server.conf"))?;
    let mut command = Command::new(&programs.nats_server);
    command
        .arg("-c")
        .arg(config)
        .env("NATS_SERVER_NAME", "flash")
        .env("NATS_HOST", "127.0.0.1")
        .env("NATS_PORT", port.to_string())
        .env("NATS_MONITOR_ADDRESS", format!("\"127.0.0.1:{monitor_port}\""))
        .env("NATS_STORE_DIR", format!("\"{}\"", directory.join("nats").display()))
        .env("NATS_SERVICES_PASSWORD", &secrets.nats_services)
        .env("NATS_OPERATOR_PASSWORD", &secrets.nats_operator);
    Process::start("nats-server", &command, None, Signal::Terminate, &directory.join("logs/nats.log"))
}

fn start_redis(programs: &Programs, directory: &Path, secrets: &Secrets, port: u16) -> Result<Process> {
    let data = directory.join("redis");
    fs::create_dir_all(&data)?;
    // Every write is on the disk before it is answered, also while the file is rewritten, and nothing
    // is ever evicted: what Redis decided must still be there after it restarts.
    let text = format!(
        "bind 127.0.0.1\nport {port}\nrequirepass {}\ndir \"{}\"\nappendonly yes\nappendfsync always\n\
         no-appendfsync-on-rewrite no\nmaxmemory-policy noeviction\nsave \"\"\ndaemonize no\n",
        secrets.redis,
        data.display(),
    );
    let config = directory.join("redis.conf");
    write_private(&config, text.as_bytes())?;
    let mut command = Command::new(&programs.redis_server);
    command.arg(config);
    Process::start("redis-server", &command, None, Signal::Terminate, &directory.join("logs/redis.log"))
}

fn start_postgres(programs: &Programs, directory: &Path, place: &Place, port: u16) -> Result<Process> {
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
    Process::start("postgres", &command, place.user, Signal::Interrupt, &directory.join("logs/postgres.log"))
}

fn start_aws(programs: &Programs, directory: &Path, port: u16) -> Result<Process> {
    let mut command = Command::new(&programs.moto_server);
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).env("AWS_DEFAULT_REGION", REGION);
    Process::start("moto_server", &command, None, Signal::Kill, &directory.join("logs/aws.log"))
}
