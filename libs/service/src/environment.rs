//! Settings: environment variables, read as a whole, with every mistake reported at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

/// The variables a configuration is read from. Not always the process's own: `flash up` runs several services in one
/// process.
#[derive(Clone, Default)]
pub struct Environment {
    values: BTreeMap<String, String>,
    /// Every name that was looked up. Tests compare documents and job files with these.
    asked: Arc<Mutex<BTreeSet<String>>>,
}

impl Environment {
    /// The variables of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self { values: std::env::vars().collect(), asked: Arc::default() }
    }

    /// Sets a variable, here only.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.values.insert(name.to_owned(), value.into());
    }

    /// Every variable with its value, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The names of all variables that were looked up, present or not.
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

/// Every mistake in the settings, one sentence each. Names variables, never repeats their values: some are secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Reads one configuration and collects its mistakes.
pub struct Reader<'a> {
    environment: &'a Environment,
    mistakes: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Starts without mistakes.
    #[must_use]
    pub const fn new(environment: &'a Environment) -> Self {
        Self { environment, mistakes: Vec::new() }
    }

    /// The value, or None if it is absent or empty.
    pub fn optional(&self, name: &str) -> Option<String> {
        self.environment.find(name)
    }

    /// Settings that belong together, read by the crate that uses them. The crate names the missing ones.
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

    /// The address to listen on: `LISTEN_ADDRESS`, by default every interface and `port`.
    pub fn listen(&mut self, port: u16) -> Listen {
        let default = SocketAddr::from(([0, 0, 0, 0], port));
        Listen::Address(self.parsed("LISTEN_ADDRESS", default, "an address and port such as 0.0.0.0:8000"))
    }

    /// Notes a mistake that the other methods cannot find.
    pub fn mistake(&mut self, sentence: impl Into<String>) {
        self.mistakes.push(sentence.into());
    }

    /// The configuration, if there was no mistake. One more mistake is an address that was looked up and leads to another
    /// machine without TLS, unless `ALLOW_PLAINTEXT` is `true`.
    ///
    /// # Errors
    /// Every mistake.
    pub fn finish<C>(mut self, config: C) -> Result<C, Mistakes> {
        if !self.parsed("ALLOW_PLAINTEXT", false, "true or false") {
            let asked = self.environment.asked();
            self.mistakes.extend(crate::plaintext::mistakes(|name| {
                let value = asked.contains(name).then(|| self.environment.values.get(name)).flatten();
                value.filter(|value| !value.is_empty()).cloned()
            }));
        }
        if self.mistakes.is_empty() { Ok(config) } else { Err(Mistakes(self.mistakes)) }
    }
}

/// A place to listen: an address, or a socket that is bound already (tests, `flash up`).
#[derive(Debug, Clone)]
pub enum Listen {
    /// Bound by [`Listen::open`].
    Address(SocketAddr),
    /// A bound socket; clones share it.
    Bound(Arc<std::net::TcpListener>),
}

impl Listen {
    /// A listening socket for the current runtime.
    ///
    /// # Errors
    /// When the address is taken or not an address of this machine.
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
    fn mistakes_are_reported_together_without_values() {
        let mut environment = Environment::default();
        environment.set("PORT_COUNT", "many-secret");
        environment.set("EMPTY", "");
        let mut reader = Reader::new(&environment);
        let config =
            (reader.required("MISSING"), reader.required("EMPTY"), reader.parsed("PORT_COUNT", 1u16, "a number"));
        let mistakes = reader.finish(config).unwrap_err();
        assert_eq!(mistakes.to_string(), "MISSING must be set\nEMPTY must be set\nPORT_COUNT must be a number");
    }

    #[test]
    fn plaintext_to_another_machine_is_a_mistake_unless_allowed() {
        let mut environment = Environment::default();
        environment.set("NATS_URL", "nats://services:secret@10.0.0.5:4222");
        environment.set("REDIS_URL", "redis://10.0.0.4");
        let read = |environment: &Environment| {
            let mut reader = Reader::new(environment);
            let url = reader.required("NATS_URL");
            reader.finish(url)
        };
        // REDIS_URL is not a setting of this program.
        let mistakes = read(&environment).unwrap_err();
        let expected = "NATS_URL leads to another machine without TLS: use tls://, or set ALLOW_PLAINTEXT=true";
        assert_eq!(mistakes.to_string(), expected);
        environment.set("ALLOW_PLAINTEXT", "yes");
        assert!(read(&environment).unwrap_err().to_string().starts_with("ALLOW_PLAINTEXT must be true or false"));
        environment.set("ALLOW_PLAINTEXT", "true");
        assert!(read(&environment).is_ok());
    }
}
