//! A bound on how many things each of many keys may hold at once: connections of an address, of a person.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts what each key holds. Every clone counts the same.
#[derive(Debug)]
pub struct Quota<K> {
    most: usize,
    held: Arc<Mutex<HashMap<K, usize>>>,
}

/// One thing that a key holds. Dropping it gives it back.
#[derive(Debug)]
pub struct Held<K: Copy + Eq + Hash> {
    key: K,
    quota: Quota<K>,
}

impl<K> Clone for Quota<K> {
    fn clone(&self) -> Self {
        Self { most: self.most, held: Arc::clone(&self.held) }
    }
}

impl<K: Copy + Eq + Hash> Quota<K> {
    /// Allows each key to hold `most`. Memory is that of keys which hold something.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, held: Arc::default() }
    }

    /// Takes one for this key. None if it holds the most already.
    #[must_use]
    pub fn take(&self, key: K) -> Option<Held<K>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(key).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Held { key, quota: self.clone() })
    }
}

impl<K: Copy + Eq + Hash> Drop for Held<K> {
    fn drop(&mut self) {
        let mut held = self.quota.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_holds_at_most_its_quota() {
        let quota = Quota::new(2);
        let (first, _second) = (quota.take('a').unwrap(), quota.take('a').unwrap());
        assert!(quota.take('a').is_none());
        assert!(quota.take('b').is_some());
        drop(first);
        assert!(quota.take('a').is_some());
        assert_eq!(quota.held.lock().unwrap().len(), 1, "keys that hold nothing are forgotten");
    }
}
