//! The issuer's keys: fetched when first needed, kept for as long as the issuer is silent.

use std::collections::HashMap;
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
    // Held while fetching: callers with an unknown key wait for the one fetch instead of starting more.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, DecodingKey>,
    next_fetch: Option<Instant>,
    reached: bool,
}

impl Jwks {
    pub fn new(url: String) -> Self {
        Self { url, state: Mutex::default() }
    }

    /// Whether there are keys, fetched now or before: tokens can be verified while the issuer is away.
    pub async fn are_there(&self) -> bool {
        // No key has this name; looking for it fetches the keys if that is due.
        drop(self.find("").await);
        !self.state.lock().await.keys.is_empty()
    }

    pub async fn find(&self, kid: &str) -> Result<DecodingKey, KeyError> {
        let mut state = self.state.lock().await;
        if let Some(key) = state.keys.get(kid) {
            return Ok(key.clone());
        }
        if state.next_fetch.is_none_or(|at| at <= Instant::now()) {
            match fetch(&self.url).await {
                Ok(keys) => {
                    state.keys = keys;
                    state.reached = true;
                    state.next_fetch = Some(Instant::now() + REFRESH_AT_MOST_EVERY);
                }
                Err(error) => {
                    tracing::warn!(%error, "the issuer's keys cannot be fetched");
                    state.reached = false;
                    state.next_fetch = Some(Instant::now() + RETRY_AT_MOST_EVERY);
                }
            }
        }
        let unknown = if state.reached { KeyError::Unknown } else { KeyError::Unavailable };
        state.keys.get(kid).cloned().ok_or(unknown)
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
