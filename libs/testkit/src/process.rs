//! Child processes that cannot outlive this process.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{LazyLock, OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Interval between two checks whether a child has ended.
const POLL: Duration = Duration::from_millis(20);

/// Time for a process to stop after SIGSTOP. A thread in a call that cannot be interrupted, such as a sync of its file to
/// a busy disk, stops only after it.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    /// Name of the program, for messages.
    pub name: &'static str,
    child: Child,
    log: PathBuf,
}

/// Signals to a child.
#[derive(Debug, Clone, Copy)]
pub enum Signal {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
    /// SIGHUP: nats-server and PostgreSQL read their configuration and certificates again.
    Hangup,
    /// SIGSTOP: stops execution until `Continue`.
    Stop,
    /// SIGCONT.
    Continue,
    /// SIGUSR2. nats-server then accepts no new clients, asks its clients to reconnect elsewhere, and ends.
    LameDuck,
    /// SIGUSR2 to the master of HAProxy: a new worker reads the configuration, the old one keeps its connections.
    Reload,
}

impl Signal {
    const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "INT",
            Self::Terminate => "TERM",
            Self::Kill => "KILL",
            Self::Hangup => "HUP",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
            Self::LameDuck | Self::Reload => "USR2",
        }
    }
}

/// A command to start, and the channel for the child.
type Order = (Command, mpsc::SyncSender<std::io::Result<Child>>);

/// The thread that starts all children. The kernel signals a child when the thread that started it ends, so that this
/// thread must live as long as the process.
fn spawner_thread() -> &'static mpsc::SyncSender<Order> {
    static SPAWNER: OnceLock<mpsc::SyncSender<Order>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::sync_channel::<Order>(16);
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                // If the receiver is gone, the child is killed when its handle is dropped.
                drop(reply.send(command.spawn()));
            }
        });
        orders
    })
}

impl Process {
    /// Starts `command` (program, arguments, environment) under `setpriv`, so that the kernel sends it `at_our_death`
    /// when this process ends. It runs as `user` if one is given, with output to the file `log`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(
        name: &'static str,
        command: &Command,
        user: Option<&str>,
        at_our_death: Signal,
        log: &Path,
    ) -> Result<Self> {
        let output =
            File::options().create(true).append(true).open(log).with_context(|| format!("{}", log.display()))?;
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", at_our_death.name()]);
        if let Some(user) = user {
            wrapped.args(["--reuid", user, "--regid", user, "--init-groups"]);
        }
        wrapped.arg("--").arg(command.get_program()).args(command.get_args());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(variable, value),
                None => wrapped.env_remove(variable),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            wrapped.current_dir(directory);
        }
        // A separate process group: Ctrl-C in the terminal reaches only this process, which ends its children in order.
        std::os::unix::process::CommandExt::process_group(&mut wrapped, 0);
        wrapped.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let (reply, started) = mpsc::sync_channel(1);
        spawner_thread().send((wrapped, reply)).map_err(|_| anyhow::anyhow!("no child can be started"))?;
        let child = started.recv()?.with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { name, child, log: log.to_owned() })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if the process has ended; the error contains the end of its log.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(15)..].join("\n");
            bail!("{} ended ({status}); the end of {}:\n{tail}", self.name, self.log.display());
        }
        Ok(())
    }

    /// Sends a signal. After [`Signal::Stop`] it waits until every thread has stopped, which on a busy machine is not at
    /// once: a server could still answer what a test asks next.
    ///
    /// # Errors
    /// When the process is gone, or does not stop.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        run_quietly(Command::new("kill").arg("-s").arg(signal.name()).arg("--").arg(self.pid().to_string()))?;
        if matches!(signal, Signal::Stop) {
            let deadline = Instant::now() + STOPS_WITHIN;
            while !self.is_stopped()? {
                anyhow::ensure!(Instant::now() < deadline, "{} does not stop", self.name);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Whether every thread has stopped, or ended.
    fn is_stopped(&self) -> Result<bool> {
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            // A thread may end at this moment. Its state follows its name, which is in parentheses.
            let stat = std::fs::read_to_string(thread?.path().join("stat")).unwrap_or_default();
            let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
            if state.is_some_and(|state| !"TtZX".contains(state)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends a signal to the process and all its children.
    ///
    /// # Errors
    /// When they are gone.
    pub fn signal_family(&self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        run_quietly(Command::new("pkill").args(["--signal", signal.name(), "--parent", &self.pid().to_string()]))
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it still runs after `patience`.
    pub async fn ended(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while self.child.try_wait()?.is_none() {
            anyhow::ensure!(Instant::now() < deadline, "{} still runs", self.name);
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Sends the signal, and kills the process if it has not ended after `patience`. True if it ended by itself with
    /// success. Blocks.
    pub fn stop(&mut self, signal: Signal, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        if matches!(self.child.try_wait(), Ok(None))
            && let Err(error) = self.signal(signal)
        {
            tracing::warn!(process = self.name, ?signal, error = format!("{error:#}"), "failed to send a signal");
            self.kill();
        }
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    if !status.success() {
                        tracing::warn!(process = self.name, %status, "process failed when it was to stop");
                    }
                    return status.success();
                }
                Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL),
                Ok(None) | Err(_) => {
                    self.kill();
                    return false;
                }
            }
        }
    }

    /// Kills the process and waits for its end.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a short command to its end, without output.
///
/// # Errors
/// When it cannot be started or fails; the error contains its output.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Ports that servers may get. They are below the ports of outgoing connections (on Linux from 32768), so that between
/// the check and the server's bind only another server can take one.
const PORTS: std::ops::Range<u16> = 10_000..31_000;
/// Attempts to find free ports.
const PORT_ATTEMPTS: usize = 100;

/// A port `first` such that all ports `first + offset` were free on loopback a moment ago and were not returned by this
/// process recently: their servers may not have bound them yet.
///
/// # Errors
/// When there are none.
pub fn free_ports(offsets: &[u16]) -> Result<u16> {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(..)));
    let span = offsets.iter().max().map_or(1, |last| last + 1);
    for _ in 0..PORT_ATTEMPTS {
        let first = PORTS.start + NEXT.fetch_add(span, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        if offsets.iter().all(|offset| TcpListener::bind(("127.0.0.1", first + offset)).is_ok()) {
            return Ok(first);
        }
    }
    bail!("no free port was found")
}

/// A listener on an address that can be bound again after it was closed. On port 0 it would get one that the next outgoing
/// connection may take.
///
/// # Errors
/// When no port is free.
pub fn free_listener() -> Result<TcpListener> {
    Ok(TcpListener::bind(("127.0.0.1", free_port()?))?)
}

/// A loopback port that was free a moment ago.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    free_ports(&[0])
}
