//! The life of a process: settings, logging, run, signals, exit code.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::environment::{Environment, Mistakes};
use crate::tasks::DRAIN_TIMEOUT;

/// Cancelled when the process is asked to stop.
pub type Stop = CancellationToken;

/// Exit code for wrong settings (`EX_USAGE`).
const EXIT_USAGE: u8 = 64;
/// Time from the stop after which the process ends by force. It is the drain's limit and a margin, for code that hangs
/// and that the drain cannot stop.
const FORCE_AFTER: std::time::Duration = DRAIN_TIMEOUT.saturating_add(std::time::Duration::from_secs(2));

/// Runs a service from its settings to its exit code. `main.rs` calls nothing else.
pub fn main<C, F, E>(
    name: &'static str,
    read: fn(&Environment) -> Result<C, Mistakes>,
    run: fn(C, Stop) -> F,
) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let config = match read(&Environment::of_process()) {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("{name}: the settings are wrong:\n{mistakes}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    log_json();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{name}: failed to start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let stop = Stop::new();
        stop_on_signal(stop.clone());
        tracing::info!(service = name, version = crate::VERSION, "starting");
        match run(config, stop).await {
            Ok(()) => {
                tracing::info!(service = name, "stopped");
                ExitCode::SUCCESS
            }
            Err(error) => {
                let error = error.into();
                tracing::error!(service = name, error = %errors::chain(error.as_ref()), "service failed");
                ExitCode::FAILURE
            }
        }
    })
}

/// Cancels `stop` at SIGTERM or SIGINT, and ends the process by force if it does not end then. Call it within a
/// runtime.
pub fn stop_on_signal(stop: Stop) {
    tokio::spawn(wait_for_signal(stop));
}

async fn wait_for_signal(stop: Stop) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("failed to install signal handlers");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    tokio::time::sleep(FORCE_AFTER).await;
    tracing::error!("service did not stop in time");
    std::process::exit(1);
}

/// Logs JSON lines to standard output, filtered by `RUST_LOG` (default `info`).
pub fn log_json() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A line that cannot be written because the disk is full is lost. Reporting that on standard error, usually on the
    // same disk, would panic.
    let built = tracing_subscriber::fmt().json().with_env_filter(filter).log_internal_errors(false).try_init();
    if let Err(error) = built {
        eprintln!("logging is set up already: {error}");
    }
}
