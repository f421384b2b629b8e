//! Waiting for a state that no event announces.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

/// Time for the state to come.
const WITHIN: Duration = Duration::from_secs(10);
/// Interval between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Looks again and again until there is something to find, and returns it.
///
/// # Errors
/// An error of a look, or that `what` did not come within ten seconds.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let until = Instant::now() + WITHIN;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "not within {WITHIN:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
