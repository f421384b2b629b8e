//! How programs of this crate connect to the servers of a stack: with a login and the certificates of the services.

use testkit::{Servers, ServersTls};

/// NATS, with the login of tests that may do everything.
#[must_use]
pub fn nats(servers: &Servers) -> bus::Settings {
    bus::Settings { url: servers.nats_url(), credentials_file: None, tls: tls(servers) }
}

/// NATS, with the login of this user.
#[must_use]
pub fn nats_of(servers: &Servers, user: &str) -> bus::Settings {
    bus::Settings { url: servers.nats_url_of(user), ..nats(servers) }
}

/// Certificates for NATS. Empty without TLS.
#[must_use]
pub fn tls(servers: &Servers) -> bus::Tls {
    let Some(ServersTls { authority, client, .. }) = &servers.tls else { return bus::Tls::default() };
    let text = |file: &std::path::Path| file.display().to_string();
    let client = bus::ClientFiles { cert_file: text(&client.cert_file), key_file: text(&client.key_file) };
    bus::Tls { ca_file: Some(text(&authority.ca_file)), client: Some(client) }
}

/// Redis.
#[must_use]
pub fn redis(servers: &Servers) -> hotstate::Settings {
    let ca_file = servers.tls.as_ref().map(|tls| tls.authority.ca_file.display().to_string());
    hotstate::Settings { urls: servers.redis_url(), ca_file }
}
