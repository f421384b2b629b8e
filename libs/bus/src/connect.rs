//! The connection to NATS, one for each service.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerError, jetstream};
use prometheus_client::registry::Registry;
use protocol::rights;
use protocol::subject::LEASES_BUCKET;

use crate::api;
use crate::refusals::Refusals;
use crate::request::Requests;
use crate::tls::Tls;

/// The NATS servers and the credentials to use.
#[derive(Clone, Default)]
pub struct Settings {
    /// `nats://user:password@host:port`, or `tls://…`; several servers are separated by commas.
    pub url: String,
    /// Path of a credentials file, used in place of user and password.
    pub credentials_file: Option<String>,
    /// Certificates.
    pub tls: Tls,
}

impl Settings {
    /// Reads `NATS_URL`, `NATS_CREDS`, `NATS_CA_FILE`, `NATS_CERT_FILE` and `NATS_KEY_FILE`.
    ///
    /// # Errors
    /// The names of the missing variables.
    pub fn read(find: &dyn Fn(&str) -> Option<String>) -> Result<Self, Vec<&'static str>> {
        let (url, credentials_file, tls) = (find("NATS_URL"), find("NATS_CREDS"), Tls::read(find));
        Ok(Self { url: url.ok_or_else(|| vec!["NATS_URL"])?, credentials_file, tls: tls? })
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The login of an address is not `user:password@`.
    #[error("NATS_URL has a user without a password")]
    Login,
    /// An address cannot be parsed. Its login is not part of the source.
    #[error("NATS_URL is not a valid address")]
    Address(#[source] std::io::Error),
    /// `NATS_CREDS` is missing or malformed.
    #[error("failed to read the NATS credentials file")]
    Credentials(#[source] std::io::Error),
    /// No server accepted the connection.
    #[error("failed to connect to NATS{}", if *with_tls { " with TLS" } else { "" })]
    Connect {
        /// Whether TLS was required.
        with_tls: bool,
        /// The error of the last server.
        source: async_nats::ConnectError,
    },
}

impl ConnectError {
    /// Whether a later attempt may succeed: no server has answered. A login that is refused stays refused.
    #[must_use]
    pub fn is_away(&self) -> bool {
        use async_nats::ConnectErrorKind::{Io, TimedOut};
        matches!(self, Self::Connect { source, .. } if matches!(source.kind(), Io | TimedOut))
    }
}

/// Messages that may wait in one subscription before newer ones are dropped. Subscribers to events notice the gap and
/// read the log.
const SUBSCRIPTION_MESSAGES: usize = 16_384;
/// Time limit of one connection attempt to one server.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit of JetStream API calls and of acknowledgements of appends. It is below the three seconds a bidder waits.
pub(crate) const JETSTREAM_TIMEOUT: Duration = Duration::from_millis(2_500);
/// Longest pause between two connection attempts. It grows by 20 ms with each attempt.
const MAX_RECONNECT_DELAY: Duration = Duration::from_millis(500);

/// The connection. A cheap handle; clones share it.
#[derive(Clone)]
pub struct Bus {
    /// Core NATS: publish, subscribe, request.
    pub client: Client,
    /// JetStream: streams, consumers, buckets.
    pub jetstream: jetstream::Context,
    pub(crate) requests: Requests,
    refusals: Refusals,
    name: Arc<str>,
}

impl Bus {
    /// Connects under `name`, whose last word is the login of a credentials file, and the name of this instance.
    /// Afterwards the client reconnects by itself, for ever.
    ///
    /// # Errors
    /// When the settings are wrong or no server answers.
    pub async fn connect(settings: &Settings, name: &str) -> Result<Self, ConnectError> {
        let refusals = Refusals::default();
        let noted = refusals.clone();
        let shown: Arc<str> = format!("{name} {}", instance()).into();
        let mut options = ConnectOptions::new()
            .name(&*shown)
            .subscription_capacity(SUBSCRIPTION_MESSAGES)
            .connection_timeout(CONNECTION_TIMEOUT)
            .reconnect_delay_callback(|attempt| {
                MAX_RECONNECT_DELAY.min(Duration::from_millis(20 * u64::try_from(attempt).unwrap_or(25)))
            })
            .event_callback(move |event| {
                report(&event, &noted);
                std::future::ready(())
            });
        if let Some(file) = &settings.credentials_file {
            let text = tokio::fs::read_to_string(file).await.map_err(ConnectError::Credentials)?;
            options = options.credentials(&text).map_err(ConnectError::Credentials)?;
            options = options.custom_inbox_prefix(rights::inbox(name.rsplit(' ').next().unwrap_or_default()));
        }
        let mut addresses = Vec::new();
        for part in settings.url.split(',') {
            let (address, login) = split_login(part.trim()).ok_or(ConnectError::Login)?;
            // The client ignores a login inside an address.
            if let Some((user, password)) = login {
                options = options.custom_inbox_prefix(rights::inbox(&user)).user_and_password(user, password);
            }
            addresses.push(address.parse::<async_nats::ServerAddr>().map_err(ConnectError::Address)?);
        }
        let with_tls = settings.tls.is_required(&settings.url);
        let options = settings.tls.apply(options).require_tls(with_tls);
        let connected = options.connect(addresses).await;
        let client = connected.map_err(|source| ConnectError::Connect { with_tls, source })?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(JETSTREAM_TIMEOUT)
            .ack_timeout(JETSTREAM_TIMEOUT)
            .build(client.clone());
        let requests = Requests::start(client.clone());
        Ok(Self { client, jetstream, requests, refusals, name: shown })
    }

    /// Counts the server's refusals in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        self.refusals.register(registry);
    }

    /// Publishes and subscriptions that the server has refused this login since it connected, such as
    /// `Publish to "auction.1.log"`. Empty when the login has every right that was needed so far.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        self.refusals.list()
    }

