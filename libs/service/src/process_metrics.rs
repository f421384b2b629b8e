//! Metrics of the process itself: version, memory, processor time and open files.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Clock ticks of `/proc` in a second, on every Linux that Rust supports.
const TICKS_A_SECOND: f64 = 100.0;

/// Registers them.
pub fn register(registry: &mut Registry) {
    registry.register("build", "The version of this program", Info::new([("version", crate::VERSION)]));
    let dropped = "Spans of traces that were not exported: too many waited, or the collector did not take them";
    registry.register("trace_spans_dropped", dropped, traces::dropped());
    registry.register_collector(Box::new(Process));
}

/// Reads `/proc/self` when metrics are asked for. A file that cannot be read leaves its metric out.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        if let Some(bytes) = resident_bytes() {
            let gauge = ConstGauge::new(bytes);
            let help = "Memory of the process that is resident";
            gauge.encode(encoder.encode_descriptor(
                "process_resident_memory_bytes",
                help,
                None,
                gauge.metric_type(),
            )?)?;
        }
        if let Some(seconds) = processor_seconds() {
            let counter = ConstCounter::new(seconds);
            let help = "Processor time of the process, user and system";
            counter.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, counter.metric_type())?)?;
        }
        if let Some(files) = fs::read_dir("/proc/self/fd").ok().and_then(|files| i64::try_from(files.count()).ok()) {
            let gauge = ConstGauge::new(files);
            let help = "Open file descriptors of the process";
            gauge.encode(encoder.encode_descriptor("process_open_fds", help, None, gauge.metric_type())?)?;
        }
        if let Some(most) = open_files_limit() {
            let gauge = ConstGauge::new(most);
            let help = "File descriptors that the process may have open";
            gauge.encode(encoder.encode_descriptor("process_max_fds", help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

fn resident_bytes() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<i64>().ok().map(|kilobytes| kilobytes * 1024)
}

fn processor_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may contain spaces; the fields are counted after it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_A_SECOND)
}

fn open_files_limit() -> Option<i64> {
    i64::try_from(rlimit::Resource::NOFILE.get_soft().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_is_measured() {
        let mut registry = Registry::with_prefix("flash");
        register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_else(|| panic!("{name} in {text}"))
        };
        assert!(value("flash_process_resident_memory_bytes") > 100_000.0);
        assert!(value("flash_process_cpu_seconds_total") >= 0.0);
        assert!(value("flash_process_open_fds") > 2.0);
        assert!(value("flash_process_max_fds") >= value("flash_process_open_fds"));
        assert!(text.contains(&format!("flash_build_info{{version=\"{}\"}} 1", crate::VERSION)), "{text}");
    }
}
