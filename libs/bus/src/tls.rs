//! TLS to NATS: the authority that signs the servers' certificates, and the certificate of this client.

use async_nats::ConnectOptions;

/// Files in PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// Certificates of the authorities that are trusted. None: those of the system.
    pub ca_file: Option<String>,
    /// Certificate and key of this client, for servers that ask for one.
    pub client: Option<ClientFiles>,
}

/// A client's certificate.
#[derive(Clone)]
pub struct ClientFiles {
    /// The chain.
    pub cert_file: String,
    /// The key.
    pub key_file: String,
}

impl Tls {
    /// Reads `NATS_CA_FILE`, `NATS_CERT_FILE` and `NATS_KEY_FILE`.
    ///
    /// # Errors
    /// The name of the file that is missing from the pair.
    pub(crate) fn read(find: &dyn Fn(&str) -> Option<String>) -> Result<Self, Vec<&'static str>> {
        let client = match (find("NATS_CERT_FILE"), find("NATS_KEY_FILE")) {
            (Some(cert_file), Some(key_file)) => Some(ClientFiles { cert_file, key_file }),
            (None, None) => None,
            (None, _) => return Err(vec!["NATS_CERT_FILE"]),
            (_, None) => return Err(vec!["NATS_KEY_FILE"]),
        };
        Ok(Self { ca_file: find("NATS_CA_FILE"), client })
    }

    /// Whether no server is spoken to without TLS, also none that another server has named: with `tls://` in an address,
    /// or with files.
    pub(crate) fn is_required(&self, urls: &str) -> bool {
        self.ca_file.is_some() || self.client.is_some() || urls.contains("tls://")
    }

    /// The options with these files.
    pub(crate) fn apply(&self, mut options: ConnectOptions) -> ConnectOptions {
        if let Some(file) = &self.ca_file {
            options = options.add_root_certificates(file.into());
        }
        if let Some(ClientFiles { cert_file, key_file }) = &self.client {
            options = options.add_client_certificate(cert_file.into(), key_file.into());
        }
        options
    }
}
