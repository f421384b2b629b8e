//! The settings of bid-processing.

use admission::DEFAULT_PERSON_LIMIT_CENTS;
use domain::Amount;
use service::http::HttpSettings;
use service::{Environment, Listen, Mistakes, Reader};

use crate::sealing::LogKeys;

/// All settings of one instance.
#[derive(Clone)]
pub struct Config {
    /// The address of the HTTP server.
    pub listen: Listen,
    /// Limits of the HTTP server.
    pub http: HttpSettings,
    /// How to reach Redis, a single one or a cluster.
    pub redis: hotstate::Settings,
    /// How to reach NATS.
    pub nats: bus::Settings,
    /// Which tokens to accept.
    pub identity: identity::Settings,
    /// Bids of one person in a second; more are rejected with `rate_limited`.
    pub max_bids_per_user_per_second: u32,
    /// Accepted bids of one person in a day; more are rejected with `limit_exceeded`.
    pub max_bids_per_user_per_day: u32,
    /// The most that a person without an own limit may lead with at once; more is rejected with `limit_exceeded`. None: no limit.
    pub default_person_limit: Option<Amount>,
    /// Encrypt maximums and reserves in the log. Without a key they are refused.
    pub log_keys: LogKeys,
}

/// Port if `LISTEN_ADDRESS` is not set.
const DEFAULT_PORT: u16 = 8002;

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// Every mistake in the settings at once.
    pub fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let config = Self {
            listen: reader.listen(DEFAULT_PORT),
            http: HttpSettings::read(&mut reader),
            redis: reader.part(hotstate::Settings::read),
            nats: reader.part(bus::Settings::read),
            identity: reader.part(identity::Settings::read),
            max_bids_per_user_per_second: reader.parsed(
                "MAX_BIDS_PER_USER_PER_SECOND",
                admission::DEFAULT_BIDS_PER_SECOND,
                "a whole number",
            ),
            max_bids_per_user_per_day: reader.above_0("MAX_BIDS_PER_USER_PER_DAY", admission::DEFAULT_BIDS_PER_DAY),
            default_person_limit: reader.read(
                "DEFAULT_PERSON_LIMIT",
                Amount::from_stored(DEFAULT_PERSON_LIMIT_CENTS),
                "an amount such as 5000.00, or none",
                |text| if text == "none" { Some(None) } else { Amount::parse(text).ok().map(Some) },
            ),
            log_keys: reader.read(
                "LOG_SECRET_KEY",
                LogKeys::default(),
                "32 bytes as 64 hexadecimal digits or base64, or several such keys with commas between them",
                LogKeys::parse,
            ),
        };
        reader.finish(config)
    }
}
