//! Traces, as OpenTelemetry has them: spans that are exported to a collector over OTLP, and the context by which one
//! process continues the trace of another.
//!
//! **Owns** the exporter, its queue and the header `traceparent`.
//!
//! **Never** slows or fails what it traces: a span that does not fit into the queue, or that the collector does not
//! take, is dropped and counted.
//!
//! **Invariants**
//! - Without a collector no span is created and no header is sent.
//! - Spans have the target [`TARGET`], so that they neither change nor fill log lines.
//! - A process starts traces for requests of clients alone. Everything else continues a trace or is in none.

#![warn(missing_docs)]

mod collector;
mod context;
mod queue;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

pub use context::{Context, TRACEPARENT, record, trace_id, within};
pub use queue::dropped;

/// Target of the spans that are exported.
pub const TARGET: &str = "traces";

/// Time limit of one export, with its repetitions. The spans of that time wait in the queue.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for the last export when stopping, within the margin after the drain.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether the process exports spans. A subscriber is one for the process, and so is this.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// Whether this process exports spans.
#[must_use]
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Where traces go, and how many.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of the collector, without `/v1/traces`.
    pub endpoint: String,
    /// Share of the traces that is exported, from 0 to 1, where the caller has not decided already.
    pub ratio: f64,
}

/// The process, as its spans name it.
#[derive(Debug, Clone, Copy)]
pub struct Process<'a> {
    /// Its service.
    pub service: &'static str,
    /// The instance of the service.
    pub instance: &'a str,
    /// Its version.
    pub version: &'static str,
}

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificates of this machine cannot be read.
    #[error("failed to load the system's certificates")]
    Roots(#[source] std::io::Error),
    /// The exporter rejects its settings.
    #[error("failed to set up the exporter of traces")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
}

/// The exporter of this process.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Starts exporting. Call it within a runtime, which sends the requests. An unreachable collector is no error.
    ///
    /// # Errors
    /// When the exporter cannot be set up.
    pub fn start(settings: &Settings, process: Process<'_>) -> Result<Self, StartError> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", settings.endpoint.trim_end_matches('/')))
            .with_timeout(EXPORT_TIMEOUT)
            .with_http_client(collector::Client::new().map_err(StartError::Roots)?)
            .build()
            .map_err(StartError::Exporter)?;
        let resource = Resource::builder()
            .with_service_name(process.service)
            .with_attribute(KeyValue::new("service.instance.id", process.instance.to_owned()))
            .with_attribute(KeyValue::new("service.version", process.version))
            .build();
        let root = Sampler::TraceIdRatioBased(settings.ratio);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(Sampler::ParentBased(Box::new(root)))
            .with_span_processor(queue::processor(exporter))
            .build();
        IS_ON.store(true, Ordering::Relaxed);
        Ok(Self(provider))
    }

    /// The part of the subscriber that takes the spans of [`TARGET`].
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("flash"))
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == TARGET))
    }

    /// Exports what is queued, for a second at most, and stops.
    pub async fn finish(self) {
        IS_ON.store(false, Ordering::Relaxed);
        // It blocks the thread.
        let flushing = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FLUSH_TIMEOUT));
        if let Ok(Err(error)) = flushing.await {
            tracing::debug!(error = %errors::chain(&error), "failed to export the last traces");
        }
    }
}

#[cfg(test)]
mod tests;
