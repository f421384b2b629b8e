//! The settings of auction-notifications.

use service::http::HttpSettings;
use service::{Environment, Listen, Mistakes, Reader};

#[derive(Clone)]
pub struct Config {
    pub listen: Listen,
    pub http: HttpSettings,
    pub database_url: String,
    pub nats: bus::Settings,
    pub aws: cloud::Settings,
    pub queue_url: String,
    /// The sender of every mail.
    pub from: String,
}

const DEFAULT_PORT: u16 = 9005;

impl Config {
    /// # Errors
    /// Every mistake in the settings at once.
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
