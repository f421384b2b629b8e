//! Settings: environment variables, read whole, every mistake reported at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

/// The variables a configuration is read from. Not always the process's own: `flash up` runs several
/// services in one process.
#[derive(Clone, Default)]
pub struct Environment {
    values: BTreeMap<String, String>,
    /// Every name that was looked up: what documents and job files are held against.
    asked: Arc<Mutex<BTreeSet<String>>>,
}

impl Environment {
    #[must_use]
    pub fn of_process() -> Self {
        Self { values: std::env::vars().collect(), asked: Arc::default() }
    }

    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.values.insert(name.to_owned(), value.into());
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The names of all settings that were read from here, or would have been had they been there.
    #[must_use]
    pub fn asked(&self) -> BTreeSet<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An empty value counts as absent, as container tools write absent ones.
    fn find(&self, name: &str) -> Option<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        self.values.get(name).filter(|value| !value.is_empty()).cloned()
    }
}

/// Everything wrong with the settings. Names variables, never repeats their values: some are secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Reads one configuration and collects what is wrong.
pub struct Reader<'a> {
    environment: &'a Environment,
    mistakes: Vec<String>,
}

impl<'a> Reader<'a> {
    #[must_use]
    pub const fn new(environment: &'a Environment) -> Self {
        Self { environment, mistakes: Vec::new() }
    }

    pub fn optional(&self, name: &str) -> Option<String> {
        self.environment.find(name)
    }

    /// Settings that belong together, read by the crate they belong to; it names what is missing.
    pub fn part<T: Default>(
        &mut self,
        read: impl FnOnce(&dyn Fn(&str) -> Option<String>) -> Result<T, Vec<&'static str>>,
    ) -> T {
        let environment = self.environment;
        read(&|name| environment.find(name)).unwrap_or_else(|missing| {
            self.mistakes.extend(missing.iter().map(|name| format!("{name} must be set")));
            T::default()
        })
    }

    /// The value, or empty text after noting the mistake.
    pub fn required(&mut self, name: &str) -> String {
        self.optional(name).unwrap_or_else(|| {
            self.mistakes.push(format!("{name} must be set"));
            String::new()
        })
    }

    /// The value read by `FromStr`, or `default` if it is absent.
    pub fn parsed<T: FromStr>(&mut self, name: &str, default: T, expected: &str) -> T {
        self.read(name, default, expected, |text| text.parse().ok())
    }

    /// A whole number above 0, or `default` if it is absent.
    pub fn above_0<T: FromStr + PartialOrd + Default>(&mut self, name: &str, default: T) -> T {
        self.read(name, default, "a whole number above 0", |text| {
            text.parse().ok().filter(|number| *number > T::default())
        })
    }

    /// The value read by `read`, or `default` if it is absent.
    pub fn read<T>(&mut self, name: &str, default: T, expected: &str, read: impl FnOnce(&str) -> Option<T>) -> T {
        let Some(text) = self.optional(name) else { return default };
        read(&text).unwrap_or_else(|| {
            self.mistakes.push(format!("{name} must be {expected}"));
            default
        })
    }

    /// Where to listen: `LISTEN_ADDRESS`, by default every interface and `port`.
    pub fn listen(&mut self, port: u16) -> Listen {
        let default = SocketAddr::from(([0, 0, 0, 0], port));
        Listen::Address(self.parsed("LISTEN_ADDRESS", default, "an address and port such as 0.0.0.0:8000"))
    }

    pub fn mistake(&mut self, sentence: impl Into<String>) {
        self.mistakes.push(sentence.into());
    }

    /// # Errors
    /// All mistakes, if there was one.
    pub fn finish<C>(self, config: C) -> Result<C, Mistakes> {
        if self.mistakes.is_empty() { Ok(config) } else { Err(Mistakes(self.mistakes)) }
    }
}

/// A place to listen: an address, or a socket that is bound already (tests, `flash up`).
#[derive(Debug, Clone)]
pub enum Listen {
    Address(SocketAddr),
    Bound(Arc<std::net::TcpListener>),
}

impl Listen {
    /// # Errors
    /// When the address is taken or not ours.
    pub fn open(&self) -> std::io::Result<tokio::net::TcpListener> {
        let listener = match self {
            Self::Address(address) => std::net::TcpListener::bind(address)?,
            Self::Bound(listener) => listener.try_clone()?,
        };
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_reported_at_once_and_no_value_is_repeated() {
        let mut environment = Environment::default();
        environment.set("PORT_COUNT", "many-secret");
        environment.set("EMPTY", "");
        let mut reader = Reader::new(&environment);
        let config =
            (reader.required("MISSING"), reader.required("EMPTY"), reader.parsed("PORT_COUNT", 1u16, "a number"));
        let mistakes = reader.finish(config).unwrap_err();
        assert_eq!(mistakes.to_string(), "MISSING must be set\nEMPTY must be set\nPORT_COUNT must be a number");
    }
}
