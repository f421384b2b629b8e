//! Bounds the spans that wait for their export, and counts those that are dropped.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use opentelemetry_otlp::SpanExporter as OtlpExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};
use prometheus_client::metrics::counter::Counter;

/// Spans that wait for their export or are being exported: some megabytes, and what a collector that was restarted
/// misses of a thousand traces.
pub(crate) const MAX_SPANS: usize = 8_192;
/// Spans of one request.
const MAX_SPANS_IN_A_REQUEST: usize = 512;
/// Time after which spans are exported although few wait. A person who looks for a trace waits as long.
const EXPORT_EVERY: Duration = Duration::from_secs(1);

static DROPPED: LazyLock<Counter> = LazyLock::new(Counter::default);

/// Spans of this process that were not exported: the queue was full, or the collector did not take them.
#[must_use]
pub fn dropped() -> Counter {
    DROPPED.clone()
}

fn drop_spans(count: usize) {
    DROPPED.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
}

/// The queue in front of an exporter.
pub(crate) fn processor(exporter: OtlpExporter) -> Bounded {
    let queued = Arc::<AtomicUsize>::default();
    let exporter = Counted { exporter, queued: Arc::clone(&queued), is_failing: AtomicBool::new(false) };
    // Not from OTEL_BSP_…: the bound is this queue's.
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(MAX_SPANS)
        .with_max_export_batch_size(MAX_SPANS_IN_A_REQUEST)
        .with_scheduled_delay(EXPORT_EVERY)
        .build();
    Bounded { batches: BatchSpanProcessor::builder(exporter).with_batch_config(config).build(), queued }
}

/// Takes spans while there is room. The processor of the library would drop them as well, and does not say how many.
#[derive(Debug)]
pub(crate) struct Bounded {
    batches: BatchSpanProcessor,
    queued: Arc<AtomicUsize>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &opentelemetry::Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.queued.fetch_add(1, Ordering::Relaxed) < MAX_SPANS {
            self.batches.on_end(span);
        } else {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            drop_spans(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// Exports spans, and counts those that the collector does not take.
#[derive(Debug)]
struct Counted {
    exporter: OtlpExporter,
    queued: Arc<AtomicUsize>,
    is_failing: AtomicBool,
}

impl SpanExporter for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let result = self.exporter.export(batch).await;
        self.queued.fetch_sub(count, Ordering::Relaxed);
        let was_failing = self.is_failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Ok(()) if was_failing => tracing::info!("the collector takes traces again"),
            Ok(()) => {}
            Err(error) => {
                drop_spans(count);
                // The first failure in a row is logged; the collector may be away for hours.
                if !was_failing {
                    tracing::warn!(error = %errors::chain(error), "failed to export traces; they are dropped");
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
