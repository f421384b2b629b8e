//! The lease of an elected instance: one entry in the bucket `leases`, which lives two seconds.

use std::time::Duration;

use async_nats::jetstream::kv::{CreateErrorKind, Store};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Bus;

const RENEW_EVERY: Duration = Duration::from_millis(500);
/// The bucket drops an entry after 2 s; whoever could not renew for this long must think it lost.
const SURE_FOR: Duration = Duration::from_millis(1500);
/// An attempt that hangs must not outlast the certainty it is to renew.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(700);

/// What the holder knows. Later tokens are higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub token: u64,
    valid_until: Instant,
}

impl Lease {
    /// The fencing token, while the lease is surely held.
    #[must_use]
    pub fn token_now(self) -> Option<u64> {
        (Instant::now() < self.valid_until).then_some(self.token)
    }
}

/// Tries to get and keep the lease `key` until dropped; tells through `held` when it has it.
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
            // Unknown or refused: the next attempt creates the entry anew, under a new token, once it expired.
            Ok(None) | Err(_) => None,
        };
        if let Some((token, _)) = revision {
            held.send_replace(Some(Lease { token, valid_until: started + SURE_FOR }));
        }
        tokio::time::sleep_until(started + RENEW_EVERY).await;
    }
}

/// Returns the token (the revision at which the lease was won) and the present revision.
async fn renew(bucket: &Store, key: &str, holder: &str, revision: Option<(u64, u64)>) -> Option<(u64, u64)> {
    let value = bytes::Bytes::copy_from_slice(holder.as_bytes());
    match revision {
        Some((token, revision)) => bucket.update(key, value, revision).await.ok().map(|renewed| (token, renewed)),
        None => match bucket.create(key, value).await {
            Ok(created) => Some((created, created)),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => None,
            Err(error) => {
                tracing::debug!(%error, "the lease cannot be asked for");
                None
            }
        },
    }
}
