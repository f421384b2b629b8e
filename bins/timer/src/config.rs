//! The settings of the timer.

use std::time::Duration;

use service::http::HttpSettings;
use service::{Environment, Listen, Mistakes, Reader};

/// The settings of one instance.
#[derive(Clone)]
pub struct Config {
    /// `LISTEN_ADDRESS`.
    pub listen: Listen,
    /// `CORS_ORIGINS` and `MAX_CONNECTIONS`.
    pub http: HttpSettings,
    /// `REDIS_URL` and `REDIS_CA_FILE`.
    pub redis: hotstate::Settings,
    /// `NATS_URL`, `NATS_CREDS` and the files of TLS.
    pub nats: bus::Settings,
    /// Time between two ticks of an auction: `TIMER_BROADCAST_INTERVAL`.
    pub broadcast_interval: Duration,
}

/// Port if `LISTEN_ADDRESS` is not set.
const DEFAULT_PORT: u16 = 8003;

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let interval = reader.read("TIMER_BROADCAST_INTERVAL", 1, "whole seconds from 1 to 60", |text| {
            text.parse().ok().filter(|seconds| (1..=60).contains(seconds))
        });
        let config = Self {
            listen: reader.listen(DEFAULT_PORT),
            http: HttpSettings::read(&mut reader),
            redis: reader.part(hotstate::Settings::read),
            nats: reader.part(bus::Settings::read),
            broadcast_interval: Duration::from_secs(interval),
        };
        reader.finish(config)
    }
}
