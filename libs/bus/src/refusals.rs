//! Refusals of the server: they show the rights that a login lacks.
//!
//! A refused publish or subscription has no other sign than an event, and a request that times out.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Refused subjects that are remembered. A login that lacks more is wrong altogether.
const MAX_REMEMBERED: usize = 16;
/// Beginning of the server's error.
const VIOLATION: &str = "Permissions Violation for ";

/// The refusals of one connection. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Refusals {
    subjects: Arc<Mutex<BTreeSet<String>>>,
    count: Counter,
}

impl Refusals {
    /// Notes an error of the server if it is a refusal. The first of each subject is logged.
    pub fn note(&self, error: &str) -> bool {
        let Some((_, refused)) = error.split_once(VIOLATION) else { return false };
        self.count.inc();
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        if subjects.len() < MAX_REMEMBERED && subjects.insert(refused.to_owned()) {
            tracing::error!(refused, "NATS refused what this login has no right to");
        }
        true
    }

    pub fn list(&self) -> Vec<String> {
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Forgets the refusals: a new connection may have other rights.
    pub fn clear(&self) {
        self.subjects.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "nats_refusals",
            "Publishes and subscriptions that NATS refused because the login lacks the right",
            self.count.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_remembered_once_and_bounded() {
        let refusals = Refusals::default();
        assert!(!refusals.note("Authorization Violation"));
        for _ in 0..3 {
            assert!(refusals.note("Permissions Violation for Publish to \"auction.1.log\""));
        }
        assert_eq!(refusals.list(), ["Publish to \"auction.1.log\""]);
        for number in 0..100 {
            refusals.note(&format!("Permissions Violation for Subscription to \"{number}\""));
        }
        assert_eq!((refusals.list().len(), refusals.count.get()), (MAX_REMEMBERED, 103));
        refusals.clear();
        assert_eq!(refusals.list(), [] as [&str; 0]);
    }
}
