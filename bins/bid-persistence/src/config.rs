//! The settings of bid-persistence.

use service::http::HttpSettings;
use service::{Environment, Listen, Mistakes, Reader};

#[derive(Clone)]
pub struct Config {
    pub listen: Listen,
    pub http: HttpSettings,
    pub nats: bus::Settings,
    pub aws: cloud::Settings,
    pub bids_table: String,
}

const DEFAULT_PORT: u16 = 9004;

impl Config {
    /// # Errors
    /// Every mistake in the settings at once.
    pub fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let config = Self {
            listen: reader.listen(DEFAULT_PORT),
            http: HttpSettings::read(&mut reader),
            nats: reader.part(bus::Settings::read),
            aws: reader.part(cloud::Settings::read),
            bids_table: reader.required("DYNAMODB_BIDS_TABLE"),
        };
        reader.finish(config)
    }
}
