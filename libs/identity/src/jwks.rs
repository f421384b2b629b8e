//! The issuer's keys: fetched when first needed, kept while the issuer cannot be reached.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use errors::BoxError;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::JwkSet;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Pause after a successful fetch. Within it an unknown key is reported as unknown without asking the issuer: tokens
/// with made-up key names must not become load on the issuer.
const REFRESH_AT_MOST_EVERY: Duration = Duration::from_secs(60);
/// Pause after a failed fetch. It is short, because no token with an unknown key can be verified until one succeeds.
const RETRY_AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// Time limit of one fetch. Callers wait for it.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// Largest key set that is read. A real one has a few kilobytes.
const MAX_JWKS_BYTES: usize = 256 * 1024;

/// Why no key was found under a name. The cause of `Unavailable` is logged by the fetch that failed; later callers
/// within [`RETRY_AT_MOST_EVERY`] share its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("the issuer has no key of this name")]
    Unknown,
    #[error("the issuer's keys cannot be fetched")]
    Unavailable,
}

/// Why the keys could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("failed to load the system's root certificates")]
    Roots(#[source] std::io::Error),
    #[error("JWKS_URL is not a valid URL")]
    Url(#[from] http::uri::InvalidUri),
    #[error("request for the key set failed")]
    Request(#[from] hyper_util::client::legacy::Error),
    #[error("the issuer answered with status {0}")]
    Status(http::StatusCode),
    #[error("failed to read the key set")]
    Body(#[source] BoxError),
    #[error("failed to parse the key set")]
    Parse(#[from] serde_json::Error),
    #[error("the issuer did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

pub(crate) struct Jwks {
    url: String,
    keys: RwLock<HashMap<String, DecodingKey>>,
    // Held while fetching: callers with an unknown key wait for the one fetch instead of starting more. Callers with a
    // known key never wait, however long the issuer hangs.
    fetching: Mutex<Fetching>,
}

#[derive(Default)]
struct Fetching {
    next: Option<Instant>,
    reached: bool,
}

impl Jwks {
    pub fn new(url: String) -> Self {
        Self { url, keys: RwLock::default(), fetching: Mutex::default() }
    }

    /// Whether there are keys, fetched now or before: tokens can be verified while the issuer cannot be reached.
    pub async fn are_there(&self) -> bool {
        // No key has an empty name; looking for it fetches the keys if a fetch is due.
        drop(self.find("").await);
        !self.keys.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn known(&self, kid: &str) -> Option<DecodingKey> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(kid).cloned()
    }

    pub async fn find(&self, kid: &str) -> Result<DecodingKey, KeyError> {
        if let Some(key) = self.known(kid) {
            return Ok(key);
        }
        let mut fetching = self.fetching.lock().await;
        if fetching.next.is_none_or(|at| at <= Instant::now()) {
            // Boxed: otherwise the future of every caller, such as each connection of an edge, would reserve its size.
            match Box::pin(fetch(&self.url)).await {
                Ok(keys) => {
                    *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
                    fetching.reached = true;
                    fetching.next = Some(Instant::now() + REFRESH_AT_MOST_EVERY);
                }
                Err(error) => {
                    tracing::warn!(error = %errors::chain(&error), "failed to fetch the issuer's keys");
                    fetching.reached = false;
                    fetching.next = Some(Instant::now() + RETRY_AT_MOST_EVERY);
                }
            }
        }
        self.known(kid).ok_or(if fetching.reached { KeyError::Unknown } else { KeyError::Unavailable })
    }
}

async fn fetch(url: &str) -> Result<HashMap<String, DecodingKey>, FetchError> {
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
        .map_err(FetchError::Roots)?
        .https_or_http()
        .enable_http1()
        .build();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let get = async {
        let response = client.get(url.parse()?).await?;
        if !response.status().is_success() {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_JWKS_BYTES).collect().await.map_err(FetchError::Body)?;
        Ok(body.to_bytes())
    };
    let body = tokio::time::timeout(FETCH_TIMEOUT, get).await??;
    let set: JwkSet = serde_json::from_slice(&body)?;
    let keys = set.keys.iter().filter_map(|jwk| {
        let kid = jwk.common.key_id.clone()?;
        Some((kid, DecodingKey::from_jwk(jwk).ok()?))
    });
    Ok(keys.collect())
}
