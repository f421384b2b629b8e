//! The lease of an elected instance: one entry in the bucket `leases`, which expires after two seconds.

use std::time::Duration;

use async_nats::jetstream::kv::{CreateErrorKind, Store};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Bus;

/// Interval between renewals. Three of them fit into [`SURE_FOR`].
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// Time for which a renewed lease is certainly held. The bucket drops an entry after 2 s, so an instance that could not
/// renew for this long must assume that it lost the lease.
const SURE_FOR: Duration = Duration::from_millis(1500);
/// Time limit of one renewal. A renewal that hangs must fail before [`SURE_FOR`] is over.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(700);

/// A lease as its holder knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The fencing token. Later leases have higher tokens.
    pub token: u64,
    valid_until: Instant,
}

impl Lease {
    /// The fencing token, while the lease is certainly held.
    #[must_use]
    pub fn token_now(self) -> Option<u64> {
        (Instant::now() < self.valid_until).then_some(self.token)
    }
}

/// Tries to win and keep the lease `key` until dropped, and publishes the lease through `held`.
pub async fn hold(bus: Bus, bucket: &str, key: &str, holder: String, held: watch::Sender<Option<Lease>>) {
    let mut revision: Option<(u64, u64)> = None;
    let mut store: Option<Store> = None;
    loop {
        let started = Instant::now();
        let attempt = async {
            let bucket = match store.take() {
                Some(bucket) => bucket,
                None => bus.jetstream.get_key_value(bucket).await.ok()?,
            };
            let result = renew(&bucket, key, &holder, revision).await;
            store = Some(bucket);
            result
        };
        revision = match tokio::time::timeout(ATTEMPT_TIMEOUT, attempt).await {
            Ok(Some(renewed)) => Some(renewed),
            // Unknown or rejected: once the entry has expired, the next attempt creates it again under a new token.
            Ok(None) | Err(_) => None,
        };
        if let Some((token, _)) = revision {
            held.send_replace(Some(Lease { token, valid_until: started + SURE_FOR }));
        }
        tokio::time::sleep_until(started + RENEW_EVERY).await;
    }
}

/// Returns the token (the revision at which the lease was won) and the current revision.
async fn renew(bucket: &Store, key: &str, holder: &str, revision: Option<(u64, u64)>) -> Option<(u64, u64)> {
    let value = bytes::Bytes::copy_from_slice(holder.as_bytes());
    match revision {
        Some((token, revision)) => bucket.update(key, value, revision).await.ok().map(|renewed| (token, renewed)),
        None => match bucket.create(key, value).await {
            Ok(created) => Some((created, created)),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => None,
            Err(error) => {
                tracing::debug!(error = %errors::chain(&error), "failed to request the lease");
                None
            }
        },
    }
}
