//! redis-server: one, or the masters and replicas of a Redis Cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;

use crate::install::Programs;
use crate::process::{Process, Signal, free_port, run_quietly};
use crate::settings::{POLL, START_TIMEOUT, Secrets, Topology, write_private};

/// A master that is silent for so long is replaced by its replica. Short: a needless failover on a loaded
/// machine is one more fault to survive.
const CLUSTER_NODE_TIMEOUT_MS: u32 = 1_000;

/// Every write is on the disk before it is answered.
const SYNCED: &str = "always";

/// One redis-server.
pub struct Redis {
    pub process: Process,
    pub port: u16,
    /// With the password.
    pub url: String,
    data: PathBuf,
    command: Command,
    log: PathBuf,
}

impl Redis {
    /// Starts one for tests that need nothing else, with its data in `directory`, and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be started or does not answer.
    pub async fn alone(programs: &Programs, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory.join("logs"))?;
        let mut redis = Self::start_one(programs, directory, &Secrets::of(directory)?, "redis", SYNCED, None)?;
        redis.wait().await?;
        Ok(redis)
    }

    /// Starts one, or with more masters than one a cluster's nodes: so many masters and a replica of each.
    pub(crate) fn start(
        programs: &Programs,
        directory: &Path,
        secrets: &Secrets,
        topology: Topology,
    ) -> Result<Vec<Self>> {
        let masters = topology.redis_masters;
        if masters == 1 {
            let sync = if topology.unsynced { "everysec" } else { SYNCED };
            return Ok(vec![Self::start_one(programs, directory, secrets, "redis", sync, None)?]);
        }
        let start =
            |nth| Self::start_one(programs, directory, secrets, &format!("redis-{nth}"), SYNCED, Some(free_port()?));
        (0..2 * masters).map(start).collect()
    }

    fn start_one(
        programs: &Programs,
        directory: &Path,
        secrets: &Secrets,
        name: &str,
        sync: &str,
        cluster_port: Option<u16>,
    ) -> Result<Self> {
        let (port, data, password) = (free_port()?, directory.join(name), &secrets.redis);
        fs::create_dir_all(&data)?;
        // Every write is on the disk before it is answered, also while the file is rewritten, and nothing
        // is ever evicted: what Redis decided must still be there after it restarts.
        let mut text = format!(
            "bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir \"{}\"\nappendonly yes\nappendfsync {sync}\n\
             no-appendfsync-on-rewrite no\nmaxmemory-policy noeviction\nsave \"\"\ndaemonize no\n",
            data.display(),
        );
        if let Some(cluster_port) = cluster_port {
            text += &format!(
                "cluster-enabled yes\ncluster-port {cluster_port}\ncluster-node-timeout {CLUSTER_NODE_TIMEOUT_MS}\n\
                 masterauth {password}\nrepl-diskless-sync-delay 0\n",
            );
        }
        let config = directory.join(format!("{name}.conf"));
        write_private(&config, text.as_bytes())?;
        let mut command = Command::new(&programs.redis_server);
        command.arg(config);
        let log = directory.join(format!("logs/{name}.log"));
        let process = Process::start("redis-server", &command, None, Signal::Terminate, &log)?;
        Ok(Self { process, port, url: format!("redis://:{password}@127.0.0.1:{port}"), data, command, log })
    }

    /// Makes a cluster of nodes that answer: the first half are its masters, the others their replicas.
    pub(crate) async fn join(nodes: &[Self], secrets: &Secrets) -> Result<()> {
        let mut create = Command::new("redis-cli");
        create.env("REDISCLI_AUTH", &secrets.redis).args(["--cluster", "create"]);
        create.args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)));
        create.args(["--cluster-replicas", "1", "--cluster-yes"]);
        tokio::task::spawn_blocking(move || run_quietly(&mut create)).await??;
        let deadline = Instant::now() + START_TIMEOUT;
        for (nth, node) in nodes.iter().enumerate() {
            let replica = nth >= nodes.len() / 2;
            while !node.is_part_of_a_cluster(replica).await.unwrap_or(false) {
                ensure!(Instant::now() < deadline, "the Redis Cluster does not come up");
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

    async fn connect(&self) -> Result<redis::aio::MultiplexedConnection> {
        Ok(redis::Client::open(self.url.as_str())?.get_multiplexed_async_connection().await?)
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

    /// Kills it, if it still runs, and starts it again on the same data and port.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = Process::start("redis-server", &self.command, None, Signal::Terminate, &self.log)?;
        self.wait().await
    }

    /// Copies its append-only file as it is on the disk now, for [`Redis::roll_back`].
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copy(&self, copy: &Path) -> Result<()> {
        run_quietly(Command::new("cp").arg("-r").arg(self.data.join("appendonlydir")).arg(copy))
    }

    /// Kills it and starts it on a copy of its data from earlier: what it has decided since is gone.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn roll_back(&mut self, copy: &Path) -> Result<()> {
        self.process.kill();
        let data = self.data.join("appendonlydir");
        fs::remove_dir_all(&data).context("its data")?;
        run_quietly(Command::new("cp").arg("-r").arg(copy).arg(&data))?;
        self.restart().await
    }
}
