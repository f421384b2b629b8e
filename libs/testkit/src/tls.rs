//! Certificates for tests: an authority of each stack, and clients that trust all authorities of this process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_tungstenite::MaybeTlsStream;

use crate::settings::write_private;

/// Names of every server of a stack.
const SERVER_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// The last day of a certificate that has expired.
const EXPIRED: (i32, u8, u8) = (2020, 1, 1);

/// An authority that signs the certificates of one stack. It is kept with the data of the stack.
pub struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, for clients.
    pub ca_file: PathBuf,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Certified {
    /// The certificate.
    pub cert_file: PathBuf,
    /// The key.
    pub key_file: PathBuf,
}

/// The fault of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing: it is valid for the names of the stack's servers.
    None,
    /// It has expired.
    Expired,
    /// It is for a server of another name.
    OtherName,
}

impl Authority {
    /// The authority in `directory`, created on first use. From then on the clients of this process trust it.
    ///
    /// # Errors
    /// When its files cannot be read or written.
    pub fn of(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let (ca_file, key_file) = (directory.join("ca.pem"), directory.join("ca-key.pem"));
        let key = if let Ok(text) = fs::read_to_string(&key_file) {
            KeyPair::from_pem(&text).with_context(|| format!("{} is damaged", key_file.display()))?
        } else {
            let key = KeyPair::generate()?;
            write_private(&key_file, key.serialize_pem().as_bytes())?;
            key
        };
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name_of(&key));
        fs::write(&ca_file, params.self_signed(&key)?.pem())?;
        trust(&ca_file)?;
        Ok(Self { directory: directory.to_owned(), issuer: Issuer::new(params, key), ca_file })
    }

    /// Signs a certificate under a new key and writes both, over an earlier one of the same name.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn issue(&self, name: &str, flaw: Flaw) -> Result<Certified> {
        let names: &[&str] = if flaw == Flaw::OtherName { &["other.example"] } else { &SERVER_NAMES };
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, name);
        if flaw == Flaw::Expired {
            params.not_after = rcgen::date_time_ymd(EXPIRED.0, EXPIRED.1, EXPIRED.2);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let files = Certified {
            cert_file: self.directory.join(format!("{name}.pem")),
            key_file: self.directory.join(format!("{name}-key.pem")),
        };
        write_private(&files.key_file, key.serialize_pem().as_bytes())?;
        fs::write(&files.cert_file, certificate.pem())?;
        Ok(files)
    }
}

/// A name for each key. A client that trusts a hundred authorities of one name would try them one after the other, and give
/// up after a hundred signatures.
fn name_of(key: &KeyPair) -> String {
    let digits: String = key.public_key_raw().iter().rev().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("flash tests {digits}")
}

/// The authorities that clients trust, and the configuration with them.
static TRUSTED: LazyLock<RwLock<(RootCertStore, Arc<ClientConfig>)>> = LazyLock::new(|| {
    let roots = RootCertStore::empty();
    RwLock::new((roots.clone(), Arc::new(config(roots))))
});

fn config(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|error| unreachable!("ring has the default versions: {error}"))
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// From now on the HTTP and WebSocket clients of this process trust the authorities in this file.
///
/// # Errors
/// When the file cannot be read.
pub fn trust(ca_file: &Path) -> Result<()> {
    let mut trusted = TRUSTED.write().unwrap_or_else(PoisonError::into_inner);
    for certificate in CertificateDer::pem_file_iter(ca_file)? {
        trusted.0.add(certificate?)?;
    }
    trusted.1 = Arc::new(config(trusted.0.clone()));
    Ok(())
}

/// The configuration of clients that trust these authorities.
#[must_use]
pub fn client_config() -> Arc<ClientConfig> {
    Arc::clone(&TRUSTED.read().unwrap_or_else(PoisonError::into_inner).1)
}

/// Host and port of an address.
#[must_use]
pub fn authority_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// Opens a TCP connection to host and port of this address, with TLS if it begins with `https` or `wss`.
///
/// # Errors
/// When no server listens, or the certificate is not trusted.
pub async fn connect(url: &str) -> Result<MaybeTlsStream<TcpStream>> {
    let address = authority_of(url);
    let stream = TcpStream::connect(address).await.with_context(|| address.to_owned())?;
    stream.set_nodelay(true)?;
    secure(url, stream).await
}

/// The same over a connection that is open already.
///
/// # Errors
/// When the certificate is not trusted.
pub async fn secure(url: &str, stream: TcpStream) -> Result<MaybeTlsStream<TcpStream>> {
    if !url.starts_with("https") && !url.starts_with("wss") {
        return Ok(MaybeTlsStream::Plain(stream));
    }
    let host = authority_of(url).rsplit_once(':').map_or("", |(host, _)| host);
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    let connector = tokio_rustls::TlsConnector::from(client_config());
    // Boxed: otherwise every future that opens a socket would be as large as a handshake.
    Ok(MaybeTlsStream::Rustls(Box::pin(connector.connect(name, stream)).await?))
}
