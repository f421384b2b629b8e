//! The gauge of the election.

use std::fmt;

use bus::Election;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;

/// `flash_timer_elected`, computed when it is read: a lease runs out without an event.
#[derive(Debug)]
pub struct Elected(pub watch::Receiver<Election>);

impl Collector for Elected {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let gauge = ConstGauge::new(i64::from(self.0.borrow().token_now().is_some()));
        let help = "1 while this instance holds the lease and sends ticks, otherwise 0";
        gauge.encode(encoder.encode_descriptor("timer_elected", help, None, gauge.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::registry::Registry;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn gauge_is_one_only_while_the_lease_is_held() {
        let (elected, election) = watch::channel(Election::default());
        let mut registry = Registry::with_prefix("flash");
        registry.register_collector(Box::new(Elected(election)));
        let later = Instant::now() + Duration::from_secs(60);
        for (state, value) in [
            (Election::Vacant, 0),
            (Election::Other { until: later }, 0),
            (Election::Mine { token: 1, until: later }, 1),
            (Election::Mine { token: 1, until: Instant::now() }, 0),
        ] {
            elected.send_replace(state);
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
            assert!(text.contains(&format!("flash_timer_elected {value}\n")), "{state:?}: {text}");
        }
    }
}
