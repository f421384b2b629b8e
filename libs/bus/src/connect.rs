//! The connection to NATS, one for each service.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, jetstream};
use protocol::subject::LEASES_BUCKET;

use crate::api;

/// The NATS servers and the credentials to use.
#[derive(Clone, Default)]
pub struct Settings {
    /// `nats://user:password@host:port`; several servers are separated by commas.
    pub url: String,
    /// Path of a credentials file, used in place of user and password.
    pub credentials_file: Option<String>,
}

impl Settings {
    /// Reads `NATS_URL` and `NATS_CREDS`.
    ///
    /// # Errors
    /// The names of the missing variables.
    pub fn read(find: &dyn Fn(&str) -> Option<String>) -> Result<Self, Vec<&'static str>> {
        let credentials_file = find("NATS_CREDS");
        Ok(Self { url: find("NATS_URL").ok_or_else(|| vec!["NATS_URL"])?, credentials_file })
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
    #[error("failed to connect to NATS")]
    Connect(#[from] async_nats::ConnectError),
}

impl ConnectError {
    /// Whether a later attempt may succeed: no server has answered. A login that is refused stays refused.
    #[must_use]
    pub fn is_away(&self) -> bool {
        use async_nats::ConnectErrorKind::{Io, TimedOut};
        matches!(self, Self::Connect(error) if matches!(error.kind(), Io | TimedOut))
    }
}

/// Messages that may wait in one subscription before newer ones are dropped. Subscribers to events notice the gap and
/// read the log.
const SUBSCRIPTION_MESSAGES: usize = 16_384;
/// Time limit of one connection attempt to one server.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit of JetStream API calls and of acknowledgements of appends. It is below the three seconds a bidder waits.
const JETSTREAM_TIMEOUT: Duration = Duration::from_millis(2_500);
/// Longest pause between two connection attempts. It grows by 20 ms with each attempt.
const MAX_RECONNECT_DELAY: Duration = Duration::from_millis(500);

/// The connection. A cheap handle; clones share it.
#[derive(Clone)]
pub struct Bus {
    /// Core NATS: publish, subscribe, request.
    pub client: Client,
    /// JetStream: streams, consumers, buckets.
    pub jetstream: jetstream::Context,
    name: Arc<str>,
}

impl Bus {
    /// Connects under `name` and the name of this instance. Afterwards the client reconnects by itself, for ever.
    ///
    /// # Errors
    /// When the settings are wrong or no server answers.
    pub async fn connect(settings: &Settings, name: &str) -> Result<Self, ConnectError> {
        let name: Arc<str> = format!("{name} {}", instance()).into();
        let mut options = ConnectOptions::new()
            .name(&*name)
            .subscription_capacity(SUBSCRIPTION_MESSAGES)
            .connection_timeout(CONNECTION_TIMEOUT)
            .reconnect_delay_callback(|attempt| {
                MAX_RECONNECT_DELAY.min(Duration::from_millis(20 * u64::try_from(attempt).unwrap_or(25)))
            })
            .event_callback(|event| async move {
                match event {
                    Event::Connected | Event::Disconnected => tracing::info!(%event, "NATS connection changed"),
                    event => tracing::warn!(%event, "NATS client reported an event"),
                }
            });
        if let Some(file) = &settings.credentials_file {
            let text = tokio::fs::read_to_string(file).await.map_err(ConnectError::Credentials)?;
            options = options.credentials(&text).map_err(ConnectError::Credentials)?;
        }
        let mut addresses = Vec::new();
        for part in settings.url.split(',') {
            let (address, login) = split_login(part.trim()).ok_or(ConnectError::Login)?;
            // The client ignores a login inside an address.
            if let Some((user, password)) = login {
                options = options.user_and_password(user, password);
            }
            addresses.push(address.parse::<async_nats::ServerAddr>().map_err(ConnectError::Address)?);
        }
        let client = options.connect(addresses).await?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(JETSTREAM_TIMEOUT)
            .ack_timeout(JETSTREAM_TIMEOUT)
            .build(client.clone());
        Ok(Self { client, jetstream, name })
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

    /// Number of the current connection, counted from the first; None while disconnected. Messages to a subscription
    /// between two connections are lost.
    #[must_use]
    pub fn connection(&self) -> Option<u64> {
        let connects = self.client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
        self.is_connected().then_some(connects)
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
