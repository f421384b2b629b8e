//! The settings of the timer.

use std::time::Duration;

use service::http::HttpSettings;
use service::{Environment, Listen, Mistakes, Reader};

#[derive(Clone)]
pub struct Config {
    pub listen: Listen,
    pub http: HttpSettings,
    pub redis_url: String,
    pub nats: bus::Settings,
    /// Between two ticks of an auction.
    pub broadcast_interval: Duration,
}

const DEFAULT_PORT: u16 = 8003;

impl Config {
    /// # Errors
    /// Every mistake in the settings at once.
    pub fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let interval = reader.read("TIMER_BROADCAST_INTERVAL", 1, "whole seconds from 1 to 60", |text| {
            text.parse().ok().filter(|seconds| (1..=60).contains(seconds))
        });
        let config = Self {
            listen: reader.listen(DEFAULT_PORT),
            http: HttpSettings::read(&mut reader),
            redis_url: reader.required("REDIS_URL"),
            nats: reader.part(bus::Settings::read),
            broadcast_interval: Duration::from_secs(interval),
        };
        reader.finish(config)
    }
}
