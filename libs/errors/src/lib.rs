//! Errors as log lines print them: the whole chain of causes.
//!
//! **Owns** how an error and its sources become one line of text, and the type that holds a cause of any kind.
//!
//! **Never** knows a type of ours, logs, or decides what is an error.
//!
//! **Invariants**
//! - Every cause of the chain is printed once. An error's own `Display` says what failed and leaves the reason to its
//!   source, so a line that prints `%error` alone loses the reason; a test of `testkit` finds such lines.

#![warn(missing_docs)]

use std::error::Error;
use std::fmt;

/// A cause of any kind, for the `#[source]` field of an error whose callers never look at the cause's type.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// An error with all its causes, outermost first, separated by colons:
/// `tracing::warn!(error = %errors::chain(&error), "failed to read the log")`.
pub fn chain<E: Error + ?Sized>(error: &E) -> Chain<'_, E> {
    Chain(error)
}

/// The return value of [`chain`]; `Display` prints the chain.
#[derive(Debug)]
pub struct Chain<'a, E: ?Sized>(&'a E);

impl<E: Error + ?Sized> fmt::Display for Chain<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printed = self.0.to_string();
        f.write_str(&printed)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Some libraries print their source as a part of themselves.
            if !printed.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            printed = text;
            source = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Failed(&'static str, Option<Box<Self>>);

    impl fmt::Display for Failed {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Failed {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &(dyn Error + 'static))
        }
    }

    #[test]
    fn every_cause_is_printed_once() {
        let root = || Some(Box::new(Failed("connection refused", None)));
        let plain = Failed("failed to append", Some(Box::new(Failed("NATS request failed", root()))));
        assert_eq!(chain(&plain).to_string(), "failed to append: NATS request failed: connection refused");
        let repeating = Failed("failed to append: connection refused", root());
        assert_eq!(chain(&repeating).to_string(), "failed to append: connection refused");
        let boxed: Box<dyn Error + Send + Sync> = Box::new(plain);
        assert!(chain(&*boxed).to_string().ends_with("connection refused"));
    }
}
