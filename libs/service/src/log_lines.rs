//! Log lines: one JSON object each, which begins with the service and its instance.

use std::fmt;

use traces::Traces;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Logs JSON lines to standard output, filtered by `RUST_LOG` (default `info`), and exports spans if there are traces.
pub(crate) fn log_json(service: &str, instance: &str, traces: Option<&Traces>) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A line that cannot be written because the disk is full is lost. Reporting that on standard error, usually on the
    // same disk, would panic.
    let built = match traces {
        None => tracing_subscriber::fmt()
            .log_internal_errors(false)
            .fmt_fields(JsonFields::new())
            .event_format(Labelled::new(service, instance))
            .with_env_filter(filter)
            .try_init(),
        // The filter is the log's alone: the spans of traces are below its level.
        Some(traces) => {
            let lines = tracing_subscriber::fmt::layer()
                .log_internal_errors(false)
                .fmt_fields(JsonFields::new())
                .event_format(Labelled::new(service, instance))
                .with_filter(filter);
            let built = tracing_subscriber::registry().with(traces.layer()).with(lines).try_init();
            built.map_err(Into::into)
        }
    };
    if let Err(error) = built {
        eprintln!("logging is set up already: {error}");
    }
}

/// The host and the process: two instances differ in one of them, in containers in the first.
pub(crate) fn instance() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}/{}", host.trim(), std::process::id())
}

/// tracing's JSON with the labels in front, and with the trace of a line that is within an exported span.
struct Labelled {
    /// `{"service":"…","instance":"…",`
    labels: String,
    json: Format<Json>,
}

impl Labelled {
    fn new(service: &str, instance: &str) -> Self {
        let text = |value: &str| serde_json::Value::from(value).to_string();
        let labels = format!("{{\"service\":{},\"instance\":{},", text(service), text(instance));
        // The innermost span has the request; the list would repeat it.
        Self { labels, json: tracing_subscriber::fmt::format().json().with_span_list(false) }
    }
}

impl<S, N> FormatEvent<S, N> for Labelled
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> tracing_subscriber::fmt::FormatFields<'a> + 'static,
    Format<Json>: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.json.format_event(context, Writer::new(&mut line), event)?;
        writer.write_str(&self.labels)?;
        if let Some(trace_id) = traces::trace_id() {
            write!(writer, "\"trace_id\":\"{trace_id}\",")?;
        }
        writer.write_str(line.strip_prefix('{').unwrap_or(&line))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("a lock").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_names_service_instance_and_request() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(JsonFields::new())
            .event_format(Labelled::new("a \"service\"", "host/1"))
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(bids = 3, "without a request");
            tracing::error_span!("request", request_id = "mine-7").in_scope(|| tracing::warn!("within one"));
        });
        let text = String::from_utf8(written.0.lock().expect("a lock").clone()).expect("text");
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        assert_eq!(lines.len(), 2, "{text}");
        for line in &lines {
            assert_eq!((&line["service"], &line["instance"]), (&"a \"service\"".into(), &"host/1".into()), "{line}");
        }
        assert_eq!(lines[0]["fields"]["bids"], 3);
        assert_eq!(lines[1]["span"]["request_id"], "mine-7", "{text}");
        assert!(lines[1]["spans"].is_null(), "{text}");
    }
}
