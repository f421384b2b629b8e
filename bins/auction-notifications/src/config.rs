//! The settings of auction-notifications.

use service::http::HttpSettings;
use service::{Environment, Listen, Mistakes, Reader};

/// The settings of one instance.
#[derive(Clone)]
pub struct Config {
    /// `LISTEN_ADDRESS`.
    pub listen: Listen,
    /// `CORS_ORIGINS` and `MAX_CONNECTIONS`.
    pub http: HttpSettings,
    /// `DATABASE_URL`.
    pub database_url: String,
    /// `NATS_URL` and `NATS_CREDS`.
    pub nats: bus::Settings,
    /// `AWS_REGION`, `AWS_ENDPOINT_URL` and the credentials.
    pub aws: cloud::Settings,
    /// `SQS_NOTIFICATION_QUEUE_URL`.
    pub queue_url: String,
    /// The sender of every mail: `NOTIFY_FROM_EMAIL`.
    pub from: String,
}

/// Port if `LISTEN_ADDRESS` is not set.
const DEFAULT_PORT: u16 = 9005;

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
            database_url: reader.required("DATABASE_URL"),
            nats: reader.part(bus::Settings::read),
            aws: reader.part(cloud::Settings::read),
            queue_url: reader.required("SQS_NOTIFICATION_QUEUE_URL"),
            from: reader.required("NOTIFY_FROM_EMAIL"),
        };
        reader.finish(config)
    }
}
