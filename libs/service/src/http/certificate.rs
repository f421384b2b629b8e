//! The certificate of a listener. It is read again while the service runs, so that a renewal needs no restart.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_cert::der::Decode;

/// Interval between two looks at the files. A renewed certificate is in use within seconds.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The protocol that clients may choose in the handshake: the server speaks no other.
const ALPN: &[u8] = b"http/1.1";

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("failed to read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is not the PEM that it should be.
    #[error("{} is not valid PEM", file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: pem::Error,
    },
    /// The chain is empty.
    #[error("{} has no certificate", .0.display())]
    Empty(PathBuf),
    /// The first certificate of the chain cannot be read.
    #[error("the certificate is malformed")]
    Malformed(#[from] x509_cert::der::Error),
    /// The key is of no use, or belongs to another certificate.
    #[error("the key does not fit the certificate")]
    Key(#[source] rustls::Error),
    /// TLS cannot be set up.
    #[error("failed to set up TLS")]
    Setup(#[source] rustls::Error),
}

/// The contents of both files.
type Files = (Vec<u8>, Vec<u8>);

/// A certificate, its key, and the files that both came from. A cheap handle.
#[derive(Clone)]
pub struct Certificate {
    cert_file: PathBuf,
    key_file: PathBuf,
    read: Files,
    current: Arc<Current>,
    expiry: Gauge,
    config: Arc<rustls::ServerConfig>,
}

/// The certificate that new connections get.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("cert_file", &self.cert_file).finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads the chain and the key, both PEM.
    ///
    /// # Errors
    /// When a file cannot be read, or they do not belong together.
    pub fn load(cert_file: &Path, key_file: &Path) -> Result<Self, CertificateError> {
        let read = (read(cert_file)?, read(key_file)?);
        let (key, expires) = parse(cert_file, key_file, &read)?;
        let current = Arc::new(Current(RwLock::new(Arc::new(key))));
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(CertificateError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Current>::clone(&current));
        config.alpn_protocols = vec![ALPN.to_vec()];
        let expiry = Gauge::<i64, AtomicI64>::default();
        expiry.set(expires);
        Ok(Self {
            cert_file: cert_file.to_owned(),
            key_file: key_file.to_owned(),
            read,
            current,
            expiry,
            config: Arc::new(config),
        })
    }

    /// Reads `TLS_CERT_FILE` and `TLS_KEY_FILE`. None without them: the listener then has no TLS.
    pub(super) fn from_settings(reader: &mut crate::Reader<'_>) -> Option<Self> {
        let files = (reader.optional("TLS_CERT_FILE"), reader.optional("TLS_KEY_FILE"));
        let (Some(cert_file), Some(key_file)) = files else {
            if files != (None, None) {
                reader.mistake("TLS_CERT_FILE and TLS_KEY_FILE must be set together");
            }
            return None;
        };
        let loaded = Self::load(Path::new(&cert_file), Path::new(&key_file));
        loaded.map_err(|error| reader.mistake(format!("TLS_CERT_FILE: {}", errors::chain(&error)))).ok()
    }

    /// Adds the time of its expiry to the metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "tls_certificate_expiry_timestamp_seconds",
            "Time at which the certificate of the listener expires, in seconds since 1970",
            self.expiry.clone(),
        );
    }

    pub(super) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        Arc::clone(&self.config).into()
    }

    /// Uses the files again whenever they change. A broken pair changes nothing, and is logged once. Never ends.
    pub(super) async fn follow(&self) {
        let mut seen = self.read.clone();
        let mut is_readable = true;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let found = match self.look().await {
                Ok(found) => found,
                Err(error) => {
                    if std::mem::take(&mut is_readable) {
                        tracing::warn!(error = %errors::chain(&error), "failed to read the certificate again");
                    }
                    continue;
                }
            };
            is_readable = true;
            if found != seen {
                self.renew(&found);
                seen = found;
            }
        }
    }

    async fn look(&self) -> Result<Files, CertificateError> {
        let read = async |file: &PathBuf| {
            tokio::fs::read(file).await.map_err(|source| CertificateError::Read { file: file.clone(), source })
        };
        Ok((read(&self.cert_file).await?, read(&self.key_file).await?))
    }

    fn renew(&self, files: &Files) {
        match parse(&self.cert_file, &self.key_file, files) {
            Ok((key, expires)) => {
                *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
                self.expiry.set(expires);
                tracing::info!(expires, "certificate was renewed");
            }
            // The two files are often written one after the other: the next look then finds a pair.
            Err(error) => {
                tracing::warn!(error = %errors::chain(&error), "failed to renew the certificate; the old one stays");
            }
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(file).map_err(|source| CertificateError::Read { file: file.to_owned(), source })
}

/// The certificate with its key, and the seconds since 1970 at which it expires.
fn parse(cert_file: &Path, key_file: &Path, files: &Files) -> Result<(CertifiedKey, i64), CertificateError> {
    let wrong = |file: &Path| {
        let file = file.to_owned();
        move |source| CertificateError::Pem { file, source }
    };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&files.0).collect::<Result<_, _>>().map_err(wrong(cert_file))?;
    let first = chain.first().ok_or_else(|| CertificateError::Empty(cert_file.to_owned()))?;
    let validity = x509_cert::Certificate::from_der(first)?.tbs_certificate.validity;
    let expires = i64::try_from(validity.not_after.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
    let key = PrivateKeyDer::from_pem_slice(&files.1).map_err(wrong(key_file))?;
    let key = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(CertificateError::Key)?;
    Ok((key, expires))
}

#[cfg(test)]
mod tests;
