//! The settings of the edge.

use admission::Rate;
use http::uri::Authority;
use service::http::HttpSettings;
use service::{Environment, Listen, Mistakes, Reader};

use crate::forward::OwnerAddresses;
use crate::near_client::NearTls;
use crate::pace;
use crate::page_config::PageConfig;
use crate::places::PlaceLimits;

/// Settings of one edge, read at its start.
#[derive(Clone)]
pub struct Config {
    /// Address and port of the listener.
    pub listen: Listen,
    /// Allowed origins, connections at once, and the timeouts of HTTP.
    pub http: HttpSettings,
    /// Where other edges reach this one; None: [`crate::peers::own_address`].
    pub edge_address: Option<Authority>,
    /// Where Redis is, for chat limits and the shared clock.
    pub redis: hotstate::Settings,
    /// How NATS is reached.
    pub nats: bus::Settings,
    /// The issuer and client whose tokens are accepted.
    pub identity: identity::Settings,
    /// Bids of one person in a second. The same setting as in bid-processing: bids that the edge rejects count as well.
    pub max_bids_per_user_per_second: u32,
    /// Connections in one room.
    pub max_connections_per_auction: usize,
    /// Connections of one person.
    pub max_connections_per_user: usize,
    /// Connections that watch without a token.
    pub max_anonymous_connections: usize,
    /// The certificates of other services and edges.
    pub near_tls: NearTls,
    /// Services that own paths under `/api`.
    pub owners: OwnerAddresses,
    /// Whether everyone but an auction's host sees aliases in place of names. The same setting as in auction-management.
    pub show_aliases: bool,
    /// The content of `/config.json`.
    pub page: PageConfig,
    /// Connections accepted at once and in a second.
    pub accepting: Rate,
}

/// Port if `LISTEN_ADDRESS` is not set.
const DEFAULT_PORT: u16 = 8001;
/// Connections accepted in a second. About as many as two cores can authenticate: with more, all of them would wait.
const DEFAULT_NEW_CONNECTIONS_PER_SECOND: u32 = 5_000;

/// Part of all connections that may watch without a token: half. People with one always find the other half.
const ANONYMOUS_PART: usize = 2;
/// Connections of one person: several tabs on several devices, and a script or two.
const DEFAULT_CONNECTIONS_PER_USER: usize = 50;

impl Config {
    /// How many connections there may be, and how fast they may come and send.
    pub fn places(&self) -> PlaceLimits {
        PlaceLimits {
            connections: self.http.max_connections,
            per_person: self.max_connections_per_user,
            anonymous: self.max_anonymous_connections,
            per_address: self.http.max_connections_per_address,
            accepting: self.accepting,
            frames_per_person: pace::of_person(self.max_bids_per_user_per_second),
        }
    }

    /// Reads the settings from the environment.
    ///
    /// # Errors
    /// Every mistake in the settings at once.
    pub fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let http = HttpSettings::read(&mut reader);
        let new_connections = reader.above_0("MAX_NEW_CONNECTIONS_PER_SECOND", DEFAULT_NEW_CONNECTIONS_PER_SECOND);
        let address = |text: &str| text.parse().ok().filter(|address: &Authority| address.port().is_some()).map(Some);
        let identity = reader.part(identity::Settings::read);
        let near_tls = NearTls::read(&mut reader);
        let show_aliases = reader.parsed("SHOW_ALIASES", false, "true or false");
        let config = Self {
            page: PageConfig::read(&mut reader, &identity, show_aliases),
            show_aliases,
            owners: OwnerAddresses::read(&mut reader, &near_tls),
            near_tls,
            max_anonymous_connections: reader
                .above_0("MAX_ANONYMOUS_CONNECTIONS", http.max_connections.div_ceil(ANONYMOUS_PART)),
            identity,
            edge_address: reader.read("EDGE_ADDRESS", None, "a host and port such as 10.0.0.7:8001", address),
            listen: reader.listen(DEFAULT_PORT),
            max_connections_per_auction: reader.above_0("MAX_CONNECTIONS_PER_AUCTION", http.max_connections),
            max_connections_per_user: reader.above_0("MAX_CONNECTIONS_PER_USER", DEFAULT_CONNECTIONS_PER_USER),
            accepting: Rate { at_once: new_connections, per_second: new_connections },
            http,
            redis: reader.part(hotstate::Settings::read),
            nats: reader.part(bus::Settings::read),
            max_bids_per_user_per_second: reader.parsed(
                "MAX_BIDS_PER_USER_PER_SECOND",
                admission::DEFAULT_BIDS_PER_SECOND,
                "a whole number",
            ),
        };
        reader.finish(config)
    }
}
