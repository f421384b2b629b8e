//! The settings of the edge.

use admission::Rate;
use service::http::HttpSettings;
use service::{Environment, Listen, Mistakes, Reader};

#[derive(Clone)]
pub struct Config {
    pub listen: Listen,
    pub http: HttpSettings,
    pub redis_url: String,
    pub nats: bus::Settings,
    pub identity: identity::Settings,
    /// As bid-processing's: what the edge refuses by itself counts as well.
    pub max_bids_per_user_per_second: u32,
    pub max_connections_per_auction: usize,
    pub accepting: Rate,
}

const DEFAULT_PORT: u16 = 8001;
/// About what two cores can let in: more would only make everybody wait.
const DEFAULT_NEW_CONNECTIONS_PER_SECOND: u32 = 5_000;

impl Config {
    /// # Errors
    /// Every mistake in the settings at once.
    pub fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let http = HttpSettings::read(&mut reader);
        let new_connections = reader.above_0("MAX_NEW_CONNECTIONS_PER_SECOND", DEFAULT_NEW_CONNECTIONS_PER_SECOND);
        let config = Self {
            listen: reader.listen(DEFAULT_PORT),
            max_connections_per_auction: reader.above_0("MAX_CONNECTIONS_PER_AUCTION", http.max_connections),
            accepting: Rate { at_once: new_connections, per_second: new_connections },
            http,
            redis_url: reader.required("REDIS_URL"),
            nats: reader.part(bus::Settings::read),
            identity: reader.part(identity::Settings::read),
            max_bids_per_user_per_second: reader.parsed(
                "MAX_BIDS_PER_USER_PER_SECOND",
                admission::DEFAULT_BIDS_PER_SECOND,
                "a whole number",
            ),
        };
        reader.finish(config)
    }
}
