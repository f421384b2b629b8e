//! redis-server: one, or the masters and replicas of a Redis Cluster.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use protocol::rights;
use tokio::time::Instant;

use crate::install::Programs;
use crate::process::{Process, Signal, free_port, run_quietly};
use crate::settings::{POLL, START_TIMEOUT, Secrets, Topology, write_private};
use crate::tls::{Authority, Certified, Flaw};

/// Milliseconds after which a silent master is replaced by its replica. Short: a needless failover on a loaded
/// machine is one more fault that the system must survive.
const CLUSTER_NODE_TIMEOUT_MS: u32 = 1_000;

/// Repairs the append-only file before redis-server starts. Compose and Nomad start Redis by the same script.
const START_SCRIPT: &str = include_str!("../../../nomad/redis-start.sh");
/// Settings of every Redis. Compose and Nomad set the same; CONTRACT.md, Redis, gives their reasons.
pub const REDIS_SETTINGS: [(&str, &str); 7] = [
    ("appendonly", "yes"),
    ("appendfsync", "everysec"),
    ("no-appendfsync-on-rewrite", "no"),
    ("maxmemory-policy", "noeviction"),
    ("lazyfree-lazy-expire", "yes"),
    ("lazyfree-lazy-server-del", "yes"),
    ("lazyfree-lazy-user-del", "yes"),
];
/// Memory after which a Redis of this crate refuses writes. More than any test or benchmark fills.
pub const REDIS_MAXMEMORY: &str = "4gb";

/// Refusals that are read from a Redis, which keeps as many.
const MAX_REFUSALS: u32 = 128;

/// One redis-server.
pub struct Redis {
    /// Its process.
    pub process: Process,
    /// Its port.
    pub port: u16,
    /// Its address with the password.
    pub url: String,
    /// The authority that its clients trust, if it has a certificate.
    pub ca_file: Option<PathBuf>,
    data: PathBuf,
    command: Command,
    log: PathBuf,
}

