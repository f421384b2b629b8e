//! Finds the servers and installs missing ones: Debian packages by apt, Python packages into a private environment and
//! npm packages into a private folder, with pinned versions and hashes.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::run_quietly;

/// Versions and hashes of the AWS emulator and of nats-server.
const REQUIREMENTS: &str = include_str!("../requirements.txt");
/// Versions and hashes of the Python clients that tests use.
const PYTHON_CLIENTS: &str = include_str!("../python-clients.txt");
/// npm packages that tests use: clients of the edge, and what drives and judges the web page.
const NODE_PACKAGE: &str = include_str!("../node/package.json");
const NODE_LOCK: &str = include_str!("../node/package-lock.json");
/// The module of a receiver of traces, with its versions and hashes.
const RECEIVER_MODULE: &str = include_str!("../otlp-receiver/go.mod");
const RECEIVER_SUMS: &str = include_str!("../otlp-receiver/go.sum");
/// Its package, and the name of the program.
const RECEIVER_PACKAGE: &str = "github.com/equinix-labs/otel-cli";
/// Oldest nats-server that is used. Older ones do not sync each message with `sync_interval: always` and lack fixes of
/// republishing.
const OLDEST_NATS: [u32; 3] = [2, 12, 8];

/// Paths of the programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// nats-server.
    pub nats_server: PathBuf,
    /// redis-server.
    pub redis_server: PathBuf,
    /// The directory with `initdb` and `postgres`.
    pub postgres: PathBuf,
    /// The AWS emulator.
    pub moto_server: PathBuf,
}

/// Packages are missing and cannot be installed by this process.
#[derive(Debug, thiserror::Error)]
#[error("{} missing and cannot be installed from here. Run this, then try again:\n\n  {line}\n", packages.join(" "))]
pub struct Missing {
    /// Names of the missing Debian packages.
    pub packages: Vec<&'static str>,
    /// A shell command that installs them.
    pub line: String,
}

/// Finds all programs and installs missing ones. `tools` holds the Python environment; `say` is called before long
/// steps.
///
/// # Errors
/// [`Missing`] if packages cannot be installed by this process.
pub fn ensure(tools: &Path, say: &dyn Fn(&str)) -> Result<Programs> {
    let mut packages = Vec::new();
    if on_path("redis-server").is_none() {
        packages.push("redis-server");
    }
    if postgres_directory().is_none() {
        packages.push("postgresql");
    }
    let python_ready = run_quietly(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_ok();
    if !python_ready {
        packages.push("python3-venv");
    }
    if on_path("setpriv").is_none() {
        packages.push("util-linux");
    }
    if !packages.is_empty() {
        apt_install(packages, say)?;
    }
    let environment = python_environment(tools, say)?;
    let nats_server =
        on_path("nats-server").filter(|path| recent_nats(path)).unwrap_or_else(|| environment.join("bin/nats-server"));
    Ok(Programs {
        nats_server,
        redis_server: on_path("redis-server").context("redis-server is not on PATH")?,
        postgres: postgres_directory().context("PostgreSQL's programs cannot be found")?,
        moto_server: environment.join("bin/moto_server"),
    })
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|candidate| candidate.is_file())
}

/// The directory of PostgreSQL's programs. Debian installs them outside PATH, one directory for each version; the
/// newest is used.
fn postgres_directory() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").is_file() && bin.join("postgres").is_file())
        .max_by_key(|(version, _)| *version);
    newest.map(|(_, bin)| bin).or_else(|| {
        let bin = on_path("initdb")?.parent()?.to_owned();
        bin.join("postgres").is_file().then_some(bin)
    })
}

/// Whether this nats-server is recent enough.
fn recent_nats(path: &Path) -> bool {
    let Ok(output) = Command::new(path).arg("--version").output() else { return false };
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(version) = text.trim().rsplit('v').next() else { return false };
    let mut parts = version.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let found = [(); 3].map(|()| parts.next().unwrap_or(0));
    found >= OLDEST_NATS
}

