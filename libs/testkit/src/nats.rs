//! nats-server: one, or several that form a cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use protocol::rights;

use crate::install::Programs;
use crate::process::{Process, Signal, free_port};
use crate::settings::{DEVELOPER, Secrets, Topology, new_secret};
use crate::tls::{Authority, Flaw};

/// The line of the configuration that syncs every message before it is acknowledged.
const SYNCED: &str = "sync_interval: always";

/// The line of the configuration that names the directory of the streams.
const STORE: &str = "store_dir: $NATS_STORE_DIR\n";
/// The line that a stack adds to it. Without a size the server takes three quarters of the free disk, and refuses streams
/// whose limits are larger: no stack would start where a disk has room for its tests, but not for full streams.
const STORE_SIZE: &str = "  max_file_store: 64GB\n";

/// The other files of the configuration, with the names by which they include each other.
const CONFIGURATIONS: [(&str, &str); 4] = [
    ("nats-server-tls.conf", include_str!("../../../nats/nats-server-tls.conf")),
    ("nats-cluster.conf", include_str!("../../../nats/nats-cluster.conf")),
    ("nats-cluster-tls.conf", include_str!("../../../nats/nats-cluster-tls.conf")),
    ("routes.conf", include_str!("../../../nats/routes.conf")),
];
/// The line of the users' file after which a stack's own user comes.
const FIRST_USER: &str = "  users: [\n";
/// Text of nats-server's log about each refused publish and subscription, after the user's name.
const VIOLATION: &str = " Violation - ";

/// One nats-server.
pub struct Nats {
    /// Its process.
    pub process: Process,
    /// The port for clients.
    pub port: u16,
    /// The port for monitoring.
    pub monitor_port: u16,
    /// Name of the server. The stream info of JetStream names a stream's leader by it.
    pub name: String,
    command: Command,
    log: PathBuf,
}

impl Nats {
    /// Starts the servers of this topology, with their data in `directory`.
    pub(crate) fn start(
        programs: &Programs,
        directory: &Path,
        secrets: &Secrets,
        topology: Topology,
        authority: Option<&Authority>,
    ) -> Result<Vec<Self>> {
        let count = topology.nats_servers;
        let synced = include_str!("../../../nats/nats-server.conf");
        let server = if topology.unsynced { synced.replace(SYNCED, "") } else { synced.to_owned() };
        ensure!(server.contains(STORE), "nats-server.conf has no line {STORE:?}");
        let server = server.replacen(STORE, &format!("{STORE}{STORE_SIZE}"), 1);
        for (name, text) in [("nats-server.conf", server.as_str())].iter().chain(&CONFIGURATIONS) {
            fs::write(directory.join(name), text)?;
        }
        let suffix = if authority.is_some() { "-tls" } else { "" };
        let single = directory.join(format!("nats-server{suffix}.conf"));
        let developer = format!("    {{ user: {DEVELOPER}, password: ${} }}\n", rights::nats_variable(DEVELOPER));
        let users = include_str!("../../../nats/users.conf");
        fs::write(directory.join("users.conf"), users.replacen(FIRST_USER, &format!("{FIRST_USER}{developer}"), 1))?;
        if count == 1 {
            let mut command = Command::new(&programs.nats_server);
            command.arg("-c").arg(single);
            return Ok(vec![Self::start_one(command, directory, secrets, "flash", "nats", authority)?]);
        }
        let cluster = directory.join(format!("nats-cluster{suffix}.conf"));
        let (password, ports) = (new_secret(), (0..count).map(|_| free_port()).collect::<Result<Vec<_>>>()?);
        let routes: Vec<_> =
            ports.iter().map(|port| format!("\"nats://cluster:{password}@127.0.0.1:{port}\"")).collect();
        let start = |(nth, port): (usize, &u16)| {
            let mut command = Command::new(&programs.nats_server);
            command
                .arg("-c")
                .arg(&cluster)
                .env("NATS_CLUSTER_ADDRESS", format!("\"127.0.0.1:{port}\""))
                .env("NATS_CLUSTER_PASSWORD", &password)
                .env("NATS_ROUTES", format!("[{}]", routes.join(", ")));
            Self::start_one(command, directory, secrets, &format!("flash-{nth}"), &format!("nats-{nth}"), authority)
        };
        ports.iter().enumerate().map(start).collect()
    }

    fn start_one(
        mut command: Command,
        directory: &Path,
        secrets: &Secrets,
        name: &str,
        data: &str,
        authority: Option<&Authority>,
    ) -> Result<Self> {
        if let Some(authority) = authority {
            let certificate = authority.issue(data, Flaw::None)?;
            let quoted = |path: &Path| format!("\"{}\"", path.display());
            command
                .env("NATS_TLS_CERT_FILE", quoted(&certificate.cert_file))
                .env("NATS_TLS_KEY_FILE", quoted(&certificate.key_file))
                .env("NATS_TLS_CA_FILE", quoted(&authority.ca_file))
                // The services show a certificate as well.
                .env("NATS_TLS_VERIFY", "true");
        }
        let (port, monitor_port) = (free_port()?, free_port()?);
        command
            .env("NATS_SERVER_NAME", name)
            .env("NATS_HOST", "127.0.0.1")
            .env("NATS_PORT", port.to_string())
            .env("NATS_MONITOR_ADDRESS", format!("\"127.0.0.1:{monitor_port}\""))
            .env("NATS_STORE_DIR", format!("\"{}\"", directory.join(data).display()))
            .envs(secrets.nats.iter().map(|(user, password)| (rights::nats_variable(user), password)));
        let log = directory.join(format!("logs/{data}.log"));
        let process = Process::start("nats-server", &command, None, Signal::Terminate, &log)?;
        Ok(Self { process, port, monitor_port, name: name.to_owned(), command, log })
    }

    /// The lines of its log about publishes and subscriptions that services and commands had no right to.
    pub(crate) fn refusals(&self) -> Result<Vec<String>> {
        let log = fs::read(&self.log)?;
        let is_a_login =
            |line: &&str| rights::LOGINS.iter().any(|login| line.contains(&format!("/user:{}\" - ", login.name)));
        let text = String::from_utf8_lossy(&log);
        Ok(text.lines().filter(|line| line.contains(VIOLATION)).filter(is_a_login).map(str::to_owned).collect())
    }

    /// Kills it, if it still runs, and starts it again on the same data and ports.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = Process::start("nats-server", &self.command, None, Signal::Terminate, &self.log)?;
        Ok(())
    }

    /// Whether all servers take requests and, in a cluster, have found each other. Before that no stream of three
    /// replicas can be created.
    pub(crate) async fn all_answer(servers: &[Self]) -> bool {
        let mut complete = servers.len() == 1;
        for server in servers {
            let url = |path: &str| format!("http://127.0.0.1:{}/{path}", server.monitor_port);
            if !crate::http::get(&url("healthz"), None).await.is_ok_and(|reply| reply.status == 200) {
                return false;
            }
            // Only the leader knows whether the others are current.
            let Ok(reply) = crate::http::get(&url("jsz"), None).await else { return false };
            let others = reply.json["meta_cluster"]["replicas"].as_array().map_or(&[][..], Vec::as_slice);
            complete |= others.len() + 1 == servers.len() && others.iter().all(|other| other["current"] == true);
        }
        complete
    }
}
