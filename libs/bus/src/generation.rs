//! Notices that the log is another one than before: it was lost, or an older one was restored from a backup.
//!
//! Stream sequences of a restored log are used a second time, so what a service remembers of the log (the end of an
//! auction, a price, a schedule) is worthless then. The generation is a number that rises each time; everything that is
//! remembered belongs to one generation. A restore is noticed within [`WATCH_EVERY`].

use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::subject::{LOG_STREAM, RESTORED_METADATA, RESTORING_METADATA};
use serde_json::{Value, json};

use crate::api;
use crate::log::Log;

/// Interval between two looks at the stream. One small request a second for each service.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// The marks by which a stream is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    created: String,
    restored: Option<String>,
    last_seq: u64,
}

impl Seen {
    fn of(info: &Value) -> Self {
        let restored = info["config"]["metadata"][RESTORED_METADATA].as_str();
        Self {
            created: info["created"].as_str().unwrap_or_default().to_owned(),
            restored: restored.map(str::to_owned),
            last_seq: info["state"]["last_seq"].as_u64().unwrap_or_default(),
        }
    }
}

/// The stream as it was seen last.
#[derive(Debug, Default)]
struct Watch {
    seen: Option<Seen>,
    was_missing: bool,
    /// It ended before a sequence that it had. Once alone proves nothing: a new leader may not have applied its last
    /// messages yet.
    was_shorter: bool,
}

impl Watch {
    /// Takes the stream as it is now, None if it is missing. True if it is another log than before.
    fn look(&mut self, now: Option<Seen>) -> bool {
        let Some(now) = now else {
            self.was_missing = true;
            return false;
        };
        let was_missing = std::mem::take(&mut self.was_missing);
        let Some(before) = &self.seen else {
            self.seen = Some(now);
            return false;
        };
        let is_another = was_missing || before.created != now.created || before.restored != now.restored;
        let is_shorter = now.last_seq < before.last_seq;
        let was_shorter = std::mem::replace(&mut self.was_shorter, is_shorter);
        if is_another || (is_shorter && was_shorter) {
            *self = Self { seen: Some(now), ..Self::default() };
            return true;
        }
        if !is_shorter {
            self.seen = Some(now);
        }
        false
    }
}

impl Log {
    /// The number of the log, which rises when the log is another one than before. It stays the same unless
    /// [`Self::watch`] runs.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Keeps [`Self::generation`] of this handle and its clones current. Never returns.
    pub async fn watch(self) {
        let mut watch = Watch::default();
        loop {
            self.look(&mut watch).await;
            tokio::time::sleep(WATCH_EVERY).await;
        }
    }

    /// Looks once, so that [`Self::is_held`] is known before the first decision.
    pub async fn look_once(&self) {
        self.look(&mut Watch::default()).await;
    }

    async fn look(&self, watch: &mut Watch) {
        match api::call(&self.jetstream, &format!("STREAM.INFO.{LOG_STREAM}"), &json!({})).await {
            Ok(info) => {
                let seen = Seen::of(&info);
                let restored_at = seen.restored.as_ref().and_then(|at| at.parse().ok()).unwrap_or_default();
                // The generation comes first: a log that is seen as restored is seen as another one.
                if watch.look(Some(seen)) {
                    self.generation.fetch_add(1, Ordering::AcqRel);
                    tracing::warn!("the log is another one than before: what was known of it is read again");
                }
                self.hold(!info["config"]["metadata"][RESTORING_METADATA].is_null());
                self.restored_at.store(restored_at, Ordering::Release);
            }
            Err(error) if error.is_not_found() => {
                if !watch.was_missing {
                    tracing::error!(stream = LOG_STREAM, "the log is missing");
                }
                watch.look(None);
                // A log that comes back may be an unfinished restore.
                self.hold(true);
            }
            Err(error) => tracing::debug!(error = %errors::chain(&error), "failed to look at the log"),
        }
    }

    /// When the log was held or restored last, as [`hold_log`](crate::hold_log) notes it and as [`Self::watch`] has seen
    /// it. 0: never.
    #[must_use]
    pub fn restored_at(&self) -> u64 {
        self.restored_at.load(Ordering::Acquire)
    }

    /// Whether nothing may be decided: the log is missing, or its restore is not finished. As [`Self::watch`] has seen it;
    /// true until the first look.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Acquire)
    }

    fn hold(&self, is_held: bool) {
        match (self.is_held.swap(is_held, Ordering::AcqRel), is_held) {
            (false, true) => tracing::warn!("the log is held: it is missing or being restored"),
            (true, false) => tracing::info!("the log is not held"),
            _ => {}
        }
    }

    /// Whether the stream exists, as far as the server says. True while it does not answer: a leader may just be
    /// elected.
    pub async fn exists(&self) -> bool {
        api::exists(&self.jetstream, &format!("STREAM.INFO.{LOG_STREAM}")).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(created: &str, restored: Option<&str>, last_seq: u64) -> Option<Seen> {
        Some(Seen { created: created.to_owned(), restored: restored.map(str::to_owned), last_seq })
    }

    fn check(name: &str, looks: &[Option<Seen>], expected: &[bool]) {
        let mut watch = Watch::default();
        let found: Vec<bool> = looks.iter().map(|look| watch.look(look.clone())).collect();
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn log_that_is_another_one_is_noticed_once() {
        check("it grows", &[seen("a", None, 1), seen("a", None, 5), seen("a", None, 5)], &[false, false, false]);
        check("missing at the start", &[None, seen("a", None, 1)], &[false, false]);
        check(
            "lost",
            &[seen("a", None, 1), None, None, seen("a", None, 9), seen("a", None, 9)],
            &[false, false, false, true, false],
        );
        check("made again", &[seen("a", None, 1), seen("b", None, 7), seen("b", None, 8)], &[false, true, false]);
        check(
            "restored",
            &[seen("a", None, 1), seen("a", Some("t"), 7), seen("a", Some("t"), 8)],
            &[false, true, false],
        );
        check(
            "shorter for a moment",
            &[seen("a", None, 9), seen("a", None, 7), seen("a", None, 9)],
            &[false, false, false],
        );
        check(
            "shorter for good",
            &[seen("a", None, 9), seen("a", None, 7), seen("a", None, 8), seen("a", None, 9)],
            &[false, false, true, false],
        );
    }
}
