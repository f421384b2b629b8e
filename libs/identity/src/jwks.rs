//! The issuer's keys: fetched when first needed, kept for as long as the issuer is silent.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::JwkSet;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// After a fetch an unknown key is unknown for this long: garbage must not become a load on the issuer.
const REFRESH_AT_MOST_EVERY: Duration = Duration::from_secs(60);
/// A fetch that failed may be repeated sooner.
const RETRY_AT_MOST_EVERY: Duration = Duration::from_secs(1);
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_JWKS_BYTES: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyError {
    Unknown,
    Unavailable,
}

pub(crate) struct Jwks {
    url: String,
    keys: RwLock<HashMap<String, DecodingKey>>,
    // Held while fetching: callers with an unknown key wait for the one fetch instead of starting more.
    // Those with a known one never do, however long the issuer hangs.
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

    /// Whether there are keys, fetched now or before: tokens can be verified while the issuer is away.
    pub async fn are_there(&self) -> bool {
        // No key has this name; looking for it fetches the keys if that is due.
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
            // Boxed: whoever verifies, each connection of an edge, would keep room for it as long as it lives.
            match Box::pin(fetch(&self.url)).await {
                Ok(keys) => {
                    *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
                    fetching.reached = true;
                    fetching.next = Some(Instant::now() + REFRESH_AT_MOST_EVERY);
                }
                Err(error) => {
                    tracing::warn!(%error, "the issuer's keys cannot be fetched");
                    fetching.reached = false;
                    fetching.next = Some(Instant::now() + RETRY_AT_MOST_EVERY);
                }
            }
        }
        self.known(kid).ok_or(if fetching.reached { KeyError::Unknown } else { KeyError::Unavailable })
    }
}

type FetchError = Box<dyn std::error::Error + Send + Sync>;

async fn fetch(url: &str) -> Result<HashMap<String, DecodingKey>, FetchError> {
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())?
        .https_or_http()
        .enable_http1()
        .build();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let get = async {
        let response = client.get(url.parse()?).await?;
        if !response.status().is_success() {
            return Err(FetchError::from(format!("status {}", response.status())));
        }
        let body = Limited::new(response.into_body(), MAX_JWKS_BYTES).collect().await?.to_bytes();
        Ok(body)
    };
    let body = tokio::time::timeout(FETCH_TIMEOUT, get).await??;
    let set: JwkSet = serde_json::from_slice(&body)?;
    let keys = set.keys.iter().filter_map(|jwk| {
        let kid = jwk.common.key_id.clone()?;
        Some((kid, DecodingKey::from_jwk(jwk).ok()?))
    });
    Ok(keys.collect())
}
