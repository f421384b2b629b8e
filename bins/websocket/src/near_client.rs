//! The HTTP client with which the edge reaches other services and edges, over connections that are kept.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};
use http_body_util::Full;
use hyper_rustls::{DefaultServerNameResolver, FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use service::Reader;

/// Time to connect. They are in the same network; one that does not accept at once is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle connections to one of them. More are opened for a burst, and closed after it.
const MAX_IDLE_CONNECTIONS: usize = 64;
/// Time that an idle connection is kept. Shorter than the 80 s after which the other side closes it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that sends bodies which are in memory.
pub type NearClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Where a service or an edge is, and whether it has TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host and port.
    pub authority: Authority,
}

impl Origin {
    /// From an address without a path, such as `http://10.0.0.1:8000`.
    pub fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let is_bare = uri.path() == "/" && uri.query().is_none();
        let parts = uri.into_parts();
        let scheme = parts.scheme.filter(|scheme| is_bare && [Scheme::HTTP, Scheme::HTTPS].contains(scheme))?;
        Some(Self { scheme, authority: parts.authority? })
    }

    /// The address of a path there.
    pub fn uri(&self, path: PathAndQuery) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path);
        // All three parts are there.
        Uri::from_parts(parts).unwrap_or_default()
    }
}

/// The certificates of services and edges that the edge trusts.
#[derive(Debug, Clone)]
pub struct NearTls {
    /// Authorities that have signed them. Without any there is no TLS, with some there is nothing else.
    authorities: Arc<RootCertStore>,
    /// The name in all of them. None: the host of the address.
    name: Option<ServerName<'static>>,
}

impl NearTls {
    /// Reads `SERVICES_CA_FILE` and `SERVICES_TLS_NAME`.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let read = reader.optional("SERVICES_CA_FILE").map(|file| authorities(Path::new(&file)));
        let authorities = read.unwrap_or_else(|| Ok(RootCertStore::empty())).unwrap_or_else(|error| {
            reader.mistake(format!("SERVICES_CA_FILE: {}", errors::chain(&error)));
            RootCertStore::empty()
        });
        let expected = "the name in the certificates of the services, such as flash.internal";
        let name = reader
            .read("SERVICES_TLS_NAME", None, expected, |name| ServerName::try_from(name.to_owned()).ok().map(Some));
        Self { authorities: Arc::new(authorities), name }
    }

    /// Whether services and edges are reached over TLS alone.
    pub fn is_on(&self) -> bool {
        !self.authorities.is_empty()
    }
}

/// Why authorities are not known.
#[derive(Debug, thiserror::Error)]
enum AuthoritiesError {
    #[error("failed to read the file")]
    File(#[from] rustls::pki_types::pem::Error),
    #[error("the file has an unusable certificate")]
    Certificate(#[from] rustls::Error),
    #[error("the file has no certificate")]
    Empty,
}

fn authorities(file: &Path) -> Result<RootCertStore, AuthoritiesError> {
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file)? {
        authorities.add(certificate?)?;
    }
    if authorities.is_empty() { Err(AuthoritiesError::Empty) } else { Ok(authorities) }
}

/// A client without connections.
///
/// # Errors
/// When the provider of cryptography lacks the versions of TLS.
pub fn near_client(tls: &NearTls) -> Result<NearClient, rustls::Error> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.enforce_http(false);
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(Arc::clone(&tls.authorities))
        .with_no_client_auth();
    let builder = HttpsConnectorBuilder::new().with_tls_config(config);
    // With an authority nothing is sent without TLS, whatever an edge says of itself.
    let builder = if tls.is_on() { builder.https_only() } else { builder.https_or_http() };
    let builder = match &tls.name {
        Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name.clone())),
        None => builder.with_server_name_resolver(DefaultServerNameResolver::default()),
    };
    let connector = builder.enable_http1().wrap_connector(connector);
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        .build(connector))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_services_have_no_path() {
        let parsed = |text| Origin::parse(text).map(|origin| (origin.scheme, origin.authority.to_string()));
        assert_eq!(parsed("http://10.0.0.1:8000"), Some((Scheme::HTTP, "10.0.0.1:8000".to_owned())));
        assert_eq!(parsed("https://timer:8003/"), Some((Scheme::HTTPS, "timer:8003".to_owned())));
        for wrong in ["10.0.0.1:8000", "ftp://10.0.0.1", "http://10.0.0.1/api", "http://10.0.0.1/?a", "/", ""] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
        let origin = Origin::parse("https://timer:8003").expect("an address");
        assert_eq!(origin.uri(PathAndQuery::from_static("/time?a=b")), "https://timer:8003/time?a=b");
    }
}
