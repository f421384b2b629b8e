//! One connection a service.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, jetstream};

/// Where NATS is and who we are there.
#[derive(Clone, Default)]
pub struct Settings {
    /// `nats://user:password@host:port`, several by comma.
    pub url: String,
    /// A credentials file, in place of user and password.
    pub credentials_file: Option<String>,
}

impl Settings {
    /// `NATS_URL`, `NATS_CREDS`.
    ///
    /// # Errors
    /// The names of what is missing.
    pub fn read(find: &dyn Fn(&str) -> Option<String>) -> Result<Self, Vec<&'static str>> {
        let credentials_file = find("NATS_CREDS");
        Ok(Self { url: find("NATS_URL").ok_or_else(|| vec!["NATS_URL"])?, credentials_file })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("NATS_URL is not an address")]
    Address,
    #[error("the credentials file cannot be read")]
    Credentials(#[source] std::io::Error),
    #[error("NATS cannot be reached")]
    Connect(#[from] async_nats::ConnectError),
}

/// Messages that may wait in one subscription before newer ones are dropped; what follows events
/// notices the gap and reads the log.
const SUBSCRIPTION_MESSAGES: usize = 16_384;
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(3);
/// For the JetStream API and for acknowledgements of appends: below the three seconds a bidder waits.
const JETSTREAM_TIMEOUT: Duration = Duration::from_millis(2_500);
const MAX_RECONNECT_DELAY: Duration = Duration::from_millis(500);

/// A cheap handle; every clone shares the connection.
#[derive(Clone)]
pub struct Bus {
    pub client: Client,
    pub jetstream: jetstream::Context,
}

impl Bus {
    /// Connects; afterwards it reconnects for ever by itself.
    ///
    /// # Errors
    /// When the settings are wrong or no server answers.
    pub async fn connect(settings: &Settings, name: &str) -> Result<Self, ConnectError> {
        let mut options = ConnectOptions::new()
            .name(name)
            .subscription_capacity(SUBSCRIPTION_MESSAGES)
            .connection_timeout(CONNECTION_TIMEOUT)
            .reconnect_delay_callback(|attempt| {
                MAX_RECONNECT_DELAY.min(Duration::from_millis(20 * u64::try_from(attempt).unwrap_or(25)))
            })
            .event_callback(|event| async move {
                match event {
                    Event::Connected | Event::Disconnected => tracing::info!(%event, "NATS"),
                    event => tracing::warn!(%event, "NATS"),
                }
            });
        if let Some(file) = &settings.credentials_file {
            let text = tokio::fs::read_to_string(file).await.map_err(ConnectError::Credentials)?;
            options = options.credentials(&text).map_err(ConnectError::Credentials)?;
        }
        let mut addresses = Vec::new();
        for part in settings.url.split(',') {
            let (address, login) = split_login(part.trim()).ok_or(ConnectError::Address)?;
            // The client ignores a login inside an address.
            if let Some((user, password)) = login {
                options = options.user_and_password(user, password);
            }
            addresses.push(address.parse::<async_nats::ServerAddr>().map_err(|_| ConnectError::Address)?);
        }
        let client = options.connect(addresses).await?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(JETSTREAM_TIMEOUT)
            .ack_timeout(JETSTREAM_TIMEOUT)
            .build(client.clone());
        Ok(Self { client, jetstream })
    }

    /// Whether the connection is up now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Which connection is up now, counted from the first; None while there is none. What was sent to a
    /// subscription between two connections is not known.
    #[must_use]
    pub fn connection(&self) -> Option<u64> {
        let connects = self.client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed);
        self.is_connected().then_some(connects)
    }
}

type Login = Option<(String, String)>;

/// `nats://user:password@host:port` as the address without the login, and the login.
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
    fn the_login_is_taken_out_of_the_address() {
        let login = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(split_login("nats://a:b@c:1"), Some(("nats://c:1".to_owned(), login("a", "b"))));
        assert_eq!(split_login("c:1"), Some(("nats://c:1".to_owned(), None)));
        assert_eq!(split_login("tls://a:p@ss@c:1"), Some(("tls://c:1".to_owned(), login("a", "p@ss"))));
        assert_eq!(split_login("nats://a@c:1"), None);
    }
}