fn apt_install(packages: Vec<&'static str>, say: &dyn Fn(&str)) -> Result<()> {
    let names = packages.join(" ");
    let install = format!("apt-get update && apt-get install -y --no-install-recommends {names}");
    let line = format!("sudo sh -c '{install}'");
    let root = is_root();
    let can_ask = std::io::stdin().is_terminal();
    let sudo = !root
        && on_path("sudo").is_some()
        && (can_ask || run_quietly(Command::new("sudo").args(["-n", "true"])).is_ok());
    if on_path("apt-get").is_none() || !(root || sudo) {
        bail!(Missing { packages, line });
    }
    say(&format!("installing {names} (Debian packages)"));
    let mut command = if root { Command::new("sh") } else { Command::new("sudo") };
    if !root {
        command.arg("sh");
    }
    command.arg("-c").arg(format!("export DEBIAN_FRONTEND=noninteractive; {install}"));
    let status = command.stdout(std::io::stderr()).status().context("apt-get cannot be started")?;
    if !status.success() {
        bail!(Missing { packages, line });
    }
    Ok(())
}

/// Whether this process runs as root, which PostgreSQL does not accept.
#[must_use]
pub fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&match std::fs::metadata("/proc/self") {
        Ok(metadata) => metadata,
        Err(_) => return false,
    }) == 0
}

/// Installs the programs that bring up `docker-compose.yml` without pulling images. Only for long tests.
///
/// # Errors
/// [`Missing`] if packages cannot be installed by this process.
pub fn ensure_containers(say: &dyn Fn(&str)) -> Result<()> {
    let programs = ["dockerd", "containerd", "iptables", "docker-compose", "debootstrap"];
    if programs.iter().all(|program| on_path(program).is_some()) {
        return Ok(());
    }
    apt_install(vec!["docker.io", "iptables", "docker-compose", "debootstrap"], say)
}

/// Installs Prometheus with promtool, which evaluate the alarms. Only for long tests.
///
/// # Errors
/// [`Missing`] if packages cannot be installed by this process.
pub fn ensure_prometheus(say: &dyn Fn(&str)) -> Result<()> {
    if on_path("promtool").is_some() {
        return Ok(());
    }
    apt_install(vec!["prometheus"], say)
}

/// Finds or installs HAProxy, the ingress of a deployment. Only for long tests.
///
/// # Errors
/// [`Missing`] if packages cannot be installed by this process.
pub fn ensure_haproxy(say: &dyn Fn(&str)) -> Result<PathBuf> {
    // Debian's directory of servers is on the PATH of root alone.
    let of_debian = || Some(PathBuf::from("/usr/sbin/haproxy")).filter(|program| program.is_file());
    let found = || on_path("haproxy").or_else(of_debian);
    if found().is_none() {
        apt_install(vec!["haproxy"], say)?;
    }
    found().context("haproxy is not on PATH")
}

/// Finds or installs Chromium. Only for tests.
///
/// # Errors
/// [`Missing`] if packages cannot be installed by this process.
pub fn ensure_chromium(say: &dyn Fn(&str)) -> Result<PathBuf> {
    let found = || ["chromium", "google-chrome", "chromium-browser"].into_iter().find_map(on_path);
    if found().is_none() {
        apt_install(vec!["chromium"], say)?;
    }
    found().context("chromium is not on PATH")
}