    /// The name of the connection, as `nats server report connections` shows it: program and instance.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the bucket of leases exists, as far as the server says. True while it does not answer.
    pub async fn has_leases(&self) -> bool {
        api::exists(&self.jetstream, &format!("STREAM.INFO.KV_{LEASES_BUCKET}")).await
    }

    /// Whether the connection is up now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// The address that the NATS server sees this process come from. None if it does not say.
    #[must_use]
    pub fn own_address(&self) -> Option<IpAddr> {
        self.client.server_info().client_ip.parse().ok()
    }

    /// Number of the current connection, counted from the first; None while disconnected. Messages to a subscription
    /// between two connections are lost.
    #[must_use]
    pub fn connection(&self) -> Option<u64> {
        let connects = self.client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
        self.is_connected().then_some(connects)
    }
}

fn report(event: &Event, refusals: &Refusals) {
    match event {
        Event::Connected => {
            refusals.clear();
            tracing::info!(%event, "NATS connection changed");
        }
        Event::Disconnected => tracing::info!(%event, "NATS connection changed"),
        Event::ServerError(ServerError::Other(text)) if refusals.note(text) => {}
        event => tracing::warn!(%event, "NATS client reported an event"),
    }
}

/// The name of this process among those of the same program: its host, which is the container where there is one, and
/// its process id, which alone repeats in containers.
fn instance() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}/{}", host.trim(), std::process::id())
}

type Login = Option<(String, String)>;

/// Splits `nats://user:password@host:port` into the address without the login, and the login. None without a password.
fn split_login(url: &str) -> Option<(String, Login)> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    match rest.rsplit_once('@') {
        None => Some((format!("{scheme}://{rest}"), None)),
        Some((login, host)) => {
            let (user, password) = login.split_once(':')?;
            Some((format!("{scheme}://{host}"), Some((user.to_owned(), password.to_owned()))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::split_login;

    #[test]
    fn login_is_split_from_the_address() {
        let login = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(split_login("nats://a:b@c:1"), Some(("nats://c:1".to_owned(), login("a", "b"))));
        assert_eq!(split_login("c:1"), Some(("nats://c:1".to_owned(), None)));
        assert_eq!(split_login("tls://a:p@ss@c:1"), Some(("tls://c:1".to_owned(), login("a", "p@ss"))));
        assert_eq!(split_login("nats://a@c:1"), None);
    }
}
