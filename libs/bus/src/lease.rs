//! The lease of an elected instance: one entry in the bucket `leases`, which expires after two seconds.
//!
//! The fencing token of a lease is the time at which it was won, in milliseconds since 1970 by a clock that all
//! instances share, and above every token that the winner has seen. A revision of the bucket would not do: revisions
//! begin at 1 again when the bucket is lost, and receivers would drop every message of the new holder. A time needs no
//! storage. If the clock is set back, and no instance remembers the last token, the new token is lower: receivers then
//! accept it after one [`LEASE`] of silence.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::kv::{CreateError, CreateErrorKind, Entry, EntryError, Operation, Store};
use async_nats::jetstream::kv::{UpdateError, UpdateErrorKind};
use protocol::LEASE;
use protocol::subject::LEASES_BUCKET;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Bus;
use crate::declare::{CreateLeasesError, create_leases};

/// Interval between renewals. Three of them fit into [`SURE_FOR`].
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// Time for which a renewed lease is certainly held. The bucket drops an entry after [`LEASE`], so an instance that
/// could not renew for this long must assume that it lost the lease.
const SURE_FOR: Duration = Duration::from_millis(1500);
/// Time limit of one renewal, and of one reading. A renewal that hangs must fail before [`SURE_FOR`] is over.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(700);
/// Shortest pause between two readings of a token: however many forged ones arrive, the bucket is read ten times a
/// second at most.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Time limit for opening or creating the bucket. A request that a restart of nats-server lost is soon repeated; a
/// creation that takes longer is completed by the servers, and the next attempt finds the bucket.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

const _: () = assert!(SURE_FOR.as_millis() < LEASE.as_millis(), "a lease must outlive the certainty of its holder");

/// The election as one instance knows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Election {
    /// The bucket was not read yet, or has no entry.
    #[default]
    Vacant,
    /// This instance holds the lease.
    Mine {
        /// The fencing token. Later leases have higher tokens.
        token: u64,
        /// The end of the time for which the lease is certainly held.
        until: Instant,
    },
    /// Another instance holds the lease.
    Other {
        /// The end of the time for which the entry that was seen counts.
        until: Instant,
    },
}

impl Election {
    /// The fencing token, while this instance certainly holds the lease.
    #[must_use]
    pub fn token_now(self) -> Option<u64> {
        match self {
            Self::Mine { token, until } if Instant::now() < until => Some(token),
            Self::Mine { .. } | Self::Other { .. } | Self::Vacant => None,
        }
    }

    /// Whether this or another instance holds the lease, as far as this instance knows.
    #[must_use]
    pub fn has_holder(self) -> bool {
        match self {
            Self::Mine { until, .. } | Self::Other { until } => Instant::now() < until,
            Self::Vacant => false,
        }
    }
}

