//! `/metrics` in the two formats that collectors ask for.

use std::fmt;

use prometheus_client::registry::Registry;

/// The content type of OpenMetrics.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of the text format of Prometheus, which people and older collectors get.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every metric, in the format that `accept` asks for, with its content type.
pub fn encode(registry: &Registry, accept: Option<&str>) -> Result<(String, &'static str), fmt::Error> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)?;
    if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
        return Ok((text, OPEN_METRICS));
    }
    Ok((text_format(&text), TEXT))
}

/// The text format names a counter and an info by their samples, and has neither units nor an end.
fn text_format(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help: Option<&str> = None;
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => {}
            // Written with the type, which decides the name.
            (Some("#"), Some("HELP"), Some(_), sentence) => help = sentence,
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", kind),
                    "info" => ("_info", "gauge"),
                    _ => ("", kind),
                };
                let help = help.take().unwrap_or_default().trim_end_matches('.');
                text.push_str(&format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n"));
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::info::Info;

    use super::*;

    #[test]
    fn format_is_the_one_that_is_asked_for() {
        let mut registry = Registry::with_prefix("flash");
        let (bids, open): (Counter, Gauge) = Default::default();
        bids.inc_by(3);
        registry.register("bids", "Bids placed", bids);
        registry.register("open", "Open doors", open);
        registry.register("build", "The version", Info::new([("version", "1")]));
        let (text, kind) =
            encode(&registry, Some("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")).unwrap();
        assert!(
            kind == OPEN_METRICS && text.ends_with("# EOF\n") && text.contains("# TYPE flash_bids counter"),
            "{text}"
        );
        for accept in [None, Some("*/*"), Some("text/plain;version=0.0.4")] {
            let (text, kind) = encode(&registry, accept).unwrap();
            assert_eq!(kind, TEXT);
            assert_eq!(
                text,
                "# HELP flash_bids_total Bids placed\n# TYPE flash_bids_total counter\nflash_bids_total 3\n\
                 # HELP flash_open Open doors\n# TYPE flash_open gauge\nflash_open 0\n\
                 # HELP flash_build_info The version\n# TYPE flash_build_info gauge\nflash_build_info{version=\"1\"} 1\n"
            );
        }
    }
}
