//! Settings that the servers of a stack share: passwords, numbers of servers, timeouts.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use protocol::rights;
use serde::{Deserialize, Serialize};

/// Time from the start of a server until it must answer. A killed PostgreSQL first syncs every file of its directory,
/// which took more than half a minute on a disk that was busy with other work.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Interval between two checks whether a server answers.
pub(crate) const POLL: Duration = Duration::from_millis(25);

/// The NATS user of tests and of `flash`, which may do everything. No configuration for production has it.
pub const DEVELOPER: &str = "developer";

/// Passwords of a stack's servers, generated once and kept with its data.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// Password of each NATS user.
    #[serde(default)]
    pub nats: BTreeMap<String, String>,
    /// Password of each Redis user with restricted rights.
    #[serde(default)]
    pub redis_users: BTreeMap<String, String>,
    /// Password of each PostgreSQL login with restricted rights.
    #[serde(default)]
    pub postgres_users: BTreeMap<String, String>,
    /// Password of Redis' user `default`.
    #[serde(default)]
    pub redis: String,
    /// Password of the PostgreSQL user `flash`, which owns the tables.
    #[serde(default)]
    pub postgres: String,
    /// The key of the secrets in the log: `LOG_SECRET_KEY`.
    #[serde(default)]
    pub log_key: String,
}

impl Secrets {
    /// Reads the passwords in `directory`, and generates and stores those that are missing.
    ///
    /// # Errors
    /// When the file is damaged or cannot be written.
    pub fn of(directory: &Path) -> Result<Self> {
        let file = directory.join("secrets.json");
        let stored: Self = match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{} is damaged", file.display()))?,
            Err(_) => Self::default(),
        };
        let secrets = stored.clone().completed();
        if secrets != stored {
            write_private(&file, &serde_json::to_vec_pretty(&secrets)?)?;
        }
        Ok(secrets)
    }

    fn completed(mut self) -> Self {
        let people = [rights::OPERATOR, rights::ADMIN, rights::SYSTEM, DEVELOPER];
        for user in rights::LOGINS.iter().map(|login| login.name).chain(people) {
            self.nats.entry(user.to_owned()).or_insert_with(new_secret);
        }
        for login in &rights::LOGINS {
            if login.redis.is_some() {
                self.redis_users.entry(login.name.to_owned()).or_insert_with(new_secret);
            }
            if !login.tables.is_empty() {
                self.postgres_users.entry(login.name.to_owned()).or_insert_with(new_secret);
            }
        }
        for password in [&mut self.redis, &mut self.postgres] {
            if password.is_empty() {
                *password = new_secret();
            }
        }
        if self.log_key.is_empty() {
            self.log_key = [(); 2].map(|()| uuid::Uuid::new_v4().simple().to_string()).concat();
        }
        self
    }
}

/// A random password of letters only: nats-server would read a leading digit in a variable as a number.
pub(crate) fn new_secret() -> String {
    uuid::Uuid::new_v4().simple().to_string().bytes().map(|byte| char::from(b'g' + byte % 16)).collect()
}

/// Numbers of servers, and whether NATS is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Number of nats-servers: one, or three that form a cluster.
    pub nats_servers: usize,
    /// Number of Redis masters: one Redis, or three masters of a Redis Cluster with a replica each.
    pub redis_masters: usize,
    /// NATS answers before it syncs, as its default says. Only for the control of a run that loses power, which must
    /// then lose data.
    pub unsynced: bool,
    /// NATS, Redis, PostgreSQL and the services speak TLS alone.
    pub tls: bool,
}

/// Variable of the environment that gives every stack TLS that does not say otherwise: the tests then run over TLS.
pub const TLS_VARIABLE: &str = "FLASH_TEST_TLS";

impl Default for Topology {
    fn default() -> Self {
        Self { nats_servers: 1, redis_masters: 1, unsynced: false, tls: std::env::var_os(TLS_VARIABLE).is_some() }
    }
}

/// Writes a file that only its owner can read, completely or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write_private(file: &Path, bytes: &[u8]) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, bytes)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    Ok(fs::rename(new, file)?)
}
