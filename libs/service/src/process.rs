//! The life of a process: settings, logging, run, signals, exit code.

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use traces::Traces;

use crate::environment::{Environment, Mistakes, Reader};
use crate::http::HttpSettings;
use crate::tasks::DRAIN_TIMEOUT;

/// Cancelled when the process is asked to stop.
pub type Stop = CancellationToken;

/// Exit code for wrong settings (`EX_USAGE`).
const EXIT_USAGE: u8 = 64;
/// Time from the stop after which the process ends by force. It is the drain's limit and a margin, for code that hangs
/// and that the drain cannot stop.
const FORCE_AFTER: Duration = DRAIN_TIMEOUT.saturating_add(Duration::from_secs(2));
/// Longest `DRAIN_DELAY`. A load balancer that needs longer to notice an instance that is not ready is misconfigured.
const MAX_DRAIN_DELAY: Duration = Duration::from_secs(60);
/// File descriptors that a service needs beside its clients' connections: listeners, NATS, Redis, PostgreSQL, AWS, logs.
const OWN_FILES: u64 = 200;

/// Whether the process was asked to stop, and serves on for `DRAIN_DELAY`. A signal concerns the process, so this is one
/// value for the process.
static IS_DRAINING: AtomicBool = AtomicBool::new(false);

/// Whether the process was asked to stop.
pub(crate) fn is_draining() -> bool {
    IS_DRAINING.load(Ordering::Relaxed)
}

/// A service that runs until its stop. Boxed: a crate that awaits the future of another crate compiles all of its code
/// once more, which for a whole service takes a minute.
pub type Running<E> = Pin<Box<dyn Future<Output = Result<(), E>> + Send>>;

/// Runs a service from its settings to its exit code. `main.rs` calls nothing else.
pub fn main<C, E>(
    name: &'static str,
    read: fn(&Environment) -> Result<C, Mistakes>,
    run: fn(C, Stop) -> Running<E>,
) -> ExitCode
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let environment = Environment::of_process();
    let (Own { drain_delay, traces }, config) = match (settings(&environment), read(&environment)) {
        (Ok(own), Ok(config)) => (own, config),
        (own, of_service) => {
            let mistakes = [own.err(), of_service.err()].into_iter().flatten().flat_map(|mistakes| mistakes.0);
            let mistakes = Mistakes(mistakes.collect());
            eprintln!("{name}: the settings are wrong:\n{mistakes}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{name}: failed to start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let traces = start_logging(name, traces.as_ref());
        let stop = Stop::new();
        tokio::spawn(wait_for_signal(stop.clone(), drain_delay));
        tracing::info!(version = crate::VERSION, "starting");
        let result = run(config, stop).await;
        if let Some(traces) = traces {
            traces.finish().await;
        }
        match result {
            Ok(()) => {
                tracing::info!("stopped");
                ExitCode::SUCCESS
            }
            Err(error) => {
                let error = error.into();
                tracing::error!(error = %errors::chain(error.as_ref()), "service failed");
                ExitCode::FAILURE
            }
        }
    })
}

/// Logs, and exports traces if they have settings. A service whose traces cannot be exported runs without them.
fn start_logging(name: &'static str, traces: Option<&traces::Settings>) -> Option<Traces> {
    let instance = crate::log_lines::instance();
    let process = traces::Process { service: name, instance: &instance, version: crate::VERSION };
    let started = traces.map(|settings| Traces::start(settings, process)).transpose();
    let (traces, failed) = started.map_or_else(|error| (None, Some(error)), |traces| (traces, None));
    crate::log_lines::log_json(name, &instance, traces.as_ref());
    if let Some(error) = failed {
        tracing::error!(error = %errors::chain(&error), "failed to start the export of traces");
    }
    traces
}

/// Names of the settings that are read for every process, whatever its service.
pub const PROCESS_SETTINGS: [&str; 4] =
    ["DRAIN_DELAY", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER_ARG", "RUST_LOG"];

/// The values of these settings, but for the log level.
struct Own {
    drain_delay: Duration,
    /// None: no traces.
    traces: Option<traces::Settings>,
}

/// Reads `DRAIN_DELAY` and the settings of traces, raises the limit of open files to what the system allows, and checks
/// it against `MAX_CONNECTIONS`.
fn settings(environment: &Environment) -> Result<Own, Mistakes> {
    let mut reader = Reader::new(environment);
    let most = MAX_DRAIN_DELAY.as_secs();
    let seconds = reader.read("DRAIN_DELAY", 0, &format!("whole seconds, at most {most}"), |text| {
        text.parse().ok().filter(|seconds| *seconds <= most)
    });
    let traces = trace_settings(&mut reader);
    let connections = HttpSettings::read(&mut Reader::new(environment)).max_connections;
    let needed = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(OWN_FILES);
    // Where it cannot be raised, what is allowed already must do.
    let allowed = rlimit::increase_nofile_limit(u64::MAX).or_else(|_| rlimit::Resource::NOFILE.get_soft());
    if let Some(allowed) = allowed.ok().filter(|allowed| *allowed < needed) {
        reader.mistake(format!(
            "MAX_CONNECTIONS is {connections}, which needs {needed} open files; this process may open {allowed}. Raise \
             the limit (ulimit -n) or lower the setting"
        ));
    }
    reader.finish(Own { drain_delay: Duration::from_secs(seconds), traces })
}

/// Reads `OTEL_EXPORTER_OTLP_ENDPOINT` and `OTEL_TRACES_SAMPLER_ARG`.
fn trace_settings(reader: &mut Reader<'_>) -> Option<traces::Settings> {
    let ratio = reader.read("OTEL_TRACES_SAMPLER_ARG", 1.0, "a number from 0 to 1", |text| {
        text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
    });
    let endpoint =
        reader.read("OTEL_EXPORTER_OTLP_ENDPOINT", None, "an address such as http://10.0.0.1:4318", |text| {
            let uri: ::http::Uri = text.parse().ok()?;
            let is_address = matches!(uri.scheme_str(), Some("http" | "https")) && uri.query().is_none();
            is_address.then(|| Some(text.to_owned()))
        });
    endpoint.map(|endpoint| traces::Settings { endpoint, ratio })
}

/// Cancels `stop` at SIGTERM or SIGINT, and ends the process by force if it does not end then. Call it within a
/// runtime.
pub fn stop_on_signal(stop: Stop) {
    tokio::spawn(wait_for_signal(stop, Duration::ZERO));
}

/// During the `drain_delay` after a signal the process serves as before, but is not ready: load balancers send their
/// requests elsewhere before it refuses any. A second signal ends the delay.
async fn wait_for_signal(stop: Stop, drain_delay: Duration) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("failed to install signal handlers");
        return;
    };
    let mut signalled = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    signalled().await;
    IS_DRAINING.store(true, Ordering::Relaxed);
    if !drain_delay.is_zero() {
        tracing::info!(seconds = drain_delay.as_secs(), "not ready any more; will stop after the delay");
        _ = tokio::time::timeout(drain_delay, signalled()).await;
    }
    stop.cancel();
    tokio::time::sleep(FORCE_AFTER).await;
    tracing::error!("service did not stop in time");
    std::process::exit(1);
}