/// Finds or installs node and the npm packages that tests use; returns the folder with `node_modules`. Only for tests.
///
/// # Errors
/// [`Missing`] if packages cannot be installed by this process.
pub fn ensure_node(tools: &Path, say: &dyn Fn(&str)) -> Result<PathBuf> {
    let missing: Vec<_> = [("node", "nodejs"), ("npm", "npm")]
        .into_iter()
        .filter_map(|(program, package)| on_path(program).is_none().then_some(package))
        .collect();
    if !missing.is_empty() {
        apt_install(missing, say)?;
    }
    let folder = tools.join("node");
    std::fs::create_dir_all(&folder)?;
    let lock = std::fs::File::create(tools.join("node.lock"))?;
    lock.lock()?;
    let stamp = folder.join("installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == NODE_LOCK) {
        return Ok(folder);
    }
    say("installing the clients and the browser's driver that tests use (npm packages)");
    std::fs::write(folder.join("package.json"), NODE_PACKAGE)?;
    std::fs::write(folder.join("package-lock.json"), NODE_LOCK)?;
    let npm = ["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"];
    run_quietly(Command::new("npm").args(npm).current_dir(&folder)).context("the npm packages cannot be installed")?;
    std::fs::write(stamp, NODE_LOCK)?;
    Ok(folder)
}

/// Builds a receiver of traces, which needs Go 1.21 or newer; returns its program. Only for long tests.
///
/// # Errors
/// When Go is missing or the build fails.
pub fn ensure_otlp_receiver(tools: &Path, say: &dyn Fn(&str)) -> Result<PathBuf> {
    let folder = tools.join("otlp-receiver");
    std::fs::create_dir_all(&folder)?;
    let lock = std::fs::File::create(tools.join("otlp-receiver.lock"))?;
    lock.lock()?;
    let (program, stamp) = (folder.join("otel-cli"), folder.join("installed"));
    if program.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|text| text == RECEIVER_SUMS) {
        return Ok(program);
    }
    say("building the receiver of traces that tests use (Go modules)");
    std::fs::write(folder.join("go.mod"), RECEIVER_MODULE)?;
    std::fs::write(folder.join("go.sum"), RECEIVER_SUMS)?;
    let build = ["build", "-mod=readonly", "-o", "otel-cli", RECEIVER_PACKAGE];
    run_quietly(Command::new("go").args(build).current_dir(&folder)).context("otel-cli cannot be built")?;
    std::fs::write(stamp, RECEIVER_SUMS)?;
    Ok(program)
}

/// Installs the Python packages of clients into an environment of their own; returns its interpreter. Only for tests.
///
/// # Errors
/// When they cannot be installed.
pub fn ensure_python_clients(tools: &Path, say: &dyn Fn(&str)) -> Result<PathBuf> {
    let (name, step) = ("python-clients", "installing the clients that tests use (Python packages)");
    Ok(python_packages(tools, name, PYTHON_CLIENTS, step, say)?.join("bin/python"))
}

/// The private Python environment of the servers.
fn python_environment(tools: &Path, say: &dyn Fn(&str)) -> Result<PathBuf> {
    python_packages(tools, "venv", REQUIREMENTS, "installing the AWS emulator and nats-server (Python packages)", say)
}

/// The Python environment `name` with these packages, created again if they have changed.
fn python_packages(tools: &Path, name: &str, requirements: &str, step: &str, say: &dyn Fn(&str)) -> Result<PathBuf> {
    let environment = tools.join(name);
    let stamp = environment.join("requirements.txt");
    let is_current = || std::fs::read_to_string(&stamp).is_ok_and(|text| text == requirements);
    if is_current() && run_quietly(Command::new(environment.join("bin/python")).arg("--version")).is_ok() {
        return Ok(environment);
    }
    say(step);
    std::fs::create_dir_all(tools)?;
    // Serialises concurrent installations (several tests, two terminals).
    let lock = std::fs::File::create(tools.join(format!("{name}.lock")))?;
    lock.lock()?;
    if is_current() {
        return Ok(environment);
    }
    if environment.exists() {
        std::fs::remove_dir_all(&environment)?;
    }
    run_quietly(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    let wanted = tools.join(format!("{name}.txt"));
    std::fs::write(&wanted, requirements)?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "-r"];
    run_quietly(Command::new(environment.join("bin/python")).args(pip).arg(&wanted))
        .context("the Python packages cannot be installed")?;
    std::fs::rename(&wanted, &stamp)?;
    Ok(environment)
}