/// Why an attempt to win or renew the lease failed.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("failed to create the bucket of leases")]
    Bucket(#[from] CreateLeasesError),
    #[error("failed to read the lease")]
    Read(#[from] EntryError),
    #[error("failed to request the lease")]
    Create(#[from] CreateError),
    #[error("failed to renew the lease")]
    Renew(#[from] UpdateError),
    #[error("failed to write the entry of the lease as JSON")]
    Json(#[from] serde_json::Error),
    #[error("NATS did not answer in time")]
    TimedOut(#[from] tokio::time::error::Elapsed),
}

/// The value of the entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    token: u64,
    holder: String,
}

/// The result of an attempt.
enum Attempt {
    Mine { token: u64 },
    Other,
    Vacant,
}

/// The fencing tokens of one instance.
#[derive(Debug, Default)]
struct Tokens {
    highest_seen: u64,
}

impl Tokens {
    /// Notes a token that is in the bucket.
    fn see(&mut self, token: u64) {
        self.highest_seen = self.highest_seen.max(token);
    }

    /// The token of a lease that is won now.
    fn next(&mut self, now_ms: u64) -> u64 {
        self.highest_seen = now_ms.max(self.highest_seen.saturating_add(1));
        self.highest_seen
    }
}

/// An instance that wants the lease.
struct Candidate {
    key: &'static str,
    holder: String,
    tokens: Tokens,
    /// The last claim that was written. Its entry is this instance's own, even if the reply to the write was lost.
    claim: Option<Claim>,
    /// The revision of the entry, while it is known to be this instance's own.
    revision: Option<u64>,
}

impl Candidate {
    async fn attempt(&mut self, store: &Store, now_ms: u64) -> Result<Attempt, LeaseError> {
        // Until this attempt has an outcome, its revision is unknown.
        let revision = match self.revision.take() {
            Some(revision) => revision,
            None => match store.entry(self.key).await? {
                Some(entry) if entry.operation == Operation::Put => match self.own(&entry) {
                    Some(revision) => revision,
                    None => return Ok(Attempt::Other),
                },
                Some(_) | None => return self.win(store, now_ms).await,
            },
        };
        let Some(claim) = &self.claim else { return Ok(Attempt::Vacant) };
        match store.update(self.key, serde_json::to_vec(claim)?.into(), revision).await {
            Ok(revision) => Ok(self.won(claim.token, revision)),
            // The entry has expired or is another instance's: the next attempt reads it.
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(Attempt::Vacant),
            Err(error) => Err(error.into()),
        }
    }

    /// The revision of the entry, if this instance wrote it.
    fn own(&mut self, entry: &Entry) -> Option<u64> {
        // An entry of an older version is no claim; it expires like any other.
        let claim: Claim = serde_json::from_slice(&entry.value).ok()?;
        self.tokens.see(claim.token);
        (self.claim.as_ref() == Some(&claim)).then_some(entry.revision)
    }

    async fn win(&mut self, store: &Store, now_ms: u64) -> Result<Attempt, LeaseError> {
        let claim = Claim { token: self.tokens.next(now_ms), holder: self.holder.clone() };
        let (token, value) = (claim.token, serde_json::to_vec(&claim)?);
        self.claim = Some(claim);
        match store.create(self.key, value.into()).await {
            Ok(revision) => Ok(self.won(token, revision)),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(Attempt::Other),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the lease back, if it is held. It would expire otherwise.
    async fn release(&mut self, store: &Store) {
        let Some(revision) = self.revision.take() else { return };
        let released = store.delete_expect_revision(self.key, Some(revision));
        match tokio::time::timeout(ATTEMPT_TIMEOUT, released).await {
            Ok(Ok(())) => tracing::info!(key = self.key, "gave the lease back"),
            Ok(Err(error)) => tracing::debug!(error = %errors::chain(&error), "failed to give the lease back"),
            Err(_) => tracing::debug!("the lease was not given back in time"),
        }
    }

    fn won(&mut self, token: u64, revision: u64) -> Attempt {
        self.revision = Some(revision);
        Attempt::Mine { token }
    }
}

/// Whether attempts to win or renew the lease reach the bucket.
enum Reach {
    Reached,
    Failing,
}

/// Tries to win and keep the lease `key` until the stop, and publishes the state of the election. At the stop it is given
/// back, so that another instance has it within [`RENEW_EVERY`]. `holder` differs for
/// each process; `now_ms` is the clock that all instances share. A missing bucket is created.
pub async fn hold(
    bus: Bus,
    key: &'static str,
    holder: String,
    now_ms: impl Fn() -> u64,
    election: watch::Sender<Election>,
    stop: CancellationToken,
) {
    let mut candidate = Candidate { key, holder, tokens: Tokens::default(), claim: None, revision: None };
    let mut store: Option<Store> = None;
    let mut reach = Reach::Reached;
    loop {
        let mut started = Instant::now();
        let attempt = async {
            let bucket = match store.take() {
                Some(bucket) => bucket,
                None => tokio::time::timeout(OPEN_TIMEOUT, open(&bus)).await??,
            };
            started = Instant::now();
            let attempt = tokio::time::timeout(ATTEMPT_TIMEOUT, candidate.attempt(&bucket, now_ms())).await??;
            store = Some(bucket);
            Ok::<_, LeaseError>(attempt)
        }
        .await;
        match attempt {
            Ok(attempt) => {
                if matches!(reach, Reach::Failing) {
                    tracing::info!(key, "the lease can be requested again");
                }
                reach = Reach::Reached;
                let until = started + SURE_FOR;
                let now = match attempt {
                    Attempt::Mine { token } => Election::Mine { token, until },
                    Attempt::Other => Election::Other { until },
                    Attempt::Vacant => Election::Vacant,
                };
                log_change(key, election.send_replace(now), now);
            }
            // Once in each outage. The last state of the election stays until it runs out.
            Err(error) => match reach {
                Reach::Reached => {
                    tracing::warn!(key, error = %errors::chain(&error), "failed to request the lease; will retry");
                    reach = Reach::Failing;
                }
                Reach::Failing => {
                    tracing::debug!(key, error = %errors::chain(&error), "failed to request the lease again");
                }
            },
        }
        tokio::select! {
            () = tokio::time::sleep_until(started + RENEW_EVERY) => {}
            () = stop.cancelled() => break,
        }
    }
    // No message leaves with the token of a lease that another instance may have.
    election.send_replace(Election::Vacant);
    if let Some(store) = store {
        candidate.release(&store).await;
    }
}

/// Logs that the lease was won or lost.
fn log_change(key: &'static str, before: Election, now: Election) {
    let held = |election| matches!(election, Election::Mine { .. });
    match now {
        Election::Mine { token, .. } if !held(before) => tracing::info!(key, token, "won the lease"),
        Election::Other { .. } | Election::Vacant if held(before) => tracing::warn!(key, "lost the lease"),
        _ => {}
    }
}

/// The fencing token of the present lease, as the bucket has it. Every clone shares it.
///
/// A message can state any token. Receivers compare it with this one: a higher one is not a lease that anybody holds.
#[derive(Clone, Default)]
pub struct LeaseToken(Arc<Known>);

#[derive(Default)]
struct Known {
    /// 0 while none was read.
    token: AtomicU64,
    /// A message stated another one.
    is_doubted: Notify,
}

/// How a token relates to that of the present lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenAge {
    /// It is that of the present lease.
    Present,
    /// It is not. If it is later, the bucket is read soon.
    Other,
    /// No token was read yet.
    Unknown,
}

impl LeaseToken {
    /// How a token relates to that of the present lease.
    #[must_use]
    pub fn age(&self, token: u64) -> TokenAge {
        match self.0.token.load(Ordering::Relaxed) {
            0 => TokenAge::Unknown,
            present if present == token => TokenAge::Present,
            present => {
                if present < token {
                    self.0.is_doubted.notify_one();
                }
                TokenAge::Other
            }
        }
    }

    /// Reads the lease `key` again and again until dropped: every [`RENEW_EVERY`], and soon after a message with a later
    /// token. While it cannot be read, or has no holder, the last token stays.
    pub async fn follow(self, bus: Bus, key: &'static str) {
        let mut store: Option<Store> = None;
        loop {
            let reading = async {
                let bucket = match store.take() {
                    Some(bucket) => bucket,
                    None => bus.jetstream.get_key_value(LEASES_BUCKET).await.ok()?,
                };
                let entry = bucket.entry(key).await.ok()?;
                store = Some(bucket);
                let entry = entry.filter(|entry| entry.operation == Operation::Put)?;
                serde_json::from_slice::<Claim>(&entry.value).ok()
            };
            match tokio::time::timeout(ATTEMPT_TIMEOUT, reading).await {
                Ok(Some(claim)) => self.0.token.store(claim.token, Ordering::Relaxed),
                Ok(None) | Err(_) => tracing::debug!(key, "failed to read the token of a lease; will retry"),
            }
            tokio::time::sleep(READ_AGAIN_AFTER).await;
            // A doubt that was raised during the pause ends the wait at once.
            _ = tokio::time::timeout(RENEW_EVERY, self.0.is_doubted.notified()).await;
        }
    }
}

/// Opens the bucket. If that fails, creates it: a restart of nats-server loses a bucket in memory, and an operator may
/// delete it. An existing bucket is not changed.
async fn open(bus: &Bus) -> Result<Store, LeaseError> {
    if let Ok(store) = bus.jetstream.get_key_value(LEASES_BUCKET).await {
        return Ok(store);
    }
    let store = create_leases(&bus.jetstream).await?;
    tracing::warn!(bucket = LEASES_BUCKET, "created the missing bucket of leases");
    Ok(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_the_time_and_above_every_token_seen() {
        let mut tokens = Tokens::default();
        assert_eq!(tokens.next(1_000), 1_000);
        assert_eq!(tokens.next(1_000), 1_001, "won twice in a millisecond");
        assert_eq!(tokens.next(500), 1_002, "the clock was set back");
        tokens.see(5_000);
        tokens.see(4_000);
        assert_eq!(tokens.next(2_000), 5_001, "another instance held a later lease");
        assert_eq!(tokens.next(6_000), 6_000);
        tokens.see(u64::MAX);
        assert_eq!(tokens.next(7_000), u64::MAX, "a forged entry must not overflow");
    }

    #[test]
    fn token_survives_the_loss_of_the_bucket() {
        // The bucket is empty again, and the winner is a new process.
        let before = Tokens::default().next(1_000);
        assert!(Tokens::default().next(1_001) > before);
    }

    #[tokio::test]
    async fn only_the_present_token_counts() {
        let lease = LeaseToken::default();
        assert_eq!(lease.age(7), TokenAge::Unknown);
        lease.0.token.store(7, Ordering::Relaxed);
        assert_eq!((lease.age(7), lease.age(6)), (TokenAge::Present, TokenAge::Other));
        let doubted = async || tokio::time::timeout(Duration::ZERO, lease.0.is_doubted.notified()).await.is_ok();
        assert!(!doubted().await, "an earlier token needs no reading");
        assert_eq!(lease.age(u64::MAX), TokenAge::Other);
        assert!(doubted().await, "the bucket is read: a later lease may have been won");
    }

    #[tokio::test]
    async fn election_runs_out() {
        let (past, future) = (Instant::now(), Instant::now() + Duration::from_secs(60));
        for (election, token, has_holder) in [
            (Election::Vacant, None, false),
            (Election::Mine { token: 7, until: future }, Some(7), true),
            (Election::Mine { token: 7, until: past }, None, false),
            (Election::Other { until: future }, None, true),
            (Election::Other { until: past }, None, false),
        ] {
            assert_eq!((election.token_now(), election.has_holder()), (token, has_holder), "{election:?}");
        }
    }
}
