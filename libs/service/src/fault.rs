//! Fault points: ways of being wrong that tests switch on, one subject at a time, to see that the checker
//! of histories notices. Built only with the feature `fault-points`, which tests alone ask for; otherwise
//! [`is_on`] is `false` and nothing of it is in the program.
//!
//! `FAULT_POINTS` names a file: `{"<subject>": "<fault point>", …}`, read at each look, so that a test may
//! add to it while the services run.

/// Whether `subject` is to be treated wrongly in this way.
#[cfg(not(feature = "fault-points"))]
#[must_use]
pub fn is_on<S: ToString>(_point: &str, _subject: &S) -> bool {
    false
}

/// Whether `subject` is to be treated wrongly in this way.
#[cfg(feature = "fault-points")]
#[must_use]
pub fn is_on<S: ToString>(point: &str, subject: &S) -> bool {
    static FILE: std::sync::OnceLock<Option<std::ffi::OsString>> = std::sync::OnceLock::new();
    let Some(file) = FILE.get_or_init(|| std::env::var_os("FAULT_POINTS")) else { return false };
    let Ok(text) = std::fs::read(file) else { return false };
    let points: std::collections::HashMap<String, String> = serde_json::from_slice(&text).unwrap_or_default();
    points.get(&subject.to_string()).is_some_and(|on| on == point)
}
