//! The user and the data directory of PostgreSQL: it does not run as root, and its user must have access to the
//! directory.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::install::{Programs, is_root};
use crate::process::run_quietly;
use crate::tls::{Authority, Certified, Flaw};

/// The user that runs PostgreSQL if this process is root. Debian's package creates it.
const SERVER_USER: &str = "postgres";

/// The file of `pg_hba.conf`'s rules for a server with TLS, in the data directory.
pub const TLS_RULES: &str = "pg_hba_tls.conf";

/// The data directory and the user that runs the server.
pub struct Place {
    /// The data directory.
    pub directory: PathBuf,
    /// The user that runs the server, if it is not the user of this process.
    pub user: Option<&'static str>,
}

impl Place {
    /// Chooses `wanted`, or a directory in `/var/tmp` if PostgreSQL's user has no access to it.
    pub fn choose(wanted: &Path) -> Result<Self> {
        if !is_root() {
            return Ok(Self { directory: wanted.to_owned(), user: None });
        }
        let open = wanted.ancestors().skip(1).all(|ancestor| {
            ancestor.as_os_str().is_empty() || fs::metadata(ancestor).is_ok_and(|metadata| metadata.mode() & 0o001 != 0)
        });
        let directory = if open {
            wanted.to_owned()
        } else {
            let name: String =
                wanted.to_string_lossy().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
            Path::new("/var/tmp").join(format!("flash{name}"))
        };
        Ok(Self { directory, user: Some(SERVER_USER) })
    }

    /// Creates an empty database cluster with one superuser, unless it exists.
    pub fn initialize(&self, programs: &Programs, password: &str) -> Result<()> {
        if self.directory.join("PG_VERSION").exists() {
            return self.check_owner();
        }
        // Incomplete: the last start was interrupted.
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)?;
        }
        fs::create_dir_all(&self.directory)?;
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))?;
        let password_file = self.directory.with_extension("password");
        fs::write(&password_file, password)?;
        fs::set_permissions(&password_file, fs::Permissions::from_mode(0o600))?;
        if let Some(user) = self.user {
            let (uid, gid) = ids(user)?;
            chown(&self.directory, Some(uid), Some(gid))?;
            chown(&password_file, Some(uid), Some(gid))?;
        }
        let initdb = programs.postgres.join("initdb");
        let mut command = match self.user {
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", user, "--regid", user, "--init-groups", "--"]).arg(initdb);
                command
            }
            None => Command::new(initdb),
        };
        // initdb reads the current directory, to which its user may have no access.
        command.current_dir("/").args([
            "--auth=scram-sha-256",
            "--username=flash",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ]);
        command.arg("--pwfile").arg(&password_file).arg("--pgdata").arg(&self.directory);
        let made = run_quietly(&mut command);
        fs::remove_file(&password_file)?;
        made
    }

    /// Writes a certificate of this authority into the data directory, and rules that let no client in without TLS.
    pub fn secure(&self, authority: &Authority) -> Result<Certified> {
        let issued = authority.issue("postgres", Flaw::None)?;
        let rules = self.directory.join(TLS_RULES);
        fs::write(&rules, "hostssl all all 127.0.0.1/32 scram-sha-256\n")?;
        let own =
            Certified { cert_file: self.directory.join("server.pem"), key_file: self.directory.join("server-key.pem") };
        fs::copy(&issued.cert_file, &own.cert_file)?;
        fs::copy(&issued.key_file, &own.key_file)?;
        if let Some(user) = self.user {
            let (uid, gid) = ids(user)?;
            for file in [&rules, &own.cert_file, &own.key_file] {
                chown(file, Some(uid), Some(gid))?;
            }
        }
        Ok(own)
    }

    fn check_owner(&self) -> Result<()> {
        let owner = fs::metadata(&self.directory)?.uid();
        let ours = match self.user {
            Some(user) => ids(user)?.0 == owner,
            None => fs::metadata("/proc/self")?.uid() == owner,
        };
        if !ours {
            bail!(
                "{} belongs to another user; remove it, or start as the user that created it",
                self.directory.display()
            );
        }
        Ok(())
    }
}

fn ids(user: &str) -> Result<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd")?;
    let line = passwd.lines().find(|line| line.split(':').next() == Some(user));
    let fields: Vec<&str> = line.with_context(|| format!("there is no user {user}"))?.split(':').collect();
    Ok((fields[2].parse()?, fields[3].parse()?))
}

/// Removes the data directory that [`Place::choose`] chooses for `wanted`.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_data(wanted: &Path) -> Result<()> {
    let directory = Place::choose(wanted)?.directory;
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    Ok(())
}
