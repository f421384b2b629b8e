//! The issuer's keys. One background task fetches them; requests read what it noted, and may ask it to hurry.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use errors::BoxError;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::DecodingKey;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::key_set::{self, KeySetError};

/// Pause between the beginnings of two fetches while the issuer answers. An issuer publishes a key some time before it
/// signs with it, so most new keys are known before their first token.
/// The alarm about an issuer that does not answer rises within a minute, so that two fetches must fail in less.
const REFRESH_EVERY: Duration = Duration::from_secs(30);
/// Pause between the beginnings of two fetches that unknown key names caused. Tokens with made-up names must not become
/// load on the issuer. The regular fetches have a schedule of their own, so requests cannot use those up.
const REQUESTED_AT_MOST_EVERY: Duration = Duration::from_secs(60);
/// Pause after the first failed fetch in a row; it doubles with each further one. Most failures are over at once.
const FIRST_RETRY_AFTER: Duration = Duration::from_millis(500);
/// Longest pause after a failed fetch. An instance without keys must be of use within 5 s after the issuer is back.
const RETRY_AT_LEAST_EVERY: Duration = Duration::from_secs(4);
/// Time limit of one fetch. Cognito answers within a fraction of a second.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit of a request's wait for a fetch. It is most of what a person accepts as an answer's delay.
const WAIT_FOR_FETCH: Duration = Duration::from_secs(1);
/// Time that a key stays valid after it has disappeared from the set. Tokens signed with it live about that long.
const KEEP_WITHDRAWN: Duration = Duration::from_secs(3600);
/// Time that a key stays valid after the last successful fetch. An issuer is away for hours at most; a service that was
/// cut off for longer could accept a key that was withdrawn for a reason.
const KEEP_UNREFRESHED: Duration = Duration::from_secs(24 * 3600);
/// Largest key set that is read. A real one has a few kilobytes.
const MAX_JWKS_BYTES: usize = 256 * 1024;

