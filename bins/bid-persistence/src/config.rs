//! The settings of bid-persistence.

use service::http::HttpSettings;
use service::{Environment, Listen, Mistakes, Reader};

/// The settings of one instance.
#[derive(Clone)]
pub struct Config {
    /// `LISTEN_ADDRESS`.
    pub listen: Listen,
    /// `CORS_ORIGINS` and `MAX_CONNECTIONS`.
    pub http: HttpSettings,
    /// `NATS_URL` and `NATS_CREDS`.
    pub nats: bus::Settings,
    /// `AWS_REGION`, `AWS_ENDPOINT_URL` and the credentials.
    pub aws: cloud::Settings,
    /// `DYNAMODB_BIDS_TABLE`.
    pub bids_table: String,
}

/// Port if `LISTEN_ADDRESS` is not set.
const DEFAULT_PORT: u16 = 9004;

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// Every mistake at once.
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