impl Redis {
    /// Starts one Redis for tests that need no other server, with its data in `directory`, and waits until it answers.
    ///
    /// # Errors
    /// When it fails to start or does not answer.
    pub async fn alone(programs: &Programs, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory.join("logs"))?;
        let mut redis = Self::start_one(programs, directory, &Secrets::of(directory)?, "redis", None, None)?;
        redis.wait().await?;
        Ok(redis)
    }

    /// Starts one Redis, or for several masters the nodes of a cluster: the masters and a replica of each.
    pub(crate) fn start(
        programs: &Programs,
        directory: &Path,
        secrets: &Secrets,
        topology: Topology,
        authority: Option<&Authority>,
    ) -> Result<Vec<Self>> {
        let masters = topology.redis_masters;
        if masters == 1 {
            return Ok(vec![Self::start_one(programs, directory, secrets, "redis", None, authority)?]);
        }
        let start = |nth| {
            let name = format!("redis-{nth}");
            Self::start_one(programs, directory, secrets, &name, Some(free_port()?), authority)
        };
        (0..2 * masters).map(start).collect()
    }

    fn start_one(
        programs: &Programs,
        directory: &Path,
        secrets: &Secrets,
        name: &str,
        cluster_port: Option<u16>,
        authority: Option<&Authority>,
    ) -> Result<Self> {
        let (port, data, password) = (free_port()?, directory.join(name), &secrets.redis);
        fs::create_dir_all(&data)?;
        let certificate = authority.map(|authority| authority.issue(name, Flaw::None)).transpose()?;
        let listen = match (authority, certificate) {
            (Some(authority), Some(Certified { cert_file, key_file })) => format!(
                "port 0\ntls-port {port}\ntls-cert-file \"{}\"\ntls-key-file \"{}\"\ntls-ca-cert-file \"{}\"\n\
                 tls-auth-clients no\ntls-replication yes\ntls-cluster yes\n",
                cert_file.display(),
                key_file.display(),
                authority.ca_file.display(),
            ),
            _ => format!("port {port}\n"),
        };
        let mut text = format!(
            "bind 127.0.0.1\n{listen}requirepass {password}\ndir \"{}\"\nmaxmemory {REDIS_MAXMEMORY}\n\
             save \"\"\ndaemonize no\n",
            data.display(),
        );
        text.extend(rights::LOGINS.iter().filter_map(|login| {
            rights::redis_user(login, secrets.redis_users.get(login.name).map_or("", String::as_str))
        }));
        text.extend(REDIS_SETTINGS.map(|(setting, value)| format!("{setting} {value}\n")));
        if let Some(cluster_port) = cluster_port {
            text += &format!(
                "cluster-enabled yes\ncluster-port {cluster_port}\ncluster-node-timeout {CLUSTER_NODE_TIMEOUT_MS}\n\
                 masterauth {password}\nrepl-diskless-sync-delay 0\n",
            );
        }
        let config = directory.join(format!("{name}.conf"));
        write_private(&config, text.as_bytes())?;
        let mut command = Command::new("sh");
        command.args(["-c", START_SCRIPT, "redis-start"]).arg(&data).arg(&programs.redis_server).arg(config);
        let log = directory.join(format!("logs/{name}.log"));
        let process = Process::start("redis-server", &command, None, Signal::Terminate, &log)?;
        let scheme = if authority.is_some() { "rediss" } else { "redis" };
        let url = format!("{scheme}://:{password}@127.0.0.1:{port}");
        let ca_file = authority.map(|authority| authority.ca_file.clone());
        Ok(Self { process, port, url, ca_file, data, command, log })
    }

    /// Joins running nodes to a cluster: the first half become masters, the others their replicas.
    pub(crate) async fn join(nodes: &[Self], secrets: &Secrets) -> Result<()> {
        let mut create = Command::new("redis-cli");
        create.env("REDISCLI_AUTH", &secrets.redis).args(["--cluster", "create"]);
        create.args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)));
        create.args(["--cluster-replicas", "1", "--cluster-yes"]);
        if let Some(ca_file) = nodes.first().and_then(|node| node.ca_file.as_ref()) {
            create.arg("--tls").arg("--cacert").arg(ca_file);
        }
        tokio::task::spawn_blocking(move || run_quietly(&mut create)).await??;
        let deadline = Instant::now() + START_TIMEOUT;
        for (nth, node) in nodes.iter().enumerate() {
            let replica = nth >= nodes.len() / 2;
            while !node.is_part_of_a_cluster(replica).await.unwrap_or(false) {
                ensure!(Instant::now() < deadline, "the Redis Cluster does not start");
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    async fn is_part_of_a_cluster(&self, replica: bool) -> Result<bool> {
        let mut connection = self.connect().await?;
        let cluster: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut connection).await?;
        let replication: String = redis::cmd("INFO").arg("replication").query_async(&mut connection).await?;
        Ok(cluster.contains("cluster_state:ok") && (!replica || replication.contains("master_link_status:up")))
    }

    /// A client of this server, with the login that may do everything.
    ///
    /// # Errors
    /// When the file of the authority cannot be read.
    pub fn client(&self) -> Result<redis::Client> {
        self.client_with(&self.url)
    }

    /// The same with the login in this address.
    ///
    /// # Errors
    /// When the file of the authority cannot be read.
    pub fn client_with(&self, url: &str) -> Result<redis::Client> {
        let Some(ca_file) = &self.ca_file else { return Ok(redis::Client::open(url)?) };
        let certificates = redis::TlsCertificates { client_tls: None, root_cert: Some(fs::read(ca_file)?) };
        Ok(redis::Client::build_with_tls(url, certificates)?)
    }

    async fn connect(&self) -> Result<redis::aio::MultiplexedConnection> {
        Ok(self.client()?.get_multiplexed_async_connection().await?)
    }

    /// Commands and keys that it refused services and commands since it started.
    pub(crate) async fn refusals(&self) -> Result<Vec<String>> {
        let mut connection = self.connect().await?;
        let entries: Vec<BTreeMap<String, String>> =
            redis::cmd("ACL").arg("LOG").arg(MAX_REFUSALS).query_async(&mut connection).await?;
        // Each connection names its library; Redis may refuse that, and the client does not mind.
        let matters = |entry: &&BTreeMap<String, String>| entry["object"] != "client|setinfo";
        let text = |entry: &BTreeMap<String, String>| format!("{} of {}", entry["object"], entry["username"]);
        Ok(entries.iter().filter(matters).map(text).collect())
    }

    pub(crate) async fn answers(&self) -> bool {
        let Ok(mut connection) = self.connect().await else { return false };
        redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
    }

    async fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.answers().await {
            self.process.check()?;
            ensure!(Instant::now() < deadline, "Redis does not answer");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Kills the server, if it still runs, and starts it again on the same data and port.
    ///
    /// # Errors
    /// When it does not answer again.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = Process::start("redis-server", &self.command, None, Signal::Terminate, &self.log)?;
        self.wait().await
    }

    /// Copies its append-only file as it is on disk now, for [`Redis::roll_back`].
    ///
    /// # Errors
    /// When the file cannot be copied.
    pub fn copy(&self, copy: &Path) -> Result<()> {
        run_quietly(Command::new("cp").arg("-r").arg(self.data.join("appendonlydir")).arg(copy))
    }

    /// Kills it and starts it on an earlier copy of its data: all later decisions are lost.
    ///
    /// # Errors
    /// When it does not answer again.
    pub async fn roll_back(&mut self, copy: &Path) -> Result<()> {
        self.process.kill();
        let data = self.data.join("appendonlydir");
        fs::remove_dir_all(&data).context("failed to remove the data of Redis")?;
        run_quietly(Command::new("cp").arg("-r").arg(copy).arg(&data))?;
        self.restart().await
    }
}