/// Why no key was found under a name. The cause of `Unavailable` is logged by the fetch that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("the issuer has no key of this name")]
    Unknown,
    #[error("the issuer could not be asked for the key yet")]
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
    #[error("the key set is of no use")]
    KeySet(#[from] KeySetError),
    #[error("the issuer did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

struct Key {
    key: DecodingKey,
    valid_until: Instant,
}

/// The latest fetch.
enum Fetch {
    /// It has not ended, or none has begun.
    Running,
    Succeeded {
        began: Instant,
    },
    Failed {
        began: Instant,
    },
}

struct State {
    keys: HashMap<String, Key>,
    latest: Fetch,
    /// The time from which a request may cause a fetch.
    next: Instant,
}

impl State {
    fn key(&self, kid: &str) -> Option<&DecodingKey> {
        self.keys.get(kid).filter(|key| key.valid_until > Instant::now()).map(|key| &key.key)
    }

    /// Notes a fetched set. Known keys that it lacks stay for a while, as far as there is room.
    fn note(&mut self, fetched: HashMap<String, DecodingKey>) {
        let now = Instant::now();
        let mut withdrawn: Vec<(String, Key)> = self
            .keys
            .drain()
            .filter(|(kid, key)| key.valid_until > now && !fetched.contains_key(kid))
            .map(|(kid, key)| (kid, Key { valid_until: key.valid_until.min(now + KEEP_WITHDRAWN), ..key }))
            .collect();
        withdrawn.sort_unstable_by_key(|(_, key)| std::cmp::Reverse(key.valid_until));
        self.keys.extend(fetched.into_iter().map(|(kid, key)| (kid, Key { key, valid_until: now + KEEP_UNREFRESHED })));
        let room = key_set::MAX_KEYS.saturating_sub(self.keys.len());
        self.keys.extend(withdrawn.into_iter().take(room));
    }
}

pub(crate) struct Jwks {
    url: String,
    state: watch::Sender<State>,
    /// Whether a request wants a fetch that has not begun.
    wanted: watch::Sender<bool>,
    /// Fetches that failed.
    pub failures: Counter,
}

impl Jwks {
    pub fn new(url: String) -> Self {
        let state = State { keys: HashMap::new(), latest: Fetch::Running, next: Instant::now() };
        Self { url, state: watch::Sender::new(state), wanted: watch::Sender::new(false), failures: Counter::default() }
    }

    /// Whether a key is known that is still valid.
    pub fn are_there(&self) -> bool {
        let now = Instant::now();
        self.state.borrow().keys.values().any(|key| key.valid_until > now)
    }

    /// Whether this key is known and still valid.
    pub fn knows(&self, kid: &str) -> bool {
        self.state.borrow().key(kid).is_some()
    }

    /// The key of this name. An unknown one waits for the fetch under way, or for one that it causes.
    pub async fn find(&self, kid: &str) -> Result<DecodingKey, KeyError> {
        if let Some(key) = self.state.borrow().key(kid).cloned() {
            return Ok(key);
        }
        // Boxed: otherwise the future of every caller, such as each connection of an edge, would reserve its size.
        let waiting = Box::pin(self.wait_for(kid, Instant::now()));
        tokio::time::timeout(WAIT_FOR_FETCH, waiting).await.unwrap_or(Err(KeyError::Unavailable))
    }

    /// Only a fetch that began after the token arrived proves that the issuer does not have its key.
    async fn wait_for(&self, kid: &str, arrived: Instant) -> Result<DecodingKey, KeyError> {
        let mut state = self.state.subscribe();
        loop {
            {
                let state = state.borrow_and_update();
                if let Some(key) = state.key(kid) {
                    return Ok(key.clone());
                }
                match state.latest {
                    Fetch::Running => {}
                    Fetch::Succeeded { began } if began >= arrived => return Err(KeyError::Unknown),
                    Fetch::Failed { began } if began >= arrived => return Err(KeyError::Unavailable),
                    Fetch::Succeeded { .. } | Fetch::Failed { .. } => {
                        self.wanted.send_if_modified(|wanted| !std::mem::replace(wanted, true));
                        if state.next > arrived + WAIT_FOR_FETCH {
                            return Err(KeyError::Unavailable);
                        }
                    }
                }
            }
            if state.changed().await.is_err() {
                return Err(KeyError::Unavailable);
            }
        }
    }

    /// Fetches the keys now, every [`REFRESH_EVERY`], and when a request wants an unknown one.
    pub async fn refresh(&self) {
        let mut due = Instant::now();
        let mut requests_from = due;
        let mut retry_after = None;
        loop {
            let next = if retry_after.is_some() { due } else { requests_from };
            let is_requested = tokio::select! {
                biased;
                () = tokio::time::sleep_until(due) => false,
                () = self.wanted(next) => true,
            };
            let began = Instant::now();
            // Spent even if the fetch fails: the retries that follow are not the request's.
            if is_requested {
                requests_from = began + REQUESTED_AT_MOST_EVERY;
            }
            self.state.send_modify(|state| state.latest = Fetch::Running);
            self.wanted.send_replace(false);
            // Boxed: the future of this task passes through the future of its service, which is large already.
            match Box::pin(fetch(&self.url)).await {
                Ok(keys) => {
                    if retry_after.take().is_some() {
                        tracing::info!("the issuer's keys were fetched again");
                    }
                    due = began + REFRESH_EVERY;
                    self.state.send_modify(|state| {
                        state.note(keys);
                        state.latest = Fetch::Succeeded { began };
                        state.next = requests_from;
                    });
                }
                Err(error) => {
                    self.failures.inc();
                    // The first failure in a row is logged; the issuer may be away for hours.
                    if retry_after.is_none() {
                        tracing::warn!(error = %errors::chain(&error), "failed to fetch the issuer's keys");
                    }
                    let pause = next_pause(retry_after);
                    retry_after = Some(pause);
                    due = Instant::now() + pause;
                    self.state.send_modify(|state| {
                        state.latest = Fetch::Failed { began };
                        state.next = due;
                    });
                }
            }
        }
    }

    /// Returns when a request wants a fetch, and not before `next`.
    async fn wanted(&self, next: Instant) {
        // It cannot fail: the sender is a field of `self`.
        drop(self.wanted.subscribe().wait_for(|wanted| *wanted).await);
        tokio::time::sleep_until(next).await;
    }
}

/// The pause after a failed fetch, from the pause before it.
fn next_pause(previous: Option<Duration>) -> Duration {
    previous.map_or(FIRST_RETRY_AFTER, |pause| (pause * 2).min(RETRY_AT_LEAST_EVERY))
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
    Ok(key_set::usable_keys(&body)?)
}

#[cfg(test)]
mod tests;
