//! The subjects that a login's rights come to.

use super::{DURABLES, LOGINS, Login, PEOPLE_INBOX, Right, inbox};
use crate::subject::{ALL_LOGS, LOG_STREAM, status};

/// Whether a pattern of NATS matches a subject.
fn matches(pattern: &str, subject: &str) -> bool {
    let (mut patterns, mut tokens) = (pattern.split('.'), subject.split('.'));
    loop {
        match (patterns.next(), tokens.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(pattern), Some(token)) if pattern == "*" || pattern == token => {}
            _ => return false,
        }
    }
}

impl Login {
    /// Subjects that it may publish.
    #[must_use]
    pub fn may_publish(&self) -> Vec<String> {
        let mut allowed: Vec<String> =
            [self.publishes, self.asks].concat().iter().map(|&text| text.to_owned()).collect();
        // Answers to the logins that ask for what it serves, and to people who look at it with `nats micro`.
        let askers =
            const { &LOGINS }.iter().filter(|asker| asker.asks.iter().any(|asked| self.serves.contains(asked)));
        allowed.extend(askers.map(|asker| format!("{}.>", inbox(asker.name))));
        if self.is_a_service() {
            allowed.push(format!("{PEOPLE_INBOX}.>"));
        }
        for (stream, rights) in self.streams {
            allowed.extend(rights.iter().flat_map(|right| right.subjects(stream)));
        }
        if self.streams.iter().any(|(_, rights)| rights.contains(&Right::Create) || rights.contains(&Right::Delete)) {
            // A bucket is created by what the account allows.
            allowed.push("$JS.API.INFO".to_owned());
        }
        allowed
    }

    /// Subjects that it may not publish although a pattern of [`Self::may_publish`] matches them: a reader's temporary
    /// consumers have any name, but not that of a durable one.
    #[must_use]
    pub fn may_not_publish(&self) -> Vec<String> {
        let Some((_, rights)) = self.streams.iter().find(|(stream, _)| *stream == LOG_STREAM) else {
            return Vec::new();
        };
        if !rights.iter().any(|right| matches!(right, Right::Read(_))) {
            return Vec::new();
        }
        let mut denied = Vec::new();
        for durable in DURABLES {
            denied.push(format!("$JS.API.CONSUMER.CREATE.{LOG_STREAM}.{durable}.>"));
            denied.push(format!("$JS.API.CONSUMER.DELETE.{LOG_STREAM}.{durable}"));
            if !rights.contains(&Right::Work(durable)) {
                denied.push(format!("$JS.API.CONSUMER.MSG.NEXT.{LOG_STREAM}.{durable}"));
            }
        }
        denied
    }

    /// Subjects that it may subscribe to.
    #[must_use]
    pub fn may_subscribe(&self) -> Vec<String> {
        let mut allowed: Vec<String> =
            [self.subscribes, self.serves].concat().iter().map(|&text| text.to_owned()).collect();
        allowed.push(format!("{}.>", inbox(self.name)));
        if self.is_a_service() {
            allowed.push(status(self.name));
            for verb in ["PING", "INFO", "STATS"] {
                allowed.push(format!("$SRV.{verb}"));
                allowed.push(format!("$SRV.{verb}.{}", self.name));
                allowed.push(format!("$SRV.{verb}.{}.*", self.name));
            }
        }
        allowed
    }

    /// Whether it may publish this subject.
    #[must_use]
    pub fn publishes_to(&self, subject: &str) -> bool {
        let any = |patterns: Vec<String>| patterns.iter().any(|pattern| matches(pattern, subject));
        any(self.may_publish()) && !any(self.may_not_publish())
    }

    /// Whether it may subscribe to this subject.
    #[must_use]
    pub fn subscribes_to(&self, subject: &str) -> bool {
        self.may_subscribe().iter().any(|pattern| matches(pattern, subject))
    }

    /// Whether it is a service, which registers as a NATS micro service; the others are commands.
    #[must_use]
    pub fn is_a_service(&self) -> bool {
        !matches!(self.name, "migrate" | "log-archive")
    }

    /// The role of PostgreSQL that has its privileges. Its login of the deployment is a member.
    #[must_use]
    pub fn role(&self) -> String {
        format!("flash_{}", self.name.replace('-', "_"))
    }
}

impl Right {
    /// The subjects that it takes to have the right on `stream`.
    fn subjects(self, stream: &str) -> Vec<String> {
        let api = |calls: &[&str]| calls.iter().map(|call| format!("$JS.API.{call}")).collect();
        match self {
            Self::Info => api(&[&format!("STREAM.INFO.{stream}")]),
            Self::Get => api(&[&format!("STREAM.MSG.GET.{stream}")]),
            Self::Direct(filter) if filter.contains('*') => api(&[&format!("DIRECT.GET.{stream}")]),
            Self::Direct(subject) => api(&[&format!("DIRECT.GET.{stream}.{subject}")]),
            Self::Read(filter) => api(&[
                &format!("CONSUMER.CREATE.{stream}.*.{filter}"),
                &format!("CONSUMER.INFO.{stream}.*"),
                &format!("CONSUMER.MSG.NEXT.{stream}.*"),
                &format!("CONSUMER.DELETE.{stream}.*"),
            ]),
            Self::Work(durable) => {
                let mut subjects: Vec<String> = api(&[
                    &format!("CONSUMER.INFO.{stream}.{durable}"),
                    &format!("CONSUMER.MSG.NEXT.{stream}.{durable}"),
                ]);
                subjects.push(format!("$JS.ACK.{stream}.{durable}.>"));
                // As servers with several accounts or domains write it: the domain and the account come first.
                subjects.push(format!("$JS.ACK.*.*.{stream}.{durable}.>"));
                subjects
            }
            Self::Watch(durable) => api(&[&format!("CONSUMER.INFO.{stream}.{durable}")]),
            Self::Erase => api(&[&format!("STREAM.MSG.DELETE.{stream}")]),
            Self::Purge => api(&[&format!("STREAM.PURGE.{stream}")]),
            Self::Create => api(&[&format!("STREAM.CREATE.{stream}")]),
            Self::Declare => api(&[
                &format!("STREAM.INFO.{stream}"),
                &format!("STREAM.CREATE.{stream}"),
                &format!("STREAM.UPDATE.{stream}"),
            ]),
            Self::DeclareConsumer(durable) => api(&[
                &format!("CONSUMER.INFO.{stream}.{durable}"),
                &format!("CONSUMER.CREATE.{stream}.{durable}.{ALL_LOGS}"),
                &format!("CONSUMER.DELETE.{stream}.{durable}"),
            ]),
            Self::Delete => api(&[&format!("STREAM.DELETE.{stream}")]),
        }
    }
}
